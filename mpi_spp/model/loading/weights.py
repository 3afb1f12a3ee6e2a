"""Which tensors a rank needs, and how they become its weights."""

import contextlib
import ctypes
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from mpi_spp.kernels.attention import Attention, Heads
from mpi_spp.kernels.experts import ExpertsPart, Router, SharedExpert
from mpi_spp.kernels.layer import HeadsPart, Layer, MLPPart
from mpi_spp.kernels.linear import Linear
from mpi_spp.kernels.norm import QKVNorm, RMSNorm
from mpi_spp.kernels.plain import Plain, Weight
from mpi_spp.kernels.quantized import (
    PANEL,
    QuantizedWeight,
    SlicedLinear,
    alternating,
    alternating_part_of,
    joined,
    part_of,
)
from mpi_spp.model import products
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.decoder import ACTIVATIONS, Stage, StageWeights
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.finite import finite
from mpi_spp.model.loading.quantized import QuantizedStore
from mpi_spp.model.products import EMBEDDING, HEAD, NORM, layer_shapes, prefix, stage_shapes
from mpi_spp.parallel.shares import Share, split_layer

Track = Callable[[Sequence[Any]], Iterable[Any]]  # goes through items, each of which is work, and may show it
_Weights = Callable[[str], Weight]
_Biases = Callable[[str], torch.Tensor | None]


class _Reader:
    """Reads the tensors that a configuration asks for, in the dtype and onto the device of the run."""

    def __init__(self, checkpoint: Checkpoint, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._checkpoint, self._config, self._dtype, self._device = checkpoint, config, dtype, device

    def tensor(self, name: str, rows: range | None = None, columns: range | None = None) -> torch.Tensor:
        return self._checkpoint.read(name, rows, columns).to(device=self._device, dtype=self._dtype)

    def exact(self, name: str) -> torch.Tensor:
        """In float32, whatever the dtype of the run."""
        return self._checkpoint.read(name).to(device=self._device, dtype=torch.float32)

    def embedding(self) -> torch.Tensor:
        """As it is in the file."""
        return self._checkpoint.read(self._tied(EMBEDDING, HEAD))

    def head_rows(self, rows: range) -> torch.Tensor:
        """As they are in the file."""
        return self._checkpoint.read(self._tied(HEAD, EMBEDDING), rows)

    def _tied(self, name: str, other: str) -> str:
        """Where the two are tied, that which the file has; a file with both has two matrices, whatever is said."""
        is_other = self._config.tie_word_embeddings and not self._checkpoint.has(name)
        return other if is_other else name

    def weight(self, number: int, product: str, share: Share) -> torch.Tensor:
        """A share's matrix for all products with the same input; their outputs stand side by side."""
        parts, what = [], products.product(product)
        for name, split in what.tensors.items():
            span, path = self._config.span_of(share, split), f"{prefix(number)}{name}.weight"
            rows, columns = (None, span) if what.sums else (span, None)
            parts.append(self.tensor(path, rows, columns))
        return _joined(parts)

    def bias(self, number: int, product: str, share: Share, is_first: bool) -> torch.Tensor | None:
        """A share's bias; what is added to a sum over shares is the first one's."""
        config, names = self._config, products.product(product).tensors
        if not products.has_bias(config, product):
            return None
        if products.product(product).sums:
            return _joined([self.tensor(f"{prefix(number)}{name}.bias") for name in names]) if is_first else None
        spans = [config.span_of(share, split) for split in names.values()]
        return _joined(
            [self.tensor(f"{prefix(number)}{name}.bias", span) for name, span in zip(names, spans, strict=True)]
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
        self._opened: tuple[int | None, dict[str, QuantizedWeight]] = (None, {})  # a layer of the store

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
        share, path = self._shares[index], prefix(number)
        weights = functools.partial(self._weight, number, share)
        biases = functools.partial(self._reader.bias, number, share=share, is_first=index == 0)
        layer = Layer(
            input_norm=self.norm(path + "input_layernorm.weight"),
            heads=self._heads(path + "self_attn.", share, weights, biases) if share.query_heads else None,
            mlp_norm=self.norm(path + "post_attention_layernorm.weight"),
            mlp=None,
            window=self._config.sliding_windows[number],
        )
        if self._config.has_experts(number):
            layer.router, layer.experts = self._router(path), self._experts(path, share, weights)
        elif share.mlp:
            layer.mlp = self._mlp(products.MLP, len(share.mlp), weights, biases)
        layer.fused = self._backend.fused(layer)
        return layer

    def _heads(self, path: str, share: Share, weights: _Weights, biases: _Biases) -> HeadsPart:
        return HeadsPart(
            qkv=self._backend.linear(weights("qkv"), biases("qkv")),
            attention=self._attention(path, share),
            output=self._backend.linear(weights("output"), biases("output")),
            kv_heads=share.kv_heads,
            norm=self._norm_over_heads(path, share) if self._config.qk_norm_over_heads else None,
        )

    def _mlp(self, names: tuple[str, str], size: int, weights: _Weights, biases: _Biases) -> MLPPart:
        activation, (gate_up, down) = ACTIVATIONS[self._config.hidden_act], names
        return MLPPart(
            gate_up=self._backend.gated(weights(gate_up), biases(gate_up), activation, size),
            down=self._backend.linear(weights(down), biases(down)),
        )

    def _router(self, path: str) -> Router:
        assert self._config.experts is not None
        experts = self._config.experts
        product = self._backend.exact(self._reader.exact(path + products.ROUTER))
        return Router(product, experts.top_k, experts.normalized)

    def _experts(self, path: str, share: Share, weights: _Weights) -> ExpertsPart:
        columns, shared = len(share.expert_columns), None
        mlps = functools.partial(self._mlp, weights=weights, biases=lambda name: None)
        if share.shared:
            gate = self._backend.exact(self._reader.exact(path + products.SHARED_GATE))
            shared = SharedExpert(mlps(products.SHARED, len(share.shared)), gate)
        held = share.experts if columns else ()
        return ExpertsPart({number: mlps(products.of_expert(number), columns) for number in held}, shared)

    def _weight(self, number: int, share: Share, product: str) -> Weight:
        """The matrix of a product; read when it is asked for, so that one at a time is in memory twice."""
        if self._store is None:
            return self._reader.weight(number, product, share)
        if self._opened[0] != number:
            self._opened = (number, self._store.read(f"layer{number}"))
        whole = self._opened[1][product]
        part = whole if len(self._shares) == 1 else self._part(whole, product, share)
        return part.to(self._device)

    def _part(self, whole: QuantizedWeight, product: str, share: Share) -> Weight:
        """A share of a quantised matrix; numbers in the run's dtype where it does not begin and end with groups."""
        everything = split_layer(self._config, 1)[0]
        what = products.product(product)
        splits = what.tensors.values()
        spans, wholes = ([self._config.span_of(of, split) for split in splits] for of in (share, everything))
        if what.sums:
            return part_of(whole, [range(whole.out_features)], spans[0], self._dtype)
        if product.endswith("gate_up"):
            return alternating_part_of(whole, spans[0], self._dtype)
        starts = itertools.accumulate(map(len, wholes), initial=0)
        rows = [range(start + span.start, start + span.stop) for start, span in zip(starts, spans, strict=False)]
        return part_of(whole, rows, range(whole.in_features), self._dtype)

    def _norm_over_heads(self, path: str, share: Share) -> QKVNorm:
        config = self._config
        spans = {"q": config.span_of(share, "query_heads"), "k": config.span_of(share, "kv_heads")}
        queries, keys = (self._reader.tensor(f"{path}{name}_norm.weight", span) for name, span in spans.items())
        sizes = (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim)
        counts_keys = share.query_heads.start % config.query_groups == 0  # the first of those that keep these heads
        return QKVNorm((queries, keys), sizes, config.rms_norm_eps, counts_keys, config.clip_qkv)

    def _attention(self, path: str, share: Share) -> Attention:
        config = self._config
        scale = config.head_dim**-0.5
        heads = Heads(len(share.query_heads), len(share.kv_heads), config.head_dim, scale)
        norms = [self.norm(f"{path}{part}_norm.weight") if config.qk_norm else None for part in "qk"]
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
    """Read some shares of some layers and this slice of the vocabulary; call `require_weights` before.

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
        norm=maker.norm(NORM),
        head=head,
        head_rows=reader.head_rows(vocabulary),
    )
    return Stage(config, weights, vocabulary, dtype, device, backend.rotation_dtype, backend.key_layout)


def require_weights(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """Check from the files' headers alone that all weights are there. Raises UserError at the first that is not.

    As transformers does, of an embedding and a head that are tied one is enough, whichever it is.
    """
    outer = stage_shapes(config, range(0)) | {HEAD: (config.vocab_size, config.hidden_size)}
    if config.tie_word_embeddings:
        missing = [name for name in (HEAD, EMBEDDING) if not checkpoint.has(name)]
        outer = {name: shape for name, shape in outer.items() if name not in missing[:1]}
    checkpoint.require(outer)
    for layer in range(config.num_hidden_layers):
        checkpoint.require(layer_shapes(config, layer))


def whole_layers(layers: range) -> dict[int, list[int]]:
    """All of these layers, for `load_stage`."""
    return {number: [0] for number in layers}


def quantize_model(
    checkpoint: Checkpoint, config: ModelConfig, store: QuantizedStore, share: slice, track: Track = iter
) -> None:
    """Make what the store has not got of the model, or a share of it."""
    reader = _Reader(checkpoint, config, torch.float32, torch.device("cpu"))
    whole = split_layer(config, 1)[0]

    def parts_of(name: str) -> Iterator[tuple[str, torch.Tensor]]:
        if name == "head":
            yield "head", finite(reader.head_rows(range(config.vocab_size)).float(), HEAD)
            return
        number = int(name.removeprefix("layer"))
        for product in products.products_of(config, number):
            told = f"{prefix(number)}{' or '.join(products.product(product).tensors)}"
            weight = finite(reader.weight(number, product, whole), told)
            yield product, alternating(weight) if product.endswith("gate_up") else weight

    names = [f"layer{number}" for number in range(config.num_hidden_layers)] + ["head"]
    missing = store.missing(names[share])  # not the other way round: other ranks make files at this moment
    for name in track(missing):
        store.make(name, functools.partial(parts_of, name))
        _let_go(checkpoint)


def checkpoint_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The dtype of the checkpoint's embedding or head, for a configuration that does not say."""
    return checkpoint.read(EMBEDDING if checkpoint.has(EMBEDDING) else HEAD, range(1)).dtype


def _let_go(checkpoint: Checkpoint) -> None:
    """Give back what was read: the file's pages, and the heap's gaps where copies of one layer have been."""
    checkpoint.release()
    with contextlib.suppress(AttributeError, OSError):  # the GNU C library has it
        ctypes.CDLL(None).malloc_trim(0)


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else joined(parts)
