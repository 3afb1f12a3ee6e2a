"""Questions about a document: the prompts, what they share, and files that cannot be used."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reciting_model import make_tokenizer

from mpi_spp.config import RunConfig
from mpi_spp.engine.fan_out import numbers_of, shared_length
from mpi_spp.errors import UserError
from mpi_spp.model.config import ModelConfig
from mpi_spp.model.rope import DynamicScaling
from mpi_spp.model.text.prompt import prompt_token_ids
from mpi_spp.model.text.questions import Question, read_questions

POSITIONS, VOCAB_SIZE = 100, 258
DYNAMIC = DynamicScaling(10000.0, 2.0, max_position_embeddings=20)


def read(directory: Path, document: bytes, questions: bytes, /, dynamic: Any = None, **options: Any) -> list[Question]:
    (directory / "d").write_bytes(document)
    (directory / "q").write_bytes(questions)
    rope = SimpleNamespace(dynamic=dynamic)
    model = SimpleNamespace(vocab_size=VOCAB_SIZE, max_positions=POSITIONS, rope=rope)
    files = {"document": str(directory / "d"), "questions": str(directory / "q")}
    config = RunConfig(model="m", **(files | options))
    return read_questions(config, make_tokenizer(), directory, cast(ModelConfig, model))


@pytest.mark.parametrize("options", [{}, {"system": "Be brief."}, {"chat": False}], ids=str)
def test_prompts_are_those_of_generate(options: dict[str, Any], tmp_path: Path) -> None:
    found = read(tmp_path, b"\xef\xbb\xbfOne.\n\nTwo. \n\n", "\n Why?\r\n \n\u2028Wh\u2028o\u00e9?".encode(), **options)
    assert [(one.line, one.text) for one in found] == [(2, "Why?"), (4, "Wh\u2028o\u00e9?")]
    for one in found:
        whole = RunConfig(model="m", prompt=f"One.\n\nTwo.\n\n{one.text}", **options)
        assert one.prompt_ids == prompt_token_ids(
            whole,
            make_tokenizer(),
            tmp_path,
            cast(ModelConfig, SimpleNamespace(vocab_size=VOCAB_SIZE, max_positions=POSITIONS)),
        )


@pytest.mark.parametrize(
    "document, questions, options, says",
    [
        (b"text", b" \n\n", {}, "/q holds no question; give one a line"),
        (b" \n", b"Why?", {}, "/d is empty; give some text"),
        (b"caf\xe9", b"Why?", {}, "/d is not UTF-8 (byte 3)"),
        (b"text", b"caf\xe9", {}, "/q is not UTF-8 (byte 3)"),
        (b"text", b"Why?", {"questions": "no/such"}, "--questions: no/such cannot be read"),
        (b"text", b"a\n\n" + b"b" * 94, {"chat": False}, "line 3: with the document the prompt has 100 tokens, but m"),
        (b"text", b"a\n" + b"b" * 15, {"chat": False, "dynamic": DYNAMIC}, "line 2: the prompt has 21 tokens, and"),
    ],
)
def test_what_cannot_be_asked(
    document: bytes, questions: bytes, options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, document, questions, **options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_longest_question_that_fits(tmp_path: Path) -> None:
    (one,) = read(tmp_path, b"text", b"b" * 93, chat=False)
    assert len(one.prompt_ids) == POSITIONS - 1


prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5)


@given(prompts)
def test_the_shared_length_is_the_longest_common_beginning(prompts: list[list[int]]) -> None:
    length = shared_length(prompts)
    assert len({tuple(prompt[:length]) for prompt in prompts}) == 1
    assert length == min(map(len, prompts)) or len({prompt[length] for prompt in prompts}) > 1


@given(st.integers(1, 6), st.integers(1, 20))
def test_every_request_is_answered_once_and_in_order(num_ranks: int, num_requests: int) -> None:
    of_ranks = [numbers_of(rank, num_ranks, num_requests) for rank in range(num_ranks)]
    assert [number for of_rank in of_ranks for number in of_rank] == list(range(num_requests))
    assert max(map(len, of_ranks)) <= -(-num_requests // num_ranks)
