"""Which tensors a rank needs, and how they become its weights."""

import contextlib
import ctypes
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from mpi_spp.kernels.attention import Attention, Heads
from mpi_spp.kernels.layer import HeadsPart, Layer, MLPPart
from mpi_spp.kernels.linear import Linear
from mpi_spp.kernels.norm import RMSNorm
from mpi_spp.kernels.plain import Plain, Weight
from mpi_spp.kernels.quantized import (
    PANEL,
    QuantizedWeight,
    SlicedLinear,
    alternating,
    alternating_part_of,
    part_of,
)
from mpi_spp.model.checkpoint import Checkpoint
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.decoder import ACTIVATIONS, Stage, StageWeights
from mpi_spp.model.quantized import QuantizedStore
from mpi_spp.shares import Share, split_layer

Shapes = dict[str, tuple[int, ...]]
Track = Callable[[Sequence[Any]], Iterable[Any]]  # goes through items, each of which is work, and may show it
_Weights = Callable[[str], Weight]
_Biases = Callable[[str], torch.Tensor | None]

# The products of a layer: the checkpoint's names for what is multiplied with the same input, with that part of a share
# by which their outputs are split; or, since it sums over them, their inputs.
_BY_OUTPUTS = {
    "qkv": {"self_attn.q_proj": "query_heads", "self_attn.k_proj": "kv_heads", "self_attn.v_proj": "kv_heads"},
    "gate_up": {"mlp.gate_proj": "mlp", "mlp.up_proj": "mlp"},
}
_BY_INPUTS = {"output": {"self_attn.o_proj": "query_heads"}, "down": {"mlp.down_proj": "mlp"}}
_PRODUCTS = _BY_OUTPUTS | _BY_INPUTS
_EMBEDDING, _NORM, _HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def layer_shapes(config: ModelConfig, layer: int) -> Shapes:
    """The tensors of one layer by their Hugging Face names."""
    hidden, mlp = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    linears = {
        "self_attn.q_proj": (queries, hidden, config.qkv_bias),
        "self_attn.k_proj": (keys, hidden, config.qkv_bias),
        "self_attn.v_proj": (keys, hidden, config.qkv_bias),
        "self_attn.o_proj": (hidden, queries, config.output_bias),
        "mlp.gate_proj": (mlp, hidden, config.mlp_bias),
        "mlp.up_proj": (mlp, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, mlp, config.mlp_bias),
    }
    shapes: Shapes = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    for name, (rows, columns, has_bias) in linears.items():
        shapes[f"{name}.weight"] = (rows, columns)
        if has_bias:
            shapes[f"{name}.bias"] = (rows,)
    if config.qk_norm:
        shapes |= {f"self_attn.{name}_norm.weight": (config.head_dim,) for name in "qk"}
    return {f"model.layers.{layer}.{name}": shape for name, shape in shapes.items()}


def stage_shapes(config: ModelConfig, layers: range) -> Shapes:
    """The tensors that a rank with these layers reads, whole or in part."""
    shapes: Shapes = {_EMBEDDING: (config.vocab_size, config.hidden_size), _NORM: (config.hidden_size,)}
    if not config.tie_word_embeddings:
        shapes[_HEAD] = (config.vocab_size, config.hidden_size)
    for layer in layers:
        shapes |= layer_shapes(config, layer)
    return shapes


class _Reader:
    """Reads the tensors that a configuration asks for, in the dtype and onto the device of the run."""

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._checkpoint, self._config, self._dtype, self._device = checkpoint, config, dtype, device

    def tensor(self, name: str, rows: range | None = None, columns: range | None = None) -> torch.Tensor:
        return self._checkpoint.read(name, rows, columns).to(device=self._device, dtype=self._dtype)

    def embedding(self) -> torch.Tensor:
        """As it is in the file."""
        return self._checkpoint.read(_EMBEDDING)

    def head_rows(self, rows: range) -> torch.Tensor:
        """As they are in the file."""
        return self._checkpoint.read(_EMBEDDING if self._config.tie_word_embeddings else _HEAD, rows)

    def weight(self, number: int, product: str, share: Share) -> torch.Tensor:
        """A share's matrix for all products with the same input; their outputs stand side by side."""
        parts = []
        for name, split in _PRODUCTS[product].items():
            span, path = self._config.span_of(share, split), f"{_prefix(number)}{name}.weight"
            rows, columns = (span, None) if product in _BY_OUTPUTS else (None, span)
            parts.append(self.tensor(path, rows, columns))
        return _joined(parts)

    def bias(self, number: int, product: str, share: Share, is_first: bool) -> torch.Tensor | None:
        """A share's bias; what is added to a sum over shares is the first one's."""
        config, names = self._config, _PRODUCTS[product]
        if not {"qkv": config.qkv_bias, "output": config.output_bias}.get(product, config.mlp_bias):
            return None
        if product in _BY_INPUTS:
            return _joined([self.tensor(f"{_prefix(number)}{name}.bias") for name in names]) if is_first else None
        spans = [config.span_of(share, split) for split in names.values()]
        return _joined(
            [self.tensor(f"{_prefix(number)}{name}.bias", span) for name, span in zip(names, spans, strict=True)]
        )


class _Maker:
    """Makes layers of a stage with a back end's operations."""

    def __init__(
        self,
        reader: _Reader,
        config: ModelConfig,
        shares: Sequence[Share],
        backend: Plain,
        store: QuantizedStore | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._reader, self._config, self._shares, self._backend, self._store = reader, config, shares, backend, store
        self._dtype, self._device = dtype, device

    def norm(self, name: str) -> RMSNorm:
        return self._backend.norm(self._reader.tensor(name), self._config.rms_norm_eps)

    def head(self, vocabulary: range) -> Linear:
        if self._store is None:
            rows = self._reader.head_rows(vocabulary)
            return self._backend.linear(rows.to(device=self._device, dtype=self._dtype), None)
        panels = self._store.read("head")["head"].panels(vocabulary).to(self._device)
        first = vocabulary.start % PANEL
        return SlicedLinear(self._backend.linear(panels, None), slice(first, first + len(vocabulary)))

    def layer(self, number: int, index: int) -> Layer:
        """One share of a layer."""
        share, prefix = self._shares[index], _prefix(number)
        weights = functools.partial(self._weight, number, share)
        biases = functools.partial(self._reader.bias, number, share=share, is_first=index == 0)
        layer = Layer(
            input_norm=self.norm(prefix + "input_layernorm.weight"),
            heads=self._heads(prefix, share, weights, biases) if share.query_heads else None,
            mlp_norm=self.norm(prefix + "post_attention_layernorm.weight"),
            mlp=self._mlp(share, weights, biases) if share.mlp else None,
        )
        layer.fused = self._backend.fused(layer)
        return layer

    def _heads(self, prefix: str, share: Share, weights: _Weights, biases: _Biases) -> HeadsPart:
        return HeadsPart(
            qkv=self._backend.linear(weights("qkv"), biases("qkv")),
            attention=self._attention(prefix + "self_attn.", share),
            output=self._backend.linear(weights("output"), biases("output")),
            kv_heads=share.kv_heads,
        )

    def _mlp(self, share: Share, weights: _Weights, biases: _Biases) -> MLPPart:
        activation = ACTIVATIONS[self._config.hidden_act]
        return MLPPart(
            gate_up=self._backend.gated(weights("gate_up"), biases("gate_up"), activation, len(share.mlp)),
            down=self._backend.linear(weights("down"), biases("down")),
        )

    def _weight(self, number: int, share: Share, product: str) -> Weight:
        """The matrix of a product; read when it is asked for, so that one at a time is in memory twice."""
        if self._store is None:
            return self._reader.weight(number, product, share)
        whole = self._store.read(f"layer{number}")[product]
        part = whole if len(self._shares) == 1 else self._part(whole, product, share)
        return part.to(self._device)

    def _part(self, whole: QuantizedWeight, product: str, share: Share) -> Weight:
        """A share of a quantised matrix; numbers in the run's dtype where it does not begin and end with groups."""
        everything = split_layer(self._config, 1)[0]
        splits = _PRODUCTS[product].values()
        spans, wholes = ([self._config.span_of(of, split) for split in splits] for of in (share, everything))
        if product in _BY_INPUTS:
            return part_of(whole, [range(whole.out_features)], spans[0], self._dtype)
        if product == "gate_up":
            return alternating_part_of(whole, spans[0], self._dtype)
        starts = itertools.accumulate(map(len, wholes), initial=0)
        rows = [range(start + span.start, start + span.stop) for start, span in zip(starts, spans, strict=False)]
        return part_of(whole, rows, range(whole.in_features), self._dtype)

    def _attention(self, prefix: str, share: Share) -> Attention:
        config = self._config
        scale = config.head_dim**-0.5
        heads = Heads(len(share.query_heads), len(share.kv_heads), config.head_dim, scale)
        norms = [self.norm(f"{prefix}{part}_norm.weight") if config.qk_norm else None for part in "qk"]
        return self._backend.attention(heads, *norms)


def load_stage(
    checkpoint: Checkpoint,
    config: ModelConfig,
    layers: Mapping[int, Sequence[int]],
    vocabulary: range,
    dtype: torch.dtype,
    device: torch.device,
    backend: Plain,
    store: QuantizedStore | None = None,
    shares: Sequence[Share] | None = None,
    track: Track = iter,
) -> Stage:
    """Read some shares of some layers and this slice of the vocabulary; call `Checkpoint.require` before.

    `layers`: the numbers of the shares by the layer's; `shares`: all of them, None for a single one.
    `store`: has the products' weights quantised (call `quantize_model` before); None: as the checkpoint has them.
    """
    reader = _Reader(checkpoint, config, dtype, device)
    maker = _Maker(reader, config, shares or split_layer(config, 1), backend, store, dtype, device)
    head = maker.head(vocabulary)  # the largest matrix comes first: its copies are not there beside all the others
    _let_go(checkpoint)
    made: dict[int, dict[int, Layer]] = {}
    for number, indices in track(list(layers.items())):
        made[number] = {index: maker.layer(number, index) for index in indices}
        _let_go(checkpoint)
    weights = StageWeights(
        embedding=reader.embedding(),
        layers=made,
        norm=maker.norm(_NORM),
        head=head,
        head_rows=reader.head_rows(vocabulary),
    )
    return Stage(config, weights, vocabulary, dtype, device, backend.rotation_dtype, backend.key_layout)


def whole_layers(layers: range) -> dict[int, list[int]]:
    """All of these layers, for `load_stage`."""
    return {number: [0] for number in layers}


def quantize_model(
    checkpoint: Checkpoint, config: ModelConfig, store: QuantizedStore, share: slice, track: Track = iter
) -> None:
    """Make what the store has not got of the model, or a share of it."""
    reader = _Reader(checkpoint, config, torch.float32, torch.device("cpu"))
    whole = split_layer(config, 1)[0]

    def parts_of(name: str) -> dict[str, torch.Tensor]:
        if name == "head":
            return {"head": reader.head_rows(range(config.vocab_size)).float()}
        parts = {product: reader.weight(int(name.removeprefix("layer")), product, whole) for product in _PRODUCTS}
        return parts | {"gate_up": alternating(parts["gate_up"])}

    names = [f"layer{number}" for number in range(config.num_hidden_layers)] + ["head"]
    missing = store.missing(names[share])  # not the other way round: other ranks make files at this moment
    for name in track(missing):
        store.make(name, functools.partial(parts_of, name))
        _let_go(checkpoint)


def checkpoint_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of the checkpoint's embedding, for a configuration that does not say."""
    return checkpoint.read(_EMBEDDING, range(1)).dtype


def _let_go(checkpoint: Checkpoint) -> None:
    """Give back what was read: the file's pages, and the heap's gaps where copies of one layer have been."""
    checkpoint.release()
    with contextlib.suppress(AttributeError, OSError):  # the GNU C library has it
        ctypes.CDLL(None).malloc_trim(0)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _prefix(number: int) -> str:
    return f"model.layers.{number}."
