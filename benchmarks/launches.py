"""Runs of mpi-spp on this machine, and what they measured."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def result_of(words: Sequence[str], ranks: int, threads: int = 1, seconds: float = 1200) -> dict[str, Any]:
    """The JSON of a command on so many ranks. Raises CalledProcessError, after the command has said why."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "result.json"
        launch = [sys.executable, "-m", "mpi_spp", "launch", "-np", str(ranks), "--threads", str(threads), "--"]
        command = [*launch, *words, "--json", str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=seconds)
        result: dict[str, Any] = json.loads(path.read_text())
        return result


def prefill_case(options: Sequence[str], ranks: int) -> dict[str, Any]:
    """The only case of `bench prefill` with these options."""
    case: dict[str, Any] = result_of(["bench", "prefill", *options], ranks)["cases"][0]
    return case


def speed_of(case: dict[str, Any]) -> str:
    """For people."""
    return f"{case['median']:.0f} {case['unit']}"
