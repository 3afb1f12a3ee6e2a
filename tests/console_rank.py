"""A rank of a console: runs one `mpi-spp` command after another, as a process of its own would: see tests/console.py.

`mpirun -n N python tests/console_rank.py SOCKET`. Commands come from the socket, for each rank by itself: ranks that
have nothing to do sleep, and MPI is the product's alone.
"""

import contextlib
import json
import os
import runpy
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mpi_spp.comm.environment import launched_rank


def main(address: str) -> None:
    """Run what comes until nobody is at the other end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        with connection.makefile("rw") as lines:
            print(launched_rank(), file=lines, flush=True)
            for line in lines:
                print(run(**json.loads(line)), file=lines, flush=True)


def run(words: Sequence[str], cwd: str, variables: Mapping[str, str], stdout: str, stderr: str) -> int:
    """One command, with a working directory, further variables and files for what it writes; its exit status.

    What a command may set for its process is as before when this returns.
    """
    environment, directory = dict(os.environ), Path.cwd()
    sys.argv[1:] = words
    os.environ.update(variables)
    os.chdir(cwd)
    try:
        with _written_to(stdout, 1), _written_to(stderr, 2):
            return _status()
    finally:
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)


def _status() -> int:
    """What the interpreter makes of `python -m mpi_spp`."""
    try:
        runpy.run_module("mpi_spp", run_name="__main__", alter_sys=True)
    except SystemExit as leave:
        if leave.code is None or isinstance(leave.code, int):
            return leave.code or 0
        print(leave.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    else:
        return 0
    return 1


@contextlib.contextmanager
def _written_to(path: str, number: int) -> Iterator[None]:
    """Let this descriptor be the file, at whose end all ranks write, as on one terminal."""
    before = os.dup(number)
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, number)
    os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        os.dup2(before, number)
        os.close(before)


if __name__ == "__main__":
    main(sys.argv[1])
