"""What cases are changes of: a small random model of every family, a tokenizer, a GGUF file, results of commands."""

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import reciting_model
import tiny_gguf
from case import QUICK

POSITIONS = 64
VOCABULARY = 261
PROMPT_IDS = [3, 17, 250, 99, 4, 3, 61, 17, 5, 99]
NEW_TOKENS = 5
_SETTINGS = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "tie_word_embeddings": False,
    "initializer_range": 0.15,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
_OF_SOME = {
    "num_experts": 3,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 20,
    "head_dim": 8,
    "sliding_window": 16,
}


def build(directory: Path) -> None:
    """All bases, each a folder: families by their names, `shards`, `gguf`; see results.py of the kinds for others."""
    import torch
    import transformers

    from mpi_spp.model.families import FAMILIES

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with contextlib.redirect_stderr(io.StringIO()):
        for number, name in enumerate(FAMILIES):
            torch.manual_seed(number)
            _save(directory / name, _model(name), "1GB")
        torch.manual_seed(99)
        _save(directory / "shards", _model("llama"), "20KB")
    (directory / "gguf").mkdir()
    tiny_gguf.write_gguf(directory / "gguf" / "model.gguf", tiny_gguf.tiny_llama())
    transformers.utils.logging.set_verbosity_warning()


def _model(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    known = AutoConfig.for_model(family).to_dict()
    settings = _SETTINGS | {name: value for name, value in _OF_SOME.items() if name in known}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings), dtype=_float32())


def _float32() -> Any:
    import torch

    return torch.float32


def _save(directory: Path, model: Any, shard: str) -> None:
    model.save_pretrained(directory, max_shard_size=shard)
    reciting_model.make_tokenizer().save_pretrained(directory)
    (directory / "ids.json").write_text(json.dumps(PROMPT_IDS))


def families() -> list[str]:
    """The names of bases that are models of a family."""
    from mpi_spp.model.families import FAMILIES

    return list(FAMILIES)


def warm_up(directory: Path) -> None:
    """Import all that commands import, start MPI, and let transformers generate: copies of this process begin so."""
    import known
    import oracle

    model = str(directory / "llama")
    common = ["--model", model, "--max-new-tokens", "2"]
    texts = {"document": "some text", "questions": "one?\ntwo?", "input": '{"prompt": "hi"}'}
    paths = {name: directory / f"{name}.txt" for name in texts}
    for name, text in texts.items():
        paths[name].write_text(text)
    run("generate", *common, *QUICK, "--prompt", "hi", "--trace", str(directory / "trace.json"))
    run("batch", *common, *QUICK, "--input", str(paths["input"]), "--output", str(directory / "out.jsonl"))
    run("ask", *common, *QUICK, "--document", str(paths["document"]), "--questions", str(paths["questions"]))
    lengths = ["--model", model, "--prompt-tokens", "8", "--new-tokens", "4"]
    result = ["--warmup", "0", "--repetitions", "2", "--json", str(directory / "bench.json")]
    run("bench", "prefill", *lengths, *QUICK, *result)
    run("bench", "compare", *[str(directory / "bench.json")] * 2)
    run("plan", *lengths)
    run("simulate", *lengths, "--ranks", "1,2", "--plot", str(directory / "simulated.svg"))
    run("trace", "summary", str(directory / "trace.json"))
    run("trace", "plot", str(directory / "trace.json"), str(directory / "trace.svg"))
    run("launch", "-np", "2", "--dry-run", "--", "plan", *lengths)
    run("model", "convert", str(directory / "gguf" / "model.gguf"), str(directory / "gguf" / "converted"))
    run("model", "list")
    answer, _ = oracle.tokens(Path(model), PROMPT_IDS, NEW_TOKENS)
    (directory / "answer.json").write_text(json.dumps(answer))
    known.build(directory)


def run(*words: str) -> None:
    """A command in this process that must succeed, with its words kept from the terminal."""
    import sys

    from mpi_spp import cli

    arguments, stream = sys.argv[1:], io.StringIO()
    sys.argv[1:] = words
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            cli.main()
    except SystemExit as leave:
        if leave.code not in (0, None):
            raise AssertionError(f"mpi-spp {' '.join(words)}: status {leave.code}\n{stream.getvalue()}") from None
    finally:
        sys.argv[1:] = arguments


def set_environment(directory: Path) -> None:
    """Before anything of the product or of a library is imported."""
    fixed = {
        "OMP_NUM_THREADS": "1",
        "OMP_STACKSIZE": "256k",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "80",
    }
    fixed |= {
        "HWLOC_COMPONENTS": "-gl",
        "HF_HOME": str(directory / "hub"),
        "MPLCONFIGDIR": str(directory / "matplotlib"),
    }
    os.environ.update(fixed | {"MPI_SPP_CACHE": str(directory / "cache")})
    for name in [name for name in os.environ if name.startswith("MPI_SPP_") and name != "MPI_SPP_CACHE"]:
        del os.environ[name]
