"""`mpi-spp simulate`: counts of ranks, meshes, where it stops paying, and what is refused."""

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from mpi_spp.cli._scenario import _LINKS
from mpi_spp.cli.simulate import _DEVICES, command
from mpi_spp.errors import UserError
from mpi_spp.forecast.devices import DEVICES
from mpi_spp.forecast.simulation import hosts_of, knee, mesh_for
from mpi_spp.kernels.choice import trials
from mpi_spp.model.loading.hub import cache_directory
from mpi_spp.parallel.links import PRESETS
from mpi_spp.parallel.mesh import Mesh


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that knows which kernels work here, since to try them takes seconds, and remembers no speed."""
    kept, directory = cache_directory() / "kernels", tmp_path_factory.mktemp("cache")
    trials(torch.float32, kept)
    (directory / "kernels").mkdir()
    for path in (kept / "trials.json", *kept.glob("*.so")):
        (directory / "kernels" / path.name).symlink_to(path)
    return directory


@pytest.fixture(autouse=True)
def nothing_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPI_SPP_CACHE", str(cache))


def simulate(directory: Path, *arguments: str) -> Result:
    fixed = ("--model", str(directory), "--kernels", "plain", "--threads", "1", "--ranks-per-host", "2")
    return CliRunner().invoke(command, [*fixed, *arguments])


def data_of(directory: Path, *arguments: str) -> dict[str, Any]:
    shown = simulate(directory, *arguments, "--json", "-")
    assert shown.exception is None, shown.output
    return json.loads(shown.stdout)


def test_the_table_says_what_where_and_until_when(directory: Path) -> None:
    shown = simulate(directory, "--ranks", "1,2,4,8", "--link", "1gbe")
    assert shown.exit_code == 0, shown.output
    for word in ("exposed", "ciency", "given between hosts", "assumed", "doubling of ranks"):
        assert word in " ".join(shown.output.split()), word


def test_rows_are_those_of_the_counts(directory: Path) -> None:
    data = data_of(directory, "--ranks", "1,2,4,8", "--link", "100gbe")
    rows = data["rows"]
    assert [(row["ranks"], row["hosts"], row["mesh"]) for row in rows] == [
        (1, 1, "pp=1"), (2, 1, "pp=2"), (4, 2, "pp=4"), (8, 4, "pp=8"),
    ]  # fmt: skip
    assert rows[0]["speed_up"] == rows[0]["efficiency"] == pytest.approx(1)
    for row, after in itertools.pairwise(rows):
        assert row["gain_of_doubling"] == pytest.approx(after["speed_up"] / row["speed_up"] - 1)
    assert rows[-1]["gain_of_doubling"] is None
    assert rows[-1]["links"]["between"]["bytes_per_s"] == 100e9 / 8


def test_replicas_answer_more_requests_and_none_sooner(directory: Path) -> None:
    one, two = (data_of(directory, "--ranks", "4", "--mesh", mesh)["rows"][0] for mesh in ("pp=4", "dp=2,pp=2"))
    pair = data_of(directory, "--ranks", "2")["rows"][0]
    assert two["seconds"] == pair["seconds"] != one["seconds"]
    assert two["speed_up"] == pytest.approx(2 * pair["speed_up"])


def test_auto_is_never_slower_than_a_choice(directory: Path) -> None:
    auto = data_of(directory, "--ranks", "2,8,128", "--prefill", "auto", "--decode", "auto")["rows"]
    own = data_of(directory, "--ranks", "2,8,128")["rows"]
    assert all(a["seconds"]["request"] <= b["seconds"]["request"] for a, b in zip(auto, own, strict=True))


def test_a_device_is_as_fast_as_it_says(directory: Path) -> None:
    slow, fast = (
        data_of(directory, "--ranks", "1", "--tflops", flops, "--memory-gb-per-s", rate)["rows"][0]["seconds"]
        for flops, rate in (("1", "10"), ("2", "20"))
    )
    for name in ("prefill", "token", "request"):
        assert slow[name] == pytest.approx(2 * fast[name])
    assert data_of(directory, "--ranks", "1", "--compute", "l4")["rows"][0]["origins"]["layers"] == "given"


def test_a_count_that_cannot_run_says_why_and_the_others_go_on(directory: Path) -> None:
    rows = data_of(directory, "--ranks", "2,3,4", "--mesh", "tp=2")["rows"]
    assert ["refused" in row for row in rows] == [False, True, False]
    assert "--mesh" in rows[1]["refused"]


@pytest.mark.parametrize(
    "options",
    [
        "--decode tensor",
        pytest.param("--prefill tensor", marks=pytest.mark.full),
        pytest.param("--prefill ulysses", marks=pytest.mark.full),
        pytest.param("--prefill auto --decode auto", marks=pytest.mark.full),
    ],
)
def test_a_thousand_ranks_take_seconds(directory: Path, options: str) -> None:
    start = time.process_time()
    rows = data_of(directory, "--ranks", "1,2,4,...,1024", *options.split())["rows"]
    assert [row["ranks"] for row in rows] == [2**power for power in range(11)]
    assert rows[-1]["mesh"] == "pp=8,tp=128"
    assert time.process_time() - start < 30  # 5 on a quiet core; what grows with the square of the ranks takes minutes


def test_a_picture(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "out.png"
    assert simulate(directory, "--ranks", "1,2,4", "--plot", str(path)).exit_code == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused = simulate(directory, "--ranks", "1,2,4", "--plot", str(path))
    assert isinstance(refused.exception, UserError) and "mpi-spp[plots]" in str(refused.exception)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--ranks", "4", "--mesh", "pp=2"), "is for 2 ranks, not 4"),
        (("--mesh", "pp=99999"), "is for 99999 ranks"),
        (("--ranks", "3", "--mesh", "tp=2"), "multiples of 2"),
        (("--ranks", "2", "--prompt-tokens", "2000000"), "positions"),
        (("--ranks", "2", "--tflops", "1"), "--memory-gb-per-s"),
        (("--ranks", "2", "--plot", "out.txt"), "--plot"),
        (("--ranks", "2", "--max-memory", "1MB"), "--max-memory"),
    ],
)
def test_what_the_command_refuses(directory: Path, arguments: tuple[str, ...], says: str) -> None:
    refused = simulate(directory, *arguments)
    assert isinstance(refused.exception, UserError) and says in str(refused.exception)


@pytest.mark.parametrize(
    "text", ["", "0", "2,1", "1,1", "1,...", "1,...,9", "...,4", "1,2,...,4,...,9", "a", "99999999"]
)
def test_what_is_no_list_of_counts(directory: Path, text: str) -> None:
    refused = simulate(directory, "--ranks", text)
    assert refused.exit_code == 2 and "--ranks" in refused.output


@pytest.mark.parametrize(
    "text, counts",
    [
        ("4", [4]),
        ("1,2,3", [1, 2, 3]),
        ("1,2,4,...,20", [1, 2, 4, 8, 16, 20]),
        ("2,4,...,8", [2, 4, 8]),
        ("2,3,...,6", [2, 3, 4, 5, 6]),
        ("5,10,15,...,30", [5, 10, 15, 20, 25, 30]),
    ],
)
def test_lists_of_counts(text: str, counts: list[int]) -> None:
    from mpi_spp.cli.simulate import parse_ranks

    assert list(parse_ranks(None, None, text)) == counts  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text, ranks, mesh",
    [
        (None, 4, Mesh(pp=4)),
        (None, 64, Mesh(pp=8, tp=8)),
        (None, 31, Mesh(tp=31)),
        ("tp=2", 8, Mesh(pp=4, tp=2)),
        ("dp=2,tp=2", 8, Mesh(dp=2, pp=2, tp=2)),
        ("pp=2,tp=2", 4, Mesh(pp=2, tp=2)),
    ],
)
def test_meshes(text: str | None, ranks: int, mesh: Mesh) -> None:
    assert mesh_for(text, ranks, num_layers=8) == mesh


def test_hosts_are_filled_one_after_another() -> None:
    assert hosts_of(5, 2) == ["host 0", "host 0", "host 1", "host 1", "host 2"]


def test_the_knee_is_where_a_doubling_first_gains_too_little() -> None:
    gains = {1: 0.9, 2: 0.5, 4: 0.08, 8: 0.3, 16: None}
    rows = [{"ranks": ranks, "gain_of_doubling": gain} for ranks, gain in gains.items()]
    assert (knee(rows, 0.1), knee(rows, 0.05), knee(rows, 0.6)) == (4, None, 2)


def test_names_on_the_command_line_are_those_of_the_figures() -> None:
    """The command line does not load them: help comes without torch."""
    assert tuple(PRESETS) == _LINKS and tuple(DEVICES) == _DEVICES
