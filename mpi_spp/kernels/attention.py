"""Causal attention of the last rows of a sequence over its cache."""

import torch


def first_visible(start: int, window: int | None) -> int:
    """The first key position that the query at position `start` sees through a sliding window of `window` keys."""
    return 0 if window is None else max(0, start - window + 1)


def attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, start: int, window: int | None = None
) -> torch.Tensor:
    """Grouped-query attention; query row i stands at position `start + i` and sees no later key.

    `queries` [tokens, num_attention_heads, head_dim]; `keys` and `values` [num_key_value_heads, positions, head_dim] from
    position `first_visible(start, window)` to `start + tokens`. Returns [tokens, num_attention_heads * head_dim].
    A loop over key/value heads of plain matrix products is faster on CPUs than one batched product.
    """
    tokens, num_heads, head_dim = queries.shape
    num_groups = keys.shape[0]
    mask = _mask(tokens, keys.shape[1], window, queries)
    scale = head_dim**-0.5
    output = torch.empty_like(queries).view(tokens, num_groups, -1, head_dim)
    grouped = queries.view(tokens, num_groups, -1, head_dim)
    for group in range(num_groups):
        rows = grouped[:, group].reshape(-1, head_dim)  # [tokens * heads of the group, head_dim]
        scores = torch.mm(rows, keys[group].t()).mul_(scale)
        if mask is not None:
            by_token = scores.view(tokens, -1, scores.shape[1])[..., -mask.shape[1] :]
            by_token += mask[:, None]
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(queries.dtype)
        output[:, group] = torch.mm(weights, values[group]).view(tokens, -1, head_dim)
    return output.view(tokens, num_heads * head_dim)


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
