"""Failover: one conversation with whichever of several endpoints can have it, within the caller's one deadline.

A conversation has a home, and stays where it is as long as it can, for what a server was told lives there. It moves
when the connection is lost, or the endpoint does not work any more, and returns when its home works again. Whoever it
belongs to is told of every move (``Introduction.renewed``, ``Handler.closed``), and tells the new server again.

A single call goes on to the next endpoint when the one before cannot have run it (``may_have_run`` is False), or when
running it twice does no more than running it once (``SAFE_METHODS``, ``Question.repeatable``). Nothing else is ever
asked twice (I10). What can go on gets its share of the time that is left, for each endpoint to come the same; what can
not has all of it, once it is being sent.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from time import monotonic as now
from typing import Any, Generic, TypeVar

from ..deadlines import Deadline
from ..engine.caller import Caller, CallFuture, Handler, Question
from ..engine.connect import Introduction
from ..engine.dispatch import Job
from ..engine.lifetimes import tell_of_forks
from ..exceptions import (
    AllTransportsFailed,
    ForkedClientError,
    JSONRPCError,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MessageTooLarge,
    NoEndpoint,
    SessionExpired,
)
from ..protocol.eras import Era, Stateless
from ..protocol.messages import Notification
from ..protocol.negotiation import Agreement
from .endpoints import Endpoint, Group
from .links import Leaving, Line, Link
from .retry import SAFE_METHODS

log = logging.getLogger("mcp_sync")

R = TypeVar("R")

FINAL = (JSONRPCError, LocalProtocolError, MessageTooLarge, ForkedClientError, SessionExpired)
"""What another endpoint would not mend: the call itself is wrong, or it has been answered."""


def can_go_on(error: MCPError, repeatable: bool) -> bool:
    """Return whether a call that failed so may be tried elsewhere."""
    if error.details.get("phase") == "connect" and not isinstance(error, ForkedClientError):
        return True
    return not isinstance(error, FINAL) and (repeatable or error.may_have_run is False)


class InTurn(Generic[R]):
    """One call, and the endpoints it is tried at, one after the other.

    Args:
        method: What is asked.
        repeatable: Whether it may be asked again though it may have run.
        deadline: For all of it.

    Attributes:
        causes: By the name of an endpoint, why it could not.
    """

    def __init__(self, method: str, repeatable: bool, deadline: Deadline) -> None:
        self._method = method
        self._repeatable = repeatable
        self._deadline = deadline
        self._ran = False
        self.causes: dict[str, MCPError] = {}

    def go(self, lines: Iterable[Line], attempt: Callable[[Line, Deadline], R]) -> R:
        """Return what the first attempt returns that does not fail.

        Args:
            lines: Where to try, best first.
            attempt: Given a line, and by when to have connected and, if it may be repeated, to have the answer.

        Raises:
            AllTransportsFailed: None could.
            MCPError: As the attempt that cannot be repeated raised it; or the only one.
        """
        left = [line for line in lines if line.endpoint.name not in self.causes]
        while left:
            line, *left = left
            if self._deadline.expired and self.causes:
                self.causes[line.endpoint.name] = MCPTimeoutError("no time was left to ask it", may_have_run=False)
                continue
            try:
                return attempt(line, share(self._deadline, len(left) + 1))
            except MCPError as error:
                self.failed(line.endpoint, error)
                if not left and len(self.causes) == 1:
                    raise
        raise self.error()

    def failed(self, endpoint: Endpoint, error: MCPError) -> None:
        """Take note of how an attempt failed; raises the error where that is final."""
        error.details.setdefault("endpoint", endpoint.name)
        self.causes[endpoint.name] = error
        self._ran = self._ran or error.may_have_run is not False
        if not can_go_on(error, self._repeatable):
            raise error

    def error(self) -> MCPError:
        """Return the error of all attempts together."""
        if not self.causes:
            return NoEndpoint(f"{self._method}: no endpoint is registered", may_have_run=False)
        return AllTransportsFailed(
            f"{self._method}: none of {len(self.causes)} endpoints could answer",
            self.causes,
            details={
                "method": self._method,
                "elapsed": round(self._deadline.elapsed, 3),
                "limit": self._deadline.limit,
            },
            may_have_run=None if self._ran else False,
        )


def share(deadline: Deadline, endpoints: int) -> Deadline:
    """Return one endpoint's share of what is left of a deadline."""
    return deadline if endpoints == 1 else deadline.sooner(deadline.remaining / endpoints)


class _Telling(threading.local):
    """Whether this thread is telling a new server what the one before was told."""

    now = False


class Failover(Caller):
    """One conversation with whichever of several endpoints can have it.

    Threads: none. Whoever connects blocks, and those who need the new connection wait for it, at most their deadline.
    Locks: ``_lock``, held for a few instructions; those of its lines.

    Args:
        group: The endpoints.
        home: The name of the one to begin with, and to return to; None: whichever comes first.
        introduction: How each conversation begins.
        run: Runs a job that closes a connection elsewhere, or says no.
    """

    def __init__(
        self, group: Group, home: str | None, introduction: Introduction, run: Callable[[Job], bool]
    ) -> None:
        self._group = group
        self._home = home
        self._introduction = introduction
        self._renewed = introduction.renewed
        self._voice_of = _weakly(introduction.handler)
        self._leaving = Leaving(run)
        self._lines: dict[Endpoint, Line] = {}
        self._here: Link | None = None
        self._closing = False
        self._is_forked = False
        self._telling = _Telling()
        self._lock = threading.Lock()  # guards _here, _lines
        tell_of_forks(self)

    def __repr__(self) -> str:
        here = self._here
        return f"<Failover {here.endpoint.name}: {here.caller!r}>" if here is not None else "<Failover nowhere>"

    def begin(self, deadline: Deadline) -> None:
        """Make the first connection; raises as connecting does, and AllTransportsFailed."""
        if self._introduction.opened is not None:
            self._introduction.opened(self)
        InTurn[None]("connect", True, deadline).go(self._order(), self._connect)
        # What is kept for later connections must not keep what the user holds.
        self._introduction = replace(self._introduction, handler=None, opened=None, meanwhile=None)

    def _connect(self, line: Line, share: Deadline) -> None:
        passage = line.endpoint.enter(share.remaining)
        try:
            link = line.connected(share)
        except BaseException as error:
            line.endpoint.failed(passage, error)
            raise
        line.endpoint.lived(passage)
        self._settle(link, share)

    # -- asking -------------------------------------------------------------------------------------------------------

    def call(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        """Ask, and wait for the result; raises as Caller.call says, and AllTransportsFailed."""
        link = self._here
        if link is None or link.version != self._group.version or link.caller.must_connect or self._leaving.waiting:
            return self._call_in_turn(question, deadline)
        # By far the most frequent: the conversation is where it should be. What follows is what the manager costs.
        health = link.health
        passage = health.epoch
        if passage & 1:  # not usable
            return self._call_in_turn(question, deadline)
        patience = deadline
        if (question.repeatable or question.method in SAFE_METHODS) and len(self._group) > 1:
            patience = share(deadline, len(self._group))
        began = now()
        try:
            result = link.caller.call(question, patience)
        except MCPError as error:
            link.endpoint.failed(passage, error)
            return self._call_in_turn(question, deadline, (link.endpoint, error))
        except BaseException as error:  # Ctrl-C too: the next one may try
            link.endpoint.failed(passage, error)
            raise
        change = health.succeeded(passage, now() - began)
        if change is not None:
            link.endpoint.changed(change)
        return result

    def _call_in_turn(
        self, question: Question[Any], deadline: Deadline, before: tuple[Endpoint, MCPError] | None = None
    ) -> dict[str, Any]:
        repeatable = question.repeatable or question.method in SAFE_METHODS
        turn: InTurn[dict[str, Any]] = InTurn(question.method, repeatable, deadline)

        def attempt(line: Line, share: Deadline) -> dict[str, Any]:
            patience = share if repeatable else deadline
            return self._on(line, share, deadline, lambda link: link.caller.call(question, patience))

        try:
            if before is not None:
                turn.failed(*before)
                if len(self._group) == 1 or self._closing:
                    raise before[1]
            return turn.go(self._order(), attempt)
        finally:
            del before  # an error's traceback refers to this frame, which must not refer back to the error
            self._leaving.sweep()

    def submit(self, question: Question[R], deadline: Deadline) -> CallFuture[R]:
        """Ask, and return a future; once sent it is tried nowhere else, for a reader must not wait."""

        def attempt(line: Line, share: Deadline) -> CallFuture[R]:
            passage = line.endpoint.enter(deadline.remaining)
            try:
                link = self._link(line, share, deadline)
                return self._submit_on(link, passage, question, deadline)
            except BaseException as error:
                line.endpoint.failed(passage, error)
                raise

        turn: InTurn[CallFuture[R]] = InTurn(question.method, False, deadline)
        return turn.go(self._order(), attempt)

    def _submit_on(self, link: Link, passage: int, question: Question[R], deadline: Deadline) -> CallFuture[R]:
        began = now()

        def over(future: Future[R]) -> None:
            _count(link, passage, future, now() - began)
            if question.open_ended:
                link.listening.pop()

        if question.open_ended:
            question = self._listening(link, passage, question)
            link.listening.append(question.method)
        try:
            future = link.caller.submit(question, deadline)
        except BaseException:
            if question.open_ended:
                link.listening.pop()
            raise
        Future.add_done_callback(future, over)  # at once, on whatever thread ends the call; not on the lane
        return future

    def _listening(self, link: Link, passage: int, question: Question[R]) -> Question[R]:
        """An answer that may take for ever: what is pushed shows life, and a move ends it with an error."""
        on_push, then = question.on_push, question.then

        def push(notification: Notification) -> None:
            link.endpoint.lived(passage)
            if on_push is not None:
                on_push(notification)

        def ended(future: CallFuture[R]) -> None:
            if then is not None:
                then(self._broken_off(future, link) if link is not self._here and not self._closing else future)

        return replace(question, on_push=push, then=ended)

    def _broken_off(self, future: CallFuture[R], link: Link) -> CallFuture[R]:
        """Return a future that says that the conversation has moved, and not that we have closed the connection."""
        told: CallFuture[R] = CallFuture(replace(future.question, then=None), self)
        told.settle(None, _lost(link, self._here))
        return told

    def withdraw(self, future: CallFuture[Any]) -> bool:
        """Nothing of its own is ever under way."""
        return False

    def notify(self, method: str, params: Mapping[str, Any] | None, deadline: Deadline) -> None:
        """Say something that has no answer; elsewhere only if for sure nothing of it was said."""

        def attempt(line: Line, share: Deadline) -> None:
            self._on(line, share, deadline, lambda link: link.caller.notify(method, params, deadline))

        InTurn[None](method, False, deadline).go(self._order(), attempt)

    def _on(self, line: Line, share: Deadline, deadline: Deadline, act: Callable[[Link], R]) -> R:
        passage = line.endpoint.enter(deadline.remaining)
        try:
            link = self._link(line, share, deadline)
            began = now()
            result = act(link)
        except BaseException as error:
            line.endpoint.failed(passage, error)
            raise
        line.endpoint.succeeded(passage, now() - began)
        return result

    def _link(self, line: Line, share: Deadline, deadline: Deadline) -> Link:
        self._check_open()
        link = line.connected(share)
        self._settle(link, deadline)
        return link

    # -- where it is --------------------------------------------------------------------------------------------------

    def _order(self) -> list[Line]:
        """Return the lines in the order in which to try them: home, where it is now, the others."""
        self._check_open()
        here = self._here
        if self._telling.now and here is not None:
            return [here.line]
        order = self._group.order(self._home)
        front = self._group.front(self._home)
        if here is not None and here.endpoint.health.usable and here.endpoint in order and not here.caller.over:
            first = [endpoint for endpoint in order[:1] if endpoint is front]
            order = list(dict.fromkeys([*first, here.endpoint, *order]))
        return [self._line(endpoint) for endpoint in order]

    def _line(self, endpoint: Endpoint) -> Line:
        with self._lock:
            self._check_open()  # or it would be closed by nobody
            line = self._lines.get(endpoint)
            if line is None:
                later = replace(self._introduction, handler=None, renewed=self._tell_again, joined=None)
                line = self._lines[endpoint] = Line(endpoint, later, self._voice_of, self._leaving)
            return line

    def _forget_gone(self) -> None:
        """Let go of the lines to endpoints that were unregistered, but for the one where the conversation still is."""
        with self._lock:
            here = self._here.endpoint if self._here is not None else None
            gone = [endpoint for endpoint in self._lines if endpoint.gone and endpoint is not here]
            links = [self._lines.pop(endpoint).link for endpoint in gone]
        for link in links:
            if link is not None:
                link.line.drop(link)

    def _settle(self, link: Link, deadline: Deadline) -> None:
        """Move to where this link leads, if it is where the conversation should be, or can be."""
        version = self._group.version
        front = self._group.front(self._home)
        here = self._here
        if link is not here and not self._telling.now and self._should_move(here, link, front):
            self._move(link, deadline)
        if self._here is link and (front is None or link.endpoint is front or not front.health.usable):
            link.version = version
        self._forget_gone()

    def _should_move(self, here: Link | None, link: Link, front: Endpoint | None) -> bool:
        if here is None or here.line is link.line or link.endpoint is front:
            return True
        return here.caller.over or here.endpoint.gone or not here.endpoint.health.usable

    def _move(self, link: Link, deadline: Deadline) -> None:
        with self._lock:
            before = self._here
            if before is link:
                return
            self._here = link
        if before is None:
            return
        old_era = before.caller.agreement.era
        if isinstance(old_era, Stateless) and old_era.version == link.caller.agreement.era.version:
            link.caller.dress(old_era)  # with the log level that was asked for
        before.voice.leave(_lost(before, link))
        before.line.drop(before)
        self._group.tell(
            "session_lost",
            {"endpoint": before.endpoint.name, "moved_to": link.endpoint.name, "group": self._group.name},
        )
        self._tell_again(deadline)

    def _tell_again(self, deadline: Deadline) -> None:
        """Have the new server told what the one before was told; by the thread that has found it."""
        if self._renewed is None or self._closing or self._telling.now:
            return
        self._telling.now = True
        try:
            self._renewed(deadline)
        except MCPError as error:
            log.warning("%s: after a move, the server could not be told all: %s", self.name, error)
        finally:
            self._telling.now = False

    def _check_open(self) -> None:
        if self._is_forked:
            text = f"the connection to {self.name} belongs to the process that this one was forked from"
            raise ForkedClientError(f"{text}; connect again in the child", may_have_run=False)
        if self._closing:
            text = f"the connection to {self.name} is closed"
            raise MCPConnectionError(text, details={"phase": "closed"}, may_have_run=False)

    @property
    def endpoint(self) -> str | None:
        """The name of the endpoint where the conversation is."""
        return self._here.endpoint.name if self._here is not None else None

    # -- as the connection is -----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Whom it asks, for people."""
        return self._here.caller.name if self._here is not None else (self._home or self._group.name)

    @property
    def agreement(self) -> Agreement:
        """What was negotiated with the endpoint where it is."""
        return self._here.caller.agreement  # type: ignore[union-attr]  # it has begun; asked for with every call

    @property
    def over(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._closing or self._is_forked

    @property
    def counters(self) -> dict[str, int]:
        """What has happened so far, on all connections."""
        total = self._leaving.counters
        for link in [line.link for line in self._all_lines()]:
            if link is not None:
                total.update(link.caller.counters)
        return dict(total)

    def dress(self, era: Era) -> None:
        """Let requests be dressed by this era from now on."""
        self._there.dress(era)

    def run(self, job: Job) -> bool:
        """Run application code on a thread of its own."""
        return self._there.run(job)

    def post(self, job: Job) -> None:
        """Run application code on the lane."""
        self._there.post(job)

    def explain(self) -> dict[str, Any]:
        """Return what may explain a silence or an end."""
        return self._there.explain()

    @property
    def _there(self) -> Caller:
        assert self._here is not None, "it has begun"
        return self._here.caller

    # -- the end ------------------------------------------------------------------------------------------------------

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end it, and wait for nothing."""
        self._closing = True
        for line in self._all_lines():
            line.hang_up(deadline)

    def close(self, deadline: Deadline) -> None:
        """End it, and every connection it has. Idempotent."""
        self._closing = True
        if self._is_forked:
            return
        for line in self._all_lines():
            line.close(deadline)
        self._leaving.close(deadline)

    def _all_lines(self) -> list[Line]:
        with self._lock:
            return list(self._lines.values())

    def forked(self) -> None:
        """In a forked child: the connections are the parent's, and none is made in their place."""
        self._is_forked = True
        self._lock = threading.Lock()  # guards as before
        self._leaving.forked()
        for line in self._lines.values():
            line.forked()


def _weakly(handler: Handler | None) -> Callable[[], Handler | None]:
    return weakref.ref(handler) if handler is not None else lambda: None


def _lost(link: Link, here: Link | None) -> SessionExpired:
    where = f"; the conversation goes on with {here.endpoint.name}" if here is not None and here is not link else ""
    return SessionExpired(
        f"the conversation with {link.endpoint.name} is lost, and what the server was told there{where}",
        details={"endpoint": link.endpoint.name, "moved_to": here.endpoint.name if here is not None else None},
        may_have_run=False,
    )


def _count(link: Link, passage: int, future: Future[Any], seconds: float) -> None:
    """Take note of how a future has ended; that of CallFuture converts the result, which may take its time."""
    error = None if future.cancelled() else Future.exception(future, 0)
    if future.cancelled():
        link.endpoint.health.nothing_found(passage)
    elif error is not None:
        link.endpoint.failed(passage, error)
    else:
        link.endpoint.succeeded(passage, seconds)
