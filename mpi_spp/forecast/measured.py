"""Measured speeds: taken on the ranks of a job, remembered in the cache folder, and looked up where no job runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpi_spp.engine.costs import Measured, experts_name
from mpi_spp.engine.costs import remembered as remembered_cost
from mpi_spp.engine.links import links_key
from mpi_spp.forecast.speeds import Speeds, StepCost, assumed_cost, assumed_step
from mpi_spp.forecast.steps import MakeStage, measure_steps
from mpi_spp.kernels.memory import measured_on, recall, remember
from mpi_spp.parallel.links import ASSUMED_BETWEEN, ASSUMED_INSIDE, Group, Link, Links, Sums
from mpi_spp.parallel.schedule import Cost
from mpi_spp.system.units import counted

if TYPE_CHECKING:
    from mpi_spp.comm.communicator import Communicator
    from mpi_spp.comm.world import World

Steps = tuple[StepCost, StepCost]  # of a rank together with those of its host, and alone


def measured_speeds(
    what: Measured,
    layers: Sequence[Cost],
    make: MakeStage,
    comm: "Communicator",
    world: "World",
    links: Links,
    directory: Path,
) -> Speeds:
    """Of the ranks of this replica; `layers`: what a layer costs on each of them; `links`: measured. Collective."""
    first = world.rank - comm.rank
    steps, steps_from = _steps_of_job(what, make, comm, world, directory, links)
    crowding = world.gather(world.crowding(what.threads))[first : first + comm.size]
    origins = {"layers": "measured", "steps": steps_from, "links": "measured" if comm.size > 1 else "not needed"}
    return Speeds(layers, [both for both, _ in steps], [alone for _, alone in steps], crowding, links, origins)


def _steps_of_job(
    what: Measured, make: MakeStage, comm: "Communicator", world: "World", directory: Path, links: Links
) -> tuple[list[Steps], str]:
    """What a new token costs on each rank of this replica, and the origin. Collective.

    Kept for the next time unless another program disturbed it; ranks that share cores disturb one another anyway.
    Ranks that are alike take the figures of the first of them on their host.
    """
    memory, key = directory / "decode.json", _steps_key(what, world.local_size, comm.size)
    known = world.once_a_host(lambda: recall(memory))
    steps, origin, lasts = _read_steps(known.get(key)), "remembered", False
    if None in world.gather(steps):
        both, alone, steady = measure_steps(what.config, make, comm, world)
        steps, origin = (_inside_its_host(both, links, what.config.hidden_size), alone), "measured"
        lasts = all(world.gather(steady or world.shares_core(what.threads)))
    ranks = world.gather((world.host, key, steps))
    agreed = {(host, of_rank): found for host, of_rank, found in reversed(ranks)}
    if world.local_rank == 0 and lasts:
        ours = {of_rank: list(map(asdict, found)) for (host, of_rank), found in agreed.items() if host == world.host}
        remember(memory, known | ours)
    first = world.rank - comm.rank
    return [agreed[host, of_rank] for host, of_rank, _ in ranks[first : first + comm.size]], origin


def _inside_its_host(step: StepCost, links: Links, hidden_size: int) -> StepCost:
    """Without the part of its sums that went over hosts: that is the links' own."""
    if step.sum_s is None or links.sums is None:
        return step
    return replace(step, sum_s=max(0.0, step.sum_s - links.sum_between_s(4 * hidden_size, links.sums.group)))


def remembered_speeds(what: Measured, hosts: Sequence[str], cores: int, directory: Path) -> Speeds:
    """What is known without a job: of ranks on this machine and hosts like it; assumed where nothing is remembered.

    `cores`: of each host; ranks that outnumber them are slower by as much.
    """
    counts = Counter(hosts)
    crowding = [max(1.0, counts[host] * what.threads / cores) for host in hosts]
    cost, kept = remembered_cost(what, directory), recall(directory / "decode.json")
    by_count = {count: _remembered_steps(what, kept, count, len(hosts), cores) for count in set(counts.values())}
    steps = [by_count[counts[host]] for host in hosts]
    links = _remembered_links(recall(directory / "links.json"), hosts, what.config.hidden_size)
    layer = cost or assumed_cost(what.config, what.threads)
    origins = {
        "layers": "remembered" if cost else "assumed",
        "steps": ", ".join(sorted({origin for _, _, origin in steps})),
        "links": links[1],
    }
    return Speeds(
        [layer.times(factor) for factor in crowding],
        [both for both, _, _ in steps],
        [alone for _, alone, _ in steps],
        crowding,
        links[0],
        origins,
    )


def _remembered_steps(
    what: Measured, kept: dict[str, Any], per_host: int, num_ranks: int, cores: int
) -> tuple[StepCost, StepCost, str]:
    """Those of as many ranks a host, else of the nearest count, and where they come from."""
    prefix = _steps_prefix(what)
    found = {
        counts: steps
        for key, value in kept.items()
        if key.startswith(prefix) and (steps := _read_steps(value)) and (counts := _counts(key.removeprefix(prefix)))
    }
    if not found:
        step = assumed_step()
        return step.slower(max(1.0, per_host * what.threads / cores)), step, "assumed"
    best = min(found, key=lambda counts: (abs(counts[0] - per_host), abs(counts[1] - num_ranks)))
    both, alone = found[best]
    before, after = (max(1.0, count * what.threads / cores) for count in (best[0], per_host))
    origin = "remembered" if best[0] == per_host else f"remembered of {counted(best[0], 'rank')} a host"
    return (alone if per_host == 1 else both.slower(after / before)), alone, origin


def _remembered_links(kept: dict[str, Any], hosts: Sequence[str], hidden_size: int) -> tuple[Links, str]:
    """Those of the same hosts; else of ranks on one host, with nearly as many; else what is assumed."""
    entries = {key: links for key, value in kept.items() if (links := _read_links(value)) is not None}
    key, most = f"{links_key(hosts, hidden_size)}, ", max(Counter(hosts).values())
    same = next((links for name, links in entries.items() if name.startswith(key)), None)
    if same is not None:
        return same, "remembered"
    near = {
        (f"rows of {hidden_size}," not in name, abs(links.sums.group.ranks - most)): links
        for name, links in entries.items()
        if links.sums is not None and links.sums.group.hosts == 1
    }
    told = [f"{'remembered' if near else 'assumed'} inside a host"] * (most > 1)
    told += ["assumed between hosts"] * (len(set(hosts)) > 1)
    links = near[min(near)] if near else Links(ASSUMED_INSIDE, ASSUMED_BETWEEN)
    return links, ", ".join(told) or "not needed"


def _steps_prefix(what: Measured) -> str:
    config = what.config
    heads = f"{config.num_attention_heads}/{config.num_key_value_heads} heads of {config.head_dim}"
    shape = f"{config.hidden_size} to {config.intermediate_size}, {heads}{experts_name(config)}"
    return f"{measured_on(what.device)}, {what.threads} threads, {what.dtype}, {what.weights}, {shape}, "


def _steps_key(what: Measured, per_host: int, num_ranks: int) -> str:
    return f"{_steps_prefix(what)}{per_host} ranks a host, {num_ranks} in all"


def _counts(text: str) -> tuple[int, int] | None:
    """The ranks of a host, and all, of the end of a key."""
    words = text.split()
    numbers = [int(word) for word in words if word.isdecimal()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 and words[1:3] == ["ranks", "a"] else None


def _read_steps(kept: Any) -> Steps | None:
    """Costs from a file, which anyone may have edited."""
    try:
        both, alone = (StepCost(**one) for one in kept)
        values = [value for step in (both, alone) for value in astuple(step) if value is not None]
        sound = min(values) >= 0 and min(both.weight_bytes_per_s, alone.weight_bytes_per_s) >= 1e3
    except (TypeError, ValueError):
        return None
    return (both, alone) if sound else None


def _read_links(kept: Any) -> Links | None:
    """Links from a file, which anyone may have edited."""
    try:
        inside, between = (None if kept[name] is None else Link(**kept[name]) for name in ("inside", "between"))
        sums = Sums(**kept["sums"] | {"group": Group(**kept["sums"]["group"])})
        rates = [sums.bytes_per_s, *(link.bytes_per_s for link in (inside, between) if link is not None)]
        latencies = [sums.row_s, *(link.latency_s for link in (inside, between) if link is not None)]
        sound = min(rates) > 0 and min(latencies) >= 0 and min(sums.group.ranks, sums.group.hosts) >= 1
    except (TypeError, ValueError, KeyError):
        return None
    return Links(inside or ASSUMED_INSIDE, between or ASSUMED_BETWEEN, sums) if sound else None
