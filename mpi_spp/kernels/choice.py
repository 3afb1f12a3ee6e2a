"""Which back end is fastest here: measured once for a machine, a dtype and a shape, and remembered in a file."""

import json
import os
import platform
import tempfile
import time
from pathlib import Path

import torch

from mpi_spp.kernels.linear import BACKENDS, Linear, backends_for

_ROWS = (1, 8, 128)  # a decode step, a few drafted tokens, a prompt chunk
_SECONDS = 0.05  # for each measurement
_ROOM = 256 << 20  # bytes of weights to go through, so that a cache of the CPU cannot hold them
_MOST_COPIES = 100  # of the weights of a small model, whose layers a cache does hold


def fastest_linear(shape: tuple[int, int], dtype: torch.dtype, device: torch.device, memory: Path) -> str:
    """The back end for products with weights of this shape [out_features, in_features].

    It is the one whose largest loss against the best, over few and many rows, is smallest. `memory`: the JSON file
    that keeps choices; a file that cannot be read or written costs a new measurement and nothing else.
    """
    names = backends_for(dtype, device)
    if len(names) == 1:
        return names[0]
    key = f"{_cpu()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {dtype}, {shape[0]}x{shape[1]}"
    known = _recall(memory)
    if known.get(key) not in names:
        known[key] = _least_regret({name: _times(name, shape, dtype) for name in names})
        _remember(memory, known)
    return known[key]


def _least_regret(times: dict[str, list[float]]) -> str:
    best = [min(column) for column in zip(*times.values(), strict=True)]
    return min(times, key=lambda name: max(own / least for own, least in zip(times[name], best, strict=True)))


def _times(name: str, shape: tuple[int, int], dtype: torch.dtype) -> list[float]:
    """Seconds of one product, for each count of rows."""
    weight = torch.randn(shape).to(dtype)
    copies = min(_MOST_COPIES, max(1, _ROOM // weight.nbytes))
    products = [BACKENDS[name](weight.clone(), None) for _ in range(copies)]
    times = []
    for rows in _ROWS:
        x = torch.randn(rows, shape[1]).to(dtype)
        products[0](x)
        times.append(_time_each(products, x))
    return times


def _time_each(products: list[Linear], x: torch.Tensor) -> float:
    """The least seconds a product took, over rounds through all of them."""
    least, stop = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < stop:
        start = time.perf_counter()
        for product in products:
            product(x)
        least = min(least, (time.perf_counter() - start) / len(products))
    return least


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _recall(memory: Path) -> dict[str, str]:
    try:
        return dict(json.loads(memory.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _remember(memory: Path, known: dict[str, str]) -> None:
    """Replace the file in one step: other runs may read it at this moment."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False, encoding="utf-8") as file:
            json.dump(known, file, indent=1)
        os.replace(file.name, memory)
    except OSError:
        pass
