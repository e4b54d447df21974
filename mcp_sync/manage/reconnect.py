"""Reconnecting: a Caller that outlives its connections: it dials again when the last one has ended, or is forgotten.

Nothing is reset and nothing reopened: a new connection, with a negotiation of its own, takes the place of the old one.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.caller import Caller, CallFuture, Handler, Incoming, Question
from ..engine.dispatch import Job
from ..engine.interrupts import let_go
from ..engine.lifetimes import tell_of_forks
from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError, ServerError, SessionExpired
from ..policies import Reconnect
from ..protocol.eras import Era, Stateless
from ..protocol.messages import Notification
from ..protocol.negotiation import Agreement
from .retry import SAFE_METHODS

log = logging.getLogger("mcp_sync")

R = TypeVar("R")

LONGEST_INTERVAL = 30.0
"""Seconds that no pause between two attempts to reconnect exceeds."""
CLOSE_SECONDS = 5.0
"""How long closing a connection may take that another has replaced."""
CLOSE_LEAST_SECONDS = 0.2
"""With less time than that left to a call, closing such a connection is left to the next one."""

Dial = Callable[[Handler | None, str, Callable[[Caller], object], Deadline], Caller]
"""Connects and negotiates: given the handler, the version that the other side spoke the last time, whom to give the
connection as soon as there is something to close, and a deadline."""


class Ear(Handler):
    """The Handler of one of several connections: it passes on what is said there, until another takes its place.

    It holds the application's handler weakly, as a Peer does; whoever has the connection holds the ear.
    """

    def __init__(self, handler: Handler | None) -> None:
        self._handler = weakref.ref(handler) if handler is not None else None
        self._told = False

    def offers(self, method: str) -> bool:
        """Whether the application has anything to say to it."""
        target = self._target()
        return target is not None and target.offers(method)

    def request(self, incoming: Incoming) -> dict[str, Any] | None:
        """Answer."""
        target = self._target()
        if target is None:
            raise MCPConnectionError("nobody is there any more")
        return target.request(incoming)

    def notification(self, notification: Notification) -> None:
        """Take note."""
        target = self._target()
        if target is not None:
            target.notification(notification)

    def closed(self, error: MCPError) -> None:
        """Tell, on the lane, that what was subscribed to is lost, though calls may go on elsewhere; once."""
        target, told, self._told = self._target(), self._told, True
        if target is not None and not told:
            target.closed(error)

    def _target(self) -> Handler | None:
        return self._handler() if self._handler is not None else None


class _Telling(threading.local):
    """Whether this thread is telling a new connection what the one before was told."""

    now = False


class Reconnecting(Caller):
    """A Caller that outlives its connections.

    A call that finds the connection ended dials again. One that finds that the server has forgotten the session
    (``SessionExpired``) renews it, once for all who find the same; it is repeated only if its method is safe.

    Threads: none. Whoever dials blocks, and those who need the new connection wait for it, at most their deadline.
    Locks: ``_renewing`` is held while dialling, always acquired with the deadline; ``_lock`` for a few instructions.

    Args:
        handler: What answers the other side; held weakly.
        dial: Makes a connection.
        policy: How often to try.
        renewed: Is called, with a deadline, when a new connection has taken the place of another.
        deadline: For the first connection.
        ended: Is called, with a deadline, last of all when it is closed.
    """

    def __init__(
        self,
        handler: Handler | None,
        dial: Dial,
        policy: Reconnect,
        renewed: Callable[[Deadline], object] | None,
        deadline: Deadline,
        ended: Callable[[Deadline], object] = lambda deadline: None,
    ) -> None:
        self._handler = weakref.ref(handler) if handler is not None else None
        self._dial = dial
        self._policy = policy
        self._renewed = renewed
        self._telling = _Telling()
        self._past: Counter[str] = Counter()
        self._retired: list[tuple[Caller, Ear]] = []
        self._going: list[tuple[Caller, Ear]] = []
        self._ear = Ear(handler)
        self._closing = interrupts.Event()
        self._renew_locks()
        self._ended = ended
        self._opening: Caller | None = None
        self._caller = dial(self._ear, "", self._note_opening, deadline)
        tell_of_forks(self)

    def _renew_locks(self) -> None:
        self._renewing = threading.RLock()  # guards the making of a new connection, so that there is one
        self._lock = threading.Lock()  # guards _caller, _ear, _retired, _going, _past

    def __repr__(self) -> str:
        return f"<Reconnecting {self._caller!r}>"

    # -- asking -------------------------------------------------------------------------------------------------------

    def call(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        """Ask, and wait for the result; raises as Caller.call says, and SessionExpired where a repeat is not safe.

        It may have been the last call on a connection that was replaced meanwhile: then that one is closed.
        """
        try:
            result = self._ask(question, deadline)
        except Exception:
            self._close_retired(deadline)
            raise
        if self._retired:
            self._close_retired(deadline)
        return result

    def _ask(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        caller = self._living(deadline)
        try:
            return caller.call(question, deadline)
        except SessionExpired as expired:
            if self._telling.now:
                raise
            self._renew(caller, deadline, expired)
            unsent = expired.details.get("phase") == "send"  # ended by ourselves: the server has never seen the call
            if not (unsent or question.repeatable or question.method in SAFE_METHODS):
                raise
        return self._caller.call(question, deadline)

    def submit(self, question: Question[R], deadline: Deadline) -> CallFuture[R]:
        """Ask, and return a future; an expired session is renewed by the next call."""
        return self._living(deadline).submit(question, deadline)

    def notify(self, method: str, params: Mapping[str, Any] | None, deadline: Deadline) -> None:
        """Say something that has no answer; raises as Caller.notify says."""
        caller = self._living(deadline)
        try:
            caller.notify(method, params, deadline)
        except SessionExpired as expired:
            if not self._telling.now:
                self._renew(caller, deadline, expired)
            raise

    def _living(self, deadline: Deadline) -> Caller:
        """Return the connection, a new one where the last has ended."""
        caller = self._caller
        if caller.over and self._policy.attempts and not self._closing.is_set() and not self._telling.now:
            self._renew(caller, deadline, None)
        return self._caller

    # -- a new connection for an old one ------------------------------------------------------------------------------

    def _renew(self, stale: Caller, deadline: Deadline, why: MCPError | None) -> None:
        try:
            if not self._renewing.acquire(timeout=deadline.remaining):
                raise MCPTimeoutError(f"{self.name}: another thread is still reconnecting", may_have_run=False)
            try:
                if self._caller is not stale or self._closing.is_set():
                    return
                self._replace(stale, deadline, why)
            finally:
                self._renewing.release()
        except BaseException:
            let_go(self._renewing)
            raise
        self._tell_again(deadline)

    def _replace(self, stale: Caller, deadline: Deadline, why: MCPError | None) -> None:
        ear = Ear(self._handler() if self._handler is not None else None)
        fresh = self._dial_again(ear, stale.agreement.era.version, deadline)
        old_era = stale.agreement.era
        if isinstance(old_era, Stateless) and old_era.version == fresh.agreement.era.version:
            fresh.dress(old_era)  # with the log level that was asked for
        with self._lock:
            old_ear, self._ear = self._ear, ear
            self._caller = fresh
            self._retired.append((stale, old_ear))  # what the server asks there is still heard
        if self._closing.is_set():
            fresh.close(Deadline(CLOSE_SECONDS))
        lost = why or SessionExpired("the connection has ended, or the server has forgotten it", may_have_run=False)
        stale.post(lambda: old_ear.closed(lost))  # unless it has been told already
        self._close_retired(deadline)

    def _dial_again(self, ear: Ear, version: str, deadline: Deadline) -> Caller:
        pause = self._policy.interval
        for attempt in range(max(1, self._policy.attempts)):
            try:
                return self._dial(ear, version, self._note_opening, deadline)
            except (MCPConnectionError, ServerError):  # a proxy says 503 for a server that is being started
                if attempt + 1 >= self._policy.attempts or pause >= deadline.remaining:
                    raise
            if self._closing.wait(pause):
                break
            pause = min(pause * 2, LONGEST_INTERVAL)
        raise MCPConnectionError(f"the connection to {self.name} is closed", details={"phase": "closed"})

    def _note_opening(self, caller: Caller) -> None:
        self._opening = caller
        if self._closing.is_set():
            caller.hang_up(Deadline(CLOSE_SECONDS))

    def _close_retired(self, deadline: Deadline) -> None:
        """Close connections that were replaced, once the calls that are still under way there are over."""
        if self._retired and deadline.remaining >= CLOSE_LEAST_SECONDS:
            self._let_go_of(lambda caller: not caller.counters["pending"], deadline.sooner(CLOSE_SECONDS))

    def _let_go_of(self, ready: Callable[[Caller], bool], deadline: Deadline) -> None:
        """Close those that are ready, each by one thread; what they count is in the sum all the while."""
        with self._lock:
            going = [pair for pair in self._retired if ready(pair[0])]
            self._retired = [pair for pair in self._retired if pair not in going]
            self._going += going
        for pair in going:
            caller, _ = pair
            try:
                caller.close(deadline)
            finally:
                with self._lock:
                    self._going.remove(pair)
                    self._past.update(caller.counters)

    def _tell_again(self, deadline: Deadline) -> None:
        if self._renewed is None or self._closing.is_set():
            return
        self._telling.now = True
        try:
            self._renewed(deadline)
        except MCPError as error:
            log.warning("%s: after reconnecting, the server could not be told all: %s", self.name, error)
        finally:
            self._telling.now = False

    def is_on(self, caller: Caller) -> bool:
        """Tell whether this is its connection now."""
        return self._caller is caller

    # -- as the connection is -----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Whom it asks, for people."""
        return self._caller.name

    @property
    def agreement(self) -> Agreement:
        """What was negotiated the last time."""
        return self._caller.agreement

    @property
    def over(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._closing.is_set() or (self._caller.over and not self._policy.attempts)

    @property
    def must_connect(self) -> bool:
        """Whether the next question has to connect first."""
        return self._caller.over

    def ready(self, deadline: Deadline) -> None:
        """Connect, where the connection is lost; raises as connecting does."""
        self._living(deadline)

    @property
    def counters(self) -> dict[str, int]:
        """What has happened so far, on all connections."""
        with self._lock:
            total = Counter(self._past)
            callers = [self._caller, *(caller for caller, _ in (*self._retired, *self._going))]
            for caller in callers:
                for name, number in caller.counters.items():
                    total[name] += number
        return dict(total)

    def dress(self, era: Era) -> None:
        """Let requests be dressed by this era from now on."""
        self._caller.dress(era)

    def run(self, job: Job) -> bool:
        """Run application code on a thread of its own."""
        return self._caller.run(job)

    def post(self, job: Job) -> None:
        """Run application code on the lane."""
        self._caller.post(job)

    def explain(self) -> dict[str, Any]:
        """Return what may explain a silence or an end."""
        return self._caller.explain()

    # -- the end ------------------------------------------------------------------------------------------------------

    def renew(self, deadline: Deadline) -> None:
        """Have a new connection take the place of this one, whatever its state; raises as connecting does."""
        self._renew(self._caller, deadline, SessionExpired("the connection was renewed", may_have_run=False))

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end it, and wait for nothing."""
        self._closing.set()
        for caller in {self._opening, self._caller} - {None}:
            caller.hang_up(deadline)  # type: ignore[union-attr]

    def close(self, deadline: Deadline) -> None:
        """End it. Idempotent."""
        self._closing.set()
        for caller in {self._opening, self._caller} - {None}:
            caller.close(deadline)  # type: ignore[union-attr]
        self._let_go_of(lambda caller: True, deadline.sooner(CLOSE_SECONDS))
        self._ended(deadline)

    def forked(self) -> None:
        """In a forked child: the connection is the parent's, and none is made in its place."""
        self._renew_locks()
        self._closing = interrupts.Event()
        self._closing.set()
