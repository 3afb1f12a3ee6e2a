"""Weights on disk: safetensors files, memory-mapped, read tensor by tensor and never unpickled."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mpi_spp.errors import UserError
from mpi_spp.model.loading.index import INDEX, SINGLE, read_index
from mpi_spp.model.loading.tensor_names import Part, Stored, find
from mpi_spp.system.files import MIB

_DTYPES = ("F64", "F32", "BF16", "F16")  # as safetensors spells them; others need scales that we would not apply
_MOST_HEADER_BYTES = 32 * MIB  # of one file; safetensors itself parses up to 100 MB, into ten times as much memory
_COMPUTED = ("rotary_emb.inv_freq", "position_ids")
_LENGTH_BYTES = 8  # of a header, in front of it
# How weights are also kept, with what makes of them what is read here.
_OTHER_FORMATS = {
    ("adapter_model.safetensors", "adapter_model.bin"): "merge the adapter into its model (merge_and_unload of peft)",
    (".safetensors", ".safetensors.index.json"): f"get the model's own {SINGLE}, or load and save it by transformers",
    (".gguf",): "convert it with `mpi-spp model convert`",
    (".bin", ".bin.index.json", ".pt", ".pth", ".h5", ".msgpack"): (
        "load it by transformers (from_pretrained), and save it again (save_pretrained)"
    ),
}


class Checkpoint:
    """The tensors of a model directory: those of `model.safetensors`, else of the shards that an index names.

    As in transformers a single file comes before an index, and names may lack `model.` in front or have it once more.
    Every error names the file and is a UserError: a missing or truncated shard, a missing tensor, a wrong shape.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open_files: dict[str, Any] = {}
        self._file_of = self._read_names()

    def has(self, name: str) -> bool:
        """Whether a tensor of this name is there, under whatever spelling."""
        return find(name, self._file_of) is not None

    def unused(self, names: Iterable[str]) -> list[str]:
        """The tensors of the files that are none of these, nor computed anew, as some of older files are."""
        used = {stored.name for stored in (find(name, self._file_of) for name in names) if stored is not None}
        return sorted(name for name in self._file_of if name not in used and not name.endswith(_COMPUTED))

    def require(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Check from the files' headers alone that these tensors are there, in these shapes and in a known dtype."""
        before_experts = set()
        for name, shape in shapes.items():
            part, path = self._part(name)
            if ".experts." in name:
                before_experts.add(part.name.partition("layers.")[0])
            if part.dtype not in _DTYPES:
                known = ", ".join(_DTYPES)
                raise UserError(f"{path}: {name} is of dtype {part.dtype}; supported are {known}, nothing quantised")
            if part.shape != shape:
                raise UserError(f"{path}: {name} has shape {list(part.shape)}, but config.json asks for {list(shape)}")
        if len(before_experts) > 1:  # transformers sorts them by these names, and so gives them other numbers
            told = " and ".join(repr(one) for one in sorted(before_experts))
            raise UserError(f"{self._directory}: the names of a layer's experts begin with {told}; they must be alike")

    def read(self, name: str, rows: range | None = None, columns: range | None = None) -> torch.Tensor:
        """One tensor, or only some of its rows (dim 0) or columns (dim 1), memory-mapped.

        An expert's is found where all experts of a layer are one tensor, too.
        """
        return self._part(name)[0].read(rows, columns)

    def release(self) -> None:
        """Let go of the files: a tensor that is still used keeps its own, and the others' pages leave the memory."""
        self._open_files.clear()

    @property
    def files(self) -> list[Path]:
        """All that it reads: what it holds has changed when one of them has."""
        names = sorted(set(self._file_of.values()))
        return [self._directory / name for name in (names if names == [SINGLE] else [INDEX, *names])]

    def _part(self, name: str) -> tuple[Part, Path]:
        """A tensor, and its file."""
        stored = find(name, self._file_of)
        if stored is None:
            raise UserError(f"{self._directory}: no safetensors file holds the tensor {name!r}{self._hint()}")
        file_name = self._file_of[stored.name]
        path = self._directory / file_name
        try:
            part = self._open_part(file_name, stored)
        except SafetensorError as error:
            raise UserError(f"{path}: {stored.name!r} cannot be read ({error})") from None
        if not part.complete:
            raise UserError(f"{path}: {stored.name} has no expert {stored.expert}, but config.json asks for it")
        return part, path

    def _open_part(self, file_name: str, stored: Stored) -> Part:
        return Part(self._open(file_name).get_slice(stored.name), stored)

    def _hint(self) -> str:
        """What to do where the names are those of another kind of checkpoint."""
        endings = {name.rpartition(".")[2] for name in self._file_of}
        if endings & {"qweight", "scales", "weight_scale", "weight_packed", "absmax"}:
            return (
                "; these weights are quantised, which is not supported: use a float32, bfloat16 or float16 checkpoint"
            )
        if endings & {"lora_A", "lora_B"} or any(".lora_" in name for name in self._file_of):
            return "; these are the weights of an adapter: merge it into its model first"
        return ""

    def _open(self, file_name: str) -> Any:
        if file_name not in self._open_files:
            path = self._directory / file_name
            try:
                _require_header(path)
                self._open_files[file_name] = safe_open(path, framework="pt")
            except FileNotFoundError:
                told = (
                    "points to a file that is not there"
                    if path.is_symlink()
                    else f"no such file, though {INDEX} names it"
                )
                raise UserError(f"{path}: {told}; get the missing file") from None
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror or error}); get the file again") from None
            except (ValueError, MemoryError, SafetensorError) as error:
                raise UserError(f"{path}: is corrupt or truncated ({error}); get the file again") from None
        return self._open_files[file_name]

    def _others(self) -> str:
        """What to do with the weights that are there under other names."""
        with os.scandir(self._directory) as entries:
            names = sorted(entry.name for entry in entries)
        for endings, advice in _OTHER_FORMATS.items():
            if found := next((name for name in names if name.endswith(endings)), None):
                return f", not {found}: {advice}"
        return ""

    def _read_names(self) -> dict[str, str]:
        """The file of each tensor by its name there."""
        single, index = self._directory / SINGLE, self._directory / INDEX
        if single.is_file() or (os.path.lexists(single) and not index.is_file()):
            return dict.fromkeys(self._open(SINGLE).keys(), SINGLE)
        if not os.path.lexists(index):
            told = f"holds neither {SINGLE} nor {INDEX}; only safetensors of these names are read{self._others()}"
            raise UserError(f"{self._directory}: {told}")
        return read_index(self._directory)


def _require_header(path: Path) -> None:
    """Refuse what is no regular file, and a header that would take long to read. Raises ValueError, OSError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if not length:
        raise ValueError("it does not begin with the length of a header")
    if length > _MOST_HEADER_BYTES:
        raise ValueError(f"its header is said to have {length} bytes; {_MOST_HEADER_BYTES} are the most that is read")
