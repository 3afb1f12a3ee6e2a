"""From a model directory to what a rank computes with, in steps that each end in agreement of all ranks."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mpi_spp.comm.liveness.heartbeat import works
from mpi_spp.comm.world import World, while_alive
from mpi_spp.config import RunConfig
from mpi_spp.engine.costs import Measured, layer_costs, weights_name
from mpi_spp.engine.teams import teams_of
from mpi_spp.errors import UserError
from mpi_spp.kernels.backends import make
from mpi_spp.kernels.native.backend import Native
from mpi_spp.kernels.native.library import NoKernels
from mpi_spp.kernels.plain import Plain
from mpi_spp.model.arithmetic import Chosen, bytes_of_weights, choose, products_of, room_on_host
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.decoder import Stage
from mpi_spp.model.device import choose_device, choose_dtype
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.hub import cache_directory
from mpi_spp.model.loading.quantized import QuantizedStore
from mpi_spp.model.loading.weights import Track, checkpoint_dtype, load_stage, quantize_model, require_weights
from mpi_spp.parallel.partition import split_evenly
from mpi_spp.parallel.schedule import Cost
from mpi_spp.parallel.shares import Share, split_layer
from mpi_spp.system import progress
from mpi_spp.system.limits import memory_available
from mpi_spp.system.timed import timed
from mpi_spp.system.units import limits_by_host, memory_warnings

log = logging.getLogger(__name__)

_MEASURED_BYTES = 96 << 20  # of layers to take turns in a measurement: a cache of the CPU should not hold them


class Loader:
    """What is known of a model before its weights are read. Making one is collective: all ranks raise, or none."""

    def __init__(self, config: RunConfig, model: ModelConfig, directory: Path, world: World, threads: int) -> None:
        self.model, self.directory = model, directory
        self._config, self._world, self._threads = config, world, threads

        def check() -> tuple[Checkpoint, torch.device]:
            checkpoint = Checkpoint(directory)
            require_weights(checkpoint, model)
            return checkpoint, choose_device(config.device, config.gpu_ids, world.local_rank, world.local_size)

        self.checkpoint, self.device = world.together(check)
        self.dtype = choose_dtype(config.dtype, model.dtype or checkpoint_dtype(self.checkpoint), self.device)
        self._backend = self._choose_kernels()
        self._warned = False
        if not config.is_open:  # a measurement of layers comes before what each rank must load is known
            share = self._copies_on_host() / world.local_size
            self._warn_of_memory(share * model.num_hidden_layers, share * model.vocab_size)
        self._store = self._quantized()

    def stage(
        self, layers: Mapping[int, Sequence[int]], num_vocabularies: int, vocabulary: int, shares: Sequence[Share]
    ) -> Stage:
        """Read some shares of some layers, and one of so many slices of the vocabulary. Collective."""
        log.info("loading %s as %s on %s, kernels: %s", self.directory, self.dtype, self.device, self.kernels)
        rows = split_evenly(self.model.vocab_size, num_vocabularies)[vocabulary]
        self._warn_of_memory(sum(map(len, layers.values())) / len(shares), len(rows))
        with timed("load"):
            return self._world.together(lambda: self._load(layers, rows, shares))

    def costs(self) -> list[Cost]:
        """What a whole layer costs on every rank of the job. Collective."""
        costs = layer_costs(self.what, self._some_layers, self._world, cache_directory() / "kernels")
        log.info("costs of a layer: %s", costs)
        return costs

    @property
    def what(self) -> Measured:
        """What a measurement of speeds depends on."""
        weights = weights_name(self.kernels, self._config)
        return Measured(self.model, self.dtype, self.device, weights, self._threads)

    def first_layers(self, num_shares: int, share: int, vocabulary: range) -> Stage:
        """One share of some layers and this slice of the vocabulary, to be measured and let go."""
        most = min(self.model.num_hidden_layers, num_shares * self._enough_layers())
        return self._load({number: [share] for number in range(most)}, vocabulary, split_layer(self.model, num_shares))

    def _load(self, layers: Mapping[int, Sequence[int]], rows: range, shares: Sequence[Share] | None = None) -> Stage:
        return load_stage(
            self.checkpoint,
            self.model,
            layers,
            rows,
            self.dtype,
            self.device,
            self._backend,
            self._store,
            shares,
            self._track("loading"),
        )

    def _warn_of_memory(self, layers: float, rows: float) -> None:
        """Say once on which host so many layers and rows of the head on each rank do not fit. Collective.

        A rank that runs out of memory ends without a word. No more than a warning, since of what is mapped from files a
        part may leave the memory again.
        """
        config, world = self._config, self._world
        if self._warned:
            return
        of_layer, of_row = bytes_of_weights(self.model, self.kernels, self.dtype, config.quantize)
        need = layers * of_layer + rows * of_row if self.device.type == "cpu" else 0
        lines = memory_warnings(world.gather((world.host, need, memory_available())))
        self._warned = bool(lines)
        for line in lines if world.rank == 0 else ():
            print(f"mpi-spp: warning: {line}", file=sys.stderr, flush=True)

    def _some_layers(self) -> Stage:
        """A few layers of each kind, to be measured and let go."""
        most = self._enough_layers()
        chosen = [number for kind in self.model.layers_alike().values() for number in kind[:most]]
        return self._load({number: [0] for number in chosen}, range(1))

    def _enough_layers(self) -> int:
        """So many that they do not stay in the CPU's caches."""
        return max(2, -(-_MEASURED_BYTES // (self.dtype.itemsize * self.model.layer_parameters)))

    def _choose_kernels(self) -> Plain:
        """The back end that was asked for, or the fastest of this host. Collective."""
        config, kept = self._config, cache_directory() / "kernels"
        products = products_of(config, self.model, self.dtype, self.device)
        room = room_on_host(self.model, self._copies_on_host(), self._free_bytes())
        with progress.announced("trying kernels, once on this machine", shows=self._world.rank == 0):
            self.chosen: Chosen = self._world.once_a_host(
                lambda: while_alive(lambda: choose(config.kernels, products, room, kept))
            )
        log.info("kernels: %s, %s%s", self.kernels, self.chosen.why, self.chosen.warning and f"; {self.chosen.warning}")
        return self._world.together(lambda: self._made(kept))

    def _made(self, kept: Path) -> Plain:
        """The back end that was chosen for this host, on this rank, which may have been started in another way."""
        try:
            return make(self.kernels, self.dtype, kept, self.chosen.activations)
        except NoKernels as error:
            raise UserError(
                f"cannot compute with {self.kernels}, which host {self._world.host} has chosen"
                f" ({error}); start all ranks of a host alike, or take other --kernels"
            ) from None

    def _copies_on_host(self) -> float:
        """How often the ranks of this host hold the model's weights, at most."""
        local, config = self._world.local_size, self._config
        if config.decode in ("pipeline", "tensor") and config.prefill in ("pipeline", "tensor"):
            return max(1.0, local / teams_of(config, self._world.size)[0].mesh.replica_size)
        return local

    def _free_bytes(self) -> int:
        """Memory for the ranks of this host, as far as the user allows. Collective."""
        free, hosts = memory_available(), self._world.gather(self._world.host)
        return min(free, limits_by_host(self._config.max_memory, hosts, "--max-memory").get(self._world.host, free))

    @property
    def kernels(self) -> str:
        """The name of the back end."""
        return self.chosen.name

    @property
    def compiler(self) -> str | None:
        """What compiled the native kernels, where these are used."""
        return self._backend.compiler if isinstance(self._backend, Native) else None

    def _quantized(self) -> QuantizedStore | None:
        """The quantised weights, if asked for; the ranks of a host share the work of making them. Collective."""
        config, world = self._config, self._world
        if config.quantize is None:
            return None
        store = QuantizedStore(
            cache_directory() / "quantized",
            self.directory,
            self.checkpoint.files,
            config.quantize,
            config.quantize_group_size,
        )
        share, track = slice(world.local_rank, None, world.local_size), self._track("quantising")
        world.together(lambda: quantize_model(self.checkpoint, self.model, store, share, track))
        return store

    def _track(self, doing: str) -> Track:
        """Shows on rank 0 how far it is, and to the other ranks that this one works."""

        def track(layers: Sequence[Any]) -> Iterator[Any]:
            for layer in progress.track(layers, doing, "layer", shows=self._world.rank == 0):
                yield layer
                works()

        return track
