"""Nonblocking operations that own their buffers, and how a rank waits for them."""

from __future__ import annotations  # types of MPI are named before it is loaded

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

from mpi_spp.comm.library import MPI
from mpi_spp.comm.liveness import heartbeat as life
from mpi_spp.comm.operation import Operation, here, observers, waiting

_SPIN_SECONDS = 100e-6  # a message between two ready ranks of one machine arrives well within this
_NAP_SECONDS = 20e-6
_TALK_SECONDS = 0.25


class Request(Protocol):
    """An operation under way."""

    @property
    def operation(self) -> Operation:
        """What it is; of several, one that is not complete."""

    def test(self) -> bool:
        """Whether it is complete; moves it on."""


class Idle:
    """What a rank does between two looks at an operation that is not complete.

    Open MPI and MPICH spin inside their own waits. With more ranks than cores that takes the core from the very
    rank that is waited for, so a rank that shares its core spins shortly and then sleeps.
    """

    def __init__(self, shares_core: bool, nap_seconds: float = _NAP_SECONDS) -> None:
        self._shares_core, self._nap_seconds = shares_core, nap_seconds

    @property
    def spins(self) -> bool:
        """Whether the core is this rank's alone, so that MPI's own waits harm nobody."""
        return not self._shares_core

    def wait(self, request: Request, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Return when the request is complete; `meanwhile` moves other work on."""
        if request.test():
            return
        with waiting(request.operation):
            self._wait(request, meanwhile)

    def _wait(self, request: Request, meanwhile: Callable[[], object]) -> None:
        now = time.perf_counter()
        nap_after, talk_after = now + (_SPIN_SECONDS if self._shares_core else float("inf")), now + _TALK_SECONDS
        while not request.test():
            meanwhile()
            now = time.perf_counter()
            if now > talk_after:
                life.idles(request.operation)
                talk_after = now + _TALK_SECONDS
            if now > nap_after:
                time.sleep(self._nap_seconds)
            elif self._shares_core:
                os.sched_yield()


class Transfer:
    """An MPI operation with the buffers that must live until it is complete.

    `start` calls MPI. `finish` runs once, on completion: it copies a staged message to where it belongs.
    """

    __slots__ = ("_complete", "_finish", "_keep_alive", "_request", "operation")

    def __init__(
        self,
        start: Callable[[], MPI.Request],
        operation: Operation,
        keep_alive: Any,
        finish: Callable[[], None] | None = None,
    ) -> None:
        self.operation = operation
        for observer in observers:
            observer.started(operation)  # before MPI is: another rank may have the message a moment later
        self._request = start()
        self._keep_alive = keep_alive
        self._finish = finish
        self._complete = False

    def test(self) -> bool:
        """Whether the transfer is complete; moves it on."""
        if not self._complete and self._request.Test():
            self._complete = True
            if self._finish is not None:
                self._finish()
            self._keep_alive = self._finish = None
            here.completed += 1
            for observer in observers:
                observer.completed(self.operation)
        return self._complete
