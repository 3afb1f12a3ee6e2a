"""How a process of this program starts: nothing of the folder that the user stands in is run in place of a library.

Python looks for modules there first (`python -m`), and in every empty entry of PYTHONPATH; the loader of shared
libraries and the shell do so with theirs. The folder may be a model that somebody else made, with a json.py in it. So
this file, and what is imported before it, import only what Python itself has loaded by then.
"""

import os
import sys

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LISTS_OF_FOLDERS = ("PYTHONPATH", "LD_LIBRARY_PATH", "PATH")


def words(module: str = "") -> list[str]:
    """Return the words that start this program from these very files, or one module of it, wherever one stands.

    `python -P -m` is not in Python 3.10, and might find another copy of this package.
    """
    return [sys.executable, _PACKAGE, *([module] if module else [])]


def leave_working_directory_out() -> None:
    """Forget it where it stands as an empty entry or a dot, here and for all that this process starts.

    A folder that is named by a whole path still counts, whichever it is.
    """
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if not all(map(_is_elsewhere, entries)):
        here = _working_directory()
        sys.path[:] = [entry for entry in sys.path if entry not in ("", here) or entry in filter(None, entries)]
    for name in _LISTS_OF_FOLDERS:
        if name in os.environ:
            kept = filter(_is_elsewhere, os.environ.pop(name).split(os.pathsep))
            os.environ.update({name: joined} if (joined := os.pathsep.join(kept)) else {})


def require_working_directory() -> None:
    """End with a line where it was deleted: MPI and torch end with others that name nothing."""
    if not _working_directory():
        os.write(2, b"mpi-spp: error: the working directory was deleted; change to another one\n")
        sys.exit(2)


def ensure_folders() -> None:
    """Let HOME be / where neither it nor the system names one, as Docker does; a TMPDIR that is of no use is left out.

    MPI libraries end without the one, with pages of words, and with such another.
    """
    if not os.environ.get("HOME") and os.path.expanduser("~") in ("~", os.sep):
        os.environ["HOME"] = os.sep
    if not os.access(os.environ.get("TMPDIR", os.curdir), os.W_OK | os.X_OK):
        os.environ.pop("TMPDIR", None)


def was_put_first(entry: str) -> bool:
    """Whether Python has put this entry of its path there by itself, as `-m` does with the working directory."""
    return not getattr(sys.flags, "safe_path", False) and entry in ("", _working_directory())


def _is_elsewhere(entry: str) -> bool:
    return os.path.normpath(entry) != os.curdir  # that of an empty one, too


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return ""
