"""Runs a command, and ends whatever it leaves behind: a broken library may start what nobody ends.

Called as ``cage.py seconds command...``. Exits as the command does, or with OVER after so many seconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

OVER = 124
ADOPT = 36
"""PR_SET_CHILD_SUBREAPER (prctl(2)): orphans become our children, however they got away. Linux only."""


class Over(Exception):
    """The seconds have passed."""


def main(seconds: int, command: list[str]) -> int:
    """Run it; return its exit status."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(ADOPT, 1, 0, 0, 0)
    signal.signal(signal.SIGALRM, _give_up)
    child = subprocess.Popen(command, start_new_session=True)
    signal.alarm(seconds)
    try:
        return _reap_until(child.pid)
    except Over:
        return OVER
    finally:
        signal.alarm(0)
        child.returncode = 0  # Popen need not look for it
        _end_all(child.pid)


def _give_up(number: int, frame: object) -> None:
    raise Over


def _reap_until(pid: int) -> int:
    # Orphans too, and at once: who looks whether a process is gone takes a zombie for one that lives.
    while True:
        found, status = os.waitpid(-1, 0)
        if found == pid:
            return abs(os.waitstatus_to_exitcode(status))


def _end_all(group: int) -> None:
    _kill(os.killpg, group)
    while children := _children():
        for pid in children:
            _kill(os.kill, pid)
        for pid in children:
            os.waitpid(pid, 0)


def _kill(kill: object, number: int) -> None:
    try:
        kill(number, signal.SIGKILL)  # type: ignore[operator]
    except OSError:
        pass  # gone already


def _children() -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []  # no Linux, no orphans


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
