"""The decoder of one rank: embeds, runs layers, gives logits of a slice of the vocabulary. Knows no ranks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from mpi_spp.kernels.attention import Rotation
from mpi_spp.kernels.cache import COLUMNS, KeyLayout
from mpi_spp.kernels.layer import HeadsPart, Layer
from mpi_spp.kernels.linear import Activation, Linear
from mpi_spp.kernels.norm import RMSNorm
from mpi_spp.kv.cache import KVCache
from mpi_spp.model.batch import Batch
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.experts import ExpertLoad, add_experts
from mpi_spp.model.joined import Joined, join, spans_of
from mpi_spp.model.shard import ALL, Attending, Shard, Total
from mpi_spp.parallel.layout import EVERYTHING, Held
from mpi_spp.system.timed import is_kept, timed

ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


_MLP_ROWS = 512  # at once, where a rank has more: the columns between its products are the widest tensor of a layer


@dataclass
class StageWeights:
    """The weights that one rank holds."""

    embedding: torch.Tensor  # [vocab_size, hidden_size], mapped from the file: only rows of it are ever read
    layers: dict[int, dict[int, Layer]]  # shares of a layer, by the layer's number in the model and the share's
    norm: RMSNorm
    head: Linear  # the rows of this rank's slice of the vocabulary
    head_rows: torch.Tensor  # the same as a matrix [len(vocabulary), hidden_size], mapped from the file

    @property
    def nbytes(self) -> int:
        """What must be in memory: the embedding is only looked up, and stays in its file."""
        return self.head.nbytes + sum(share.nbytes for shares in self.layers.values() for share in shares.values())


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
        dtype: torch.dtype,
        device: torch.device,
        rotation_dtype: torch.dtype | None = None,
        key_layout: KeyLayout = COLUMNS,
    ) -> None:
        self.config, self.weights, self.vocabulary = config, weights, vocabulary
        self.dtype, self.device = dtype, device
        self._rotation_dtype, self._key_layout = rotation_dtype or dtype, key_layout
        self.load = ExpertLoad()
        self._calls: dict[tuple[range, int], Joined | None] = {}  # by layers and share

    def new_cache(
        self,
        layers: range,
        capacity: int,
        dtype: torch.dtype | None = None,
        heads: range | None = None,
        empty: Callable[..., torch.Tensor] = torch.empty,
        held: Held = EVERYTHING,
    ) -> KVCache:
        """An empty cache of `capacity` slots for these layers and key/value heads; None: all heads.

        dtype: int8, or None for that of the weights. `empty` makes its tensors. `held`: the positions for its slots.
        """
        heads = range(self.config.num_key_value_heads) if heads is None else heads
        size, layout = self.config.head_dim, self._key_layout
        return KVCache(layers, heads, capacity, size, dtype or self.dtype, self.device, layout, empty, held)

    @torch.inference_mode()
    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Hidden states [tokens, hidden_size] of token ids [tokens]."""
        with timed("embed", tokens=len(token_ids)):
            rows = F.embedding(token_ids.cpu(), self.weights.embedding)
            return rows.to(device=self.device, dtype=self.dtype).float()

    def hidden_like(self, num_tokens: int) -> torch.Tensor:
        """An uninitialised tensor for the hidden states of so many tokens, [num_tokens, hidden_size]."""
        return torch.empty((num_tokens, self.config.hidden_size), dtype=torch.float32, device=self.device)

    @torch.inference_mode()
    def forward(
        self,
        hidden: torch.Tensor,
        batch: Batch,
        layers: range,
        shard: Shard = ALL,
        after_layer: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """Run the layers on hidden states [tokens, hidden_size], in place; their keys and values go into the caches.

        Of a batch that is exchanged (`shard.exchange`) these are the hidden states of the rows that are computed here.
        `after_layer(layer)` is called after each: nonblocking communication moves on there. Without it all layers are
        one call where that can be.
        """
        rotation = self._rotation(batch)
        if after_layer is None and (joined := self._joined(layers, shard)) is not None:
            joined(hidden, rotation, batch)
            return hidden
        for number in layers:
            with timed("layer", number):
                shares = [self.weights.layers[number][share] for share in shard.shares]
                self._layer(number, shares, hidden, batch, rotation, shard)
            if after_layer is not None:
                after_layer(number)
        return hidden

    @torch.inference_mode()
    def serve(self, layer: int, shard: Shard) -> None:
        """Compute what other ranks send to this one's experts of a layer, where it has no token of a batch itself."""
        if shard.dispatch is not None and self.config.has_experts(layer):
            shares = [self.weights.layers[layer][share] for share in shard.shares]
            self._experts(layer, shares, self.hidden_like(0), shard)

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [tokens, len(vocabulary)] of this rank's slice, in the run's dtype or finer, for the last layer."""
        return self.weights.head.to_float32(self.weights.norm(hidden))

    @torch.inference_mode()
    def exact_logits(self, hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Float32 scores [places] of some places of this rank's slice, for one hidden state [1, hidden_size]."""
        normed = self.weights.norm.exact(hidden)[0]
        rows = self.weights.head_rows[places.cpu()].to(device=self.device, dtype=self.dtype)
        return rows.float() @ normed

    def rounding(self, logits: torch.Tensor) -> float:
        """Twice how far `logits` [tokens, len(vocabulary)] may be from exact: 0 in float32. Some may not be finite."""
        return rounding_of(logits)

    def _rotation(self, batch: Batch) -> Rotation:
        rope, dtype = self.config.rope, self._rotation_dtype
        if rope.dynamic is None:  # then all sequences have the same angles
            return rope.rotation(batch.position_ids, 0, dtype)
        parts = [rope.rotation(span.of(batch.position_ids), span.sequence_length, dtype) for span in batch.spans]
        return torch.cat([cos for cos, _ in parts]), torch.cat([sin for _, sin in parts])

    def _joined(self, layers: range, shard: Shard) -> Joined | None:
        """The layers as one, where nothing comes between them: no other rank, no experts, nobody who times each."""
        is_alone = shard.total is None and shard.exchange is None and shard.attend is None and not is_kept()
        if not is_alone or len(shard.shares) > 1:
            return None
        key = (layers, shard.shares[0])
        if key not in self._calls:
            self._calls[key] = join(layers, [self.weights.layers[number][shard.shares[0]] for number in layers])
        return self._calls[key]

    def _layer(
        self, number: int, shares: list[Layer], hidden: torch.Tensor, batch: Batch, rotation: Rotation, shard: Shard
    ) -> None:
        first, total = shares[0], shard.total  # norms and the router are the same in all shares
        is_whole = len(shares) == 1 and shard.exchange is None and shard.attend is None
        if first.fused is not None and is_whole:
            self._fused_layer(number, first, hidden, batch, rotation, shard)
            return
        parts = [share.heads for share in shares if share.heads is not None]
        qkvs = self._projected(parts, first.input_norm(hidden), total)
        attended = self._attended(number, parts, qkvs, batch, rotation, shard)
        _add(hidden, ((part.output, outputs) for part, outputs in zip(parts, attended, strict=True)), total)
        if first.router is not None:
            self._experts(number, shares, hidden, shard)
            return
        for rows in hidden.split(_MLP_ROWS) if shard.attend is not None else (hidden,):
            _transform(rows, shares, total)

    def _fused_layer(
        self, number: int, layer: Layer, hidden: torch.Tensor, batch: Batch, rotation: Rotation, shard: Shard
    ) -> None:
        assert layer.fused is not None and layer.heads is not None
        total, spans = shard.total, spans_of(layer.fused, range(number, number + 1), layer.heads.kv_heads, batch)
        if total is None and layer.router is None:
            layer.fused(hidden, rotation, spans)
            return
        keeps = total is None or total.keeps
        layer.fused.attend(hidden, rotation, spans, keeps)
        if total is not None:
            total(hidden)
        if layer.router is not None:
            self._experts(number, [layer], hidden, shard)
            return
        layer.fused.transform(hidden, keeps)
        if total is not None:
            total(hidden)

    def _experts(self, number: int, shares: list[Layer], hidden: torch.Tensor, shard: Shard) -> None:
        """The half of a layer that has experts."""
        normed, total, dispatch = shares[0].mlp_norm(hidden), shard.total, shard.dispatch
        counts, held, of_rank = total is None or total.keeps, self.weights.layers[number], None
        if dispatch is not None and dispatch.takes(len(hidden)):
            of_rank = (dispatch, [held[share] for share in dispatch.shares])
            total = None if dispatch.gives_all else total
        if total is not None and not total.keeps:
            hidden.zero_()
        add_experts(hidden, normed, shares, self.load, counts, of_rank)
        if total is not None:
            total(hidden)

    def _projected(self, parts: list[HeadsPart], normed: torch.Tensor, total: Total | None) -> Iterable[torch.Tensor]:
        """Queries, keys and values of each part; where they are normalised over all heads, those of other ranks too."""
        if not self.config.qk_norm_over_heads:
            return (part.qkv(normed) for part in parts)
        qkvs, squares = [part.qkv(normed) for part in parts], normed.new_zeros((len(normed), 2), dtype=torch.float32)
        norms = [part.norm for part in parts if part.norm is not None]
        for norm, qkv in zip(norms, qkvs, strict=True):
            squares += norm.squares(qkv)
        if total is not None:
            total(squares)
        return [norm(qkv, squares) for norm, qkv in zip(norms, qkvs, strict=True)]

    def _attended(
        self,
        layer: int,
        parts: list[HeadsPart],
        qkvs: Iterable[torch.Tensor],
        batch: Batch,
        rotation: Rotation,
        shard: Shard,
    ) -> Iterable[torch.Tensor]:
        """Attention outputs [tokens, query heads * head_dim] of each share's heads."""
        window, exchange = self.config.sliding_windows[layer], shard.exchange
        attend = shard.attend or _over_caches
        if exchange is None:
            return (
                attend(Attending(layer, part.attention, part.kv_heads, qkv, batch, rotation, window))
                for part, qkv in zip(parts, qkvs, strict=True)
            )
        heads = exchange.heads  # of all shares, where other ranks have computed the batch's other tokens (Ulysses)
        outputs = exchange.to_heads(list(qkvs), len(batch.position_ids))
        if heads.query_heads:
            attention = parts[0].attention.with_heads(len(heads.query_heads), len(heads.kv_heads))
            outputs = attend(Attending(layer, attention, heads.kv_heads, outputs, batch, rotation, window))
        return exchange.to_tokens(outputs)


def _over_caches(what: Attending) -> torch.Tensor:
    """As `Attend`, every span over its own whole cache."""
    outputs = []
    for span in what.batch.spans:
        cache, angles = span.cache.of_layer(what.layer, what.kv_heads), span.angles(what.rotation)
        outputs.append(what.attention(span.of(what.qkv), angles, cache, span.start, what.window))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _transform(hidden: torch.Tensor, shares: list[Layer], total: Total | None) -> None:
    """The half with the MLP, of rows of hidden states, in place."""
    if (fused := shares[0].fused) is not None and len(shares) == 1 and total is None:
        fused.transform(hidden, True)
        return
    normed = shares[0].mlp_norm(hidden)
    mlps = (share.mlp for share in shares if share.mlp is not None)
    _add(hidden, ((part.down, part.gate_up(normed)) for part in mlps), total)


def rounding_of(scores: torch.Tensor) -> float:
    """Twice the error of rounding the largest of some scores to their dtype; 0 in float32."""
    if scores.dtype == torch.float32:
        return 0.0
    sizes = scores.float().abs().nan_to_num(nan=0.0, posinf=0.0)
    return 2 * torch.finfo(scores.dtype).eps * sizes.max().item()


def _add(hidden: torch.Tensor, products: Iterable[tuple[Linear, torch.Tensor]], total: Total | None) -> None:
    """Add the shares' outputs to the hidden states, those of other ranks too, in place."""
    if total is not None and not total.keeps:
        hidden.zero_()
    for product, inputs in products:
        product.add_to(hidden, inputs)
    if total is not None:
        total(hidden)
