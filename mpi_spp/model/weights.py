"""Which tensors a rank needs, and how they become its weights."""

import torch

from mpi_spp.kernels.attention import Attention, Heads
from mpi_spp.kernels.layer import Layer
from mpi_spp.kernels.linear import Linear
from mpi_spp.kernels.norm import RMSNorm
from mpi_spp.kernels.plain import Plain
from mpi_spp.model.checkpoint import Checkpoint
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.decoder import ACTIVATIONS, Stage, StageWeights

Shapes = dict[str, tuple[int, ...]]

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

    def __init__(
        self, checkpoint: Checkpoint, config: ModelConfig, dtype: torch.dtype, device: torch.device, backend: Plain
    ) -> None:
        self._checkpoint, self._config, self._dtype, self._device = checkpoint, config, dtype, device
        self._backend = backend

    def tensor(self, name: str, rows: range | None = None) -> torch.Tensor:
        return self._checkpoint.read(name, rows).to(device=self._device, dtype=self._dtype)

    def norm(self, name: str) -> RMSNorm:
        return self._backend.norm(self.tensor(name), self._config.rms_norm_eps)

    def linear(self, names: list[str], has_bias: bool = False) -> Linear:
        """One product for several of the same input; their outputs stand side by side."""
        return self._backend.linear(*self._weight_and_bias(names, has_bias))

    def head_rows(self, rows: range) -> torch.Tensor:
        return self.tensor(_EMBEDDING if self._config.tie_word_embeddings else _HEAD, rows)

    def layer(self, number: int) -> Layer:
        config, prefix = self._config, f"model.layers.{number}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        layer = Layer(
            input_norm=self.norm(prefix + "input_layernorm.weight"),
            qkv=self.linear([f"{attention}{part}_proj" for part in "qkv"], config.qkv_bias),
            attention=self.attention(attention),
            output=self.linear([attention + "o_proj"], config.output_bias),
            mlp_norm=self.norm(prefix + "post_attention_layernorm.weight"),
            gate_up=self._backend.gated(
                *self._weight_and_bias([mlp + "gate_proj", mlp + "up_proj"], config.mlp_bias),
                ACTIVATIONS[config.hidden_act],
            ),
            down=self.linear([mlp + "down_proj"], config.mlp_bias),
        )
        layer.fused = self._backend.fused(layer)
        return layer

    def attention(self, prefix: str) -> Attention:
        config = self._config
        scale = config.head_dim**-0.5
        heads = Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim, scale)
        norms = [self.norm(f"{prefix}{part}_norm.weight") if config.qk_norm else None for part in "qk"]
        return self._backend.attention(heads, *norms)

    def _weight_and_bias(self, names: list[str], has_bias: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        bias = self._joined([f"{name}.bias" for name in names]) if has_bias else None
        return self._joined([f"{name}.weight" for name in names]), bias

    def _joined(self, names: list[str]) -> torch.Tensor:
        parts = [self.tensor(name) for name in names]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def load_stage(
    checkpoint: Checkpoint,
    config: ModelConfig,
    layers: range,
    vocabulary: range,
    dtype: torch.dtype,
    device: torch.device,
    backend: Plain,
) -> Stage:
    """Read the weights of these layers and of this slice of the vocabulary; call `Checkpoint.require` before."""
    reader = _Reader(checkpoint, config, dtype, device, backend)
    head_rows = reader.head_rows(vocabulary)
    weights = StageWeights(
        embedding=reader.tensor(_EMBEDDING),
        layers={layer: reader.layer(layer) for layer in layers},
        norm=reader.norm(_NORM),
        head=backend.linear(head_rows, None),
        head_rows=head_rows,
    )
    return Stage(config, weights, vocabulary, backend.rotation_dtype)


def checkpoint_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of the checkpoint's embedding, for a configuration that does not say."""
    return checkpoint.read(_EMBEDDING, range(1)).dtype
