"""What messages cost inside a host and between hosts: figures, and those of usual networks by name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A message of n bytes takes latency_s + n / bytes_per_s."""

    latency_s: float
    bytes_per_s: float

    def send_s(self, nbytes: float) -> float:
        """One message."""
        return self.latency_s + nbytes / self.bytes_per_s


def _gbit(rate: float, latency_us: float) -> Link:
    return Link(latency_us * 1e-6, rate * 1e9 / 8)


# Two ranks of one machine, and two machines on a network of 10 Gbit/s.
ASSUMED_INSIDE, ASSUMED_BETWEEN = Link(3e-6, 6e9), _gbit(10, 25)
# Nominal rates of a line, and latencies of a small MPI message that are usual on it.
PRESETS = {
    "100mbe": _gbit(0.1, 100),
    "1gbe": _gbit(1, 50),
    "10gbe": _gbit(10, 25),
    "25gbe": _gbit(25, 20),
    "100gbe": _gbit(100, 15),
    "infiniband": _gbit(200, 1.5),  # HDR
    "nvlink": Link(5e-6, 450e9),  # the fourth one, each way
}


@dataclass(frozen=True)
class Group:
    """Ranks that add up or choose together: how many, and on how many hosts."""

    ranks: int
    hosts: int = 1

    @property
    def per_host(self) -> int:
        """On the host that has most, where they are spread evenly."""
        return -(-self.ranks // self.hosts)


@dataclass(frozen=True)
class Sums:
    """All-reduces as they were measured: seconds of one hidden state, bytes a second of many, over these ranks."""

    group: Group
    row_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Links:
    """Of two ranks of a host, of two hosts, and sums over ranks where they were measured."""

    inside: Link
    between: Link
    sums: Sums | None = None

    def of(self, same_host: bool) -> Link:
        """The link of two ranks."""
        return self.inside if same_host else self.between

    def sum_s(self, nbytes: float, group: Group) -> float:
        """An all-reduce, on each host and over hosts; each sends and receives twice what is not its own part."""
        inside, between = self._latencies(group)
        return inside + between + self._volume_s(nbytes, group)

    def sum_between_s(self, nbytes: float, group: Group) -> float:
        """That part of it which goes over hosts."""
        return self.sum_s(nbytes, group) - self.sum_s(nbytes, Group(group.per_host)) if group.hosts > 1 else 0.0

    def all_to_all_s(self, nbytes: float, group: Group) -> float:
        """Each rank gives every other one a part; `nbytes`: what the busiest one gives or gets.

        The ranks of a host share its link. The first message has that link's latency, each further one that of handing
        it over.
        """
        others, near = group.ranks - 1, group.per_host - 1
        if not others:
            return 0.0
        inside = nbytes * near / others / self.inside.bytes_per_s
        between = nbytes * (others - near) / others * group.per_host / self.between.bytes_per_s
        first = self.of(same_host=group.hosts == 1)
        return first.latency_s + (others - 1) * self.inside.latency_s + max(inside, between)

    def broadcast_s(self, nbytes: float, group: Group) -> float:
        """One hidden state or more to all: in each round who has it gives it to one more."""
        inside, between = _rounds(group)
        return inside * self.inside.send_s(nbytes) + between * self.between.send_s(nbytes)

    def _latencies(self, group: Group) -> tuple[float, float]:
        """Of a small sum, inside hosts and over them; scaled so that the measured one comes out as it was."""
        inside, between = self._unscaled(group)
        if self.sums is None:
            return inside, between
        of_measured = sum(self._unscaled(self.sums.group))
        factor = self.sums.row_s / of_measured if of_measured else 1.0
        return inside * factor, between * (factor if self.sums.group.hosts > 1 else 1.0)

    def _unscaled(self, group: Group) -> tuple[float, float]:
        """Reduced in a tree and given back."""
        inside, between = _rounds(group)
        return 2 * inside * self.inside.latency_s, 2 * between * self.between.latency_s

    def _volume_s(self, nbytes: float, group: Group) -> float:
        inside, between = self.inside.bytes_per_s, self.between.bytes_per_s
        if self.sums is not None and self.sums.group.hosts > 1:
            between = self.sums.bytes_per_s
        elif self.sums is not None:
            inside = self.sums.bytes_per_s
        return 2 * nbytes * (_others(group.per_host) / inside + _others(group.hosts) / between)


def _rounds(group: Group) -> tuple[int, int]:
    """Of a tree over the ranks of a host, and over the hosts."""
    return (group.per_host - 1).bit_length(), (group.hosts - 1).bit_length()


def _others(count: int) -> float:
    """The part of a whole that is not one's own."""
    return (count - 1) / count
