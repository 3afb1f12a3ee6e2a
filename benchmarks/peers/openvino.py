"""OpenVINO GenAI on a model exported by optimum-intel: weights compressed by it, arithmetic in bfloat16."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Job, measure

REQUIREMENTS = ["torch==2.13.0", "openvino-genai==2026.4.1.0", "optimum-intel==2.2.0", "nncf==3.4.0"]
REMOVED = ["torchvision"]  # the version that pip chooses does not load with this torch
VARIANTS = {
    weights: {"paged": {"weights": weights, "attention": "PA"}, "sdpa": {"weights": weights, "attention": "SDPA"}}
    for weights in ("bfloat16", "int8", "int4")
}
_BITS = {"int8": {"bits": 8}, "int4": {"bits": 4, "sym": False, "group_size": 64}}


def run(job: Job) -> tuple[dict[str, list[float]], str]:
    """Tokens per second and the version."""
    directory = _exported(job)  # before the import below: both bring an OpenVINO library
    import numpy
    import openvino
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(str(directory), "CPU", **_properties(job))
    config = openvino_genai.GenerationConfig(max_new_tokens=job.new_tokens, ignore_eos=True, do_sample=False)

    class Stopwatch(openvino_genai.StreamerBase):  # type: ignore[misc]
        """Tells when the first token comes."""

        def __init__(self, first: Callable[[], None]) -> None:
            super().__init__()
            self.first: Callable[[], None] | None = first

        def write(self, token: Any) -> Any:
            if self.first:
                self.first()
                self.first = None
            return openvino_genai.StreamingStatus.RUNNING

        def end(self) -> None:
            """Nothing is left to show."""

    def generate(prompt_ids: list[int], first: Callable[[], None]) -> None:
        ids = openvino.Tensor(numpy.array([prompt_ids], dtype=numpy.int64))
        mask = openvino.Tensor(numpy.ones((1, len(prompt_ids)), dtype=numpy.int64))
        answer = pipeline.generate(openvino_genai.TokenizedInputs(ids, mask), config, Stopwatch(first))
        assert len(answer.tokens[0]) == job.new_tokens, f"{len(answer.tokens[0])} tokens came"

    return measure(job, generate), openvino_genai.__version__


def _properties(job: Job) -> dict[str, Any]:
    """Its own defaults for compressed weights, an 8-bit cache included; nothing in 8 bits for bfloat16."""
    import openvino_genai

    properties: dict[str, Any] = {
        "ATTENTION_BACKEND": job.variant["attention"],
        "INFERENCE_NUM_THREADS": job.threads,
        "INFERENCE_PRECISION_HINT": "bf16",
    }
    if job.variant["weights"] == "bfloat16":
        properties["KV_CACHE_PRECISION"] = "bf16"
    if job.variant["attention"] == "PA":
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = job.prompt_tokens + job.new_tokens
        scheduler.cache_size = 2  # GB
        properties["scheduler_config"] = scheduler
    return properties


def _exported(job: Job) -> Path:
    """The model in OpenVINO's format with its tokenizer, made once."""
    directory = Path(job.work) / f"{Path(job.model).name}-{job.variant['weights']}"
    if not directory.exists():
        partial = directory.with_name(f".{directory.name}.partial")
        _export(job, partial)
        partial.rename(directory)
    return directory


def _export(job: Job, directory: Path) -> None:
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
    from transformers import AutoTokenizer

    bits = _BITS.get(job.variant["weights"])
    model = OVModelForCausalLM.from_pretrained(
        job.model,
        export=True,
        compile=False,
        load_in_8bit=False,
        quantization_config=OVWeightQuantizationConfig(**bits) if bits else None,
    )
    model.save_pretrained(directory)
    tokenizers = convert_tokenizer(AutoTokenizer.from_pretrained(job.model), with_detokenizer=True)
    for tokenizer, name in zip(tokenizers, ("openvino_tokenizer", "openvino_detokenizer"), strict=True):
        openvino.save_model(tokenizer, directory / f"{name}.xml")
