"""Which back ends work here, and which is the fastest: tried and measured once for a machine, and kept in files."""

import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mpi_spp.errors import UserError
from mpi_spp.kernels import trial
from mpi_spp.kernels.backends import NATIVE, WIDENING, is_native, make, names_for
from mpi_spp.kernels.linear import Linear
from mpi_spp.kernels.memory import measured_on, recall, remember
from mpi_spp.kernels.native.compiler import compilers
from mpi_spp.kernels.native.library import compiler_of, is_kept, load
from mpi_spp.kernels.plain import Plain, Weight
from mpi_spp.kernels.quantized import QuantizedWeight, quantize
from mpi_spp.system import cpu

log = logging.getLogger(__name__)

_CPU = torch.device("cpu")
_ROWS = (1, 8, 128)  # a decode step, a few drafted tokens, a prompt chunk
_SECONDS = 0.05  # for each measurement
_ROOM = 256 << 20  # bytes of weights to go through, so that a cache of the CPU cannot hold them
_IN_ONE_CALL = 0.8  # of its products' times: where products take equally long, whole layers took 0.6 of the time
_MOST_COPIES = 100  # of the weights of a small model, whose layers a cache does hold
BEST, ALL = "best", "all"  # variants of the native kernels that are tried: each takes a compiler seconds


@dataclass(frozen=True)
class Products:
    """What a back end is wanted for: weights [out_features, in_features] of this shape, quantised or not."""

    shape: tuple[int, int]
    dtype: torch.dtype
    device: torch.device
    bits: int | None = None  # None: not quantised
    group: int = 32
    activations: str = "exact"


def working(
    dtype: torch.dtype, device: torch.device, directory: Path, is_quantized: bool = False, variants: str = BEST
) -> list[str]:
    """Return the names of back ends that have worked here, the best native one first of its kind.

    `directory`: where kernels and what is known is kept; `variants`: see `trials`.
    """
    names = names_for(dtype, device, is_quantized)
    if device.type != "cpu":
        return names
    results = trials(dtype, directory, variants)
    found = [name for name in names if results.get(name) == trial.WORKS]
    if not found:
        told = "; ".join(f"{name}: {results[name]}" for name in names if name in results)
        raise UserError(f"no kernels work here for {dtype} ({told})")
    return found


@functools.cache
def trials(dtype: torch.dtype, directory: Path, variants: str = BEST) -> dict[str, str]:
    """Return what came of each back end of this CPU, and log a line for each that does not work.

    `variants` of the native kernels: ALL; BEST, in their order until one works; or the one of this name. What is known
    of others is told, too. It takes seconds, once for a machine. A file that cannot be read or written costs another
    trial and nothing else.
    """
    names = list(dict.fromkeys(names_for(dtype, _CPU, False) + names_for(dtype, _CPU, True)))
    memory = directory / "trials.json"
    key = f"{measured_on(_CPU)}, {dtype}, compilers {' '.join(compilers()) or 'none'}"
    kept = recall(memory).get(key)
    known = kept if isinstance(kept, dict) else {}
    results = {name: str(known[name]) for name in names if _still_true(name, known.get(name), directory, dtype)}
    before = dict(results)
    while untried := _untried(names, results, variants):
        results |= trial.results_of(untried, dtype, directory)
    if results != before and trial.WORKS in results.values():  # else no memory, or no process, for a moment
        remember(memory, recall(memory) | {key: results})
    for name, result in results.items():
        if result != trial.WORKS:
            log.info("no %s kernels for %s: %s", name, dtype, result)
    return {name: results[name] for name in names if name in results}


def _untried(names: Sequence[str], results: dict[str, str], variants: str) -> list[str]:
    """Return what is to be tried next; of native variants see `trials`."""
    native, wanted = [name for name in names if is_native(name)], [name for name in names if not is_native(name)]
    if variants == BEST:
        first = next((name for name in native if results.get(name, trial.WORKS) == trial.WORKS), None)
        wanted += [] if first is None else [first]
    else:
        wanted += [name for name in native if variants in (name, ALL)]
    return [name for name in wanted if name not in results]


def _still_true(name: str, result: object, directory: Path, dtype: torch.dtype) -> bool:
    """Whether a result that was kept is one, and the kernels that worked are still there."""
    kept = result != trial.WORKS or not is_native(name) or is_kept(name.partition("-")[2], directory, dtype)
    return isinstance(result, str) and kept


def backends(dtype: torch.dtype, device: torch.device, directory: Path, is_quantized: bool = False) -> dict[str, Plain]:
    """Make all back ends that work here, by name; of native ones all for bfloat16, else the best."""
    variants = ALL if dtype == torch.bfloat16 else BEST
    return {name: make(name, dtype, directory) for name in working(dtype, device, directory, is_quantized, variants)}


def describe(directory: Path) -> str:
    """Return a line that tells what measurements and tests depend on: processor, its instructions, kernels, torch."""
    names = working(torch.bfloat16, _CPU, directory)
    compiler, level = compiler_here(names, directory), cpu.believed()
    kernels = ", ".join(for_auto(names)) + (f" by {compiler}" if compiler else "")
    taken = f", taken for {level}" if level else ""
    told = f"{cpu.name()} ({cpu.shortened(cpu.instruction_sets())}{taken})"
    return f"{told}; kernels {kernels}; torch {torch.__version__}"


def compiler_here(names: Sequence[str], directory: Path) -> str | None:
    """Return what compiled the best native variant of these back ends that work; None: there is none."""
    best = next((name for name in names if is_native(name)), None)
    return None if best is None else compiler_of(load(best.partition("-")[2], directory))


def for_auto(names: Sequence[str]) -> list[str]:
    """Return the names that "auto" chooses from: of native variants the best, what widens only where all else fails."""
    variants = [name for name in names if is_native(name)]
    best = [name for name in names if name not in variants[1:]]
    return [name for name in best if name not in WIDENING] or best


def named(wanted: str, products: Products, directory: Path) -> str:
    """Return the back end that `--kernels` names; `native` is the best variant. Raises UserError if it fails."""
    variants = wanted if is_native(wanted) and wanted != NATIVE else BEST
    found = working(products.dtype, products.device, directory, products.bits is not None, variants)
    of_name = [name for name in found if wanted in (name, NATIVE if is_native(name) else name)]
    if of_name:
        return of_name[0]
    tried = trials(products.dtype, directory, variants) if products.device.type == "cpu" else {}
    reasons = [result for name, result in tried.items() if name.startswith(wanted) and result != trial.WORKS]
    why = f" ({reasons[0]})" if reasons else ""
    what = f"{'quantised weights in ' * (products.bits is not None)}{products.dtype}"
    raise UserError(
        f"--kernels: {wanted} cannot run {what} on this {products.device.type.upper()}{why};"
        f" choose one of auto, {', '.join(found)}"
    )


def fastest(products: Products, directory: Path, names: Sequence[str]) -> str:
    """Return the name of the back end whose products are fastest, of these.

    It is the one whose largest loss against the best, over few and many rows, is smallest; one that computes a layer in
    one call may be a little slower. It is measured twice: where something else on the machine decides, so that the two
    differ, the native one is taken and nothing kept. `directory` keeps the choices; files that cannot be read or
    written cost a new measurement and nothing else.
    """
    memory = directory / "choices.json"
    if len(names) == 1:
        return names[0]
    key, known = _key(products, torch.get_num_threads(), names), recall(memory)
    if known.get(key) not in names:
        first, again = _winner(products, directory, names), _winner(products, directory, names)
        if first != again:
            log.info("%s and %s were fastest in turn: not remembered", first, again)
            return next(filter(is_native, names), first)
        known[key] = first
        remember(memory, recall(memory) | {key: first})
    return str(known[key])


def _winner(products: Products, directory: Path, names: Sequence[str]) -> str:
    times = {}
    for name in names:
        backend = make(name, products.dtype, directory, products.activations)
        factor = _IN_ONE_CALL if backend.in_one_call else 1.0
        times[name] = [factor * one for one in _times(backend, products)]
    return _least_regret(times)


def remembered(products: Products, threads: int, directory: Path, names: Sequence[str]) -> str | None:
    """Return what `fastest` has found on this machine's CPU with so many threads; None: nothing yet."""
    found = recall(directory / "choices.json").get(_key(products, threads, names))
    return found if found in names else None


def _key(products: Products, threads: int, names: Sequence[str]) -> str:
    quantized = "" if products.bits is None else f", {products.bits} bits by {products.group}"
    quantized += "" if products.activations == "exact" else f", {products.activations} activations"
    shape = f"{products.shape[0]}x{products.shape[1]}"
    return f"{measured_on(_CPU)}, {threads} threads, {products.dtype}{quantized}, {shape}, {' '.join(names)}"


def _least_regret(times: dict[str, list[float]]) -> str:
    best = [min(column) for column in zip(*times.values(), strict=True)]
    return min(times, key=lambda name: max(own / least for own, least in zip(times[name], best, strict=True)))


def _times(backend: Plain, products: Products) -> list[float]:
    """Seconds of one product, for each count of rows."""
    made = [backend.linear(weight, None) for weight in _weights(products)]
    times = []
    for rows in _ROWS:
        x = torch.randn(rows, products.shape[1]).to(products.dtype)
        made[0](x)
        times.append(time_each(made, x))
    return times


def _weights(products: Products) -> list[Weight]:
    """As many copies of a matrix as the CPU's caches do not hold."""
    weight = torch.randn(products.shape)
    if products.bits is not None:
        codes = quantize(weight, products.bits, products.group)
        copies = min(_MOST_COPIES, max(1, _ROOM // codes.data.nbytes))
        return [QuantizedWeight(codes.data.clone(), *products.shape, codes.bits, codes.group) for _ in range(copies)]
    weight = weight.to(products.dtype)
    return [weight.clone() for _ in range(min(_MOST_COPIES, max(1, _ROOM // weight.nbytes)))]


def time_each(products: list[Linear], x: torch.Tensor) -> float:
    """The least seconds a product took, over rounds through all of them."""
    least, stop = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < stop:
        start = time.perf_counter()
        for product in products:
            product(x)
        least = min(least, (time.perf_counter() - start) / len(products))
    return least
