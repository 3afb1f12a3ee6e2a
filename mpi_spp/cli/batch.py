"""`mpi-spp batch`: answer every line of a file, spread over the replicas of the mesh."""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpi_spp.cli._options import (
    File,
    chat_options,
    json_option,
    model_options,
    penalty_options,
    run_option,
    sampling_options,
    schedule_options,
    trace_options,
)
from mpi_spp.cli._output import leave_with, write_json
from mpi_spp.cli._start import show_choice
from mpi_spp.cli._trace import traced
from mpi_spp.config import RunConfig
from mpi_spp.entrypoints.opening import find_model, join, make_engine, read_model
from mpi_spp.system.progress import Progress

if TYPE_CHECKING:
    from mpi_spp.batch.work import Work
    from mpi_spp.comm.world import World
    from mpi_spp.model.config import ModelConfig
    from mpi_spp.model.text.generation import Generation
    from mpi_spp.parallel.mesh import Mesh
    from mpi_spp.system.timings import Clock

_SKIPPED = 1  # the exit status when lines were skipped


@dataclass(frozen=True)
class Files:
    """Where prompts come from and answers go, and how many a replica decodes at once."""

    input: Path
    output: Path
    max_num_seqs: int


@click.command("batch")
@click.option("--input", required=True, type=File(path_type=Path), help="JSON lines, each with a prompt.")
@click.option("--output", required=True, type=File(path_type=Path), help="JSON lines, each with an answer.")
@click.option(
    "--max-num-seqs", default=8, show_default=True, type=click.IntRange(1, 1 << 16), help="Prompts decoded at once."
)
@chat_options
@run_option("--system", "The system message of chats that bring none.")
@run_option("--max-new-tokens", "The longest answer, in tokens, where a line does not say.", type=int)
@run_option("--ignore-eos", "Go on after the stop token.", is_flag=True)
@sampling_options
@penalty_options
@schedule_options()
@model_options
@trace_options
@json_option("Write counts and measurements to this file;")
def command(input: Path, output: Path, max_num_seqs: int, **options: Any) -> None:
    """Answer every line of a file of prompts, spread over the replicas (dp) of the mesh.

    A line is a JSON object with prompt, prompt_ids or messages, and maybe id and max_new_tokens; OpenAI's batch format
    is read too. Answers come in the order of the input. The same command again goes on where it was cut off. Bad lines
    are named on standard error and skipped; then the exit status is 1.
    """
    from mpi_spp.batch.output import resume_file
    from mpi_spp.system.timings import Clock

    clock = Clock()
    config = RunConfig(**options)
    world = join(config)
    kept = {"--input": input, "what --output goes on with": resume_file(output)}
    with traced(config, world, kept, shows=False, output=output):
        status = run(config, Files(input, output, max_num_seqs), world, clock)
    leave_with(world, status)


def run(config: RunConfig, files: Files, world: "World", clock: "Clock") -> int:
    """Prepare on rank 0, load on all, answer, report; returns the exit status. Collective."""
    directory = find_model(config, world)
    from mpi_spp.batch.replicas import Keeper, answer_all, part_of
    from mpi_spp.parallel.mesh import mesh_of
    from mpi_spp.strategies.assignment import load_strategies

    mesh, progress = mesh_of(config.mesh, world.size), _Progress(files.input)
    if not config.is_open:
        load_strategies(config, mesh)
    work: Work | None = None

    def prepare() -> "tuple[ModelConfig, Generation, int]":
        nonlocal work
        model, generation, work = _prepare(config, files, directory, mesh, progress)
        return model, generation, work.num_waiting

    model, generation, num_waiting = world.on_rank_0(prepare)
    ranks, answers = [], {}
    clock.mark("load")
    if num_waiting:
        engine = make_engine(config, model, directory, world, clock)
        show_choice(engine, generation)
        part = part_of(engine, work)
        clock.mark("load")
        progress.start(work)
        # No replica takes what another would begin with.
        answer_all(engine, part, min(files.max_num_seqs, -(-num_waiting // mesh.dp)))
        progress.close()
        ranks, answers = world.gather(engine.facts()), part.answers if isinstance(part, Keeper) else {}
    clock.mark("total")
    return world.on_rank_0(lambda: _report(config, files, work, clock.moments, ranks, answers, generation.told()))


def _prepare(
    config: RunConfig, files: Files, directory: Path, mesh: "Mesh", progress: "_Progress"
) -> "tuple[ModelConfig, Generation, Work]":
    """What rank 0 reads: the model's shape for all ranks, and what is to be done, which it keeps."""
    from mpi_spp.batch.encoder import Encoder
    from mpi_spp.batch.fingerprint import made_of
    from mpi_spp.batch.lines import read_lines
    from mpi_spp.batch.output import Output
    from mpi_spp.batch.work import Work, groups_of

    lines = read_lines(files.input)
    model = read_model(directory)
    encoder = Encoder(config, model, directory)
    generation = encoder.generation
    resolved = replace(config, repetition_penalty=generation.penalties.repetition_penalty)
    output = Output(files.output, made_of(resolved, directory, lines), [number for number, _ in lines])
    waiting = lines[output.kept :]
    groups = groups_of(len(waiting), mesh.dp, files.max_num_seqs)
    return model, generation, Work(waiting, groups, encoder, output, progress)


def _report(
    config: RunConfig,
    files: Files,
    work: "Work | None",
    moments: dict[str, float],
    ranks: list[dict[str, Any]],
    answers: dict[int, int],
    told: dict[str, Any],
) -> int:
    """Say on rank 0 what was done; returns the exit status."""
    from mpi_spp.batch.summary import one_line, summarize
    from mpi_spp.instruments.report.tables import tell

    assert work is not None
    if work.output.lost is not None:
        raise work.output.lost
    summary = summarize(work, moments, ranks, answers)
    tell(f"mpi-spp: {files.output}: {one_line(summary)}", sys.stderr)
    chosen = asdict(config) | {"input": str(files.input), "output": str(files.output)}
    write_json(config.json, summary | told | {"configuration": chosen | {"max_num_seqs": files.max_num_seqs}})
    return _SKIPPED if summary["skipped_in_all"] else 0


class _Progress:
    """How many lines are answered, and the bad ones by name."""

    def __init__(self, input_file: Path) -> None:
        self._input_file = input_file
        self._shown: Progress | None = None

    def start(self, work: "Work | None") -> None:
        """Show it on the rank that has the work."""
        if work is not None:
            done = work.output.kept
            self._shown = Progress("answering", done + work.num_waiting, "line", done=done)

    def __call__(self, number: int, error: str | None) -> None:
        """A line is answered, or skipped for this error."""
        if error is not None:
            line = f"{self._input_file}:{number}: {error}"
            print(line, file=sys.stderr, flush=True) if self._shown is None else self._shown.write(line)
        if self._shown is not None:
            self._shown.advance()

    def close(self) -> None:
        """Take the bar away."""
        if self._shown is not None:
            self._shown.close()
