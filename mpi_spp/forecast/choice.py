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
from mpi_spp.forecast.scenario import Setting
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
        config = self.best.setting.config
        return {
            "prefill": config.prefill,
            "decode": config.decode,
            "sync_granularity": config.sync_granularity,
            "reason": self.reason,
            "predicted_s": self.seconds,
        }


def choose(setting: Setting) -> Choice:
    """Put strategies in the place of "auto". Raises UserError when none fits into the memory, or none can run."""
    candidates, refused = [], None
    for tried in _strategies_of(setting):
        try:
            found = forecast(tried)
            if setting.config.sync_granularity == "auto" and found.link_s > _BUSY_LINK * found.times.prefill:
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
    if setting.config.sync_granularity == "auto":
        told += f"; --sync-granularity {best.setting.config.sync_granularity}"
    return Choice(best, told, seconds)


def require_room(what: Forecast) -> None:
    """Raise UserError when it does not fit, naming the nearest that would."""
    if what.lacking is not None:
        raise refusal(what)


def refusal(what: Forecast) -> UserError:
    """Why it does not fit, and what would."""
    assert what.lacking is not None
    host, need = what.lacking
    where = f" of {host}" if len(set(what.setting.hosts)) > 1 else ""
    return UserError(
        f"--max-memory: {what.name} on {counted(len(what.setting.hosts), 'rank')} needs {show_bytes(need)}{where}, but"
        f" {show_bytes(what.setting.limits[host])} are allowed; {nearest(what.setting)}"
    )


def nearest(setting: Setting) -> str:
    """The nearest setting that fits, as advice: other strategies or mesh, fewer bits, more ranks, fewer tokens."""
    smallest = {host: setting.program_bytes * count for host, count in Counter(setting.hosts).items()}
    may_fit = all(need < setting.limits.get(host, math.inf) for host, need in smallest.items())  # ranks without a model
    for advice, tried in _neighbours(setting) if may_fit else ():
        if _fits(tried):
            return f"{advice} would fit"
    tokens = _longest_prompt(setting) if may_fit else None
    if tokens is not None:
        return f"--prompt-tokens {tokens} with --new-tokens {setting.new_tokens} would fit"
    return "nothing that could be tried would fit; give more memory or a smaller model"


def _neighbours(setting: Setting) -> Iterator[tuple[str, Setting]]:
    """Advice, and the setting that it means, nearest first."""
    for tried in _all_strategies(setting):
        yield f"{_name(tried)} on the same ranks", tried
    for mesh in _meshes(setting.mesh):
        for tried in _all_strategies(replace(setting, mesh=mesh, config=replace(setting.config, mesh=str(mesh)))):
            yield f"--mesh {mesh} {_name(tried)}", tried
    for scheme in QUANTIZE if setting.config.activations == "exact" else ():  # else they have 4 bits
        for tried in [setting, *_all_strategies(setting)]:
            config = replace(tried.config, quantize=scheme)
            yield f"{_name(tried)} --quantize {scheme}", replace(tried, config=config)
    yield from _more_ranks(setting)


def _more_ranks(setting: Setting) -> Iterator[tuple[str, Setting]]:
    """The same on more hosts like the first one: each brings its own memory."""
    first, per_host = setting.hosts[0], setting.hosts.count(setting.hosts[0])
    count = len(set(setting.hosts))
    while len(setting.hosts) + per_host <= _MOST_RANKS:
        count += 1
        added = [f"another host {count}"] * per_host
        limit = {added[0]: setting.limits[first]} if first in setting.limits else {}
        hosts = [*setting.hosts, *added]
        mesh = Mesh(setting.mesh.dp, len(hosts))
        config = replace(setting.config, mesh=str(mesh), layer_split="auto")
        setting = replace(
            setting, hosts=hosts, mesh=mesh, limits={**setting.limits, **limit}, config=config,
            speeds=setting.speeds.stretched(len(hosts)),
        )  # fmt: skip
        for tried in [setting, *_all_strategies(setting)]:
            yield f"{len(hosts)} ranks on {count} hosts like {first} with {_name(tried)}", tried


def _longest_prompt(setting: Setting) -> int | None:
    """The most prompt tokens that fit, if there are enough to be of use."""
    low, high = _FEWEST_TOKENS - 1, setting.prompt_tokens
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(replace(setting, prompt_tokens=middle)) else (low, middle)
    return low if low >= _FEWEST_TOKENS else None


def _fits(setting: Setting) -> bool:
    """Whether it fits surely, without planning its chunks."""
    try:
        if setting.config.chunk_size == "auto":
            place = registry.load("prefill", setting.config.prefill).place(setting.mesh, 0)
            longest = _LONGEST_CHUNK * place.num_shards // place.num_weight_shards
            setting = replace(setting, config=replace(setting.config, chunk_size=longest))
        return forecast(setting).lacking is None
    except UserError:
        return False


def _strategies_of(setting: Setting) -> Iterator[Setting]:
    """Every strategy where "auto" stands, with a sync after every chunk where its granularity is open."""
    config = setting.config
    prefills = registry.choices("prefill") if config.prefill == "auto" else [config.prefill]
    decodes = registry.choices("decode") if config.decode == "auto" else [config.decode]
    granularity = "chunk" if config.sync_granularity == "auto" else config.sync_granularity
    for prefill, decode in itertools.product(prefills, decodes):
        yield replace(setting, config=replace(config, prefill=prefill, decode=decode, sync_granularity=granularity))


def _all_strategies(setting: Setting) -> list[Setting]:
    """Every other pair, those with the same prefill first; the sync has to follow."""
    free = replace(setting.config, prefill="auto", decode="auto", sync_strategy="auto")
    own = (setting.config.prefill, setting.config.decode)
    found = [
        one for one in _strategies_of(replace(setting, config=free)) if (one.config.prefill, one.config.decode) != own
    ]
    return sorted(found, key=lambda one: one.config.prefill != own[0])


def _meshes(mesh: Mesh) -> Iterator[Mesh]:
    """Other ways to see the ranks of a replica as stages and shards; groups of experts stay."""
    size = mesh.replica_size // mesh.ep
    for tp in range(1, size + 1):
        if size % tp == 0 and tp != mesh.tp:
            yield Mesh(mesh.dp, size // tp, tp, mesh.ep)


def _name(setting: Setting) -> str:
    return f"--prefill {setting.config.prefill} --decode {setting.config.decode}"


def _excess(what: Forecast) -> float:
    """How far a setting is from fitting."""
    host, need = what.lacking or ("", 0)
    return need / what.setting.limits.get(host, 1)


def _reason(best: Forecast, seconds: dict[str, float], too_large: int) -> str:
    """One line: what was taken, and what it is compared with."""
    setting, others = best.setting, list(seconds.items())[1:]
    lengths = f"for {setting.prompt_tokens} + {setting.new_tokens} tokens"
    told = f"{best.name}: {best.request_s:.3g} s predicted {lengths}"
    if others:
        told += f", next {others[0][0]} with {others[0][1]:.3g} s"
    if too_large:
        told += f"; {too_large} did not fit into --max-memory"
    return told
