"""Which back end is fastest here: measured once for a machine, a dtype and a shape, and remembered in a file."""

import time
from pathlib import Path

import torch

from mpi_spp.kernels.linear import Linear
from mpi_spp.kernels.memory import measured_on, recall, remember
from mpi_spp.kernels.native.backend import Native
from mpi_spp.kernels.native.library import load
from mpi_spp.kernels.plain import Packed, Plain

_CPU = torch.device("cpu")
_ROWS = (1, 8, 128)  # a decode step, a few drafted tokens, a prompt chunk
_SECONDS = 0.05  # for each measurement
_ROOM = 256 << 20  # bytes of weights to go through, so that a cache of the CPU cannot hold them
_IN_ONE_CALL = 0.8  # of its products' times: where products take equally long, whole layers took 0.6 of the time
_MOST_COPIES = 100  # of the weights of a small model, whose layers a cache does hold


def backends(dtype: torch.dtype, device: torch.device, directory: Path) -> dict[str, Plain]:
    """The back ends that can run this dtype on this device, by name. `directory`: where compiled kernels are kept."""
    found: dict[str, Plain] = {"plain": Plain()}
    if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and torch.backends.mkldnn.is_available():
        found["packed"] = Packed()
    if device.type == "cpu" and dtype == torch.bfloat16 and (library := load(directory)) is not None:
        found["native"] = Native(library)
    return found


def fastest(shape: tuple[int, int], dtype: torch.dtype, device: torch.device, directory: Path) -> str:
    """The name of the back end whose products with weights [out_features, in_features] of this shape are fastest.

    It is the one whose largest loss against the best, over few and many rows, is smallest; one that computes a layer in
    one call may be a little slower. `directory` keeps the choices; files that cannot be read or written cost a new
    measurement and nothing else.
    """
    candidates, memory = backends(dtype, device, directory), directory / "choices.json"
    if len(candidates) == 1:
        return next(iter(candidates))
    key, known = _key(shape, dtype, torch.get_num_threads(), candidates), recall(memory)
    if known.get(key) not in candidates:
        factors = {name: _IN_ONE_CALL if backend.in_one_call else 1.0 for name, backend in candidates.items()}
        times = {name: _times(backend, shape, dtype) for name, backend in candidates.items()}
        known[key] = _least_regret({name: [factors[name] * one for one in times[name]] for name in times})
        remember(memory, known)
    return known[key]


def remembered(shape: tuple[int, int], dtype: torch.dtype, threads: int, directory: Path) -> str | None:
    """What `fastest` has found on this machine's CPU with so many threads; None: nothing yet."""
    candidates = backends(dtype, _CPU, directory)
    found = recall(directory / "choices.json").get(_key(shape, dtype, threads, candidates))
    return found if found in candidates else None


def _key(shape: tuple[int, int], dtype: torch.dtype, threads: int, candidates: dict[str, Plain]) -> str:
    return f"{measured_on(_CPU)}, {threads} threads, {dtype}, {shape[0]}x{shape[1]}, {' '.join(candidates)}"


def _least_regret(times: dict[str, list[float]]) -> str:
    best = [min(column) for column in zip(*times.values(), strict=True)]
    return min(times, key=lambda name: max(own / least for own, least in zip(times[name], best, strict=True)))


def _times(backend: Plain, shape: tuple[int, int], dtype: torch.dtype) -> list[float]:
    """Seconds of one product, for each count of rows."""
    weight = torch.randn(shape).to(dtype)
    copies = min(_MOST_COPIES, max(1, _ROOM // weight.nbytes))
    products = [backend.linear(weight.clone(), None) for _ in range(copies)]
    times = []
    for rows in _ROWS:
        x = torch.randn(rows, shape[1]).to(dtype)
        products[0](x)
        times.append(time_each(products, x))
    return times


def time_each(products: list[Linear], x: torch.Tensor) -> float:
    """The least seconds a product took, over rounds through all of them."""
    least, stop = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < stop:
        start = time.perf_counter()
        for product in products:
            product(x)
        least = min(least, (time.perf_counter() - start) / len(products))
    return least
