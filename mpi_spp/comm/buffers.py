"""Tensors as MPI buffers: straight from their memory, or through pinned host memory for a GPU."""

from __future__ import annotations  # types of MPI are named before it is loaded

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import torch

from mpi_spp.comm.library import MPI

LARGEST_COUNT = 2**31 - 1  # counts are 32-bit in Open MPI 5

# An MPI buffer specification: [memory, datatype] or [memory, counts, datatype].
Spec = list[Any]


@cache
def bytes_type(nbytes: int) -> MPI.Datatype:
    """A datatype of `nbytes` contiguous bytes, so that a count of them may pass 2**31 bytes."""
    return MPI.BYTE if nbytes == 1 else MPI.BYTE.Create_contiguous(nbytes).Commit()


def unit_bytes(tensor: torch.Tensor) -> int:
    """The bytes of one counted unit: 1, or a row (the last dim) when bytes alone would overflow the count."""
    if tensor.nbytes <= LARGEST_COUNT:
        return 1
    row = tensor.shape[-1] * tensor.element_size()
    if tensor.nbytes // row > LARGEST_COUNT:
        raise ValueError(f"a message of {tensor.nbytes} bytes in rows of {row} bytes has too many rows for MPI")
    return row


def memory_of(tensor: torch.Tensor) -> MPI.buffer:
    """The memory of a contiguous tensor, of any dtype: bytes are moved, never reduced, so bfloat16 is safe."""
    if not tensor.is_contiguous():
        raise ValueError(f"only contiguous tensors travel; got shape {tuple(tensor.shape)}, stride {tensor.stride()}")
    return MPI.buffer.fromaddress(tensor.data_ptr(), tensor.nbytes)


def spec_of(tensor: torch.Tensor) -> Spec:
    """The MPI buffer specification of a contiguous tensor. The tensor must outlive the transfer."""
    memory = memory_of(tensor)  # mpi4py counts what it holds
    return [memory, MPI.BYTE if len(memory) <= LARGEST_COUNT else bytes_type(unit_bytes(tensor))]


class Staging(Protocol):
    """Which memory MPI sees when a tensor travels."""

    def outgoing(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor to hand to MPI in place of `tensor`, its values ready to be read."""

    def incoming(self, tensor: torch.Tensor, read_too: bool) -> tuple[torch.Tensor, Callable[[], None] | None]:
        """The tensor for MPI to write, and what to do when it has been written; with `read_too` it holds the values."""


class Direct:
    """MPI reads and writes the tensor itself: host memory, or a GPU's under a CUDA-aware MPI."""

    def outgoing(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Staging. MPI does not know the stream: what was queued on it must be done first."""
        _synchronize(tensor)
        return tensor

    def incoming(self, tensor: torch.Tensor, read_too: bool) -> tuple[torch.Tensor, Callable[[], None] | None]:
        """See Staging. What is queued on the stream may still use the old values."""
        _synchronize(tensor)
        return tensor, None


class ThroughHost:
    """MPI sees host memory; values are copied from and to the device around each transfer."""

    def __init__(self, pin_memory: bool) -> None:
        self._pin_memory = pin_memory  # pinned memory is copied at the full speed of the bus

    def outgoing(self, tensor: torch.Tensor) -> torch.Tensor:
        """See Staging. The copy to the host waits for the stream by itself."""
        return self._host_like(tensor).copy_(tensor)

    def incoming(self, tensor: torch.Tensor, read_too: bool) -> tuple[torch.Tensor, Callable[[], None] | None]:
        """See Staging."""
        host = self.outgoing(tensor) if read_too else self._host_like(tensor)

        def copy_back() -> None:
            tensor.copy_(host)

        return host, copy_back

    def _host_like(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self._pin_memory)


def _synchronize(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.current_stream(tensor.device).synchronize()


def choose_staging(device: torch.device, cuda_aware: bool) -> Staging:
    """Direct for host memory and for a CUDA-aware MPI, else through pinned host memory."""
    return ThroughHost(pin_memory=True) if device.type == "cuda" and not cuda_aware else Direct()
