"""Exchange: one request over HTTP, between the thread that answers it and the thread that writes the response.

An answer that comes soon, and before anything else is said, goes as JSON. As soon as something is said meanwhile, or
after a while of silence, the response becomes a stream of events, and the answer its last. So short calls stay plain,
errors have a status, and nobody in between takes a long call for a dead one.

**Whose thread.** Under most hosts only the host's own thread can write, so another one answers. But to hand a call to
another thread, and its answer back, costs twice what a short call costs by itself. Our own host lets any thread write:
there the host's thread answers, and another one comes only when that takes a while::

    host's thread     runs the tool ... says something: writes it ... is done: writes the answer        most calls

    host's thread     runs the tool ................................................... is done         long ones
    a second thread           comes, looks after the client ... writes what is said, comments, the answer

Source: basic/transports (2025-11-25: priming, resumption), basic/transports/streamable-http (2026-07-28).
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.dispatch import Crew, reaper
from ..exceptions import JSONRPCError, LocalProtocolError, MCPError, TooManyRequests
from ..protocol.admission import Refusal, http_status_of
from ..protocol.messages import INTERNAL_ERROR, Failure, Message, Notification, Request, RequestId, encode
from .calls import Link, Withdrawn
from .gate import StartResponse, refuse, respond
from .hosts import Reply, client_gone, reply_of
from .spelling import encode_result
from .streams import POLL_SECONDS, SSE_HEADERS, EventStream, Outbox, event

log = logging.getLogger("mcp_sync")

SAY_SECONDS = 30.0
"""How long what is said waits for a client that does not read."""
SHORT_SECONDS = 0.25
"""A call that takes longer than twice this has somebody beside it who looks after its client."""

Answered: TypeAlias = "tuple[bytes | None, int]"
"""The answer to a request, and its HTTP status where it is not on a stream; None: nobody wants it any more."""

Record: TypeAlias = 'Callable[[bytes, bool], "str | None"]'
"""Keeps an event for a client that comes back for it; returns its id. The flag: it is the last."""


_NO_OUTBOX = Outbox()
"""Of a response that is no stream; over from the beginning, so that nothing stays in it."""
_NO_OUTBOX.leave()


class Exchange(Link):
    """One request over HTTP, and the way back to whoever asked.

    Locks: ``_lock``, held for a few instructions, and while the first event of a stream is kept.

    Args:
        record: Keeps events; None: there is no coming back.
        primes: Whether a stream begins with an event that has nothing but an id (2025-11-25).

    Attributes:
        outbox: What is said, once the response is a stream.
        companion: Who writes as long as the host's thread is with the application; None: the host's thread is not.
    """

    def __init__(self, record: Record | None = None, primes: bool = False) -> None:
        super().__init__()
        self.outbox = _NO_OUTBOX
        self._record = record
        self._primes = primes
        self._lock = threading.Lock()  # guards outbox, _known, _streams, _finished, _answer
        self._known: interrupts.Event | None = None  # most calls need neither this nor an outbox
        self._streams = False
        self._finished = False
        self._answer: tuple[int, bytes] | None = None
        self.companion: Companion | None = None

    # -- the side that answers ----------------------------------------------------------------------------------------

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Say something; waits while the client does not read."""
        self.say(Notification(method, dict(params)))

    def say(self, message: Message, last: bool = False) -> None:
        """Say something on the stream, which the response becomes if it is none yet; nothing after the answer."""
        if not self._finished and self._become_stream():
            self._put(encode(message), last)

    def _put(self, data: bytes, last: bool, drain: Callable[[], object] | None = None) -> None:
        piece = event(data, self._kept(data, last))
        while not self.outbox.put(piece, Deadline(SAY_SECONDS if drain is None else 0.0)):
            if drain is None or self.outbox.over:
                break
            drain()
        if last:
            self.outbox.end()
        elif (companion := self.companion) is not None:  # the host's thread takes it away when it is back
            companion.flush()

    def _kept(self, data: bytes, last: bool) -> str | None:
        """Keep an event; where the store cannot be reached, who is there hears it all the same."""
        if self._record is None:
            return None
        try:
            return self._record(data, last)
        except (MCPError, ValueError) as error:
            log.warning("an event is not kept for a client that may come back: %s", error)
            return None

    def _become_stream(self) -> bool:
        """Make a stream of the response; False: the whole answer was there before."""
        with self._lock:
            if self._answer is not None:
                return False
            if not self._streams:
                self.outbox = Outbox()
                self._streams = True
                if self._record is not None and self._primes:
                    self.outbox.put_now(event(b"", self._kept(b"", last=False)))
            self._tell()
        return True

    def _tell(self) -> None:
        """Let it be known what the response becomes; under the lock."""
        if self._known is not None:
            self._known.set()

    def close_stream(self, retry: float | None) -> None:
        """End the response here; who has an event id can come back for the rest."""
        if self._record is None or not self._primes or self._finished or not self._become_stream():
            return
        self.outbox.put_now(event(b"", self._kept(b"", last=False), retry))
        self.outbox.end()
        self._let_go()

    def _let_go(self) -> None:
        """Have the response ended, though the host's thread is not back."""
        if (companion := self.companion) is not None:
            companion.come()

    def finish(self, data: bytes | None, status: int = 200, drain: Callable[[], object] | None = None) -> None:
        """Give the whole answer; what comes later is dropped.

        Args:
            data: The answer; None: nobody wants it.
            status: Of HTTP, where it is no stream.
            drain: Writes what is in the outbox; None: somebody else does.
        """
        with self._lock:
            if self._finished:
                return
            self._finished = True
            if not self._streams:
                self._answer = (status, data or b"")
            self._tell()
        self._let_go()
        if self._answer is not None:
            return
        if data is None:
            self._kept(b"", last=True)  # who comes back for the rest finds that there is none
            self.outbox.end()
        else:
            self._put(data, True, drain)

    # -- the side that writes -----------------------------------------------------------------------------------------

    @property
    def whole(self) -> tuple[int, bytes] | None:
        """The whole answer, with its status, once it is finished; None: it is the last event of a stream."""
        return self._answer

    def await_answer(self, seconds: float, gone: Callable[[], bool]) -> tuple[int, bytes] | None:
        """Wait for the whole answer; None: it is a stream now, for something was said, or so many seconds passed."""
        with self._lock:
            known = self._known = interrupts.Event()
            if self._streams or self._finished:
                known.set()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not known.wait(min(POLL_SECONDS, left)):
            if gone():
                break
        return None if self._become_stream() else self._answer


@dataclass(frozen=True, slots=True)
class Recipient:
    """Where a response goes.

    Attributes:
        environ: The WSGI environment of the request.
        start_response: As WSGI has it.
        client: Whose share of what can be answered at once the request takes.
        closed: Called when a stream is written no more.
    """

    environ: Mapping[str, Any]
    start_response: StartResponse
    client: str
    closed: Callable[[], object]


class Companion:
    """The response to a request that the host's thread answers itself, as long as it has not returned.

    What is said meanwhile is written at once by whoever says it, while the client keeps up. For all else a second
    thread comes, once, or not at all: it looks after the client, and writes what there is to write from then on. Then
    the host's thread has nothing more to write when it comes back.

    Threads: one of the crew; ``come`` and ``flush`` by any, all else by the host's. ``written`` blocks until the second
    thread has written the response.
    Locks: ``_lock``, held while something is written, which does not wait; ``_calling``, for a few instructions.

    Args:
        crew: Where the second thread comes from.
        exchange: The request.
        recipient: Where the response goes.
        reply: The response.
        heartbeat: Seconds.
        patience: Seconds of silence before the response becomes a stream, once the second thread is there.
    """

    __slots__ = (
        "_called", "_calling", "_crew", "_ended", "_exchange", "_heartbeat", "_is_back", "_lock", "_patience",
        "_recipient", "_reply", "_stream", "_writes",
    )  # fmt: skip

    def __init__(
        self, crew: Crew, exchange: Exchange, recipient: Recipient, reply: Reply, heartbeat: float, patience: float
    ) -> None:
        self._crew, self._exchange, self._recipient, self._reply = crew, exchange, recipient, reply
        self._heartbeat, self._patience = heartbeat, patience
        self._calling = threading.Lock()  # guards _called
        self._called = False
        self._lock = threading.Lock()  # guards _stream, _writes, _is_back, and writing until _writes or _is_back is set
        self._writes = self._is_back = False
        self._stream: EventStream | None = None
        self._ended: interrupts.Event | None = None

    def come(self) -> None:
        """Send for the second thread, unless that has happened; where there can be no more threads, none comes."""
        with self._calling:
            called, self._called = self._called, True
        if not called:
            self._crew.start(self._accompany)

    def flush(self) -> None:
        """Write what is said so far, on the calling thread; if the client does not keep up, the second thread does."""
        with self._lock:
            if self._writes or self._is_back:
                return
            if not self._reply.is_behind:
                self._write_what_there_is(self._begun(client_gone(self._recipient.environ)))
                return
        self.come()

    def _begun(self, gone: Callable[[], bool]) -> EventStream:
        """Return the stream, after it has begun; under the lock, or by whoever writes alone."""
        if self._stream is None:
            self._recipient.start_response("200 OK", list(SSE_HEADERS))
            self._stream = EventStream(self._exchange.outbox, gone, self._heartbeat, self._recipient.closed)
        return self._stream

    def _write_what_there_is(self, stream: EventStream) -> None:
        try:
            if (piece := self._exchange.outbox.take(0.0)) is not None:
                self._reply.tell(piece)
        except Exception as error:  # the host's own, of a client that is gone
            log.debug("a response ends early: %s", error)
            stream.close()

    # -- the second thread --------------------------------------------------------------------------------------------

    def _accompany(self) -> None:
        try:
            self._write()
        except Exception as error:  # as above
            log.debug("a response ends early: %s", error)
        try:
            with self._lock:
                is_alone = self._writes and not self._is_back
            if is_alone:
                self._reply.end()
        finally:
            self._crew.give_place()  # first: who has all of the response may ask again at once
            if self._ended is not None:
                self._ended.set()

    def _write(self) -> None:
        gone = client_gone(self._recipient.environ)
        whole = self._exchange.await_answer(self._patience, gone)
        if not self._may_write():
            return
        if whole is not None:
            for piece in respond(self._recipient.start_response, *whole):
                self._reply.tell(piece)
            return
        stream = self._begun(gone)
        try:
            for piece in stream:
                self._reply.tell(piece)
        finally:
            stream.close()

    def _may_write(self) -> bool:
        with self._lock:
            if not self._is_back:
                self._writes, self._ended = True, interrupts.Event()
            return self._writes

    # -- the host's ---------------------------------------------------------------------------------------------------

    def take_over(self) -> bool:
        """Write from now on; False: the second thread does, and goes on to."""
        with self._lock:
            self._is_back = True
            return not self._writes

    def drain(self) -> None:
        """Write what there is, however long that takes."""
        self._write_what_there_is(self._begun(client_gone(self._recipient.environ)))

    def written(self) -> Iterable[bytes]:
        """Wait until the second thread has written the response; return that nothing is left of it."""
        if self._ended is not None:
            self._ended.wait()
        return ()

    def response(self) -> Iterable[bytes]:
        """Return what is left to be written by the host, once everything is said."""
        whole = self._exchange.whole
        if whole is not None:
            return respond(self._recipient.start_response, *whole)
        return self._begun(client_gone(self._recipient.environ))


class Exchanges:
    """Runs the answering of requests: on the host's threads, or beside them.

    Threads: ``mcp-http-<number>``: one for each request that is being answered; where the host is our own, one for each
    that takes a while, or says something meanwhile.
    Locks: ``_lock``, held for a few instructions.

    Args:
        limit: How many may be answered at once.
        share: How many of them may be one client's.
        heartbeat: Seconds: how soon a client that is gone is noticed.
        max_message_size: Bytes of an answer.
        around: Made anew for each request: a context in which the application runs, such as one that returns the
            database connections of a framework.
    """

    def __init__(
        self,
        limit: int,
        share: int,
        heartbeat: float,
        max_message_size: int,
        around: Callable[[], Any] | None = None,
    ) -> None:
        self._crew = Crew("mcp-http", limit)
        self._limit, self._share = limit, share
        self.heartbeat = heartbeat
        self._short = min(SHORT_SECONDS, heartbeat / 8)
        self._max_message_size = max_message_size
        self._around = around
        self._renew()

    def forked(self) -> None:
        """In a forked child: the threads stayed in the parent."""
        self._crew.forked()
        self._renew()

    def _renew(self) -> None:
        self._lock = threading.Lock()  # guards _running, _count, _drained, _own
        self._running: Counter[str] = Counter()
        self._count = self._own = 0
        self._drained: interrupts.Event | None = None
        self._here: dict[Companion, float] = {}  # since when; of those that the host's threads answer
        self._is_looking = False
        self._place = threading.local()

    def close(self, deadline: Deadline) -> None:
        """Wait for what is being answered, but for the caller; then there are no threads, until the next request."""
        with self._lock:
            drained = self._drained = interrupts.Event()
            self._own = 1 if getattr(self._place, "is_inside", False) else 0
            if self._count <= self._own:
                drained.set()
        drained.wait(deadline.remaining)
        self._crew.close(deadline)
        self._crew.forked()
        with self._lock:
            self._drained = None

    def serve(
        self, exchange: Exchange, answer: Callable[[], Answered], recipient: Recipient
    ) -> Iterable[bytes] | None:
        """Answer, and return the response: the answer, or a stream that ends with it.

        Returns:
            None: too many are being answered, of all clients or of this one.
        """
        reply = reply_of(recipient.environ, recipient.start_response)
        if not self._enter(recipient.client):
            return None
        if reply is not None:
            return self._serve_here(exchange, answer, recipient, reply)
        if not self._run(exchange, answer, recipient.client):
            self._leave(recipient.client)
            return None
        gone = client_gone(recipient.environ)
        whole = exchange.await_answer(self.heartbeat / 2, gone)
        if whole is not None:
            return respond(recipient.start_response, *whole)
        recipient.start_response("200 OK", list(SSE_HEADERS))
        return EventStream(exchange.outbox, gone, self.heartbeat, recipient.closed)

    def _enter(self, client: str) -> bool:
        with self._lock:
            running = self._running[client]
            if self._drained is not None or running >= self._share or self._count >= self._limit:
                return False
            self._running[client] = running + 1
            self._count += 1
            return True

    def _leave(self, client: str) -> None:
        with self._lock:
            self._count -= 1
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]
            if self._drained is not None and self._count <= self._own:
                self._drained.set()

    # -- on a thread of ours ------------------------------------------------------------------------------------------

    def _run(self, exchange: Exchange, answer: Callable[[], Answered], client: str) -> bool:
        """Begin to answer; False: there can be no thread."""
        context = contextvars.copy_context()

        def job() -> None:
            try:
                answered = context.run(answer)
            finally:
                self._leave(client)
                self._crew.give_place()  # first: who has the answer may ask again at once
            exchange.finish(*answered)

        return self._crew.start(job)

    # -- on the host's ------------------------------------------------------------------------------------------------

    def _serve_here(
        self, exchange: Exchange, answer: Callable[[], Answered], recipient: Recipient, reply: Reply
    ) -> Iterable[bytes] | None:
        """Answer on the calling thread; return the response, or what is left of it to write."""
        patience = self.heartbeat / 2 - 2 * self._short
        companion = Companion(self._crew, exchange, recipient, reply, self.heartbeat, patience)
        exchange.companion = companion
        self._here[companion] = time.monotonic()
        try:
            if not self._look_soon():
                return None
            self._place.is_inside = True
            answered = contextvars.copy_context().run(answer)
        finally:
            exchange.companion, self._place.is_inside = None, False
            del self._here[companion]
            self._leave(recipient.client)
        if companion.take_over():
            exchange.finish(*answered, drain=companion.drain)
            return companion.response()
        exchange.finish(*answered)
        return companion.written()

    def _look_soon(self) -> bool:
        """Make sure that somebody looks; False: there can be no more threads."""
        if self._is_looking:
            return True
        self._is_looking = True
        try:
            reaper.at(Deadline(self._short), self._look)
        except TooManyRequests:
            self._is_looking = False
        return self._is_looking

    def _look(self) -> None:
        """Give a companion to every request that is not answered soon."""
        self._is_looking = False  # first: who begins meanwhile is seen below, or looks for himself
        old = time.monotonic() - self._short
        for companion, since in list(self._here.items()):
            if since < old:
                companion.come()
        if self._here:
            self._look_soon()

    # -- both ---------------------------------------------------------------------------------------------------------

    def answered(self, request: Request, answer: Callable[[], dict[str, Any]], stateless: bool) -> Answered:
        """Return the answer to a request as bytes, with its status; whatever goes wrong, there is one.

        Args:
            request: The request.
            answer: Returns its result; raises JSONRPCError, or Withdrawn.
            stateless: The era.
        """
        try:
            with self._around() if self._around is not None else nullcontext():
                result = answer()
            return self._encoded(request.id, result), 200
        except JSONRPCError as error:
            return self._failed(request, error, stateless)
        except Withdrawn:
            return None, 202
        except BaseException:  # whatever it is, somebody waits for an answer
            log.exception("%s could not be answered", request.method)
            return self._failed(request, JSONRPCError(INTERNAL_ERROR, "internal error"), stateless)

    def _failed(self, request: Request, error: JSONRPCError, stateless: bool) -> tuple[bytes, int]:
        status = http_status_of(error.code, stateless)
        try:
            return encode(Failure(request.id, error.code, error.message, error.data)), status
        except LocalProtocolError:
            log.exception("the error of %s cannot be sent", request.method)
            return encode(Failure(request.id, error.code, "the error cannot be sent")), status

    def _encoded(self, request_id: RequestId, result: dict[str, Any]) -> bytes:
        data = encode_result(request_id, result)
        if len(data) > self._max_message_size:
            text = f"the answer has {len(data)} bytes, more than max_message_size, {self._max_message_size}"
            raise JSONRPCError(INTERNAL_ERROR, text)
        return data


def too_busy(start_response: StartResponse, request: Request | None, what: str) -> Iterable[bytes]:
    """Return the response to a request for which there is no room now (RFC 9110, 15.6.4)."""
    request_id = None if request is None else request.id
    return refuse(start_response, Refusal(503, INTERNAL_ERROR, what, None, request_id, (("Retry-After", "1"),)))
