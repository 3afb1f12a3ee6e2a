"""mpi-spp itself, in arrangements of ranks and threads."""

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import mpi_spp
from benchmarks.peers import environment
from benchmarks.peers.lines import Entry
from benchmarks.peers.protocol import Job
from mpi_spp.config import QUANTIZE
from mpi_spp.parallel import registry

NAME = "mpi-spp"
_DTYPES = ("bfloat16", "float32")
HELP = "Ranks x threads of mpi-spp, and strategies if not the defaults: 2x1:pipeline,tensor. May be repeated."


def entries(arrangements: Sequence[str]) -> list[Entry]:
    """An entry for every arrangement, with every kind of weights."""
    return [
        Entry(NAME, weights, arrangement, _settings(arrangement) | {"weights": weights})
        for weights in (*_DTYPES, *QUANTIZE)
        for arrangement in arrangements
    ]


def measure(job: Job) -> dict[str, Any]:
    """Tokens per second: `bench decode` times the prefill of its requests too. Raises NotAvailable."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "result.json"
        environment.run(_command(job, path))
        timings = json.loads(path.read_text())["cases"][0]["timings"]
    return {
        "version": mpi_spp.__version__,
        "prefill_tokens_per_s": [job.prompt_tokens / timing["first_token_s"] for timing in timings],
        "decode_tokens_per_s": [(job.new_tokens - 1) / timing["decode_s"] for timing in timings],
    }


def _settings(arrangement: str) -> dict[str, Any]:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)(?::(\w+),(\w+))?", arrangement)
    prefill, decode = found.group(3, 4) if found and found[3] else ("pipeline", "replicated")
    if not found or prefill not in registry.choices("prefill") or decode not in registry.choices("decode"):
        what = f"{arrangement!r} is not RANKSxTHREADS[:PREFILL,DECODE], as 2x1"
        raise click.BadParameter(what, param_hint="--arrangement")
    return {"ranks": int(found[1]), "threads": int(found[2]), "prefill": prefill, "decode": decode}


def _command(job: Job, path: Path) -> list[str]:
    ranks, threads = str(job.variant["ranks"]), str(job.variant["threads"])
    lengths = {
        "--prompt-tokens": job.prompt_tokens,
        "--new-tokens": job.new_tokens,
        "--warmup": job.warmup,
        "--repetitions": job.repetitions,
    }
    launch = [sys.executable, "-m", "mpi_spp", "launch", "-np", ranks, "--threads", threads, "--"]
    weights = job.variant["weights"]
    dtype = weights if weights in _DTYPES else _DTYPES[0]
    bench = ["bench", "decode", "--model", job.model, "--dtype", dtype, "--json", str(path)]
    bench += ["--prefill", job.variant["prefill"], "--decode", job.variant["decode"]]
    if weights in QUANTIZE:
        bench += ["--quantize", weights]
    return [*launch, *bench, *(str(word) for option in lengths.items() for word in option)]
