"""transformers: its model's own forward, token by token, without what `generate` adds around it."""

from collections.abc import Callable

from benchmarks.peers.protocol import Job, measure

REQUIREMENTS = None  # our own environment has it
VARIANTS = {"bfloat16": {"sdpa": {"attention": "sdpa"}, "eager": {"attention": "eager"}}}


def run(job: Job) -> tuple[dict[str, list[float]], str]:
    """Tokens per second and the version."""
    import torch
    import transformers

    torch.set_num_threads(job.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job.model, dtype=torch.bfloat16, attn_implementation=job.variant["attention"]
    )

    def generate(prompt_ids: list[int], first: Callable[[], None]) -> None:
        tokens, cache = torch.tensor([prompt_ids]), None
        for number in range(job.new_tokens):
            output = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, tokens = output.past_key_values, output.logits[:, -1:].argmax(-1)
            if number == 0:
                first()

    with torch.inference_mode():
        return measure(job, generate), transformers.__version__
