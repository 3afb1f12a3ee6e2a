"""Become a command that may not read other processes' memory, as in some containers: refuse_cma.py COMMAND..."""

import ctypes
import os
import platform
import struct
import sys

_READ_AND_WRITE = {"x86_64": (310, 311), "aarch64": (270, 271)}[platform.machine()]
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL_WITH_EPERM = 0x7FFF0000, 0x00050001


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _statement(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def refuse() -> None:
    """Install the filter (seccomp, see `man 2 seccomp`) in this process and all that it starts."""
    read, write = _READ_AND_WRITE
    code = ctypes.create_string_buffer(
        _statement(_LOAD, 0)  # the number of the system call
        + _statement(_JUMP_IF_EQUAL, read, if_true=1)
        + _statement(_JUMP_IF_EQUAL, write, if_false=1)
        + _statement(_RETURN, _FAIL_WITH_EPERM)
        + _statement(_RETURN, _ALLOW)
    )
    program = _Program(5, ctypes.addressof(code))
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)


if __name__ == "__main__":
    refuse()
    os.execvp(sys.argv[1], sys.argv[1:])
