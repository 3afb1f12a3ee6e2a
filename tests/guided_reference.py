"""What transformers makes of a prompt with classifier-free guidance."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import reference_models
import smollm2

SMOLLM2_SCALE, SMOLLM2_TOKENS = 1.7, 24
SMOLLM2_PROMPTS = ("The lighthouse stood at the edge of the sea, and its keeper", "A happy poem about the sun:\n")


def guided(
    directory: Path, prompt_ids: list[int], negative_ids: list[int] | None, scale: float, new_tokens: int
) -> tuple[list[int], float]:
    """The greedy float32 tokens, and the smallest gap between the two best scores of a step."""
    import torch

    output = _model(directory).generate(
        torch.tensor([prompt_ids]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.int64),
        guidance_scale=scale,
        negative_prompt_ids=None if negative_ids is None else torch.tensor([negative_ids]),
        max_new_tokens=new_tokens,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    best = torch.cat(output.scores).topk(2).values
    return output.sequences[0, len(prompt_ids) :].tolist(), (best[:, 0] - best[:, 1]).min().item()


@functools.cache
def _model(directory: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def clear_case(
    directory: Path, length: int, negative_length: int | None, scale: float
) -> tuple[list[int], list[int] | None, list[int]]:
    """The first prompt and negative prompt of these lengths whose answer is decided clearly, and that answer."""
    name = directory.name
    for shift in range(50):
        prompt, other = (
            [(token + shift) % 131 for token in reference_models.prompt_of(name, count)]
            for count in (length, negative_length or 0)
        )
        negative = other[::-1] or None
        tokens, gap = guided(directory, prompt, negative, scale, reference_models.NEW_TOKENS)
        if gap > reference_models.SMALLEST_GAP:
            return prompt, negative, tokens
    raise AssertionError(f"{name}: no prompt decides every token by more than {reference_models.SMALLEST_GAP}")


def smollm2_reference() -> dict[str, list[int]]:
    """Prompt, negative prompt and tokens of the real model, computed once."""
    import transformers

    from mpi_spp.model.store import cache_directory

    key = hashlib.sha256(Path(__file__).read_bytes() + transformers.__version__.encode())
    path = cache_directory() / "tests" / f"guided-{key.hexdigest()[:12]}.json"
    if not path.exists():
        tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2.directory())
        prompt, negative = (tokenizer(text)["input_ids"] for text in SMOLLM2_PROMPTS)
        tokens, gap = guided(smollm2.directory(), prompt, negative, SMOLLM2_SCALE, SMOLLM2_TOKENS)
        assert gap > reference_models.SMALLEST_GAP, "two scores are too near to test for equal tokens"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"prompt_ids": prompt, "negative_ids": negative, "token_ids": tokens}))
    return json.loads(path.read_text())
