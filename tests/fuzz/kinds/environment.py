"""Environment variables: ours, those of launchers, of Python's libraries, of the shell."""

from random import Random

import known
import odd
from case import QUICK, TRIALS, Case, Room

from kinds.config import most

_OURS = ("MPI_SPP_CACHE", "MPI_SPP_CPU", "MPI_SPP_MPIRUN", "MPI_SPP_DEBUG_RANK", "MPI_SPP_DEBUG_PORT", "MPI_SPP_X")
_LAUNCHERS = odd.words("""
    OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_LOCAL_SIZE MPI_LOCALRANKID MPI_LOCALNRANKS SLURM_JOB_ID
    OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE PMI_RANK PMI_SIZE PMIX_RANK SLURM_LOCALID SLURM_NTASKS
""")
_PAIRS = (
    ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
_OTHERS = odd.words("""
    HOME TMPDIR PATH CC COLUMNS LINES TERM LANG LC_ALL NO_COLOR FORCE_COLOR TZ USER OMP_NUM_THREADS
    MKL_NUM_THREADS CUDA_VISIBLE_DEVICES XDG_CACHE_HOME TQDM_DISABLE MPLBACKEND HWLOC_COMPONENTS PYTHONPATH
    COLORTERM HF_HUB_CACHE TRANSFORMERS_VERBOSITY OMPI_MCA_btl SSH_TTY
""")
_NUMBERS = ("-1", "x", "", "1.5", "99999999999999999999", "９", "1 ", "+1", "0x1", "1_0", "nan", "0", "\n")


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    model = room.copy("llama")
    variables: dict[str, str] = {}
    for draw in draws:
        variables |= pair(draw) if draw.random() < 0.2 else dict([variable(draw)])
    lengths = ["--model", str(model), "--prompt-tokens", "16", "--new-tokens", "4"]
    words = rng.choice(
        (
            ["plan", *lengths],
            ["model", "list"],
            ["launch", "-np", "2", "--dry-run", "--", "plan", *lengths],
            ["generate", "--model", str(model), "--prompt", "hi", *QUICK, *most()],
            ["--version"],
        )
    )
    if words[0] in ("generate", "plan") and "MPI_SPP_CACHE" in variables:  # a machine's arithmetic is tried for 2 s
        words = rng.choice((["model", "list"], ["model", "list"], ["plan", *lengths]))
    names = (*variables, "MPI_SPP_CACHE", "mpirun")
    told = [words[0], *(f"{name}={value[:80]!r}" for name, value in variables.items())]
    check = known.says_it(room, "hi") if words[0] == "generate" else None
    return Case(words, variables, names=names, check=check, patience=TRIALS, told=told)


def pair(rng: Random) -> dict[str, str]:
    """What a launcher tells a rank of its host: both, or neither counts."""
    names = rng.choice(_PAIRS)
    numbers = [text for text in _NUMBERS if "9999" not in text]  # this process was not launched
    return {name: rng.choice((*numbers, "1", "0")) for name in names}


def variable(rng: Random) -> tuple[str, str]:
    """A name, and what it is set to."""
    name = rng.choice(rng.choice((_OURS, _LAUNCHERS, _OTHERS)))
    if name == "MPI_SPP_DEBUG_RANK":
        return name, rng.choice([text for text in _NUMBERS if text != "0"])  # rank 0 would wait, as it is told
    if name in _LAUNCHERS:
        return name, rng.choice([text for text in _NUMBERS if "9999" not in text])  # this process was not launched
    if name in ("COLUMNS", "LINES", "MPI_SPP_DEBUG_PORT") or name.endswith("THREADS"):
        return name, rng.choice(_NUMBERS)
    if name in ("HOME", "TMPDIR", "MPI_SPP_CACHE", "XDG_CACHE_HOME", "HF_HUB_CACHE", "PATH", "CC", "MPI_SPP_MPIRUN"):
        return name, rng.choice((odd.path(rng), odd.argument(odd.text(rng))))
    return name, rng.choice((*_NUMBERS, odd.argument(odd.text(rng)), "avx2", "avx512", "C", "dumb", "debug"))
