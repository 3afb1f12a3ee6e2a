"""Weights on disk: safetensors files, memory-mapped, read tensor by tensor and never unpickled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mpi_spp.errors import UserError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class Checkpoint:
    """The tensors of a model directory: one `model.safetensors`, or the shards that an index names.

    Every error names the file and is a UserError: a missing or truncated shard, a tensor that is not there, a wrong shape.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open_files: dict[str, Any] = {}
        self._file_of = self._read_index()

    def require(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Check from the files' headers alone that these tensors are there in these shapes."""
        for name, shape in shapes.items():
            found = tuple(self._slice(name).get_shape())
            if found != shape:
                path = self._directory / self._file_of[name]
                raise UserError(f"{path}: {name} has shape {list(found)}, but config.json asks for {list(shape)}")

    def read(self, name: str, rows: range | None = None) -> torch.Tensor:
        """One tensor, or only some of its rows (dim 0), still memory-mapped where it is read whole."""
        part = self._slice(name)
        return part[:] if rows is None else part[rows.start : rows.stop]

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
                return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{index}: is not a safetensors index ({error!r})") from None
        if not (self._directory / _SINGLE).exists():
            raise UserError(f"{self._directory}: holds neither {_SINGLE} nor {_INDEX}; only safetensors are read")
        return dict.fromkeys(self._open(_SINGLE).keys(), _SINGLE)
