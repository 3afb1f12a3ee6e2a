"""generation_config.json: what ends an answer and what changes the choice of tokens."""

from pathlib import Path
from random import Random

import bases
import edit_files
import edit_json
import odd
import oracle
from case import Case, Room
from verdict import is_finite_json

from kinds.config import answer_words

_NUMBERS = odd.words("""
    repetition_penalty temperature top_p top_k min_p typical_p epsilon_cutoff eta_cutoff no_repeat_ngram_size
    encoder_repetition_penalty encoder_no_repeat_ngram_size length_penalty min_length min_new_tokens
    max_new_tokens max_length max_time num_beams num_beam_groups diversity_penalty guidance_scale penalty_alpha
    forced_bos_token_id forced_eos_token_id num_return_sequences top_h pad_token_id bos_token_id
    decoder_start_token_id prompt_lookup_num_tokens assistant_confidence_threshold
""")
_LISTS = (
    "eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "forced_decoder_ids",
    "sequence_bias",
)
_OTHERS = (
    *("do_sample", "use_cache", "remove_invalid_values", "renormalize_logits", "exponential_decay_length_penalty"),
    *("stop_strings", "watermarking_config", "token_healing", "cache_implementation", "constraints", "early_stopping"),
    *("transformers_version", "_from_model_config", "custom_generate", "compile_config", "dola_layers", "some_field"),
)
_USUAL = (0, 1, 2, 5, 1.0, 1.1, 0.9, 2.0, 257, 260, 261, -1)


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    model = room.copy("llama")
    told = [change(room, model / "generation_config.json", draw) for draw in draws]
    asks = oracle.generates(model, oracle.ids(bases.PROMPT_IDS), bases.NEW_TOKENS)
    return Case(answer_words(model), names=("generation_config.json",), check=is_finite_json, oracle=asks, told=told)


def change(room: Room, path: Path, rng: Random) -> str:
    """One change."""
    drawn = rng.random()
    if drawn < 0.1 and path.exists():
        return edit_files.spoil(room, path, rng)
    if drawn < 0.3:
        return edit_json.edit_file(room, path, rng, (*_NUMBERS, *_LISTS, *_OTHERS))
    document = edit_json.load(path)
    document = document if isinstance(document, dict) else {}
    name = rng.choice(rng.choice((_NUMBERS, _LISTS, _OTHERS, ("eos_token_id", "repetition_penalty"))))
    if name in _NUMBERS:
        document[name] = rng.choice((rng.choice(_USUAL), odd.number(rng), odd.value(rng)))
    elif name in _LISTS:
        answer = edit_json.load(room.bases / "answer.json")  # an id of it ends it
        tokens = [rng.choice((*answer, 0, 3, 17, 257, 260, 261, -1, 10**9)) for _ in range(rng.randrange(4))]
        document[name] = rng.choice(
            (tokens, tokens, tokens, [tokens], tokens[:1] and tokens[0], [[tokens, -5.0]], odd.value(rng))
        )
    else:
        document[name] = rng.choice((True, False, "static", ["hi"], [1, 1.5], {}, odd.value(rng)))
    room.write(path, edit_json.dump(document))
    return f"{path.name}: {name} = {edit_json.short(document[name])}"
