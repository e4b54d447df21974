"""HTTP+SSE as a WSGI application, for clients of 2024-11-05: one stream to the client, and POSTs from it.

``GET <sse_path>`` opens the stream, whose first event names where to POST; each stream is a Conversation. It lives in
the process that opened it, so a host with several processes has to bring all requests of a client to the same one.

Source: basic/transports (2024-11-05), HTTP with SSE.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from ..credentials import Authenticator
from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.backlog import Backlog
from ..engine.channel import Pipe, PipeChannel
from ..engine.lifetimes import tell_of_forks
from ..exceptions import MCPConnectionError, MCPTimeoutError
from ..policies import seconds
from ..protocol.admission import Refusal
from ..protocol.headers import media_type
from ..protocol.messages import INTERNAL_ERROR, INVALID_REQUEST
from .gate import Gate, StartResponse, Visitor, refuse, respond, security_of
from .hosts import client_gone
from .security import TransportSecuritySettings
from .streams import SSE_HEADERS, EventStream, Outbox, Slots, event
from .wsgi import HEARTBEAT_SECONDS, RETRY_SECONDS

if TYPE_CHECKING:
    from .app import Server
    from .conversation import Conversation

log = logging.getLogger("mcp_sync")

MAX_WAITING = 1000
CLOSE_SECONDS = 2.0


class SsePipe(Pipe):
    """A two-way stream of messages: what is POSTed comes in, what is said goes to the outbox."""

    kind = "sse"

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.outbox = Outbox(max(limit, 1 << 20))
        self._incoming: Backlog[bytes | None] = Backlog(MAX_WAITING, MAX_WAITING * limit)
        self._ended = interrupts.Event()

    def push(self, data: bytes) -> bool:
        """Take in a message; False: too many wait, or it is over."""
        return not self._ended.is_set() and self._incoming.offer(data, len(data))

    def read(self) -> Sequence[bytes]:
        """Wait for one message; an empty answer is the end."""
        message = None if self._ended.is_set() else self._incoming.get()
        return [] if message is None or self._ended.is_set() else [message]

    def write(self, data: bytes, deadline: Deadline) -> None:
        """Say one message."""
        if not self.outbox.put(event(data), deadline):
            if self.outbox.over:
                raise MCPConnectionError("the client is gone", may_have_run=False)
            raise MCPTimeoutError("the client does not read", may_have_run=False)

    def hang_up(self, deadline: Deadline) -> None:
        """End both directions."""
        self._ended.set()
        self.outbox.end()
        self._incoming.put(None)

    def epitaph(self) -> MCPConnectionError:
        """Say why the stream ended."""
        return MCPConnectionError(f"{self.name}: the client is gone")


class SseApp:
    """A server as a WSGI application that speaks HTTP+SSE.

    Threads: those of a Conversation for each stream; the host's own threads write.
    Locks: ``_lock``, held for a few instructions.

    Args:
        server: The server.
        sse_path: Where the stream is, below where the application is mounted.
        messages_path: Where to POST.
        auth: As WsgiApp's.
        identify: As WsgiApp's.
        login_required: As WsgiApp's.
        security: As WsgiApp's.
        allowed_hosts: As WsgiApp's.
        allowed_origins: As WsgiApp's.
        heartbeat: As WsgiApp's.
        max_streams: As WsgiApp's.
        threads: As WsgiApp's.
        max_body_size: As WsgiApp's.
    """

    def __init__(
        self,
        server: Server,
        *,
        sse_path: str = "/sse",
        messages_path: str = "/messages",
        auth: Authenticator | None = None,
        identify: Callable[[Mapping[str, Any]], str | None] | None = None,
        login_required: bool = False,
        security: TransportSecuritySettings | None = None,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        heartbeat: float = HEARTBEAT_SECONDS,
        max_streams: int | None = None,
        threads: int | None = None,
        max_body_size: int | None = None,
    ) -> None:
        self._server = server
        self._sse_path = _path("sse_path", sse_path)
        self._messages_path = _path("messages_path", messages_path)
        self._gate = Gate(
            auth,
            identify,
            login_required,
            security_of(security, allowed_hosts, allowed_origins),
            max_body_size=server.limits.message_size if max_body_size is None else max_body_size,
            max_streams=max_streams,
            threads=threads,
        )
        self._heartbeat = seconds("heartbeat", heartbeat)
        self._slots = Slots()
        self.forked()

    def __repr__(self) -> str:
        return f"<SseApp of {self._server.name}>"

    def forked(self) -> None:
        """Be as new: at first, and in a forked child."""
        self._lock = threading.Lock()  # guards _pipes
        self._pipes: dict[str, tuple[SsePipe, str | None]] = {}
        self._slots.forked()
        tell_of_forks(self)

    def close(self, deadline: Deadline | None = None) -> None:
        """End all streams."""
        deadline = deadline or Deadline(CLOSE_SECONDS)
        with self._lock:
            pipes, self._pipes = list(self._pipes.values()), {}
        for pipe, _ in pipes:
            pipe.hang_up(deadline)

    def __call__(self, environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        try:
            return self._answer(environ, start_response)
        except Exception:
            log.exception("a request could not be answered")
            return refuse(start_response, Refusal(500, INTERNAL_ERROR, "internal error"))

    def _answer(self, environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", "").rstrip("/"), environ["REQUEST_METHOD"]
        allowed = {self._sse_path: "GET", self._messages_path: "POST"}.get(path)
        if allowed is None:
            return refuse(start_response, Refusal(404, INVALID_REQUEST, "there is nothing here"))
        visitor = self._gate.admit(environ)
        if isinstance(visitor, Refusal):
            return refuse(start_response, visitor)
        if method != allowed:
            # No body: a client that tries newer versions first must not take this for an answer to its initialize.
            return respond(start_response, 405, headers=[("Allow", allowed)])
        return self._post(visitor, start_response) if method == "POST" else self._open(visitor, start_response)

    # -- from the client ----------------------------------------------------------------------------------------------

    def _post(self, visitor: Visitor, start_response: StartResponse) -> Iterable[bytes]:
        found = self._pipes.get(_session_of(visitor.environ))
        if found is None or found[1] != visitor.principal:
            return refuse(start_response, Refusal(404, INVALID_REQUEST, "there is no such session"))
        body = self._gate.body_of(visitor)
        if isinstance(body, Refusal):
            return refuse(start_response, body)
        if media_type(visitor.headers.get("content-type")) != "application/json":
            return refuse(start_response, Refusal(415, INVALID_REQUEST, "Content-Type must be application/json"))
        if not found[0].push(body):
            text = "too many messages wait; try again later"
            return refuse(start_response, Refusal(503, INTERNAL_ERROR, text, headers=(("Retry-After", "1"),)))
        return respond(start_response, 202)

    # -- to the client ------------------------------------------------------------------------------------------------

    def _open(self, visitor: Visitor, start_response: StartResponse) -> Iterable[bytes]:
        if not self._slots.take(self._gate.most_streams(visitor.environ, start_response), visitor.client):
            text = "too many streams are open; try again later"
            headers = (("Retry-After", str(RETRY_SECONDS)),)
            return refuse(start_response, Refusal(503, INTERNAL_ERROR, text, headers=headers))
        try:
            stream = self._begun(visitor)
        except BaseException:
            self._slots.give_back(visitor.client)
            raise
        try:
            start_response("200 OK", list(SSE_HEADERS))
        except BaseException:
            stream.close()
            raise
        return stream

    def _begun(self, visitor: Visitor) -> EventStream:
        session_id = secrets.token_urlsafe(32)
        pipe = SsePipe(f"sse-{session_id[:6]}", self._server.limits.message_size)
        where = quote(str(visitor.environ.get("SCRIPT_NAME", ""))) + self._messages_path
        pipe.outbox.put_now(f"event: endpoint\ndata: {where}?session_id={session_id}\n\n".encode())
        conversation = self._server.serve(_Channel(pipe, visitor, self._server))
        with self._lock:
            self._pipes[session_id] = (pipe, visitor.principal)

        def closed() -> None:
            self._closed(session_id, conversation)
            self._slots.give_back(visitor.client)

        return EventStream(pipe.outbox, client_gone(visitor.environ), self._heartbeat, closed, visitor.is_welcome)

    def _closed(self, session_id: str, conversation: Conversation) -> None:
        with self._lock:
            self._pipes.pop(session_id, None)
        conversation.hang_up(Deadline(CLOSE_SECONDS))


class _Channel(PipeChannel):
    """A channel that knows who came."""

    def __init__(self, pipe: SsePipe, visitor: Visitor, server: Server) -> None:
        super().__init__(pipe, server.limits)
        self.headers = visitor.headers
        self.principal = visitor.principal


def _session_of(environ: Mapping[str, Any]) -> str:
    return parse_qs(str(environ.get("QUERY_STRING", ""))).get("session_id", [""])[0]


def _path(name: str, path: object) -> str:
    if not isinstance(path, str) or not path.startswith("/") or path == "/":
        raise ValueError(f"{name} must begin with a slash, such as '/sse', not {path!r:.80}")
    return path.rstrip("/")

