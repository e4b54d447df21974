"""Exchange: one request over HTTP, between the thread that answers it and the thread that writes the response.

An answer that comes soon, and before anything else is said, goes as JSON. As soon as something is said meanwhile, or
after a while of silence, the response becomes a stream of events, and the answer its last. So short calls stay plain,
errors have a status, and nobody in between takes a long call for a dead one.

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
from typing import Any, TypeAlias

from ..deadlines import Deadline
from ..engine.dispatch import Crew
from ..engine.interrupts import await_event
from ..exceptions import JSONRPCError, LocalProtocolError, MCPError
from ..protocol.admission import Refusal, http_status_of
from ..protocol.messages import INTERNAL_ERROR, Failure, Message, Notification, Request, Result, encode
from .calls import Link, Withdrawn
from .gate import StartResponse, refuse, respond
from .streams import POLL_SECONDS, SSE_HEADERS, EventStream, Outbox, event

log = logging.getLogger("mcp_sync")

SAY_SECONDS = 30.0
"""How long what is said waits for a client that does not read."""

Answered: TypeAlias = "tuple[bytes | None, int]"
"""The answer to a request, and its HTTP status where it is not on a stream; None: nobody wants it any more."""

Record: TypeAlias = 'Callable[[bytes, bool], "str | None"]'
"""Keeps an event for a client that comes back for it; returns its id. The flag: it is the last."""


class Exchange(Link):
    """One request over HTTP, and the way back to whoever asked.

    Locks: ``_lock``, held for a few instructions, and while the first event of a stream is kept.

    Args:
        record: Keeps events; None: there is no coming back.
        primes: Whether a stream begins with an event that has nothing but an id (2025-11-25).
    """

    def __init__(self, record: Record | None = None, primes: bool = False) -> None:
        super().__init__()
        self.outbox = Outbox()
        self._record = record
        self._primes = primes
        self._lock = threading.Lock()  # guards _streams, _finished, _answer
        self._known = threading.Event()
        self._streams = False
        self._finished = False
        self._answer: tuple[int, bytes] | None = None

    # -- the side that answers ----------------------------------------------------------------------------------------

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Say something; waits while the client does not read."""
        self.say(Notification(method, dict(params)))

    def say(self, message: Message, last: bool = False) -> None:
        """Say something on the stream, which the response becomes if it is none yet; nothing after the answer."""
        if not self._finished and self._become_stream():
            self._put(encode(message), last)

    def _put(self, data: bytes, last: bool) -> None:
        self.outbox.put(event(data, self._kept(data, last)), Deadline(SAY_SECONDS))
        if last:
            self.outbox.end()

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
                self._streams = True
                if self._record is not None and self._primes:
                    self.outbox.put_now(event(b"", self._kept(b"", last=False)))
        self._known.set()
        return True

    def close_stream(self, retry: float | None) -> None:
        """End the response here; who has an event id can come back for the rest."""
        if self._record is None or not self._primes or self._finished or not self._become_stream():
            return
        self.outbox.put_now(event(b"", self._kept(b"", last=False), retry))
        self.outbox.end()

    def finish(self, data: bytes | None, status: int = 200) -> None:
        """Give the whole answer; None: nobody wants it. What comes later is dropped."""
        with self._lock:
            if self._finished:
                return
            self._finished = True
            if not self._streams:
                self._answer = (status, data or b"")
        self._known.set()
        if self._answer is not None:
            return
        if data is None:
            self._kept(b"", last=True)  # who comes back for the rest finds that there is none
            self.outbox.end()
        else:
            self._put(data, last=True)

    # -- the side that writes -----------------------------------------------------------------------------------------

    def await_answer(self, seconds: float, gone: Callable[[], bool]) -> tuple[int, bytes] | None:
        """Wait for the whole answer; None: it is a stream now, for something was said, or so many seconds passed."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not await_event(self._known, min(POLL_SECONDS, left)):
            if gone():
                break
        return None if self._become_stream() else self._answer


class Exchanges:
    """Runs the answering of requests, beside the host's threads.

    Threads: ``mcp-http-<number>``, one for each request that is being answered.
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
        self._share = share
        self._lock = threading.Lock()  # guards _running
        self._running: Counter[str] = Counter()
        self.heartbeat = heartbeat
        self._max_message_size = max_message_size
        self._around = around

    def forked(self) -> None:
        """In a forked child: the threads stayed in the parent."""
        self._crew.forked()
        self._lock = threading.Lock()  # guards as before
        self._running = Counter()

    def close(self, deadline: Deadline) -> None:
        """Wait for what is being answered; then there are no threads. They come again with the next request."""
        self._crew.close(deadline)
        self._crew.forked()

    def run(self, exchange: Exchange, answer: Callable[[], Answered], client: str) -> bool:
        """Begin to answer; False: too many are being answered, of all clients or of this one."""
        context = contextvars.copy_context()

        def job() -> None:
            try:
                answered = context.run(answer)
            finally:
                self._leave(client)
                self._crew.give_place()  # first: who has the answer may ask again at once
            exchange.finish(*answered)

        if not self._enter(client):
            return False
        if self._crew.start(job):
            return True
        self._leave(client)
        return False

    def _enter(self, client: str) -> bool:
        with self._lock:
            if self._running[client] >= self._share:
                return False
            self._running[client] += 1
            return True

    def _leave(self, client: str) -> None:
        with self._lock:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]

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
            return self._encoded(Result(request.id, result)), 200
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

    def _encoded(self, message: Message) -> bytes:
        data = encode(message)
        if len(data) > self._max_message_size:
            text = f"the answer has {len(data)} bytes, more than max_message_size, {self._max_message_size}"
            raise JSONRPCError(INTERNAL_ERROR, text)
        return data

    def respond(
        self,
        exchange: Exchange,
        gone: Callable[[], bool],
        start_response: StartResponse,
        closed: Callable[[], object],
    ) -> Iterable[bytes]:
        """Return the response: the answer, or a stream that ends with it.

        Args:
            exchange: The request, which is being answered.
            gone: Whether the client has hung up, as far as the host lets us see.
            start_response: As WSGI has it.
            closed: Called when a stream is written no more.
        """
        whole = exchange.await_answer(self.heartbeat / 2, gone)
        if whole is not None:
            return respond(start_response, whole[0], whole[1])
        start_response("200 OK", list(SSE_HEADERS))
        return EventStream(exchange.outbox, gone, self.heartbeat, closed)


def too_busy(start_response: StartResponse, request: Request | None, what: str) -> Iterable[bytes]:
    """Return the response to a request for which there is no room now (RFC 9110, 15.6.4)."""
    request_id = None if request is None else request.id
    return refuse(start_response, Refusal(503, INTERNAL_ERROR, what, None, request_id, (("Retry-After", "1"),)))


