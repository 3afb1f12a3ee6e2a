"""What a compiler made of the hot loops."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

# Jumps of x86 and of ARM, with the address they go to.
_JUMP = re.compile(r"(?:j\w+|b\.\w+|b|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+([0-9a-f]+)")
_ON_STACK = re.compile(r"\(%r[sb]p|\[sp|\[x29")
_FUNCTION = re.compile(r"^[0-9a-f]+ <(\S+)>:\n(.*?)(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)


def references_to_stack(
    program: Path | str, functions: str, hot: str, objdump: str = "objdump"
) -> dict[str, list[int]]:
    """Count those of each hot loop, by the function that it is in; `functions` and `hot` are patterns.

    Hot is an innermost loop of which an eighth of the instructions at least are hot. One that lies out of the way
    makes the loop around it look like an innermost one: there they are fewer.
    """
    command = [objdump, "-d", "--no-show-raw-insn", program]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    counts: dict[str, list[int]] = {}
    for name, body in _FUNCTION.findall(code):
        if re.match(functions, name):
            for loop in _innermost_loops(body):
                if 8 * sum(bool(re.match(hot, instruction)) for instruction in loop) >= len(loop):
                    counts.setdefault(name, []).append(sum(bool(_ON_STACK.search(one)) for one in loop))
    return counts


def _innermost_loops(body: str) -> Iterator[list[str]]:
    """The instructions of each loop of a function that holds no other one."""
    lines = re.findall(r"^\s*([0-9a-f]+):\s+(.*)$", body, re.MULTILINE)
    places = {address: place for place, (address, _) in enumerate(lines)}
    jumps = [
        (places.get(match[1], len(lines)), end) for end, (_, one) in enumerate(lines) if (match := _JUMP.match(one))
    ]
    loops = [(start, end) for start, end in jumps if start <= end]
    for a, b in loops:
        if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops):
            yield [one for _, one in lines[a : b + 1]]
