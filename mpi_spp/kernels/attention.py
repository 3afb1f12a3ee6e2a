"""Causal attention of the last rows of a sequence over its cache."""

import copy
from dataclasses import dataclass, replace
from typing import Self

import torch

from mpi_spp.kernels.cache import LayerCache
from mpi_spp.kernels.merge import Part, nothing
from mpi_spp.kernels.norm import RMSNorm

Rotation = tuple[torch.Tensor, torch.Tensor]  # cosines and signed sines, each [tokens, head_dim]

_FEW_TOKENS = 4  # up to so many, one batched product over all heads is faster than a loop over them
_ROWS = 128  # of a part at once: so their scores take little room, and rows before the keys no time


@dataclass(frozen=True)
class Heads:
    """The shape of a layer's attention: query heads, key/value heads, numbers in a head, factor of the scores."""

    num_heads: int
    num_groups: int
    size: int
    scale: float


class Attention:
    """Takes queries, keys and values apart, rotates, stores into the cache and attends over it."""

    def __init__(self, heads: Heads, q_norm: RMSNorm | None, k_norm: RMSNorm | None) -> None:
        self.heads, self.norms = heads, (q_norm, k_norm)

    def with_heads(self, num_heads: int, num_groups: int) -> Self:
        """The same for so many of the layer's query heads and key/value heads."""
        other = copy.copy(self)
        other.heads = replace(self.heads, num_heads=num_heads, num_groups=num_groups)
        return other

    def __call__(
        self, qkv: torch.Tensor, rotation: Rotation, cache: LayerCache, start: int, window: int | None
    ) -> torch.Tensor:
        """Outputs [tokens, num_heads * size] for `qkv` [tokens, (num_heads + 2 * num_groups) * size].

        The cache receives the tokens from position `start` on. A token sees `window` positions up to its own; None:
        all. What the cache rounds off, the token itself does not see either: chunks of any size see the same.
        """
        queries = self.store(qkv, rotation, cache, start)
        keys, values = cache.read(first_visible(start, window), start + len(qkv), queries.dtype)
        return attention(queries, keys, values, window)

    def store(self, qkv: torch.Tensor, rotation: Rotation, cache: LayerCache, slot: int) -> torch.Tensor:
        """Store keys and values from `slot` on; returns the queries as `part` wants them."""
        queries, new_keys, new_values = self._rotated(qkv, rotation)
        cache.store(slot, new_keys, new_values)
        return queries

    def part(self, queries: torch.Tensor, cache: LayerCache, slots: range, ahead: int, window: int | None) -> Part:
        """What consecutive queries make of consecutive keys: outputs [tokens, num_heads, size].

        The first query stands `ahead` positions behind the first of the keys in `slots`, or before it if that is
        negative. All slots before them are filled, too.
        """
        keys, values = cache.read(slots.start, slots.stop, queries.dtype)
        return attention_part(queries, keys, values, ahead, window)

    def _rotated(self, qkv: torch.Tensor, rotation: Rotation) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated and scaled queries, rotated keys, and values, each [tokens, heads, size]."""
        heads, (q_norm, k_norm) = self.heads, self.norms
        parts = qkv.view(len(qkv), -1, heads.size)
        queries, keys, values = parts.split((heads.num_heads, heads.num_groups, heads.num_groups), dim=1)
        if q_norm is not None and k_norm is not None:
            queries, keys = q_norm(queries), k_norm(keys)
        return rotate(queries, *rotation).mul_(heads.scale), rotate(keys, *rotation), values


def rotate(heads: torch.Tensor, cos: torch.Tensor, signed_sin: torch.Tensor) -> torch.Tensor:
    """Rotate heads [tokens, heads, size] by cosines and signed sines [tokens, size] (Su et al., 2021)."""
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    return (heads * cos[:, None]).addcmul_(swapped, signed_sin[:, None])


def first_visible(start: int, window: int | None) -> int:
    """The first key position that the query at position `start` sees through a sliding window of `window` keys."""
    return 0 if window is None else max(0, start - window + 1)


def attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int | None = None
) -> torch.Tensor:
    """Grouped-query attention of the last tokens of a sequence: row i sees the keys up to its own position.

    `queries` [tokens, num_attention_heads, head_dim], already scaled; `keys` [num_key_value_heads, head_dim,
    positions] and
    `values` [num_key_value_heads, positions, head_dim], of which the last `tokens` positions are the queries' own.
    Returns [tokens, num_attention_heads * head_dim].

    Scores are rounded to the dtype of the queries, softmax runs in float32 inside: in bfloat16 the logits then differ
    from float32 as much as those of torch's fused attention do (tests/unit/test_bfloat16.py), and the products run at
    full speed.
    """
    tokens, num_heads, head_dim = queries.shape
    num_groups = keys.shape[0]
    mask = _mask(tokens, keys.shape[2], window, queries)
    if tokens <= _FEW_TOKENS:
        return _batched(queries, keys, values, mask)
    output = torch.empty_like(queries).view(tokens, num_groups, -1, head_dim)
    grouped = queries.view(tokens, num_groups, -1, head_dim)
    for group in range(num_groups):
        rows = grouped[:, group].reshape(-1, head_dim)  # [tokens * heads of the group, head_dim]
        scores = torch.mm(rows, keys[group])
        _hide(scores.view(tokens, -1, scores.shape[1]), mask)
        output[:, group] = torch.mm(torch.softmax(scores, dim=-1), values[group]).view(tokens, -1, head_dim)
    return output.view(tokens, num_heads * head_dim)


def attention_part(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, ahead: int, window: int | None
) -> Part:
    """As `attention`, of any consecutive keys: row i stands `ahead + i` positions behind the first of them."""
    tokens, num_heads, size = queries.shape
    part = nothing(tokens, num_heads, size, device=queries.device)
    for first in range(0, tokens, _ROWS):
        rows = range(first, min(first + _ROWS, tokens))
        seen = range(max(0, first_visible(ahead + first, window)), min(ahead + rows.stop, keys.shape[2]))
        if len(seen):
            some = Part(*(each[rows.start : rows.stop] for each in part))
            of_keys = keys[..., seen.start : seen.stop], values[:, seen.start : seen.stop]
            _fill(some, queries[rows.start : rows.stop], *of_keys, ahead + first, seen, window)
    return part


def _fill(
    part: Part,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    position: int,
    seen: range,
    window: int | None,
) -> None:
    """Fill in what a few rows make of the keys that any of them sees. `position`: of the first row, as keys count."""
    tokens, _, size = queries.shape
    mask = _mask_of(range(position, position + tokens), seen, window, queries.device)
    grouped, outputs, log_sums = (
        each.view(tokens, keys.shape[0], -1, *each.shape[2:]) for each in (queries, *part)
    )  # [tokens, groups, heads of a group, ...]
    for group, (of_keys, of_values) in enumerate(zip(keys, values, strict=True)):
        scores = torch.mm(grouped[:, group].reshape(-1, size), of_keys).float()
        if mask is not None:
            scores.view(tokens, -1, len(seen)).add_(mask[:, None])
        sums = scores.logsumexp(dim=-1)
        weights = scores.sub_(sums.clamp(min=torch.finfo(sums.dtype).min)[:, None]).exp_()
        outputs[:, group] = torch.mm(weights.to(queries.dtype), of_values).view(tokens, -1, size)
        log_sums[:, group] = sums.view(tokens, -1)


def _mask_of(rows: range, keys: range, window: int | None, device: torch.device) -> torch.Tensor | None:
    """What to add to scores [rows, keys], by position: 0 or -inf; None when every key is seen."""
    if rows.start >= keys.stop - 1 and (window is None or keys.start > rows.stop - 1 - window):
        return None
    distance = torch.arange(rows.start, rows.stop, device=device)[:, None] - torch.arange(
        keys.start, keys.stop, device=device
    )
    hidden = distance < 0
    if window is not None:
        hidden |= distance >= window
    return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))


def _batched(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """All heads in two batched products."""
    tokens, num_heads, head_dim = queries.shape
    num_groups = keys.shape[0]
    by_group = queries.view(tokens, num_groups, -1, head_dim).transpose(0, 1).reshape(num_groups, -1, head_dim)
    scores = torch.bmm(by_group, keys)
    _hide(scores.view(num_groups, tokens, -1, scores.shape[2]), mask)
    output = torch.bmm(torch.softmax(scores, dim=-1), values)
    return output.view(num_groups, tokens, -1).transpose(0, 1).reshape(tokens, num_heads * head_dim)


def _hide(scores: torch.Tensor, mask: torch.Tensor | None) -> None:
    """Add the mask to the last columns of scores [..., tokens, heads, keys], in place."""
    if mask is not None:
        last = scores[..., -mask.shape[1] :]
        last += mask[:, None]


def _mask(tokens: int, num_keys: int, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """What to add to the scores of the last columns, [tokens, columns]: 0 or -inf; None when every key is seen."""
    if tokens == 1:
        return None
    columns = tokens if window is None else num_keys  # without a window only the chunk itself hides keys
    row = torch.arange(tokens, device=like.device)[:, None] + (columns - tokens)
    column = torch.arange(columns, device=like.device)
    hidden = column > row
    if window is not None:
        hidden |= column <= row - window
    return torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, float("-inf"))
