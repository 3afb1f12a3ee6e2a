"""What transformers makes of the tests' models, kept as files: `bin/test --remake-oracles` makes them anew.

No two best logits of any step are nearer than SMALLEST_GAP, so the tokens hold for every CPU and every version.
"""

import json
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "oracle"
SMALLEST_GAP = 1e-3  # rounding cannot decide


def path_of(name: str) -> Path:
    """The file of one oracle."""
    return DIRECTORY / f"{name}.json"


def read(name: str) -> Any:
    """What is kept under a name."""
    return json.loads(path_of(name).read_text())


def write(name: str, value: dict[str, Any]) -> None:
    """Keep a table, an entry on each line."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items())
    path_of(name).write_text("{\n" + lines + "\n}\n")
