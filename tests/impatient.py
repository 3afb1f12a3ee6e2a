"""`mpi-spp launch` that waits less long for a lost host: `python tests/impatient.py SECONDS launch ...`."""

import sys

from mpi_spp.cli import main
from mpi_spp.launch.supervisor import run_guarded

if __name__ == "__main__":
    run_guarded.__defaults__ = (float(sys.argv.pop(1)), *(run_guarded.__defaults__ or ())[1:])
    main()
