"""The kernels for ARM's NEON, run by an emulator: AVX2's bits, and what a product is."""

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from emulated import CROSS, MISSING, Case, driver_for, driver_here, emulated, results_of, run_driver
from object_code import references_to_stack

from mpi_spp.kernels.native import library
from mpi_spp.kernels.native.linear import ADD_FLOAT32, SILU_MUL, STORE_ELEMENTS, STORE_FLOAT32
from mpi_spp.kernels.quantized import dequantize, quantize
from mpi_spp.system import cpu

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}: a compiler for ARM, and an emulator")
VARIANTS = {"neon": "cortex-a72", "neon-dotprod": "cortex-a76", "neon-i8mm": "max"}  # and an old CPU that can run it
FORMS = [
    *((variant, torch.bfloat16) for variant in VARIANTS),
    *(("neon", torch.float32), ("neon-dotprod", torch.float16)),  # which differ in products with codes alone
]
AS_THEY_ARE = (16, 1, 16)  # weights that are no codes: bits, group, and bits of the activations
BFLOAT16 = "neon-bf16"
IN, OUT = 332, 70


@functools.cache
def cases(dtype: torch.dtype = torch.bfloat16) -> list[Case]:
    torch.manual_seed(1)
    products = (*weighted(dtype), *quantized(dtype))
    return [*products, *norms_and_panels(dtype), *attention(dtype), *copies_of_keys(dtype)]


def weighted(dtype: torch.dtype) -> Iterator[Case]:
    weight, bias = torch.randn(-(-OUT // 32), IN // 2, 32, 2).to(dtype), torch.randn(96)
    for rows in (1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 45, 100):
        x = torch.randn(rows, IN).to(dtype)
        yield product((weight, bias), x, torch.empty(rows, OUT).zero_())
    x = torch.randn(5, IN).to(dtype)
    yield product((weight, None), x, torch.zeros(5, OUT).to(dtype), store=STORE_ELEMENTS)
    yield product((weight, None), x, torch.randn(5, OUT), store=ADD_FLOAT32)
    yield product((weight, None), x, torch.zeros(5, OUT // 2).to(dtype), store=SILU_MUL)


def product(
    weight: tuple[torch.Tensor, torch.Tensor | None],
    x: torch.Tensor,
    y: torch.Tensor,
    form: tuple[int, int, int] = AS_THEY_ARE,
    store: int = STORE_FLOAT32,
) -> Case:
    return Case("linear", (OUT, IN, *form, len(x), store), (*weight, x, y))


def quantized(dtype: torch.dtype) -> Iterator[Case]:
    """With 16 outliers, and a group of zeros; groups of 528 become elements first."""
    weight, x = torch.randn(OUT, IN), torch.randn(9, IN)
    x[:, ::97] *= 30
    x[3, 32:64] = 0
    for bits, group, activations in ((8, 32, 16), (4, 32, 16), (4, 32, 8), (8, 512, 16), (4, 48, 8), (8, 528, 16)):
        codes = quantize(weight, bits, group).data
        for rows in (1, 2, 3, 4, 9):
            yield product((codes, None), x[:rows].to(dtype), torch.zeros(rows, OUT), (bits, group, activations))


def norms_and_panels(dtype: torch.dtype) -> Iterator[Case]:
    for rows in (1, 20):
        numbers = (torch.randn(rows, 72), torch.rand(72), torch.zeros(rows, 72).to(dtype))
        yield Case("rms_norm", (rows, 72), numbers, [1e-5])
    for alternate in (0, 1):
        to = torch.zeros(3, 20, 32, 2).to(dtype)
        yield Case("pack_panels", (OUT, 40, alternate), (torch.randn(OUT, 40).to(dtype), to))


def attention(dtype: torch.dtype) -> Iterator[Case]:
    """What `store_and_attend` does: a NaN in a key and a value, too, and numbers too small for a scale."""
    for cache_dtype in (dtype, torch.int8):
        for tokens, groups, heads, size, start, window in (
            (1, 3, 3, 64, 300, 1 << 40),
            (40, 2, 2, 48, 270, 50),
            (3, 1, 5, 10, 0, 2),
        ):
            capacity = start + tokens + 5
            cache = random_cache(cache_dtype, groups, size, capacity)
            qkv = torch.randn(tokens, groups * (heads + 2), size)
            qkv[-1, heads, 3], qkv[0, heads + 1] = 1e-40, 0
            angles = torch.rand(tokens, size // 2) * 6
            rotation = (torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1))
            norms = (torch.rand(size), None)
            queries = torch.zeros(groups, tokens, heads, size).to(dtype)
            sizes = (tokens, groups, heads, size)
            inputs = (qkv.to(dtype), *rotation, *norms, queries, *cache)
            yield Case("rotate", (*sizes, start, capacity), inputs, (1e-6, 0.3))
            queries, output = torch.randn(queries.shape).to(dtype), torch.zeros(tokens, groups * heads, size)
            yield Case("attend", (*sizes, start, window, capacity), (queries, output.to(dtype), *cache))
            seen = (*sizes, start, window, 7, start, capacity)
            yield Case("attend_part", seen, (queries, output, torch.zeros(tokens, groups * heads), *cache))


def random_cache(dtype: torch.dtype, groups: int, size: int, capacity: int) -> tuple[torch.Tensor | None, ...]:
    shapes = (groups, -(-capacity // 32), size // 2, 32, 2), (groups, capacity, size)
    if dtype != torch.int8:
        return (*(torch.randn(shape).to(dtype) for shape in shapes), None, None)
    codes = (torch.randint(-127, 128, shape, dtype=torch.int8) for shape in shapes)
    return (*codes, *(torch.rand(groups, capacity) / 40 for _ in shapes))


def copies_of_keys(dtype: torch.dtype) -> Iterator[Case]:
    for kept in (torch.uint8, torch.int16 if dtype.itemsize == 2 else torch.int32):
        for start, count in ((0, 64), (5, 40), (31, 2)):
            panels = torch.randint(0, 255, (2, 3, 5, 32, 2), dtype=kept)
            columns = torch.randint(0, 255, (2, 10, count), dtype=kept)
            sizes = (2, 3, 10, start, count, kept.itemsize)
            yield Case("take_keys", sizes, (panels, columns))
            yield Case("put_keys", sizes, (panels, columns))


@pytest.mark.parametrize("variant, dtype", FORMS, ids=str)
def test_all_results_are_those_of_avx2_to_the_bit(variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Products, norms, rotation, attention, and copies of the cache."""
    if missing := set(library.VARIANTS["avx2"]) - cpu.features():
        pytest.skip(f"needs a CPU with {', '.join(sorted(missing))} to compare with")
    given = cases(dtype)
    expected = results_of([driver_here("avx2", dtype)], given, tmp_path)
    found = results_of(emulated(driver_for(variant, dtype), VARIANTS[variant]), given, tmp_path)
    wrong = [
        (case.function, case.integers, place)
        for case, ours, theirs in zip(given, found, expected, strict=True)
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True))
        if a is not None and b is not None and not torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("variant, dtype", [*FORMS, (BFLOAT16, torch.bfloat16)], ids=str)
def test_products_are_right(variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Against float64, whatever other CPU is at hand."""
    torch.manual_seed(2)
    weight, x = torch.randn(OUT, IN), torch.randn(6, IN).to(dtype)
    forms = (AS_THEY_ARE, (8, 32, 16), (4, 32, 16), (4, 32, 8))
    codes = [None if form is AS_THEY_ARE else quantize(weight, *form[:2]) for form in forms]
    rows, pair = torch.zeros(96, IN), 2 if dtype == torch.bfloat16 else 1
    rows[:OUT] = weight
    panels = rows.view(3, 32, IN // pair, pair).transpose(1, 2).to(dtype)
    given = [
        product((panels if code is None else code.data, None), x, torch.zeros(6, OUT), form)
        for code, form in zip(codes, forms, strict=True)
    ]
    found = results_of(emulated(driver_for(variant, dtype), "max"), given, tmp_path)
    for code, form, (*_, y) in zip(codes, forms, found, strict=True):
        exact = x.double() @ (weight.to(dtype) if code is None else dequantize(code)).double().T
        error = (y.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
        assert error < {16: 3e-5, 8: 1e-2}[form[2]], (form, error)


def test_the_instruction_for_bfloat16_changes_its_products_alone(tmp_path: Path) -> None:
    """It rounds otherwise; codes and all that is no product of bfloat16 give the same bits."""
    ours, theirs = (
        results_of(emulated(driver_for(variant), "max"), cases(), tmp_path) for variant in (BFLOAT16, "neon-dotprod")
    )
    for case, found, expected in zip(cases(), ours, theirs, strict=True):
        near = {"rtol": 2.0**-6, "atol": 2e-2} if multiplies_bfloat16(case) else {"rtol": 0.0, "atol": 0.0}
        for a, b in zip(found, expected, strict=True):
            if a is not None and b is not None:
                torch.testing.assert_close(a, b, equal_nan=True, **near)


def multiplies_bfloat16(case: Case) -> bool:
    if case.function != "linear":
        return case.function.startswith("attend")
    return case.integers[2] == 16 or case.integers[3] > 512


@pytest.mark.parametrize("rows", [2, 3, 5, 6, 13, 100])
def test_a_row_of_bfloat16_is_the_same_alone(rows: int, tmp_path: Path) -> None:
    torch.manual_seed(rows)
    weight, x = torch.randn(3, IN // 2, 32, 2).bfloat16(), torch.randn(rows, IN).bfloat16()
    parts = (x, *(x[row : row + 1] for row in (0, rows // 2, rows - 1)))
    given = [product((weight, None), part, torch.zeros(len(part), OUT)) for part in parts]
    (*_, whole), *alone = results_of(emulated(driver_for(BFLOAT16), "max"), given, tmp_path)
    for row, (*_, one) in zip((0, rows // 2, rows - 1), alone, strict=True):
        assert torch.equal(one, whole[row : row + 1])


@pytest.mark.parametrize(
    "variant, oldest, older",
    [
        ("neon-bf16", "max", "cortex-a76"),
        ("neon-i8mm", "max", "cortex-a76"),
        ("neon-i8mm", "max", "cortex-a72"),
        ("neon-dotprod", "cortex-a76", "cortex-a72"),
        ("neon", "cortex-a53", ""),
    ],
)
def test_a_cpu_tells_which_variants_it_can_run(variant: str, oldest: str, older: str) -> None:
    """And the other one would end by SIGILL: its features say no before."""
    driver = driver_for(variant)

    def features(name: str) -> frozenset[str]:
        return cpu.hwcap_names(*map(int, run_driver(emulated(driver, name)).stdout.split()))

    needed = set(library.VARIANTS[variant])
    assert features(oldest) >= needed and features("max") >= needed
    assert not older or not features(older) >= needed


@pytest.mark.parametrize("variant, least", [("neon", 20), ("neon-dotprod", 24), ("neon-i8mm", 24), ("neon-bf16", 20)])
def test_sums_stay_in_registers(variant: str, least: int) -> None:
    objdump = CROSS.replace("gcc", "objdump")
    tiles = references_to_stack(driver_for(variant), "tile", "fmla|bfdot|bfmmla", objdump)
    codes = references_to_stack(
        driver_for(variant), "some_rows|multiply_blocks", "smlal|sdot|udot|smmla|usmmla|sudot", objdump
    )
    counts = [count for loops in (tiles | codes).values() for count in loops]
    assert shutil.which(objdump) and len(counts) >= least and max(counts) <= 2 and counts.count(2) <= 1, (tiles, codes)
