"""The fields of config.json that are read: their types and limits, checked before anything is made of them.

transformers lets some of these pass, and makes a list of as many layers as a file says before it looks at it.
"""

import os
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpi_spp.errors import UserError
from mpi_spp.model.families import FAMILIES, Family
from mpi_spp.system.files import read_json_object

_MOST_POSITIONS = 2**31 - 1
_LARGEST = 1e30  # of a number that is not whole: its products are still numbers
_MOST_LAYERS = 2**12
_MOST_EXPERTS = 2**17  # of all layers together; the largest models that we know have a fifth

# Fields for which transformers would silently take the default of some other model.
_REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)


@dataclass(frozen=True)
class Kind:
    """What a field may hold, besides null: `described` completes "must be"."""

    described: str
    holds: Callable[[Any], bool]


def _whole(least: int, most: int) -> Kind:
    return Kind(f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST


_POSITIVE = Kind("a number above 0", lambda value: _is_finite(value) and value > 0)
_NOT_NEGATIVE = Kind("a number, 0 or more", lambda value: _is_finite(value) and value >= 0)
_FLAG = Kind("true or false", lambda value: type(value) is bool)
_TEXT = Kind("a text", lambda value: type(value) is str)


def _few(kind: type, described: str) -> Kind:
    """A list with an item for each layer at most."""
    return Kind(
        f"a list of {described}, {_MOST_LAYERS} at most",
        lambda value: type(value) is list and len(value) <= _MOST_LAYERS and all(type(item) is kind for item in value),
    )


_OBJECT = Kind("an object", lambda value: type(value) is dict)
_DTYPE = Kind(
    "the name of a dtype", lambda value: type(value) is str and isinstance(getattr(torch, value, None), torch.dtype)
)

_SIZE, _COUNT = _whole(1, 2**22), _whole(1, 2**16)
# The limits are far above any model; no more than these numbers is made of a field before it is held against the files.
KINDS = {
    "model_type": _TEXT,
    "hidden_size": _SIZE,
    "intermediate_size": _SIZE,
    "num_hidden_layers": _whole(1, _MOST_LAYERS),
    "num_attention_heads": _COUNT,
    "num_key_value_heads": _COUNT,
    "head_dim": _COUNT,
    "vocab_size": _whole(1, 2**27),
    "max_position_embeddings": _whole(1, _MOST_POSITIONS),
    "original_max_position_embeddings": _whole(1, _MOST_POSITIONS),
    "sliding_window": _whole(0, _MOST_POSITIONS),  # some configurations say 0 where it is not used
    "use_sliding_window": _FLAG,
    "max_window_layers": _whole(0, _MOST_POSITIONS),
    "layer_types": _few(str, "texts"),
    "rms_norm_eps": _POSITIVE,
    "hidden_act": _TEXT,
    "tie_word_embeddings": _FLAG,
    "rope_theta": _POSITIVE,
    "partial_rotary_factor": _POSITIVE,
    "rope_parameters": _OBJECT,
    "rope_scaling": _OBJECT,
    "num_labels": _whole(0, 2**16),  # of which transformers makes a list, whatever the model
    "dtype": _DTYPE,
    "torch_dtype": _DTYPE,
}
_KINDS_IN_ROPE = {
    "rope_type": _TEXT,
    "type": _TEXT,
    "truncate": _FLAG,
    "mscale": _NOT_NEGATIVE,  # 0: not given
    "mscale_all_dim": _NOT_NEGATIVE,
    "original_max_position_embeddings": KINDS["original_max_position_embeddings"],
}
_COUNTS = ("num_experts", "num_local_experts")  # transformers writes either, and knows which is meant
_ADAPTER = "adapter_config.json"
_QUANTISED = ("quantization_config", "quantization")
_OF_OTHER_MODELS = ("per_layer_config", "transformers_weights", "configuration_files")


def read_fields(path: Path) -> tuple[dict[str, Any], Family]:
    """Those fields of a config.json that say what the model is, and its family.

    Raises UserError naming the file and the field that is missing, of another type, out of its limits or not supported.
    """
    adapter = path.parent / _ADAPTER
    if not os.path.lexists(path):
        told = "; it holds an adapter: merge that into its model" if os.path.lexists(adapter) else ""
        raise UserError(f"{path}: no such file, so this is not a Hugging Face model directory{told}")
    if os.path.lexists(adapter):  # transformers adds it to the weights where peft is installed
        raise UserError(
            f"{adapter}: an adapter (LoRA) is not supported; merge it into the model and give that (merge_and_unload"
            " of peft), or, for the model without it, a folder that has no such file"
        )
    raw = read_json_object(str(path), path)
    family = _family_of(raw, path)
    _refuse_others(raw, path)
    kinds = KINDS | _kinds_of(family)
    found = {name: raw[name] for name in kinds if name in raw and not (name in _COUNTS and raw[name] is None)}
    for name, value in found.items():
        _require(kinds[name], name, value, path)
    for name in ("rope_parameters", "rope_scaling"):
        for part, value in (found.get(name) or {}).items():
            _require(_KINDS_IN_ROPE.get(part, _POSITIVE), f"{part!r} of {name}", value, path)
    _require_complete(found, family, path)
    return found, family


def expert_fields(family: Family) -> list[str]:
    """The numbers that a family with experts must give."""
    fields = family.experts
    if fields is None:
        return []
    return [fields.count, "num_experts_per_tok", fields.size, *([fields.shared_size] if fields.shared_size else [])]


def _kinds_of(family: Family) -> dict[str, Kind]:
    """Of the fields that this family has besides, which may be anything in the files of others."""
    experts = family.experts
    rules = [family.qkv_bias, family.output_bias, family.mlp_bias, experts.normalized if experts else False]
    kinds = {rule: _FLAG for rule in rules if isinstance(rule, str)}
    if family.qk_norm_over_heads:
        kinds["clip_qkv"] = _POSITIVE
    if experts is None:
        return kinds
    kinds |= dict.fromkeys((*_COUNTS, experts.count, "num_experts_per_tok"), _COUNT)
    kinds |= dict.fromkeys(filter(None, (experts.size, experts.shared_size)), _SIZE)
    if experts.by_layer:
        kinds |= {"mlp_only_layers": _few(int, "whole numbers"), "decoder_sparse_step": _whole(1, _MOST_POSITIONS)}
    return kinds


def _family_of(raw: dict[str, Any], path: Path) -> Family:
    supported = f"supported are {', '.join(FAMILIES)}"
    if "model_type" not in raw:
        raise UserError(f"{path}: the field 'model_type' is missing; {supported}")
    if raw["model_type"] not in tuple(FAMILIES):  # a list or an object has no hash
        raise UserError(f"{path}: model_type {shown(raw['model_type'])} is not supported; {supported}")
    return FAMILIES[raw["model_type"]]


def _refuse_others(raw: dict[str, Any], path: Path) -> None:
    """Refuse what makes another model, or takes it from other files."""
    for name in _QUANTISED:
        if raw.get(name):
            way_out = "use a float32, bfloat16 or float16 checkpoint"
            raise UserError(f"{path}: {name!r} says that the weights are quantised, which is not supported; {way_out}")
    for name in _OF_OTHER_MODELS:
        if raw.get(name):
            raise UserError(f"{path}: {name!r} is not supported; use a checkpoint without it")
    if not raw.get("is_causal", True):
        raise UserError(f"{path}: is_causal is false, so tokens would see those behind them, which is not supported")


def _require(kind: Kind, name: str, value: Any, path: Path) -> None:
    if value is not None and not kind.holds(value):
        raise UserError(f"{path}: {name} is {shown(value)}, but must be {kind.described}; get the file again")


def _require_complete(found: dict[str, Any], family: Family, path: Path) -> None:
    count = family.experts.count if family.experts else None
    for name in (*_REQUIRED, *expert_fields(family)):
        others: Sequence[str] = _COUNTS if name == count else (name,)
        if all(found.get(other) is None for other in others):
            raise UserError(f"{path}: the field {name!r} is missing; get a complete config.json of this model")
    experts = max(found.get(name) or 0 for name in _COUNTS) if count else 0
    if experts * found["num_hidden_layers"] > _MOST_EXPERTS:
        told = f"{experts} experts in each of {found['num_hidden_layers']} layers"
        raise UserError(f"{path}: {told} are more than {_MOST_EXPERTS}, the most that is supported; get the file again")


def shown(value: Any) -> str:
    """A value as Python writes it, without the middle of a long one."""
    return reprlib.repr(value)
