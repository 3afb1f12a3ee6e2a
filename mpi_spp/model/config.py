"""The shape of a model, read from its Hugging Face configuration."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mpi_spp.errors import UserError
from mpi_spp.model.families import ExpertFields, Family
from mpi_spp.model.fields import read_fields, shown
from mpi_spp.model.rope import ROPE_TYPES, Rope, make_rope
from mpi_spp.model.text.transformers_import import import_checks_alone
from mpi_spp.parallel.shares import Experts, Share

_MOST_POSITIONS = 2**31 - 1
_LONGEST_ERROR = 300  # characters of what transformers says
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
    fields, family = read_fields(path)
    return _from_transformers(_parse(fields, path), fields, family, path)


def _parse(fields: dict[str, Any], path: Path) -> Any:
    """The configuration object of transformers: it knows every default and every older spelling of a field.

    A mistral is its newer sibling there as soon as the file has layer_types, and without them the same model.
    """
    import_checks_alone()
    from transformers import AutoConfig

    model_type = {"mistral": "ministral"}.get(fields["model_type"], fields["model_type"])
    try:
        return AutoConfig.for_model(model_type, **{name: fields[name] for name in fields if name != "model_type"})
    except Exception as error:  # transformers raises many kinds; all of them mean that this file is wrong
        told = str(error)[:_LONGEST_ERROR]
        raise UserError(f"{path}: is not a valid model configuration ({told})") from None


def _check_kinds(config: Any, path: Path) -> None:
    """Refuse what is of a kind that is not built."""
    if config.num_key_value_heads is None:  # as transformers leaves it in some families
        raise UserError(f"{path}: num_key_value_heads is null, but must be a number; get the file again")
    if config.num_attention_heads % config.num_key_value_heads:
        raise UserError(
            f"{path}: num_attention_heads {config.num_attention_heads} is no multiple of"
            f" num_key_value_heads {config.num_key_value_heads}"
        )
    if config.hidden_act not in ACTIVATIONS:
        raise UserError(f"{path}: hidden_act {shown(config.hidden_act)} is not supported; {', '.join(ACTIVATIONS)} are")
    rope_type = config.rope_parameters.get("rope_type", "default")
    if rope_type not in ROPE_TYPES:
        raise UserError(f"{path}: rope_type {shown(rope_type)} is not supported; {', '.join(ROPE_TYPES)} are")
    if (part := config.rope_parameters.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UserError(f"{path}: partial_rotary_factor {part} is not supported; all of each head is rotated")


def _from_transformers(config: Any, fields: dict[str, Any], family: Family, path: Path) -> ModelConfig:
    _check_kinds(config, path)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if not head_dim or head_dim % 2:
        raise UserError(f"{path}: head_dim is {head_dim}, but must be even, since rotation takes pairs")

    def decided(rule: bool | str) -> bool:
        return bool(getattr(config, rule)) if isinstance(rule, str) else rule

    experts = _experts(config, family.experts, decided, path) if family.experts else None
    max_positions = _max_positions(config, path)
    rope = _rope(config, head_dim, max_positions, path)
    return ModelConfig(
        model_type=family.model_type,
        num_hidden_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=head_dim,
        vocab_size=config.vocab_size,
        max_positions=max_positions,
        rms_norm_eps=config.rms_norm_eps,
        hidden_act=config.hidden_act,
        tie_word_embeddings=config.tie_word_embeddings,
        qkv_bias=decided(family.qkv_bias),
        output_bias=decided(family.output_bias),
        mlp_bias=decided(family.mlp_bias),
        qk_norm=family.qk_norm,
        sliding_windows=_windows(config, fields, family, path),
        rope=rope,
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


def _windows(config: Any, fields: dict[str, Any], family: Family, path: Path) -> tuple[int | None, ...]:
    """What each layer sees. Refused where layer_types say one thing and the other fields, or the family, another."""
    is_used, window = getattr(config, "use_sliding_window", True), config.sliding_window if family.has_windows else None
    if window == 0 and is_used:
        raise UserError(f"{path}: sliding_window is 0, but must be 1 or more; get the file again")
    stray = fields.get("sliding_window") if not family.has_windows else None
    if stray and stray < config.max_position_embeddings:  # transformers sees all in a prompt, and only these behind it
        raise UserError(f"{path}: sliding_window is {stray}, but a {family.model_type} has no windows; take it away")
    alike = [_LAYER_TYPES[1 if window else 0]] * config.num_hidden_layers
    types = getattr(config, "layer_types", None) or alike
    unknown = set(types) - set(_LAYER_TYPES)
    if unknown:
        raise UserError(
            f"{path}: layer_types {shown(sorted(unknown))} are not supported; {', '.join(_LAYER_TYPES)} are"
        )
    if family.sliding_layers != "by layer" and types != alike:
        told = f"all layers of a {family.model_type} are {alike[0]}"
        raise UserError(f"{path}: layer_types say something else than the other fields ({told}); take one of them away")
    if not window and _LAYER_TYPES[1] in types:
        name = "sliding_window" if is_used else "use_sliding_window"
        told = f"but {name} is {fields.get(name, 'missing')!r}".replace("'", "")
        raise UserError(f"{path}: layer_types has {_LAYER_TYPES[1]!r}, {told}; make them say the same")
    return tuple(window if kind == _LAYER_TYPES[1] else None for kind in types)


def _rope(config: Any, head_dim: int, max_positions: int, path: Path) -> Rope:
    told = "are no numbers"
    try:
        rope = make_rope(config, head_dim)
        if rope.is_finite(max_positions):
            return rope
    except (ArithmeticError, ValueError, KeyError, TypeError, RuntimeError) as error:  # of torch's or transformers'
        told = f"cannot be made: {error}"
    raise UserError(f"{path}: the angles of the rope parameters {config.rope_parameters} {told}; get the file again")


def _max_positions(config: Any, path: Path) -> int:
    """Linear and dynamic scaling stretch max_position_embeddings, yarn the original length; llama3 says it."""
    parameters = config.rope_parameters
    rope_type, factor = parameters.get("rope_type", "default"), parameters.get("factor") or 1.0
    positions = config.max_position_embeddings
    if rope_type in ("linear", "dynamic"):
        positions = int(positions * factor)
    if rope_type == "yarn":
        original = parameters.get("original_max_position_embeddings") or positions
        positions = max(positions, int(original * factor))
    if not 1 <= positions <= _MOST_POSITIONS:
        told = f"the factor {factor} of the rope parameters makes {positions:.3g} positions"
        raise UserError(f"{path}: {told}; they must be 1 to {_MOST_POSITIONS}")
    return positions
