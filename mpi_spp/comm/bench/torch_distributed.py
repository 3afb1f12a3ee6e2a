"""Through torch.distributed, started on the ranks of the job: gloo on CPUs, NCCL on GPUs."""

from __future__ import annotations  # types of MPI are named before it is loaded

import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in its list

from mpi_spp.comm.bench.exchange import Exchange
from mpi_spp.comm.bench.transport import Call, Transport, Unavailable, ping_pong
from mpi_spp.comm.library import MPI

_TIMEOUT = timedelta(seconds=60)  # to find one another

# The name since torch 2.13, which warns of the older one.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class TorchDistributed(Transport):
    """The default process group; a process can have one at a time. Making it is collective.

    Raises Unavailable on all ranks where one cannot join.
    """

    copies = 1

    def __init__(self, backend: str, comm: MPI.Intracomm) -> None:
        """`backend`: gloo or nccl."""
        self.name = backend
        reason = None
        try:
            store = _store(comm)
            dist.init_process_group(backend, store=store, rank=comm.rank, world_size=comm.size, timeout=_TIMEOUT)
        except (RuntimeError, ValueError, OSError) as error:
            reason = f"cannot start on rank {comm.rank}: {str(error).splitlines()[0]}"
        failed = [one for one in comm.allgather(reason) if one is not None]
        if failed:
            self.close()
            raise Unavailable(failed[0])

    def blocking(self, exchange: Exchange) -> Call:
        """See Transport."""
        if exchange.operation == "ping-pong":
            outgoing, incoming = exchange.outgoing, exchange.incoming
            return ping_pong(
                exchange,
                lambda: self.wait([dist.isend(outgoing, exchange.peer)]),
                lambda: self.wait([dist.irecv(incoming, exchange.peer)]),
            )
        start = self.start(exchange)
        return lambda: self.wait(start())

    def start(self, exchange: Exchange) -> Callable[[], Sequence[Any]]:
        """See Transport."""
        outgoing, incoming = exchange.outgoing, exchange.incoming
        starts: dict[str, Callable[[], Sequence[Any]]] = {
            "allgather": lambda: [_all_gather(incoming, outgoing, async_op=True)],
            "allreduce": lambda: [dist.all_reduce(incoming, async_op=True)],
            "alltoall": lambda: [dist.all_to_all_single(incoming, outgoing, async_op=True)],
            "broadcast": lambda: [dist.broadcast(incoming, 0, async_op=True)],
            "ring": lambda: dist.batch_isend_irecv(
                [dist.P2POp(dist.irecv, incoming, exchange.prev), dist.P2POp(dist.isend, outgoing, exchange.next)]
            ),
        }
        if exchange.operation not in starts:
            raise Unavailable("each message waits for the one before: nothing could overlap")
        return starts[exchange.operation]

    def test(self, requests: Sequence[Any]) -> None:
        """See Transport. Its own threads move messages on; a look costs what a look costs."""
        for request in requests:
            request.is_completed()

    def wait(self, requests: Sequence[Any]) -> None:
        """See Transport. NCCL's own wait is for the stream only."""
        for request in requests:
            request.wait()
        if self.name == "nccl":
            torch.cuda.current_stream().synchronize()

    def close(self) -> None:
        """See Transport."""
        if dist.is_initialized():
            dist.destroy_process_group()


def _store(comm: MPI.Intracomm) -> TCPStore:
    """Where the ranks find one another: on rank 0, at a port that is free there. Collective."""
    alone = len(set(comm.allgather(socket.gethostname()))) == 1
    here = "127.0.0.1" if alone else os.environ.get("MASTER_ADDR") or socket.gethostname()
    store = failure = None
    if comm.rank == 0:
        try:
            store = TCPStore(here, 0, is_master=True, wait_for_workers=False, timeout=_TIMEOUT)
        except (RuntimeError, OSError) as error:
            failure = error
    host, port = comm.bcast((here, store.port if store else 0))
    if failure is not None:
        raise failure
    if not port:
        raise RuntimeError("rank 0 has no store")
    return store or TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=_TIMEOUT)
