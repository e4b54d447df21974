"""What a test may leave behind: nothing. Threads, children, descriptors and thread exceptions are counted.

`tests/conftest.py` puts every test between `take()` and `leaks_since()`. A clean test pays for two snapshots, some
hundred microseconds, and never waits. Detached grandchildren (a child's child in a session of its own) are not seen.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PATIENCE = 2.0  # seconds for whatever is just ending
PAUSE = 0.01  # seconds between two looks

# The library's only process-wide thread retires by itself when it has been idle. pytest-timeout has one per test.
ALLOWED_THREADS = ("mcp-deadlines",)
ALLOWED_THREAD_PREFIXES = ("pytest_timeout",)


@dataclass(frozen=True)
class Snapshot:
    """All that lives in this process at one moment."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    descriptors: frozenset[tuple[int, str]]  # with the target: a number is soon used again


def take() -> Snapshot:
    """Look around."""
    return Snapshot(_threads(), _children(), _descriptors())


def leaks_since(before: Snapshot, patience: float | None = None) -> list[str]:
    """What is there now, was not there before, and does not go within `patience` seconds: one line each."""
    if not (found := _compare(before, take())):
        return []
    deadline = time.monotonic() + (PATIENCE if patience is None else patience)
    gc.collect()  # objects in reference cycles close what they hold; filterwarnings reports them
    while (found := _compare(before, take())) and time.monotonic() < deadline:
        time.sleep(PAUSE)
    if found:
        gc.collect()
        found = _compare(before, take())
    return found


@contextmanager
def uncaught_in_threads() -> Iterator[list[str]]:
    """Collect the exceptions that end a thread."""
    found: list[str] = []

    def record(failure: threading.ExceptHookArgs) -> None:
        if failure.exc_type is not SystemExit:  # which ends a thread politely
            name = failure.thread.name if failure.thread else "?"
            lines = traceback.format_exception(failure.exc_type, failure.exc_value, failure.exc_traceback)
            found.append(f"exception in thread {name}:\n{''.join(lines)}")

    previous, threading.excepthook = threading.excepthook, record
    try:
        yield found
    finally:
        threading.excepthook = previous


def _compare(before: Snapshot, after: Snapshot) -> list[str]:
    found = [f"thread {thread.name}" for thread in after.threads - before.threads]
    found += [f"child process {_describe(pid)}" for pid in after.children - before.children]
    found += [f"descriptor {number} -> {target}" for number, target in after.descriptors - before.descriptors]
    return sorted(found)


def _threads() -> frozenset[threading.Thread]:
    return frozenset(thread for thread in threading.enumerate() if not _is_allowed(thread.name))


def _is_allowed(name: str) -> bool:
    return name in ALLOWED_THREADS or name.startswith(ALLOWED_THREAD_PREFIXES)


def _children() -> frozenset[int]:
    """Our children, those that have ended but were not waited for included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # we have none at all, so there is no need to search
        return frozenset()
    pids = [int(name) for name in _listed("/proc") if name.isdigit()]
    return frozenset(pid for pid in pids if _parent_of(pid) == os.getpid())


def _parent_of(pid: int) -> int | None:
    # pid (name, which may hold spaces and brackets) state parent ...
    after_name = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(after_name[1]) if after_name else None


def _describe(pid: int) -> str:
    command = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
    return f"{pid}: {command or 'ended, but nobody waited for it'}"


def _descriptors() -> frozenset[tuple[int, str]]:
    found = set()
    for name in _listed("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except OSError:  # closed meanwhile, as the one that listed the folder
            pass
    return frozenset(found)


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # no /proc here
        return []


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:  # that process has ended
        return ""
