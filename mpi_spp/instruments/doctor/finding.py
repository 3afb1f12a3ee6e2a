"""What was found, how bad it is, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Level(IntEnum):
    """OK: as it should be. NOTE: good to know. WARNING: slower than it could be. FAILURE: something will not run."""

    OK = 0
    NOTE = 1
    WARNING = 2
    FAILURE = 3


@dataclass(frozen=True)
class Finding:
    """`id` names the check; `ranks` and `hosts` are those that it is about."""

    id: str
    level: Level
    what: str
    do: str = ""
    ranks: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "id": self.id,
            "level": self.level.name.lower(),
            "hosts": list(self.hosts),
            "ranks": list(self.ranks),
            "what": self.what,
            "do": self.do,
        }


def failure_of(
    id: str, message: str, ranks: tuple[int, ...] = (), hosts: tuple[str, ...] = (), do: str = ""
) -> Finding:
    """A failure from the message of a UserError, which says what is wrong and, behind a semicolon, what to do."""
    what, _, advice = message.partition("; ")
    return Finding(id, Level.FAILURE, what, advice or do, ranks, hosts)


def exit_status(findings: Iterable[Finding]) -> int:
    """1 when something will fail, else 0."""
    return int(any(finding.level is Level.FAILURE for finding in findings))
