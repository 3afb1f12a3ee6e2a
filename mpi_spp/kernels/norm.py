"""Root-mean-square normalisation (Zhang and Sennrich, 2019)."""

import torch
import torch.nn.functional as F


class RMSNorm:
    """y = weight * x / sqrt(mean(x^2) + eps) over the last dim, in float32, rounded to the weight's dtype."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self.weight, self.eps, self._dtype = weight.float(), eps, weight.dtype
        self._twice = self.weight.repeat(2)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the shape of x, of any floating dtype, in the dtype of the weight."""
        return self.exact(x).to(self._dtype)

    def exact(self, x: torch.Tensor) -> torch.Tensor:
        """The same before it is rounded: float32."""
        x, size = x.float(), x.shape[-1]
        if x.numel() != size:
            return F.rms_norm(x, (size,), self.weight, self.eps)
        # One row is bound by the number of calls: layer normalisation is a single one, and [x, -x] has mean 0.
        mirrored = torch.cat((x, -x), dim=-1)
        return F.layer_norm(mirrored, (2 * size,), self._twice, None, self.eps)[..., :size]


class QKVNorm:
    """RMS norms of the queries and of the keys of a token, each over all heads of the model, of which some are here.

    Whoever has the other heads adds the squares of its own in between.
    """

    def __init__(
        self,
        weights: tuple[torch.Tensor, torch.Tensor],
        sizes: tuple[int, int],
        eps: float,
        counts_keys: bool,
        limit: float | None,
    ) -> None:
        """`weights`: of the queries and keys that are here; `sizes`: numbers in all queries and in all keys.

        `counts_keys`: False where others have the same keys and count them; `limit`: of all numbers that come out.
        """
        self._weights = [weight.float() for weight in weights]
        self._sizes, self._eps, self._counts_keys, self._limit = sizes, eps, counts_keys, limit

    def squares(self, qkv: torch.Tensor) -> torch.Tensor:
        """The sums of squares of queries and keys, float32 [tokens, 2], for qkv [tokens, queries + keys + values]."""
        queries, keys, _ = self._parts(qkv.float())
        sums = [queries.square().sum(-1), keys.square().sum(-1) * self._counts_keys]
        return torch.stack(sums, dim=-1)

    def __call__(self, qkv: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
        """Normalised and limited, in the shape and dtype of qkv. `squares` [tokens, 2]: over all heads."""
        queries, keys, values = self._parts(qkv.float())
        means = squares / squares.new_tensor(self._sizes)
        scales = (means + self._eps).rsqrt()
        normed = [part * scales[:, place, None] * self._weights[place] for place, part in enumerate((queries, keys))]
        joined = torch.cat([*normed, values], dim=-1)
        if self._limit is not None:
            joined.clamp_(-self._limit, self._limit)
        return joined.to(qkv.dtype)

    def _parts(self, qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        queries, keys = map(len, self._weights)
        return qkv.split((queries, keys, qkv.shape[-1] - queries - keys), dim=-1)
