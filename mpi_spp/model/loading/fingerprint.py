"""What tells two copies of a model apart, without reading gigabytes."""

import hashlib
from pathlib import Path

from mpi_spp.errors import UserError

_TEXTS = ("*.json", "*.jinja", "*.model")  # configuration, tokenizer, chat template
_LENGTH_BYTES = 8  # of a safetensors header, in front of it
_LONGEST_HEADER = 100_000_000  # as safetensors itself allows
_BLOCK = 1 << 20


def digests(directory: Path) -> dict[str, str]:
    """A short digest of every file that a run reads: of texts the whole, of weights the header and the size.

    Raises UserError naming a file that cannot be read.
    """
    found = {}
    for pattern in (*_TEXTS, "*.safetensors"):
        for path in sorted(directory.glob(pattern)):
            if path.exists() and not path.is_file():
                continue  # a folder, a pipe or a device, which no run reads
            try:
                found[path.name] = _digest(path)
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}); get the file again") from None
    return found


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if path.suffix == ".safetensors":
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            digest.update(b"%d bytes " % path.stat().st_size + file.read(min(length, _LONGEST_HEADER)))
        else:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()[:12]
