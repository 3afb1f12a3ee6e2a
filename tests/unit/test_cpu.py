"""The processor's name and instructions, and a lesser one to be believed in."""

import json
import os
import platform
import subprocess
import sys

import pytest

from mpi_spp.errors import UserError
from mpi_spp.system import cpu, lesser_cpu

IS_X86 = platform.machine() == "x86_64"


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cpu.VARIABLE, raising=False)
    cpu.features.cache_clear()
    yield
    cpu.features.cache_clear()


def test_this_processor_has_a_name_and_instructions() -> None:
    assert cpu.name().strip() == cpu.name() != ""
    assert {"sse2"} <= cpu.features() if IS_X86 else cpu.features()
    assert set(cpu.shortened(cpu.instruction_sets()).split()) <= set(cpu.instruction_sets())
    assert cpu.facts()["believed_cpu"] is None


@pytest.mark.skipif(not IS_X86, reason="levels are those of x86")
@pytest.mark.parametrize("level, last", [("sse2", "sse4_2"), ("avx2", "avx2"), ("avxvnni", "avx_vnni")])
def test_a_lesser_processor_has_no_newer_instructions(level: str, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cpu.instruction_sets()
    cpu.features.cache_clear()
    monkeypatch.setenv(cpu.VARIABLE, level)
    known = [one for one in real if cpu._OF_X86.index(one) <= cpu._OF_X86.index(last)]
    assert cpu.instruction_sets() == known
    assert cpu.facts()["believed_cpu"] == level


@pytest.mark.skipif(not IS_X86, reason="levels are those of x86")
@pytest.mark.parametrize(
    "level, last", [("avx512", "avx512dq"), ("avx512vnni", "avx512_vnni"), ("avx512bf16", "avx512_bf16")]
)
def test_a_server_lacks_what_laptops_have(level: str, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else kernels for these would be tried on a Skylake that is believed in."""
    real = cpu.instruction_sets()
    cpu.features.cache_clear()
    monkeypatch.setenv(cpu.VARIABLE, level)
    known = [one for one in real if cpu._OF_X86.index(one) <= cpu._OF_X86.index(last) and one != "avx_vnni"]
    assert cpu.instruction_sets() == [one for one in known if one != "avx_ne_convert"]


def test_an_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.VARIABLE, "z80")
    with pytest.raises(UserError, match=r"MPI_SPP_CPU: 'z80' is unknown; choose one of sse2, avx2"):
        cpu.believed()
    assert lesser_cpu.believe() == {}  # said later, where a line can be said


def test_an_empty_word_is_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.VARIABLE, "")
    assert cpu.believed() is None and lesser_cpu.believe() == {}


@pytest.mark.skipif(not IS_X86, reason="levels are those of x86")
def test_torch_believes_it_too() -> None:
    """In a process of its own: it looks once, when it is loaded."""
    program = (
        "import mpi_spp, torch, json; from mpi_spp.system import cpu;"
        "print(json.dumps([torch.backends.cpu.get_cpu_capability(), cpu.instruction_sets()]))"
    )
    environment = os.environ | {cpu.VARIABLE: "sse2"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True, timeout=60)
    assert json.loads(done.stdout)[0] == "DEFAULT"
    assert json.loads(done.stdout)[1] == [one for one in ("sse2", "sse4_2") if one in cpu.features()]


def test_the_bits_of_arm_have_linux_names() -> None:
    """As asm/hwcap.h numbers them."""
    assert cpu.hwcap_names(0b11, 0) == {"fp", "asimd"}
    assert cpu.hwcap_names(1 << 20, 1 << 13 | 1 << 14) == {"asimddp", "i8mm", "bf16"}
    assert cpu.hwcap_names(0, 0) == frozenset()
