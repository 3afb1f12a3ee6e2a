"""What a prefill strategy is given, and the prompts that it runs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.kv.cache import KVCache
from mpi_spp.kv.exchange import Exchange
from mpi_spp.model.decoder import Stage
from mpi_spp.model.shard import Shard
from mpi_spp.parallel.mesh import Place
from mpi_spp.parallel.partition import Ranges, rows_of, within
from mpi_spp.system.progress import Progress


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt under way; all ranks agree on ids, chunks, positions and its first tick."""

    ids: torch.Tensor  # int64 [prompt_tokens]
    chunks: list[range]
    positions: list[Ranges]  # by part: those that its ranks compute
    cache: KVCache
    first_tick: int  # in which its first chunk enters the first stage
    progress: Progress  # of the tokens that this rank has computed

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PrefillJob:
    """Which part of the model this rank computes, and of each prompt."""

    stage: Stage
    comm: Communicator
    place: Place
    layers: range
    shard: Shard
    parts: Communicator  # the ranks that differ from this one in their part alone
    exchange: Exchange  # of the prompts' caches, which moves on meanwhile

    def in_part(self, prompt: Prompt, number: int) -> Ranges:
        """The positions of a chunk that this rank's part has."""
        return within(prompt.positions[self.place.part], [prompt.chunks[number]])

    def own(self, prompt: Prompt, number: int) -> Ranges:
        """Those whose hidden states this rank has: a part's tokens may be split once more."""
        ranges, exchange = self.in_part(prompt, number), self.shard.exchange
        return ranges if exchange is None else rows_of(ranges, exchange.rows(sum(map(len, ranges))))


# Takes a chunk of a prompt, by its number, through this rank's layers: its hidden states [own tokens, hidden_size], in
# place. The tick tells the exchange how far this rank is.
Compute = Callable[[PrefillJob, Prompt, int, int, torch.Tensor], torch.Tensor]
