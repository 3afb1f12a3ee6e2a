"""What a model's generation configuration changes: honoured, refused by name, or left out by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from reciting_model import make_tokenizer

from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.model.generation import Generation, read_generation
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


@pytest.mark.parametrize(
    "name, value",
    [
        ("no_repeat_ngram_size", 3),
        ("bad_words_ids", [[5]]),
        ("suppress_tokens", [5]),
        ("begin_suppress_tokens", [5]),
        ("min_length", 4),
        ("min_new_tokens", 4),
        ("forced_bos_token_id", 0),
        ("forced_eos_token_id", [0]),
        ("sequence_bias", [[[5], -1.0]]),
        ("encoder_repetition_penalty", 1.2),
        ("encoder_no_repeat_ngram_size", 2),
        ("exponential_decay_length_penalty", [5, 1.1]),
        ("num_beams", 4),
        ("penalty_alpha", 0.6),
        ("guidance_scale", 1.5),
        ("stop_strings", ["a"]),
        ("watermarking_config", {}),
        ("token_healing", True),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(name: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"generation_config\.json: {name} .*--generation-config none"):
        read(tmp_path, {name: value})
    assert read(tmp_path, {name: value}, generation_config="none").penalties == Penalties()


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


@pytest.mark.parametrize("path", ["no/such", "x" * 5000, "\0"])
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
