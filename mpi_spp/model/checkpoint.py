"""Weights on disk: safetensors files, memory-mapped, read tensor by tensor and never unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mpi_spp.errors import UserError

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
            part = self._slice(name)
            found, dtype = tuple(part.get_shape()), part.get_dtype()
            path = self._directory / self._file_of[name]
            if found != shape:
                raise UserError(f"{path}: {name} has shape {list(found)}, but config.json asks for {list(shape)}")
            if dtype not in _DTYPES:
                raise UserError(f"{path}: {name} is of dtype {dtype}; supported are {', '.join(_DTYPES)}")

    def read(self, name: str, rows: range | None = None, columns: range | None = None) -> torch.Tensor:
        """One tensor, or only some of its rows (dim 0) or columns (dim 1), memory-mapped."""
        part = self._slice(name)
        if columns is not None:
            return part[:, columns.start : columns.stop]
        return part[:] if rows is None else part[rows.start : rows.stop]

    def release(self) -> None:
        """Let go of the files: a tensor that is still used keeps its own, and the others' pages leave the memory."""
        self._open_files.clear()

    def _slice(self, name: str) -> Any:
        if name not in self._file_of:
            raise UserError(f"{self._directory}: no safetensors file holds the tensor {name!r}")
        file_name = self._file_of[name]
        try:
            return self._open(file_name).get_slice(name)
        except SafetensorError as error:
            raise UserError(f"{self._directory / file_name}: {name!r} cannot be read ({error})") from None

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
