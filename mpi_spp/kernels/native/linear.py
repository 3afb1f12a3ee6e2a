"""Products with weights in panels of 32 outputs; float32 until they are stored."""

import ctypes
from typing import Any

import torch
import torch.nn.functional as F

from mpi_spp.kernels.quantized import PANEL, padded

STORE_FLOAT32, STORE_ELEMENTS, ADD_FLOAT32, SILU_MUL = range(4)


class Matrix(ctypes.Structure):
    """`Matrix` of native.h."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("out_features", "in_features", "bits", "group", "activations")),
    )


class NativeLinear:
    """A product with weights as they are, or quantised ones, laid out as linear.c says."""

    def __init__(
        self,
        library: ctypes.CDLL,
        panels: torch.Tensor,
        bias: torch.Tensor | None,
        shape: tuple[int, int],
        dtype: torch.dtype,
        bits: int | None = None,
        group: int = 1,
        activations: int = 16,
    ) -> None:
        """`panels`: the weights; `shape`: outputs and inputs of the product, in this dtype; `bits`: of codes.

        `activations`: their bits, 16 or 8.
        """
        self._product: Any = library.linear
        self._kept = (panels, None if bias is None else padded(bias.float(), PANEL))
        places = [None if part is None else part.data_ptr() for part in self._kept]
        self.matrix = Matrix(*places, *shape, bits or 8 * dtype.itemsize, group, activations)
        self._place = ctypes.addressof(self.matrix)
        self._out, self._dtype = shape[0], dtype
        self.nbytes = panels.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._into(x, torch.empty((x.shape[0], self._out), dtype=self._dtype), STORE_ELEMENTS)

    def to_float32(self, x: torch.Tensor) -> torch.Tensor:
        return self._into(x, torch.empty((x.shape[0], self._out)), STORE_FLOAT32)

    def add_to(self, total: torch.Tensor, x: torch.Tensor) -> None:
        self._into(x, total, ADD_FLOAT32)

    def _into(self, x: torch.Tensor, y: torch.Tensor, store: int) -> torch.Tensor:
        x = x.contiguous()
        if self._product(self._place, x.data_ptr(), y.data_ptr(), x.shape[0], store):
            raise MemoryError("a product found no memory")
        return y


class NativeSiluMul(NativeLinear):
    """silu(gate) * up in one product, whose panels hold 16 outputs of each."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._into(x, torch.empty((x.shape[0], self._out // 2), dtype=self._dtype), SILU_MUL)


class OddLinear:
    """A quantised product of an odd number of inputs, which are taken in pairs: a zero is added to each row.

    Its weights have codes for it, since groups are whole.
    """

    def __init__(self, product: NativeLinear) -> None:
        """`product`: the one with an input more."""
        self._product = product
        self.nbytes = product.nbytes

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(F.pad(x, (0, 1)))

    def to_float32(self, x: torch.Tensor) -> torch.Tensor:
        return self._product.to_float32(F.pad(x, (0, 1)))

    def add_to(self, total: torch.Tensor, x: torch.Tensor) -> None:
        self._product.add_to(total, F.pad(x, (0, 1)))


def panels_of(library: ctypes.CDLL, weight: torch.Tensor, alternate: bool = False) -> torch.Tensor:
    """Weights [out, in] as [panels, in * PANEL] (elements.h); with `alternate` each has 16 rows of either half."""
    out, in_ = weight.shape
    panels = torch.empty((-(-out // PANEL), in_ * PANEL), dtype=weight.dtype)
    weight = weight.contiguous()
    library.pack_panels(weight.data_ptr(), panels.data_ptr(), out, in_, alternate)
    return panels
