"""GGUF conversion: the model that comes out is the model that went in, and bad files are named in one line."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import smollm2
import torch
from gguf import GGUFWriter, RopeScalingType
from tiny_gguf import CHAT_TEMPLATE, tiny_llama, write_gguf

from mpi_spp.errors import UserError
from mpi_spp.model.loading.gguf import convert
from mpi_spp.model.loading.gguf_header import problem_of_merges


@pytest.fixture(scope="module")
def original() -> Any:
    return tiny_llama()


@pytest.fixture(scope="module")
def gguf(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", original)


@pytest.fixture(scope="module")
def converted(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("converted") / "deep" / "model"
    convert(gguf, directory, "float32")
    return directory


def test_weights_are_the_original_ones(original: Any, converted: Path) -> None:
    from transformers import AutoModelForCausalLM

    found = AutoModelForCausalLM.from_pretrained(converted).state_dict()
    assert found.keys() == original.state_dict().keys()
    for name, tensor in original.state_dict().items():
        assert torch.equal(found[name], tensor), name


def test_configuration_is_the_original_one(original: Any, converted: Path) -> None:
    written = json.loads((converted / "config.json").read_text())
    wanted = json.loads(original.config.to_json_string(use_diff=False))
    names = ["rms_norm_eps", "rope_parameters", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"]
    names += ["hidden_size", "intermediate_size", "max_position_embeddings", "tie_word_embeddings", "model_type"]
    assert {name: written[name] for name in names} == {name: wanted[name] for name in names}
    assert "quantization_config" not in written
    assert json.loads((converted / "generation_config.json").read_text())["eos_token_id"] == 2


def test_tokenizer_cuts_digits_and_keeps_the_chat_template(converted: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert tokenizer.tokenize("a 5  5") == ["a", "Ġ", "5", "ĠĠ", "5"]  # never "Ġ5", which the merges would allow
    assert tokenizer("a").input_ids == tokenizer.convert_tokens_to_ids(["a"])
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.eos_token == "<|im_end|>"


def test_all_files_are_readable_alike(converted: Path) -> None:
    assert len({path.stat().st_mode for path in converted.iterdir()}) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_is_that_of_the_weights_and_of_the_configuration(gguf: Path, tmp_path: Path, dtype: str) -> None:
    from transformers import AutoModelForCausalLM

    convert(gguf, tmp_path / "model", dtype)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == dtype


def test_no_network_is_used(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: asked.append(arguments))
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    convert(gguf, tmp_path / "model")
    assert asked == []


def test_progress_grows_from_0_to_1(gguf: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    convert(gguf, tmp_path / "model", progress=lambda step, done: shares.append(done))
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] == 1.0


@pytest.mark.parametrize("kept", [4, 20, 100, 4000, -10_000, -40])
def test_truncated_file_is_named_and_nothing_is_left(gguf: Path, tmp_path: Path, kept: int) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"cut\.gguf: .*truncated"):
        convert(cut, tmp_path / "model")
    assert list(tmp_path.iterdir()) == [cut]


def test_other_files_are_refused(gguf: Path, tmp_path: Path, original: Any) -> None:
    other = tmp_path / "other.gguf"
    with pytest.raises(UserError, match=r"other\.gguf: cannot be read \(No such file"):
        convert(other, tmp_path / "model")
    other.write_bytes(b"PK\x03\x04" + gguf.read_bytes()[4:])
    with pytest.raises(UserError, match=r"other\.gguf: is not a GGUF file"):
        convert(other, tmp_path / "model")
    write_gguf(other, original, architecture="mamba")
    with pytest.raises(UserError, match=r"architecture 'mamba' is not supported; llama, "):
        convert(other, tmp_path / "model")
    assert list(tmp_path.iterdir()) == [other]


def altered(gguf: Path, path: Path, old: bytes, new: bytes) -> Path:
    """A copy of the GGUF file with a few bytes changed, and nothing moved."""
    content = gguf.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new))
    return path


LAYERS = b"llama.block_count\4\0\0\0"


@pytest.mark.parametrize(
    "old,new,message",
    [
        pytest.param(b"llama.block_count", b"llama.blick_count", "no llama.block_count", id="no layer count"),
        pytest.param(b"_rms_epsilon", b"_rms_absalon", "no llama.attention", id="no epsilon"),
        pytest.param(LAYERS + b"\x02", LAYERS + b"\x00", "llama.block_count is 0, but must be a whole", id="0 layers"),
        pytest.param(
            LAYERS + b"\x02", LAYERS + b"\x01", "llama.block_count is 1, but .* of layers 0 to 1", id="1 of 2"
        ),
        pytest.param(
            LAYERS + b"\x02\0\0", LAYERS + b"\x02\0\xff", "llama.block_count is 16711682, but", id="16 million"
        ),
        pytest.param(
            b"head_count\4\0\0\0\3", b"head_count\4\0\0\0\0", "llama.attention.head_count is 0, but", id="no heads"
        ),
        pytest.param(
            b"llama.vocab_size\4", b"llama.vocab_size\6", "llama.vocab_size is .*, but must be a whole", id="a float"
        ),
        pytest.param(
            b"eos_token_id\4\0\0\0\2\0", b"eos_token_id\4\0\0\0\2\7", "tokenizer.ggml.eos_token_id is 1794", id="an id"
        ),
        pytest.param(b"blk.1.ffn_up", b"blk.1.ffn_op", "missing keys", id="misnamed weight"),
        pytest.param(b"length\4\0\0\0\x40", b"length\4\0\0\0\x41", "mismatched keys", id="another MLP size"),
    ],
)
def test_model_that_transformers_would_complete_is_refused(
    gguf: Path, tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    corrupt = altered(gguf, tmp_path / "corrupt.gguf", old, new)
    with pytest.raises(UserError, match=rf"corrupt\.gguf: is corrupt \({message}"):
        convert(corrupt, tmp_path / "model")
    assert list(tmp_path.iterdir()) == [corrupt]


@pytest.mark.parametrize(
    "name,add",
    [
        ("rope.scaling.type", lambda writer: writer.add_rope_scaling_type(RopeScalingType.YARN)),
        ("attention.sliding_window", lambda writer: writer.add_sliding_window(128)),
        ("rope_freqs.weight", lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))),
    ],
)
def test_what_transformers_would_drop_in_silence_is_refused(
    original: Any, tmp_path: Path, name: str, add: Callable[[GGUFWriter], None]
) -> None:
    with pytest.raises(UserError, match=f"{name} cannot be converted; get the model as safetensors"):
        convert(write_gguf(tmp_path / "special.gguf", original, add=add), tmp_path / "model")


def test_scaling_type_none_is_no_scaling(original: Any, tmp_path: Path) -> None:
    plain = write_gguf(
        tmp_path / "plain.gguf", original, add=lambda writer: writer.add_rope_scaling_type(RopeScalingType.NONE)
    )
    convert(plain, tmp_path / "model")
    assert (tmp_path / "model" / "config.json").is_file()


def test_directory_must_be_new_or_empty(gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    convert(gguf, tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").is_file()
    for taken in (tmp_path / "empty", gguf):
        with pytest.raises(UserError, match="exists and is not an empty directory"):
            convert(gguf, taken)


def test_unwritable_directory_is_named(gguf: Path) -> None:
    with pytest.raises(UserError, match=r"tiny\.gguf/model: cannot be written"):
        convert(gguf, gguf / "model")
    with pytest.raises(UserError, match=r"/proc/model: cannot be written"):
        convert(gguf, Path("/proc/model"))


def test_merges_must_make_the_tokens() -> None:
    """All merges of a real vocabulary do, one alone or all alike do not."""
    model = json.loads((smollm2.directory() / "tokenizer.json").read_text())["model"]
    tokens, merges = list(model["vocab"]), [" ".join(pair) for pair in model["merges"]]
    assert problem_of_merges(tokens, None, merges) is None
    assert "1 merges do not make" in str(problem_of_merges(tokens, None, merges[:1]))
    assert "the same pair twice" in str(problem_of_merges(tokens, None, merges[:1] * len(merges)))
    assert "no list of pairs" in str(problem_of_merges(tokens, None, [*merges, "x"]))


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x.gguf")
    with pytest.raises(UserError, match=r"x\.gguf: is no regular file"):
        convert(tmp_path / "x.gguf", tmp_path / "model")


def test_of_two_conversions_into_one_directory_the_second_says_that_it_is_taken(gguf: Path, tmp_path: Path) -> None:
    """The first has just ended when the second puts its model into place."""

    def progress(step: str, done: float) -> None:
        if done == 1.0 and not (tmp_path / "model").exists():
            convert(gguf, tmp_path / "model")

    with pytest.raises(UserError, match=r"model: exists and is not an empty directory; give the name of a new one"):
        convert(gguf, tmp_path / "model", progress=progress)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "config.json").is_file()
