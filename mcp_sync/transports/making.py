"""Making: something that takes several steps is made on a thread of its own, by a deadline, or not at all.

Whoever wants it waits no longer than the deadline, and may be interrupted. Whatever was made by then is unmade by the
thread that made it; the interpreter's exit waits for that.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.dispatch import start_thread
from ..engine.lifetimes import close_at_exit
from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError

log = logging.getLogger("mcp_sync")

R = TypeVar("R")

GRACE_SECONDS = 0.05
"""How long after the deadline the thread may still say, better than we can, what it was waiting for."""
UNDO_SECONDS = 0.5
"""How long an error waits for what was made by then to be unmade; after that it goes on without anybody waiting."""
INTERRUPTED_SECONDS = 0.5
"""How long the step under way may take when nobody wants the result any more."""


class Making(Generic[R]):
    """Something that is being made.

    Threads: one, ``name``. ``result`` blocks until it is made, at most its deadline.
    Locks: ``_lock``, held for a few instructions.

    Args:
        name: What the thread is called.
        work: Makes it, step by step: calls ``check`` between them, and tells by ``otherwise`` how each is undone.
        unmake: Is given the whole that nobody wants.
        hurry: Is called with a deadline when nobody wants it any more: the step under way has until then.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Making[R]], R],
        unmake: Callable[[R], object],
        hurry: Callable[[Deadline], object],
    ) -> None:
        self._name = name
        self._work = work
        self._unmake = unmake
        self._hurry = hurry
        self._undo: list[Callable[[], object]] = []
        self._known = interrupts.Event()
        self._over = interrupts.Event()
        self._lock = threading.Lock()  # guards _results, _error, _unwanted
        self._results: list[R] = []
        self._error: BaseException | None = None
        self._unwanted = False

    def otherwise(self, undo: Callable[[], object]) -> None:
        """Call this if one of the next steps fails; the last first."""
        self._undo.append(undo)

    def check(self) -> None:
        """Raise if nobody wants it any more."""
        if self._unwanted:
            raise MCPConnectionError("it is not wanted any more", details={"phase": "closed"}, may_have_run=False)

    def result(self, deadline: Deadline, what: Callable[[], str]) -> R:
        """Return it.

        Args:
            deadline: For all steps.
            what: Says what it is, for messages.

        Raises:
            MCPError: It cannot be made.
            MCPTimeoutError: Not by the deadline.
        """
        done = close_at_exit(self)
        try:
            try:
                start_thread(self._name, self._run, done)
            except RuntimeError:  # the interpreter is shutting down, or there can be no more threads
                self._run(done)
            self._known.wait(deadline.remaining + GRACE_SECONDS)
            if self._error is not None:
                self._over.wait(deadline.sooner(UNDO_SECONDS).remaining)
            return self._take(deadline, what)
        except BaseException:
            self._abandon(Deadline(INTERRUPTED_SECONDS))
            raise

    def _take(self, deadline: Deadline, what: Callable[[], str]) -> R:
        with self._lock:
            results, self._results = self._results, []
            error = self._error
        try:
            if error is not None:
                raise error
            if results:
                return results[0]
        finally:
            del error  # its traceback refers to this frame
        raise MCPTimeoutError(
            f"{what()} was not ready within {deadline.limit:g} s",
            details={"phase": "connect", "limit": deadline.limit},
            may_have_run=False,
        )

    # -- on its thread ------------------------------------------------------------------------------------------------

    def _run(self, done: Callable[[], object]) -> None:
        try:
            self._make()
            if self._error is not None:  # no more in its except clause, or all that fails now would seem its fault
                self._known.set()
                self._undo_all()
        finally:
            self._known.set()
            self._over.set()
            done()

    def _make(self) -> None:
        try:
            whole = self._work(self)
        except BaseException as error:
            self._error = error
            return
        with self._lock:
            unwanted = self._unwanted
            if not unwanted:
                self._results.append(whole)
        if unwanted:
            self._unmake(whole)

    def _undo_all(self) -> None:
        for undo in reversed(self._undo):
            try:
                undo()
            except MCPError as error:
                log.warning("after a failure: %s", error)
            except Exception:  # the others have to be done all the same
                log.exception("after a failure, something could not be undone")

    # -- when nobody wants it -----------------------------------------------------------------------------------------

    def _abandon(self, deadline: Deadline) -> None:
        with self._lock:
            self._unwanted = True
            results, self._results = self._results, []
        for whole in results:
            self._unmake(whole)
        if not self._known.is_set():  # else it is being unmade, which must not be hurried
            self._hurry(deadline)

    @property
    def over(self) -> bool:
        """Whether nothing is being made any more."""
        return self._over.is_set()

    def hang_up(self, deadline: Deadline) -> None:
        """At exit: make no more steps."""
        with self._lock:
            self._unwanted = True
        if not self._known.is_set():
            self._hurry(deadline.sooner(deadline.remaining / 2))

    def close(self, deadline: Deadline) -> None:
        """At exit: wait until it is made, or unmade."""
        self._over.wait(deadline.remaining)
