"""GGUF files made into Hugging Face model directories: safetensors, tokenizer, chat template and configs."""

import functools
import importlib.util
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from mpi_spp.errors import UserError
from mpi_spp.model.families import FAMILIES

_TENSORS = "names of the tensors"
_REQUIRED = (
    "context_length",
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)
_LOST = ("rope.scaling.type", "attention.sliding_window")
DTYPES = ("bfloat16", "float16", "float32")
Progress = Callable[[str, float], None]  # what is being done, and the share of it that is done (0 to 1)


def silent(step: str, done: float) -> None:
    """The Progress that shows nothing."""


def convert(gguf: Path, directory: Path, dtype: str = "bfloat16", progress: Progress = silent) -> None:
    """Write the model of a GGUF file to a new directory that plain transformers loads; no hub is asked.

    The directory appears whole or not at all. Raises UserError for a file that is not a loadable GGUF, and
    for a directory that is not empty or cannot be written.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported: all that is needed is in the file
    check_packages()
    pre_tokenizer = _check_file(gguf)
    with _appearing_whole(directory) as partial:
        _load_and_save(gguf, partial, dtype, pre_tokenizer, progress)


def check_packages() -> None:
    """Raise UserError when a package that only the conversion needs is not installed."""
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"reading GGUF files needs {' and '.join(missing)}; run: pip install 'mpi-spp[gguf]'")


def _check_file(gguf: Path) -> str:
    """Check that the file is a whole GGUF of a known family, and return the name of its pre-tokenizer."""
    try:
        with gguf.open("rb") as file:
            magic = file.read(4)
        size = gguf.stat().st_size
    except OSError as error:
        raise UserError(f"{gguf}: cannot be read ({error.strerror}); give the path of a GGUF file") from error
    if magic != b"GGUF":
        raise UserError(f"{gguf}: is not a GGUF file (it does not begin with 'GGUF'); give the path of one")
    metadata, expected_size = _read_header(gguf)
    if size < expected_size:
        raise UserError(f"{gguf}: is truncated ({size} bytes of at least {expected_size}); get the file again")
    if metadata["general.architecture"] not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"{gguf}: architecture {metadata['general.architecture']!r} is not supported; {known} are")
    _check_metadata(gguf, metadata)
    return str(metadata.get("tokenizer.ggml.pre", ""))


def _check_metadata(gguf: Path, metadata: dict[str, Any]) -> None:
    """Refuse what transformers would fill in or drop in silence: the model would be another one."""
    architecture = metadata["general.architecture"]
    missing = [name for name in _REQUIRED if f"{architecture}.{name}" not in metadata]
    if missing:
        raise UserError(f"{gguf}: is corrupt (no {architecture}.{missing[0]} in its metadata); get the file again")
    lost = [name for name in _LOST if metadata.get(f"{architecture}.{name}", "none") != "none"]
    lost += ["rope_freqs.weight"] if "rope_freqs.weight" in metadata[_TENSORS] else []
    if lost:
        raise UserError(f"{gguf}: {' and '.join(lost)} cannot be converted; get the model as safetensors files instead")


def _read_header(gguf: Path) -> tuple[dict[str, Any], int]:
    """The metadata of a GGUF file with the names of its tensors under _TENSORS, and where the last one ends."""
    from transformers.integrations.gguf.reader import GgufHeader, read_gguf_metadata

    try:
        metadata, names = read_gguf_metadata(str(gguf))
        header = GgufHeader.from_file(str(gguf))
        ends = [header.data_start + tensor.offset + tensor.nbytes for tensor in header.tensors]
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise UserError(f"{gguf}: its header is truncated or corrupt ({error}); get the file again") from error
    return {**metadata, _TENSORS: names}, max(ends, default=0)


@contextmanager
def _appearing_whole(directory: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `directory` when the body has succeeded, and vanishes when it has not."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory}: exists and is not an empty directory; give the name of a new one")
    partial: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.partial-", dir=directory.parent))
        partial.chmod(directory.parent.stat().st_mode & 0o777)  # mkdtemp's 0700 would hide a model from other users
        yield partial
        partial.rename(directory)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror or error}); choose another place") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _load_and_save(gguf: Path, directory: Path, dtype: str, pre_tokenizer: str, progress: Progress) -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    with _parsed_once(), redirect_stderr(StringIO()):  # hides the libraries' own bars
        model, tokenizer = _load(gguf, dtype, progress)
        _split_digits(tokenizer, pre_tokenizer)
        progress("saving", 0.9)
        model.save_pretrained(directory)
        tokenizer.init_kwargs.pop("local_files_only", None)  # how this one was loaded is no property of it
        tokenizer.save_pretrained(directory)
    for weights in directory.glob("*.safetensors"):  # written as private files, unlike the others
        weights.chmod((directory / "config.json").stat().st_mode & 0o777)
    progress("saving", 1.0)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Halve the time: transformers reads the file three times, and makes the table of names for every module."""
    import gguf

    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    vars(gguf).update({name: functools.cache(original) for name, original in originals.items()})
    try:
        yield
    finally:
        vars(gguf).update(originals)


def _load(gguf: Path, dtype: str, progress: Progress) -> tuple[Any, Any]:
    """The model, dense, in `dtype`, and the tokenizer of a GGUF file."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place = str(gguf.parent)
    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    whole: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # for _check_complete
    try:
        progress("reading the configuration", 0.0)
        config = _with_short_floats(AutoConfig.from_pretrained(place, **source))
        progress("reading the weights", 0.2)
        dense = GgufConfig(dequantize=True)
        model, found = AutoModelForCausalLM.from_pretrained(
            place, config=config, dtype=dtype, quantization_config=dense, **source, **whole
        )
        progress("reading the tokenizer", 0.7)
        tokenizer = AutoTokenizer.from_pretrained(place, **source)
    except Exception as error:  # whatever the library stumbles over, it is this file that it stumbles over
        raise UserError(f"{gguf}: transformers cannot load it ({type(error).__name__}: {error})") from error
    _check_complete(gguf, {**found, "mismatched_keys": _misshapen(model) | set(found["mismatched_keys"])})
    return _forget_quantization(model), tokenizer


def _check_complete(gguf: Path, found: dict[str, Any]) -> None:
    """Refuse a model some of whose weights transformers had to invent, or could not place."""
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if found[kind]:
            example = min(map(str, found[kind]))
            raise UserError(f"{gguf}: is corrupt ({kind.replace('_', ' ')}: {len(found[kind])}, e.g. {example})")


def _misshapen(model: Any) -> set[str]:
    """The weights of another shape than the configuration asks for, which transformers 5.20 puts in as they are."""
    import torch

    with torch.device("meta"):
        expected = type(model)(model.config).state_dict()
    return {name for name, tensor in model.state_dict().items() if tensor.shape != expected[name].shape}


def _with_short_floats(config: Any) -> Any:
    """Undo the detour of a GGUF's fp32 values through fp64: 9.999999747378752e-06 was 1e-05 in the original config."""
    for name, value in vars(config).items():
        setattr(config, name, _short(value))
    return config


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if not isinstance(value, float):
        return value
    import numpy as np

    return float(str(np.float32(value))) if float(np.float32(value)) == value else value


def _forget_quantization(model: Any) -> Any:
    """Make the dense model savable: transformers refuses to save one that came from a GGUF."""
    for name in ("hf_quantizer", "quantization_method"):
        vars(model).pop(name, None)
    vars(model.config).pop("quantization_config", None)
    return model


def _split_digits(tokenizer: Any, pre_tokenizer: str) -> None:
    """Give SmolLM's vocabulary its own pre-tokenizer, which transformers does not know by its GGUF name.

    Source: tokenizer.json of HuggingFaceTB/SmolLM2-135M-Instruct. Without it, spaces before digits are cut differently.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    if pre_tokenizer == "smollm":
        parts = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(parts)
