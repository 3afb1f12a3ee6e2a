"""Layers for any number of spans in one call: a row has the same bits alone and in company, however it is computed."""

from collections.abc import Iterator
from itertools import accumulate

import pytest
import torch
from native_layers import copy_of, equal, made, random_cache, random_layer, random_rotation
from tiny_model import CPU, build

from mpi_spp.kernels.layer import FusedSpan
from mpi_spp.kernels.native import library
from mpi_spp.kernels.native.backend import Native
from mpi_spp.model.batch import Batch, Span, one_span
from mpi_spp.model.config import read_config
from mpi_spp.model.decoder import Stage
from mpi_spp.model.loading.checkpoint import Checkpoint
from mpi_spp.model.loading.weights import load_stage, whole_layers

pytestmark = pytest.mark.skipif(not library.runnable(), reason="needs a CPU with AVX2, or 64-bit ARM")

# Tokens of each span, and positions before them.
A_FEW_ROWS = ((1, 33), (1, 600), (3, 7), (1, 0), (1, 256))
MANY_ROWS = ((1, 255), (60, 250), (1, 700), (7, 0), *((1, 40 * row) for row in range(20)))
WINDOWS = (None, 40, 1)  # of layers


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("spans", [A_FEW_ROWS, MANY_ROWS], ids=["few", "many"])
@pytest.mark.parametrize("quantized", [False, True])
def test_spans_are_what_they_are_alone(
    native: Native, spans: tuple[tuple[int, int], ...], quantized: bool, threads: int
) -> None:
    """All layers in one call, and one by one; the caches are the same, too."""
    torch.manual_seed(1)
    layers = [fused for window in WINDOWS if (fused := native.fused(random_layer(native, window))) is not None]
    dtype, tokens = torch.int8 if quantized else native.dtype, sum(count for count, _ in spans)
    caches = [[random_cache(native, 2, 16, start, start + count, dtype) for _ in layers] for count, start in spans]
    copies = [[copy_of(cache) for cache in of_span] for of_span in caches]
    hidden, rotation = torch.randn(tokens, 32), random_rotation(tokens, 16)
    together = hidden.clone()
    joined = layers[0].followed_by(layers[1:])
    assert joined is not None
    given = [
        FusedSpan(count, start, joined.places(of_span)) for (count, start), of_span in zip(spans, caches, strict=True)
    ]
    joined(together, rotation, given)
    assert not together.isnan().any()
    firsts = accumulate((count for count, _ in spans[:-1]), initial=0)
    for first, (count, start), of_span, copy in zip(firsts, spans, caches, copies, strict=True):
        own = slice(first, first + count)
        alone, angles = hidden[own].clone(), (rotation[0][own], rotation[1][own])
        for fused, cache in zip(layers, copy, strict=True):
            fused(alone, angles, [FusedSpan(count, start, fused.places([cache]))])
        assert torch.equal(alone, together[own])
        assert all(equal(ours, theirs, start + count) for ours, theirs in zip(of_span, copy, strict=True))


def test_halves_of_spans_are_the_whole(native: Native) -> None:
    """As ranks that add up call them, here with nothing to add."""
    torch.manual_seed(1)
    layer = native.fused(random_layer(native))
    assert layer is not None
    tokens = sum(count for count, _ in A_FEW_ROWS)
    caches = [random_cache(native, 2, 16, start, start + count, native.dtype) for count, start in A_FEW_ROWS]
    spans = [FusedSpan(*span, layer.places([cache])) for span, cache in zip(A_FEW_ROWS, caches, strict=True)]
    hidden, rotation = torch.randn(tokens, 32), random_rotation(tokens, 16)
    halves = hidden.clone()
    layer.attend(halves, rotation, spans, True)
    layer.transform(halves, True)
    layer(hidden, rotation, spans)
    assert torch.equal(hidden, halves)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Of a tiny model, by the best kernels."""
    directory = build(tmp_path_factory.mktemp("tiny"))
    config, backend = read_config(directory), made(library.runnable()[0], torch.bfloat16)
    layers, vocabulary = whole_layers(range(config.num_hidden_layers)), range(config.vocab_size)
    return load_stage(Checkpoint(directory), config, layers, vocabulary, torch.bfloat16, CPU, backend)


def test_a_chunk_beside_running_sequences_is_what_it_is_alone(stage: Stage) -> None:
    """Through the decoder: all layers in one call, a call a layer, and alone."""
    layers, ids = range(4), torch.randint(96, (30,), generator=torch.Generator().manual_seed(1))
    found = []
    for call_by_call in (False, True):
        caches = [stage.new_cache(layers, 40) for _ in range(3)]
        for cache, length in zip(caches[1:], (20, 5), strict=True):
            stage.forward(stage.embed(ids[:length]), one_span(range(length), cache, length), layers)
        running = (Span(range(8, 9), 20, caches[1], 21), Span(range(9, 10), 5, caches[2], 6))
        spans = (Span(range(8), 0, caches[0], 8), *running)
        after_layer = (lambda layer: None) if call_by_call else None
        batch = Batch(spans, stage.device)
        found.append(stage.forward(stage.embed(ids[:10]), batch, layers, after_layer=after_layer))
        alone = []
        for span in spans:
            own = stage.embed(ids[span.rows.start : span.rows.stop])
            alone.append(stage.forward(own, one_span(span.positions, span.cache, span.sequence_length), layers))
        assert torch.equal(torch.cat(alone), found[-1])
    assert torch.equal(*found)


def test_scores_of_a_row_are_the_same_among_others(stage: Stage) -> None:
    """So one product for all rows chooses the tokens that a product a row would."""
    torch.manual_seed(1)
    hidden = torch.randn(40, 32)
    scores = stage.logits(hidden)
    assert all(
        torch.equal(stage.logits(row), of_row) for row, of_row in zip(hidden.split(1), scores.split(1), strict=True)
    )


def test_angles_of_a_row_are_the_same_among_others(stage: Stage) -> None:
    cache = stage.new_cache(range(4), 64)
    spans = tuple(
        Span(range(row, row + 1), position, cache, 64) for row, position in enumerate((63, 0, 17, 5, 60, 31, 1))
    )
    together = stage._rotation(Batch(spans, stage.device))
    for span in spans:
        alone = stage._rotation(one_span(span.positions, cache, 64))
        assert all(torch.equal(span.of(ours), theirs) for ours, theirs in zip(together, alone, strict=True))
