"""Changes of JSON that keep most of it: fields dropped, retyped, resized, doubled, swapped, and of the text itself."""

import json
from pathlib import Path
from random import Random
from typing import Any

import edit_files
import odd
from case import Room

Place = tuple[Any, Any]  # a list or an object, and a key into it


def load(path: Path, most: int = 2**22) -> Any:
    """What a file of JSON holds; an object for what is none any more."""
    try:
        return json.loads(edit_files.content_of(path, most).decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return {}


def dump(value: Any) -> str:
    """JSON text, of surrogates and numbers too large for others, too."""
    return json.dumps(value, ensure_ascii=False)


def edit_file(room: Room, path: Path, rng: Random, fields: tuple[str, ...] = ()) -> str:
    """Change a file in one way; `fields`: names that may be added. What was done."""
    document = load(path)
    if rng.random() < 0.12:
        text, done = edit_text(dump(document), rng)
    else:
        done = edit(document, rng, fields)
        text = dump(document)
    room.write(path, text)
    return f"{path.name}: {done}"


def edit(document: Any, rng: Random, fields: tuple[str, ...] = ()) -> str:
    """Change a document in place; what was done."""
    places = list(places_of(document))
    if isinstance(document, dict) and (not places or (fields and rng.random() < 0.3)):
        name = rng.choice(fields or ("x",))
        document[name] = odd.value(rng)
        return f"{name} = {short(document[name])}"
    if not places:
        return "nothing to change"
    shallow = [place for place in places if place[0] is document]
    holder, key = rng.choice(shallow if shallow and rng.random() < 0.5 else places)
    return f"{short(key)} {rng.choice(_EDITS)(holder, key, rng, places)}"


def places_of(document: Any, most: int = 5000) -> list[Place]:
    """The places of values, in the order of the text, so many at most."""
    found: list[Place] = []
    waiting = [document]
    while waiting and len(found) < most:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            found.append((holder, key))
            waiting.append(holder[key])
    return found


def edit_text(text: str, rng: Random) -> tuple[str, str]:
    """What no JSON value can say: the new text, and what was done."""
    deep = rng.choice((500, 100_000))
    whole = (
        ("nested", "[" * deep + "]" * deep),
        ("nested objects", '{"a":' * deep + "1" + "}" * deep),
        ("a value alone", dump(odd.value(rng))),
        ("twice", text + text),
        ("trailing comma", text[:-1] + "," + text[-1:]),
        ("comment", "// comment\n" + text),
        ("keys twice", text[:-1] + "," + text[1:] if text[:1] == "{" and len(text) > 2 else text + "\n"),
        ("a number of many digits", text[:-1] + ',"digits":' + "9" * 6000 + text[-1:]),
        ("a deep field", text[:-1] + ',"deep":' + "[" * deep + "]" * deep + text[-1:]),
        ("single quotes", text.replace('"', "'")),
    )
    done, changed = rng.choice(whole)
    return changed, done


def short(value: Any, most: int = 60) -> str:
    """As people read it."""
    text = ascii(value[: 2 * most] if isinstance(value, str | bytes) else value)
    length = len(value) if isinstance(value, str | bytes) else len(text)
    return text if len(text) <= most else f"{text[: most - 3]}... ({length})"


def _drop(holder: Any, key: Any, rng: Random, places: list[Place]) -> str:
    del holder[key]
    return "dropped"


def _retype(holder: Any, key: Any, rng: Random, places: list[Place]) -> str:
    holder[key] = odd.value(rng)
    return f"= {short(holder[key])}"


def _renumber(holder: Any, key: Any, rng: Random, places: list[Place]) -> str:
    """A number near the one that is there, or another one."""
    old = holder[key]
    if type(old) in (int, float) and abs(old) < 1e300 and rng.random() < 0.6:
        holder[key] = rng.choice(
            (old + 1, old - 1, old * 2, -old, old * 1000, float(old), str(old), [old], old // 2 or 3)
        )
    else:
        holder[key] = odd.number(rng)
    return f"= {short(holder[key])}"


def _rename(holder: Any, key: Any, rng: Random, places: list[Place]) -> str:
    if not isinstance(holder, dict):
        return _drop(holder, key, rng, places)
    new = rng.choice((key.upper(), key + " ", "_" + key, odd.text(rng)))
    holder[new] = holder.pop(key)
    return f"renamed {short(new)}"


def _resize(holder: Any, key: Any, rng: Random, places: list[Place]) -> str:
    old = holder[key]
    if isinstance(old, list | str) and old:
        times = rng.choice((0, 2, 3, 50))
        holder[key] = old * times if times else old[: len(old) // 2]
        return f"of length {len(holder[key])}, was {len(old)}"
    return _renumber(holder, key, rng, places)


def _swap(holder: Any, key: Any, rng: Random, places: list[Place]) -> str:
    other, its_key = rng.choice(places)
    holder[key] = json.loads(json.dumps(other[its_key]))
    return f"= {short(its_key)}'s {short(holder[key])}"


_EDITS = (_drop, _drop, _retype, _retype, _retype, _renumber, _renumber, _rename, _resize, _swap)
