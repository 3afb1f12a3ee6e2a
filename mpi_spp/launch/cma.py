"""Whether one process of this machine may read another's memory (cross-memory attach, CMA)."""

import ctypes
import os

_PR_SET_PTRACER = 0x59616D61


class _Slice(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def cma_is_refused() -> bool:
    """Try it, as two ranks would: a child that is not this process's parent reads one word of it.

    Some containers (seccomp), WSL and hardened kernels refuse. In the first large message between ranks of one
    machine MPICH 5 then fails and Open MPI 4 complains, unless they are told to copy through shared memory.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    reader_may_go, parent_is_ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reader_may_go, 1)
        os._exit(0 if _can_read_parent(libc) else 1)
    # Where only relatives may look (Yama), an MPI opens its ranks to one another with this call.
    libc.prctl(_PR_SET_PTRACER, child, 0, 0, 0)
    os.write(parent_is_ready, b"x")
    _, status = os.waitpid(child, 0)
    libc.prctl(_PR_SET_PTRACER, 0, 0, 0, 0)
    os.close(reader_may_go)
    os.close(parent_is_ready)
    return status != 0


# Read by the child from the parent: the fork has it at the same address in both.
_WORD = ctypes.c_uint64(0x5350502D4D5049)


def _can_read_parent(libc: ctypes.CDLL) -> bool:
    copy = ctypes.c_uint64(0)
    size = ctypes.sizeof(copy)
    local, remote = _Slice(ctypes.addressof(copy), size), _Slice(ctypes.addressof(_WORD), size)
    try:
        count = libc.process_vm_readv(os.getppid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    except AttributeError:  # no such call in this C library
        return False
    return count == size and copy.value == _WORD.value
