"""Root-mean-square normalisation (Zhang and Sennrich, 2019)."""

import torch
import torch.nn.functional as F


class RMSNorm:
    """y = weight * x / sqrt(mean(x^2) + eps) over the last dim, in float32, rounded to the weight's dtype."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self.weight, self.eps, self._dtype = weight.float(), eps, weight.dtype
        self._twice = torch.cat((self.weight, self.weight))

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
