"""Hosts: what a WSGI environment tells about the web server that calls us, as far as it tells anything (PEP 3333).

WSGI says neither how many threads there are nor whether the client is still there. Each host has its own way to find
out, none of them promised, all of them here: one function for each, tried in turn. What none of them knows has the
answer ``None`` or "not gone", never an error. ``tests/server/test_hosts.py`` runs every host for real, and names the
versions that this was seen to work with; a new one that hides what we look for fails there.

``client_gone`` looks at the connection and leaves all as it is: nothing is read, nothing is closed. A client that has
shut down its sending side counts as gone, though it may still read: from here the two look alike until something is
written, and waitress and nginx judge the same way. Browsers, curl, ``requests`` and every client of MCP that we know
keep both sides open until they have their answer. Behind a proxy, the client is the proxy: what it does when its own
client goes is up to its settings (nginx hangs up at once, unless ``proxy_ignore_client_abort`` is on).
"""

from __future__ import annotations

import os
import select
import socket
import socketserver
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

REPLY = "mcp_sync.reply"
"""Where in the WSGI environment our own host has its Reply."""
DEEPEST = 6
"""How many streams may lie around the one that has the socket."""


class Reply(Protocol):
    """A response that any thread may write while the host's own is with the application; one at a time."""

    @property
    def is_behind(self) -> bool:
        """Whether something waits for the client to take it; if nothing does, ``tell`` waits for nothing."""

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> object:
        """Take the status and the headers; the function that the host gives to the application."""

    def tell(self, data: bytes, /) -> None:
        """Write a piece, and the head before the first."""

    def end(self) -> None:
        """End the response, though the host's thread stays with the application; once, and nothing comes after it."""


def reply_of(environ: Mapping[str, Any], start_response: object) -> Reply | None:
    """Return the response, where the host is our own, and nobody in between wants to see what is written.

    Args:
        environ: The WSGI environment of a request.
        start_response: What came with it.
    """
    reply: Reply | None = environ.get(REPLY)
    return reply if reply is not None and start_response == reply.start_response else None


def threads_of(environ: Mapping[str, Any], start_response: object) -> int | None:
    """Return how many threads the host serves requests with.

    Args:
        environ: The WSGI environment of a request.
        start_response: What the host gave with it; what a middleware or a framework made of it tells less.

    Returns:
        None if it is unknown, or if there is a thread for every connection.
    """
    if _has_a_thread_for_each(start_response):
        return None
    if not environ.get("wsgi.multithread", True):
        return 1
    for ask in (_waitress_threads, _gunicorn_threads, _cheroot_threads):
        found = _tried(ask, environ, start_response)
        if isinstance(found, int) and found > 0:
            return found
    return None


def client_gone(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """Return a check whether the client has hung up, to be called as often as wanted, from any thread.

    It costs some microseconds, and is right at once. Where the host does not let us see the connection it says no.

    Args:
        environ: The WSGI environment of a request.
    """
    told = environ.get("waitress.client_disconnected")
    channel: Any = getattr(told, "__self__", None)
    if callable(told) and hasattr(channel, "socket"):
        return lambda: bool(told()) or _has_hung_up(channel.socket)  # by itself it is blind without a lookahead
    connection = _connection(environ)
    if connection is None:
        return _never
    return lambda: _has_hung_up(connection)


def cut_off(environ: Mapping[str, Any]) -> None:
    """End a connection whose request does not arrive, as far as the host lets us see it; its reader finds the end.

    Args:
        environ: The WSGI environment of the request.
    """
    connection = _connection(environ)
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except (AttributeError, OSError, ValueError):
        pass  # it is not to be had, or has ended


def _never() -> bool:
    return False


def _tried(ask: Callable[[Any, Any], object], environ: Mapping[str, Any], start_response: object) -> object:
    """Return the answer, or None: that host it is not, or it has changed."""
    try:
        return ask(environ, start_response)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


# -- threads ----------------------------------------------------------------------------------------------------------


def _waitress_threads(environ: Any, start_response: Any) -> object:
    return environ["waitress.client_disconnected"].__self__.adj.threads


def _gunicorn_threads(environ: Any, start_response: Any) -> object:
    settings = _gunicorn_settings(environ, start_response)
    return settings.threads if settings.worker_class_str == "gthread" else None


def _gunicorn_settings(environ: Any, start_response: Any) -> Any:
    """Return them from the response, that is the owner of start_response or, from 25 on, a part of early_hints."""
    response: Any = getattr(start_response, "__self__", None)
    if not hasattr(response, "cfg"):
        hints = environ["wsgi.early_hints"]
        response = hints.__closure__[hints.__code__.co_freevars.index("resp")].cell_contents
    return response.cfg


def _cheroot_threads(environ: Any, start_response: Any) -> object:
    return start_response.__self__.req.server.requests.min  # it never has more, whatever its max


def _has_a_thread_for_each(start_response: Any) -> bool:
    """Tell it of servers on socketserver; those of wsgiref say that they have one thread, whatever was mixed in."""
    server = getattr(getattr(getattr(start_response, "__self__", None), "request_handler", None), "server", None)
    return isinstance(server, socketserver.ThreadingMixIn)


# -- connections ------------------------------------------------------------------------------------------------------


def _connection(environ: Mapping[str, Any]) -> Any:
    """Return the socket of the request, or None."""
    for key in ("gunicorn.socket", "werkzeug.socket"):
        if hasattr(environ.get(key), "fileno"):
            return environ[key]
    stream = environ.get("wsgi.input")
    for _ in range(DEEPEST):
        if isinstance(stream, socket.SocketIO):
            return getattr(stream, "_sock", None)
        stream = next(_beneath(stream), None)
    return None


def _beneath(stream: Any) -> Iterator[Any]:
    """Yield what a stream reads from."""
    if isinstance(getattr(stream, "META", None), Mapping):  # a request of Django
        yield stream.META.get("wsgi.input")
    for name in ("raw", "rfile", "stream"):  # buffered: wsgiref and others; cheroot; what limits the length
        if getattr(stream, name, None) is not None:
            yield getattr(stream, name)
    reader = getattr(stream, "_read", None)  # Django's LimitedStream keeps only the method
    if getattr(reader, "__self__", None) is not stream:
        yield getattr(reader, "__self__", None)


def _has_hung_up(connection: Any) -> bool:
    """Tell whether the other side has sent its last. What it has sent before, and nobody has read, does not matter."""
    try:
        number = connection.fileno()
    except (AttributeError, OSError, ValueError):  # the host has dropped it meanwhile
        return True
    if number < 0:  # the host has closed it
        return True
    try:
        return _is_ended(number)
    except OSError:  # closed meanwhile
        return True


def _ended_by_poll(number: int) -> bool:
    ends = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL
    poller = select.poll()
    poller.register(number, select.POLLRDHUP)
    return any(flags & ends for _, flags in poller.poll(0))


def _ended_by_peek(number: int) -> bool:
    """For other systems: the end is not seen behind a pipelined request, nor behind the last record of TLS."""
    with socket.socket(fileno=os.dup(number)) as copy:
        try:
            return not copy.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False


def _unknown(number: int) -> bool:
    return False


if hasattr(select, "POLLRDHUP"):
    _is_ended = _ended_by_poll
else:
    _is_ended = _ended_by_peek if hasattr(socket, "MSG_DONTWAIT") else _unknown
