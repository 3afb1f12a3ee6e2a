"""What transformers makes of the same files: greedy tokens in float32, of ids or of a text."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from case import Check, Outcome

_CLOSE = 1e-3  # logits this near may swap places by rounding


class NotNumbersError(Exception):
    """No token is the likeliest."""


def generates(directory: Path, prompt: Callable[[Any], list[int]], new_tokens: int) -> Check:
    """A check of `generate --json -`: its tokens are those of transformers, where that can be asked.

    `prompt`: the ids, from the tokenizer of the model.
    """

    def check(outcome: Outcome) -> str | None:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            try:
                from transformers import AutoTokenizer

                tokenizer = None
                if (directory / "tokenizer.json").exists():
                    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
                expected, gaps = tokens(directory, prompt(tokenizer), new_tokens)
            except NotNumbersError as error:
                return str(error)
            except Exception:
                return None  # it refuses what we take, or takes other files: nothing to compare with
        answer = json.loads(outcome.stdout)
        found = answer["token_ids"]
        for number, (ours, theirs, gap) in enumerate(zip(found, expected, gaps, strict=False)):
            if ours != theirs:
                return (
                    None
                    if gap < _CLOSE
                    else f"tokens {found}, transformers gives {expected} (from the {number + 1}. on)"
                )
        if len(found) > len(expected) or (len(found) < len(expected) and answer["finish_reason"] != "length"):
            return f"{len(found)} tokens {found}, transformers gives {expected}"
        return None

    return check


def ids(prompt_ids: list[int]) -> Callable[[Any], list[int]]:
    """A prompt of ids."""
    return lambda tokenizer: prompt_ids


def chat_or_text(text: str) -> Callable[[Any], list[int]]:
    """A prompt of text, as a chat where the model has a template."""

    def make(tokenizer: Any) -> list[int]:
        if tokenizer.chat_template is None:
            return list(tokenizer(text)["input_ids"])
        messages = [{"role": "user", "content": text}]
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    return make


def tokens(directory: Path, prompt_ids: list[int], new_tokens: int) -> tuple[list[int], list[float]]:
    """The new tokens, and by how much each won. Raises where weights are missing or of other shapes, and much else."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    model, report = loaded
    if any(report.get(name) for name in ("missing_keys", "mismatched_keys", "error_msgs")):
        raise ValueError("not all weights are in the files")
    prompt = torch.tensor([prompt_ids])
    with torch.inference_mode():
        out = model.eval().generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            output_scores=True,
            return_dict_in_generate=True,
        )
    best = [step[0].topk(2).values for step in out.scores]
    if any(bool(step.isnan().all()) or bool(step.isposinf().any()) for step in out.scores):
        if all(bool(weight.isfinite().all()) for weight in model.parameters()):
            raise OverflowError("it multiplies in an order in which these weights are too large, and we need not")
        raise NotNumbersError("an answer of logits that are no numbers")
    return out.sequences[0, len(prompt_ids) :].tolist(), [float(pair[0] - pair[1]) for pair in best]
