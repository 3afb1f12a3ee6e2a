"""GGUF files made into Hugging Face model directories: safetensors, tokenizer, chat template and configs."""

import errno
import functools
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from mpi_spp.errors import UserError

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
    from mpi_spp.model.loading.gguf_header import check  # imports torch, which listing the store should not

    pre_tokenizer = check(gguf)
    with _appearing_whole(directory) as partial:
        _load_and_save(gguf, partial, dtype, pre_tokenizer, progress)
        _require_loadable(gguf, partial)


def check_packages() -> None:
    """Raise UserError when a package that only the conversion needs is not installed."""
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"reading GGUF files needs {' and '.join(missing)}; run: pip install 'mpi-spp[gguf]'")


@contextmanager
def _appearing_whole(directory: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `directory` when the body has succeeded, and vanishes when it has not."""
    taken = UserError(f"{directory}: exists and is not an empty directory; give the name of a new one")
    partial: Path | None = None
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise taken
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.partial-", dir=directory.parent))
        partial.chmod(directory.parent.stat().st_mode & 0o777)  # mkdtemp's 0700 would hide a model from other users
        yield partial
        partial.rename(directory)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:  # somebody was faster
            raise taken from None
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


def _require_loadable(gguf: Path, directory: Path) -> None:
    """Refuse a file whose model could be written, but not be read again."""
    from mpi_spp.model.config import read_config
    from mpi_spp.model.loading.checkpoint import Checkpoint
    from mpi_spp.model.loading.weights import require_weights

    try:
        require_weights(Checkpoint(directory), read_config(directory))
    except UserError as error:
        raise UserError(f"{gguf}: cannot be converted: {str(error).replace(f'{directory}/', '')}") from None


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
