"""The decoder of one rank: embeds, runs layers, gives logits of a slice of the vocabulary. Knows no ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from mpi_spp.kernels.attention import Rotation
from mpi_spp.kernels.cache import COLUMNS, KeyLayout
from mpi_spp.kernels.layer import Layer
from mpi_spp.kernels.linear import Activation, Linear
from mpi_spp.kernels.norm import RMSNorm
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.batch import Batch
from mpi_spp.model.config import ModelConfig

ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


@dataclass
class StageWeights:
    """The weights that one rank holds."""

    embedding: torch.Tensor  # [vocab_size, hidden_size]
    layers: dict[int, Layer]  # by the layer's number in the whole model
    norm: RMSNorm
    head: Linear  # the rows of this rank's slice of the vocabulary
    head_rows: torch.Tensor  # the same as a matrix [len(vocabulary), hidden_size], mapped from the file where it can be

    @property
    def nbytes(self) -> int:
        """What must be in memory: the embedding is only looked up, and stays in its file where that can be mapped."""
        return self.head.nbytes + sum(layer.nbytes for layer in self.layers.values())


class Stage:
    """What one rank computes, for any of the layers whose weights it holds.

    Hidden states (the residual stream) are float32 whatever the dtype of the weights: to round them after every layer
    costs more accuracy than all products in bfloat16 do, and saves nothing.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: StageWeights,
        vocabulary: range,
        rotation_dtype: torch.dtype | None = None,
        key_layout: KeyLayout = COLUMNS,
    ) -> None:
        self.config, self.weights, self.vocabulary = config, weights, vocabulary
        self.dtype, self.device = weights.embedding.dtype, weights.embedding.device
        self._rotation_dtype, self._key_layout = rotation_dtype or self.dtype, key_layout

    def new_cache(self, layers: range, capacity: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache for `capacity` positions of these layers; dtype: int8, or None for that of the weights."""
        heads, head_dim = range(self.config.num_key_value_heads), self.config.head_dim
        return KVCache(layers, heads, capacity, head_dim, dtype or self.dtype, self.device, self._key_layout)

    @torch.inference_mode()
    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Hidden states [tokens, hidden_size] of token ids [tokens]."""
        return F.embedding(token_ids.to(self.device), self.weights.embedding).float()

    def hidden_like(self, num_tokens: int) -> torch.Tensor:
        """An uninitialised tensor for the hidden states of so many tokens, [num_tokens, hidden_size]."""
        return torch.empty((num_tokens, self.config.hidden_size), dtype=torch.float32, device=self.device)

    @torch.inference_mode()
    def forward(
        self, hidden: torch.Tensor, batch: Batch, layers: range, after_layer: Callable[[int], None] = lambda layer: None
    ) -> torch.Tensor:
        """Run the layers on hidden states [tokens, hidden_size], in place; their keys and values go into the caches.

        `after_layer(layer)` is called after each: nonblocking communication moves on there.
        """
        rotation = self._rotation(batch)
        for layer in layers:
            self._layer(layer, hidden, batch, rotation)
            after_layer(layer)
        return hidden

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [tokens, len(vocabulary)] of this rank's slice, in the run's dtype or finer, for the last layer."""
        return self.weights.head.to_float32(self.weights.norm(hidden))

    @torch.inference_mode()
    def exact_logits(self, hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Float32 scores [places] of some places of this rank's slice, for one hidden state [1, hidden_size]."""
        normed = self.weights.norm.exact(hidden)[0]
        return self.weights.head_rows[places].float() @ normed

    def _rotation(self, batch: Batch) -> Rotation:
        parts = [
            self.config.rope.rotation(
                batch.position_ids[span.rows.start : span.rows.stop], span.sequence_length, self._rotation_dtype
            )
            for span in batch.spans
        ]
        return torch.cat([cos for cos, _ in parts]), torch.cat([sin for _, sin in parts])

    def _layer(self, number: int, hidden: torch.Tensor, batch: Batch, rotation: Rotation) -> None:
        layer, window = self.weights.layers[number], self.config.sliding_windows[number]
        if layer.fused is not None and len(batch.spans) == 1:
            span = batch.spans[0]
            layer.fused(hidden, rotation, span.cache.of_layer(number), span.start, window)
            return
        qkv = layer.qkv(layer.input_norm(hidden))
        layer.output.add_to(hidden, self._attend(number, qkv, batch, rotation))
        layer.down.add_to(hidden, layer.gate_up(layer.mlp_norm(hidden)))

    def _attend(self, layer: int, qkv: torch.Tensor, batch: Batch, rotation: Rotation) -> torch.Tensor:
        """Attention outputs [tokens, num_attention_heads * head_dim], every span over its own cache."""
        attention, window = self.weights.layers[layer].attention, self.config.sliding_windows[layer]
        outputs = []
        for span in batch.spans:
            rows = slice(span.rows.start, span.rows.stop)
            angles = (rotation[0][rows], rotation[1][rows])
            outputs.append(attention(qkv[rows], angles, span.cache.of_layer(layer), span.start, window))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
