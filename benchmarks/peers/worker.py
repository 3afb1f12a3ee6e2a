"""The process of a peer, run by the Python of its environment: `python -m benchmarks.peers.worker PEER JOB`.

JOB is a Job as JSON. The last line of the standard output is the result as JSON.
"""

import importlib
import json
import os
import sys

from benchmarks.peers.protocol import Job


def main(peer: str, job_json: str) -> None:
    """Measure one variant, and print its samples, the peer's version and the settings."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    job = Job(**json.loads(job_json))
    speeds, version = importlib.import_module(f"benchmarks.peers.{peer}").run(job)
    print(json.dumps({**speeds, "peer": peer, "version": version, "settings": job.variant}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
