"""Another host for tests: namespaces with their own network, processes, files, user and sshd.

It has the same programs and the same checkout as this machine. Process ids, sockets, homes and
temporary files of one side mean nothing on the other.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..waiting import until_blocking

ALIAS: Final = "gpu-box"
_NUMBER: Final = os.getpid() % 250  # several test processes may have a host each
HERE: Final = f"10.213.{_NUMBER}.1"
THERE: Final = f"10.213.{_NUMBER}.2"
_LINK: Final = f"mlcw{_NUMBER}"
_USER: Final = "worker"
_UID: Final = 4242
_HOME: Final = f"/home/{_USER}"
_CHECKOUT: Final = Path(__file__).resolve().parents[2]
# Argument 1 is a folder for what is kept, the others are what the worker's Python needs.
_BOOT: Final = f"""
set -e
kept="$1"; shift
mount --make-rprivate /
mount --bind "$kept/passwd" /etc/passwd
mount --bind "$kept/shadow" /etc/shadow
mkdir "$kept/needed" "$kept/ssh"
number=0
for path in "$@"; do
  number=$((number + 1)); mkdir "$kept/needed/$number"
  mount --rbind "$path" "$kept/needed/$number"
done
mount --rbind "$kept" /mnt
for hidden in /tmp /run /home /root /dev/shm; do
  [ ! -d "$hidden" ] || mount -t tmpfs -o mode=1777 none "$hidden"
done
number=0
for path in "$@"; do
  number=$((number + 1))
  [ -d "$path" ] || {{ mkdir -p -m 755 "$path"; mount --rbind "/mnt/needed/$number" "$path"; }}
done
mkdir -p /run/sshd {_HOME}/.ssh
chmod 755 /run /run/sshd /home
cp /mnt/id.pub {_HOME}/.ssh/authorized_keys
cp -r /mnt/jupyter {_HOME}/jupyter
chown -R {_UID}:{_UID} {_HOME}
chmod -R go-rwx {_HOME}
hostname {ALIAS}
ip link set lo up
exec "$SSHD" -D -e -f /mnt/sshd_config
"""
_SSHD_CONFIG: Final = f"""
ListenAddress {THERE}
HostKey /mnt/hostkey
PidFile none
UsePAM no
PasswordAuthentication no
StrictModes no
SetEnv JUPYTER_PATH={_HOME}/jupyter
AllowUsers {_USER}
"""


def missing() -> str | None:
    """What this machine lacks for another host; None if it has all."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "root on Linux is needed to make a network namespace"
    for program in ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "sshd", "pgrep"):
        if _which(program) is None:
            return f"there is no {program} (Debian: openssh-server, iproute2, procps)"
    if subprocess.run(["unshare", "--net", "--pid", "--fork", "true"], check=False).returncode:
        return "this machine allows no new namespaces"
    return None


def _which(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class RemoteHost:
    """A host that is up; see `remote_host`."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder, self._pid = folder, pid
        self.ssh_config = folder / "ssh_config"

    def run(self, command: str) -> str:
        """What a command says there, as root."""
        inside = ["nsenter", "-t", str(self._pid), "-a", "sh", "-c", command]
        return subprocess.run(inside, capture_output=True, text=True, check=False).stdout.strip()

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers, as they are there."""
        return [int(n) for n in self.run("pgrep -f '[m]lc_widget.worker -f'").split()]

    @property
    def processes(self) -> list[str]:
        """All processes of the user but its ssh sessions."""
        lines = self.run(f"ps -u {_UID} -o pid=,args=").splitlines()
        return [line.strip() for line in lines if not re.search(r"\d+ sshd", line)]

    def link(self, state: str) -> None:
        """Pull the cable out (``down``) or put it in again (``up``)."""
        subprocess.run(["ip", "link", "set", _LINK, state], check=True)


@contextmanager
def remote_host(folder: Path, kernels: dict[str, str]) -> Iterator[RemoteHost]:
    """A host with these kernelspecs (the text of ``kernel.json`` by name), until the end."""
    for name, text in kernels.items():
        spec = folder / "jupyter" / "kernels" / name
        spec.mkdir(parents=True)
        (spec / "kernel.json").write_text(text)
    for key in ("id", "hostkey"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(make, check=True)
    (folder / "passwd").write_text(
        f"root:x:0:0:root:/root:/bin/sh\nsshd:x:4243:4243::/run/sshd:/bin/false\n"
        f"{_USER}:x:{_UID}:{_UID}::{_HOME}:/bin/sh\n"
    )
    (folder / "shadow").write_text(f"root:*:1::::::\nsshd:*:1::::::\n{_USER}:*:1::::::\n")
    (folder / "sshd_config").write_text(_SSHD_CONFIG)
    public = (folder / "hostkey.pub").read_text().split()
    (folder / "known_hosts").write_text(f"{THERE} {public[0]} {public[1]}\n")
    # A short path, since it is a socket's.
    control = folder / "cm"
    (folder / "ssh_config").write_text(
        f"Host {ALIAS}\n HostName {THERE}\n User {_USER}\n IdentityFile {folder / 'id'}\n"
        f" UserKnownHostsFile {folder / 'known_hosts'}\n IdentitiesOnly yes\n BatchMode yes\n"
        f" ControlMaster auto\n ControlPath {control}\n ControlPersist 10m\n"
        " ServerAliveInterval 2\n ServerAliveCountMax 10\n ConnectTimeout 5\n"
    )
    needed = sorted({sys.base_prefix, sys.prefix, str(_CHECKOUT), *_extra_paths()})
    boot = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
    boot += ["--mount-proc", "sh", "-c", _BOOT, "boot", str(folder), *needed]
    with (folder / "sshd.log").open("w") as log:
        process = subprocess.Popen(
            boot, stdout=log, stderr=log, env={**os.environ, "SSHD": _which("sshd") or ""}
        )
    try:
        inside = until_blocking(lambda: _child(process))
        _ip(f"link add {_LINK} type veth peer name eth0 netns {inside}")
        _ip(f"addr add {HERE}/30 dev {_LINK}")
        _ip(f"link set {_LINK} up")
        for command in (f"addr add {THERE}/30 dev eth0", "link set eth0 up"):
            subprocess.run(["nsenter", "-t", str(inside), "-n", "ip", *command.split()], check=True)
        host = RemoteHost(folder, inside)
        try:
            until_blocking(lambda: process.poll() is not None or _answers(host))
            assert process.poll() is None
        except AssertionError:
            raise AssertionError((folder / "sshd.log").read_text()) from None
        yield host
    finally:
        leave = ["ssh", "-F", str(folder / "ssh_config"), "-O", "exit", ALIAS]
        subprocess.run(leave, capture_output=True, check=False)
        process.send_signal(signal.SIGKILL)  # and with it all that runs there
        process.wait()
        subprocess.run(["ip", "link", "del", _LINK], capture_output=True, check=False)


def _extra_paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _child(process: subprocess.Popen[bytes]) -> int | None:
    """The first process inside."""
    assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0]) if children else None


def _ip(command: str) -> None:
    subprocess.run(["ip", *shlex.split(command)], check=True)


def _answers(host: RemoteHost) -> bool:
    argv = ["ssh", "-F", str(host.ssh_config), ALIAS, "true"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
