"""What a model's generation_config.json says of how tokens are chosen, and where an answer ends.

As for transformers' greedy `generate`, what it says counts unless an option says otherwise: what changes the likeliest
token is done, or refused by name. What is about drawing, lengths, beams or speed is left out, and named.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpi_spp.config import RunConfig, option_name
from mpi_spp.errors import UserError
from mpi_spp.request import NO_PENALTIES, Penalties, check_penalty
from mpi_spp.system.files import json_type, read_json_object

_NAME = "generation_config.json"
_MOST_SHOWN = 40  # characters of a value
_ADVICE = "; get the model's files again"
_CACHES = ("static", "hybrid", "hybrid_chunked")
_EXACT_CACHES = ("dynamic", "offloaded", "paged", "sliding_window", *_CACHES, *(f"offloaded_{one}" for one in _CACHES))
TAKEN = ("eos_token_id", "repetition_penalty")
# What changes greedy tokens in transformers and cannot be had here, after the values that change nothing. All else,
# as what is only of beams, or of drafts that no greedy token depends on, changes none.
NOT_BUILT: dict[str, tuple[Any, ...]] = {
    "assistant_ensemble_weight": (),
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_decoder_ids": ([],),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "is_assistant": (False,),  # ends an answer where the model is not sure
    "max_time": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "sequence_bias": ([], {}),
    "stop_strings": ([], ""),
    "suppress_tokens": ([],),
    "token_healing": (False,),
    "watermarking_config": (),
}
# How tokens are drawn, and how long an answer is: options of the command say it. Again with what changes nothing.
LEFT_OUT: dict[str, tuple[Any, ...]] = {
    "cache_implementation": _EXACT_CACHES,
    "do_sample": (False,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "max_length": (20,),  # transformers' own default, which old files spell out
    "max_new_tokens": (),
    "min_p": (0,),
    "num_return_sequences": (1,),
    "temperature": (1,),
    "top_h": (),
    "top_k": (0, 50),
    "top_p": (1,),
    "typical_p": (1,),
}


@dataclass(frozen=True)
class Generation:
    """What holds for all answers of a run. `taken` and `left_out`: of the file `source`, by the file's names."""

    penalties: Penalties
    stop_ids: frozenset[int]
    source: str | None = None
    taken: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """For the JSON of a run."""
        penalties = {name: getattr(self.penalties, name) for name in vars(NO_PENALTIES)}
        source = {"file": self.source, "taken": dict(self.taken), "left_out": dict(self.left_out)}
        return penalties | {"generation_config": source, "stop_token_ids": sorted(self.stop_ids)}

    def line(self) -> str | None:
        """For people: what the file changed, and what of it does not count; None where there is nothing of either."""
        taken = ", ".join(f"{name} {value}" for name, value in self.taken.items())
        left = ", ".join(f"{name} {value}" for name, value in self.left_out.items())
        parts = [f"{taken} counts" if taken else "", f"{left} left to the command's options" if left else ""]
        return f"{self.source}: {'; '.join(filter(None, parts))}" if taken or left else None


def read_generation(config: RunConfig, tokenizer: Any | None, directory: Path) -> Generation:
    """By options, else by the model's generation_config.json, else, as in transformers, by its config.json."""
    path = _path(config, directory)
    fields = _fields(path, directory)
    stop_ids = frozenset() if config.ignore_eos else _stop_ids(fields, path, tokenizer, directory)
    if config.generation_config == "none":
        return Generation(_penalties(config, {}, path), stop_ids)
    _require_built(config, fields, path)
    penalties = _penalties(config, fields, path)
    name, chosen = "repetition_penalty", config.repetition_penalty
    taken = {name: penalties.repetition_penalty} if chosen is None and penalties.repetition_penalty != 1 else {}
    left_out = {name: _plain(fields[name]) for name in LEFT_OUT if _says(fields, name, LEFT_OUT[name])}
    return Generation(penalties, stop_ids, path.name, taken, left_out)


def _path(config: RunConfig, directory: Path) -> Path:
    if config.generation_config in ("auto", "none"):
        own = directory / _NAME
        return own if own.exists() else directory / "config.json"
    path = Path(config.generation_config)
    path = path / _NAME if os.path.isdir(path) else path
    if not config.generation_config or not os.path.exists(path):
        raise UserError(f"--generation-config: {path} is not there; give a file or its folder, auto or none")
    return path


def _fields(path: Path, directory: Path) -> dict[str, Any]:
    if not os.path.exists(path):
        return {}
    fields = read_json_object(str(path), path, advice=_ADVICE if path.parent == directory else "")
    return {name: value for name, value in fields.items() if value is not None}


def _require_built(config: RunConfig, fields: Mapping[str, Any], path: Path) -> None:
    """Raise UserError naming the first field that changes the choice of tokens, and cannot be had."""
    for name, neutral in NOT_BUILT.items():
        if _says(fields, name, neutral) and not (name == "guidance_scale" and config.is_guided):
            raise UserError(
                f"{path}: {name} {fields[name]!r} changes which tokens are chosen, and is not supported; leave the file"
                " out with --generation-config none, or give one without it there"
            )


def _says(fields: Mapping[str, Any], name: str, neutral: tuple[Any, ...]) -> bool:
    return name in fields and fields[name] not in neutral


def _plain(value: Any) -> Any:
    """A value that a report can show: the file may hold anything."""
    if isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return repr(value)[:_MOST_SHOWN]


def _penalties(config: RunConfig, fields: Mapping[str, Any], path: Path) -> Penalties:
    name = "repetition_penalty"
    value: Any = config.repetition_penalty
    if value is None:
        source = f"{path}: {name} ({option_name(name)} would come first)"
        value = check_penalty(name, fields.get(name, 1.0), source)
    return Penalties(value, config.presence_penalty, config.frequency_penalty)


def _stop_ids(fields: Mapping[str, Any], path: Path, tokenizer: Any | None, directory: Path) -> frozenset[int]:
    """The ids of the file, else of config.json; as in vLLM the tokenizer's end of a turn ends an answer, too."""
    if "eos_token_id" not in fields:
        path = directory / "config.json"
        fields = _fields(path, directory)
    ids = fields.get("eos_token_id", [])
    ids = ids if isinstance(ids, list) else [ids]
    for token in ids:
        if type(token) is not int:
            raise UserError(f"{path}: eos_token_id has {json_type(token)}, which is no token id{_ADVICE}")
    of_tokenizer = getattr(tokenizer, "eos_token_id", None)
    return frozenset(ids) if of_tokenizer is None else frozenset([*ids, of_tokenizer])
