"""Which strategies to take: the fastest that fit; and where nothing fits, the nearest that would."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mpi_spp.config import QUANTIZE
from mpi_spp.errors import UserError
from mpi_spp.forecast.forecast import Forecast, forecast
from mpi_spp.forecast.scenario import Scenario
from mpi_spp.parallel import registry
from mpi_spp.parallel.mesh import Mesh
from mpi_spp.system.units import counted, show_bytes

_MOST_RANKS = 64
_LONGEST_CHUNK = 512  # of a rank's own tokens: more buffers than with any that would be planned
_FEWEST_TOKENS = 16  # a shorter context is no advice
# Of the prefill's time. The many rounds of a sync after every layer cost some per cent of the computing; with more than
# this on the link, hidden states that wait behind the cache of a whole chunk cost more (benchmarks/RESULTS.md).
_BUSY_LINK = 1 / 3


@dataclass(frozen=True)
class Choice:
    """The strategies taken, why, and the seconds of all that fit, by name."""

    best: Forecast
    reason: str
    seconds: dict[str, float]

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON."""
        config = self.best.scenario.config
        return {
            "prefill": config.prefill,
            "decode": config.decode,
            "sync_granularity": config.sync_granularity,
            "reason": self.reason,
            "predicted_s": self.seconds,
        }


def choose(scenario: Scenario) -> Choice:
    """Put strategies in the place of "auto". Raises UserError when none fits into the memory, or none can run."""
    candidates, refused = [], None
    for tried in _strategies_of(scenario):
        try:
            found = forecast(tried)
            if scenario.config.sync_granularity == "auto" and found.link_s > _BUSY_LINK * found.times.prefill:
                found = forecast(replace(tried, config=replace(tried.config, sync_granularity="layer")))
            candidates.append(found)
        except UserError as error:
            refused = refused or error
    if not candidates:
        raise refused or UserError("--prefill auto: there is no strategy to choose from")
    fitting = [one for one in candidates if one.lacking is None]
    if not fitting:
        raise refusal(min(candidates, key=_excess))
    best = min(fitting, key=lambda one: one.request_s)
    seconds = {one.name: one.request_s for one in sorted(fitting, key=lambda one: one.request_s)}
    told = _reason(best, seconds, len(candidates) - len(fitting))
    if scenario.config.sync_granularity == "auto":
        told += f"; --sync-granularity {best.scenario.config.sync_granularity}"
    return Choice(best, told, seconds)


def require_room(what: Forecast) -> None:
    """Raise UserError when it does not fit, naming the nearest that would."""
    if what.lacking is not None:
        raise refusal(what)


def refusal(what: Forecast) -> UserError:
    """Why it does not fit, and what would."""
    assert what.lacking is not None
    host, need = what.lacking
    where = f" of {host}" if len(set(what.scenario.hosts)) > 1 else ""
    return UserError(
        f"--max-memory: {what.name} on {counted(len(what.scenario.hosts), 'rank')} needs {show_bytes(need)}{where}, but"
        f" {show_bytes(what.scenario.limits[host])} are allowed; {nearest(what.scenario)}"
    )


def nearest(scenario: Scenario) -> str:
    """The nearest scenario that fits, as advice: other strategies or mesh, fewer bits, more ranks, fewer tokens."""
    smallest = {host: scenario.program_bytes * count for host, count in Counter(scenario.hosts).items()}
    may_fit = all(
        need < scenario.limits.get(host, math.inf) for host, need in smallest.items()
    )  # ranks without a model
    for advice, tried in _neighbours(scenario) if may_fit else ():
        if _fits(tried):
            return f"{advice} would fit"
    tokens = _longest_prompt(scenario) if may_fit else None
    if tokens is not None:
        return f"--prompt-tokens {tokens} with --new-tokens {scenario.new_tokens} would fit"
    return "nothing that could be tried would fit; give more memory or a smaller model"


def _neighbours(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """Advice, and the scenario that it means, nearest first."""
    for tried in _all_strategies(scenario):
        yield f"{_name(tried)} on the same ranks", tried
    for mesh in _meshes(scenario.mesh):
        for tried in _all_strategies(replace(scenario, mesh=mesh, config=replace(scenario.config, mesh=str(mesh)))):
            yield f"--mesh {mesh} {_name(tried)}", tried
    for scheme in QUANTIZE if scenario.config.activations == "exact" else ():  # else they have 4 bits
        for tried in [scenario, *_all_strategies(scenario)]:
            config = replace(tried.config, quantize=scheme)
            yield f"{_name(tried)} --quantize {scheme}", replace(tried, config=config)
    yield from _more_ranks(scenario)


def _more_ranks(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """The same on more hosts like the first one: each brings its own memory."""
    first, per_host = scenario.hosts[0], scenario.hosts.count(scenario.hosts[0])
    count = len(set(scenario.hosts))
    while len(scenario.hosts) + per_host <= _MOST_RANKS:
        count += 1
        added = [f"another host {count}"] * per_host
        limit = {added[0]: scenario.limits[first]} if first in scenario.limits else {}
        hosts = [*scenario.hosts, *added]
        mesh = Mesh(scenario.mesh.dp, len(hosts))
        config = replace(scenario.config, mesh=str(mesh), layer_split="auto")
        scenario = replace(
            scenario, hosts=hosts, mesh=mesh, limits={**scenario.limits, **limit}, config=config,
            speeds=scenario.speeds.stretched(len(hosts)),
        )  # fmt: skip
        for tried in [scenario, *_all_strategies(scenario)]:
            yield f"{len(hosts)} ranks on {count} hosts like {first} with {_name(tried)}", tried


def _longest_prompt(scenario: Scenario) -> int | None:
    """The most prompt tokens that fit, if there are enough to be of use."""
    low, high = _FEWEST_TOKENS - 1, scenario.prompt_tokens
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(replace(scenario, prompt_tokens=middle)) else (low, middle)
    return low if low >= _FEWEST_TOKENS else None


def _fits(scenario: Scenario) -> bool:
    """Whether it fits surely, without planning its chunks."""
    try:
        if scenario.config.chunk_size == "auto":
            place = registry.load("prefill", scenario.config.prefill).place(scenario.mesh, 0)
            longest = _LONGEST_CHUNK * place.num_shards // place.num_weight_shards
            scenario = replace(scenario, config=replace(scenario.config, chunk_size=longest))
        return forecast(scenario).lacking is None
    except UserError:
        return False


def _strategies_of(scenario: Scenario) -> Iterator[Scenario]:
    """Every strategy where "auto" stands, with a sync after every chunk where its granularity is open."""
    config = scenario.config
    prefills = registry.choices("prefill") if config.prefill == "auto" else [config.prefill]
    decodes = registry.choices("decode") if config.decode == "auto" else [config.decode]
    granularity = "chunk" if config.sync_granularity == "auto" else config.sync_granularity
    for prefill, decode in itertools.product(prefills, decodes):
        yield replace(scenario, config=replace(config, prefill=prefill, decode=decode, sync_granularity=granularity))


def _all_strategies(scenario: Scenario) -> list[Scenario]:
    """Every other pair, those with the same prefill first; the sync has to follow."""
    free = replace(scenario.config, prefill="auto", decode="auto", sync_strategy="auto")
    own = (scenario.config.prefill, scenario.config.decode)
    found = [
        one for one in _strategies_of(replace(scenario, config=free)) if (one.config.prefill, one.config.decode) != own
    ]
    return sorted(found, key=lambda one: one.config.prefill != own[0])


def _meshes(mesh: Mesh) -> Iterator[Mesh]:
    """Other ways to see the ranks of a replica as stages and shards; groups of experts stay."""
    size = mesh.replica_size // mesh.ep
    for tp in range(1, size + 1):
        if size % tp == 0 and tp != mesh.tp:
            yield Mesh(mesh.dp, size // tp, tp, mesh.ep)


def _name(scenario: Scenario) -> str:
    return f"--prefill {scenario.config.prefill} --decode {scenario.config.decode}"


def _excess(what: Forecast) -> float:
    """How far a scenario is from fitting."""
    host, need = what.lacking or ("", 0)
    return need / what.scenario.limits.get(host, 1)


def _reason(best: Forecast, seconds: dict[str, float], too_large: int) -> str:
    """One line: what was taken, and what it is compared with."""
    scenario, others = best.scenario, list(seconds.items())[1:]
    lengths = f"for {scenario.prompt_tokens} + {scenario.new_tokens} tokens"
    told = f"{best.name}: {best.request_s:.3g} s predicted {lengths}"
    if others:
        told += f", next {others[0][0]} with {others[0][1]:.3g} s"
    if too_large:
        told += f"; {too_large} did not fit into --max-memory"
    return told
