"""Make the files in tests/oracle anew with transformers: `bin/test --remake-oracles`.

What still decides every token clearly keeps its seed, so that only a changed recipe changes a file.
"""

import functools
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests' package, when this is a program

import guided_reference
import oracles
import penalized_reference
import reference_models
import smollm2
import torch
from oracles import SMALLEST_GAP
from reference_models import NEW_TOKENS, PROMPT_LENGTHS, RECIPES, prompt_of

from mpi_spp.kernels.quantized import BITS, dequantize, quantize

QUANTIZED = ("qwen3", "llama_biases", "qwen2_moe")
QUANTIZED_LENGTH = 37
_ROUTER_FACTOR = 50  # probabilities are smaller than logits, and there are many more of them
_MOST_TRIALS = 50

Answer = tuple[list[int], float]  # tokens, and the smallest gap that has decided one


def models(kept: dict[str, Any]) -> dict[str, Any]:
    """Of each recipe the first seed whose greedy tokens are decided clearly, and the tokens by the prompt's length."""

    def trial(name: str, seed: int) -> tuple[dict[str, Any], float]:
        with tempfile.TemporaryDirectory() as directory:
            reference_models.save_random_model(Path(directory), RECIPES[name], seed)
            answers = {
                length: greedy(Path(directory), prompt_of(name, length), NEW_TOKENS) for length in PROMPT_LENGTHS
            }
        tokens = {str(length): tokens for length, (tokens, _) in answers.items()}
        return {"seed": seed, "tokens": tokens}, min(gap for _, gap in answers.values())

    return {
        name: first_clear(name, (functools.partial(trial, name, seed) for seed in seeds(kept.get(name), "seed")))
        for name in RECIPES
    }


def quantized(kept: dict[str, Any]) -> dict[str, Any]:
    """The tokens of models with the weights that quantised ones stand for, by scheme and model."""
    directory, made = reference_models.build_reference_models(), {}
    for scheme, name in itertools.product(BITS, QUANTIZED):
        with tempfile.TemporaryDirectory() as rounded:
            save_quantized(directory / name, Path(rounded), BITS[scheme])
            answer = greedy(Path(rounded), prompt_of(name, QUANTIZED_LENGTH), NEW_TOKENS)
        made[f"{scheme} {name}"] = first_clear(f"{scheme} {name}", [lambda answer=answer: answer])
    return made


def guided(kept: dict[str, Any]) -> dict[str, Any]:
    """For each case of each model the first prompts whose answer is decided clearly, as a shift, and that answer."""
    directory = reference_models.build_reference_models()

    def trial(name: str, case: int, shift: int) -> tuple[dict[str, Any], float]:
        prompts, scale = guided_reference.prompts_of(name, case, shift), guided_reference.CASES[case][2]
        tokens, gap = guided_tokens(directory / name, *prompts, scale, NEW_TOKENS)
        return {"shift": shift, "tokens": tokens}, gap

    made: dict[str, Any] = {}
    for name, case in itertools.product(guided_reference.NAMES, range(len(guided_reference.CASES))):
        shifts = seeds(kept[name][case] if name in kept else None, "shift")
        found = first_clear(f"{name} {case}", (functools.partial(trial, name, case, shift) for shift in shifts))
        made.setdefault(name, []).append(found)
    return made


def of_smollm2(kept: dict[str, Any]) -> dict[str, Any]:
    """The prompt's ids and the greedy float32 tokens."""
    text = smollm2.TEXT.read_text(encoding="utf-8")
    ids = tokenizer_of(smollm2.directory())(text)["input_ids"][: smollm2.PROMPT_TOKENS]
    tokens = first_clear("smollm2", [lambda: greedy(smollm2.directory(), ids, smollm2.NEW_TOKENS)])
    return {"prompt_ids": ids, "token_ids": tokens}


def guided_smollm2(kept: dict[str, Any]) -> dict[str, Any]:
    """The ids of prompt and negative prompt, and the greedy float32 tokens."""
    tokenizer, scale = tokenizer_of(smollm2.directory()), guided_reference.SMOLLM2_SCALE
    prompt, negative = (tokenizer(text)["input_ids"] for text in guided_reference.SMOLLM2_PROMPTS)
    count = guided_reference.SMOLLM2_TOKENS
    found = first_clear("guided", [lambda: guided_tokens(smollm2.directory(), prompt, negative, scale, count)])
    return {"prompt_ids": prompt, "negative_ids": negative, "token_ids": found}


def penalized(kept: dict[str, Any]) -> dict[str, Any]:
    """For each way the first prompt whose answer with a repetition penalty is decided clearly, and that answer."""
    directory = reference_models.build_reference_models()

    def trial(way: str, shift: int) -> tuple[dict[str, Any], float]:
        name, scale = penalized_reference.WAYS[way]
        prompt, negative = penalized_reference.prompts_of(name, shift)
        tokens, gap = guided_tokens(directory / name, prompt, negative, scale, NEW_TOKENS, penalized_reference.PENALTY)
        return {"shift": shift, "tokens": tokens}, gap

    return {
        way: first_clear(way, (functools.partial(trial, way, shift) for shift in seeds(kept.get(way), "shift")))
        for way in penalized_reference.WAYS
    }


MAKERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "models": models,  # first: the others need them
    "quantized": quantized,
    "guided": guided,
    "penalized": penalized,
    "smollm2": of_smollm2,
    "guided_smollm2": guided_smollm2,
}


def seeds(kept: dict[str, Any] | None, name: str) -> Iterator[int]:
    """The one that is kept first."""
    yield from [kept[name]] if kept else []
    yield from range(_MOST_TRIALS)


def first_clear(what: str, trials: Iterable[Callable[[], tuple[Any, float]]]) -> Any:
    """What the first trial gives that decides every token by more than SMALLEST_GAP."""
    for trial in trials:
        found, gap = trial()
        if gap > SMALLEST_GAP:
            return found
    raise AssertionError(f"{what}: nothing decides every token by more than {SMALLEST_GAP}")


def save_quantized(source: Path, directory: Path, bits: int, group: int = 32) -> None:
    """Write an untied model in float32 with what quantised weights stand for; routers and gates are not quantised."""
    model = load_model(source)
    for name, parameter in model.named_parameters():
        if name.endswith(("_proj", "_proj.weight", "lm_head.weight")):
            matrices = parameter.data if parameter.ndim == 3 else parameter.data[None]
            kept = bits if name != "lm_head.weight" else 8
            rounded = [dequantize(quantize(matrix, kept, group)) for matrix in matrices]
            parameter.data = torch.stack(rounded).view_as(parameter)
    model.save_pretrained(directory)


def greedy(directory: Path, prompt_ids: list[int], new_tokens: int) -> Answer:
    """The tokens of transformers in float32, and the smallest gap between the two best logits of a step.

    A router decides over whole experts: its gaps count, too, where they come near to rounding.
    """
    model = load_model(directory)
    routing = _watch_routers(model)
    output = model.generate(
        torch.tensor([prompt_ids]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.int64),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    gap = min([_smallest_gap(output.logits), *(_ROUTER_FACTOR * one for one in routing)])
    return output.sequences[0, len(prompt_ids) :].tolist(), gap


def guided_tokens(
    directory: Path,
    prompt_ids: list[int],
    negative_ids: list[int] | None,
    scale: float,
    new_tokens: int,
    repetition_penalty: float = 1.0,
) -> Answer:
    """The greedy float32 tokens with guidance, and the smallest gap between the two best scores of a step."""
    output = load_model(directory).generate(
        torch.tensor([prompt_ids]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.int64),
        guidance_scale=scale,
        repetition_penalty=repetition_penalty,
        negative_prompt_ids=None if negative_ids is None else torch.tensor([negative_ids]),
        max_new_tokens=new_tokens,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    return output.sequences[0, len(prompt_ids) :].tolist(), _smallest_gap(output.scores)


def load_model(directory: Path) -> Any:
    """In float32, with experts one after another."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, experts_implementation="eager")


def tokenizer_of(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def _smallest_gap(logits: tuple[torch.Tensor, ...]) -> float:
    best = torch.cat(logits).float().topk(2).values
    return (best[:, 0] - best[:, 1]).min().item()


def _watch_routers(model: Any) -> list[float]:
    """Will hold the smallest gap between the last expert that is taken and the next one, of every call of a router."""
    gaps: list[float] = []

    def look(router: Any, inputs: Any, outputs: Any) -> None:
        taken = outputs[0].float().softmax(-1).topk(router.top_k + 1).values
        gaps.append((taken[:, -2] - taken[:, -1]).min().item())

    for module in model.modules():
        if type(module).__name__.endswith("TopKRouter"):
            module.register_forward_hook(look)
    return gaps


def main() -> None:
    """Make every file anew, and tell which ones are other than before."""
    reference_models.silence_transformers()
    for name, make in MAKERS.items():
        kept = oracles.read(name) if oracles.path_of(name).exists() else {}
        made = make(kept)
        oracles.write(name, made)
        print(f"tests/oracle/{name}.json: {'as it was' if made == kept else 'changed'}", flush=True)


if __name__ == "__main__":
    main()
