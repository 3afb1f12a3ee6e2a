"""The one exception for input that the user can mend, and the end that all ranks have agreed on."""

_MOST_CHARACTERS = 500  # of a line; what came may have thousands
_LAST_CHARACTERS = 180  # kept of a longer one, since lines end with what to do


class UserError(Exception):
    """Bad input: the message is one line that names the option or file, what is wrong and what to do.

    The command line prints it from one rank and exits with status 2. Anything else that is raised is a
    defect or a fault of the machine: it is shown with its traceback and aborts all ranks with status 1.
    """

    def __init__(self, message: str, *, agreed: bool = False) -> None:
        super().__init__(_one_line(message))
        self.agreed = agreed  # every rank of the job has already been told


def _one_line(message: str) -> str:
    """A message that quotes anything, as people can read it: no long line, no signs that a terminal obeys."""
    line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in " ".join(message.split()))
    if len(line) <= _MOST_CHARACTERS:
        return line
    return f"{line[: _MOST_CHARACTERS - _LAST_CHARACTERS]} ... {line[-_LAST_CHARACTERS:]}"


class AgreedExit(SystemExit):
    """All ranks leave with this status, and have said what there was to say."""
