"""What a rank's weights take: the loader itself, on tensors that have a shape and no memory."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import cache, lru_cache

import torch

from mpi_spp.kernels.backends import is_native
from mpi_spp.kernels.linear import Linear
from mpi_spp.kernels.plain import Plain, Weight
from mpi_spp.kernels.quantized import BITS, BLOCK, PANEL, QuantizedWeight
from mpi_spp.kernels.widened import Blockwise, Widened
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.decoder import Stage
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.quantized import HEAD_BITS, QuantizedStore
from mpi_spp.model.loading.weights import load_stage
from mpi_spp.model.products import product_shape, products_of, stage_shapes
from mpi_spp.parallel.shares import Share, split_layer

_META = torch.device("meta")


class WeightSizes:
    """Bytes of a model's weights in the form in which a run holds them. Layers with experts are alike, others too."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, kernels: str, scheme: str | None, group: int) -> None:
        """`kernels`: the back end's name; `scheme` and `group`: of quantised weights, None where they are not."""
        self._config, self._dtype = config, dtype
        self._backend = _shapes_of(kernels)
        self._store = None if scheme is None else _QuantizedShapes(config, scheme, group)
        self._checkpoint = _Shapes(config, dtype)
        self._of_kind = cache(self._of_shares)
        self._head_bytes = cache(self._of_head)

    def of_shares(self, count: int, layer: int = 0, expert_groups: int = 1, with_experts: bool = True) -> list[int]:
        """The bytes of each of so many shares of a layer."""
        alike = next(number for number in range(layer + 1) if self._has_experts(number) == self._has_experts(layer))
        return self._of_kind(count, alike, expert_groups, with_experts)

    def of_layer(self) -> float:
        """The bytes of a layer, on average."""
        layers = range(self._config.num_hidden_layers)
        return sum(self.of_shares(1, layer)[0] for layer in layers) / len(layers)

    def active(self) -> float:
        """Those of them that one token reads."""
        return self.of_layer() * self._config.active_parameters / self._config.layer_parameters

    def _has_experts(self, layer: int) -> bool:
        return self._config.has_experts(layer)

    def _of_shares(self, count: int, layer: int, expert_groups: int, with_experts: bool) -> list[int]:
        """Of shares that are alike one is looked at."""
        shares = split_layer(self._config, count, expert_groups)
        shares = shares if with_experts else [share.without_experts() for share in shares]
        kinds = [self._kind_of(share, index) for index, share in enumerate(shares)]
        first = {kind: index for index, kind in reversed(list(enumerate(kinds)))}
        layers = self._load({layer: sorted(first.values())}, range(0), shares).weights.layers[layer]
        return [layers[first[kind]].nbytes for kind in kinds]

    def _kind_of(self, share: Share, index: int) -> tuple[int, ...]:
        """What decides over a share's size: for quantised weights where it begins, too; the first has all biases."""
        if self._store is not None:
            return (index,)
        return (int(index == 0), *map(len, astuple(share)))

    def of_head(self, rows: range) -> int:
        """The bytes of these rows of the last product, which do not depend on the panels before them."""
        first = rows.start % PANEL
        return self._head_bytes(range(first, first + len(rows)))

    def _of_head(self, rows: range) -> int:
        return self._load({}, rows, split_layer(self._config, 1)).weights.head.nbytes

    def _load(self, layers: Mapping[int, Sequence[int]], rows: range, shares: Sequence[Share]) -> Stage:
        return load_stage(
            self._checkpoint,
            self._config,
            layers,
            rows,
            self._dtype,
            _META,
            self._backend,
            self._store,
            shares,
        )


@lru_cache
def sizes_of(config: ModelConfig, dtype: torch.dtype, kernels: str, scheme: str | None, group: int) -> WeightSizes:
    """The same object for the same arguments: it remembers what it has counted."""
    return WeightSizes(config, dtype, kernels, scheme, group)


class _Shapes(Checkpoint):
    """A checkpoint of shapes alone."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self._shapes, self._dtype = stage_shapes(config, range(config.num_hidden_layers)), dtype

    def has(self, name: str) -> bool:
        """See Checkpoint."""
        return name in self._shapes

    def read(self, name: str, rows: range | None = None, columns: range | None = None) -> torch.Tensor:
        """See Checkpoint."""
        whole = torch.empty(self._shapes[name], dtype=self._dtype, device=_META)
        if columns is not None:
            return whole[:, columns.start : columns.stop]
        return whole if rows is None else whole[rows.start : rows.stop]

    def release(self) -> None:
        """There is no file."""


class _QuantizedShapes(QuantizedStore):
    """The shapes of a store of quantised weights, made or not."""

    def __init__(self, config: ModelConfig, scheme: str, group: int) -> None:
        self._config, self._bits, self._group = config, BITS[scheme], group

    def read(self, name: str) -> dict[str, QuantizedWeight]:
        """See QuantizedStore."""
        config = self._config
        if name == "head":
            return {"head": _quantized((config.vocab_size, config.hidden_size), HEAD_BITS, self._group)}
        return {
            product: _quantized(_stored_shape(config, product), self._bits, self._group)
            for product in products_of(config, int(name.removeprefix("layer")))
        }


def _stored_shape(config: ModelConfig, product: str) -> tuple[int, int]:
    """Gate and up take turns in whole blocks."""
    out_features, in_features = product_shape(config, product)
    if not product.endswith("gate_up"):
        return out_features, in_features
    return 2 * BLOCK * -(-(out_features // 2) // BLOCK), in_features


def _quantized(shape: tuple[int, int], bits: int, group: int) -> QuantizedWeight:
    """What `kernels.quantized.quantize` makes of a matrix [out_features, in_features]."""
    block = group * BLOCK * bits // 8 + 2 * BLOCK * (1 if bits == 8 else 2)  # codes; scales, with 4 bits minima too
    panels, groups = -(-shape[0] // PANEL), -(-shape[1] // group)
    return QuantizedWeight(
        torch.empty((panels, 2, groups, block), dtype=torch.uint8, device=_META), *shape, bits, group
    )


def _shapes_of(kernels: str) -> Plain:
    """Return a back end that holds weights in the form in which this one does."""
    if is_native(kernels):
        return _NativeShapes()
    return {"widened": Widened(Plain()), "blockwise": Blockwise()}.get(kernels, Plain())


class _NativeShapes(Plain):
    """The native back end lays weights of 16 bits out in whole panels."""

    def linear(self, weight: Weight, bias: torch.Tensor | None) -> Linear:
        if isinstance(weight, QuantizedWeight) or weight.shape[1] % 2:
            return super().linear(weight, bias)
        panels = -(-weight.shape[0] // PANEL) * PANEL
        return super().linear(weight.new_empty((panels, weight.shape[1])), bias)
