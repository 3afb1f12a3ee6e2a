"""What the answers of a batch are made of: where it differs, a run must not go on with the output of another."""

import hashlib
from dataclasses import asdict
from pathlib import Path

from mpi_spp.config import RunConfig, option_name

# How the work is spread and where it is done; every other option may change the answers.
_OF_THE_RUN = (
    {"model", "prompt", "prompt_file", "prompt_ids"}  # the model's directory and the lines stand for these
    | {"mesh", "prefill", "decode", "chunk_size", "layer_split", "sync_strategy", "sync_granularity"}
    | {"device", "gpu_ids", "cuda_aware", "kernels", "threads", "timeout", "log_dir"}
    | {"trace", "trace_messages", "json"}
)


def made_of(config: RunConfig, directory: Path, lines: list[tuple[int, bytes]]) -> dict[str, str]:
    """By option, as text: the model's directory, a digest of the lines, and the options that change answers."""
    chosen = {option_name(name): str(value) for name, value in asdict(config).items() if name not in _OF_THE_RUN}
    return {"--input": _digest(lines), "--model": str(directory.resolve())} | chosen


def _digest(lines: list[tuple[int, bytes]]) -> str:
    digest = hashlib.sha256()
    for number, line in lines:
        digest.update(b"%d %s\n" % (number, line.strip()))
    return "sha256 " + digest.hexdigest()[:16]
