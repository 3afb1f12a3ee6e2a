"""The machine's programs that make hosts, and whether it lets them."""

import os
import shutil
import subprocess

# Of Debian and Ubuntu, by program.
_PACKAGES = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    **dict.fromkeys(("ip", "bridge", "tc"), "iproute2"),
    **dict.fromkeys(("nsenter", "setpriv", "taskset", "unshare"), "util-linux"),
}
OWN = ("--net", "--uts", "--ipc", "--mount")  # the namespaces of a host
_TRIAL = """
set -e
ip link add br0 type bridge
ip link add port1 type veth peer name eth0
ip link set port1 master br0
tc qdisc add dev eth0 root tbf rate 1gbit burst 128kb latency 50ms
mount -t tmpfs tmpfs /run
"""


def why_not() -> str | None:
    """Why this machine cannot have several hosts, in one line that says what to do; None when it can."""
    missing = [name for name in _PACKAGES if find(name) is None]
    if missing:
        packages = ", ".join(sorted({_PACKAGES[name] for name in missing}))
        return f"several hosts on this machine need {', '.join(missing)}; install {packages}"
    if os.geteuid() != 0:
        return "several hosts on this machine need root, who alone may give them a network"
    try:
        run("unshare", *OWN, "sh", "-c", _TRIAL)
    except RuntimeError as error:
        return f"several hosts on this machine need networks of their own, which it refuses ({error})"
    return None


def find(program: str) -> str | None:
    """Its path."""
    return shutil.which(program, path=environment()["PATH"])


def run(*command: str) -> str:
    """The output of a command. Raises RuntimeError with its last line of complaint when it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), stdin=subprocess.DEVNULL)
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:3])} ...: {last_line(ended.stderr)}")
    return ended.stdout


def environment() -> dict[str, str]:
    """This process's own, with the programs that only root has on PATH."""
    return {**os.environ, "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])}


def last_line(text: str) -> str:
    """What a program said at last, where its reason usually stands."""
    return (text.strip().splitlines() or ["it says nothing"])[-1]
