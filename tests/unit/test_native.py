"""What only the native kernels promise: rows that do not depend on one another, and a library that builds."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from native_layers import (
    ALIKE,
    OTHERS,
    copy_of,
    equal,
    made,
    random_cache,
    random_layer,
    random_rotation,
)

from mpi_spp.kernels.attention import Heads
from mpi_spp.kernels.attention import attention as attend
from mpi_spp.kernels.cache import LayerCache, quantize_heads
from mpi_spp.kernels.layer import FusedSpan
from mpi_spp.kernels.native import library
from mpi_spp.kernels.native.backend import Native
from mpi_spp.kernels.norm import RMSNorm
from mpi_spp.kernels.plain import Plain
from mpi_spp.model.loading.hub import cache_directory

pytestmark = pytest.mark.skipif(not library.runnable(), reason="needs a CPU with AVX2, or 64-bit ARM")


@pytest.mark.parametrize("rows", [2, 12, 13, 240, 301])
def test_a_row_of_a_product_is_the_same_alone(native: Native, rows: int) -> None:
    torch.manual_seed(rows)
    x, weight = torch.randn(rows, 1100).to(native.dtype), torch.randn(70, 1100).to(native.dtype)
    linear = native.linear(weight, None)
    together = linear.to_float32(x)
    for row in {0, rows // 2, rows - 1}:
        assert torch.equal(linear.to_float32(x[row : row + 1]), together[row : row + 1])


def random_attention(
    backend: Native, norms: bool, shape: tuple[int, int, int]
) -> tuple["object", list[RMSNorm | None]]:
    torch.manual_seed(1)
    made = [backend.norm(torch.rand(shape[2]).to(backend.dtype) + 0.5, 1e-6) if norms else None for _ in "qk"]
    return backend.attention(Heads(*shape, shape[2] ** -0.5), *made), made


@pytest.mark.parametrize("window, norms", [(None, False), (None, True), (1, False), (40, True), (300, False)], ids=str)
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
    qkv = torch.randn(tokens, (num_heads + 2 * num_groups) * size).to(native.dtype)
    cos, sin = random_rotation(tokens, size)
    stop = start + tokens
    cache = random_cache(native, num_groups, size, start, stop + 5, native.dtype)
    before = [part.float() for part in cache.read(0, stop, native.dtype)]
    output = attention(qkv, (cos, sin), cache, start, window)
    expected = exact(qkv.float(), (cos, sin), LayerCache(*before), start, window)
    keys, values = (part.float() for part in cache.read(0, stop, native.dtype))
    assert (keys - before[0]).abs().max() < error_of(native)  # rounded keys up to 8
    assert torch.equal(values, before[1])
    assert (output.float() - expected).abs().max() < error_of(native)
    for token in {0, tokens // 2, tokens - 1}:
        rows = slice(token, token + 1)
        copy = copy_of(cache)
        alone = attention(qkv[rows], (cos[rows], sin[rows]), copy, start + token, window)
        assert torch.equal(alone, output[rows])


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("tokens, start", [(1, 33), (3, 600), (7, 0), (128, 200)])
@pytest.mark.parametrize("shape", [(9, 3, 64), (4, 4, 16), (5, 1, 10), (32, 1, 48)], ids=str)
def test_attention_over_an_int8_cache_from_its_inputs_on(
    native: Native, shape: tuple[int, int, int], tokens: int, start: int, window: int | None
) -> None:
    """The codes are those of the float32 keys and of the values; and a token's row is the same to the bit alone."""
    attention, _ = random_attention(native, False, shape)
    num_heads, num_groups, size = shape
    qkv = torch.randn(tokens, (num_heads + 2 * num_groups) * size).to(native.dtype)
    rotation, stop = random_rotation(tokens, size), start + tokens
    queries, new_keys, new_values = Plain().attention(attention.heads, None, None)._rotated(qkv.float(), rotation)
    cache = random_cache(native, num_groups, size, start, stop + 5, torch.int8)
    output = attention(qkv, rotation, cache, start, window)
    codes, scales = quantize_heads(new_values)
    assert torch.equal(cache.values[:, start:stop], codes.transpose(0, 1))
    assert torch.equal(cache.value_scales[:, start:stop], scales.T)
    keys, values = (part.double() for part in cache.read(0, stop, torch.float32))
    errors = (keys[:, :, start:] - new_keys.permute(1, 2, 0)).abs()
    assert (errors <= cache.key_scales[:, None, start:stop] * 0.5001).all()
    expected = attend(queries.double(), keys, values)
    if window is not None:
        first = max(0, start - window + 1)
        expected = attend(queries.double(), keys[:, :, first:], values[:, first:], window)
    assert (output.double() - expected).abs().max() < error_of(native)
    for token in {0, tokens // 2, tokens - 1}:
        rows, copy = slice(token, token + 1), copy_of(cache)
        alone = attention(qkv[rows], (rotation[0][rows], rotation[1][rows]), copy, start + token, window)
        assert torch.equal(alone, output[rows])
        assert equal(copy, cache, stop)


def error_of(native: Native) -> float:
    """Of numbers up to 8 that are rounded to its dtype, and of float32 sums of thousands."""
    return 8 * torch.finfo(native.dtype).eps + 4e-6


def test_scales_of_no_head_and_of_a_broken_one(native: Native) -> None:
    """Zeros, numbers too small for a scale, for an exact scale, and a NaN, which must not look like a number."""
    size = 32
    attention = native.attention(Heads(1, 1, size, 1.0), None, None)
    qkv = torch.zeros(5, 3, size)
    qkv[1, 2, 3], qkv[2, 2, 3], qkv[3, 2, 3], qkv[4, 2, 3] = 1e-40, 3e-38, float("nan"), 5.0
    cache = random_cache(native, 1, size, 0, 5, torch.int8)
    attention(qkv.to(native.dtype).flatten(1), (torch.ones(5, size), torch.zeros(5, size)), cache, 0, None)
    codes, scales = quantize_heads(qkv[:, 2:].to(native.dtype))
    numbers, broken = [0, 1, 2, 4], 3
    assert torch.equal(cache.value_scales[0, numbers], scales[numbers, 0])
    assert torch.equal(cache.values[0, numbers], codes[numbers, 0])
    assert cache.read(0, 5, torch.float32)[1][0, broken].isnan().all()


@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("quantized", [False, True])
def test_a_layer_in_one_call_is_its_operations(native: Native, quantized: bool, tokens: int) -> None:
    """To the bit, the cache included."""
    torch.manual_seed(1)
    layer, size, hidden, start = random_layer(native), 16, torch.randn(tokens, 32), 5
    cache = random_cache(native, 2, size, start, start + tokens, torch.int8 if quantized else native.dtype)
    copy, rotation, apart = copy_of(cache), random_rotation(tokens, size), hidden.clone()
    heads, mlp, fused = layer.heads, layer.mlp, native.fused(layer)
    assert heads is not None and mlp is not None and fused is not None
    heads.output.add_to(apart, heads.attention(heads.qkv(layer.input_norm(apart)), rotation, cache, start, None))
    mlp.down.add_to(apart, mlp.gate_up(layer.mlp_norm(apart)))
    fused(hidden, rotation, [FusedSpan(tokens, start, fused.places([copy]))])
    assert torch.equal(hidden, apart) and not hidden.isnan().any()
    assert equal(copy, cache, start + tokens)


@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
def test_layers_in_float32_are_the_same_by_all_instructions(dtype: torch.dtype, tokens: int) -> None:
    """So hosts of several kinds have the same bits."""
    found = []
    for name in ALIKE if dtype == torch.bfloat16 else [name for name, of in OTHERS if of == dtype]:
        backend = made(name, dtype)
        torch.manual_seed(1)
        fused, hidden = backend.fused(random_layer(backend)), torch.randn(tokens, 32)
        cache = random_cache(backend, 2, 16, 5, 5 + tokens, dtype)
        assert fused is not None
        fused(hidden, random_rotation(tokens, 16), [FusedSpan(tokens, 5, fused.places([cache]))])
        found.append((hidden, cache))
    for hidden, cache in found[1:]:
        assert torch.equal(hidden, found[0][0]) and equal(cache, found[0][1], 5 + tokens)


@pytest.mark.parametrize("tokens", [1, 20])
def test_halves_of_a_layer_make_up_the_whole(native: Native, tokens: int) -> None:
    """With what they add brought by another rank, as it does in tensor parallelism."""
    torch.manual_seed(1)
    fused, size, hidden, start = native.fused(random_layer(native)), 16, torch.randn(tokens, 32), 5
    assert fused is not None
    cache, rotation = (
        random_cache(native, 2, size, start, start + tokens, native.dtype),
        random_rotation(tokens, size),
    )
    inputs = (rotation, [FusedSpan(tokens, start, fused.places([cache]))])
    kept, brought = hidden.clone(), hidden.clone()
    fused.attend(kept, *inputs, True)
    fused.attend(brought, *inputs, False)
    torch.testing.assert_close(hidden + brought, kept)
    together = kept.clone()
    brought = kept.clone()
    fused.transform(kept, True)
    fused.transform(brought, False)
    torch.testing.assert_close(together + brought, kept)
    fused(hidden, *inputs)
    assert torch.equal(hidden, kept)


def test_a_norm_of_one_row_is_that_of_many(native: Native) -> None:
    torch.manual_seed(1)
    norm, x = native.norm(torch.rand(72).to(native.dtype), 1e-5), torch.randn(20, 72)
    assert torch.equal(norm(x[3:4]), norm(x)[3:4])


@pytest.fixture
def best() -> Iterator[str]:
    """The best variant, to be loaded anew."""
    library.load.cache_clear()
    yield library.runnable()[0]
    library.load.cache_clear()


def test_the_library_is_made_once_and_whole(best: str, tmp_path: Path) -> None:
    library.load(best, tmp_path)
    made = [path.name for path in tmp_path.iterdir()]
    assert len(made) == 1 and made[0].endswith(".so"), made
    library.load.cache_clear()
    before = (tmp_path / made[0]).stat().st_mtime_ns
    loaded = library.load(best, tmp_path)
    assert (tmp_path / made[0]).stat().st_mtime_ns == before
    # Two teams of OpenMP threads on the same cores would wait for one another.
    needed = subprocess.run(["ldd", loaded._name], capture_output=True, text=True, check=True).stdout
    assert "omp" not in needed
    assert re.fullmatch(r"(gcc|clang) \d+.*", library.compiler_of(loaded))


@pytest.mark.parametrize("damage", ["empty", "torn", "another"])
def test_a_library_that_is_not_whole_is_made_anew(
    damage: str, best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To load a torn one would end the process."""
    compiled = Path(library.load(best, cache_directory() / "kernels")._name).read_bytes()

    def copied(sources: object, flags: object, scratch: Path) -> Path:
        (scratch / "native.so").write_bytes(compiled)
        return scratch / "native.so"

    monkeypatch.setattr(library, "compiled", copied)
    library.load.cache_clear()
    library.load(best, tmp_path)
    (made,) = tmp_path.iterdir()
    content = made.read_bytes()
    damaged = {"empty": b"", "torn": content[: len(content) // 3], "another": content[:-1] + b"?"}[damage]
    (tmp_path / "damaged").write_bytes(damaged)
    os.replace(tmp_path / "damaged", made)  # the one that is loaded stays as it is
    library.load.cache_clear()
    assert not library.is_kept(best, tmp_path)
    library.load(best, tmp_path)
    assert library.is_kept(best, tmp_path) and made.stat().st_size == len(content)


@pytest.mark.parametrize("compiler", ["no-such-compiler", shutil.which("false")])
def test_without_a_compiler_that_works_the_reason_is_told(
    compiler: str, best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(library.NoKernels, match=compiler):
        library.load(best, tmp_path)
    assert list(tmp_path.iterdir()) == []
