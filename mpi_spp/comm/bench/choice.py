"""Which transports there are on the ranks at hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mpi_spp.comm.bench.measure import LeftOut
from mpi_spp.comm.bench.pickled import Pickled
from mpi_spp.comm.bench.raw import Raw
from mpi_spp.comm.bench.torch_distributed import TorchDistributed
from mpi_spp.comm.bench.transport import Transport, Unavailable
from mpi_spp.comm.bench.wrapper import Wrapper
from mpi_spp.comm.buffers import choose_staging
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.cuda import is_cuda_aware
from mpi_spp.comm.world import World


@dataclass(frozen=True)
class _Kind:
    """A way to talk; `on_host` and `on_gpu`: why it cannot be measured with memory of that device, or None."""

    open: Callable[[World, torch.device, bool], Transport]
    on_host: str | None = None
    on_gpu: str | None = None
    needs_awareness: bool = False


def _wrapper(world: World, device: torch.device, aware: bool) -> Transport:
    shares_core = world.some_share_cores(world.default_threads())
    return Wrapper(Communicator(world.mpi_comm.Dup(), choose_staging(device, aware), shares_core, "measured"))


_KINDS = {
    "wrapper": _Kind(_wrapper),
    "raw": _Kind(lambda world, *_: Raw(world.mpi_comm.Dup()), needs_awareness=True),
    "pickled": _Kind(
        lambda world, *_: Pickled(world.mpi_comm.Dup()), on_gpu="NumPy has no arrays on GPUs (--device cpu)"
    ),
    "gloo": _Kind(
        lambda world, *_: TorchDistributed("gloo", world.mpi_comm), on_gpu="is measured in host memory (--device cpu)"
    ),
    "nccl": _Kind(
        lambda world, *_: TorchDistributed("nccl", world.mpi_comm), on_host="needs a GPU for each rank (--device cuda)"
    ),
}


def open_transports(
    names: Sequence[str], world: World, device: torch.device, cuda_aware: str
) -> tuple[list[Transport], list[LeftOut]]:
    """Those of these names that work with memory of this device, and why the others do not. Collective.

    `cuda_aware`: auto, yes or no.
    """
    aware = device.type == "cuda" and is_cuda_aware(cuda_aware, world.mpi_comm)
    opened: list[Transport] = []
    missing = []
    for name in names:
        try:
            opened.append(_open(_KINDS[name], world, device, aware))
        except Unavailable as why:
            missing.append(LeftOut(name, None, None, None, str(why)))
    return opened, missing


def _open(kind: _Kind, world: World, device: torch.device, aware: bool) -> Transport:
    on_gpu = device.type == "cuda"
    obstacle = kind.on_gpu if on_gpu else kind.on_host
    if on_gpu and kind.needs_awareness and not aware:
        obstacle = "this MPI reads no GPU memory (--cuda-aware)"
    if obstacle is not None:
        raise Unavailable(obstacle)
    return kind.open(world, device, aware)
