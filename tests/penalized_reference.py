"""Prompts answered with a repetition penalty, without and with guidance, and what transformers makes of them."""

import oracles
import reference_models

PENALTY, LENGTH = 1.3, 37
WAYS = {"plain": ("qwen3", 1.0), "guided": ("llama_tied", 2.0)}  # model and guidance scale


def prompts_of(name: str, shift: int) -> tuple[list[int], list[int]]:
    """The prompt and the negative prompt; every shift gives others."""
    prompt = [(token + shift) % 131 for token in reference_models.prompt_of(name, LENGTH)]
    return prompt, prompt[20:2:-1]


def clear_case(way: str) -> tuple[list[int], list[int], list[int]]:
    """A prompt and negative prompt whose answer is decided clearly, and that answer."""
    kept = oracles.read("penalized")[way]
    return *prompts_of(WAYS[way][0], kept["shift"]), kept["tokens"]
