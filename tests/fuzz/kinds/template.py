"""Chat templates in all their places: programs that a model brings along."""

import json
from pathlib import Path
from random import Random

import bases
import edit_files
import edit_json
import odd
import oracle
from case import QUICK, Case, Room, remove
from verdict import is_finite_json

from kinds.config import most

_GOOD = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
# fmt: off
_PIECES = (
    "{{ messages }}", "{{ messages[0].content }}", "{{ messages[7].content }}", "{{ bos_token }}",
    "{{ eos_token * 3 }}", "{{ raise_exception('no') }}", "{{ raise_exception('a\\nb' * 500) }}",
    "{{ raise_exception() }}", "{{ nothing.there }}", "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(10**9) %}{% endfor %}", "{{ range(10**8) | list }}", "{{ 'a' * 10**9 }}", "{{ 'a' * 10**7 }}",
    "{{ ('a' * 10**5) | indent(10**5) }}", "{{ 9**9**7 }}", "{{ 2**10**7 }}", "{{ '%999999999d' % 3 }}",
    "{{ '{:999999999}'.format(3) }}", "{{ strftime_now('%Y' * 10**6) }}", "{{ strftime_now('%') }}",
    "{{ strftime_now(3) }}", "{{ 'a' | center(10**9) }}", "{{ ['a'] * 10**8 }}", "{{ 'x' | tojson(indent=10**9) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% include 'x' %}", "{% import 'os' as os %}",
    "{% extends 'x' %}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}",
    "{{ self._TemplateReference__context }}", "{{", "{% if %}", "{% for %}", "{% endfor %}", "{# never ends",
    "{% set x = messages %}{{ x }}", "{{ messages | map('x') | list }}", "{% generation %}{{ 1 }}{% endgeneration %}",
    "{% break %}", "{{ 1 / 0 }}", "{{ tools }}", "{{ documents | length }}", "{{ lipsum(9999) }}", "{{ dict(a=1) }}",
    "{{ namespace(a=1).a }}", "{{ cycler('a').next() }}", "{{ x is defined }}", "{{ 'a\\ud800' }}", "\x00", "😀",
    "{{ messages | tojson }}", "{{ messages | groupby('role') | list }}", "{{ none + 1 }}",
    "{% if add_generation_prompt %}x{% endif %}", "{% filter upper %}a{% endfilter %}", "{{ 'a' | random }}",
    "a" * 5000,
    "{% for a in range(9999) %}{% for b in range(9999) %}{% set n = 1 %}{% endfor %}{% endfor %}",
    "{{ messages | sum(attribute='content') }}", "{{ '(a+)+$' | urlize }}", "{{ 'ab' | wordwrap(0) }}",
    "{{ 'a' | truncate(-9) }}",
)
# fmt: on


def make(room: Room, rng: Random, draws: list[Random]) -> Case:
    """See kinds/__init__.py."""
    model = room.copy("llama")
    told = [change(room, model, draw) for draw in draws]
    words = ["generate", "--model", str(model), "--prompt", "hi", "--json", "-", *QUICK, *most()]
    option = rng.choice((None, None, "--system", "--chat", "--no-chat"))
    if option:
        words += [option, "be brief"] if option == "--system" else [option]
        told.append(option)
    system = "be brief" if option == "--system" else None
    chat = {"--chat": True, "--system": True, "--no-chat": False}.get(str(option))
    asks = oracle.generates(model, oracle.chat_or_text("hi", system, chat), bases.NEW_TOKENS)
    names = ("ROOM/model", "template", "--system", "--chat", "the prompt", "--prompt")
    return Case(words, names=names, check=is_finite_json, oracle=asks, told=told)


def change(room: Room, model: Path, rng: Random) -> str:
    """A template in one of its places."""
    template = "".join(rng.choice((_GOOD, *[rng.choice(_PIECES)] * 3)) for _ in range(rng.randrange(1, 4)))
    drawn = rng.random()
    settings = model / "tokenizer_config.json"
    if drawn < 0.4:
        path = room.write(model / "chat_template.jinja", template)
        if rng.random() < 0.15:
            return edit_files.spoil(room, path, rng)
        return f"{path.name}: {edit_json.short(template, 200)}"
    if drawn < 0.7:
        remove(model / "chat_template.jinja")
        document = edit_json.load(settings)
        named = [{"name": rng.choice(("default", "tool_use", "rag", odd.text(rng))), "template": template}]
        values = (template, template, named, [*named, *named], {"default": template}, odd.value(rng), [odd.value(rng)])
        document = document if isinstance(document, dict) else {}
        document["chat_template"] = rng.choice(values)
        room.write(settings, edit_json.dump(document))
        return f"{settings.name}: chat_template = {edit_json.short(document['chat_template'], 200)}"
    if drawn < 0.85:
        remove(model / "chat_template.jinja")
        path = model / "chat_template.json"
        room.write(path, rng.choice((json.dumps({"chat_template": template}), edit_json.dump(odd.value(rng)))))
        return f"{path.name}: {edit_json.short(template, 200)}"
    name = rng.choice(("default", "tool_use", "x", "a b", ".."))
    path = room.write(model / "additional_chat_templates" / f"{name}.jinja", template)
    if rng.random() < 0.5:
        remove(model / "chat_template.jinja")
    return f"additional_chat_templates/{path.name}: {edit_json.short(template, 200)}"
