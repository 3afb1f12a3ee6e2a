"""Weights on disk: safetensors files, memory-mapped, read tensor by tensor and never unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mpi_spp.errors import UserError
from mpi_spp.model.stored import Part, find

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_DTYPES = ("F64", "F32", "BF16", "F16")  # as safetensors spells them; others need scales that we would not apply


class Checkpoint:
    """The tensors of a model directory: one `model.safetensors`, or the shards that an index names.

    Every error names the file and is a UserError: a missing or truncated shard, a missing tensor, a wrong shape.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open_files: dict[str, Any] = {}
        self._file_of = self._read_index()

    def require(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Check from the files' headers alone that these tensors are there, in these shapes and in a known dtype."""
        for name, shape in shapes.items():
            part, path = self._part(name)
            if part.shape != shape:
                raise UserError(f"{path}: {name} has shape {list(part.shape)}, but config.json asks for {list(shape)}")
            if part.dtype not in _DTYPES:
                raise UserError(f"{path}: {name} is of dtype {part.dtype}; supported are {', '.join(_DTYPES)}")

    def read(self, name: str, rows: range | None = None, columns: range | None = None) -> torch.Tensor:
        """One tensor, or only some of its rows (dim 0) or columns (dim 1), memory-mapped.

        An expert's is found where all experts of a layer are one tensor, too.
        """
        return self._part(name)[0].read(rows, columns)

    def release(self) -> None:
        """Let go of the files: a tensor that is still used keeps its own, and the others' pages leave the memory."""
        self._open_files.clear()

    def _part(self, name: str) -> tuple[Part, Path]:
        """A tensor, and its file."""
        stored = find(name, self._file_of)
        if stored is None:
            raise UserError(f"{self._directory}: no safetensors file holds the tensor {name!r}")
        file_name = self._file_of[stored.name]
        path = self._directory / file_name
        try:
            part = Part(self._open(file_name).get_slice(stored.name), stored)
        except SafetensorError as error:
            raise UserError(f"{path}: {stored.name!r} cannot be read ({error})") from None
        if not part.complete:
            raise UserError(f"{path}: {stored.name} has no expert {stored.expert}, but config.json asks for it")
        return part, path

    def _open(self, file_name: str) -> Any:
        if file_name not in self._open_files:
            path = self._directory / file_name
            try:
                self._open_files[file_name] = safe_open(path, framework="pt")
            except FileNotFoundError:
                raise UserError(f"{path}: no such file, though {_INDEX} names it; get the missing shard") from None
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path}: is corrupt or truncated ({error}); get the file again") from None
        return self._open_files[file_name]

    def _read_index(self) -> dict[str, str]:
        index = self._directory / _INDEX
        if index.exists():
            try:
                weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                return {name: _file_name(value) for name, value in weight_map.items()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{index}: is not a safetensors index ({error!r})") from None
        if not (self._directory / _SINGLE).exists():
            raise UserError(f"{self._directory}: holds neither {_SINGLE} nor {_INDEX}; only safetensors are read")
        return dict.fromkeys(self._open(_SINGLE).keys(), _SINGLE)


def _file_name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no file name")
    return value
