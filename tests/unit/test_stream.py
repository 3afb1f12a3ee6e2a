"""From token ids to text as it streams."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reciting_model import END, START, make_tokenizer

from mpi_spp.model.text.prompt import TextStream

BYTE_LEVEL = make_tokenizer()  # as Llama 3, SmolLM2 and Qwen


def make_byte_fallback() -> Any:
    """As Llama 2 and the first Mistral: a space opens the text, and characters without a token are spelled in bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", START, END, *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdefghé你"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    model = models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token=START, eos_token=END)


BYTE_FALLBACK = make_byte_fallback()


def stream(tokenizer: Any, ids: list[int]) -> tuple[list[str], str, str]:
    """The pieces, the rest and the whole text of an answer."""
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in ids]
    return pieces, stream.rest(), stream.text(ids)


some_text = st.text(st.characters(codec="utf-8", exclude_characters="\ufffd\0"), max_size=20)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte level", "byte fallback"])
@given(text=some_text)
@example("naïve 😀 café 你好, 👩\u200d👩\u200d👧 end")
@example("a  b   c")
def test_pieces_are_whole_characters_and_join_to_the_text(tokenizer: Any, text: str) -> None:
    pieces, rest, whole = stream(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
    assert "".join(pieces) + rest == whole == text
    assert rest == ""
    assert "\ufffd" not in "".join(pieces)


def test_a_character_comes_with_its_last_byte_and_not_later() -> None:
    pieces, _, _ = stream(BYTE_LEVEL, BYTE_LEVEL("aé😀你b")["input_ids"])
    assert pieces == ["a", "", "é", "", "", "", "😀", "", "", "你", "b"]


def test_special_tokens_are_hidden() -> None:
    ids = BYTE_LEVEL(f"{START}a{END}b😀{END}")["input_ids"]
    pieces, rest, whole = stream(BYTE_LEVEL, ids)
    assert "".join(pieces) + rest == whole == "ab😀"


def test_special_tokens_cost_nothing() -> None:
    """A model that goes on after its stop token may give thousands; they must not be decoded again and again."""
    decoded: list[list[int]] = []
    stream = TextStream(make_tokenizer())
    stream._tokenizer.decode = lambda ids, **settings: decoded.append(ids) or ""
    assert [stream.push(BYTE_LEVEL.eos_token_id) for _ in range(10)] == [""] * 10
    assert decoded == []


@given(ids=st.lists(st.integers(0, len(BYTE_LEVEL) + 2), max_size=30))
def test_any_answer_streams_to_its_text(ids: list[int]) -> None:
    """Broken characters too, and ids of the padded vocabulary that have no token."""
    pieces, rest, whole = stream(BYTE_LEVEL, ids)
    assert "".join(pieces) + rest == whole


@given(ids=st.lists(st.integers(0, len(BYTE_FALLBACK) + 2), max_size=30))
def test_any_answer_of_a_byte_fallback_tokenizer_streams(ids: list[int]) -> None:
    """The text is transformers' unless a broken byte would turn all bytes beside it into signs of replacement."""
    pieces, rest, whole = stream(BYTE_FALLBACK, ids)
    assert "".join(pieces) + rest == whole
    of_transformers = BYTE_FALLBACK.decode(ids, skip_special_tokens=True)
    assert whole == of_transformers or "\ufffd" in of_transformers


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte level", "byte fallback"])
@pytest.mark.parametrize("cut", [1, 2])
def test_whole_characters_are_kept_beside_one_that_is_cut(tokenizer: Any, cut: int) -> None:
    ids = tokenizer("bé👍👍", add_special_tokens=False)["input_ids"][:-cut]
    pieces, rest, whole = stream(tokenizer, ids)
    assert "".join(pieces) + rest == whole
    assert whole.startswith("bé👍\ufffd") and set(whole[3:]) == {"\ufffd"}


def test_a_last_character_that_is_not_whole_is_the_rest() -> None:
    pieces, rest, whole = stream(BYTE_LEVEL, BYTE_LEVEL("a😀")["input_ids"][:-1])
    assert ("".join(pieces), rest, whole) == ("a", "\ufffd", "a\ufffd")


def test_a_decoder_that_fails_leaves_what_was_shown_and_a_sign(capfd: pytest.CaptureFixture[str]) -> None:
    """A panic of the library: an answer's tokens are worth more than its text."""
    from tokenizers import Regex, decoders

    tokenizer = make_byte_fallback()
    steps = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Replace(Regex("(a+)+$"), "b")]
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(steps)
    ids = tokenizer("bc" + "a" * 40 + "d", add_special_tokens=False)["input_ids"]
    pieces, rest, whole = stream(tokenizer, ids)
    assert "".join(pieces) + rest == whole
    assert whole.startswith(" bc") and whole.endswith("\ufffd")
    assert "retry-limit" in capfd.readouterr().err
