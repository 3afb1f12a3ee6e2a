"""Chat templates: the text of transformers, nothing left out in silence, and no template that runs away."""

import time
from pathlib import Path
from typing import Any

import pytest
from reciting_model import make_tokenizer

from mpi_spp.config import RunConfig
from mpi_spp.errors import UserError
from mpi_spp.model.text.prompt import is_chat
from mpi_spp.model.text.template import ChatTemplate

USER = {"role": "user", "content": "hi <|im_end|> é"}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, "é"]}}}]}
LIKE_QWEN = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.reasoning_content is string %}{{ '<think>' + message.reasoning_content + '</think>' }}{% endif %}
    {%- if message.tool_calls %}{% for one in message.tool_calls %}{{ one.function | tojson }}{% endfor %}{% endif %}
    {{- message.content }}<|im_end|>{% if tools %}{% break %}{% endif %}
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}
{%- generation %}{{ eos_token }}{% endgeneration %}{{ strftime_now('%Y') | length }}"""


def template_of(text: Any) -> ChatTemplate:
    return ChatTemplate(make_tokenizer(text), Path("m"))


@pytest.mark.parametrize("variables", [{}, {"enable_thinking": False}, {"eos_token": "x", "tools_": None}], ids=str)
@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [{"role": "system", "content": ""}, USER, {"role": "assistant", "content": ""}, USER],
        [USER, CALL, {"role": "tool", "content": " 7 "}],
        [USER, {"role": "assistant", "content": "a", "reasoning_content": "b"}, {"role": "critic", "content": "c"}],
    ],
)
def test_the_text_is_that_of_transformers(messages: list[dict[str, Any]], variables: dict[str, Any]) -> None:
    """And so are the ids: transformers reads the text without special tokens around it."""
    text = LIKE_QWEN + "{# tools_ #}"
    tokenizer = make_tokenizer(text)
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **variables)
    assert ChatTemplate(tokenizer, Path("m")).render(messages, variables, "it") == expected


@pytest.mark.parametrize(
    "body, says",
    [
        ("{{ raise_exception('no system here') }}", "refuses the messages (no system here)"),
        ("{% for a in range(10**9) %}{% endfor %}", "refuses the messages (Range too big"),
        ("{{ 'x' | indent(10**10) }}", "takes too much memory"),
        ("{{ 'x' * 10**10 }}", "takes too much memory"),
        ("{{ messages[0].role * 3 * 10**7 }}", "makes a text without measure"),
        ("{{ '%10000000000d' % 1 }}", "takes too much memory"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "nested too deeply"),
        ("{{ messages[0].no.such }}", "refuses the messages ("),
        ("{% for", "refuses the messages ("),
        ("{% include '/etc/passwd' %}", "refuses the messages ("),
        ("{{ ''.__class__.__mro__ }}", "refuses the messages ("),
        ("{% set a = '" + "(" * 20_000 + "' %}{{ " + "(" * 20_000 + " }}", "refuses the messages ("),
    ],
    ids=lambda text: text[:40],
)
def test_a_template_that_cannot_be_used_is_one_line(body: str, says: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        template_of("{{ messages[0].content }}" + body).render([USER], {}, "it")
    assert says in str(caught.value) and len(str(caught.value)) < 700
    assert time.monotonic() - start < 10


def test_a_template_without_an_end_is_ended() -> None:
    """Even within one operation; and what comes after it is rendered as if nothing had been."""
    with pytest.raises(UserError, match="it takes too long"):
        template_of("{{ 9 ** (9 ** 9) }}").render([USER], {}, "it")
    assert template_of("{{ messages[0].content }}").render([USER], {}, "it") == USER["content"]


@pytest.mark.parametrize(
    "text, message, says",
    [
        ("{{ messages[0].content }}", {"name": "Ann"}, "has no use for name; leave it out"),
        (
            "{% for message in messages %}{{ message.content }}{{ tool.name }}{% endfor %}",
            {"name": "Ann"},
            "no use for",
        ),
        ("{{ messages[0].content }}", {"reasoning_content": "a"}, "has no use for reasoning_content"),
        ("{{ messages[0].content }}", {"tool_calls": []}, "has no use for tool_calls"),
        (
            "{% if messages[0].role == 'user' %}a{% endif %}",
            {"role": "developer"},
            "leaves out what a 'developer' says",
        ),
    ],
)
def test_nothing_of_a_message_is_left_out_in_silence(text: str, message: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        template_of(text).render([USER | message], {}, "it")
    assert says in str(caught.value)


@pytest.mark.parametrize("way", ["message.name", "message['name']", 'message["name"]', "message.get('name')"])
def test_a_field_that_the_template_looks_at_counts(way: str) -> None:
    text = "{% for message in messages %}{{ " + way + " }}{% endfor %}"
    assert template_of(text).render([USER | {"name": "Ann"}], {}, "it") == "Ann"


def test_variables_that_a_template_does_not_know() -> None:
    with pytest.raises(UserError, match="it: the model's chat template knows no 'enable_thinkin'; leave it out"):
        template_of(LIKE_QWEN).render([USER], {"enable_thinkin": False}, "it")


@pytest.mark.parametrize("text", [{"tool_use": "a"}, {"a": "b"}, 7, ["a"], "\0" * 2**21])
def test_templates_that_are_no_text(text: Any) -> None:
    tokenizer = make_tokenizer("x")
    tokenizer.chat_template = text
    with pytest.raises(UserError, match=r"m: its chat template .*; use --no-chat"):
        ChatTemplate(tokenizer, Path("m"))


def test_the_default_of_several_templates_is_taken() -> None:
    tokenizer = make_tokenizer("x")
    tokenizer.chat_template = {"default": "a", "tool_use": "b"}
    assert ChatTemplate(tokenizer, Path("m")).render([USER], {}, "it") == "a"


@pytest.mark.parametrize(
    "value, says",
    [
        ([], "is no JSON object, but a list"),
        ({"messages": []}, "messages is set by the program"),
        ({"add_generation_prompt": False}, "add_generation_prompt is set by the program"),
        ({"chat_template": "x"}, "chat_template is set by the program"),
        ({"a": [float("nan")]}, "holds a number that is none"),
    ],
)
def test_variables_that_cannot_be_given(value: Any, says: str) -> None:
    with pytest.raises(UserError, match=f"--chat-template-kwargs: {says}"):
        RunConfig(model="m", chat_template_kwargs=value)


def test_variables_are_for_chats() -> None:
    config = RunConfig(model="m", chat=False, chat_template_kwargs={"enable_thinking": False})
    with pytest.raises(UserError, match="--chat-template-kwargs: only a chat has it"):
        is_chat(config, make_tokenizer(), Path("m"))
