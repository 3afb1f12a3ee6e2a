"""Long work shows itself, short work does not."""

import io
import time
from collections.abc import Callable

import pytest

from mpi_spp.system import progress
from mpi_spp.system.progress import Progress, Steps, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def let_pass(seconds: float) -> None:
        now[0] += seconds

    return let_pass


def test_what_is_done_soon_shows_nothing(wait: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in track(range(4), "loading", "layer"):
        wait(1.2)
    assert capsys.readouterr() == ("", "")


def test_lines_every_few_seconds_say_what_is_left(
    wait: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in track(range(30), "loading", "layer"):
        wait(2)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 10
    assert lines[0] == "mpi-spp: loading: 3 of 30 layers in 6 s, about 54 s left"


def test_what_was_there_before_took_no_time(wait: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("answering", 100, "line", done=90) as shown:
        wait(300)
        shown.advance(5)
    assert capsys.readouterr().err == "mpi-spp: answering: 95 of 100 lines in 5 min, about 5 min left\n"


def test_only_one_rank_shows(wait: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    for _ in track(range(9), "loading", "layer", shows=False):
        wait(10)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal_goes_when_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_BAR_AFTER_SECONDS", 0)
    terminal = Terminal()
    with Progress("prefill", 8, "token", file=terminal) as shown:
        for _ in range(4):
            shown.advance(2)
        shown.write("by the way")
    text = terminal.getvalue()
    assert "prefill:" in text and "0/8" in text and "by the way\n" in text
    assert text.endswith("\r") and "\n" not in text.replace("by the way\n", "")


def test_no_bar_for_what_is_done_soon() -> None:
    terminal = Terminal()
    with Progress("prefill", 8, "token", file=terminal) as shown:
        shown.advance(8)
    assert terminal.getvalue() == ""


def test_steps_have_a_line_each(wait: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps()
    for done in (0.0, 0.25, 0.5):
        steps("downloading", done)
        wait(4)
    steps("unpacking", 0.0)
    steps.close()
    expected = ["downloading", "mpi-spp: downloading: 50% in 8 s, about 8 s left", "unpacking"]
    assert capsys.readouterr().err.splitlines() == expected


def test_no_step_is_shown_of_what_fails_at_once(
    wait: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for seconds, shown in ((0.5, []), (2, ["reading", "writing"])):
        with pytest.raises(ValueError, match="no"), Steps() as steps:
            steps("reading", 0.0)
            wait(seconds)
            steps("writing", 0.0)
            raise ValueError("no")
        assert capsys.readouterr().err.splitlines() == shown
    with Steps() as steps:
        steps("reading", 0.0)
    assert capsys.readouterr().err == "reading\n"


def test_work_that_lasts_is_announced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal that comes sooner stands alone."""
    monkeypatch.setattr(progress, "_SILENCE_SECONDS", 0.05)
    with progress.announced("soon done"):
        pass
    with progress.announced("of another rank", shows=False):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
    with progress.announced("trying kernels"):
        time.sleep(0.2)
    assert capsys.readouterr().err == "mpi-spp: trying kernels ...\n"
