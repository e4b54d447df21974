"""Owners: which process a container belongs to, in its labels; and whether that process is provably dead.

A process is known by its host, the host's boot, its PID namespace, its number and the moment it began: a number alone
is used again. The host is its machine id and its name, so that two containers of one image, or two namespaces with the
same numbers, are never taken for one another. Where nothing can be proved, the owner counts as living: what is left
behind by mistake takes room, what is removed by mistake takes somebody's server.

Source: machine-id(5), which has to be unique; proc(5), ``stat``, field 22; pid_namespaces(7).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

HOST = "mcp-sync.host"
BOOT = "mcp-sync.boot"
SPACE = "mcp-sync.pid-namespace"
PID = "mcp-sync.pid"
BEGAN = "mcp-sync.pid-start"

_MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that has a container.

    Attributes:
        host: The machine's id and name; without an id the name alone.
        boot: The kernel's name of this boot; empty where it has none.
        space: The PID namespace; empty where there are none.
        pid: The process's number.
        began: When the process began, in the kernel's ticks since it booted; empty where that is not to be had.
    """

    host: str
    boot: str
    space: str
    pid: int
    began: str

    def labels(self) -> dict[str, str]:
        """Return the labels that say all this."""
        return {HOST: self.host, BOOT: self.boot, SPACE: self.space, PID: str(self.pid), BEGAN: self.began}


def ourselves() -> Owner:
    """Return this process."""
    pid = os.getpid()
    return Owner(_host(), _read("/proc/sys/kernel/random/boot_id"), _space(), pid, began(pid))


def is_dead(labels: Mapping[str, str], us: Owner) -> bool:
    """Tell whether the owner of a container with these labels is provably dead.

    Args:
        labels: What ``Owner.labels`` gave, perhaps in another process.
        us: This process.
    """
    if labels.get(HOST) != us.host or any(label not in labels for label in (BOOT, SPACE, PID, BEGAN)):
        return False
    if labels[BOOT] != us.boot:
        return "/" in us.host  # a machine with an id of its own is up only once
    if labels[SPACE] != us.space or not labels[PID].isdecimal():
        return False
    return not _lives(int(labels[PID]), labels[BEGAN])


def began(pid: int) -> str:
    """Return when a process began; empty where there is none, or that is not to be had."""
    # pid (name, which may hold blanks and brackets) state ...: the 22nd field is the 20th after the name
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _lives(pid: int, since: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    now = began(pid)
    return not (since and now and since != now)


def _host() -> str:
    name = socket.gethostname()
    machine = next(filter(None, map(_read, _MACHINE_IDS)), "")
    return f"{machine}/{name}" if machine else name


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
