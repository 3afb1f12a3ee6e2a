"""What hosts find in /etc: one another's names, an sshd and an ssh that know one another's keys, and no user's own."""

from pathlib import Path

from benchmarks.hosts.machine import run

_SSHD = """
ListenAddress 0.0.0.0
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile none
"""
_SSH = """
Host *
    IdentityFile /etc/ssh/user_key
    IdentitiesOnly yes
    UserKnownHostsFile /etc/ssh/known_hosts
    StrictHostKeyChecking yes
"""
# Becomes a host: $0 is its name, $1 the directory of settings, $2 sshd. ~/.ssh is covered: ssh would read it first.
BECOME_HOST = """
set -e
echo "$0" >/proc/sys/kernel/hostname
mount --bind "$1/names" /etc/hosts
mount --bind "$1/ssh" /etc/ssh
[ ! -d ~root/.ssh ] || mount -t tmpfs tmpfs ~root/.ssh
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
ip link set lo up
echo ready
exec "$2" -D -e
"""


def write_settings(directory: Path, addresses: dict[str, str]) -> None:
    """Make keys and files for hosts of these names and addresses, and `hostfile`, which gives each one rank."""
    ssh = directory / "ssh"
    ssh.mkdir()
    for name in ("host_key", "user_key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ssh / name))
    (ssh / "authorized_keys").write_text((ssh / "user_key.pub").read_text())
    (ssh / "known_hosts").write_text(f"* {(ssh / 'host_key.pub').read_text()}")
    (ssh / "sshd_config").write_text(_SSHD)
    (ssh / "ssh_config").write_text(_SSH)
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
    (directory / "names").write_text("\n".join(lines) + "\n")
    (directory / "hostfile").write_text("".join(f"{name}:1\n" for name in addresses))
