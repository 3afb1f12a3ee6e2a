"""The process in which a model's chat template is rendered: it may be ended, and take no more memory than it is given.

A template is a program that came with the model. Its sandbox keeps it from files, but not from loops without an end,
nor from texts of gigabytes. `mpi_spp.model.text.template_process` (see start.py) answers each line of JSON with one.
"""

import importlib
import importlib.util
import json
import os
import resource
import select
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

_CPU_SECONDS, _MEMORY_BYTES, _MOST_CHARACTERS = 1.0, 2**29, 2**26  # of one rendering; beside the program; of its text
_IDLE_SECONDS = 30
_MODULE = "transformers.utils.chat_template_utils"


def serve() -> None:
    """Answer until nobody asks any more."""
    render = _renderer().render_jinja_template
    _limit(resource.RLIMIT_AS, _address_space() + _MEMORY_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    print("ready", flush=True)
    while select.select([sys.stdin], [], [], _IDLE_SECONDS)[0] and (line := sys.stdin.buffer.readline()):
        signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)  # its signal ends the process, whatever that is doing
        print(json.dumps(_answer(render, json.loads(line))), flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _limit(what: int, most: int) -> None:
    """Within what the user's own limits allow."""
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _answer(render: Any, asked: dict[str, Any]) -> dict[str, str]:
    try:
        (text,), _ = render([asked["messages"]], chat_template=asked["template"], **asked["variables"])
    except MemoryError:
        return {"error": "it takes too much memory"}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    except Exception as error:  # of the template's own words, or of any kind that jinja2 knows
        return {"error": str(error)[:500] or type(error).__name__}
    return {"text": text} if len(text) <= _MOST_CHARACTERS else {"error": "it makes a text without measure"}


def _renderer() -> ModuleType:
    """transformers' own, without what the package imports besides: a third of the time."""
    spec = importlib.util.find_spec("transformers")
    directory = spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else ""
    for name, place in (("transformers", directory), ("transformers.utils", f"{directory}/utils")):
        stand_in = ModuleType(name)
        stand_in.__path__ = [place]
        vars(stand_in)["__version__"] = "0"
        sys.modules[name] = stand_in
    try:
        return importlib.import_module(_MODULE)
    except ImportError:  # of a version that wants more of the package
        for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
            del sys.modules[name]
        return importlib.import_module(_MODULE)


if __name__ == "__main__":
    serve()
