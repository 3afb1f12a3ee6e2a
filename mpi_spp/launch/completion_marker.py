"""The sign by which `launch` knows that rank 0 has done its work, whatever the status of mpirun.

It goes through standard error, which every launcher brings from any host to where it was started. Only ranks that were
told a sign, in a variable of their environment, give it.
"""

import os
import secrets
import sys

VARIABLE = "MPI_SPP_FINISHED_SIGN"


def new_sign() -> str:
    """What no other program writes by chance, on one line without its end."""
    return f"mpi-spp: finished {secrets.token_hex(8)}"


def give_sign() -> None:
    """Say that this process has done all that it was started for. Meant for rank 0, when the others are done too."""
    sign = os.environ.get(VARIABLE)
    if sign:
        sys.stderr.flush()
        os.write(2, f"{sign}\n".encode())


class Sieve:
    """Takes a sign out of a stream of bytes."""

    def __init__(self, sign: str) -> None:
        self._sign, self._held = f"{sign}\n".encode(), b""
        self.found = False

    def sift(self, data: bytes) -> bytes:
        """What may be shown by now: what could be the beginning of the sign is held back."""
        before, sign, after = (self._held + data).partition(self._sign)
        self.found = self.found or bool(sign)
        shown = before + after
        most = min(len(shown), len(self._sign) - 1)
        held = next((size for size in range(most, 0, -1) if shown.endswith(self._sign[:size])), 0)
        self._held = shown[len(shown) - held :]
        return shown[: len(shown) - held]

    def rest(self) -> bytes:
        """What was held back, at the end of the stream."""
        held, self._held = self._held, b""
        return held
