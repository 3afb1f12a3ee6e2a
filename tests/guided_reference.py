"""Prompts with classifier-free guidance, and what transformers makes of them."""

import oracles
import reference_models

NAMES = ("llama_tied", "qwen3", "mistral_window", "qwen2_some_windows")
CASES = [(37, 100, 1.5), (100, None, 3.0), (1, 37, 0.5), (37, 1, -0.5)]  # lengths of prompt and negative prompt; scale
SMOLLM2_SCALE, SMOLLM2_TOKENS = 1.7, 24
SMOLLM2_PROMPTS = ("The lighthouse stood at the edge of the sea, and its keeper", "A happy poem about the sun:\n")


def prompts_of(name: str, case: int, shift: int) -> tuple[list[int], list[int] | None]:
    """The prompt and negative prompt of a case; every shift gives others."""
    length, negative_length, _ = CASES[case]
    prompt, other = (
        [(token + shift) % 131 for token in reference_models.prompt_of(name, count)]
        for count in (length, negative_length or 0)
    )
    return prompt, other[::-1] or None


def clear_case(name: str, case: int) -> tuple[list[int], list[int] | None, list[int]]:
    """A prompt and negative prompt whose answer is decided clearly, and that answer."""
    kept = oracles.read("guided")[name][case]
    return *prompts_of(name, case, kept["shift"]), kept["tokens"]


def smollm2_reference() -> dict[str, list[int]]:
    """Prompt, negative prompt and tokens of the real model."""
    return oracles.read("guided_smollm2")
