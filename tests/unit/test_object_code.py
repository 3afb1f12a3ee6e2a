"""What the compiler made of the hot loops of x86's kernels: with sums in memory they would be five times slower."""

import shutil

import pytest
import torch
from object_code import references_to_stack

from mpi_spp.kernels.native import library
from mpi_spp.model.loading.hub import cache_directory

FLOATS, INTEGERS = r"vfmadd|vdpbf16ps", r"(\{vex\} )?(vpmaddwd|vpdpwssd|vpmaddubsw|vpdpbusd|vdpbf16ps)"
# Of each variant: the fewest loops there must be, the most references to the stack in one, of tiles and of codes.
LIMITS = {
    ("amx", torch.bfloat16): ((0, 0), (24, 0)),
    ("avx512bf16", torch.bfloat16): ((24, 2), (24, 0)),
    ("avx512vnni", torch.bfloat16): ((12, 0), (24, 0)),
    ("avx512", torch.bfloat16): ((12, 0), (24, 0)),
    ("avxvnni", torch.bfloat16): ((10, 0), (8, 0)),
    ("avx2", torch.bfloat16): ((10, 0), (8, 0)),
    ("avx512vnni", torch.float32): ((12, 0), (24, 0)),
    ("avx2", torch.float32): ((10, 0), (8, 0)),
    ("avx2", torch.float16): ((10, 0), (8, 0)),
}


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs binutils")
@pytest.mark.parametrize("name, dtype", LIMITS, ids=str)
def test_sums_of_a_product_stay_in_registers(name: str, dtype: torch.dtype) -> None:
    if name not in library.runnable(dtype):
        pytest.skip(f"needs a CPU for {name}")
    compiled = library.load(name, cache_directory() / "kernels", dtype)._name
    for (least, most), functions, hot in zip(
        LIMITS[name, dtype], ("tile", "some_rows|multiply_blocks"), (FLOATS, INTEGERS), strict=True
    ):
        found = references_to_stack(compiled, functions, hot)
        counts = [count for loops in found.values() for count in loops]
        assert len(counts) >= least and max(counts, default=0) <= most, found
