"""Tries back ends in a process of its own: one that raises, is wrong, crashes or hangs must not take the run with it.

The process is `mpi_spp.kernels.trial PARENT DIRECTORY DTYPE NAME...` (see start.py). It prints a line for each.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from mpi_spp.kernels.attention import Heads
from mpi_spp.kernels.backends import is_native, make
from mpi_spp.kernels.cache import LayerCache
from mpi_spp.kernels.native.library import NoKernels
from mpi_spp.kernels.plain import Plain
from mpi_spp.kernels.quantized import BITS, dequantize, quantize
from mpi_spp.system import start

WORKS = "works"
_SECONDS = 150  # for one back end, a compiler and the imports on a busy machine included
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_ROWS = (1, 40)
_PRECISION = {torch.float32: 2.0**-17, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9}  # of a number near 1
_OF_CODES = 2.0**-14  # of products by inputs of 16 bits
_OF_8_BITS = 0.05  # of the largest number
_SHAPE = (100, 72)  # outputs and inputs, no multiples of any register
_HEADS = Heads(4, 2, 16, 0.25)
_FAST_SHAPE, _FAST_ROWS, _REPETITIONS = (256, 256), 128, 15
_MOST_REPETITIONS = 60
_MOST_TIMES_SLOWER = 2.0  # than float32: without the instructions it is 5 times and more


def results_of(names: list[str], dtype: torch.dtype, directory: Path) -> dict[str, str]:
    """Return WORKS, or why not in a few words, for each of the back ends. Takes seconds."""
    results: dict[str, str] = {}
    while left := [name for name in names if name not in results]:
        told, reason = _run(left, dtype, directory)
        results |= told or {left[0]: reason}
        if told and len(results) < len(names):
            results[next(name for name in left if name not in told)] = reason
    return results


def _run(names: list[str], dtype: torch.dtype, directory: Path) -> tuple[dict[str, str], str]:
    """Return what a process told of some back ends, and why it told no more."""
    command = [*start.words(__spec__.name), str(os.getpid()), str(directory), dtype_name_of(dtype), *names]
    # In a folder that is there, and is nobody's model: the one that the user stands in may be neither.
    limits: dict[str, Any] = {"timeout": _SECONDS * len(names), "stdin": subprocess.DEVNULL, "cwd": os.sep}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, **limits)
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        return _told(output.decode() if isinstance(output, bytes) else output), f"did not end within {_SECONDS} s"
    except OSError as error:
        return {}, f"no process to try it in: {error.strerror}"
    if done.returncode == -signal.SIGALRM:
        return _told(done.stdout), f"did not end within {_SECONDS} s"
    if done.returncode < 0:
        return _told(done.stdout), f"ended by {signal.Signals(-done.returncode).name}"
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
    return _told(done.stdout), f"ended with status {done.returncode}: {last}"


def _told(output: str) -> dict[str, str]:
    """Return what whole lines of the process say."""
    lines = [line for line in output.splitlines(keepends=True) if line.startswith("{") and line.endswith("}\n")]
    return {name: result for line in lines for name, result in json.loads(line).items()}


def main(parent: str, directory: str, dtype_name: str, *names: str) -> None:
    """Try the back ends one after another, and print what came of each."""
    _end_with(int(parent))
    torch.set_num_threads(1)
    dtype = getattr(torch, dtype_name)
    for name in names:
        signal.alarm(_SECONDS)  # ends this process: one that hangs keeps the others waiting no longer than this
        print(json.dumps({name: result_of(name, dtype, Path(directory))}), flush=True)


def _end_with(parent: int) -> None:
    """Let this process end as soon as the one that started it does: a run that is killed leaves nothing behind."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def result_of(name: str, dtype: torch.dtype, directory: Path) -> str:
    """Return WORKS, or what is wrong with a back end, if it does not end this process."""
    try:
        backend = make(name, dtype, directory)
        wrong = _wrong(backend, dtype) or _wrong_by_int8(name, directory, dtype)
        if wrong is not None:
            return wrong
        slower = 1.0 if dtype == torch.float32 else _times_slower(backend, dtype)
    except (NoKernels, RuntimeError, ValueError, NotImplementedError) as error:
        return next(iter(str(error).splitlines()), type(error).__name__)
    if slower > _MOST_TIMES_SLOWER:
        return f"{slower:.0f} times slower than float32 here: this CPU has no instructions for {dtype_name_of(dtype)}"
    return WORKS


def dtype_name_of(dtype: torch.dtype) -> str:
    """Return `bfloat16` for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


@torch.inference_mode()
def _wrong(backend: Plain, dtype: torch.dtype) -> str | None:
    """Return what a back end computes wrongly, each operation of a layer against float64; None: nothing."""
    for rows in _ROWS:
        for what, (given, expected) in _operations(backend, dtype, rows).items():
            error = (given.double() - expected).abs().max() / expected.abs().max()
            precision = max(_PRECISION[dtype], _OF_CODES if "bits" in what else 0)
            if not error <= 4 * precision:  # nor a NaN
                return f"{what} of {rows} rows is wrong by {error:.2g} of its largest number"
    return None


@torch.inference_mode()
def _wrong_by_int8(name: str, directory: Path, dtype: torch.dtype) -> str | None:
    """Return whether products of weights of 4 bits are wrong by more than 8-bit activations make them; None: no."""
    if not is_native(name):
        return None
    generator = torch.Generator().manual_seed(1)
    codes = quantize(torch.randn(_SHAPE, generator=generator), 4, 32)
    for rows in _ROWS:
        x = torch.randn(rows, _SHAPE[1], generator=generator).to(dtype)
        expected = F.linear(x.double(), dequantize(codes).double())
        given = make(name, dtype, directory, "int8").linear(codes, None)(x).double()
        if not (given - expected).abs().max() <= _OF_8_BITS * expected.abs().max():
            return f"a product of {rows} rows with 4 bits and 8-bit activations is wrong"
    return None


def _operations(backend: Plain, dtype: torch.dtype, rows: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return what a back end makes of some random numbers, and what that should be in float64."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((rows, _SHAPE[1]), _SHAPE, (_SHAPE[0],), (_SHAPE[1],))
    x, weight, bias, norm = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    expected = F.linear(x.double(), weight.double(), bias.double())
    found = {"a product": (backend.linear(weight, bias)(x), expected)}
    for bits in BITS.values():
        codes = quantize(weight.float(), bits, 32)
        expected = F.linear(x.double(), dequantize(codes).double())
        found[f"a product with {bits} bits"] = (backend.linear(codes, None)(x), expected)
    expected = F.rms_norm(x.double(), (_SHAPE[1],), norm.double(), 1e-5)
    found["a norm"] = (backend.norm(norm, 1e-5)(x.float()), expected)
    found["attention"] = (_attended(backend, dtype, rows), _attended(Plain(), torch.float64, rows))
    return found


def _attended(backend: Plain, dtype: torch.dtype, tokens: int) -> torch.Tensor:
    """Return what the last tokens of a sequence of 50 make of it: the same numbers for every back end."""
    generator, capacity, start = torch.Generator().manual_seed(2), 50, 50 - tokens
    heads, width = _HEADS, (_HEADS.num_heads + 2 * _HEADS.num_groups) * _HEADS.size
    qkv = torch.randn(capacity, width, generator=generator).bfloat16().to(dtype)
    angles = torch.randn(capacity, heads.size // 2, generator=generator)
    cos, sin = angles.cos().repeat(1, 2), torch.cat((-angles.sin(), angles.sin()), dim=1)
    rotation = tuple(part.to(backend.rotation_dtype or dtype) for part in (cos, sin))
    keys = torch.zeros(heads.num_groups, *backend.key_layout.shape(heads.size, capacity), dtype=dtype)
    values = torch.zeros(heads.num_groups, capacity, heads.size, dtype=dtype)
    cache = LayerCache(keys, values, layout=backend.key_layout)
    attention = backend.attention(heads, None, None)
    for rows in (range(start), range(start, capacity)):
        part = slice(rows.start, rows.stop)
        outputs = attention(qkv[part], (rotation[0][part], rotation[1][part]), cache, rows.start, None)
    return outputs


def _times_slower(backend: Plain, dtype: torch.dtype) -> float:
    """Return how many times longer a product of many rows takes than torch's own in float32."""
    weight, x = torch.randn(_FAST_SHAPE), torch.randn(_FAST_ROWS, _FAST_SHAPE[1])
    products = ((Plain().linear(weight, None), x), (backend.linear(weight.to(dtype), None), x.to(dtype)))
    least = [float("inf")] * len(products)
    for number in range(_MOST_REPETITIONS):  # in turns, and more of them where the machine may just be busy
        if number >= _REPETITIONS and least[1] <= _MOST_TIMES_SLOWER * least[0]:
            break
        for place, (product, inputs) in enumerate(products):
            start = time.perf_counter()
            product(inputs)
            least[place] = min(least[place], time.perf_counter() - start)
    return least[1] / least[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
