"""The virtual environments of the peers, `peers/NAME` in the cache directory, made once each."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Job
from mpi_spp.model.loading.hub import cache_directory

_TIMEOUT_S = 1800
_PROCESS = re.compile(r"^\(\w+ pid=\d+\)")  # before each line of vLLM's processes
_SAYS_WHY = re.compile(r"error[:,] (?!\d+ validation error)", re.IGNORECASE)  # pydantic counts first, then says it
_ROOT = Path(__file__).parents[2]


class NotAvailable(Exception):
    """Why a peer or a variant of it cannot be measured, in one line."""


def names() -> list[str]:
    """All peers: the files here that say what they require."""
    files = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    return [name for name in files if hasattr(importlib.import_module(f"benchmarks.peers.{name}"), "REQUIREMENTS")]


def directory_of(name: str) -> Path:
    """Where the environment of this peer, and what it converts, lies."""
    return cache_directory() / "peers" / name


def python_of(name: str) -> str:
    """The Python that has this peer; it is installed when it is not there. Raises NotAvailable."""
    peer = importlib.import_module(f"benchmarks.peers.{name}")
    if peer.REQUIREMENTS is None:
        return sys.executable
    python, done = directory_of(name) / "bin" / "python", directory_of(name) / ".installed"
    wanted = json.dumps([peer.REQUIREMENTS, getattr(peer, "REMOVED", []), getattr(peer, "BUILD", {})])
    if not done.exists() or done.read_text() != wanted:
        _install(python, peer)
        done.write_text(wanted)
    return str(python)


def measure(name: str, job: Job) -> dict[str, Any]:
    """The result line of one run of a peer. Raises NotAvailable."""
    command = [python_of(name), "-m", "benchmarks.peers.worker", name, job.to_json()]
    result: dict[str, Any] = json.loads(run(command).strip().splitlines()[-1])
    return result


def run(command: list[str], **variables: str) -> str:
    """The standard output of a command. Raises NotAvailable with what it said last when it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    try:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailable(str(error).splitlines()[0][:200]) from None
    if done.returncode != 0:
        raise NotAvailable(reason_in(done.stderr, done.returncode))
    return done.stdout


def reason_in(stderr: str, status: int) -> str:
    """What says most of why a command failed: the signal that ended it, its first exception, or its last line."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    lines = [_PROCESS.sub("", line).strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if _SAYS_WHY.search(line)]
    return (errors or lines[-1:] or [f"status {status}"])[0][:200]


def _install(python: Path, peer: Any) -> None:
    run([sys.executable, "-m", "venv", "--clear", str(python.parents[1])])
    pip = [str(python), "-m", "pip", "--no-input", "--disable-pip-version-check"]
    build = getattr(peer, "BUILD", {})
    no_cache = ["--no-cache-dir"] if build else []  # which has what was built otherwise
    run([*pip, "install", "--quiet", *no_cache, *peer.REQUIREMENTS], **build)
    if removed := getattr(peer, "REMOVED", []):
        run([*pip, "uninstall", "--quiet", "--yes", *removed])
