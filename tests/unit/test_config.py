"""RunConfig refuses what cannot work, and names the option."""

import dataclasses
from typing import Any

import pytest

from mpi_spp.config import KERNELS, RunConfig, default_of, option_name
from mpi_spp.errors import UserError
from mpi_spp.kernels.native import library


def make(**options: Any) -> RunConfig:
    return RunConfig(**({"model": "m", "prompt": "p"} | options))


@pytest.mark.parametrize(
    "options, named",
    [
        ({"chunk_size": 0}, "--chunk-size: 0"),
        ({"chunk_size": -3}, "--chunk-size: -3"),
        ({"chunk_size": "big"}, "--chunk-size: 'big' is unknown; choose one of auto"),
        ({"layer_split": "odd"}, "--layer-split: 'odd' is unknown; choose one of auto, even"),
        ({"layer_split": (3, 0, 2)}, "--layer-split: 3,0,2 leaves a rank without a layer"),
        ({"layer_split": ()}, "--layer-split"),
        ({"max_new_tokens": 0}, "--max-new-tokens: 0"),
        ({"threads": 0}, "--threads: 0"),
        ({"timeout": -1}, "--timeout: -1"),
        ({"sync_strategy": "gossip"}, "--sync-strategy: 'gossip'"),
        ({"prefill": "gossip"}, "--prefill: 'gossip'"),
        ({"decode": "gossip"}, "--decode: 'gossip'"),
        ({"sync_granularity": "token"}, "--sync-granularity: 'token'"),
        ({"dtype": "int8"}, "--dtype: 'int8'"),
        ({"kv_cache_dtype": "int4"}, "--kv-cache-dtype: 'int4'"),
        ({"quantize": "int4", "activations": "int4"}, "--activations: 'int4' is unknown; choose one of exact, int8"),
        ({"activations": "int8"}, "--activations: int8 is for weights of 4 bits; add --quantize int4"),
        ({"quantize": "int8", "activations": "int8"}, "--activations: int8 is for weights of 4 bits"),
        (
            {"quantize": "int4", "activations": "int8", "kernels": "blockwise"},
            "--activations: int8 is nothing that blockwise",
        ),
        ({"device": "tpu"}, "--device: 'tpu'"),
        ({"cuda_aware": "maybe"}, "--cuda-aware: 'maybe'"),
        ({"device": "cpu", "gpu_ids": (0,)}, "--gpu-ids"),
        ({"prompt": None, "prompt_ids": "f", "chat": True}, "--chat"),
        ({"prompt": None, "prompt_ids": "f", "system": "s"}, "--system: --prompt-ids are used as they are"),
        ({"prompt": None, "prompt_ids": "f", "chat_template_kwargs": {"a": 1}}, "--chat-template-kwargs: --prompt-ids"),
        ({"temperature": -0.1}, "--temperature: -0.1"),
        ({"temperature": float("nan")}, "--temperature: nan"),
        ({"temperature": float("inf")}, "--temperature: inf"),
        ({"temperature": 1.0, "top_k": -1}, "--top-k: -1"),
        ({"temperature": 1.0, "top_p": 0.0}, "--top-p: 0.0"),
        ({"temperature": 1.0, "top_p": 1.01}, "--top-p: 1.01"),
        ({"temperature": 1.0, "top_p": float("nan")}, "--top-p: nan"),
        ({"temperature": 1.0, "seed": -1}, "--seed: -1"),
        ({"temperature": 1.0, "seed": 2**64}, "--seed: 18446744073709551616"),
        ({"num_return_sequences": 0, "temperature": 1.0}, "--num-return-sequences: 0 is too small"),
        ({"num_return_sequences": 3}, "--num-return-sequences: 3 greedy answers would all be the same; give --temp"),
        ({"top_k": 5}, "--top-k: no meaning without sampling; give --temperature above 0"),
        ({"top_p": 0.5, "seed": 0}, "--top-p and --seed: no meaning without sampling"),
        ({"guidance_scale": float("inf")}, "--guidance-scale: inf is no number from"),
        ({"guidance_scale": float("nan")}, "--guidance-scale: nan is no number from"),
        ({"negative_prompt": "n"}, "--negative-prompt: no meaning without guidance; give --guidance-scale"),
        (
            {"guidance_scale": 2.0, "num_return_sequences": 3, "temperature": 1.0},
            "--num-return-sequences: 3 answers are made by ranks alone",
        ),
        ({"guidance_scale": 2.0, "decode": "auto"}, "--decode: auto is not predicted for --guidance-scale"),
        ({"guidance_scale": 2.0, "prefill": "auto"}, "--prefill: auto is not predicted for --guidance-scale"),
        ({"guidance_scale": 2.0, "max_memory": 10}, "--max-memory: is not planned for --guidance-scale"),
        ({"trace": "-"}, "--trace: - is standard output"),
        ({"trace": "out", "json": "out"}, "--trace: out is no file of its own"),
    ],
)
def test_errors_name_the_option_and_the_value(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as caught:
        make(**options)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options,named",
    [
        ({"prompt": None}, "exactly one of --prompt, --prompt-file and --prompt-ids (found: none)"),
        ({"prompt_file": "f"}, "(found: --prompt and --prompt-file)"),
    ],
)
def test_one_prompt_is_required(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as caught:
        make(**options).require_one_prompt()
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "split, named",
    [
        ((3, 2), "--layer-split: 3,2 is for 2 stages, not 3; give one number for each stage"),
        ((2, 2, 2), "--layer-split: 2,2,2 is 6 layers, but m has 5; give numbers that add up to 5"),
    ],
)
def test_a_layer_split_is_for_all_ranks_and_layers(split: tuple[int, ...], named: str) -> None:
    with pytest.raises(UserError) as caught:
        make(layer_split=split).require_layer_split(num_layers=5, num_stages=3)
    assert named in str(caught.value)


@pytest.mark.parametrize("split", ["auto", "even", (3, 1, 1)])
def test_a_layer_split_that_fits(split: tuple[int, ...] | str) -> None:
    make(layer_split=split).require_layer_split(num_layers=5, num_stages=3)


@pytest.mark.parametrize(
    "name", ["sync_strategy", "sync_granularity", "dtype", "kv_cache_dtype", "device", "cuda_aware"]
)
def test_an_unknown_choice_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(UserError) as caught:
        make(**{name: "no such"})
    assert str(default_of(name)) in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_size": 1, "max_new_tokens": 1, "threads": 1},
        {"chunk_size": "auto", "layer_split": "even"},
        {"layer_split": (10, 9, 9)},
        {"sync_strategy": "ring", "sync_granularity": "layer"},
        {"prompt": None, "prompt_ids": "f", "chat": False},
        {"kv_cache_dtype": "int8", "dtype": "float32"},
        {"quantize": "int4", "activations": "int8", "kernels": "native-avxvnni"},
        {"device": "cuda", "gpu_ids": (5, 6, 7)},
        {"temperature": 1e-9, "top_k": 1, "top_p": 1e-9, "seed": 0},
        {"temperature": 100.0, "top_k": 10**9, "top_p": 1.0, "seed": 2**64 - 1},
        {"guidance_scale": 0.0, "negative_prompt": "n"},
        {"prompt": ""},  # whether it is empty is judged where it is read, with the text of a file
    ],
)
def test_what_can_work_is_taken(options: dict[str, Any]) -> None:
    config = make(**options)
    assert {name: getattr(config, name) for name in options} == options


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().chunk_size = 1  # type: ignore[misc]


def test_option_names_are_the_command_lines() -> None:
    """Those of the two commands that answer."""
    from mpi_spp.cli import ask, generate

    parameters = [*generate.command.params, *ask.command.params]
    spelled = {spelling for parameter in parameters for spelling in parameter.opts}
    fields = {option_name(field.name) for field in dataclasses.fields(RunConfig)}
    assert fields <= spelled


@pytest.mark.parametrize(
    "option, text, value",
    [
        ("--chunk-size", "auto", "auto"),
        ("--chunk-size", "128", 128),
        ("--layer-split", "even", "even"),
        ("--layer-split", "10, 9,9", (10, 9, 9)),
    ],
)
def test_the_command_line_reads_schedules(option: str, text: str, value: object) -> None:
    from mpi_spp.cli.generate import command

    context = command.make_context("generate", ["--model", "m", "--prompt", "p", option, text])
    assert context.params[option.strip("-").replace("-", "_")] == value


def test_the_command_line_has_the_defaults_of_the_configuration() -> None:
    from mpi_spp.cli.generate import command

    context = command.make_context("generate", ["--model", "m", "--prompt", "p"])
    given = {
        field.name: context.params[field.name]
        for field in dataclasses.fields(RunConfig)
        if field.name in context.params
    }
    assert RunConfig(**given) == make()


@pytest.mark.parametrize(
    "given, says",
    [
        ({"threads": 1025}, "--threads: 1025 is too much; give 1024 or less"),
        ({"threads": 10**29}, "--threads: 1000"),
        ({"quantize_group_size": 2**31}, "--quantize-group-size: 2147483648 is no multiple of 16 up to 65536"),
    ],
)
def test_numbers_beyond_use(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        RunConfig(model="m", **given)
    assert str(error.value).startswith(says)


def test_every_variant_of_the_kernels_can_be_named() -> None:
    """The options know them without loading torch."""
    assert {f"native-{name}" for name in library.VARIANTS} == {name for name in KERNELS if name.startswith("native-")}
