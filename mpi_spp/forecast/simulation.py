"""A request on ever more ranks: what each count gains, and where adding ranks stops paying."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

from mpi_spp.errors import UserError
from mpi_spp.forecast.choice import choose, require_room
from mpi_spp.forecast.forecast import Forecast, forecast
from mpi_spp.forecast.scenario import Scenario
from mpi_spp.parallel.mesh import Mesh, parse_mesh
from mpi_spp.system.units import counted

Row = dict[str, Any]


def hosts_of(num_ranks: int, per_host: int) -> list[str]:
    """The host of each rank, filled one after another."""
    return [f"host {rank // per_host}" for rank in range(num_ranks)]


def mesh_for(text: str | None, num_ranks: int, num_layers: int) -> Mesh:
    """The axes that are named, and as many stages as the others leave; the stages of a long pipeline are split, too.

    Raises UserError where the ranks do not divide so.
    """
    named = Mesh() if text is None else parse_mesh(text)
    if text is not None and "pp" in text:
        if named.size != num_ranks:
            raise UserError(
                f"--mesh: {text} is for {counted(named.size, 'rank')}, not {num_ranks}; leave pp out or change --ranks"
            )
        return named
    others = named.dp * named.stage_size
    if num_ranks % others:
        raise UserError(
            f"--mesh: {text} does not divide {counted(num_ranks, 'rank')}; give --ranks multiples of {others}"
        )
    stages = num_ranks // others
    if text is not None or stages <= num_layers:
        return Mesh(named.dp, stages, named.tp, named.ep)
    deepest = max(count for count in range(1, num_layers + 1) if stages % count == 0)
    return Mesh(1, deepest, stages // deepest)


def best_of(scenario: Scenario) -> Forecast:
    """With the strategies that were asked for, or the fastest where they are "auto".

    Raises UserError where the run would refuse its options, or needs more than its limits.
    """
    if scenario.config.is_open:
        return choose(scenario).best
    found = forecast(scenario)
    require_room(found)
    return found


def simulate(setting_of: Callable[[int], Scenario], counts: Sequence[int], alone: Scenario, per_host: int) -> list[Row]:
    """A row for each count of ranks, so many of them a host, beside `alone`, the scenario of one rank.

    A count on which the run would refuse its options has a row that says why. Raises UserError where all have.
    """
    alone_s = best_of(replace(alone, limits={})).request_s
    rows, refused = [], []
    for count in counts:
        try:
            rows.append(_row(best_of(setting_of(count)), alone_s) | {"hosts": -(-count // per_host)})
        except UserError as error:
            refused.append(error)
            rows.append({"ranks": count, "refused": str(error)})
    if len(refused) == len(counts):
        raise refused[0]
    _add_gains([row for row in rows if "refused" not in row])
    return rows


def knee(rows: Sequence[Row], worth: float) -> int | None:
    """The first count after which twice as many ranks would gain less than this part; None: each step was worth it."""
    gains = ((row["ranks"], row["gain_of_doubling"]) for row in rows if row.get("gain_of_doubling") is not None)
    return next((ranks for ranks, gain in gains if gain < worth), None)


def _row(found: Forecast, alone_s: float) -> Row:
    """Requests of replicas run side by side: they count for the speed-up, not for the seconds of one."""
    scenario, times = found.scenario, found.times
    ranks, requests_per_s = scenario.mesh.size, scenario.mesh.dp / found.request_s
    chunks = found.layout.chunks
    return {
        "ranks": ranks,
        "mesh": str(scenario.mesh),
        "prefill": scenario.config.prefill,
        "decode": scenario.config.decode,
        "sync_strategy": found.layout.strategies.sync_name,
        "chunks": len(chunks),
        "longest_chunk": max(map(len, chunks)),
        "seconds": asdict(times) | {"request": found.request_s},
        "tokens_per_s": {
            "prefill": scenario.prompt_tokens / (times.prefill + times.sync),
            "decode": 1 / times.token,
        },
        "requests_per_s": requests_per_s,
        "speed_up": requests_per_s * alone_s,
        "efficiency": requests_per_s * alone_s / ranks,
        "gain_of_doubling": None,
        "links": asdict(scenario.speeds.links),
        "origins": scenario.speeds.origins,
    }


def _add_gains(rows: Sequence[Row]) -> None:
    """What a doubling gains from each count on, if the way to the next count is taken in equal steps."""
    for row, after in pairwise(rows):
        if after["ranks"] > row["ranks"]:
            doublings = math.log2(after["ranks"] / row["ranks"])
            row["gain_of_doubling"] = (after["requests_per_s"] / row["requests_per_s"]) ** (1 / doublings) - 1
