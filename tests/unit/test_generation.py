"""What a model's generation configuration changes: honoured, refused by name, or left out by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from reciting_model import make_tokenizer

from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.model.text.generation import LEFT_OUT, NOT_BUILT, TAKEN, Generation, read_generation
from mpi_spp.request import Penalties

BYTE_LEVEL = make_tokenizer()
OF_TOKENIZER = BYTE_LEVEL.eos_token_id


def read(
    directory: Path, of_generation: Any, of_model: Any = None, tokenizer: Any = None, **options: Any
) -> Generation:
    for name, content in (("generation_config.json", of_generation), ("config.json", of_model)):
        if content is not None:
            (directory / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return read_generation(RunConfig(model="m", **options), tokenizer, directory)


@pytest.mark.parametrize(
    "of_generation, of_model, options, expected",
    [
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.2}, {}, 1.1),
        (None, {"repetition_penalty": 1.2}, {}, 1.2),
        ({}, {"repetition_penalty": 1.2}, {}, 1.0),
        ({"repetition_penalty": None}, {}, {}, 1.0),
        ({"repetition_penalty": 1}, {}, {}, 1.0),
        ({"repetition_penalty": 1.1}, {}, {"repetition_penalty": 1.0}, 1.0),
        ({"repetition_penalty": 1.1}, {}, {"generation_config": "none"}, 1.0),
        ({"repetition_penalty": 1.1}, {}, {"generation_config": "none", "repetition_penalty": 1.3}, 1.3),
    ],
)
def test_where_the_repetition_penalty_comes_from(
    of_generation: Any, of_model: Any, options: dict[str, Any], expected: float, tmp_path: Path
) -> None:
    """As in transformers: config.json counts only where there is no generation_config.json."""
    found = read(tmp_path, of_generation, of_model, **options)
    assert found.penalties == Penalties(repetition_penalty=expected)
    assert bool(found.taken) == (expected != 1 and not options)


def test_another_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    read(tmp_path / "other", {"repetition_penalty": 1.4, "eos_token_id": 3})
    for path in (tmp_path / "other", tmp_path / "other" / "generation_config.json"):
        found = read(tmp_path, {"repetition_penalty": 1.1, "eos_token_id": 2}, generation_config=str(path))
        assert (found.penalties.repetition_penalty, found.stop_ids) == (1.4, {3})


def test_what_is_left_to_the_options_is_named(tmp_path: Path) -> None:
    """As a Qwen2.5 has it. What changes nothing, or only what a run costs, is not worth a word."""
    fields = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}
    quiet = {"bos_token_id": 1, "pad_token_id": 1, "use_cache": True, "num_beams": 1, "no_repeat_ngram_size": 0}
    found = read(tmp_path, fields | quiet | {"min_length": 0, "max_length": 20, "transformers_version": "4.37.0"})
    assert found.line() == (
        "generation_config.json: repetition_penalty 1.05 counts; do_sample True, temperature 0.7, top_k 20, top_p 0.8"
        " left to the command's options"
    )
    told = found.told()
    assert told["repetition_penalty"] == 1.05 and told["generation_config"]["left_out"]["top_k"] == 20
    assert read(tmp_path, quiet).line() is None


# What must not change the tokens of transformers' greedy `generate` beside any of these, with a value that might.
NO_INFLUENCE: dict[str, Any] = {
    "_from_model_config": True,
    "assistant_confidence_threshold": 0.9,
    "assistant_early_exit": 1,
    "assistant_lookbehind": 3,
    "bos_token_id": 17,
    "cache_config": {"nbits": 4},
    "compile_config": None,  # an object that JSON has not
    "continuous_batching_config": None,
    "decoder_start_token_id": 5,
    "disable_compile": True,
    "diversity_penalty": 0.7,
    "early_stopping": True,
    "length_penalty": 3.0,
    "low_memory": True,
    "max_cache_len": 99,
    "max_matching_ngram_size": 3,
    "num_assistant_tokens": 4,
    "num_assistant_tokens_schedule": "constant",
    "num_beam_groups": 2,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_logits": True,
    "output_scores": True,
    "pad_token_id": 17,
    "prefill_chunk_size": 2,
    "prompt_lookup_num_tokens": 3,
    "remove_invalid_values": True,  # of scores that are not finite, which end a run
    "renormalize_logits": True,
    "return_dict_in_generate": True,
    "speculation_type": None,  # how a second model is used
    "target_lookbehind": 3,
    "transformers_version": "4.0.0",
    "use_cache": False,
    "use_mtp": None,  # of families that are not supported
}
CHANGES: dict[str, Any] = {
    "assistant_ensemble_weight": 0.5,
    "bad_words_ids": [[5]],
    "begin_suppress_tokens": [5],
    "constraints": [{}],
    "dola_layers": "high",
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.2,
    "exponential_decay_length_penalty": [5, 1.1],
    "force_words_ids": [[5]],
    "forced_bos_token_id": 0,
    "forced_decoder_ids": [[1, 5]],
    "forced_eos_token_id": [0],
    "guidance_scale": 1.5,
    "is_assistant": True,
    "max_time": 9.5,
    "min_length": 4,
    "min_new_tokens": 4,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
    "penalty_alpha": 0.6,
    "sequence_bias": [[[5], -1.0]],
    "stop_strings": ["a"],
    "suppress_tokens": [5],
    "token_healing": True,
    "watermarking_config": {},
}


def test_every_field_of_transformers_is_known_for_what_it_does() -> None:
    """A newer transformers that has one more fails here, until somebody has looked at what it changes."""
    from transformers import GenerationConfig
    from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS

    known = [*TAKEN, *NOT_BUILT, *LEFT_OUT, *NO_INFLUENCE]
    assert len(known) == len(set(known))
    assert set(vars(GenerationConfig())) <= set(known)
    assert NOT_BUILT.keys() == CHANGES.keys()
    assert {*ALL_CACHE_IMPLEMENTATIONS, "paged"} - {*LEFT_OUT["cache_implementation"]} == {"quantized"}


def test_what_is_said_to_have_no_influence_has_none(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    torch.manual_seed(1)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    ids = {"eos_token_id": None, "pad_token_id": 0, "bos_token_id": 1}
    kind = AutoConfig.for_model("llama", num_attention_heads=2, initializer_range=0.3, **sizes, **ids)
    model = AutoModelForCausalLM.from_config(kind, dtype=torch.float32).eval()
    prompt = torch.tensor([[5, 9, 3, 5, 9, 3, 5]])

    def answer(fields: dict[str, Any]) -> list[int]:
        model.generation_config = GenerationConfig.from_dict(fields | {"return_dict_in_generate": True})
        made = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6)
        return made.sequences[0, prompt.shape[1] :].tolist()

    alone = ("assistant_confidence_threshold", "assistant_early_exit", "prompt_lookup_num_tokens", "use_cache")
    together = {name: value for name, value in NO_INFLUENCE.items() if name not in alone}
    expected = answer({})
    assert len(set(expected)) > 2 and answer({"repetition_penalty": 1.5}) != expected
    assert answer(together) == expected
    for name in alone:
        assert answer({name: NO_INFLUENCE[name]}) == expected, name
    assert read(tmp_path, NO_INFLUENCE).line() is None


@pytest.mark.parametrize("name", CHANGES)
def test_what_cannot_be_had_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"generation_config\.json: {name} .*--generation-config none"):
        read(tmp_path, {name: CHANGES[name]})
    assert read(tmp_path, {name: CHANGES[name]}, generation_config="none").penalties == Penalties()
    for neutral in (None, *NOT_BUILT[name]):
        assert read(tmp_path, {name: neutral}).line() is None


@pytest.mark.parametrize("name", LEFT_OUT)
def test_of_drawing_and_lengths_only_what_says_something_is_worth_a_word(name: str, tmp_path: Path) -> None:
    assert f"{name} 7 left" in (read(tmp_path, {name: 7}).line() or "")
    for neutral in (None, *LEFT_OUT[name]):
        assert read(tmp_path, {name: neutral}).line() is None


def test_guidance_by_an_option_comes_before_that_of_the_file(tmp_path: Path) -> None:
    read(tmp_path, {"guidance_scale": 1.5}, guidance_scale=2.0)


@pytest.mark.parametrize(
    "of_generation, of_model, expected",
    [
        ({"eos_token_id": 7}, {"eos_token_id": 5}, {7}),
        ({"eos_token_id": [7, 8]}, {"eos_token_id": 5}, {7, 8}),
        ({"eos_token_id": None}, {"eos_token_id": 5}, {5}),
        ({}, {"eos_token_id": [5, 6]}, {5, 6}),
        (None, {"eos_token_id": 5}, {5}),
        ({"eos_token_id": 0}, {"eos_token_id": 5}, {0}),
        (None, {}, set()),
        (None, None, set()),
    ],
)
@pytest.mark.parametrize("options", [{}, {"generation_config": "none"}], ids=str)
def test_stop_tokens(
    tmp_path: Path, of_generation: Any, of_model: Any, expected: set[int], options: dict[str, Any]
) -> None:
    """As in vLLM the tokenizer's end of a turn ends an answer too, whatever the files name."""
    assert read(tmp_path, of_generation, of_model, **options).stop_ids == expected
    assert read(tmp_path, None, None, BYTE_LEVEL, **options).stop_ids == expected | {OF_TOKENIZER}
    assert read(tmp_path, None, None, BYTE_LEVEL, ignore_eos=True, **options).stop_ids == frozenset()


@pytest.mark.parametrize(
    "content, says",
    [
        ("{", "is not JSON"),
        ("[]", "holds no JSON object"),
        ("[" * 99999, "nested too deeply"),
        ('{"eos_token_id": "</s>"}', "eos_token_id has a text"),
        ('{"eos_token_id": [[1]]}', "eos_token_id has a list"),
        ('{"eos_token_id": [1, true]}', "eos_token_id has true or false"),
        ('{"repetition_penalty": "1.1"}', "repetition_penalty .*: '1.1' is no number"),
        ('{"repetition_penalty": 0}', "repetition_penalty .*: 0 is no number from 0.01"),
        ('{"repetition_penalty": NaN}', "repetition_penalty .*: nan is no number"),
        ('{"repetition_penalty": true}', "repetition_penalty .*: True is no number"),
    ],
)
def test_a_file_that_cannot_be_right(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(UserError, match=rf"generation_config\.json.*{says}"):
        read(tmp_path, content)


@pytest.mark.parametrize("path", ["", "no/such", "x" * 5000, "\0"])
def test_a_file_that_is_not_there(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match="--generation-config: "):
        read(tmp_path, {}, generation_config=path)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"repetition_penalty": 0.0}, "--repetition-penalty: 0.0 is no number from 0.01 to 100"),
        ({"repetition_penalty": float("nan")}, "--repetition-penalty: nan"),
        ({"presence_penalty": 2.5}, "--presence-penalty: 2.5 is no number from -2 to 2"),
        ({"frequency_penalty": -3.0}, "--frequency-penalty: -3.0"),
    ],
)
def test_penalties_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        RunConfig(model="m", **options)
