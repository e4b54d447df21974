"""WebSocket, the server's end: a listener that makes a Channel of each connection. It imports the library websockets.

No revision of MCP defines this binding. It follows the rules of stdio, as our client does: one JSON-RPC message to a
text message, at any time and in both directions. The subprotocol is ``mcp``; a client that offers none is served too.

::

    client -> Door (one thread: accept, TLS, heads) -> a worker: is it admitted? -> PipeChannel(WebSocketPipe) -> serve

**Why the library's sans-I/O half** (``websockets.server``), and not its threaded server, measured with version 17.4:
there, an idle connection has three threads, four descriptors and 70 kB; ``send`` has no deadline, and to a client that
does not read it was still waiting after 45 s, beyond ``ping_interval`` and ``ping_timeout``, because pings wait for the
same lock. Here the protocol is the library's (handshake, frames, compression), sockets and time are ours.

**What a connection costs**, measured with 1,000 idle ones (Python 3.11, x86-64 Linux): a thread, two descriptors and
50 kB of resident memory each; half a per cent of one processor for all, with pings every 20 s; about a second to close
them all. A connection that has not yet said what it wants costs a descriptor and no thread (door.py).

Source: RFC 6455, sections 4.2 (handshake) and 10.2 (origins); RFC 7692 (compression).
"""

from __future__ import annotations

import itertools
import logging
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..credentials import Authenticator
from ..deadlines import LONGEST_TIMEOUT, Deadline
from ..engine import interrupts
from ..engine.channel import Channel, PipeChannel
from ..engine.dispatch import Lane, Workers, join, start_thread
from ..engine.lifetimes import close_at_exit, tell_of_forks
from ..exceptions import MCPTransportError
from ..policies import Keepalive, Limits, number, optional, whole, within
from .door import HEAD_BYTES, Door, Guest
from .framed import WebSocketPipe
from .gate import challenge_of
from .security import TransportSecuritySettings

if TYPE_CHECKING:
    from websockets.extensions import Extension
    from websockets.frames import Frame
    from websockets.http11 import Request, Response
    from websockets.server import ServerProtocol

log = logging.getLogger("mcp_sync")

SUBPROTOCOL = "mcp"
DEFLATE = "permessage-deflate"
COMPRESSION_LEVEL = 6
ADMITTING = 8
"""How many clients are looked at at once: an authenticator may have to ask somebody."""
MOST_WAITING = 2000
"""How many clients may wait to be looked at, and those that have gone to be forgotten."""
LISTEN_BACKLOG = 1024
CLOSE_SECONDS = 5.0
"""For closing everything when ``run`` is left, and for giving back what one connection had."""
LOOK_SECONDS = 1.0
"""How often the main thread looks up: a Ctrl-C that comes while it waits for the interpreter just before it waits for a
lock without a timeout is not seen until that is released (CPython 3.11)."""
RETRY_SECONDS = 5
"""When somebody who found no place may come again."""
SWITCHING = 101

_seconds = optional(number(0.01, LONGEST_TIMEOUT))
_size = optional(whole(0))


class WebSocketChannel(PipeChannel):
    """One client's connection, and what it said about itself in the handshake.

    Attributes:
        headers: Of the upgrade, by names in lower case; of one that came twice, the values with a comma between.
        principal: The name that authentication gave to the client; None: nobody asked.
    """

    def __init__(
        self, pipe: WebSocketPipe, limits: Limits, threads: str, headers: Mapping[str, str], principal: str | None
    ) -> None:
        super().__init__(pipe, limits, threads=threads)
        self.headers = headers
        self.principal = principal


class _TurnedAway(Exception):
    """A client gets no WebSocket.

    Attributes:
        answer: The HTTP response that it gets instead.
    """

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


class WebSocketHost:
    """Listens for clients, and hands a channel for each to a server.

    Threads: ``mcp-websocket-<port>-door`` lets clients in, up to eight ``-upgrade-<n>`` look at who they are, one
    ``-outlet`` writes what nobody waits for; each connection has its channel's reader, and what ``serve`` starts.
    ``run`` blocks until ``close``; ``close`` until all have ended, at most until its deadline.
    Locks: ``_lock``, held for a few instructions.

    Args:
        serve: Is given the channel of each client, not yet started; has to start it, and to return at once. Such a
            channel has ``headers`` and ``principal`` (WebSocketChannel).
        host: Where to listen: a name or an address; empty means everywhere.
        port: Where to listen; 0 means any that is free (``url`` tells which).
        path: Of the endpoint; everything else is 404.
        limits: How long a message may be, and how much may wait.
        security: Which Host and Origin headers are let in.
        authenticator: Tells who a client is; None lets everybody in.
        max_connections: How many there may be; the next one gets 503. Each takes two descriptors on Linux and three
            elsewhere: look at ``ulimit -n``.
        ping_interval: Seconds of silence after which a client is asked whether it is there; None: it is never asked.
        ping_timeout: Seconds of silence after that, and it counts as lost; likewise a client that takes nothing of
            what waits for it.
        compression_threshold: Bytes from which messages are compressed, for clients that offer it; None: never.
        ssl_context: For ``wss``: a server's context.

    Raises:
        ImportError: The library websockets is missing; it names the extra.
        TypeError: A value has the wrong type.
        ValueError: A value is out of range.
        MCPTransportError: Not on this platform.
    """

    def __init__(
        self,
        serve: Callable[[Channel], Any],
        host: str = "127.0.0.1",
        port: int = 8765,
        *,
        path: str = "/mcp",
        limits: Limits | None = None,
        security: TransportSecuritySettings | None = None,
        authenticator: Authenticator | None = None,
        max_connections: int = 1000,
        ping_interval: float | None = 20.0,
        ping_timeout: float | None = 20.0,
        compression_threshold: int | None = 1024,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise MCPTransportError("a WebSocket server is not supported on Windows yet")
        self._serve = serve
        self._host, self._port = host, within(0, 65535)("port", port)
        self._path = _checked_path(path)
        self._limits = limits or Limits()
        self._security = security or TransportSecuritySettings()
        self._authenticator = authenticator
        self._most = whole(1)("max_connections", max_connections)
        self._keepalive = Keepalive(_seconds("ping_interval", ping_interval), _seconds("ping_timeout", ping_timeout))
        threshold = _size("compression_threshold", compression_threshold)
        self._protocol = _protocols(self._limits.message_size, threshold)
        self._context = _checked_context(ssl_context)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards _door, _places, _channels, _closing
        self._door: Door | None = None
        self._doorman: threading.Thread | None = None
        self._workers = Workers("", ADMITTING)
        self._outlet = Lane("")
        self._places = 0
        self._channels: dict[int, WebSocketChannel] = {}
        self._closing = False
        self._over = interrupts.Event()
        self._closed_properly: Callable[[], None] = _nothing

    def __repr__(self) -> str:
        return f"<WebSocketHost {self.url}{' closing' if self._closing else ''}>"

    @property
    def url(self) -> str:
        """Where clients connect to."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'ws' if self._context is None else 'wss'}://{host}:{self._port}{self._path}"

    @property
    def connections(self) -> int:
        """How many clients there are."""
        return self._places

    @property
    def over(self) -> bool:
        """Whether it has been closed."""
        return self._over.is_set()

    # -- beginning and end --------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until ``close`` is called, or Ctrl-C comes, which closes everything and comes out.

        Raises:
            OSError: Nobody can listen there.
            RuntimeError: It was started before.
        """
        try:
            self.start()
            while not self._over.wait(LOOK_SECONDS):
                pass
        finally:
            self.close(Deadline(CLOSE_SECONDS))

    def start(self) -> None:
        """Serve from now on, and return.

        Raises:
            OSError: Nobody can listen there.
            RuntimeError: It was started before, or there can be no more threads.
        """
        with self._lock:
            if self._door is not None or self._closing:
                raise RuntimeError(f"{self!r} was started before")
            self._door = self._opened()
        threads = f"mcp-websocket-{self._port}"
        self._workers = Workers(f"{threads}-upgrade", ADMITTING, MOST_WAITING)
        self._outlet = Lane(f"{threads}-outlet", 2 * self._most)
        tell_of_forks(self)
        self._closed_properly = close_at_exit(self)
        self._doorman = start_thread(f"{threads}-door", self._door.run)
        log.info("listening at %s", self.url)

    def _opened(self) -> Door:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, self._port), family=family, backlog=LISTEN_BACKLOG)
        self._port = listener.getsockname()[1]
        return Door(listener, self._context, self._knocked)

    def hang_up(self, deadline: Deadline) -> None:
        """Let nobody in any more and begin to close every connection, and wait for nothing."""
        with self._lock:
            self._closing = True
            channels = list(self._channels.values())
        if self._door is not None:
            self._door.close()
        for channel in channels:
            channel.hang_up(deadline)

    def close(self, deadline: Deadline) -> None:
        """Close everything: clients are told that we are going away (1001). Idempotent, from any thread."""
        self.hang_up(deadline)
        if self._door is not None:
            self._door.wait(deadline)
            join(self._doorman, deadline)
        self._workers.close(deadline)
        self.hang_up(deadline)  # those, too, that a worker was just letting in
        for key in list(self._channels):
            self._forget(key, deadline)
        self._outlet.close(deadline)
        self._closed_properly()
        self._over.set()

    def forked(self) -> None:
        """In a forked child: it is the parent's; give back the copies of its descriptors."""
        self._lock = threading.Lock()  # guards as before
        self._closing = True
        self._channels = {}
        self._workers.forked()
        self._outlet.forked()
        if self._door is not None:
            self._door.disown()
        self._door = self._doorman = None
        self._over.set()

    # -- letting clients in -------------------------------------------------------------------------------------------

    def _knocked(self, guest: Guest) -> None:
        """Have somebody look at a client; on the door's thread."""
        if not self._workers.offer(partial(self._admit, guest)):
            self._dismiss(guest, _busy("too many clients come at once").answer)

    def _dismiss(self, guest: Guest, answer: bytes) -> None:
        assert self._door is not None
        self._door.dismiss(guest, answer)

    def _admit(self, guest: Guest) -> None:
        """Let a client in, or tell it why not; on a worker."""
        try:
            protocol, response, headers = self._looked_at(guest)
            principal = self._principal_of(headers)
            self._let_in(guest, protocol, response, headers, principal)
        except _TurnedAway as reason:
            self._dismiss(guest, reason.answer)
        except BaseException:  # the authenticator's, most likely; it is the application's to see, not the client's
            log.exception("a client could not be let in")
            self._dismiss(guest, _response(500, "the server failed"))

    def _looked_at(self, guest: Guest) -> tuple[ServerProtocol, Response, dict[str, str]]:
        """Return what makes a WebSocket of a connection; raises _TurnedAway where nothing does."""
        protocol = self._protocol()
        request = _request_of(protocol, guest)
        headers = {name: ", ".join(request.headers.get_all(name)) for name in map(str.lower, request.headers)}
        refusal = self._security.check(self._environ(guest, request, headers))
        if refusal is not None:
            raise _TurnedAway(_response(refusal.status, refusal.message, refusal.headers))
        if request.path.partition("?")[0].rstrip("/") != self._path.rstrip("/"):
            raise _TurnedAway(_response(404, f"there is nothing here; the endpoint is {self._path}"))
        response = protocol.accept(request)
        if response.status_code != SWITCHING:
            raise _TurnedAway(response.serialize())
        return protocol, response, headers

    def _environ(self, guest: Guest, request: Request, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return what WSGI would make of a request, as far as it matters here."""
        environ = {
            "REMOTE_ADDR": guest.address[0],
            "PATH_INFO": request.path.partition("?")[0],
            "SERVER_PORT": str(self._port),
            "wsgi.url_scheme": "http" if self._context is None else "https",
        }
        return {**environ, **{f"HTTP_{name.upper()}": headers[name] for name in ("host", "origin") if name in headers}}

    def _principal_of(self, headers: Mapping[str, str]) -> str | None:
        if self._authenticator is None:
            return None
        principal = self._authenticator.authenticate(headers)
        if principal is None:
            challenge = ("WWW-Authenticate", challenge_of(self._authenticator))
            raise _TurnedAway(_response(401, "missing or wrong credentials", [challenge]))
        return principal

    def _let_in(
        self,
        guest: Guest,
        protocol: ServerProtocol,
        response: Response,
        headers: Mapping[str, str],
        principal: str | None,
    ) -> None:
        key = next(self._numbers)
        self._take_place()
        protocol.send_response(response)
        try:
            pipe = self._pipe(guest, protocol, key)
        except OSError as error:  # too many open files
            self._leave_place()
            raise _busy("no more connections can be had") from error
        assert self._door is not None
        self._door.entrust(guest)
        channel = WebSocketChannel(pipe, self._limits, f"websocket-{self._port}-{key}", headers, principal)
        with self._lock:
            self._channels[key] = channel
        pipe.greet()  # not before: whoever closes the host meanwhile has to know whom to say goodbye to
        self._hand_over(channel)

    def _pipe(self, guest: Guest, protocol: ServerProtocol, key: int) -> WebSocketPipe:
        host, port = guest.address
        name = f"websocket client {f'[{host}]' if ':' in host else host}:{port}"
        size, gone = self._limits.message_size, partial(self._gone, key)
        return WebSocketPipe(guest.line, protocol, guest.rest, name, size, self._keepalive, self._outlet, gone)

    def _take_place(self) -> None:
        with self._lock:
            if self._closing:
                raise _busy("the server is going away")
            if self._places >= self._most:
                raise _busy("there are too many connections")
            self._places += 1

    def _leave_place(self) -> None:
        with self._lock:
            self._places -= 1

    def _hand_over(self, channel: WebSocketChannel) -> None:
        try:
            self._serve(channel)
        except BaseException:  # no more threads, most likely
            log.exception("%s could not be served", channel.name)
            channel.close(Deadline(CLOSE_SECONDS))

    # -- those who have gone ------------------------------------------------------------------------------------------

    def _gone(self, key: int) -> None:
        """Take note that a connection has ended; on its reader, which still has to end itself."""
        self._leave_place()
        self._workers.offer(lambda: self._forget(key, Deadline(CLOSE_SECONDS)))  # False: it is closing anyway

    def _forget(self, key: int, deadline: Deadline) -> None:
        """Wait for all threads of a connection that is over, or about to be."""
        channel = self._channels.get(key)
        if channel is None:
            return
        channel.close(deadline)
        channel.lane.close(deadline)
        channel.events.close(deadline)
        self._channels.pop(key, None)


# -- requests and responses -------------------------------------------------------------------------------------------


def _request_of(protocol: ServerProtocol, guest: Guest) -> Request:
    """Return what a client wants, as far as it can be read; else raises _TurnedAway."""
    if len(guest.head) > HEAD_BYTES:
        raise _TurnedAway(_response(431, f"the head of the request is longer than {HEAD_BYTES} bytes"))
    protocol.receive_data(guest.head)
    for request in protocol.events_received():
        return request  # type: ignore[return-value]  # before the upgrade there is nothing else
    own = b"".join(protocol.data_to_send())
    raise _TurnedAway(own or _response(400, "this is no request for a WebSocket"))


def _response(status: int, text: str, headers: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return a whole response, after which the connection ends."""
    body = f"{text}\n".encode()
    own = [("Connection", "close"), ("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in (*own, *headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def _busy(text: str) -> _TurnedAway:
    return _TurnedAway(_response(503, text, [("Retry-After", str(RETRY_SECONDS))]))


# -- the library ------------------------------------------------------------------------------------------------------


class _Thrifty:
    """The library's compression, for messages that are worth it.

    Args:
        extension: The library's.
        threshold: Bytes.
    """

    name = DEFLATE

    def __init__(self, extension: Extension, threshold: int) -> None:
        self._threshold = threshold
        self._extension = extension

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Return what is in a frame."""
        return self._extension.decode(frame, max_size=max_size)

    def encode(self, frame: Frame) -> Frame:
        """Return the frame to send."""
        return self._extension.encode(frame) if len(frame.data) >= self._threshold else frame


class _ThriftyFactory:
    """Agrees on compression with a client: each message by itself, so that nothing is kept between two of them."""

    name = DEFLATE

    def __init__(self, factory: Any, threshold: int) -> None:
        self._factory = factory
        self._threshold = threshold

    def process_request_params(self, params: Any, accepted: Any) -> tuple[Any, _Thrifty]:
        """Return what is answered to an offer, and what is used then."""
        answer, extension = self._factory.process_request_params(params, accepted)
        return answer, _Thrifty(extension, self._threshold)


def _protocols(limit: int, threshold: int | None) -> Callable[[], ServerProtocol]:
    """Return what makes the library's side of a connection."""
    try:
        from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
        from websockets.server import ServerProtocol
    except ImportError as error:
        text = "a WebSocket server needs websockets: pip install 'mcp-sync-transports[server]'"
        raise ImportError(text, name="websockets") from error
    deflate = ServerPerMessageDeflateFactory(True, True, compress_settings={"level": COMPRESSION_LEVEL})
    extensions: Any = [] if threshold is None else [_ThriftyFactory(deflate, threshold)]
    chosen: Any = _chosen
    quiet = logging.Logger("mcp_sync.websockets", logging.ERROR)  # noqa: LOG001  # nobody shall make it write headers
    quiet.parent = log
    return partial(ServerProtocol, extensions=extensions, select_subprotocol=chosen, max_size=limit, logger=quiet)


def _chosen(protocol: object, offered: Sequence[str]) -> str | None:
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


# -- checks -----------------------------------------------------------------------------------------------------------


def _checked_path(path: object) -> str:
    if not isinstance(path, str):
        raise TypeError(f"path must be a str, not {type(path).__name__}")
    if not path.startswith("/") or not path.isascii() or any(character in path for character in "?# \t\r\n"):
        raise ValueError(f"path must begin with / and be plain, such as /mcp, not {path!r:.80}")
    return path


def _checked_context(context: object) -> ssl.SSLContext | None:
    if context is None:
        return None
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {type(context).__name__}")
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError("ssl_context is a client's; a server's is made by ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)")
    return context


def _nothing() -> None:
    """Do nothing."""
