"""Which tensors a rank needs, and how they become its weights."""

import torch

from mpi_spp.kernels.linear import Linear, fused
from mpi_spp.model.checkpoint import Checkpoint
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.decoder import LayerWeights, Stage, StageWeights

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

    def __init__(self, checkpoint: Checkpoint, shapes: Shapes, dtype: torch.dtype, device: torch.device) -> None:
        self._checkpoint, self._shapes, self._dtype, self._device = checkpoint, shapes, dtype, device

    def tensor(self, name: str, rows: range | None = None) -> torch.Tensor:
        return self._checkpoint.read(name, rows).to(device=self._device, dtype=self._dtype).contiguous()

    def linear(self, name: str, rows: range | None = None) -> Linear:
        bias = self.tensor(f"{name}.bias", rows) if f"{name}.bias" in self._shapes else None
        return Linear(self.tensor(f"{name}.weight", rows), bias)

    def layer(self, config: ModelConfig, layer: int) -> LayerWeights:
        prefix = f"model.layers.{layer}."
        attention = prefix + "self_attn."
        return LayerWeights(
            input_norm=self.tensor(prefix + "input_layernorm.weight"),
            qkv=fused([self.linear(f"{attention}{part}_proj") for part in "qkv"]),
            q_norm=self.tensor(attention + "q_norm.weight") if config.qk_norm else None,
            k_norm=self.tensor(attention + "k_norm.weight") if config.qk_norm else None,
            output=self.linear(attention + "o_proj"),
            mlp_norm=self.tensor(prefix + "post_attention_layernorm.weight"),
            gate_up=fused([self.linear(f"{prefix}mlp.{part}_proj") for part in ("gate", "up")]),
            down=self.linear(prefix + "mlp.down_proj"),
        )


def load_stage(
    checkpoint: Checkpoint,
    config: ModelConfig,
    layers: range,
    vocabulary: range,
    dtype: torch.dtype,
    device: torch.device,
) -> Stage:
    """Read the weights of these layers and of this slice of the vocabulary; call `Checkpoint.require` before."""
    reader = _Reader(checkpoint, stage_shapes(config, layers), dtype, device)
    embedding = reader.tensor(_EMBEDDING)
    tied = config.tie_word_embeddings
    head = Linear(embedding[vocabulary.start : vocabulary.stop]) if tied else reader.linear("lm_head", vocabulary)
    weights = StageWeights(
        embedding=embedding,
        layers={layer: reader.layer(config, layer) for layer in layers},
        norm=reader.tensor(_NORM),
        head=head,
    )
    return Stage(config, weights, vocabulary)


def checkpoint_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of the checkpoint's embedding, for a configuration that does not say."""
    return checkpoint.read(_EMBEDDING, range(1)).dtype
