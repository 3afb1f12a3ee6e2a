"""Quantised weights of a model on disk: made once, then memory-mapped by every rank of a host."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mpi_spp.errors import UserError
from mpi_spp.kernels.quantized import BITS, QuantizedWeight, quantize

_FORMAT = 2  # of the files: another number makes them anew
HEAD_BITS = 8  # errors of the last product go straight into the logits, so it never has fewer

_MOST_NAME = 50  # characters of the model's, which with more behind them must be a file's

Parts = Iterable[tuple[str, torch.Tensor]]  # by name, one in memory at a time


class QuantizedStore:
    """One file for each layer of a model, and one for its head."""

    def __init__(self, root: Path, model: Path, files: Sequence[Path], scheme: str, group: int) -> None:
        """`root`: where such stores are kept; `files`: what weights are read from; `scheme`: a key of `BITS`."""
        self._bits, self._group = BITS[scheme], group
        self._directory = root / f"{model.name[:_MOST_NAME]}-{scheme}-{group}-{_fingerprint(model, files)}"

    def missing(self, names: list[str]) -> list[str]:
        """Those of these files that are not there, or not whole."""
        return [name for name in names if not self._is_whole(name)]

    def make(self, name: str, parts: Callable[[], Parts]) -> None:
        """Quantise matrices [out_features, in_features] into one file, in a single step for other processes.

        Raises UserError where it cannot be written.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._write(name, parts)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{self._directory}: quantised weights cannot be written ({error});"
                " make room, or set MPI_SPP_CACHE to another place"
            ) from None

    def _write(self, name: str, parts: Callable[[], Parts]) -> None:
        bits = HEAD_BITS if name == "head" else self._bits
        weights = {key: quantize(part, bits, self._group) for key, part in parts()}
        shapes = {key: f"{weight.out_features} {weight.in_features} {bits}" for key, weight in weights.items()}
        with tempfile.TemporaryDirectory(dir=self._directory) as scratch:
            path = Path(scratch) / "file"
            save_file({key: weight.data for key, weight in weights.items()}, path, metadata=shapes)
            os.replace(path, self._path(name))

    def read(self, name: str) -> dict[str, QuantizedWeight]:
        """The matrices of one file, memory-mapped."""
        with safe_open(self._path(name), framework="pt") as file:
            return {
                key: QuantizedWeight(file.get_tensor(key), *_numbers(facts), self._group)
                for key, facts in file.metadata().items()
            }

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.safetensors"

    def _is_whole(self, name: str) -> bool:
        try:
            with safe_open(self._path(name), framework="pt"):
                return True
        except (OSError, SafetensorError):
            return False


def _numbers(facts: str) -> tuple[int, int, int]:
    out_features, in_features, bits = map(int, facts.split())
    return out_features, in_features, bits


def _fingerprint(model: Path, files: Sequence[Path]) -> str:
    """Changes when other files are read than before, or one of them has changed."""
    stats = [(path, path.stat()) for path in files]
    facts = [
        str(model.resolve()),  # first of all: the same relative path may be another model tomorrow
        str(_FORMAT),
        *(f"{path} {found.st_size} {found.st_mtime_ns}" for path, found in stats),
    ]
    return hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()[:12]
