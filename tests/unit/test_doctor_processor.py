"""What the doctor says of processors and kernels."""

from doctor_jobs import job_of, rank_on, the

from mpi_spp.instruments.doctor.facts import Processor
from mpi_spp.instruments.doctor.finding import Level

AVX2 = Processor("A laptop's CPU", ("avx", "avx2"), None, ("widened", "blockwise"), None, {})
SERVER = Processor("A server's CPU", ("avx2", "amx_bf16"), None, ("plain", "native-amx"), "gcc 12.2.0", {})
NO_COMPILER = Processor("A server's CPU", ("amx_bf16",), None, ("plain",), None, {"native-amx": "no C compiler"})
BELIEVED = Processor("A server's CPU", ("sse2",), "sse2", ("widened", "blockwise"), None, {})


def test_native_kernels_are_well() -> None:
    finding = the(job_of(rank_on(processor=SERVER)), "cpu", "A server's CPU", "amx_bf16", "native-amx by gcc 12.2.0")
    assert finding.level is Level.OK


def test_a_cpu_without_bfloat16_is_told() -> None:
    finding = the(job_of(rank_on(processor=AVX2)), "cpu", "no instructions for bfloat16", "float32")
    assert finding.level is Level.NOTE


def test_a_missing_compiler_is_a_warning_with_advice() -> None:
    finding = the(job_of(rank_on(processor=NO_COMPILER)), "cpu", "no C compiler", "install a C compiler")
    assert finding.level is Level.WARNING


def test_who_only_believes_in_a_cpu_is_told() -> None:
    the(job_of(rank_on(processor=BELIEVED)), "cpu", "taken for sse2 by MPI_SPP_CPU")


def test_each_host_is_asked_once() -> None:
    """Its first rank knows; hosts that are alike are one finding."""
    finding = the(job_of(rank_on("a", processor=SERVER), rank_on("a"), rank_on("b", processor=SERVER)), "cpu")
    assert (finding.ranks, finding.hosts) == ((0, 1, 2), ("a", "b"))
