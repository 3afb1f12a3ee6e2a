"""Which compiler makes the native kernels."""

import importlib.util
import sys
from pathlib import Path

import pytest

from mpi_spp.kernels.native import compiler


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """No compiler on the PATH, none in CC; what is called."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> object:
        commands.append(command)
        return type("Done", (), {"returncode": 0})

    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    monkeypatch.setattr(compiler.subprocess, "run", run)
    return commands


def has_ziglang(monkeypatch: pytest.MonkeyPatch, it: bool) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: it if name == "ziglang" else None)


def test_without_any_the_ways_to_one_are_told(
    called: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_ziglang(monkeypatch, False)
    with pytest.raises(
        OSError, match=r"no C compiler \(gcc, cc, clang\) .* in CC, .* `pip install 'mpi-spp\[compiler\]'`"
    ):
        compiler.compiled([], (), tmp_path)
    assert compiler.compilers() == [] == called


@pytest.mark.parametrize("machine, flag", [("x86_64", "-mavx2"), ("aarch64", "-march=armv8.2-a+dotprod")])
def test_the_packaged_one_compiles_for_any_cpu_of_the_kind(
    machine: str, flag: str, called: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself it would take this CPU's instructions, and a home folder may be shared."""
    has_ziglang(monkeypatch, True)
    monkeypatch.setattr(compiler.platform, "machine", lambda: machine)
    compiler.compiled([Path("a.c")], (flag,), tmp_path)
    assert compiler.compilers() == ["ziglang"]
    one, linked = called
    assert one[:6] == linked[:6] == [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-gnu"]
    assert one[6] == {"x86_64": "-mavx2", "aarch64": "-mcpu=generic+dotprod"}[machine]


def test_a_named_one_comes_first(called: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    has_ziglang(monkeypatch, True)
    monkeypatch.setenv("CC", "tcc")
    assert compiler.compilers() == ["tcc"]
