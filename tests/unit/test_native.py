"""What only the native kernels promise: rows that do not depend on one another, and a library that builds."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from mpi_spp.kernels.attention import Heads
from mpi_spp.kernels.native import library
from mpi_spp.kernels.native.backend import Native
from mpi_spp.kernels.norm import RMSNorm
from mpi_spp.kernels.plain import Plain
from mpi_spp.model.store import cache_directory

pytestmark = pytest.mark.skipif(
    not library.cpu_features().issuperset(library._FEATURES), reason="needs a CPU with AVX512_BF16"
)


@pytest.fixture(scope="module")
def native() -> Native:
    loaded = library.load(cache_directory() / "kernels")
    assert loaded is not None, "the CPU has all that is needed: is there a C compiler?"
    return Native(loaded)


@pytest.mark.parametrize("rows", [2, 12, 13, 240, 301])
def test_a_row_of_a_product_is_the_same_alone(native: Native, rows: int) -> None:
    torch.manual_seed(rows)
    x, weight = torch.randn(rows, 1100).bfloat16(), torch.randn(70, 1100).bfloat16()
    linear = native.linear(weight, None)
    together = linear.to_float32(x)
    for row in {0, rows // 2, rows - 1}:
        assert torch.equal(linear.to_float32(x[row : row + 1]), together[row : row + 1])


def random_attention(backend: Plain, norms: bool, shape: tuple[int, int, int]) -> tuple["object", list[RMSNorm | None]]:
    torch.manual_seed(1)
    made = [backend.norm(torch.rand(shape[2]).bfloat16() + 0.5, 1e-6) if norms else None for _ in "qk"]
    return backend.attention(Heads(*shape, shape[2] ** -0.5), *made), made


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("window", [None, 1, 40, 300])
@pytest.mark.parametrize("tokens, start", [(1, 33), (3, 600), (7, 0), (100, 0), (128, 200)])
@pytest.mark.parametrize("shape", [(9, 3, 64), (4, 4, 16), (16, 8, 128), (5, 1, 10), (32, 1, 48)], ids=str)
def test_attention_from_its_inputs_on(
    native: Native, shape: tuple[int, int, int], tokens: int, start: int, window: int | None, norms: bool
) -> None:
    """As plain float32 gives it from the same rounded inputs; and each token's the same to the bit when it is alone."""
    attention, made = random_attention(native, norms, shape)
    num_heads, num_groups, size = shape
    exact = Plain().attention(
        Heads(*shape, size**-0.5), *(None if norm is None else RMSNorm(norm.weight, norm.eps) for norm in made)
    )
    qkv = torch.randn(tokens, (num_heads + 2 * num_groups) * size).bfloat16()
    angles = torch.rand(tokens, size // 2) * 6
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)
    stop = start + tokens
    keys, values = (
        torch.randn(num_groups, size, stop + 5).bfloat16(),
        torch.randn(num_groups, stop + 5, size).bfloat16(),
    )
    keys[:, :, stop:] = values[:, stop:] = float("nan")
    exact_keys, exact_values = keys.float(), values.float()
    output = attention(qkv, (cos, sin), keys, values, start, window)
    expected = exact(qkv.float(), (cos, sin), exact_keys, exact_values, start, window)
    assert (keys[:, :, :stop].float() - exact_keys[:, :, :stop]).abs().max() < 0.04  # rounded keys up to 8
    assert torch.equal(values[:, :stop].float(), exact_values[:, :stop])
    assert (output.float() - expected).abs().max() < 0.06
    for token in {0, tokens // 2, tokens - 1}:
        rows = slice(token, token + 1)
        alone = attention(qkv[rows], (cos[rows], sin[rows]), keys.clone(), values.clone(), start + token, window)
        assert torch.equal(alone, output[rows])


def test_a_norm_of_one_row_is_that_of_many(native: Native) -> None:
    torch.manual_seed(1)
    norm, x = native.norm(torch.rand(72).bfloat16(), 1e-5), torch.randn(20, 72)
    assert torch.equal(norm(x[3:4]), norm(x)[3:4])


def test_the_library_is_made_once_and_whole(tmp_path: Path) -> None:
    library.load.cache_clear()
    assert library.load(tmp_path) is not None
    made = [path.name for path in tmp_path.iterdir()]
    assert len(made) == 1 and made[0].endswith(".so"), made
    library.load.cache_clear()
    before = (tmp_path / made[0]).stat().st_mtime_ns
    assert library.load(tmp_path) is not None
    assert (tmp_path / made[0]).stat().st_mtime_ns == before


@pytest.mark.parametrize("compiler", ["no-such-compiler", shutil.which("false")])
def test_without_a_compiler_that_works_torch_is_used(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", compiler)
    library.load.cache_clear()
    assert library.load(tmp_path) is None
    assert compiler in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_the_kernels_do_not_bring_their_own_threads(tmp_path: Path) -> None:
    """Two teams of OpenMP threads on the same cores would wait for one another."""
    library.load.cache_clear()
    loaded = library.load(tmp_path)
    assert loaded is not None
    needed = subprocess.run(["ldd", loaded._name], capture_output=True, text=True, check=True).stdout
    assert "omp" not in needed
