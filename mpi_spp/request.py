"""What an engine is asked."""

import json
import math
import secrets
from dataclasses import dataclass, fields
from typing import Any

from mpi_spp.errors import UserError
from mpi_spp.system.files import json_type

MOST_TOKENS = 2**31 - 1  # the most positions that a model may have, and more than any vocabulary has
PENALTY_RANGES = {
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}

# What a template is given by this program, or what transformers would not hand on to it.
_RESERVED = {"add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents"}
_RESERVED |= {"max_length", "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors"}
_RESERVED |= {"sanitize_control_tokens", "tokenize", "tokenizer_kwargs", "tools", "truncation"}


@dataclass(frozen=True)
class Penalties:
    """How the scores of tokens change that the text has already; names and meanings are those of vLLM.

    A score above 0 is divided by `repetition_penalty` and any other multiplied by it, if the prompt or the answer has
    the token (so in transformers, too). `presence_penalty` is subtracted if the answer has it, and `frequency_penalty`
    as often as the answer has it (OpenAI's).
    """

    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


NO_PENALTIES = Penalties()


@dataclass(frozen=True)
class Draws:
    """How tokens are drawn; names and meanings are those of transformers and vLLM. Raises ValueError without a seed.

    `temperature` 0 takes the likeliest token, and what else is said then does not count. `top_k` 0 and `top_p` 1 leave
    all tokens. A `seed` repeats the draws; only with one are they the same on all ranks.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.temperature and self.seed is None:
            raise ValueError("sampling without a seed would differ between ranks")


DRAWS = tuple(one.name for one in fields(Draws))
_DRAWN_SEED_BITS = 32  # short enough to be typed again


def new_seed() -> int:
    """A seed that nobody knows before; one rank makes it for all."""
    return secrets.randbits(_DRAWN_SEED_BITS)


def check_draw(name: str, value: Any, source: str) -> Any:
    """Return what is said of one of DRAWS. Raises UserError, which begins with `source`, where it cannot be meant."""
    is_count = name in ("top_k", "seed")
    if isinstance(value, bool) or not isinstance(value, int if is_count else (int, float)):
        raise UserError(f"{source}: is no {'whole ' * is_count}number, but {json_type(value)}")
    if name == "temperature" and not (math.isfinite(value) and value >= 0):
        raise UserError(f"{source}: {value} is no finite number from 0 up; give 0 (greedy) or 0.8")
    if name == "top_k" and not 0 <= value <= MOST_TOKENS:
        few = value < 0
        raise UserError(f"{source}: {value} is too {'small' if few else 'much'}; give 1 or more, or 0 for all tokens")
    if name == "top_p" and not 0 < value <= 1:
        raise UserError(f"{source}: {value} is no share above 0 and up to 1; give 0.95, or 1 for all tokens")
    if name == "seed" and not 0 <= value < 2**64:
        raise UserError(f"{source}: {value} does not fit 64 bits; give a number from 0 up, below 2**64")
    return value


def check_penalty(name: str, value: object, source: str) -> float:
    """Return a penalty's value as a float. Raises UserError, which begins with `source`, where it cannot be one."""
    low, high = PENALTY_RANGES[name]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        none = getattr(NO_PENALTIES, name)
        raise UserError(f"{source}: {value!r} is no number from {low:g} to {high:g}; give one, or {none:g} for none")
    return float(value)


def check_template_variables(source: str, variables: Any) -> None:
    """Raise UserError unless these are variables that a template may be given. `source`: an option or a field."""
    if not isinstance(variables, dict):
        raise UserError(f'{source}: is no JSON object, but {json_type(variables)}; give {{"enable_thinking": false}}')
    try:
        json.dumps(variables, allow_nan=False)
    except ValueError:
        raise UserError(f"{source}: holds a number that is none (NaN or Infinity); give another") from None
    if reserved := sorted(_RESERVED & variables.keys()):
        raise UserError(f"{source}: {reserved[0]} is set by the program; leave it out")


@dataclass(frozen=True)
class Request:
    """A prompt, and where its answer ends. `stream` tells its draws from those of other requests with the same seed.

    `penalized_ids`: what counts as the prompt for penalties, where that is not the prompt. `draws`: None, as the run.
    """

    prompt_ids: list[int]
    stop_ids: frozenset[int]
    max_new_tokens: int
    stream: int = 0
    penalties: Penalties = NO_PENALTIES
    penalized_ids: list[int] | None = None
    draws: Draws | None = None

    def ends_with(self, token: int, taken: int) -> bool:
        """Whether this token, so many with it, is the answer's last one."""
        return token in self.stop_ids or taken == self.max_new_tokens
