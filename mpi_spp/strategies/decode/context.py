"""Context-parallel decode: the cache stays split by positions, for contexts that no rank could hold.

Each rank computes every layer, and attends over the positions that it holds. One Allgather a layer brings all parts to
all ranks, which merge them by log-sum-exp. A new token's keys and values stay on one rank, each in its turn.
"""

from dataclasses import dataclass, replace

import torch

from mpi_spp.comm.communicator import Communicator
from mpi_spp.kernels.attention import first_visible
from mpi_spp.kernels.merge import Part, merge_all
from mpi_spp.model.batch import Span
from mpi_spp.model.shard import Attending
from mpi_spp.parallel.mesh import positions
from mpi_spp.strategies.decode._job import DecodeJob
from mpi_spp.strategies.decode._together import Together

place = positions


def decode(job: DecodeJob) -> Together:
    """The sequences of this decode, each of whose new tokens attends over the positions of all ranks."""
    return Together(replace(job, shard=replace(job.shard, attend=_Merged(job.comm))))


@dataclass(frozen=True)
class _Merged:
    """Attention of one new token of each sequence over the parts of all ranks."""

    comm: Communicator

    def __call__(self, what: Attending) -> torch.Tensor:
        """See `Attend`."""
        found = [_over_own(what, span) for span in what.batch.spans]
        outputs, log_sums = (torch.cat(of_spans) for of_spans in zip(*found, strict=True))
        of_ranks = self.comm.allgather(torch.cat([outputs, log_sums[..., None]], dim=-1))
        merged = merge_all(Part(of_ranks[..., :-1], of_ranks[..., -1]))
        return merged.to(what.qkv.dtype).view(len(what.qkv), -1)


def _over_own(what: Attending, span: Span) -> Part:
    """What this rank's positions give. All ranks store the new token, but to others than its own it stays unseen."""
    held, cache = span.cache.held, span.cache.of_layer(what.layer, what.kv_heads)
    queries = what.attention.store(span.of(what.qkv), span.angles(what.rotation), cache, held.slot(span.start))
    seen = held.slots(range(first_visible(span.start, what.window), span.start + 1))
    return what.attention.part(queries, cache, seen, len(seen) - 1, None)
