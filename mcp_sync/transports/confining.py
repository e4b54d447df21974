"""Confining: starting a child process that can reach the files it is allowed, and no others; the kernel sees to it.

Landlock restricts a thread and all that it starts, and never lets go. So a thread of its own takes the restriction on,
starts the child, and ends; nothing runs in the child before its program does, and we are as free as before.
"""

from __future__ import annotations

import gc
import glob
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from ..engine.dispatch import start_thread
from ..exceptions import MCPConnectionError
from ..policies import Confinement
from . import landlock

R = TypeVar("R")

SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib*",
    "/etc/ld.so.cache",
    "/etc/ld-musl-*.path",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
)
"""What may be read and executed beside the allowed paths, or no program could start; and our interpreter's prefixes."""


def readable() -> list[str]:
    """Return the paths of the system, and of our interpreter, that a confined process may read and execute."""
    prefixes = (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    wanted = {os.path.realpath(prefix) for prefix in prefixes} - {"/"}  # that would be everything
    return sorted(wanted.union(*(glob.glob(pattern) for pattern in SYSTEM)))


def confined(work: Callable[[], R], confinement: Confinement, name: str) -> R:
    """Return what the work returns, done on a thread whose children can reach nothing but the allowed paths.

    Args:
        work: Starts a process, and does nothing else: what it starts, and what it opens, is restricted.
        confinement: The allowed paths.
        name: What is to be started, for people.

    Raises:
        MCPConnectionError: The kernel cannot do it, or a path is gone.
    """
    _check_kernel(name)
    try:
        rules = landlock.Ruleset()
    except OSError as error:
        raise _refused(name, f"the kernel has Landlock, but does not let us use it ({error.strerror})") from error
    with rules:
        for path in readable():
            _allow(rules.allow_reading, path, name)
        for path in confinement.paths or ():
            _allow(rules.allow_all, path, name)
        return _on_a_thread_of_its_own(lambda: _restricted(rules, work, name), name)


def outside(program: str, paths: Sequence[str] | None) -> str:
    """Return the advice for a program that a confined process may not execute."""
    allowed = ", ".join(paths or ()) or "none"
    return (
        f"{program!r} may not be executed; with restrict_filesystem=True it has to be beneath one of allowed_paths "
        f"({allowed}), or be part of the system or of this interpreter"
    )


def _check_kernel(name: str) -> None:
    if sys.platform != "linux":
        raise _refused(name, f"it takes Landlock, which is Linux's; this is {platform.system() or sys.platform}")
    found = landlock.abi()
    if not found:
        why = "has no Landlock, or it is not switched on (lsm=landlock,... on its command line)"
        raise _refused(name, f"the kernel, Linux {platform.release()}, {why}")
    if found < landlock.NEEDED:
        why = f"has ABI {found} of Landlock, which lets every file be truncated; it takes ABI {landlock.NEEDED}"
        raise _refused(name, f"the kernel, Linux {platform.release()}, {why} (Linux 6.2)")


def _allow(allow: Callable[[str], None], path: str, name: str) -> None:
    try:
        allow(path)
    except OSError as error:
        raise _refused(name, f"the allowed path {path!r} cannot be looked at ({error.strerror})") from error


def _restricted(rules: landlock.Ruleset, work: Callable[[], R], name: str) -> R:
    with _no_collection():
        try:
            rules.restrict_this_thread()
        except OSError as error:
            raise _refused(name, f"the kernel has Landlock, but does not let us use it ({error.strerror})") from error
        return work()


def _on_a_thread_of_its_own(work: Callable[[], R], name: str) -> R:
    results: list[R] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    try:
        thread = start_thread("mcp-confined-start", run)
    except RuntimeError as error:
        raise _refused(name, f"no more threads can be started ({error})") from error
    thread.join()  # it ends as soon as the child runs
    try:
        if errors:
            raise errors[0]
        return results[0]
    finally:
        errors.clear()  # their traceback refers to this frame


def _refused(name: str, why: str) -> MCPConnectionError:
    return MCPConnectionError(
        f"cannot start {name} with restrict_filesystem=True: {why}",
        details={"transport": "stdio", "command": name, "phase": "connect", "landlock_abi": _abi()},
        may_have_run=False,
    )


def _abi() -> int:
    return landlock.abi() if sys.platform == "linux" else 0


# -- the garbage collector ---------------------------------------------------------------------------------------------

_pausing = threading.Lock()  # guards _pauses, _was_on
_pauses = 0
_was_on = False


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the collector from running somebody's finalizer on a restricted thread, for a few milliseconds.

    A thread that such a finalizer starts would inherit the restriction, and serve others with it.
    """
    global _pauses, _was_on
    with _pausing:
        _pauses += 1
        if _pauses == 1:
            _was_on = gc.isenabled()
            gc.disable()
    try:
        yield
    finally:
        with _pausing:
            _pauses -= 1
            if not _pauses and _was_on:
                gc.enable()
