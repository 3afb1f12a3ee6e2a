"""What rounding and quantisation cost: perplexity and logit errors on a text of tens of thousands of tokens.

    .venv/bin/python benchmarks/perplexity.py [--model smollm2-135m-instruct] [--tokens 20480] [--window 1024]

The text is the reference of the Python language that every CPython carries (pydoc_data.topics). Each window is a prompt
of its own; every token after its first is predicted. The logit error is the root mean square to float32, over the
vocabulary and the first 256 tokens, both shifted to mean 0 (a constant changes no probability). Over the same tokens
the mean divergence (Kullback and Leibler) from float32; in brackets, with 8-bit activations, from the line above.
"""

from dataclasses import dataclass
from pathlib import Path

import click
import torch
from tqdm import tqdm

from benchmarks import machine
from mpi_spp.kernels.backends import is_native, make
from mpi_spp.kernels.choice import for_auto, working
from mpi_spp.model.batch import one_span
from mpi_spp.model.config import read_config
from mpi_spp.model.decoder import Stage
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.hub import cache_directory
from mpi_spp.model.loading.locate import locate
from mpi_spp.model.loading.quantized import QuantizedStore
from mpi_spp.model.loading.weights import load_stage, quantize_model, whole_layers
from mpi_spp.parallel.partition import split_chunks

CPU, CHUNK_SIZE = torch.device("cpu"), 256


@dataclass(frozen=True)
class Case:
    """How numbers are kept."""

    dtype: torch.dtype = torch.bfloat16
    scheme: str | None = None  # of the weights
    group: int = 32
    cache: torch.dtype | None = None  # None: as dtype
    activations: str = "exact"


CASES = {
    "float32": Case(torch.float32),
    "float16": Case(torch.float16),
    "bfloat16": Case(),
    "int8 KV cache": Case(cache=torch.int8),
    "int8, groups of 32": Case(scheme="int8"),
    "int4, groups of 32": Case(scheme="int4"),
    "int4 by 32, int8 activations": Case(scheme="int4", activations="int8"),
    "int4, groups of 48": Case(scheme="int4", group=48),
    "int4, groups of 64": Case(scheme="int4", group=64),
    "int4 by 64, int8 activations": Case(scheme="int4", group=64, activations="int8"),
}


@click.command()
@click.option("--model", default="smollm2-135m-instruct", show_default=True)
@click.option("--tokens", default=20480, show_default=True)
@click.option("--window", default=1024, show_default=True)
@click.option("--case", "cases", type=click.Choice(list(CASES)), multiple=True, help="Besides float32.  [default: all]")
def main(model: str, tokens: int, window: int, cases: tuple[str, ...]) -> None:
    """Print perplexity and logit error of every kind of weights."""
    machine.tell()
    directory = locate(model, download=False)
    windows = text_ids(directory, tokens).split(window)
    exact = before = None
    for name, case in CASES.items():
        if cases and exact is not None and name not in cases:
            continue
        stage = load(directory, case)
        losses, first = zip(*(score(stage, ids, case.cache) for ids in tqdm(windows, desc=name)), strict=True)
        exact = first[0] if exact is None else exact
        told = f"{divergence(exact, first[0]):.5f}"
        told += f" ({divergence(before, first[0]):.5f})" if case.activations != "exact" and before is not None else ""
        before = first[0]
        error = (first[0] - exact).square().mean().sqrt().item()
        perplexity = torch.cat(losses).mean().exp().item()
        count = sum(map(len, losses))
        click.echo(f"{name:28} perplexity {perplexity:8.4f}  logits' rms error {error:.4f}  KL {told}  {count} tokens")


def divergence(exact: torch.Tensor, other: torch.Tensor) -> float:
    """The mean over rows of logits, in nats."""
    logs = [logits.double().log_softmax(-1) for logits in (other, exact)]
    return torch.nn.functional.kl_div(*logs, reduction="batchmean", log_target=True).item()


def text_ids(directory: Path, count: int) -> torch.Tensor:
    """The first `count` tokens of the text, int64."""
    from pydoc_data.topics import topics

    from transformers import AutoTokenizer

    text = "\n\n".join(topics[name] for name in sorted(topics))
    ids = AutoTokenizer.from_pretrained(directory)(text, verbose=False)["input_ids"]
    return torch.tensor(ids[:count])


def load(directory: Path, case: Case) -> Stage:
    """All layers on one rank."""
    config, checkpoint = read_config(directory), Checkpoint(directory)
    kept = cache_directory() / "kernels"
    names = for_auto(working(case.dtype, CPU, kept, case.scheme is not None))
    backend = make(next(filter(is_native, names), names[0]), case.dtype, kept, case.activations)
    store = None
    if case.scheme is not None:
        store = QuantizedStore(cache_directory() / "quantized", directory, checkpoint.files, case.scheme, case.group)
        quantize_model(checkpoint, config, store, slice(None), tqdm)
    layers, vocabulary = whole_layers(range(config.num_hidden_layers)), range(config.vocab_size)
    return load_stage(checkpoint, config, layers, vocabulary, case.dtype, CPU, backend, store)


def score(stage: Stage, ids: torch.Tensor, cache_dtype: torch.dtype | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each token after the first, float32 [tokens - 1], and the logits of the first chunk, centred."""
    layers = range(stage.config.num_hidden_layers)
    cache = stage.new_cache(layers, len(ids), cache_dtype)
    logits = []
    for chunk in split_chunks(len(ids), CHUNK_SIZE):
        hidden = stage.embed(ids[chunk.start : chunk.stop])
        logits.append(stage.logits(stage.forward(hidden, one_span(chunk, cache, len(ids)), layers)).float())
    losses = torch.nn.functional.cross_entropy(torch.cat(logits)[:-1], ids[1:], reduction="none")
    return losses, logits[0] - logits[0].mean(-1, keepdim=True)


if __name__ == "__main__":
    main()
