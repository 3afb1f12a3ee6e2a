"""Which tensors a rank needs, and how they become its weights."""

import contextlib
import ctypes
import functools
from collections.abc import Callable

import torch
from tqdm import tqdm

from mpi_spp.kernels.attention import Attention, Heads
from mpi_spp.kernels.layer import Layer
from mpi_spp.kernels.linear import Linear
from mpi_spp.kernels.norm import RMSNorm
from mpi_spp.kernels.plain import Plain, Weight
from mpi_spp.kernels.quantized import PANEL, SlicedLinear, alternating
from mpi_spp.model.checkpoint import Checkpoint
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.decoder import ACTIVATIONS, Stage, StageWeights
from mpi_spp.model.quantized import QuantizedStore

Shapes = dict[str, tuple[int, ...]]

# The products of a layer, and the checkpoint's names for what is multiplied with the same input.
_PRODUCTS = {
    "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "output": ["self_attn.o_proj"],
    "gate_up": ["mlp.gate_proj", "mlp.up_proj"],
    "down": ["mlp.down_proj"],
}
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

    def tensor(self, name: str, rows: range | None = None) -> torch.Tensor:
        return self._checkpoint.read(name, rows).to(device=self._device, dtype=self._dtype)

    def head_rows(self, rows: range) -> torch.Tensor:
        return self.tensor(_EMBEDDING if self._config.tie_word_embeddings else _HEAD, rows)

    def weight(self, number: int, product: str) -> torch.Tensor:
        """One matrix for all products with the same input; their outputs stand side by side."""
        return self._joined(number, product, "weight")

    def bias(self, number: int, product: str) -> torch.Tensor | None:
        config = self._config
        has_bias = {"qkv": config.qkv_bias, "output": config.output_bias}.get(product, config.mlp_bias)
        return self._joined(number, product, "bias") if has_bias else None

    def _joined(self, number: int, product: str, kind: str) -> torch.Tensor:
        parts = [self.tensor(f"{_prefix(number)}{name}.{kind}") for name in _PRODUCTS[product]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class _Maker:
    """Makes layers of a stage with a back end's operations."""

    def __init__(
        self, reader: _Reader, config: ModelConfig, device: torch.device, backend: Plain, store: QuantizedStore | None
    ) -> None:
        self._reader, self._config, self._device, self._backend, self._store = reader, config, device, backend, store

    def norm(self, name: str) -> RMSNorm:
        return self._backend.norm(self._reader.tensor(name), self._config.rms_norm_eps)

    def head(self, vocabulary: range, rows: torch.Tensor) -> Linear:
        if self._store is None:
            return self._backend.linear(rows, None)
        panels = self._store.read("head")["head"].panels(vocabulary).to(self._device)
        first = vocabulary.start % PANEL
        return SlicedLinear(self._backend.linear(panels, None), slice(first, first + len(vocabulary)))

    def layer(self, number: int) -> Layer:
        config, prefix, biases = self._config, _prefix(number), functools.partial(self._reader.bias, number)
        weights = self._weights(number)
        activation, size = ACTIVATIONS[config.hidden_act], config.intermediate_size
        layer = Layer(
            input_norm=self.norm(prefix + "input_layernorm.weight"),
            qkv=self._backend.linear(weights("qkv"), biases("qkv")),
            attention=self._attention(prefix + "self_attn."),
            output=self._backend.linear(weights("output"), biases("output")),
            mlp_norm=self.norm(prefix + "post_attention_layernorm.weight"),
            gate_up=self._backend.gated(weights("gate_up"), biases("gate_up"), activation, size),
            down=self._backend.linear(weights("down"), biases("down")),
        )
        layer.fused = self._backend.fused(layer)
        return layer

    def _weights(self, number: int) -> Callable[[str], Weight]:
        """The matrix of each product; read when it is asked for, so that one at a time is in memory twice."""
        if self._store is None:
            return functools.partial(self._reader.weight, number)
        quantized = self._store.read(f"layer{number}")
        return lambda product: quantized[product].to(self._device)

    def _attention(self, prefix: str) -> Attention:
        config = self._config
        scale = config.head_dim**-0.5
        heads = Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim, scale)
        norms = [self.norm(f"{prefix}{part}_norm.weight") if config.qk_norm else None for part in "qk"]
        return self._backend.attention(heads, *norms)


def load_stage(
    checkpoint: Checkpoint,
    config: ModelConfig,
    layers: range,
    vocabulary: range,
    dtype: torch.dtype,
    device: torch.device,
    backend: Plain,
    store: QuantizedStore | None = None,
) -> Stage:
    """Read the weights of these layers and of this slice of the vocabulary; call `Checkpoint.require` before.

    `store`: has the products' weights quantised (call `quantize_model` before); None: as the checkpoint has them.
    """
    reader = _Reader(checkpoint, config, dtype, device)
    maker = _Maker(reader, config, device, backend, store)
    made = {}
    for number in layers:
        made[number] = maker.layer(number)
        _let_go(checkpoint)
    head = maker.head(vocabulary, reader.head_rows(vocabulary))
    _let_go(checkpoint)
    weights = StageWeights(
        embedding=reader.tensor(_EMBEDDING),
        layers=made,
        norm=maker.norm(_NORM),
        head=head,
        head_rows=reader.head_rows(vocabulary),
    )
    return Stage(config, weights, vocabulary, backend.rotation_dtype, backend.key_layout)


def quantize_model(
    checkpoint: Checkpoint, config: ModelConfig, store: QuantizedStore, share: slice, shows: bool = False
) -> None:
    """Make what the store has not got of the model, or a share of it; `shows`: a bar on a terminal."""
    reader = _Reader(checkpoint, config, torch.float32, torch.device("cpu"))

    def parts_of(name: str) -> dict[str, torch.Tensor]:
        if name == "head":
            return {"head": reader.head_rows(range(config.vocab_size))}
        parts = {product: reader.weight(int(name.removeprefix("layer")), product) for product in _PRODUCTS}
        return parts | {"gate_up": alternating(parts["gate_up"])}

    names = [f"layer{number}" for number in range(config.num_hidden_layers)] + ["head"]
    missing = store.missing(names[share])  # not the other way round: other ranks make files at this moment
    for name in tqdm(missing, desc="quantising", unit="layer", disable=None if shows and missing else True):
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


def _prefix(number: int) -> str:
    return f"model.layers.{number}."
