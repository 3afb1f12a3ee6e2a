"""Makes this process cheap to copy: its pages are few and large, and the copies look for no garbage among them."""

import ctypes
import gc
import os
import shutil
import tempfile
from pathlib import Path

_MADV_COLLAPSE = 25  # of Linux 6.1 and later; others copy 80,000 small pages each time, and take longer
_LARGE = 2**21
_MOST_BYTES = 2**28  # that all rooms together may take
_IN_MEMORY = Path("/dev/shm")


def make_cheap() -> None:
    """Once all is imported, before the first copy is made."""
    gc.collect()
    gc.freeze()
    advise = ctypes.CDLL(None).madvise
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, access, _, _, _, *name = line.split(maxsplit=5)
        if access.startswith("rw") and name in ([], ["[heap]"]):
            start, end = (int(address, 16) for address in addresses.split("-"))
            for place in range(-(-start // _LARGE) * _LARGE, end - _LARGE + 1, _LARGE):
                advise(ctypes.c_void_p(place), ctypes.c_size_t(_LARGE), _MADV_COLLAPSE)


def folder_for_rooms() -> str:
    """Where files are made and deleted at no cost, if there is such a place: a disk waits 20 ms for each case."""
    is_there = _IN_MEMORY.is_dir() and os.access(_IN_MEMORY, os.W_OK | os.X_OK)
    return str(_IN_MEMORY) if is_there and shutil.disk_usage(_IN_MEMORY).free > _MOST_BYTES else tempfile.gettempdir()
