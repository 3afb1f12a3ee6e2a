"""What a GGUF file says of itself, held against itself and our limits before anything is made of it."""

import os
import re
import stat
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpi_spp.errors import UserError
from mpi_spp.model.families import FAMILIES
from mpi_spp.model.fields import KINDS, Kind, shown

_TENSORS = "names of the tensors"
_TOKENS, _MERGES, _TYPES = (f"tokenizer.ggml.{name}" for name in ("tokens", "merges", "token_type"))
_LOST = ("rope.scaling.type", "attention.sliding_window")
_REQUIRED = {  # by the name of the same field in config.json
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_CHECKED = _REQUIRED | {
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "rope.dimension_count": "head_dim",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
_NORMAL = 1  # the type of a token that merges make


def check(gguf: Path) -> str:
    """Check that the file is a whole GGUF of a known family, and return the name of its pre-tokenizer."""
    size = _require_file(gguf)
    metadata, expected_size = _read_header(gguf)
    if size < expected_size:
        raise UserError(f"{gguf}: is truncated ({size} bytes of at least {expected_size}); get the file again")
    if metadata["general.architecture"] not in tuple(FAMILIES):
        known, told = ", ".join(FAMILIES), shown(metadata["general.architecture"])
        raise UserError(f"{gguf}: architecture {told} is not supported; {known} are")
    _refuse_lost(gguf, metadata)
    problem = _problem(metadata)
    if problem is not None:
        raise UserError(f"{gguf}: is corrupt ({problem}); get the file again")
    return str(metadata.get("tokenizer.ggml.pre", ""))


def _require_file(gguf: Path) -> int:
    """Its size."""
    try:
        found = os.stat(gguf)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{gguf}: is no regular file; give the path of a GGUF file")
        with gguf.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UserError(f"{gguf}: cannot be read ({error.strerror}); give the path of a GGUF file") from error
    if magic != b"GGUF":
        raise UserError(f"{gguf}: is not a GGUF file (it does not begin with 'GGUF'); give the path of one")
    return found.st_size


def _read_header(gguf: Path) -> tuple[dict[str, Any], int]:
    """The metadata of a GGUF file with the names of its tensors under _TENSORS, and where the last one ends."""
    from transformers.integrations.gguf.reader import GgufHeader, read_gguf_metadata

    try:
        metadata, names = read_gguf_metadata(str(gguf), (_TOKENS, _MERGES))
        header = GgufHeader.from_file(str(gguf))
        ends = [header.data_start + tensor.offset + tensor.nbytes for tensor in header.tensors]
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError, struct.error) as error:
        raise UserError(f"{gguf}: its header is truncated or corrupt ({error}); get the file again") from error
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    return {**metadata, _TENSORS: names, "shapes": shapes}, max(ends, default=0)


def _refuse_lost(gguf: Path, metadata: dict[str, Any]) -> None:
    """Refuse what transformers would drop in silence: the model would be another one."""
    architecture = metadata["general.architecture"]
    lost = [name for name in _LOST if metadata.get(f"{architecture}.{name}", "none") != "none"]
    lost += ["rope_freqs.weight"] if "rope_freqs.weight" in metadata[_TENSORS] else []
    if lost:
        raise UserError(f"{gguf}: {' and '.join(lost)} cannot be converted; get the model as safetensors files instead")


def _problem(metadata: dict[str, Any]) -> str | None:
    """What the file says that cannot be, or that something else in it contradicts; None: nothing."""
    architecture = metadata["general.architecture"]
    values: dict[str, Any] = {name: metadata.get(f"{architecture}.{name}") for name in _CHECKED}
    for name, value in values.items():
        kind: Kind = KINDS[_CHECKED[name]]
        if value is None and name in _REQUIRED:
            return f"no {architecture}.{name} in its metadata"
        if value is not None and not kind.holds(value):
            return f"{architecture}.{name} is {shown(value)}, but must be {kind.described}"
    names = metadata[_TENSORS]
    if len(set(names)) < len(names):
        return "two tensors have the same name"
    layers = {int(found[1]) for name in names if (found := re.match(r"blk\.(\d{1,9})\.", name))}
    if layers != set(range(values["block_count"])):
        told = f"{min(layers)} to {max(layers)}" if layers else "none"
        return f"{architecture}.block_count is {values['block_count']}, but its tensors are of layers {told}"
    return _problem_of_tokens(metadata)


def _problem_of_tokens(metadata: dict[str, Any]) -> str | None:
    """The same of the tokenizer. Merges that are lost give other tokens for the same text, in silence."""
    tokens, merges = metadata.get(_TOKENS), metadata.get(_MERGES)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return f"{_TOKENS} is no list of texts"
    if len(set(tokens)) < len(tokens):
        return f"{_TOKENS} has the same text twice"
    for name in (_TYPES, "tokenizer.ggml.scores"):
        if name in metadata and (not isinstance(metadata[name], list) or len(metadata[name]) != len(tokens)):
            return f"{name} is not one number for each of {len(tokens)} tokens"
    rows = next(iter(metadata["shapes"].get("token_embd.weight", ())), None)
    if rows is not None and rows < len(tokens):
        return f"there are {len(tokens)} tokens, but token_embd.weight has {rows} rows"
    for name, value in metadata.items():
        if name.endswith("_token_id") and not (type(value) is int and 0 <= value < len(tokens)):
            return f"{name} is {shown(value)}, but there are {len(tokens)} tokens"
    return None if merges is None else problem_of_merges(tokens, metadata.get(_TYPES), merges)


def problem_of_merges(tokens: Sequence[str], types: Sequence[int] | None, merges: Any) -> str | None:
    """Nearly all tokens of several characters come from a merge, in every file that we know all of them."""
    if not isinstance(merges, list) or not all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges):
        return f"{_MERGES} is no list of pairs"
    if len(set(merges)) < len(merges):
        return f"{_MERGES} has the same pair twice"
    made = {merge.replace(" ", "") for merge in merges}
    normal = [token for place, token in enumerate(tokens) if types is None or types[place] == _NORMAL]
    long = [token for token in normal if len(token) > 1]
    lost = sum(token not in made for token in long)
    return f"its {len(merges)} merges do not make {lost} of {len(long)} tokens" if 2 * lost > len(long) else None
