"""WSGI: Streamable HTTP as a plain ``app(environ, start_response)``, both eras at one path (PEP 3333).

Mount it where you like: ``DispatcherMiddleware(app.wsgi_app, {"/mcp": server.wsgi_app()})`` in Flask, a URL pattern in
Django (``mcp_sync.server.django``), or by itself under gunicorn, waitress and their like. The host has to have threads:
a call that says something while it runs keeps one of them busy until it is over, and so does every open stream.

Nothing is started before the first request, so the application can be made before a host forks.

Source: basic/transports (2025-03-26 to 2025-11-25), basic/transports/streamable-http (2026-07-28).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..credentials import Authenticator
from ..deadlines import Deadline
from ..engine.lifetimes import tell_of_forks
from ..exceptions import JSONRPCError, MCPError
from ..policies import flag, optional, seconds, whole
from ..protocol.admission import BATCH_VERSION, Admitted, Refusal, admit_post, http_status_of, method_refusal
from ..protocol.eras import ACKNOWLEDGED
from ..protocol.headers import LAST_EVENT_ID, SESSION_ID, assigns_session, stays_open
from ..protocol.messages import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Batch,
    Failure,
    Malformed,
    Message,
    Notification,
    Request,
    Result,
    encode,
)
from ..protocol.session import LISTEN
from .answering import stateless_asker
from .calls import Asker, Call
from .exchange import Answered, Exchange, Exchanges, too_busy
from .gate import Gate, StartResponse, Visitor, refuse, respond, security_of
from .hosts import client_gone
from .hub import Interest, Notice
from .security import TransportSecuritySettings
from .sessions import KIND, UNASKED, SessionExchange, Sessions
from .stores import Gone, MemorySessionStore, SessionStore
from .streams import SSE_HEADERS, EventStream, Outbox, Slots, Source, event

if TYPE_CHECKING:
    from .app import Server

log = logging.getLogger("mcp_sync")

MAX_ANSWERING = 256
SESSION_SECONDS = 1800.0
MAX_SESSIONS = 10_000
MAX_SESSIONS_PER_PRINCIPAL = 100
HEARTBEAT_SECONDS = 5.0
CLOSE_SECONDS = 5.0
RETRY_SECONDS = 5


class _Subscription:
    """One ``subscriptions/listen`` over HTTP. It is a Listener of the server's Hub."""

    def __init__(self, request: Request, interest: Interest) -> None:
        self.outbox = Outbox()
        self._request = request
        self._interest = interest
        acknowledged = {"_meta": interest.meta, "notifications": interest.acknowledged}
        self.outbox.put_now(event(encode(Notification(ACKNOWLEDGED, acknowledged))))

    @property
    def over(self) -> bool:
        return self.outbox.over

    def tell(self, notice: Notice) -> None:
        if self._interest.wants(notice):
            message = Notification(notice.method, self._interest.dressed(notice))
            if not self.outbox.put_now(event(encode(message))):
                self.outbox.end()  # it does not read: it will listen anew, and look for itself what has changed

    def end(self) -> None:
        result = {"resultType": "complete", "_meta": self._interest.meta}
        self.outbox.put_now(event(encode(Result(self._request.id, result))))
        self.outbox.end()


class WsgiApp:
    """A server as a WSGI application.

    Threads: ``mcp-http-<number>``, one for each request that is being answered; with a store that processes share, the
    store's listener. The host's threads wait for them, and write.
    Locks: none of its own.

    Args:
        server: The server.
        auth: Says who a client is by its headers (``BearerTokenAuth``, ``APIKeyAuth``, ``JWTAuth``); who is nobody gets
            401. None lets everybody in.
        identify: Says who a client is by the WSGI environment, for what a framework in front has found out; None:
            nobody in particular.
        security: Which Hosts and Origins are allowed. The default is strict for loopback.
        allowed_hosts: More Hosts that are allowed, where ``security`` is not given.
        allowed_origins: More Origins that are allowed, where ``security`` is not given.
        store: Where handshake sessions are kept; None keeps them in this process. A host with several processes needs
            one that they share (``RedisSessionStore``); without it such a host serves clients of the handshake era
            without sessions: what they call is answered, but nothing can be asked of them.
        sessions: Whether clients of the handshake era get sessions; None: where that works, as said above.
        session_timeout: Seconds that a session may be idle.
        max_sessions: How many there may be; 0 for any number. More get 503.
        max_sessions_per_principal: How many of one client that has a name; 0 for any number.
        heartbeat: Seconds: how soon a client that is gone is noticed, and how often a silent stream says so.
        max_streams: How many streams may be open at once in this process; None: 80 % of the host's threads. More get
            503 with Retry-After.
        threads: How many threads the host has; None: what it says itself.
        max_body_size: Bytes of one request; None: the server's ``max_message_size``.
        secret_key: As the server's; given here, it is set there.
        around: A context manager that the application runs in, made anew for each request.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        server: Server,
        *,
        auth: Authenticator | None = None,
        identify: Callable[[Mapping[str, Any]], str | None] | None = None,
        security: TransportSecuritySettings | None = None,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        store: SessionStore | None = None,
        sessions: bool | None = None,
        session_timeout: float = SESSION_SECONDS,
        max_sessions: int = MAX_SESSIONS,
        max_sessions_per_principal: int = MAX_SESSIONS_PER_PRINCIPAL,
        heartbeat: float = HEARTBEAT_SECONDS,
        max_streams: int | None = None,
        threads: int | None = None,
        max_body_size: int | None = None,
        secret_key: str | bytes | None = None,
        around: Callable[[], Any] | None = None,
    ) -> None:
        if auth is not None and not callable(getattr(auth, "authenticate", None)):
            raise TypeError(f"auth must have a method authenticate(headers), which {type(auth).__name__} has not")
        self._server = server
        self._sessions_wanted: bool | None = optional(flag)("sessions", sessions)
        size = optional(whole(1024))("max_body_size", max_body_size) or server.limits.message_size
        rules = security_of(security, allowed_hosts, allowed_origins)
        most = optional(whole(0))("max_streams", max_streams)
        self._gate = Gate(auth, identify, rules, size, most, optional(whole(1))("threads", threads))
        self._heartbeat = seconds("heartbeat", heartbeat)
        self._exchanges = Exchanges(MAX_ANSWERING, self._heartbeat, server.limits.message_size, around)
        self._store = MemorySessionStore() if store is None else store
        self._sessions = Sessions(
            server,
            self._store,
            seconds("session_timeout", session_timeout),
            whole(0)("max_sessions", max_sessions),
            whole(0)("max_sessions_per_principal", max_sessions_per_principal),
        )
        self._slots = Slots()
        self._subscriptions: set[_Subscription] = set()
        self._warned = False
        server.share(secret_key, self._store, self._sessions.relay)
        tell_of_forks(self)

    def __repr__(self) -> str:
        return f"<WsgiApp of {self._server.name}>"

    def forked(self) -> None:
        """In a forked child: threads and streams are the parent's."""
        self._exchanges.forked()
        self._sessions.forked()
        self._slots.forked()
        self._subscriptions = set()
        tell_of_forks(self)

    # -- the life of the application ----------------------------------------------------------------------------------

    def close(self, deadline: Deadline | None = None) -> None:
        """End all streams, and wait for what is being answered. The application can be used again."""
        for subscription in list(self._subscriptions):
            subscription.end()
        self._sessions.close()
        self._exchanges.close(deadline or Deadline(CLOSE_SECONDS))

    # -- WSGI ---------------------------------------------------------------------------------------------------------

    def __call__(self, environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        try:
            return self._answer(environ, start_response)
        except MCPError as error:  # the store cannot be reached
            log.error("a request could not be answered: %s", error)
            return too_busy(start_response, None, "the server cannot answer now")
        except Exception:
            log.exception("a request could not be answered")
            return refuse(start_response, Refusal(500, INTERNAL_ERROR, "internal error"))

    def _answer(self, environ: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "") not in ("", "/"):
            return refuse(start_response, Refusal(404, INVALID_REQUEST, "there is nothing here"))
        visitor = self._gate.admit(environ)
        if isinstance(visitor, Refusal):
            return refuse(start_response, visitor)
        method = str(environ["REQUEST_METHOD"])
        refusal = method_refusal(method, visitor.headers)
        if refusal is not None:
            return refuse(start_response, refusal)
        if method == "POST":
            return self._post(visitor, start_response)
        return self._get(visitor, start_response) if method == "GET" else self._delete(visitor, start_response)

    def _post(self, visitor: Visitor, start_response: StartResponse) -> Iterable[bytes]:
        body = self._gate.body_of(visitor)
        if isinstance(body, Refusal):
            return refuse(start_response, body)
        admitted = admit_post(visitor.headers, body, known=self._is_known, param_names=self._server.mirrors_of)
        if isinstance(admitted, Refusal):
            return refuse(start_response, admitted)
        if admitted.stateless:
            return self._stateless(visitor, admitted.message, start_response)
        return self._handshake(visitor, admitted, start_response)

    def _is_known(self, method: str) -> bool:
        return method == LISTEN or self._server.answerer.offers(method, stateless=True)

    # -- the stateless era --------------------------------------------------------------------------------------------

    def _stateless(self, visitor: Visitor, message: Message, start_response: StartResponse) -> Iterable[bytes]:
        if not isinstance(message, Request):
            return respond(start_response, 202)
        try:
            asker = stateless_asker(message, visitor.headers, visitor.principal)
            if stays_open(message):
                return self._listen(visitor, message, self._server.interest(message, asker), start_response)
        except JSONRPCError as error:
            status = http_status_of(error.code, stateless=True)
            return refuse(start_response, Refusal(status, error.code, error.message, error.data, message.id))
        self._warn_of_the_key(visitor)
        exchange = Exchange()
        call = Call(message, asker, exchange)
        if not self._run(exchange, message, lambda: self._server.answer(call), stateless=True):
            return too_busy(start_response, message, "too many requests are being answered; try again later")
        return self._response(visitor, exchange, exchange.withdrawn.set, start_response)

    def _run(
        self, exchange: Exchange, request: Request, answer: Callable[[], dict[str, Any]], *, stateless: bool
    ) -> bool:
        return self._exchanges.run(exchange, lambda: self._exchanges.answered(request, answer, stateless))

    def _response(
        self, visitor: Visitor, exchange: Exchange, closed: Callable[[], object], start_response: StartResponse
    ) -> Iterable[bytes]:
        gone = client_gone(visitor.environ)
        return self._exchanges.respond(exchange, gone, start_response, closed)

    def _warn_of_the_key(self, visitor: Visitor) -> None:
        if self._warned or self._store.shared or not visitor.environ.get("wsgi.multiprocess"):
            return
        if not self._server.seal.is_random:
            return
        self._warned = True
        log.warning(
            "%s runs in several processes without secret_key=: a request of several rounds fails unless all of them "
            "come to the same process",
            self._server.name,
        )

    def _listen(
        self, visitor: Visitor, request: Request, interest: Interest, start_response: StartResponse
    ) -> Iterable[bytes]:
        if not self._slots.take(self._gate.most_streams(visitor.environ, start_response)):
            return self._no_stream(start_response, request)
        subscription = _Subscription(request, interest)
        self._subscriptions.add(subscription)
        self._server.hub.join(subscription)

        def closed() -> None:
            self._server.hub.leave(subscription)
            self._subscriptions.discard(subscription)
            self._slots.give_back()

        return self._stream(visitor, subscription.outbox, closed, start_response)

    def _stream(
        self,
        visitor: Visitor,
        source: Source,
        closed: Callable[[], object],
        start_response: StartResponse,
        over: Callable[[], bool] = bool,
    ) -> Iterable[bytes]:
        gone = client_gone(visitor.environ)
        stream = EventStream(source, lambda: gone() or over(), self._heartbeat, closed)
        try:
            start_response("200 OK", list(SSE_HEADERS))
        except BaseException:
            stream.close()
            raise
        return stream

    def _no_stream(self, start_response: StartResponse, request: Request | None = None) -> Iterable[bytes]:
        text = "too many streams are open; try again later"
        request_id = None if request is None else request.id
        headers = (("Retry-After", str(RETRY_SECONDS)),)
        return refuse(start_response, Refusal(503, INTERNAL_ERROR, text, None, request_id, headers))

    # -- the handshake era --------------------------------------------------------------------------------------------

    def _handshake(self, visitor: Visitor, admitted: Admitted, start_response: StartResponse) -> Iterable[bytes]:
        message = admitted.message
        if isinstance(message, Request) and assigns_session(message):
            return self._initialize(visitor, message, start_response)
        asker = self._asker(visitor, admitted.version, _id_of(message))
        if isinstance(asker, Refusal):
            return refuse(start_response, asker)
        if isinstance(message, Request):
            return self._request(visitor, message, asker, start_response)
        if isinstance(message, Batch):
            return self._batch(visitor, message, asker, start_response)
        self._take(message, asker)
        return respond(start_response, 202)

    def _keeps_sessions(self, visitor: Visitor) -> bool:
        if self._sessions_wanted is not None:
            return self._sessions_wanted
        return self._store.shared or not bool(visitor.environ.get("wsgi.multiprocess"))

    def _initialize(self, visitor: Visitor, request: Request, start_response: StartResponse) -> Iterable[bytes]:
        params = request.params or {}
        try:
            version, result = self._server.answerer.initialized(params)
        except JSONRPCError as error:
            failure = Failure(request.id, error.code, error.message, error.data)
            return respond(start_response, 200, encode(failure))
        headers: list[tuple[str, str]] = []
        if self._keeps_sessions(visitor):
            info, capabilities = params.get("clientInfo") or {}, params.get("capabilities") or {}
            session_id = self._sessions.begin(Asker(version, False, info, capabilities, {}, visitor.principal))
            if session_id is None:
                return too_busy(start_response, request, "there are too many sessions; try again later")
            headers = [(SESSION_ID, session_id)]
        else:
            result = {**result, "capabilities": _without_memory(result["capabilities"])}
        return respond(start_response, 200, encode(Result(request.id, result)), headers)

    def _asker(self, visitor: Visitor, version: str, request_id: Any = None) -> Asker | Refusal:
        """Return who asks, by the session."""
        session_id = visitor.headers.get(SESSION_ID.lower())
        if not self._keeps_sessions(visitor):
            return Asker(version, False, headers=visitor.headers, principal=visitor.principal)
        if not session_id:
            text = f"the header {SESSION_ID} is missing; send initialize first"
            return Refusal(400, INVALID_REQUEST, text, request_id=request_id)
        asker = self._sessions.find(session_id, visitor.headers, visitor.principal)
        if asker is None:
            return Refusal(404, INVALID_REQUEST, "there is no such session; send initialize", request_id=request_id)
        return asker

    def _take(self, message: Message, asker: Asker) -> None:
        """Take in what has no answer."""
        if asker.session_id is None:
            return
        if isinstance(message, Notification):
            self._sessions.told(asker.session_id, message)
        elif isinstance(message, (Result, Failure)):
            self._sessions.answered(asker.session_id, message)

    def _request(
        self, visitor: Visitor, request: Request, asker: Asker, start_response: StartResponse
    ) -> Iterable[bytes]:
        exchange = self._exchange(asker)
        session_id = asker.session_id
        if session_id is not None and not self._sessions.enter(session_id, request.id, exchange):
            text = f"the id {request.id!r:.80} is that of a request which is still being answered"
            return refuse(start_response, Refusal(400, INVALID_REQUEST, text))
        if not self._run(exchange, request, lambda: self._served(request, asker, exchange), stateless=False):
            self._leave(asker, request)
            return too_busy(start_response, request, "too many requests are being answered; try again later")
        return self._response(visitor, exchange, _nothing, start_response)  # a client may come back for it

    def _exchange(self, asker: Asker) -> Exchange:
        if asker.session_id is None:
            return Exchange()
        return SessionExchange(self._sessions, asker.session_id, asker.version)

    def _leave(self, asker: Asker, request: Request) -> None:
        if asker.session_id is not None:
            self._sessions.leave(asker.session_id, request.id)

    def _served(self, request: Request, asker: Asker, exchange: Exchange) -> dict[str, Any]:
        """Return the result of a request; on a thread of ours."""
        try:
            if asker.session_id is not None:
                own = self._sessions.own_answer(request, asker.session_id)
                if own is not None:
                    return own
            return self._server.answer(Call(request, asker, exchange))
        finally:
            self._leave(asker, request)

    def _batch(self, visitor: Visitor, batch: Batch, asker: Asker, start_response: StartResponse) -> Iterable[bytes]:
        """Answer an array of 2025-03-26, one after the other; what is said meanwhile makes a stream of the response."""
        if asker.version != BATCH_VERSION:  # without the header, only the session knows
            text = f"a body is one JSON-RPC message in {asker.version}, no array"
            return refuse(start_response, Refusal(400, INVALID_REQUEST, text))
        for message in batch.messages:
            self._take(message, asker)
        requests = [one for one in batch.messages if isinstance(one, (Request, Malformed))]
        if not requests:
            return respond(start_response, 202)
        exchange = self._exchange(asker)

        def answers() -> Answered:
            found = [self._answered(one, asker, exchange) for one in requests]
            return b"[" + b",".join(one for one in found if one is not None) + b"]", 200

        if not self._exchanges.run(exchange, answers):
            return too_busy(start_response, None, "too many requests are being answered; try again later")
        return self._response(visitor, exchange, _nothing, start_response)

    def _answered(self, message: Request | Malformed, asker: Asker, exchange: Exchange) -> bytes | None:
        if isinstance(message, Malformed):
            return encode(Failure(message.asks, INVALID_REQUEST, message.reason))
        return self._exchanges.answered(message, lambda: self._served(message, asker, exchange), stateless=False)[0]

    # -- streams of a session -----------------------------------------------------------------------------------------

    def _get(self, visitor: Visitor, start_response: StartResponse) -> Iterable[bytes]:
        most = self._gate.most_streams(visitor.environ, start_response)
        if not self._keeps_sessions(visitor) or not most:
            text = "there are no streams here"
            return refuse(start_response, Refusal(405, METHOD_NOT_FOUND, text, headers=(("Allow", "POST"),)))
        asker = self._asker(visitor, "")
        if isinstance(asker, Refusal):
            return refuse(start_response, asker)
        if not self._slots.take(most):
            return self._no_stream(start_response)
        try:
            return self._session_stream(visitor, str(asker.session_id), start_response)
        except BaseException:
            self._slots.give_back()
            raise

    def _session_stream(
        self, visitor: Visitor, session_id: str, start_response: StartResponse
    ) -> Iterable[bytes]:
        after = visitor.headers.get(LAST_EVENT_ID.lower())
        stream = after.rpartition(".")[0] if after else UNASKED
        if after and not self._store.knows(KIND, session_id, after):
            self._slots.give_back()
            return refuse(start_response, Refusal(400, INVALID_REQUEST, "the event is not known, or no longer"))
        if stream != UNASKED:
            replay = _Replay(self._store, session_id, stream, after)
            return self._stream(visitor, replay, self._slots.give_back, start_response)
        unasked = self._sessions.open_stream(session_id, after)

        def closed() -> None:
            self._sessions.close_stream(session_id, unasked)
            self._slots.give_back()

        return self._stream(visitor, unasked.outbox, closed, start_response, unasked.session_is_over)

    def _delete(self, visitor: Visitor, start_response: StartResponse) -> Iterable[bytes]:
        if not self._keeps_sessions(visitor):
            text = "there are no sessions here"
            return refuse(start_response, Refusal(405, METHOD_NOT_FOUND, text, headers=(("Allow", "POST"),)))
        asker = self._asker(visitor, "")
        if isinstance(asker, Refusal):
            return refuse(start_response, asker)
        self._sessions.end(str(asker.session_id))
        return respond(start_response, 204)


class _Replay:
    """The rest of a stream, out of the store: what there is, then what comes. As an Outbox is read."""

    def __init__(self, store: SessionStore, session_id: str, stream: str, after: str | None) -> None:
        self._store = store
        self._session_id = session_id
        self._stream = stream
        self._after = after
        self._over = False

    def take(self, wait: float) -> bytes | None:
        """Return what there is, waiting for something so long; b"" if nothing came, None at the end."""
        if self._over:
            return None
        try:
            found, self._over = self._store.read(KIND, self._session_id, self._stream, self._after, wait)
        except Gone:
            return None
        if not found:
            return None if self._over else b""
        self._after = found[-1][0]
        return b"".join(event(data, event_id) for event_id, data in found)

    def leave(self) -> None:
        """Take note that nobody writes it any more."""
        self._over = True


def _id_of(message: Message) -> Any:
    return message.id if isinstance(message, Request) else None


def _without_memory(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is left of the capabilities where nothing is known of a client from request to request."""
    lasting = ("listChanged", "subscribe")
    kept = {name: one for name, one in capabilities.items() if name != "logging"}
    return {name: {key: value for key, value in one.items() if key not in lasting} for name, one in kept.items()}


def _nothing() -> None:
    """Do nothing when a stream ends: its request goes on."""
