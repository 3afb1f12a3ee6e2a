"""config.json: every field of every family, with values of any type and size."""

import json
from pathlib import Path
from random import Random
from typing import Any

import bases
import edit_files
import edit_json
import odd
import oracle
from case import QUICK, Case, Room
from verdict import is_finite_json

_FIELDS = odd.words("""
    rope_scaling rope_theta rope_parameters quantization_config quantization per_layer_config head_dim
    layer_types sliding_window use_sliding_window max_window_layers num_key_value_heads attention_bias mlp_bias
    hidden_act partial_rotary_factor eos_token_id dtype torch_dtype auto_map model_type architectures
    num_experts num_local_experts num_experts_per_tok moe_intermediate_size clip_qkv norm_topk_prob
    mlp_only_layers decoder_sparse_step shared_expert_intermediate_size text_config tie_word_embeddings
    pad_token_id id2label num_labels attn_implementation pretraining_tp use_cache
""")
_ROPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional", "x", None, 3)
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4}
_GOOD_ROPES: tuple[dict[str, Any], ...] = (
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
    {"rope_type": "yarn", "factor": 30.0, "original_max_position_embeddings": 8, "rope_theta": 1e4},
    {"rope_type": "llama3", "original_max_position_embeddings": 16} | _LLAMA3,
)
_ROPE_FIELDS = odd.words("""
    factor original_max_position_embeddings low_freq_factor high_freq_factor beta_fast beta_slow
    attention_factor mscale mscale_all_dim rope_theta partial_rotary_factor truncate short_factor
""")


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    model = room.copy(rng.choice(bases.families()))
    path = model / "config.json"
    told = [change(room, path, draw) for draw in draws]
    lengths = ["--model", str(model), "--prompt-tokens", "16", "--new-tokens", "4"]
    command = rng.choice(("generate", "generate", "generate", "plan", "simulate"))
    words = {
        "generate": answer_words(model),
        "plan": [command, *lengths, "--json", "-"],
        "simulate": [command, *lengths, "--ranks", "1,2", "--json", "-"],
    }[command]
    asks = oracle.generates(model, oracle.ids(bases.PROMPT_IDS), bases.NEW_TOKENS) if command == "generate" else None
    return Case(words, names=(".json", "ROOM/model"), check=is_finite_json, oracle=asks, told=[command, *told])


def answer_words(model: Path) -> list[str]:
    """A quick `generate` of prompt ids."""
    return [
        "generate",
        *("--model", str(model), "--prompt-ids", str(model / "ids.json"), "--json", "-"),
        *QUICK,
        *most(),
    ]


def most() -> tuple[str, str]:
    """The option of the answer's length."""
    return "--max-new-tokens", str(bases.NEW_TOKENS)


def change(room: Room, path: Path, rng: Random) -> str:
    """One change of the file."""
    drawn = rng.random()
    if drawn < 0.08:
        return edit_files.spoil(room, path, rng)
    if drawn < 0.15:
        return same(room, path, rng)
    if drawn < 0.35:
        return rope(room, path, rng)
    return edit_json.edit_file(room, path, rng, _FIELDS)


def same(room: Room, path: Path, rng: Random) -> str:
    """What means the same."""
    document = edit_json.load(path)
    if not isinstance(document, dict):
        return "nothing to change"
    names = list(document)
    rng.shuffle(names)
    document = {name: document[name] for name in names} | {"some_field": odd.value(rng)}
    room.write(path, json.dumps(document, indent=rng.choice((None, 0, 7)), sort_keys=rng.random() < 0.3))
    return f"{path.name}: in another order, some_field = {edit_json.short(document['some_field'])}"


def rope(room: Room, path: Path, rng: Random) -> str:
    """Another rotation, in one of its spellings."""
    document = edit_json.load(path)
    if not isinstance(document, dict):
        return "nothing to change"
    said = (
        dict(rng.choice(_GOOD_ROPES)) if rng.random() < 0.4 else {rng.choice(("rope_type", "type")): rng.choice(_ROPES)}
    )
    for name in () if len(said) > 1 else rng.sample(_ROPE_FIELDS, rng.randrange(5)):
        said[name] = rng.choice((odd.number(rng), odd.value(rng), 2.0, 4.0, 32, 1.0))
    name = rng.choice(("rope_parameters", "rope_scaling"))
    document[name] = said
    if rng.random() < 0.3:
        document["rope_theta"] = odd.number(rng)
    room.write(path, edit_json.dump(document))
    return f"{path.name}: {name} = {edit_json.short(said, 300)}, rope_theta {document.get('rope_theta')!r}"
