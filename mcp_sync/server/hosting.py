"""Hosting: a web server for a WSGI application, for people without one; what ``Server.run("http")`` uses.

**Why waitress.** One thread accepts, reads and parses, and only whole requests get a worker, so a client that sends
half of one keeps no thread from others. Measured with a small JSON application in one process of 64 threads (Python
3.11, x86-64 Linux, wrk, two processors with much else to do: median of 25 rounds, the best one in brackets):

================================== ================ ================ ================ =======================
what                               waitress 3.0.2   as it is here    cheroot 11.1.2   gunicorn 27.0.1 gthread
================================== ================ ================ ================ =======================
processor time a call, 1 client    262 us (127)     98 us (85)       147 us (116)     225 us (171)
processor time a call, 32 clients  119 us (104)     59 us (53)       192 us (147)     164 us (124)
calls/s, 1 client                  2,311 (4,608)    6,040 (8,576)    4,392 (7,030)    3,162 (4,783)
calls/s, 32 clients                4,881 (8,110)    11,314 (14,487)  4,008 (5,202)    5,135 (6,458)
best p50 / p99, 1 client           0.13 / 4.5 ms    0.09 / 3.1 ms    0.12 / 1.8 ms    0.17 / 2.2 ms
best p50 / p99, 32 clients         3.3 / 14 ms      1.8 / 6.9 ms     4.3 / 30 ms      3.9 / 17 ms
a call beside 300 half requests    p50 0.4 ms       p50 0.4 to 1 ms  none in 15 s     none in 15 s
such a half request is cut         not in 75 s      after 60 s       after 35 s       not in 75 s
a body of two bytes a second       goes on (70 s)   cut after 61 s   goes on (70 s)   goes on (70 s)
50 MB, limit 16 MB: known, chunked 413, 413         413, 413         413, 500         no limit: 200, 200
the same, asking 100-continue      413 after 20 MB  413 at once      413 at once      no limit: 200
memory: idle; more for a stream    16 MB; 10 kB     18 MB; 29 kB     26 MB; 12 kB     20 MB; 31 kB
who has gone is noticed by         the next write   the next write   the second       the next or second
Ctrl-C with 10 streams open        5.1 s            1.6 s            not in 40 s      30 s
================================== ================ ================ ================ =======================

(Where threads start on demand, here and in gunicorn, a stream's memory includes its thread's; waitress and cheroot have
all of them from the beginning. What is said of who has gone is of a stream that looks for nobody, but writes now and
then; the ten streams wrote every 2.5 s.) All four send each piece of a stream when it is written, 0.2 ms later it is
with the client, and none waits for Nagle. gunicorn, moreover, starts processes and takes the signals, so it cannot run
on a thread of somebody's program. Idle connections cost a little: beside 800 silent ones a call takes 0.5 to 1 ms, with
waitress as with us. What differs here from waitress, and why, is in ``waitress_parts``.

There is no TLS and no HTTP/2: for those, put nginx or the like in front.

Source: PEP 3333; RFC 9112.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..deadlines import LONGEST_TIMEOUT, Deadline
from ..engine import interrupts
from ..engine.dispatch import Workers, join, start_thread
from ..engine.lifetimes import close_at_exit, tell_of_forks
from ..policies import number, whole, within

if TYPE_CHECKING:
    from .waitress_parts import WebServer

log = logging.getLogger("mcp_sync")

LISTEN_BACKLOG = 1024
CLOSE_SECONDS = 5.0
"""For closing everything when ``run`` is left."""
PARTING_SECONDS = 1.0
"""For sending what the application has just finished."""
OTHER_DESCRIPTORS = 128
"""How many descriptors are left to everything but connections."""

_seconds = number(0.01, LONGEST_TIMEOUT)


class Staff(Workers):
    """Workers of whom some may be lent: they are with the application, but not with a client any more.

    As many more may come in their place, so that calls that hang, and that no client waits for, keep nobody.
    """

    def lend(self) -> None:
        """Take note that one of them does not count for now."""
        with self._lock:
            self._most += 1
        self.offer(_nothing)  # what waits may begin at once

    def take_back(self) -> None:
        """Take note that it does again."""
        with self._lock:
            self._most -= 1


class HttpHost:
    """Serves a WSGI application over HTTP/1.1.

    Threads: ``mcp-http-<port>`` accepts, reads and parses; up to ``threads`` workers, ``mcp-http-<port>-<n>``, call the
    application, and each stream keeps one of them; as many more come as are kept by calls that no client waits for.
    ``run`` blocks until ``close``; ``close`` until all have ended, at most until its deadline. What runs then is not
    interrupted: it finds the client gone (``hosts.client_gone``).
    Locks: none of its own.

    Args:
        app: The WSGI application.
        host: Where to listen: a name or an address; empty means everywhere.
        port: Where to listen; 0 means any that is free (``url`` tells which).
        threads: How many requests are answered at once, streams included; more wait.
        max_body_size: Bytes; a larger request gets 413.
        max_connections: How many there may be, as far as the process may have descriptors; then those give way that
            have been silent longest. ``ulimit -n`` tells.
        request_timeout: Seconds for a whole request to arrive; who is slower is cut off.
        idle_timeout: Seconds that a client may be silent between two requests, or take nothing of a response.
        on_close: Called first when the host closes, with the time there is: ends what goes on, so that answers can
            still be sent.

    Raises:
        ImportError: The library waitress is missing; it names the extra.
        TypeError: A value has the wrong type.
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        threads: int = 64,
        max_body_size: int = 16 << 20,
        max_connections: int = 1000,
        request_timeout: float = 60.0,
        idle_timeout: float = 60.0,
        on_close: Callable[[Deadline], object] | None = None,
    ) -> None:
        if not callable(app):
            raise TypeError(f"app must be a WSGI application, not {type(app).__name__}")
        self._make = _web_server()
        self._app = app
        self._host, self._port = host, within(0, 65535)("port", port)
        self._options: dict[str, Any] = {
            "threads": whole(1)("threads", threads),
            "max_body_size": whole(0)("max_body_size", max_body_size),
            "max_connections": min(whole(1)("max_connections", max_connections), _most_connections()),
            "request_timeout": _seconds("request_timeout", request_timeout),
            "idle_timeout": _seconds("idle_timeout", idle_timeout),
        }
        self._on_close = on_close
        self._server: WebServer | None = None
        self._main: threading.Thread | None = None
        self._staff = Staff("", 1)
        self._closing = self._ending = False
        self._quiet = interrupts.Event()
        self._over = interrupts.Event()
        self._failure: BaseException | None = None
        self._closed_properly: Callable[[], None] = _nothing

    def __repr__(self) -> str:
        return f"<HttpHost {self.url}{' closed' if self.over else ''}>"

    def __enter__(self) -> HttpHost:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(Deadline(CLOSE_SECONDS))

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens: host and port."""
        return self._host, self._port

    @property
    def url(self) -> str:
        """Where clients connect to, without a path."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    @property
    def over(self) -> bool:
        """Whether nothing is served any more."""
        return self._over.is_set()

    # -- beginning and end --------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until ``close`` is called, or Ctrl-C comes, which closes everything; then it returns.

        Signals are left alone: SIGTERM ends the process, unless the program decides otherwise.

        Raises:
            OSError: Nobody can listen there.
            RuntimeError: It was started before.
        """
        try:
            self.start()
            self._over.wait()
        except KeyboardInterrupt:
            log.info("interrupted; closing %s", self.url)
        finally:
            self.close(Deadline(CLOSE_SECONDS))
        if self._failure is not None:
            raise RuntimeError(f"{self!r} broke down") from self._failure

    def start(self) -> None:
        """Serve from now on, and return.

        Raises:
            OSError: Nobody can listen there.
            RuntimeError: It was started before, or there can be no more threads.
        """
        if self._server is not None or self._closing:
            raise RuntimeError(f"{self!r} was started before")
        listener = self._listener()
        host, self._port = listener.getsockname()[:2]
        self._host = self._host or host
        name = f"mcp-http-{self._port}"
        most = self._options["max_connections"]
        self._staff = Staff(name, self._options["threads"], backlog=2 * most)
        self._server = self._make(self._app, listener, self._staff, **self._options)
        tell_of_forks(self)
        self._closed_properly = close_at_exit(self)
        try:
            self._main = start_thread(name, self._serve, self._server)
        except BaseException:
            self._server.end()
            self._over.set()
            raise
        log.info("listening at %s", self.url)

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end every connection, and wait for nothing."""
        self._closing = self._ending = True
        if self._server is not None:
            self._server.pull_trigger()

    def close(self, deadline: Deadline) -> None:
        """Let nobody in any more, end every connection, give the port back. Idempotent, from any thread.

        Args:
            deadline: Until when to wait for the application; a thread that it keeps longer is logged by name.
        """
        self._closing = True
        if self._server is not None and not self.over:
            self._server.pull_trigger()
            self._part(deadline)
        self.hang_up(deadline)
        join(self._main, deadline)
        self._staff.close(deadline)
        self._closed_properly()
        self._over.set()

    def forked(self) -> None:
        """In a forked child: it is the parent's; give back the copies of its descriptors."""
        self._closing = self._ending = True
        self._staff.forked()
        if self._server is not None:
            self._server.disown()
        self._server = self._main = None
        self._over.set()

    def _part(self, deadline: Deadline) -> None:
        """Have the application end what goes on, and the last answers sent."""
        if self._on_close is None:
            return
        try:
            self._on_close(deadline.sooner(deadline.remaining / 2))
        except Exception:
            log.exception("the application of %s did not close", self.url)
        self._quiet.wait(deadline.sooner(PARTING_SECONDS).remaining)

    # -- serving ------------------------------------------------------------------------------------------------------

    def _listener(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            return socket.create_server((self._host, self._port), family=family, backlog=LISTEN_BACKLOG)
        except OSError as error:
            raise type(error)(error.errno, f"cannot serve at {self.url}: {error.strerror}") from error

    def _serve(self, server: WebServer) -> None:
        """Run the web server; on its thread."""
        try:
            while not self._closing:
                server.turn()
            server.stop_accepting()
            while not self._ending:
                if not server.is_busy:
                    self._quiet.set()
                server.turn()
        except BaseException as error:
            self._failure = error
            log.exception("%r broke down", self)
        finally:
            server.end()
            self._quiet.set()
            self._over.set()


def _web_server() -> type[WebServer]:
    try:
        from .waitress_parts import WebServer
    except ImportError as error:
        text = "a web server needs waitress: pip install 'mcp-sync-transports[server]'"
        raise ImportError(text, name="waitress") from error
    return WebServer


def _most_connections() -> int:
    """Return how many connections this process may have; accepting without descriptors would fail again and again."""
    try:
        import resource
    except ImportError:  # Windows
        return 500
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if most == resource.RLIM_INFINITY else max(1, most - OTHER_DESCRIPTORS)


def _nothing() -> None:
    """Do nothing."""
