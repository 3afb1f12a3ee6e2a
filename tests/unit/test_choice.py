"""The measured choice of a back end is remembered; what did not work, or does not fit, is not chosen."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from mpi_spp.errors import UserError
from mpi_spp.kernels import choice, trial
from mpi_spp.kernels.backends import names_for
from mpi_spp.kernels.choice import Products, fastest, for_auto
from mpi_spp.kernels.memory import forget, recall, remember
from mpi_spp.kernels.plain import Packed, Plain
from mpi_spp.model import arithmetic
from mpi_spp.model.arithmetic import Room

CPU = torch.device("cpu")
FLOAT32 = Products((200, 72), torch.float32, CPU)
BFLOAT16 = Products((200, 72), torch.bfloat16, CPU)
ENOUGH = Room(1 << 20, 1 << 30)


def test_a_choice_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    times = {"Plain": [2.0, 1.0], "Packed": [1.0, 1.1]}  # one loses 100 %, the other 10 %
    monkeypatch.setattr(
        choice, "_times", lambda backend, products: measured.append(type(backend).__name__) or times[measured[-1]]
    )
    for _ in range(2):
        assert fastest(FLOAT32, tmp_path / "new", ["plain", "packed"]) == "packed"
    assert measured == ["Plain", "Packed"] * 2
    assert list(json.loads((tmp_path / "new" / "choices.json").read_text()).values()) == ["packed"]


def test_what_differs_from_time_to_time_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a busy machine: the native one is taken, and measured again in the next run."""
    monkeypatch.setattr(choice, "make", lambda *_: Packed())
    times = iter([[1.0], [2.0], [2.0], [1.0]] * 2)
    monkeypatch.setattr(choice, "_times", lambda backend, products: next(times))
    for _ in range(2):
        assert fastest(BFLOAT16, tmp_path, ["packed", "native-amx"]) == "native-amx"
    assert not (tmp_path / "choices.json").exists() and next(times, None) is None


@pytest.mark.parametrize("product, chosen", [(1.2, "native-amx"), (1.3, "packed")])
def test_a_layer_in_one_call_is_worth_slower_products(
    product: float, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"packed": Packed(), "native-amx": Packed()}
    made["native-amx"].in_one_call = True
    monkeypatch.setattr(choice, "make", lambda name, dtype, directory, activations: made[name])
    monkeypatch.setattr(choice, "_times", lambda backend, products: [product if backend.in_one_call else 1.0])
    assert fastest(BFLOAT16, tmp_path, list(made)) == chosen


@pytest.mark.parametrize("content", ["", "3", '{"x": "gone"}', "[" * 100_000], ids=["empty", "3", "gone", "deep"])
def test_a_broken_memory_costs_a_measurement_only(tmp_path: Path, content: str) -> None:
    (tmp_path / "choices.json").write_text(content)
    assert fastest(FLOAT32, tmp_path, ["plain", "packed"]) in ("plain", "packed")


def test_a_memory_that_is_no_file_costs_a_measurement_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "directory.json").mkdir()
    for memory in (tmp_path / "pipe.json", tmp_path / "directory.json", Path("/dev/null/no.json")):
        assert recall(memory) == {}
    for memory in (tmp_path / "directory.json", Path("/dev/null/no.json")):
        remember(memory, {"x": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory.json", "pipe.json"]


def test_where_there_is_one_backend_nothing_is_measured(tmp_path: Path) -> None:
    assert fastest(FLOAT32, tmp_path, ["plain"]) == "plain"
    assert not (tmp_path / "choices.json").exists()


def test_quantised_weights_are_measured_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = ("Widened", "Blockwise")

    def times(backend: Plain, products: Products) -> list[float]:
        weight, *_ = choice._weights(products)
        assert backend.linear(weight, None)(torch.ones(1, 96)).shape == (1, 64)
        return [1.0 + order.index(type(backend).__name__)]

    monkeypatch.setattr(choice, "_times", times)
    assert fastest(Products((64, 96), torch.float32, CPU, 4, 32), tmp_path, ["widened", "blockwise"]) == "widened"
    (key,) = json.loads((tmp_path / "choices.json").read_text())
    assert "4 bits by 32" in key


def test_auto_takes_one_native_variant_and_widens_only_where_all_else_fails() -> None:
    everything = ["plain", "packed", "widened", "blockwise", "native-amx", "native-avx512bf16", "native-avx2"]
    assert for_auto(everything) == ["plain", "packed", "native-amx"]
    assert for_auto(["widened", "blockwise"]) == ["widened", "blockwise"]
    assert for_auto(["widened", "blockwise", "native-avx2"]) == ["native-avx2"]


def fake_trials(monkeypatch: pytest.MonkeyPatch, **failed: str) -> list[list[str]]:
    """Trials of which these fail, and no process is started; returns what was tried."""
    tried: list[list[str]] = []

    def results_of(names: list[str], dtype: torch.dtype, directory: Path) -> dict[str, str]:
        tried.append(names)
        return {name: failed.get(name.partition("-")[0], trial.WORKS) for name in names}

    monkeypatch.setattr(trial, "results_of", results_of)
    monkeypatch.setattr(choice, "is_kept", lambda name, directory, dtype: True)
    choice.trials.cache_clear()
    return tried


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_SECONDS", 0.002)


@pytest.fixture(autouse=True)
def no_trials_are_left() -> None:
    yield
    choice.trials.cache_clear()


def test_a_trial_is_kept_in_a_file_and_made_anew_where_it_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = fake_trials(monkeypatch, packed="gone wrong")
    for content, times in ((None, 1), (None, 1), ("{", 2), ('{"key": 3}', 3)):
        if content is not None:
            (tmp_path / "trials.json").write_text(content)
        choice.trials.cache_clear()
        assert choice.trials(torch.bfloat16, tmp_path)["packed"] == "gone wrong"
        assert len(tried) == times


def test_kernels_that_worked_and_are_gone_are_tried_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "names_for", lambda dtype, device, is_quantized: ["plain", "native-amx"])
    for kept in (True, False):
        tried = fake_trials(monkeypatch)
        monkeypatch.setattr(choice, "is_kept", lambda name, directory, dtype, kept=kept: kept)
        for _ in range(2):
            choice.trials.cache_clear()
            choice.trials(torch.bfloat16, tmp_path / str(kept))
        assert len(tried) == (1 if kept else 2)


@pytest.mark.parametrize("failing, expected", [((), ["native-b"]), (("native-b",), ["native-b", "native-c"])])
def test_of_native_variants_no_more_are_compiled_than_needed(
    failing: tuple[str, ...], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best first until one works; another when it is named; each once for a machine."""
    variants = ["native-b", "native-c", "native-d"]
    monkeypatch.setattr(choice, "names_for", lambda dtype, device, is_quantized: ["plain", *variants])
    monkeypatch.setattr(choice, "is_kept", lambda name, directory, dtype: True)
    tried: list[str] = []

    def results_of(names: list[str], dtype: torch.dtype, directory: Path) -> dict[str, str]:
        tried.extend(names)
        return {name: "fails" if name in failing else trial.WORKS for name in names}

    monkeypatch.setattr(trial, "results_of", results_of)
    for _ in range(2):
        choice.trials.cache_clear()
        found = choice.working(torch.bfloat16, CPU, tmp_path)
        assert tried == ["plain", *expected] and found == ["plain", expected[-1]]
    assert choice.named("native-d", BFLOAT16, tmp_path) == "native-d"
    assert tried == ["plain", *expected, "native-d"]
    choice.working(torch.bfloat16, CPU, tmp_path, variants=choice.ALL)
    assert sorted(tried) == ["native-b", "native-c", "native-d", "plain"]


def test_where_nothing_works_the_reasons_are_told_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("plain", "packed", "widened", "blockwise", "native")
    fake_trials(monkeypatch, **dict.fromkeys(names, "no memory"))
    with pytest.raises(UserError, match=r"no kernels work here .*plain: no memory"):
        choice.working(torch.float32, CPU, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changed", ["features", "compilers", "sources"])
def test_another_processor_compiler_or_kernel_is_tried_anew(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home folder may be shared by machines of the same name."""
    tried = fake_trials(monkeypatch)
    choice.trials(torch.bfloat16, tmp_path)
    choice.trials.cache_clear()
    if changed == "features":
        monkeypatch.setattr("mpi_spp.system.cpu.features", lambda: frozenset({"sse2", "avx2"}))
    if changed == "compilers":
        monkeypatch.setenv("CC", "another")
    if changed == "sources":
        monkeypatch.setattr("mpi_spp.kernels.memory.sources_digest", lambda: "other")
    choice.trials(torch.bfloat16, tmp_path)
    assert len(tried) == 2


def test_what_does_not_work_is_no_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {"plain": "7 times slower", "packed": "raises", "native": "no compiler"}
    fake_trials(monkeypatch, **slow)
    monkeypatch.setattr(choice, "_times", lambda backend, products: [1.0 if type(backend).__name__ == "Widened" else 2])
    assert choice.working(torch.bfloat16, CPU, tmp_path) == ["widened", "blockwise"]
    chosen = arithmetic.choose("auto", BFLOAT16, ENOUGH, tmp_path)
    assert chosen.name == "widened" and "measured as faster than blockwise" in chosen.why
    assert "held in float32, 1 MiB" in chosen.warning
    for name in ("plain", "packed", *(["native"] if len(names_for(torch.bfloat16, CPU, False)) > 4 else [])):
        with pytest.raises(
            UserError, match=rf"--kernels: {name} cannot run torch.bfloat16 on this CPU \({slow[name]}\)"
        ):
            arithmetic.choose(name, BFLOAT16, ENOUGH, tmp_path)


def test_widened_weights_that_do_not_fit_are_not_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_trials(monkeypatch, plain="slow", packed="slow", native="none")
    chosen = arithmetic.choose("auto", BFLOAT16, Room(900 << 20, 1 << 30), tmp_path)
    assert chosen.name == "blockwise"
    assert "widened would need 900 MiB here, 1 GiB are free" in chosen.why
    assert "block by block" in chosen.warning
    assert arithmetic.choose("widened", BFLOAT16, Room(900 << 20, 1 << 30), tmp_path).name == "widened"


def test_a_native_variant_that_fails_is_told_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpi_spp.kernels.native.library.runnable", lambda dtype: ["avx512bf16"])
    fake_trials(monkeypatch, native="no C compiler (gcc or cc) on the PATH")
    monkeypatch.setattr(choice, "_times", lambda backend, products: [1.0])
    chosen = arithmetic.choose("auto", BFLOAT16, ENOUGH, tmp_path)
    assert chosen.warning == "no native-avx512bf16 kernels (no C compiler (gcc or cc) on the PATH)"


def test_activations_are_what_the_kernels_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpi_spp.kernels.native.library.runnable", lambda dtype: ["avx512bf16"])
    wanted = dataclasses.replace(BFLOAT16, bits=4, activations="int8")
    fake_trials(monkeypatch)
    for kernels in ("auto", "native"):
        chosen = arithmetic.choose(kernels, wanted, ENOUGH, tmp_path)
        assert (chosen.name, chosen.activations, chosen.warning) == ("native-avx512bf16", "int8", "")
    fake_trials(monkeypatch, native="none")
    monkeypatch.setattr(choice, "_times", lambda backend, products: [1.0])
    chosen = arithmetic.choose("auto", wanted, ENOUGH, tmp_path / "without")
    assert chosen.activations == "exact" and "; activations stay exact: widened kernels have no" in chosen.warning


def test_likely_kernels_are_the_best_that_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_trials(monkeypatch, plain="slow", packed="slow", native="none")
    assert arithmetic.likely("auto", BFLOAT16, 1, tmp_path) == "widened"
    fake_trials(monkeypatch, native="none")
    assert arithmetic.likely("auto", FLOAT32, 1, tmp_path / "without") == "packed"


def test_a_gpu_has_the_plain_one_only(tmp_path: Path) -> None:
    gpu = Products((8, 8), torch.bfloat16, torch.device("cuda", 0), 4)
    chosen = arithmetic.choose("auto", gpu, ENOUGH, tmp_path)
    assert (chosen.name, chosen.warning) == ("plain", "")
    assert isinstance(choice.backends(torch.bfloat16, gpu.device, tmp_path)["plain"], Plain)


def test_what_was_measured_can_be_forgotten(tmp_path: Path) -> None:
    """And what was compiled stays."""
    for name in ("choices.json", "costs.json"):
        remember(tmp_path / name, {"x": 1})
    (tmp_path / "native-1.so").touch()
    assert forget(tmp_path) == ["choices.json", "costs.json"] and forget(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["native-1.so"] and forget(tmp_path / "none") == []
    (tmp_path / "directory.json").mkdir()
    with pytest.raises(UserError, match="cannot be deleted"):
        forget(tmp_path)
