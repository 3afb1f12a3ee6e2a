"""The shape of a model, read from its Hugging Face configuration."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpi_spp.errors import UserError
from mpi_spp.model.families import FAMILIES, ExpertFields, Family
from mpi_spp.model.rope import ROPE_TYPES, Rope, make_rope
from mpi_spp.model.transformers_import import import_checks_alone
from mpi_spp.shares import Experts, Share

# Fields for which transformers would silently take the default of some other model.
_REQUIRED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)
_POSITIVE = (*_REQUIRED, "num_key_value_heads", "head_dim", "sliding_window", "decoder_sparse_step")
_LAYER_TYPES = ("full_attention", "sliding_attention")
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder as data. Plain values only, so that rank 0 can send it to ranks that never read the file."""

    model_type: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int  # the longest sequence, context extension included
    rms_norm_eps: float
    hidden_act: str
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_windows: tuple[int | None, ...]  # for each layer the keys that a query sees, itself included; None: all
    rope: Rope
    dtype: torch.dtype | None  # of the checkpoint, where the file says so
    qk_norm_over_heads: bool = False  # one norm over all heads instead of one for each
    clip_qkv: float | None = None  # what no query, key or value exceeds; with qk_norm_over_heads only
    experts: Experts | None = None
    expert_layers: tuple[bool, ...] = ()  # for each layer whether it has experts; else it has an MLP

    @property
    def query_groups(self) -> int:
        """Query heads for each key/value head."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def layer_parameters(self) -> int:
        """The numbers in the matrices of a layer, on average where some have experts and some have not."""
        return self._parameters_with(self.experts.columns if self.experts else 0)

    @property
    def active_parameters(self) -> int:
        """Those of them that one token is multiplied with."""
        return self._parameters_with(self.experts.active_columns if self.experts else 0)

    @property
    def sums_a_layer(self) -> int:
        """How often the ranks that share a layer add up: behind attention and MLP, and squares for norms over heads."""
        return 3 if self.qk_norm_over_heads else 2

    @property
    def expert_share(self) -> float:
        """The part of all layers that have experts."""
        return sum(self.expert_layers) / self.num_hidden_layers

    @property
    def widest(self) -> int:
        """The columns of the widest MLP or expert of any layer."""
        sizes = [self.intermediate_size] * (self.expert_share < 1)
        return max([*sizes, self.experts.size, self.experts.shared_size] if self.experts else sizes)

    def has_experts(self, layer: int) -> bool:
        """Whether a layer has experts in the place of an MLP."""
        return bool(self.expert_layers) and self.expert_layers[layer]

    def layers_alike(self) -> dict[tuple[int | None, bool], list[int]]:
        """The layers of each kind: by their window, and by whether they have experts."""
        kinds: dict[tuple[int | None, bool], list[int]] = {}
        for layer, window in enumerate(self.sliding_windows):
            kinds.setdefault((window, self.has_experts(layer)), []).append(layer)
        return kinds

    def span_of(self, share: Share, part: str) -> range:
        """The rows or columns of a matrix that a share of a layer has, of the part of a Share with this name."""
        items: range = getattr(share, part)
        size = self.head_dim if part.endswith("heads") else 1
        return range(items.start * size, items.stop * size)

    def _parameters_with(self, expert_columns: int) -> int:
        heads = 2 * (self.num_attention_heads + self.num_key_value_heads) * self.head_dim
        columns = self.expert_share * expert_columns + (1 - self.expert_share) * self.intermediate_size
        return self.hidden_size * heads + round(3 * self.hidden_size * columns)


def read_config(directory: Path) -> ModelConfig:
    """Read `config.json` of a model directory. Raises UserError naming the file and what is missing or unsupported."""
    path = directory / "config.json"
    raw = _read_json(path)
    family = _family_of(raw, path)
    missing = [name for name in (*_REQUIRED, *_expert_fields(family)) if _given(raw, name) is None]
    if missing:
        raise UserError(f"{path}: the field {missing[0]!r} is missing; get a complete config.json of this model")
    for name in ("quantization_config", "per_layer_config"):
        if raw.get(name):
            raise UserError(f"{path}: {name!r} is not supported; use a float32, bfloat16 or float16 checkpoint")
    return _from_transformers(_parse(directory, path), family, path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, so this is not a Hugging Face model directory") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: holds no JSON object, so it is not a model configuration")
    return raw


def _family_of(raw: dict[str, Any], path: Path) -> Family:
    supported = f"supported are {', '.join(FAMILIES)}"
    if "model_type" not in raw:
        raise UserError(f"{path}: the field 'model_type' is missing; {supported}")
    if raw["model_type"] not in tuple(FAMILIES):  # a list or an object has no hash
        raise UserError(f"{path}: model_type {raw['model_type']!r} is not supported; {supported}")
    return FAMILIES[raw["model_type"]]


def _expert_fields(family: Family) -> list[str]:
    """The numbers that a family with experts must give."""
    fields = family.experts
    if fields is None:
        return []
    return [fields.count, "num_experts_per_tok", fields.size, *([fields.shared_size] if fields.shared_size else [])]


def _given(raw: dict[str, Any], name: str) -> Any:
    """The value in the file; transformers writes the count of experts under either name."""
    other = {"num_experts": "num_local_experts", "num_local_experts": "num_experts"}.get(name, name)
    return raw.get(name) if raw.get(name) is not None else raw.get(other)


def _parse(directory: Path, path: Path) -> Any:
    """The configuration object of transformers: it knows every default and every older spelling of a field."""
    import_checks_alone()
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds; all of them mean that this file is wrong
        raise UserError(f"{path}: is not a valid model configuration ({error})") from None


def _check_numbers(config: Any, family: Family, path: Path) -> None:
    """Refuse what transformers lets pass or only warns of."""
    for name in (*_POSITIVE, *_expert_fields(family)):
        value = getattr(config, name, None)
        if name == "sliding_window" and not getattr(config, "use_sliding_window", True):
            continue  # some configurations say 0 then
        if value is not None and value < 1:
            raise UserError(f"{path}: {name} is {value}, which no model can have; get the file again")
    for name, value in config.rope_parameters.items():
        if name not in ("rope_type", "type") and not isinstance(value, int | float | None):
            raise UserError(f"{path}: {name!r} of the rope parameters is {value!r}; only numbers are supported")


def _check_kinds(config: Any, family: Family, path: Path) -> None:
    """Refuse what is of a kind that is not built."""
    if config.num_attention_heads % config.num_key_value_heads:
        raise UserError(
            f"{path}: num_attention_heads {config.num_attention_heads} is no multiple of"
            f" num_key_value_heads {config.num_key_value_heads}"
        )
    if config.hidden_act not in ACTIVATIONS:
        raise UserError(f"{path}: hidden_act {config.hidden_act!r} is not supported; {', '.join(ACTIVATIONS)} are")
    rope_type = config.rope_parameters.get("rope_type", "default")
    if rope_type not in ROPE_TYPES or config.rope_parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"{path}: rope_type {rope_type!r} is not supported; {', '.join(ROPE_TYPES)} are (not partial)")

    unknown = set(getattr(config, "layer_types", None) or ()) - set(_LAYER_TYPES)
    if family.sliding_layers == "by layer" and unknown:
        raise UserError(f"{path}: layer_types {sorted(unknown)} are not supported; {', '.join(_LAYER_TYPES)} are")


def _from_transformers(config: Any, family: Family, path: Path) -> ModelConfig:
    _check_numbers(config, family, path)
    _check_kinds(config, family, path)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def decided(rule: bool | str) -> bool:
        return bool(getattr(config, rule)) if isinstance(rule, str) else rule

    experts = _experts(config, family.experts, decided, path) if family.experts else None
    return ModelConfig(
        model_type=family.model_type,
        num_hidden_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=head_dim,
        vocab_size=config.vocab_size,
        max_positions=_max_positions(config),
        rms_norm_eps=config.rms_norm_eps,
        hidden_act=config.hidden_act,
        tie_word_embeddings=config.tie_word_embeddings,
        qkv_bias=decided(family.qkv_bias),
        output_bias=decided(family.output_bias),
        mlp_bias=decided(family.mlp_bias),
        qk_norm=family.qk_norm,
        sliding_windows=tuple(_window(config, family, layer) for layer in range(config.num_hidden_layers)),
        rope=make_rope(config, head_dim),
        dtype=config.dtype,
        qk_norm_over_heads=family.qk_norm_over_heads,
        clip_qkv=getattr(config, "clip_qkv", None) if family.qk_norm_over_heads else None,
        experts=experts,
        expert_layers=_expert_layers(config, family.experts) if family.experts else (),
    )


def _experts(config: Any, fields: ExpertFields, decided: Callable[[bool | str], bool], path: Path) -> Experts:
    count, top_k = getattr(config, fields.count), config.num_experts_per_tok
    if top_k > count:
        raise UserError(f"{path}: num_experts_per_tok is {top_k}, but there are only {count} experts")
    shared = getattr(config, fields.shared_size) if fields.shared_size else 0
    return Experts(count, top_k, getattr(config, fields.size), shared, decided(fields.normalized))


def _expert_layers(config: Any, fields: ExpertFields) -> tuple[bool, ...]:
    layers = range(config.num_hidden_layers)
    if not fields.by_layer:
        return tuple(True for _ in layers)
    return tuple(
        layer not in config.mlp_only_layers and (layer + 1) % config.decoder_sparse_step == 0 for layer in layers
    )


def _window(config: Any, family: Family, layer: int) -> int | None:
    if family.sliding_layers == "all":
        return config.sliding_window
    if family.sliding_layers == "by layer" and config.layer_types[layer] == "sliding_attention":
        return config.sliding_window
    return None


def _max_positions(config: Any) -> int:
    """Linear and dynamic scaling stretch max_position_embeddings, yarn the original length; llama3 says it."""
    parameters = config.rope_parameters
    rope_type, factor = parameters.get("rope_type", "default"), parameters.get("factor", 1.0)
    if rope_type in ("linear", "dynamic"):
        return int(config.max_position_embeddings * factor)
    if rope_type == "yarn":
        original = parameters.get("original_max_position_embeddings") or config.max_position_embeddings
        return max(config.max_position_embeddings, int(original * factor))
    return config.max_position_embeddings
