"""The program: `mpi-spp`, `python -m mpi_spp`, and `python .../mpi_spp` from anywhere, which may name a module first.

`python .../mpi_spp mpi_spp.launch.placement ...` is `python -m` of that module, with a safe path: see start.py.
"""

import os
import sys

if __name__ == "__main__" and not __package__:  # a folder was started, and Python has put it first on its path
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from mpi_spp.system import start


def main() -> None:
    """Run the command line, or the module that the first word names, where the folder of this package was started."""
    start.leave_working_directory_out()
    start.require_working_directory()
    start.ensure_folders()
    if not __package__ and sys.argv[1:] and sys.argv[1].startswith("mpi_spp."):
        import runpy

        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        from mpi_spp.cli import main as run_command_line

        run_command_line()


if __name__ == "__main__":
    if not __package__ or start.was_put_first(sys.path[0]):
        del sys.path[0]
    main()
