"""The same model, whole, on every host."""

from collections.abc import Iterator

from mpi_spp.instruments.doctor.facts import JobFacts, RankFacts, by_value, where
from mpi_spp.instruments.doctor.finding import Finding, Level, failure_of

_COPY = "copy the model to the same path on every host, or put it on a shared file system"

_NAMED = 3  # files; of more the number is told


def check(job: JobFacts) -> Iterator[Finding]:
    """Who cannot read it, and which files differ. Nothing when no model was named."""
    asked = [rank for rank in job.ranks if rank.model is not None]
    if not asked:
        return
    findings = [*_problems(job), *_differences([rank for rank in asked if _directory(rank) is not None])]
    yield from findings
    if not findings:
        files = asked[0].model.files if asked[0].model is not None else {}
        weights = sum(map(_is_weights, files))
        same = ", the same on all hosts" if len(job.hosts) > 1 else ""
        told = f"{_directory(asked[0])}: {len(files)} files, {weights} of them weights{same}"
        yield Finding("model", Level.OK, told, "", *where(asked))


def _problems(job: JobFacts) -> Iterator[Finding]:
    for problem, ranks in by_value(job.ranks, lambda rank: rank.model and rank.model.problem).items():
        if isinstance(problem, str):
            yield failure_of("model", problem, *where(ranks), do=_COPY)
    if job.model_problem is not None:
        yield failure_of("model", job.model_problem, *where(job.ranks), do="get the model again")


def _differences(ranks: list[RankFacts]) -> Iterator[Finding]:
    """Files that differ in one way on the same hosts. Other weights give wrong tokens without a word; of texts rank 0's
    alone are read.
    """
    groups: dict[tuple[str, tuple[int, ...], tuple[str, ...]], list[str]] = {}
    for name in sorted({name for rank in ranks if rank.model for name in rank.model.files}):
        kinds = _kinds(ranks, name)
        if len(kinds) > 1:
            common = max(kinds, key=lambda kind: len(kinds[kind]))  # of equally common ones the lowest rank's
            odd = [rank for kind, of_kind in kinds.items() if kind != common for rank in of_kind]
            how = "only on" if common is None else "missing on" if set(kinds) == {common, None} else "different on"
            groups.setdefault((how, *where(odd)), []).append(name)
    for (how, numbers, hosts), names in groups.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        told = f"{how} {', '.join(hosts)}: {', '.join(names[:_NAMED])}{more}"
        level = Level.FAILURE if any(map(_is_weights, names)) else Level.WARNING
        yield Finding("model-files", level, told, _COPY, numbers, hosts)


def _kinds(ranks: list[RankFacts], name: str) -> dict[object, list[RankFacts]]:
    return by_value(ranks, lambda rank: rank.model and rank.model.files.get(name))


def _directory(rank: RankFacts) -> str | None:
    return None if rank.model is None else rank.model.directory


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")
