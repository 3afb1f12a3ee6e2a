"""How one exchange is timed on one rank, after the OSU micro-benchmarks (Panda et al., MVAPICH project)."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from mpi_spp.comm.bench.exchange import Exchange
from mpi_spp.comm.bench.transport import Call, Transport

# Carries out an exchange so many times and returns seconds on this rank, averaged over them: (of the exchange,), or
# (of the exchange alone, of it with a computation between start and wait, of that computation).
Block = Callable[[int], tuple[float, ...]]


class Computation:
    """Products of a small matrix with a vector: they keep the core busy and stay in its nearest cache."""

    def __init__(self, order: int = 25) -> None:
        self._matrix, self._vector = np.ones((order, order), np.float32), np.ones(order, np.float32)
        self._product = np.empty_like(self._vector)

    def run(self, seconds: float, tests: int, test: Call) -> float:
        """Compute for about so long, with so many tests between; returns the seconds that were not spent in tests."""
        computed = 0.0
        for turn in range(tests + 1):
            if turn:
                test()
            start = now = time.perf_counter()
            while now - start < seconds / (tests + 1):
                np.dot(self._matrix, self._vector, out=self._product)
                now = time.perf_counter()
            computed += now - start
        return computed


def timed(call: Call, exchange: Exchange, barrier: Call) -> Block:
    """A block of a call that returns when the exchange is done.

    One more comes first and does not count: another transport has had its turn, and the CPU's caches hold its memory.
    All ranks begin each exchange together. A ping-pong keeps its two ranks together by itself, and counts one way.
    """
    in_step = exchange.operation != "ping-pong"

    def block(iterations: int) -> tuple[float]:
        took = 0.0
        barrier()
        call()
        for _ in range(iterations):
            if in_step:
                barrier()
            start = time.perf_counter()
            call()
            took += time.perf_counter() - start
        return (took / iterations / (1 if in_step else 2),)

    return block


def overlapped(transport: Transport, exchange: Exchange, barrier: Call, tests: int) -> Block:
    """A block of a nonblocking exchange: first alone, then with a computation as long as that took.

    MPI libraries move messages inside their own calls, so the computation is interrupted by tests.
    """
    start, computation = transport.start(exchange), Computation()
    alone = timed(lambda: transport.wait(start()), exchange, barrier)

    def block(iterations: int) -> tuple[float, float, float]:
        (pure,) = alone(iterations)
        total = computed = 0.0
        for _ in range(iterations):
            barrier()
            began = time.perf_counter()
            requests = start()
            computed += computation.run(pure, tests, partial(transport.test, requests))
            transport.wait(requests)
            total += time.perf_counter() - began
        return pure, total / iterations, computed / iterations

    return block


def overlap_of(pure: float, total: float, computed: float) -> float:
    """The share of the exchange that was hidden behind the computation, 0 to 1."""
    return min(1.0, max(0.0, 1 - (total - computed) / pure))
