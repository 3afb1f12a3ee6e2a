"""What transformers makes of the same files: greedy tokens in float32, of ids or of a text."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from case import Check, Outcome

REFUSES = "transformers refuses"
_MOST_ASKED = 2  # of many questions
_CLOSE = 1e-3  # logits this near may swap places by rounding


class NotNumbersError(Exception):
    """No token is the likeliest."""


def generates(directory: Path, prompt: Callable[[Any], list[int]], new_tokens: int) -> Check:
    """A check of `generate --json -`: its tokens are those of transformers, where that can be asked.

    `prompt`: the ids, from the tokenizer of the model.
    """
    return answers(directory, lambda tokenizer: {None: prompt(tokenizer)}, new_tokens)


def answers(directory: Path, prompts: Callable[[Any], dict[Any, list[int]]], new_tokens: int) -> Check:
    """A check of a command with `--json -` that answers prompts; `prompts`: ids by what `question` calls them."""

    def check(outcome: Outcome) -> str | None:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            try:
                from transformers import AutoTokenizer

                tokenizer = None
                if (directory / "tokenizer.json").exists():
                    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
                asked = prompts(tokenizer)
                expected = {name: tokens(directory, ids, new_tokens) for name, ids in list(asked.items())[:_MOST_ASKED]}
            except NotNumbersError as error:
                return str(error)
            except Exception as error:  # it refuses what we take, or takes other files: nothing to compare with
                return f"{REFUSES}: {type(error).__name__}: {error}"
        told = json.loads(outcome.stdout)
        found = {one.get("question"): one for one in told.get("answers", [told])}
        if found.keys() != asked.keys():
            return f"answers to {list(found)}, but asked was {list(asked)}"
        wrong = (difference(found[name], *theirs) for name, theirs in expected.items())
        return next((one for one in wrong if one), None)

    return check


def difference(answer: dict[str, Any], expected: list[int], gaps: list[float]) -> str | None:
    """What is wrong with an answer's tokens."""
    found = answer["token_ids"]
    for number, (ours, theirs, gap) in enumerate(zip(found, expected, gaps, strict=False)):
        if ours != theirs:
            says = f"tokens {found}, transformers gives {expected} (from the {number + 1}. on)"
            return None if gap < _CLOSE else says
    if len(found) > len(expected) or (len(found) < len(expected) and answer["finish_reason"] != "length"):
        return f"{len(found)} tokens {found}, transformers gives {expected}"
    return None


def ids(prompt_ids: list[int]) -> Callable[[Any], list[int]]:
    """A prompt of ids."""
    return lambda tokenizer: prompt_ids


def chat_or_text(text: str, system: str | None = None, chat: bool | None = None) -> Callable[[Any], list[int]]:
    """A prompt of text, as a chat where the model has a template, or as `chat` says."""

    def make(tokenizer: Any) -> list[int]:
        if chat is False or (chat is None and tokenizer.chat_template is None):
            return list(tokenizer(text)["input_ids"])
        messages = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": text})
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    return make


def tokens(
    directory: Path, prompt_ids: list[int], new_tokens: int, dtype: str = "float32"
) -> tuple[list[int], list[float]]:
    """The new tokens, and by how much each won. Raises where weights are missing or of other shapes, and much else.

    float64 where it multiplies in an order in which float32 is too small, since ours need not be that order.
    """
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True
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
        if dtype == "float32" and all(bool(weight.isfinite().all()) for weight in model.parameters()):
            return tokens(directory, prompt_ids, new_tokens, "float64")
        raise NotNumbersError("an answer of logits that are no numbers")
    gaps = [float((pair[0] - pair[1]) / max(1.0, float(pair[0].abs()))) for pair in best]
    return out.sequences[0, len(prompt_ids) :].tolist(), gaps
