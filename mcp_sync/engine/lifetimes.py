"""Lifetimes: what has to happen when a process forks, a user forgets to close, or the interpreter exits.

* **Fork.** In the child threads are gone, descriptors are shared, locks may be held by nobody. Everything that owns a
  connection registers here; in the child each is told once, before any other code runs. It gives back its copies of
  descriptors and sends nothing, so the parent's connection is unharmed.
* **Forgotten.** An object that a user held and let go without closing is closed on a thread ``mcp-janitor``, with a
  ResourceWarning.
* **Exit.** What is still open when the interpreter exits is closed, all at once and within EXIT_SECONDS. Daemon threads
  that wait for an answer are not told: they would print tracebacks, or connect again.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Protocol

from ..deadlines import Deadline
from ..exceptions import MCPError
from .dispatch import begin_exit, start_thread_in_finalizer

log = logging.getLogger("mcp_sync")

EXIT_SECONDS = 1.0
"""For closing everything that is open when the interpreter exits."""
FORGOTTEN_SECONDS = 2.0
"""For closing one thing that was forgotten."""


class Forkable(Protocol):
    """Something that has to know that it is in a forked child."""

    def forked(self) -> None:
        """Give back what was inherited. Wait for no lock: one may be held by a thread that does not exist here."""


class Closeable(Protocol):
    """Something that is behind what a user holds."""

    @property
    def over(self) -> bool:
        """Whether it has ended already."""

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end it, and wait for nothing."""

    def close(self, deadline: Deadline) -> None:
        """End it. Idempotent."""


_forkables: list[weakref.ref[Forkable]] = []
"""No WeakSet: Ctrl-C that comes while such a set forgets somebody would be swallowed by the interpreter."""
_sweeping = threading.Lock()  # guards the removal of those who are no more from _forkables
_swept_at = 64
_open: dict[int, Closeable] = {}


def tell_of_forks(owner: Forkable) -> None:
    """Tell the owner when this process has been forked; it is not kept alive for that."""
    global _swept_at
    _forkables.append(weakref.ref(owner))
    if len(_forkables) > 2 * _swept_at:
        with _sweeping:
            alive = [known for known in _forkables[: 2 * _swept_at] if known() is not None]
            _forkables[: 2 * _swept_at] = alive  # what was added meanwhile comes behind
            _swept_at = max(64, len(_forkables))


def close_when_forgotten(holder: object, behind: Closeable, what: str) -> Callable[[], None]:
    """Close what is behind the holder when the holder is collected, or the interpreter exits.

    Args:
        holder: What the user holds; ``behind`` must not refer to it.
        behind: What to close.
        what: What the user should have closed, for the warning.

    Returns:
        What to call once it has been closed in the proper way.
    """
    key = id(behind)
    _open[key] = behind
    finalizer = weakref.finalize(holder, _forgotten, key, what)
    finalizer.atexit = False  # _at_exit shares one deadline among all

    def done() -> None:
        finalizer.detach()
        _open.pop(key, None)

    return done


def close_at_exit(behind: Closeable) -> Callable[[], None]:
    """Close it when the interpreter exits; returns what to call once that is somebody else's business."""
    _open[id(behind)] = behind

    def done() -> None:
        _open.pop(id(behind), None)

    return done


def _forgotten(key: int, what: str) -> None:
    behind = _open.get(key)
    if behind is None:
        return
    over = behind.over
    # Never here: the collector may have interrupted code that holds the very locks that closing needs.
    start_thread_in_finalizer("mcp-janitor", _close_forgotten, key, behind)
    if not over:  # last: the filters may make an error of it
        warnings.warn(f"{what} was never closed; use it in a with statement, or call close()", ResourceWarning, 2)


def _close_forgotten(key: int, behind: Closeable) -> None:
    _close_quietly(behind, Deadline(FORGOTTEN_SECONDS))
    _open.pop(key, None)  # not before: the interpreter may exit meanwhile, and then it is for _at_exit to close


def _at_exit() -> None:
    begin_exit()
    whole = Deadline(EXIT_SECONDS)
    for behind in list(_open.values()):
        behind.hang_up(whole)
    while still_open := list(_open.items()):
        for key, behind in still_open:
            _close_quietly(behind, whole)
            _open.pop(key, None)


def _close_quietly(behind: Closeable, deadline: Deadline) -> None:
    try:
        behind.close(deadline)
    except MCPError:
        pass  # nobody is left who could do anything about it


def _after_fork_in_child() -> None:
    global _sweeping
    _sweeping = threading.Lock()  # guards as before
    owners = {id(owner): owner for known in _forkables if (owner := known()) is not None}.values()
    _forkables.clear()  # before they are told: whoever lives on registers anew, for a fork of this fork
    for owner in owners:
        try:
            owner.forked()
        except Exception:  # the others have to be told all the same
            log.exception("%r did not take the fork well", owner)
    _open.clear()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
