"""Peer: a Session driven over a Channel, usable from many threads.

The Session decides, under the Peer's lock; everything that follows is done outside it. Whoever takes a call out of the
Session resolves its future: the reader with the answer, the caller at its deadline, the reaper for those who do not
wait, ``cancel()``, ``close()``.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ..deadlines import Deadline
from ..exceptions import (
    ForkedClientError,
    JSONRPCError,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MessageTooLarge,
    RemoteProtocolError,
)
from ..observe import Called, Disconnected, Finished, Ignored
from ..policies import Limits
from ..protocol import session as effects
from ..protocol.eras import Era
from ..protocol.messages import (
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    Batch,
    Failure,
    Message,
    Notification,
    Request,
    RequestId,
    Result,
    encode,
)
from ..protocol.negotiation import Agreement
from ..protocol.session import Session
from . import interrupts
from .backlog import Backlog
from .caller import Caller, CallFuture, Handler, Incoming, Question
from .channel import Channel, as_end, last_words
from .dispatch import Crew, Job, Lane, exiting
from .interrupts import let_go
from .lifetimes import tell_of_forks
from .tickets import AnyTicket, FutureTicket, Ticket

log = logging.getLogger("mcp_sync")

R = TypeVar("R")

FLUSH_SECONDS = 2.0
"""How long the lane tries to send what the reader had to say."""
OUTBOX_BYTES = 8 << 20
"""How much the reader may have to say before the connection is given up."""
VERDICT_SECONDS = 1.0
"""How long a caller whose write failed waits for the reader to say why the connection ended."""


_ENDED_BY = {"timeout": "MCPTimeoutError", "cancelled": "CancelledError", "error": "MCPError"}
"""The name of the error, by the Session's word for a call that ended without an answer."""


class Peer(Caller):
    """One conversation. It is also the Sink of its channel.

    Threads: none of its own; its lane and crew start theirs on demand. ``call`` blocks for an answer, ``submit`` and
    ``notify`` while writing, ``close`` for threads to end; each at most until its deadline.
    Locks: ``_lock`` is held for a few instructions, and nothing is called under it. ``_flushing`` is held while what is
    in the outbox is written, always acquired with the deadline, and before the channel's own.

    Args:
        channel: The connection, not yet started.
        handler: What answers the other side; held weakly, it belongs to what the user holds.
        limits: How much may wait.
        session: The bookkeeping; None makes that of a client.
    """

    def __init__(
        self, channel: Channel, handler: Handler | None, limits: Limits, session: Session[Any] | None = None
    ) -> None:
        self._name = channel.name
        self._agreement = Agreement(Session[Any]().era)
        self.lane = channel.lane
        self._channel = channel
        self._handler = weakref.ref(handler) if handler is not None else None
        self._feed = channel.feed
        self._crew = Crew(f"mcp-{channel.threads}-request", limits.callbacks)
        # guards _session, _serving, _outbox, _outbox_bytes, _in_hand, _flush_posted, _end
        self._lock = threading.Lock()
        self._session: Session[AnyTicket] = session or Session()
        self._serving: dict[RequestId, Incoming] = {}
        self._outbox: deque[tuple[Message, int]] = deque()
        self._outlet = Lane(f"mcp-{channel.threads}-outbox")
        self._outbox_bytes = 0
        self._flushing = threading.RLock()  # guards the order of the outbox while it is written; an RLock, for let_go
        self._in_hand = False
        self._flush_posted = False
        self._end: MCPError | None = None
        tell_of_forks(self)

    def __repr__(self) -> str:
        state = "closed" if self._end else f"{self._session.era.version or 'opening'}, {self._session.pending} pending"
        return f"<Peer {self.name} {state}>"

    @property
    def name(self) -> str:
        """Whom it asks, for people."""
        return self._name

    @property
    def agreement(self) -> Agreement:
        """What was negotiated."""
        return self._agreement

    # -- asking -------------------------------------------------------------------------------------------------------

    def call(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        """Ask, and wait for the result; raises as Caller.call says."""
        ticket = Ticket(question)
        stuck: MCPTimeoutError | None = None
        try:
            self._enter(question, ticket)
            if question.on_progress is not None and self.lane.is_current:
                ticket.nested = Backlog()
                self._channel.expect(ticket.request_id)
            self._say(ticket, deadline, self._channel.send)
            in_time = self._wait(ticket, deadline)
        except MCPTimeoutError as error:
            in_time, stuck = False, error
        except MCPError:
            self._leave(ticket, "error")
            raise
        except BaseException:  # Ctrl-C too: whoever leaves must not be answered any more
            if not self._leave(ticket, "cancelled", "the caller left"):
                self._close_books(ticket)
            raise
        try:
            if not in_time:
                self._stop_waiting(ticket, deadline, stuck)
            if ticket.progress_posted:
                self._await_callbacks(deadline)
            return ticket.raw()
        except KeyboardInterrupt:  # between giving up and having done so
            self._close_books(ticket)
            raise
        finally:
            del ticket, stuck  # an error's traceback refers to this frame, which must not refer back to the error

    def submit(self, question: Question[R], deadline: Deadline) -> CallFuture[R]:
        """Ask, and return a future that is resolved by the deadline in any case."""
        ticket = FutureTicket(question, self)
        try:
            self._enter(question, ticket)
        except MCPError:
            raise
        except BaseException:
            self._close_books(ticket)
            raise
        try:
            if not question.open_ended:
                ticket.expire(deadline, lambda: self._expire(ticket, deadline))
            self._say(ticket, deadline, partial(self._channel.submit, open_ended=question.open_ended))
        except MCPTimeoutError as stuck:
            if self._leave(ticket, "timeout", "" if stuck.may_have_run is False else "timed out"):
                ticket.settle(None, self._timeout_error(ticket, deadline, stuck))
        except MCPError as error:
            if self._leave(ticket, "error"):
                ticket.settle(None, error)
        except BaseException:  # Ctrl-C: nobody will have the future
            ticket.cancel()
            raise
        return ticket

    def notify(self, method: str, params: Mapping[str, Any] | None, deadline: Deadline) -> None:
        """Say something that has no answer; raises as Channel.send says."""
        with self._lock:
            self._check_open(method)
            notification = self._session.tell(method, params)
        try:
            self._flush_first(deadline)
            self._channel.send(notification, deadline)
        except MCPError as error:
            known = {**self._details(method, "send", deadline), **error.details}
            raise error.about(f"{method} to {self.name}", may_have_run=error.may_have_run, **known) from error

    def run(self, job: Job) -> bool:
        """Run application code on a thread of its own; False: too many run already."""
        return self._crew.start(job)

    def agree(self, agreement: Agreement) -> None:
        """Take note of what was negotiated."""
        self._agreement = agreement
        self.dress(agreement.era)

    def dress(self, era: Era) -> None:
        """Let requests be dressed by this era from now on."""
        with self._lock:
            self._session.era = era
        self._agreement = replace(self._agreement, era=era)

    @property
    def over(self) -> bool:
        """Whether the conversation has ended, or is about to: the reader may still be finding out why."""
        return self._end is not None or self._channel.ending

    @property
    def counters(self) -> dict[str, int]:
        """What has happened so far, with ``pending``; consistent in itself."""
        with self._lock:
            return {**self._session.counters.as_dict(), "pending": self._session.pending}

    def explain(self) -> dict[str, Any]:
        """Return what may explain a silence or an end, for the details of an error."""
        return self._channel.explain()

    # -- Owner of its tickets -----------------------------------------------------------------------------------------

    def withdraw(self, future: CallFuture[Any]) -> bool:
        """Take a call back and tell the other side soon; False: it is over."""
        return self._leave(future, "cancelled", "cancelled by the caller")

    def post(self, job: Job) -> None:
        """Run application code on the lane."""
        self.lane.post(job)

    # -- the life of a call -------------------------------------------------------------------------------------------

    def _enter(self, question: Question[Any], ticket: AnyTicket) -> None:
        with self._lock:
            self._check_open(question.method)
            request = self._session.ask(
                question.method, question.params, ticket, progress=question.on_progress is not None
            )
            ticket.request, ticket.request_id = request, request.id

    def _check_open(self, method: str) -> None:
        if self._end is not None:
            raise self._end.about(method, may_have_run=False, method=method)

    def _forked_error(self) -> ForkedClientError:
        return ForkedClientError(
            f"the connection to {self.name} belongs to the process that this one was forked from; "
            "connect again in the child",
            may_have_run=False,
        )

    def _say(self, ticket: AnyTicket, deadline: Deadline, carry: Callable[[Request, Deadline], None]) -> None:
        request, ticket.request = ticket.request, None
        assert request is not None
        if self._feed.watched:
            self._feed.emit(Called(self.name, request.method, request.id))
        try:
            if self._outbox or self._in_hand:
                self._flush_first(deadline)
            carry(request, deadline)
        except MCPTimeoutError:
            raise
        except MCPConnectionError as error:
            # The keeper knows why the connection ended, and is about to say so to every call.
            ticket.unsent = error.may_have_run is False
            if ticket.wait(min(VERDICT_SECONDS, deadline.remaining)):
                return
            raise self._about_call(error, ticket, "send", deadline) from error
        except MCPError as error:
            raise self._about_call(error, ticket, "send", deadline) from error

    def _wait(self, ticket: Ticket, deadline: Deadline) -> bool:
        if ticket.nested is None:
            return ticket.over or self._channel.wait(ticket, deadline)
        # On the lane itself: nobody else could run the progress callback.
        while not ticket.over or not ticket.nested.empty():
            try:
                params = ticket.nested.get(timeout=deadline.remaining)
            except queue.Empty:
                return ticket.over
            if params is None:
                return True
            self._report_progress(ticket, params)
        return True  # it was over before it had anywhere to put its progress

    def _leave(self, ticket: AnyTicket | CallFuture[Any], why: str, reason: str = "") -> bool:
        """Take a call out of the Session; with a reason, the other side is told soon. False: it is over."""
        if ticket.request_id is None:
            return False
        with self._lock:
            if self._session.give_up(ticket.request_id, why) is None:
                return False
            notice = self._session.cancel_notice(ticket.request_id, ticket.question.method, reason) if reason else None
        if notice is not None and not self._channel.abandon(ticket.request_id):
            self._post_out(notice)
        self._report(ticket, _ENDED_BY[why])
        return True

    def _close_books(self, ticket: AnyTicket) -> None:
        """See to a call that Ctrl-C came to between entering or leaving the Session and being known there or here."""
        with self._lock:
            self._session.close_books(ticket)

    def _stop_waiting(self, ticket: Ticket, deadline: Deadline, stuck: MCPTimeoutError | None) -> None:
        """Raise the timeout, unless the answer came at the last moment: then it is in the ticket."""
        unsent = stuck is not None and stuck.may_have_run is False
        if self._leave(ticket, "timeout", "" if unsent else "timed out"):
            raise self._timeout_error(ticket, deadline, stuck)
        ticket.wait(VERDICT_SECONDS)  # the reader has it in hand already

    def _expire(self, ticket: FutureTicket[Any], deadline: Deadline) -> None:
        if self._leave(ticket, "timeout", "timed out"):
            ticket.settle(None, self._timeout_error(ticket, deadline))

    def _timeout_error(
        self, ticket: AnyTicket, deadline: Deadline, stuck: MCPTimeoutError | None = None
    ) -> MCPTimeoutError:
        doing = f"while sending: {stuck}" if stuck is not None else "no answer"
        details = self._details(ticket.question.method, "send" if stuck else "wait", deadline)
        return MCPTimeoutError(
            f"{ticket.question.method} to {self.name}: timed out after {deadline.elapsed:.2f} s "
            f"(limit {deadline.limit:g} s), {doing}{last_words(details)}",
            details=details,
            may_have_run=stuck.may_have_run if stuck else None,
        )

    def _about_call(self, error: MCPError, ticket: AnyTicket, phase: str, deadline: Deadline) -> MCPError:
        note = f"{ticket.question.method} to {self.name}"
        known = {**self._details(ticket.question.method, phase, deadline), **error.details}
        return error.about(note, may_have_run=error.may_have_run, **known)

    def _about_answer(self, error: MCPError, ticket: AnyTicket) -> dict[str, Any]:
        unreadable = isinstance(error, (RemoteProtocolError, MessageTooLarge))
        return {
            "transport": self._channel.kind,
            "server": self.name,
            "method": ticket.question.method,
            "phase": "parse" if unreadable else "wait",
            "elapsed": round(time.monotonic() - ticket.started, 3),
        }

    def _about_end(self, end: MCPError, ticket: AnyTicket) -> MCPError:
        elapsed = round(time.monotonic() - ticket.started, 3)
        known: dict[str, Any] = {"transport": self._channel.kind, "server": self.name, "elapsed": elapsed}
        known["phase"] = end.details.get("phase", "wait")
        return end.about(ticket.question.method, may_have_run=None, method=ticket.question.method, **known)

    def _details(self, method: str, phase: str, deadline: Deadline) -> dict[str, Any]:
        return {
            **self._channel.explain(),
            "transport": self._channel.kind,
            "server": self.name,
            "method": method,
            "phase": phase,
            "elapsed": round(deadline.elapsed, 3),
            "limit": deadline.limit,
        }

    def _await_callbacks(self, deadline: Deadline) -> None:
        done = interrupts.Event()
        self.lane.post(done.set)
        done.wait(deadline.remaining)

    def _report(self, ticket: AnyTicket | CallFuture[Any], error: str | None) -> None:
        if self._feed.watched and isinstance(ticket, (Ticket, FutureTicket)):
            seconds = time.monotonic() - ticket.started
            self._feed.emit(Finished(self.name, ticket.question.method, ticket.request_id or 0, seconds, error))

    # -- Sink: what the other side says. On the reader thread: never raises, never waits ------------------------------

    def received(self, message: Message) -> None:
        """Take a message to where it belongs."""
        if type(message) is Batch:
            for item in self._unpack(message):
                self.received(item)
            return
        with self._lock:
            effect = self._session.received(message)
        if type(effect) is effects.Settle:  # by far the most frequent
            self._settle(*effect)
            return
        if type(message) is Notification:
            self._feed.route(message.method, message.as_dict)
        self._follow(effect)

    def lost(self, request_id: RequestId | None, error: MCPError) -> None:
        """Fail the one call whose answer will never come; or tell that what was said unasked has been missed."""
        if request_id is None:
            handler = self._target()
            if handler is not None:
                self.lane.post(lambda: handler.closed(error))
            return
        with self._lock:
            effect = self._session.lost(request_id, error)
        self._follow(effect)

    def closed(self, error: MCPError) -> None:
        """Fail every call that still waits; but not those of threads that end with the interpreter anyway."""
        if exiting():
            return
        with self._lock:
            if self._end is None:
                self._end = as_end(error)
            else:
                error = self._end  # why we closed it says more than that we did
            first = not self._session.closed
            tickets = self._session.close()
            serving = list(self._serving.values())
        for incoming in serving:
            incoming.withdrawn.set()
        for ticket in tickets:
            self._settle(ticket, None, self._about_end(error, ticket))
        if first and (handler := self._target()) is not None:
            self.lane.post(lambda: handler.closed(error))
        if first:
            ours = error.details.get("phase") == "closed"
            self._feed.emit(Disconnected(self.name, None if ours else str(error)))

    def _unpack(self, batch: Batch) -> list[Message]:
        with self._lock:
            return self._session.unpack(batch)

    def _settle(self, ticket: AnyTicket, result: dict[str, Any] | None, error: MCPError | None) -> None:
        if error is not None:
            error.details = {**self._about_answer(error, ticket), **error.details}  # each call has an error of its own
        if self._feed.watched:
            self._report(ticket, type(error).__name__ if error else None)
        ticket.settle(result, error)
        if ticket.nested is not None:
            ticket.nested.put(None)

    def _follow(self, effect: effects.Effect) -> None:
        if isinstance(effect, effects.Progressed):
            self._progress(effect.ticket, effect.params, effect.size)
        elif isinstance(effect, effects.Told):
            self._tell(effect.notification)
        elif isinstance(effect, effects.Pushed):
            if effect.ticket.question.on_push is not None:
                effect.ticket.question.on_push(effect.notification)
            self._tell(effect.notification)
        elif isinstance(effect, effects.Serve):
            self._serve(effect.request)
        elif isinstance(effect, effects.Settle):
            self._settle(effect.ticket, effect.result, effect.error)
        elif isinstance(effect, effects.Reply):
            self._post_out(effect.message)
        elif isinstance(effect, effects.Withdrawn):
            self._withdrawn(effect.request_id)
        else:
            self._feed.emit(Ignored(self.name, effect.why))

    def _progress(self, ticket: AnyTicket, params: dict[str, Any], size: int) -> None:
        if ticket.nested is not None:
            if not ticket.nested.offer(params, size):
                self._count_drop()
        elif self.lane.offer(lambda: self._report_progress(ticket, params), size):
            ticket.progress_posted = True
        else:
            self._count_drop()

    def _report_progress(self, ticket: AnyTicket, params: dict[str, Any]) -> None:
        if ticket.question.on_progress is not None:
            total, message = params.get("total"), params.get("message")
            try:
                ticket.question.on_progress(params["progress"], total, message)
            except Exception:
                log.exception("a progress callback failed")

    def tell_soon(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Say something that has no answer, in its turn and without waiting; too much of it ends the connection."""
        with self._lock:
            notification = self._session.tell(method, params)
        self._post_out(notification)

    def _tell(self, notification: Notification) -> None:
        handler = self._handler
        if handler is None:
            return

        def tell() -> None:
            target = handler()
            if target is not None:
                target.notification(notification)

        if not self.lane.offer(tell, notification.size):
            self._count_drop()

    def _target(self) -> Handler | None:
        return self._handler() if self._handler is not None else None

    def _count_drop(self) -> None:
        with self._lock:
            self._session.counters.dropped_backlog += 1
        self._feed.emit(Ignored(self.name, "a notification beyond the backlog"))

    # -- answering ----------------------------------------------------------------------------------------------------

    def _serve(self, request: Request) -> None:
        incoming = Incoming(request)
        with self._lock:
            self._serving[request.id] = incoming
        handler = self._target()
        if handler is None or not handler.offers(request.method):  # which is not worth a thread
            self._refuse(request, METHOD_NOT_FOUND, f"{request.method:.80} is not offered")
            return
        if not self._crew.start(lambda: self._answer(incoming)):
            with self._lock:
                self._session.counters.requests_refused += 1
            self._refuse(request, INTERNAL_ERROR, "too many requests are being answered already; try again later")

    def _answer(self, incoming: Incoming) -> None:
        request = incoming.request
        handler = self._target()
        if handler is None:
            self._refuse(request, METHOD_NOT_FOUND, f"{request.method:.80} is not offered")
            return
        try:
            result = handler.request(incoming)
        except JSONRPCError as error:
            self._crew.give_place()
            self._refuse(request, error.code, error.message, error.data)
        except BaseException:  # whatever it is, the other side waits for an answer
            log.exception("the callback for %s failed", request.method)
            self._crew.give_place()
            self._refuse(request, INTERNAL_ERROR, f"the callback for {request.method:.80} failed")
        else:
            if result is not None:
                self._crew.give_place()  # first: who has the answer may ask again at once
                self.give(request, result)

    def give(self, request: Request, result: dict[str, Any], deadline: Deadline | None = None) -> None:
        """Answer a request of the other side; unless it was withdrawn, or answered before.

        Args:
            request: The request.
            result: The answer.
            deadline: Until when to wait for the other side to read it; then it is left for the outlet.
        """
        with self._lock:
            answer = self._session.answer(request.id, result) if self._take(request) else None
        if answer is None:
            return
        patience = deadline or Deadline(FLUSH_SECONDS * 5)
        try:
            self._flush_first(patience)
            self._channel.send(answer, patience)
        except (LocalProtocolError, MessageTooLarge) as error:
            log.error("the callback for %s returned what cannot be sent: %s", request.method, error)
            self._post_out(Failure(request.id, INTERNAL_ERROR, f"the callback for {request.method:.80} failed"))
        except MCPTimeoutError as stuck:
            if stuck.may_have_run is False:  # an answer is never dropped; what has begun to be written goes on
                self._post_out(answer)
        except MCPError as error:
            self._feed.emit(Ignored(self.name, f"the answer to {request.method} could not be sent: {error}"))

    def _refuse(self, request: Request, code: int, message: str, data: Any = None) -> None:
        with self._lock:
            failure = self._session.refuse(request.id, code, message, data) if self._take(request) else None
        if failure is not None:
            self._post_out(failure)

    def _take(self, request: Request) -> bool:
        """Take a request out of those that are served; False: it was withdrawn, and its id may be that of another."""
        incoming = self._serving.get(request.id)
        if incoming is None or incoming.request is not request:
            return False
        del self._serving[request.id]
        return True

    def _withdrawn(self, request_id: RequestId) -> None:
        with self._lock:
            incoming = self._serving.pop(request_id, None)
        if incoming is not None:
            incoming.withdrawn.set()

    # -- what has to be said, but not by the reader -------------------------------------------------------------------

    def _post_out(self, message: Message) -> None:
        """Leave a message for the next writer, or the outlet; a reader must not write, nor wait for a callback."""
        message, size = _sayable(message)
        with self._lock:
            if self._end is not None:
                return
            overflow, posted = self._outbox_bytes + size > OUTBOX_BYTES, True
            if overflow:
                self._end = MCPConnectionError(f"{self.name} asks faster than it reads our answers")
            else:
                self._outbox.append((message, size))
                self._outbox_bytes += size
                posted, self._flush_posted = self._flush_posted, True
        if overflow:
            self._outlet.post(lambda: self._channel.close(Deadline(FLUSH_SECONDS)))
        elif not posted:
            self._outlet.post(self._flush_soon)

    def _flush_soon(self) -> None:
        with self._lock:
            self._flush_posted = False
        try:
            self._flush(Deadline(FLUSH_SECONDS))
        except MCPTimeoutError as stuck:
            self._feed.emit(Ignored(self.name, f"could not be sent yet: {stuck}"))
            self._flush_again()
        except MCPError as error:
            self._feed.emit(Ignored(self.name, f"could not be sent: {error}"))

    def _flush_again(self) -> None:
        with self._lock:
            posted, self._flush_posted = self._flush_posted or self._end is not None, True
        if not posted:
            self._outlet.post(self._flush_soon)

    def _flush_first(self, deadline: Deadline) -> None:
        """Send what is in the outbox before something else; of that, nothing is sent if this fails."""
        waiting = self._outbox or self._in_hand
        if not waiting or not self._channel.in_order:  # else what waits would hold up what does not
            return
        try:
            self._flush(deadline)
        except MCPTimeoutError as stuck:
            raise MCPTimeoutError(str(stuck), may_have_run=False) from stuck

    def _flush(self, deadline: Deadline) -> None:
        """Send what is in the outbox, as far as the deadline allows; in its order, whoever sends it."""
        try:
            if not self._flushing.acquire(timeout=deadline.remaining):
                raise MCPTimeoutError("what has to be said before is still being written", may_have_run=False)
            try:
                while self._flush_one(deadline):
                    pass
            finally:
                self._flushing.release()
        except MCPError:
            raise
        except BaseException:  # Ctrl-C
            let_go(self._flushing)
            raise

    def _flush_one(self, deadline: Deadline) -> bool:
        with self._lock:
            if not self._outbox:
                self._in_hand = False
                return False
            message, size = self._outbox.popleft()
            self._outbox_bytes -= size
            self._in_hand = True
        try:
            self._channel.send(message, deadline)
        except MessageTooLarge as error:  # whose message that was, is not here to hear of it
            log.error("%s: %s", self.name, error)
            self._say_less(message)
        except MCPTimeoutError as stuck:
            if stuck.may_have_run is False:
                with self._lock:
                    self._outbox.appendleft((message, size))
                    self._outbox_bytes += size
            raise
        return True

    def _say_less(self, message: Message) -> None:
        if isinstance(message, (Result, Failure)) and message.id is not None:
            less = Failure(message.id, INTERNAL_ERROR, "the answer is too large to be sent")
            if message != less:
                self._post_out(less)

    # -- the end ------------------------------------------------------------------------------------------------------

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end the connection, and wait for nothing."""
        self._channel.hang_up(deadline)

    def close(self, deadline: Deadline) -> None:
        """End the conversation: every call in flight fails, every thread ends. Idempotent, from any thread."""
        if isinstance(self._end, ForkedClientError):
            return
        if exiting():
            self._channel.close(deadline)
            return
        with self._lock:
            if self._end is None:
                self._end = MCPConnectionError(f"the connection to {self.name} was closed", details={"phase": "closed"})
            end = self._end
        self.closed(end)
        self._channel.close(deadline)
        self._crew.close(deadline)
        self._outlet.close(deadline)
        self.lane.close(deadline)
        self._channel.events.close(deadline)

    def forked(self) -> None:
        """In a forked child: fail what was in flight here; nothing can be asked any more."""
        self._lock = threading.Lock()  # guards as before; the old one may be held by a thread that stayed behind
        self._flushing = threading.RLock()  # guards as before, likewise
        self._end = self._forked_error()
        for lane in (self.lane, self._outlet, self._channel.events):
            lane.forked()
        for ticket in self._session.close():
            ticket.reborn()
            ticket.settle(None, self._forked_error())


def _sayable(message: Message) -> tuple[Message, int]:
    """Return a message that can be sent for sure, and its size: a callback's error may hold anything."""
    try:
        size = len(encode(message))
    except LocalProtocolError as error:
        log.error("what a callback raised cannot be sent: %s", error)
        size = OUTBOX_BYTES
    if size <= OUTBOX_BYTES // 8 or not isinstance(message, Failure):
        return message, size
    plain = Failure(message.id, message.code, "the error that the callback raised cannot be sent")
    return plain, len(encode(plain))
