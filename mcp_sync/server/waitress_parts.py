"""Waitress, and those parts of it that ``hosting.HttpHost`` needs otherwise; the only module that imports it.

::

    hosting.HttpHost -- turn() --> WebServer: accepts, reads, parses, on one thread
                                     | add_task
                                   Tasks -> Workers: Connection.service -> Answer -> the application

What differs from waitress 3.0.2 as it comes, and why:

* **Threads** are those of ``engine.dispatch``: named, joined, started on demand. Their queue is C, not a Condition.
* **Turns.** Waitress asks every connection in every turn what it waits for, tells the system all of it anew, is woken
  by every worker that is done, and polls for room while one writes: 17 to 35 turns for a call of one client. Here the
  system knows what each waits for (epoll), and hears of changes only; a worker wakes the main thread only when its
  client has not taken all: 1 turn, whose cost does not grow with the number of connections.
* **Writing.** A worker writes to the socket first, and only what the client does not take is copied into buffers.
* **Another thread** than the worker may write a response, and end it while the worker is still with the application
  (``hosts.Reply``); then the connection goes on without that worker, and so that hanging calls keep no clients out, as
  many more workers may come.
* **Streams** do not end their connection.
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
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from waitress import wasyncore  # type: ignore[import-untyped]
from waitress.adjustments import Adjustments  # type: ignore[import-untyped]
from waitress.buffers import OverflowableBuffer, ReadOnlyFileBasedBuffer  # type: ignore[import-untyped]
from waitress.channel import ClientDisconnected, HTTPChannel  # type: ignore[import-untyped]
from waitress.server import TcpWSGIServer  # type: ignore[import-untyped]
from waitress.task import ErrorTask, WSGITask  # type: ignore[import-untyped]
from waitress.utilities import InternalServerError  # type: ignore[import-untyped]

from ..protocol.messages import INTERNAL_ERROR, INVALID_REQUEST, Failure, encode
from .hosting import Staff
from .hosts import REPLY

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
_HAS_EPOLL = hasattr(select, "epoll")
READS = select.POLLIN | select.POLLPRI if hasattr(select, "poll") else 1
_WRITES = select.POLLOUT if hasattr(select, "poll") else 4
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Answer(WSGITask):  # type: ignore[misc]
    """Runs the application; the head goes out together with the first piece of the body.

    It is the ``hosts.Reply`` of its request: while a worker is with the application, another thread may write.
    """

    start_response: Any = None
    close_on_finish = False
    is_over = False

    def get_environment(self) -> dict[str, Any]:
        """Return the environment for the application, with ourselves in it."""
        environ: dict[str, Any] = super().get_environment()
        environ[REPLY] = self
        return environ

    def execute(self) -> None:
        """Run the application, and write what it returns."""
        try:
            super().execute()
        finally:
            self.start_response = self.environ = None  # both refer to us

    def finish(self) -> None:
        """Write what is left of the response, if anything is."""
        if not self.is_over:
            super().finish()

    @property
    def is_behind(self) -> bool:
        """Whether something waits for the client to take it."""
        return bool(self.channel.total_outbufs_len)

    def build_response_header(self) -> bytes:
        """Return the head; unlike waitress, we keep the connection when a body comes in chunks: its end is seen."""
        closes = self.close_on_finish or self.request.headers.get("CONNECTION", "").lower() == "close"
        head = bytes(super().build_response_header())
        if self.chunked_response and not closes:
            self.close_on_finish = False
            head = head.replace(b"\r\nConnection: close\r\n", b"\r\n", 1)
        return head

    def tell(self, data: bytes) -> None:
        """Write a piece of the response; as the Reply."""
        self.write(data)

    def end(self) -> None:
        """End the response, though a worker is still with the application; its connection goes on without it."""
        try:
            self.finish()
        except (ClientDisconnected, OSError):
            self.close_on_finish = True  # nobody is there any more
        self.is_over = True
        self.channel.part_with_worker(self)

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

    close_on_finish = False
    is_over = False

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
    current_outbuf_count: int
    total_outbufs_len: int
    watched = 0
    """What the main thread waits for; its own, others only look."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._began: float | None = None
        self._seen: tuple[float, float] = (0.0, 0.0)
        self._tasks = 0  # under requests_lock, as waitress' own requests
        self._writing = False
        self._gathered: list[bytes] | None = None

    # -- on the main thread -------------------------------------------------------------------------------------------

    def add_channel(self, map: Any = None) -> None:
        """Have the main thread wait for what comes."""
        super().add_channel(map)
        self.server.enlist(self)

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

    def del_channel(self, map: Any = None) -> None:
        """Forget the descriptor, which may soon be another connection's."""
        self.server.forget(self._fileno)
        super().del_channel(map)

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
        """Answer one request, and have the next one answered."""
        request = self.requests[0]
        task = self.error_task_class(self, request) if request.error else self.task_class(self, request)
        try:
            goes_on = self._served(task, request)
        except BaseException:  # SystemExit, most likely; what else an application raises has been seen to
            log.exception("a request was not answered")
            goes_on = False
        if task.is_over:
            self.server.staff.take_back()
        else:
            self._conclude(request, goes_on)

    def part_with_worker(self, task: Answer) -> None:
        """Go on to the next request, though the worker is still with the application."""
        self.server.staff.lend()
        self._conclude(task.request, not task.close_on_finish)

    def _conclude(self, request: Any, goes_on: bool) -> None:
        """See to what comes after a response."""
        if goes_on:
            self._turn_to_next(request)
        else:
            self.close_when_flushed = True
        with self.requests_lock:
            self._tasks -= 1
            if self.close_when_flushed or not self.connected:
                self._forget_requests()
        self.last_activity = time.time()
        if self.total_outbufs_len or self.close_when_flushed or self.requests or not self.watched & READS:
            self.server.look_at(self)
        elif self.server.is_closing:
            self.server.pull_trigger()

    def _served(self, task: Any, request: Any) -> bool:
        """Have a request answered; False: the connection has to end."""
        try:
            if not self.connected:
                return False
            task.service()
        except ClientDisconnected:
            self.logger.info("Client disconnected while serving %s", request.path)
            return False
        except Exception:
            self.logger.exception("Exception while serving %s", request.path)
            if not task.wrote_header:
                self._refuse(request)
            return False
        return not task.close_on_finish

    def _refuse(self, request: Any) -> None:
        """Say that the application failed."""
        failed = self.parser_class(self.adj)
        failed.error = InternalServerError("The server encountered an unexpected internal server error")
        failed.version = request.version
        try:
            self.error_task_class(self, failed).service()
        except ClientDisconnected:
            pass

    def _turn_to_next(self, request: Any) -> None:
        if len(self.requests) > 1:
            self._flush_outbufs_below_high_watermark()
        if self.current_outbuf_count > 0:
            self.current_outbuf_count = self.adj.outbuf_high_watermark  # the next one gets a buffer of its own
        request.close()
        with self.requests_lock:
            self.requests.pop(0)
            if self.connected and self.requests:
                self.server.add_task(self)
            elif self.connected and self._waits_to_continue():
                self.send_continue()

    def _waits_to_continue(self) -> bool:
        """Whether a request waits for a word that could not be said before the answer to the one before it."""
        request = self.request
        if request is None or self.sent_continue:
            return False
        return bool(request.expect_continue and request.headers_finished)

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
            with self.outbuf_lock:
                self._flush_outbufs_below_high_watermark()
                if not self.connected:
                    raise ClientDisconnected
                self._keep(data, 0 if self.total_outbufs_len else self._sent_at_once(data))
        finally:
            self._writing = False
            if self.total_outbufs_len:
                self.server.look_at(self)  # after _writing, for until now the main thread has looked away
        return len(data)

    def _sent_at_once(self, data: Any) -> int:
        """Return how much of the data the client, or the system for it, takes now."""
        if isinstance(data, ReadOnlyFileBasedBuffer):
            return 0
        self.last_activity = time.time()
        try:
            return int(self.send(data, do_close=False))
        except OSError:
            self.will_close = True
            return 0

    def _keep(self, data: Any, sent: int) -> None:
        """Keep what is not sent."""
        left = len(data) - sent
        if not left:
            return
        is_file = isinstance(data, ReadOnlyFileBasedBuffer)
        if is_file:
            self.outbufs.append(data)
        if is_file or self.current_outbuf_count >= self.adj.outbuf_high_watermark:  # the last one has to be writable
            self.outbufs.append(OverflowableBuffer(self.adj.outbuf_overflow))
            self.current_outbuf_count = 0
        if not is_file:
            self.outbufs[-1].append(data[sent:])
            self.current_outbuf_count += left
        self.total_outbufs_len += left

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Wait until the client has taken so much that more may be kept for it, or has gone; under ``outbuf_lock``."""
        with self.outbuf_lock:
            if self.total_outbufs_len > self.adj.outbuf_high_watermark:
                self._flush_exception(self._flush_some, do_close=False)
            while self.connected and self.total_outbufs_len > self.adj.outbuf_high_watermark:
                self.server.look_at(self)
                self.outbuf_lock.wait()

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

    def await_worker(self, staff: Staff) -> None:
        """Have a worker answer the first request; ``requests_lock`` is held."""
        self._tasks += 1
        if not staff.offer(self.service):  # we are closing, or there can be no more threads
            self._tasks -= 1
            self.connected = False
            self.will_close = True
            self.server.look_at(self)

    def _forget_requests(self) -> None:
        if not self._tasks:
            for request in self.requests:
                request.close()
            self.requests = []


class Tasks:
    """What waitress takes for its thread pool."""

    def __init__(self, staff: Staff) -> None:
        self._staff = staff

    def add_task(self, connection: Connection) -> None:
        """Have the first request of a connection answered."""
        connection.await_worker(self._staff)


class WebServer(TcpWSGIServer):  # type: ignore[misc]
    """Accepts connections and reads requests, on whichever thread calls ``turn``.

    Threads: ``turn``, ``stop_accepting`` and ``end`` on one and the same; ``pull_trigger`` on any.
    Locks: ``_bell``, held while one byte is written.

    Args:
        app: The WSGI application.
        listener: A socket that listens; the server's from now on.
        staff: Who calls the application.
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
        staff: Staff,
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
        self._bell = threading.Lock()  # guards _ended, _rung, and the trigger's descriptors, which may soon be others'
        self._ended = self._rung = self.is_closing = False
        self._poller = _poller()
        self._watched: dict[int, int] = {}
        self._changed: deque[Any] = deque()
        self._buried: deque[Connection] = deque()
        self._request_seconds, self._idle_seconds = request_timeout, idle_timeout
        self._look_at = self._pause_until = time.monotonic()
        place = (listener.family, listener.type, listener.proto, listener.getsockname())
        self.staff = staff
        super().__init__(
            _introduced(app),
            {},
            True,
            listener,
            dispatcher=Tasks(staff),
            adj=settings,
            sockinfo=place,
            bind_socket=False,
        )
        self.next_channel_cleanup = float("inf")  # _look_after does it
        self._changed.append(self.trigger)

    def turn(self) -> None:
        """Wait until something happens, at most a second, and handle it."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + TURN_SECONDS
            self._look_after()
        if len(self._map) >= self.adj.connection_limit:
            self._make_room()
        if self._poller is None:
            wasyncore.loop(TURN_SECONDS, self.adj.asyncore_use_poll, self._map, 1)
        else:
            self._poll(self._poller)
        self._clean_up()

    def _poll(self, poller: Any) -> None:
        self._watch(self)
        while self._changed:
            self._watch(self._changed.popleft())
        events = poller.poll(TURN_SECONDS if _HAS_EPOLL else TURN_SECONDS * 1000)
        self._rung = False  # before the trigger is read: who rings from now on is heard in the next turn
        for number, flags in sorted(events, key=self._is_listener):
            one = self._map.get(number)
            if one is not None:
                wasyncore.readwrite(one, flags)
                self._watch(one)

    def _is_listener(self, event: tuple[int, int]) -> bool:
        """Tell whether somebody comes in: last, for his descriptor may be that of one who has just gone."""
        return bool(event[0] == self._fileno)

    def _watch(self, one: Any) -> None:
        """Wait for what a connection, the listener or the trigger has to be told."""
        number = one._fileno
        if number is None:
            return
        wanted = (READS if one.readable() else 0) | (_WRITES if one.writable() else 0)
        watched = self._watched.get(number, 0)
        if wanted == watched:
            return
        if not wanted:
            self._poller.unregister(number)
        elif watched:
            self._poller.modify(number, wanted)
        else:
            self._poller.register(number, wanted)
        one.watched = self._watched[number] = wanted

    def enlist(self, connection: Connection) -> None:
        """Take note that a connection may have to be told of something else than before."""
        self._changed.append(connection)

    def look_at(self, connection: Connection) -> None:
        """Wake the main thread for a connection."""
        self.enlist(connection)
        self.pull_trigger()

    def forget(self, number: int | None) -> None:
        """Wait for a descriptor no more, which will be closed."""
        if number is not None and self._watched.pop(number, 0) and self._poller is not None:
            self._poller.unregister(number)

    def del_channel(self, map: Any = None) -> None:
        """Forget the listener."""
        self.forget(self._fileno)
        super().del_channel(map)

    @property
    def is_busy(self) -> bool:
        """Whether any request is being answered."""
        return any(connection.is_busy for connection in list(self.active_channels.values()))

    def pull_trigger(self) -> None:
        """Wake the main thread."""
        with self._bell:
            if not self._ended and not self._rung:
                self._rung = True
                super().pull_trigger()

    def bury(self, connection: Connection) -> None:
        """Take note of a connection that has ended."""
        self._buried.append(connection)

    def stop_accepting(self) -> None:
        """Let nobody in any more, and give the port back."""
        self.is_closing = True
        wasyncore.dispatcher.close(self)

    def end(self) -> None:
        """End every connection, and give everything back."""
        for connection in list(self.active_channels.values()):
            connection.handle_close()
        self._clean_up()
        with self._bell:
            self._ended = True
            self.close()
        self._close_poller()

    def _close_poller(self) -> None:
        poller, self._poller = self._poller, None
        if poller is not None and _HAS_EPOLL:
            poller.close()

    def disown(self) -> None:
        """In a forked child: give back the copies of descriptors; all else is the parent's, locks included."""
        self._bell = threading.Lock()  # guards as before
        self._ended = True
        self._close_poller()  # first: whoever unregisters something does so for the parent, too
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


def _poller() -> Any:
    """Return what waits for descriptors that are told once; None: this system has nothing of the kind."""
    if _HAS_EPOLL:
        return select.epoll()
    return select.poll() if hasattr(select, "poll") else None


def _introduced(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Return an application whose Reply knows which function begins it; who gets another is not alone with us."""

    def introduced(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ[REPLY].start_response = start_response
        return app(environ, start_response)

    return introduced
