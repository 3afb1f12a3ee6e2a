"""Measures exchanges by several transports that take turns, so that a drifting machine hits all alike."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from mpi_spp.comm.bench.exchange import Exchange, memory_bytes, moved_bytes
from mpi_spp.comm.bench.timing import Block, overlap_of, overlapped, timed
from mpi_spp.comm.bench.transport import Call, Transport, Unavailable
from mpi_spp.comm.communicator import Communicator
from mpi_spp.comm.mailbox import share
from mpi_spp.comm.operation import of_all, waiting
from mpi_spp.comm.world import World

_WARM_UP_SHARE = 0.1  # of a round's time
_GROWTH = 4  # of the number of exchanges, until they take that long


@dataclass(frozen=True)
class Settings:
    """How much is measured: `seconds` of a point, cut into `rounds`; `tests` of an exchange behind a computation.

    `memory_bytes`: what a rank may use.
    """

    seconds: float
    rounds: int
    tests: int
    dtype: torch.dtype
    device: torch.device
    memory_bytes: int


@dataclass(frozen=True)
class Sample:
    """One round: seconds of an exchange, averaged over its repetitions; mean, least and most of the ranks."""

    mean_s: float
    min_s: float
    max_s: float
    overlap: float | None  # of a nonblocking exchange: the share of it that a computation hid


@dataclass(frozen=True)
class Point:
    """One operation of one transport at one size. `moved_bytes`: what a rank must receive from others."""

    operation: str
    mode: str
    transport: str
    message_bytes: int
    moved_bytes: int
    iterations: int  # exchanges in a round
    samples: Sequence[Sample]


@dataclass(frozen=True)
class LeftOut:
    """What was not measured, and why; None stands for all of them."""

    transport: str
    operation: str | None
    mode: str | None
    message_bytes: int | None
    reason: str


class WrongData(Exception):
    """A transport that does not bring what was sent; its times mean nothing."""


class Meter:
    """Takes the measurements. Making one, and every method, is collective over the job."""

    def __init__(self, world: World, settings: Settings) -> None:
        self._world, self._settings = world, settings
        self._operation = of_all("measurement", world.mpi_comm, "benchmark")
        self._barrier = world.mpi_comm.Dup().Barrier
        # For what is between the measurements: ranks that have no part in one leave the core to those that have.
        self._quiet = Communicator(world.mpi_comm.Dup(), shares_core=True, name="benchmark")

    def points(
        self, operation: str, nbytes: int, modes: Sequence[str], transports: Sequence[Transport]
    ) -> Iterator[list[Point | LeftOut]]:
        """The points of each mode in turn.

        Raises WrongData on all ranks where any of them got something else than was sent.
        """
        size, settings = self._world.size, self._settings
        needed = {one.name: memory_bytes(operation, nbytes, size) * (1 + one.copies) for one in transports}
        fitting = [one for one in transports if needed[one.name] <= settings.memory_bytes]
        exchange = None
        if fitting:
            exchange = Exchange(operation, nbytes, self._world.rank, size, settings.dtype, settings.device)
        for mode in modes:
            found: list[Point | LeftOut] = [
                LeftOut(one.name, operation, mode, nbytes, _too_large(needed[one.name], settings.memory_bytes))
                for one in transports
                if one not in fitting
            ]
            yield found + (self._in_turn(exchange, mode, fitting) if exchange is not None else [])

    def iterations(self, block: Block) -> int:
        """As many exchanges as take a round's time on rank 0, the same number on all ranks; warms up meanwhile."""
        seconds = self._settings.seconds / self._settings.rounds
        block(1)
        count = 1
        while True:
            start = time.perf_counter()
            block(count)
            took = share(self._quiet, time.perf_counter() - start)
            if took >= seconds * _WARM_UP_SHARE:
                return max(1, round(seconds * count / took))
            count *= _GROWTH

    def _in_turn(self, exchange: Exchange, mode: str, transports: Sequence[Transport]) -> list[Point | LeftOut]:
        """One point for each transport that can do it."""
        blocks: dict[str, Block] = {}
        missing: list[Point | LeftOut] = []
        for transport in transports:
            try:
                blocks[transport.name] = self._prepare(transport, exchange, mode)
            except Unavailable as why:
                missing.append(LeftOut(transport.name, exchange.operation, mode, None, str(why)))
        iterations = {name: self.iterations(block) for name, block in blocks.items()}
        samples: dict[str, list[Sample]] = {name: [] for name in blocks}
        for _ in range(self._settings.rounds):
            for name, block in blocks.items():
                samples[name].append(self._sample(block(iterations[name]), exchange.takes_part))
        moved = moved_bytes(exchange.operation, exchange.nbytes, exchange.size)
        return missing + [
            Point(exchange.operation, mode, name, exchange.nbytes, moved, iterations[name], samples[name])
            for name in blocks
        ]

    def _prepare(self, transport: Transport, exchange: Exchange, mode: str) -> Block:
        """What is timed, after it has been seen to bring the right data."""
        if mode == "nonblocking":
            start = transport.start(exchange)
            self._check(transport, exchange, mode, lambda: transport.wait(start()))
            return self._watched(overlapped(transport, exchange, self._barrier, self._settings.tests), exchange)
        call = transport.blocking(exchange) if mode == "blocking" else transport.persistent(exchange)
        self._check(transport, exchange, mode, call)
        return self._watched(timed(call, exchange, self._barrier), exchange)

    def _watched(self, block: Block, exchange: Exchange) -> Block:
        """The block as a wait that is seen: other transports than ours tell nobody what they wait for."""

        def watched(count: int) -> tuple[float, ...]:
            with waiting(self._operation._replace(nbytes=count * exchange.nbytes)):
                return block(count)

        return watched

    def _check(self, transport: Transport, exchange: Exchange, mode: str, call: Call) -> None:
        exchange.fill()
        self._quiet.barrier()  # nothing arrives before all have made room for it
        with waiting(self._operation._replace(nbytes=exchange.nbytes)):
            arrived = call()
        if arrived is not None:
            exchange.take(arrived)
        right = self._quiet.allgather(torch.tensor([exchange.is_right()]))
        if not right.all():
            ranks = [rank for rank, is_right in enumerate(right.flatten().tolist()) if not is_right]
            raise WrongData(f"{transport.name}, {mode} {exchange.operation} of {exchange.nbytes} bytes: ranks {ranks}")
        exchange.rest()

    def _sample(self, mine: tuple[float, ...], takes_part: bool) -> Sample:
        """One round of all ranks that took part."""
        row = torch.tensor(mine if takes_part else [math.nan] * len(mine), dtype=torch.float64)
        rows = [row for row in self._quiet.allgather(row).tolist() if not math.isnan(row[0])]
        pure, *rest = zip(*rows, strict=True)
        overlap = overlap_of(statistics.mean(pure), *map(statistics.mean, rest)) if rest else None
        return Sample(statistics.mean(pure), min(pure), max(pure), overlap)


def _too_large(needed: int, there: int) -> str:
    return f"needs {needed / 1e6:.0f} MB on each rank, and {there / 1e6:.0f} MB are there"
