"""Waitress, and those parts of it that ``hosting.HttpHost`` needs otherwise; the only module that imports it.

::

    hosting.HttpHost -- turn() --> WebServer: accepts, reads, parses, on one thread
                                     | add_task
                                   Tasks -> Workers: Connection.service -> Answer -> the application

What differs from waitress 3.0.2 as it comes, and why:

* **Threads** are those of ``engine.dispatch``: named, joined, started on demand. Their queue is C, not a Condition.
* **No spinning.** While a worker writes, waitress' main thread sees output waiting and polls for room, again and again,
  and fights the worker for the interpreter: 17 to 35 turns for a call of one client. Here it leaves a connection that a
  worker writes to alone, and the worker rings if anything is left: 2 turns.
* **One packet.** The head of a response waits for the first piece of its body.
* **Time.** Waitress cuts who is silent. Here a whole request has to come within a time, however it drips; and who does
  not take a response is cut, too: waitress waits until its socket becomes writable, which it never does.
* **Room.** With too many connections, those go that have been silent longest; without descriptors, accepting pauses.
* **Refusals** (400, 413, 431, 500, 501) are JSON-RPC, as those of our application are, and do not say who serves here.
* A request that is too large hears so before ``100 Continue``, and not after 16 MB.

Waitress has no types, so mypy takes its classes for Any.

Source: RFC 9110, RFC 9112, PEP 3333.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from waitress import wasyncore  # type: ignore[import-untyped]
from waitress.adjustments import Adjustments  # type: ignore[import-untyped]
from waitress.channel import HTTPChannel  # type: ignore[import-untyped]
from waitress.server import TcpWSGIServer  # type: ignore[import-untyped]
from waitress.task import ErrorTask, WSGITask  # type: ignore[import-untyped]

from ..engine.dispatch import Workers
from ..protocol.messages import INTERNAL_ERROR, INVALID_REQUEST, Failure, encode

log = logging.getLogger("mcp_sync")

TURN_SECONDS = 1
"""How long the main thread sleeps at most; waitress counts in whole seconds."""
PAUSE_SECONDS = 0.5
"""How long nobody is let in where no more connections can be had."""
HEAD_BYTES = 1 << 16
MOST_UNSENT = 1 << 20
"""Bytes of a response that wait for the client; then the application waits."""
ONE_PACKET = 1 << 16
"""Up to so many bytes are copied to make one piece of several."""
YOUNG_SECONDS = 1.0
"""A connection that is not older is never made to give way to another."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Answer(WSGITask):  # type: ignore[misc]
    """Runs the application; the head goes out together with the first piece of the body."""

    def write(self, data: bytes) -> None:
        """Write a piece of the response, and the head before the first."""
        if self.wrote_header:
            super().write(data)
            return
        self.channel.gather()
        try:
            super().write(data)
        finally:
            self.channel.let_out()


class Refusal(ErrorTask):  # type: ignore[misc]
    """Answers what never reached the application, or what it failed to answer."""

    def execute(self) -> None:
        """Say in JSON what was wrong."""
        error = self.request.error
        text = error.body
        if error.code == 413:
            text = f"the body has more than {self.channel.adj.max_request_body_size - 1} bytes"
        code = INTERNAL_ERROR if error.code >= 500 else INVALID_REQUEST
        body = encode(Failure(None, code, text))
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class Connection(HTTPChannel):  # type: ignore[misc]
    """One client's connection.

    Locks: waitress' own: ``requests_lock``, and ``outbuf_lock``, in which a worker may wait for the client.
    """

    task_class = Answer
    error_task_class = Refusal
    request: Any
    requests: list[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._began: float | None = None
        self._seen: tuple[float, float] = (0.0, 0.0)
        self._tasks = 0  # under requests_lock, as waitress' own requests
        self._writing = False
        self._gathered: list[bytes] | None = None

    # -- on the main thread -------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> bool:
        """Take in what has come, and note when the request began that is not complete yet."""
        if self.request is None:
            self._began = time.monotonic()
        taken = bool(super().received(data))
        if self.request is None:
            self._began = None
        return taken

    def send_continue(self) -> None:
        """Let the body come, unless it is refused already."""
        if self.request.error is None:
            super().send_continue()

    def writable(self) -> bool:
        """Whether the main thread has anything to write; not while a worker is about to, and the client keeps up."""
        if self._writing and not self.will_close and self.total_outbufs_len < self.adj.outbuf_high_watermark:
            return False
        return bool(super().writable())

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or an answer is not sent yet."""
        return bool(self.requests or self.total_outbufs_len)

    def is_stuck(self, now: float, request_seconds: float, idle_seconds: float) -> bool:
        """Whether it has to be cut; asked again and again.

        Args:
            now: By the monotonic clock.
            request_seconds: How long a request may take to arrive.
            idle_seconds: How long nothing may be received, and nothing that waits be taken.
        """
        if not self.requests and self._began is not None and now - self._began > request_seconds:
            return True
        waits_for_us = self.requests and not self.total_outbufs_len
        active, since = self._seen
        if waits_for_us or active != self.last_activity:  # the latter is by a clock that somebody may set
            self._seen = (self.last_activity, now)
            return False
        return now - since > idle_seconds

    def handle_close(self) -> None:
        """End it. Somewhere above us a lock may be held, so the rest is for ``turn``."""
        super().handle_close()
        self.server.bury(self)

    def clean(self) -> None:
        """Let go of requests that nobody answers any more: what they had brought may be in files."""
        if self.request is not None:
            self.request.close()
            self.request = None
        with self.requests_lock:
            self._forget_requests()

    # -- on a worker --------------------------------------------------------------------------------------------------

    def service(self) -> None:
        """Answer one request."""
        try:
            super().service()
        except BaseException:  # SystemExit, most likely; what else an application raises has been seen to
            log.exception("a request was not answered")
            self.close_when_flushed = True
            self.server.pull_trigger()
        with self.requests_lock:
            self._tasks -= 1
            if self.close_when_flushed or not self.connected:
                self._forget_requests()

    def write_soon(self, data: bytes) -> int:
        """Send data, or keep what the client does not take yet; waits while that is too much.

        Raises:
            ClientDisconnected: Nobody is there any more.
        """
        if self._gathered is not None:
            self._gathered.append(data)
            return len(data)
        self._writing = True
        try:
            return int(super().write_soon(data))
        finally:
            self._writing = False
            if self.total_outbufs_len:
                self.server.pull_trigger()  # after _writing, for until now the main thread has looked away

    def gather(self) -> None:
        """Keep what is written, until ``let_out``."""
        self._gathered = []

    def let_out(self) -> None:
        """Send what was gathered, in one piece if it is not too large to be copied."""
        pieces, self._gathered = self._gathered or [], None
        if len(pieces) > 1 and sum(map(len, pieces)) <= ONE_PACKET:
            pieces = [b"".join(pieces)]
        for piece in pieces:
            self.write_soon(piece)

    def await_worker(self, workers: Workers) -> None:
        """Have a worker answer the first request; ``requests_lock`` is held."""
        self._tasks += 1
        if not workers.offer(self.service):  # we are closing, or there can be no more threads
            self._tasks -= 1
            self.connected = False
            self.will_close = True
            self.server.pull_trigger()

    def _forget_requests(self) -> None:
        if not self._tasks:
            for request in self.requests:
                request.close()
            self.requests = []


class Tasks:
    """What waitress takes for its thread pool."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def add_task(self, connection: Connection) -> None:
        """Have the first request of a connection answered."""
        connection.await_worker(self._workers)


class WebServer(TcpWSGIServer):  # type: ignore[misc]
    """Accepts connections and reads requests, on whichever thread calls ``turn``.

    Threads: ``turn``, ``stop_accepting`` and ``end`` on one and the same; ``pull_trigger`` on any.
    Locks: ``_bell``, held while one byte is written.

    Args:
        app: The WSGI application.
        listener: A socket that listens; the server's from now on.
        workers: Who calls the application.
        threads: How many of them there may be.
        max_body_size: Bytes.
        max_connections: How many there may be.
        request_timeout: Seconds for a whole request to arrive.
        idle_timeout: Seconds of silence, in which nothing is received and nothing that waits is taken.
    """

    channel_class = Connection

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        listener: socket.socket,
        workers: Workers,
        *,
        threads: int,
        max_body_size: int,
        max_connections: int,
        request_timeout: float,
        idle_timeout: float,
    ) -> None:
        settings = Adjustments(
            sockets=[listener],
            threads=threads,
            connection_limit=max_connections + 2,  # waitress counts the listener and the trigger, too
            max_request_body_size=max_body_size + 1,  # the first size that is too large
            max_request_header_size=HEAD_BYTES,
            channel_request_lookahead=1,  # or a client that has gone would be seen only when something is written
            outbuf_high_watermark=MOST_UNSENT,
            asyncore_use_poll=True,  # select cannot do descriptors beyond 1,023
            ident=None,
        )
        self._bell = threading.Lock()  # guards the descriptors of the trigger, which may be somebody else's once closed
        self._ended = False
        self._buried: deque[Connection] = deque()
        self._request_seconds, self._idle_seconds = request_timeout, idle_timeout
        self._look_at = self._pause_until = time.monotonic()
        place = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(
            app, {}, True, listener, dispatcher=Tasks(workers), adj=settings, sockinfo=place, bind_socket=False
        )
        self.next_channel_cleanup = float("inf")  # _look_after does it

    def turn(self) -> None:
        """Wait until something happens, at most a second, and handle it."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + TURN_SECONDS
            self._look_after()
        if len(self._map) >= self.adj.connection_limit:
            self._make_room()
        wasyncore.loop(TURN_SECONDS, self.adj.asyncore_use_poll, self._map, 1)
        self._clean_up()

    @property
    def is_busy(self) -> bool:
        """Whether any request is being answered."""
        return any(connection.is_busy for connection in list(self.active_channels.values()))

    def pull_trigger(self) -> None:
        """Wake the main thread."""
        with self._bell:
            if not self._ended:
                super().pull_trigger()

    def bury(self, connection: Connection) -> None:
        """Take note of a connection that has ended."""
        self._buried.append(connection)

    def stop_accepting(self) -> None:
        """Let nobody in any more, and give the port back."""
        wasyncore.dispatcher.close(self)

    def end(self) -> None:
        """End every connection, and give everything back."""
        for connection in list(self.active_channels.values()):
            connection.handle_close()
        self._clean_up()
        with self._bell:
            self._ended = True
            self.close()

    def disown(self) -> None:
        """In a forked child: give back the copies of descriptors; all else is the parent's, locks included."""
        self._bell = threading.Lock()  # guards as before
        self._ended = True
        for connection in list(self.active_channels.values()):
            wasyncore.dispatcher.close(connection)
        self.close()

    def accept(self) -> Any:
        """Accept a connection, unless there is none, or none can be had."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            log.warning("no more connections can be had: %s", error)
            self._pause_until = time.monotonic() + PAUSE_SECONDS
            return None

    def readable(self) -> bool:
        """Whether somebody may come in."""
        return time.monotonic() >= self._pause_until and bool(super().readable())

    def _clean_up(self) -> None:
        while self._buried:
            self._buried.popleft().clean()

    def _look_after(self) -> None:
        """Cut those who are too slow."""
        now = time.monotonic()
        for connection in list(self.active_channels.values()):
            if connection.is_stuck(now, self._request_seconds, self._idle_seconds):
                connection.handle_close()

    def _make_room(self) -> None:
        old = time.time() - YOUNG_SECONDS
        waiting = [one for one in self.active_channels.values() if not one.is_busy and one.last_activity < old]
        waiting.sort(key=lambda connection: connection.last_activity)
        for connection in waiting[: 1 + len(waiting) // 8]:
            connection.handle_close()
