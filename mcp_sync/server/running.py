"""Running: what ``Server.run`` does for each transport: the process is the server's, until it ends."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..policies import unexpected_keyword
from ..protocol.admission import Refusal
from ..protocol.messages import INVALID_REQUEST
from .gate import StartResponse, refuse, security_of

if TYPE_CHECKING:
    from .app import Server
    from .hosting import HttpHost
    from .websocket import WebSocketHost

TRANSPORTS = ("stdio", "http", "sse", "websocket")
_SECURITY = ("security", "allowed_hosts", "allowed_origins")


def run(server: Server, transport: str, options: Mapping[str, Any]) -> None:
    """Serve on the calling thread until it is over; ``Server.run`` has the arguments."""
    if transport in ("streamable-http", "streamable_http"):
        transport = "http"
    if transport not in TRANSPORTS:
        raise ValueError(f"transport must be one of {', '.join(TRANSPORTS)}, not {transport!r}")
    if transport == "stdio":
        from .stdio import run_stdio

        _check(options, ())
        run_stdio(server.serve, server.limits)
        return
    with _telling_people():
        host = websocket_host(server, options) if transport == "websocket" else http_host(server, transport, options)
        try:
            host.run()
        except KeyboardInterrupt:
            pass  # everything is closed


@contextmanager
def _telling_people() -> Iterator[None]:
    """Let people read on stderr what is logged, such as the URL, where nobody has said what to do with the log."""
    log = logging.getLogger("mcp_sync")
    if log.hasHandlers():
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def http_host(server: Server, transport: str, options: Mapping[str, Any]) -> HttpHost:
    """Return a web server with the server in it.

    Args:
        server: The server.
        transport: ``http``: Streamable HTTP at ``path``; ``sse``: HTTP+SSE at ``sse_path`` and ``messages_path``.
        options: Those of the web server, and of the application.

    Raises:
        TypeError: An option means nothing here.
    """
    from .hosting import HttpHost
    from .legacy import SseApp
    from .wsgi import WsgiApp

    kind: Any = WsgiApp if transport == "http" else SseApp
    ours = set(inspect.signature(kind).parameters) - {"server"}
    theirs = set(inspect.signature(HttpHost).parameters) - {"app", "on_close"}
    own = {"path"} if transport == "http" else set()
    _check(options, {*ours, *theirs, *own})
    app = kind(server, **{key: value for key, value in options.items() if key in ours})
    mounted = At(str(options.get("path", "/mcp")), app) if transport == "http" else app
    given = {"max_body_size": server.limits.message_size, **options}
    return HttpHost(
        mounted, **{key: value for key, value in given.items() if key in theirs}, on_close=mounted.close
    )


def websocket_host(server: Server, options: Mapping[str, Any]) -> WebSocketHost:
    """Return a listener for WebSocket connections, with the server behind it.

    Raises:
        TypeError: An option means nothing here.
    """
    from .websocket import WebSocketHost

    theirs = set(inspect.signature(WebSocketHost).parameters) - {"serve", "limits", "authenticator", "security"}
    _check(options, {*theirs, "auth", *_SECURITY})
    given = {key: value for key, value in options.items() if key in theirs}
    return WebSocketHost(
        server.serve,
        limits=server.limits,
        authenticator=options.get("auth"),
        security=security_of(**{key: options[key] for key in _SECURITY if key in options}),
        **given,
    )


def _check(options: Iterable[str], known: Iterable[str]) -> None:
    for option in options:
        if option not in known:
            raise TypeError(unexpected_keyword("run", option, known))


class At:
    """A WSGI application at one path.

    Args:
        path: The path, such as ``/mcp``.
        app: The application.
    """

    def __init__(self, path: str, app: Callable[..., Iterable[bytes]]) -> None:
        if not path.startswith("/"):
            raise ValueError(f"path must begin with a slash, such as '/mcp', not {path!r:.80}")
        self._path = path.rstrip("/")
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        path = environ.get("PATH_INFO", "")
        if path.rstrip("/") != self._path:
            text = f"there is nothing here; the server is at {self._path or '/'}"
            return refuse(start_response, Refusal(404, INVALID_REQUEST, text))
        inside = {**environ, "SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + self._path, "PATH_INFO": ""}
        return self.app(inside, start_response)

    def close(self, deadline: Any = None) -> None:
        """Close the application."""
        close = getattr(self.app, "close", None)
        if close is not None:
            close(deadline)
