"""Everything that is known of a run before it: one value, as plain data too."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from mpi_spp.forecast.memory import RankMemory, host_bytes, memory_of_ranks, overfull
from mpi_spp.forecast.scenario import Layout, Scenario, lay_out
from mpi_spp.forecast.sync import Moved, moved_by
from mpi_spp.forecast.timeline import on_links
from mpi_spp.forecast.times import Times, times_of
from mpi_spp.forecast.traffic import Traffic, decode_traffic, prefill_traffic, sync_traffic
from mpi_spp.kernels.backends import is_native
from mpi_spp.system import cpu


@dataclass(frozen=True)
class Forecast:
    """Of one scenario: memory and traffic by rank of a replica, and times; each is found when it is looked at."""

    scenario: Scenario
    layout: Layout

    @property
    def name(self) -> str:
        """Of the strategies."""
        config = self.scenario.config
        return f"--prefill {config.prefill} --decode {config.decode}"

    @cached_property
    def moved(self) -> Moved | None:
        """By the sync."""
        return moved_by(self.scenario, self.layout)

    @cached_property
    def memory(self) -> list[RankMemory]:
        """Of each rank."""
        return memory_of_ranks(self.scenario, self.layout, self.moved)

    @cached_property
    def prefill(self) -> list[Traffic]:
        """Of each rank, for the whole prompt."""
        return [prefill_traffic(self.scenario, self.layout, rank) for rank in range(self.layout.num_ranks)]

    @cached_property
    def sync(self) -> list[Traffic]:
        """Of each rank, for the whole prompt."""
        return sync_traffic(self.layout, self.moved)

    @cached_property
    def decode(self) -> list[Traffic]:
        """Of each rank, for one token."""
        return [decode_traffic(self.scenario, self.layout, rank) for rank in range(self.layout.num_ranks)]

    @cached_property
    def times(self) -> Times:
        """Of one request that has all ranks to itself."""
        return times_of(self.scenario, self.layout, self.moved)

    @property
    def link_s(self) -> float:
        """Seconds in which the sync's bytes keep their busiest link from others."""
        return 0.0 if self.moved is None else float(on_links(self.scenario.speeds.links, self.moved).sum())

    @property
    def request_s(self) -> float:
        """Seconds of the whole request."""
        return self.times.request(self.scenario.new_tokens)

    @property
    def lacking(self) -> tuple[str, int] | None:
        """The first host whose limit is too low, and the bytes that it would need; None: it fits."""
        scenario = self.scenario
        return overfull(self.memory, scenario.hosts, scenario.limits) if scenario.limits else None


def forecast(scenario: Scenario) -> Forecast:
    """Raises UserError where the run would refuse its options; whether it fits is `lacking`."""
    return Forecast(scenario, lay_out(scenario))


def as_data(what: Forecast) -> dict[str, Any]:
    """Plain values for JSON: bytes, seconds, layers and heads as [first, behind the last]."""
    scenario, config = what.scenario, what.scenario.config
    return {
        "prefill": config.prefill,
        "decode": config.decode,
        "sync_strategy": what.layout.strategies.sync_name,
        "mesh": str(scenario.mesh),
        "dtype": str(scenario.dtype).removeprefix("torch."),
        "kernels": scenario.kernels,
        "activations": config.activations if is_native(scenario.kernels) else "exact",
        **cpu.facts(),
        "prompt_tokens": scenario.prompt_tokens,
        "new_tokens": scenario.new_tokens,
        "chunks": [len(chunk) for chunk in what.layout.chunks],
        "seconds": asdict(what.times) | {"request": what.request_s},
        "tokens_per_s": {
            "prefill": scenario.prompt_tokens / (what.times.prefill + what.times.sync),
            "decode": 1 / what.times.token,
        },
        "speeds": speeds_as_data(scenario),
        "ranks": [_rank(what, rank) for rank in range(what.layout.num_ranks)],
        "hosts": host_bytes(what.memory, scenario.hosts),
        "limits": dict(scenario.limits),
        "fits": what.lacking is None,
    }


def speeds_as_data(scenario: Scenario) -> dict[str, Any]:
    """The figures behind the times, and where they come from."""
    speeds = scenario.speeds
    return {
        "links": asdict(speeds.links),
        "steps": [asdict(step) for step in speeds.steps],
        "steps_alone": [asdict(step) for step in speeds.alone],
        "layer_s_of_512_tokens": [cost.seconds(0, 512) for cost in speeds.layers],
        "origins": speeds.origins,
    }


def _rank(what: Forecast, rank: int) -> dict[str, Any]:
    memory, phases = what.memory[rank], {"prefill": what.layout.plan.prefill, "decode": what.layout.plan.decode}
    parts = {
        f"{name}_{part}": [span.start, span.stop]
        for name, phase in phases.items()
        for part, span in (("layers", phase.spans[rank]), ("kv_heads", phase.regions[rank].heads))
    }
    sizes = {f"{name}_bytes": value for name, value in asdict(memory).items()} | {"total_bytes": memory.total}
    traffic = {"prefill": what.prefill[rank], "sync": what.sync[rank], "decode_per_token": what.decode[rank]}
    return (
        {"rank": rank, "host": what.scenario.hosts[rank]}
        | parts
        | sizes
        | {"traffic": {name: asdict(value) for name, value in traffic.items()}}
    )
