"""GGUF conversion: the model that comes out is the model that went in, and bad files are named in one line."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter, RopeScalingType
from tiny_gguf import CHAT_TEMPLATE, tiny_llama, write_gguf

from mpi_spp.errors import UserError
from mpi_spp.model.gguf import convert


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


@pytest.mark.parametrize(
    "old,new,message",
    [
        pytest.param(b"llama.block_count", b"llama.blick_count", "no llama.block_count", id="no layer count"),
        pytest.param(b"_rms_epsilon", b"_rms_absalon", "no llama.attention", id="no epsilon"),
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
