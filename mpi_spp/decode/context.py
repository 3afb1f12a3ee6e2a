"""Context-parallel decode: the cache stays split by positions, for contexts that no rank could hold.

Each rank computes every layer, and attends over the positions that it holds. One Allgather a layer brings all parts to
all ranks, which merge them by log-sum-exp. A new token's keys and values stay on one rank, each in its turn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.decode._job import DecodeJob, Growing
from mpi_spp.decode._together import in_step
from mpi_spp.kernels.attention import Attention, Rotation, first_visible
from mpi_spp.kernels.cache import LayerCache
from mpi_spp.kernels.merge import Part, merge_all
from mpi_spp.mesh import positions
from mpi_spp.model.batch import Batch, Span

place = positions


def decode(
    job: DecodeJob, sequences: Sequence[Growing], hidden: torch.Tensor
) -> Iterator[tuple[Sequence[Growing], torch.Tensor]]:
    """Yield sequences with their next tokens [sequences]. `hidden`: of their last tokens, [sequences, hidden_size]."""
    return in_step(replace(job, shard=replace(job.shard, attend=_Merged(job.comm))), sequences, hidden)


@dataclass(frozen=True)
class _Merged:
    """Attention of one new token of each sequence over the parts of all ranks."""

    comm: Communicator

    def __call__(
        self,
        layer: int,
        attention: Attention,
        kv_heads: range,
        qkv: torch.Tensor,
        batch: Batch,
        rotation: Rotation,
        window: int | None,
    ) -> torch.Tensor:
        """See `Attend`."""
        found = [
            _over_own(
                attention, span.cache.of_layer(layer, kv_heads), span.of(qkv), span, span.angles(rotation), window
            )
            for span in batch.spans
        ]
        outputs, log_sums = (torch.cat(of_spans) for of_spans in zip(*found, strict=True))
        of_ranks = self.comm.allgather(torch.cat([outputs, log_sums[..., None]], dim=-1))
        merged = merge_all(Part(of_ranks[..., :-1], of_ranks[..., -1]))
        return merged.to(qkv.dtype).view(len(qkv), -1)


def _over_own(
    attention: Attention, cache: LayerCache, qkv: torch.Tensor, span: Span, angles: Rotation, window: int | None
) -> Part:
    """What this rank's positions give. All ranks store the new token, but to others than its own it stays unseen."""
    held = span.cache.held
    queries = attention.store(qkv, angles, cache, held.slot(span.start))
    seen = held.slots(range(first_visible(span.start, window), span.start + 1))
    return attention.part(queries, cache, seen, len(seen) - 1, None)
