"""The sign by which `launch` knows that rank 0 has done its work, and with which status, whatever that of mpirun.

It goes through standard error, which every launcher brings from any host to where it was started. Only ranks that were
told a sign, in a variable of their environment, give it.
"""

import os
import re
import secrets
import sys

VARIABLE = "MPI_SPP_FINISHED_SIGN"


def new_sign() -> str:
    """What no other program writes by chance, on one line without its end."""
    return f"mpi-spp: finished {secrets.token_hex(8)}"


def take_sign() -> str | None:
    """The one that this process is to give, which no process that it starts itself should; None: nobody awaits any."""
    return os.environ.pop(VARIABLE, None)


def give_sign(sign: str, status: int) -> None:
    """Say that this process has done all that it was started for. Meant for rank 0, when the others are done too."""
    sys.stderr.flush()
    os.write(2, f"{sign} {status}\n".encode())


class Sieve:
    """Takes a sign out of a stream of bytes. `status`: that it told; None: it has not come."""

    def __init__(self, sign: str) -> None:
        self._sign, self._held = f"{sign} ".encode(), b""
        self._whole = re.compile(re.escape(self._sign) + rb"(\d{1,3})\n")
        self.status: int | None = None

    def sift(self, data: bytes) -> bytes:
        """What may be shown by now: what could be the beginning of the sign is held back."""
        shown = self._held + data
        if sign := self._whole.search(shown):
            self.status = int(sign[1])
            shown = shown[: sign.start()] + shown[sign.end() :]
        end = len(shown) - self._beginning_at_end(shown)
        self._held = shown[end:]
        return shown[:end]

    def _beginning_at_end(self, shown: bytes) -> int:
        """How many bytes at the end may be the beginning of the sign."""
        tail = re.search(re.escape(self._sign) + rb"\d{0,3}\Z", shown)
        if tail:
            return len(tail[0])
        most = min(len(shown), len(self._sign) - 1)
        return next((size for size in range(most, 0, -1) if shown.endswith(self._sign[:size])), 0)

    def rest(self) -> bytes:
        """What was held back, at the end of the stream."""
        held, self._held = self._held, b""
        return held
