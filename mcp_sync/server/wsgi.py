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
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..credentials import Authenticator
from ..deadlines import Deadline
from ..engine.lifetimes import tell_of_forks
from ..exceptions import JSONRPCError, MCPError
from ..policies import flag, optional, seconds, whole
from ..protocol.admission import BATCH_VERSION, Admitted, Refusal, admit_post, http_status_of, method_refusal
from ..protocol.eras import ACKNOWLEDGED, TASKS_EXTENSION
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
from .exchange import Answered, Exchange, Exchanges, Recipient, too_busy
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
        self._request_id = request.id
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
        self.outbox.put_now(event(encode(Result(self._request_id, result))))
        self.outbox.end()


class WsgiApp:
    """A server as a WSGI application.

    Threads: ``mcp-http-<number>``, one for each request that is being answered, or under a host of our own for each
    that takes a while; ``mcp-http-unasked``, where somebody listens for changes; with a store that processes share, the
    store's listener. The host's threads wait for them, and write.
    Locks: none of its own.

    Args:
        server: The server.
        auth: Says who a client is by its headers (``BearerTokenAuth``, ``APIKeyAuth``, ``JWTAuth``); who is nobody gets
            401. None lets everybody in.
        identify: Says who a client is by the WSGI environment, for what a framework in front has found out; None:
            nobody in particular.
        login_required: Whether somebody whom neither ``auth`` nor ``identify`` knows gets 401; with ``auth`` always.
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
        max_concurrent_requests: How many requests may be answered at once in this process; more get 503. One session,
            principal or address may have the server's ``max_concurrent_requests`` of them.
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
        login_required: bool = False,
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
        max_concurrent_requests: int = MAX_ANSWERING,
        max_body_size: int | None = None,
        secret_key: str | bytes | None = None,
        around: Callable[[], Any] | None = None,
    ) -> None:
        self._server = server
        self._sessions_wanted: bool | None = optional(flag)("sessions", sessions)
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
        self._exchanges = Exchanges(
            whole(1)("max_concurrent_requests", max_concurrent_requests),
            server.limits.callbacks,
            self._heartbeat,
            server.limits.message_size,
            around,
        )
        self._around = around
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
        self._sessions.served()
        self._warn_of_the_key(visitor)
        exchange = Exchange()
        call = Call(message, self._within_reach(asker, visitor), exchange, self._around)

        def answer() -> Answered:
            return self._exchanges.answered(message, lambda: self._server.answer(call), stateless=True)

        recipient = Recipient(visitor.environ, start_response, _client_of(visitor), exchange.withdrawn.set)
        response = self._exchanges.serve(exchange, answer, recipient)
        return _too_many(start_response, message) if response is None else response

    def _within_reach(self, asker: Asker, visitor: Visitor) -> Asker:
        """Return who asks, without tasks where the next request may come to a process that does not know them."""
        if self._store.shared or not visitor.environ.get("wsgi.multiprocess") or "extensions" not in asker.capabilities:
            return asker
        extensions = dict(asker.capabilities["extensions"] or {})
        extensions.pop(TASKS_EXTENSION, None)
        return replace(asker, capabilities={**asker.capabilities, "extensions": extensions})

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
        if not self._slots.take(self._gate.most_streams(visitor.environ, start_response), visitor.client):
            return self._no_stream(start_response, request)
        subscription = _Subscription(request, interest)
        self._subscriptions.add(subscription)
        try:
            self._sessions.hear()
        except MCPError as error:
            log.warning("changes in other processes are not heard of: %s", error)
        self._server.hub.join(subscription)

        def closed() -> None:
            self._server.hub.leave(subscription)
            self._subscriptions.discard(subscription)
            self._slots.give_back(visitor.client)

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
        stream = EventStream(source, lambda: gone() or over(), self._heartbeat, closed, visitor.is_welcome)
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
        try:
            version, result = self._server.answerer.initialized(request.params or {})
            if not self._keeps_sessions(visitor):
                result = {**result, "capabilities": _without_memory(result["capabilities"])}
                return respond(start_response, 200, encode(Result(request.id, result)))
            session_id = self._begin(visitor, request.params or {}, version)
        except JSONRPCError as error:
            failure = Failure(request.id, error.code, error.message, error.data)
            return respond(start_response, 200, encode(failure))
        if session_id is None:
            return too_busy(start_response, request, "there are too many sessions; try again later")
        return respond(start_response, 200, encode(Result(request.id, result)), [(SESSION_ID, session_id)])

    def _begin(self, visitor: Visitor, params: Mapping[str, Any], version: str) -> str | None:
        info, capabilities = params.get("clientInfo") or {}, params.get("capabilities") or {}
        asker = Asker(version, False, info, capabilities, {}, visitor.principal)
        return self._sessions.begin(asker, visitor.client)

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
        if not self._enter(asker, request, exchange):
            return refuse(start_response, Refusal(400, INVALID_REQUEST, _still_answered(request)))
        # a client may come back for it: that its stream is over ends nothing
        recipient = Recipient(visitor.environ, start_response, _client_of(visitor, asker), _nothing)
        response = self._exchanges.serve(exchange, lambda: self._answered(request, asker, exchange), recipient)
        if response is None:
            self._leave(asker, request)
            return _too_many(start_response, request)
        return response

    def _enter(self, asker: Asker, request: Request, exchange: Exchange) -> bool:
        return asker.session_id is None or self._sessions.enter(asker.session_id, request.id, exchange)

    def _answered(self, request: Request, asker: Asker, exchange: Exchange) -> Answered:
        """Return the answer to a request that has entered, and let it leave."""
        try:
            return self._exchanges.answered(request, lambda: self._served(request, asker, exchange), stateless=False)
        finally:
            self._leave(asker, request)

    def _exchange(self, asker: Asker) -> Exchange:
        if asker.session_id is None:
            return Exchange()
        return SessionExchange(self._sessions, asker.session_id, asker.version)

    def _leave(self, asker: Asker, request: Request) -> None:
        if asker.session_id is not None:
            self._sessions.leave(asker.session_id, request.id)

    def _served(self, request: Request, asker: Asker, exchange: Exchange) -> dict[str, Any]:
        """Return the result of a request; on a thread of ours."""
        if asker.session_id is not None:
            own = self._sessions.own_answer(request, asker.session_id)
            if own is not None:
                return own
        return self._server.answer(Call(request, asker, exchange))

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
        recipient = Recipient(visitor.environ, start_response, _client_of(visitor, asker), _nothing)
        response = self._exchanges.serve(exchange, lambda: self._answers(requests, asker, exchange), recipient)
        return _too_many(start_response, None) if response is None else response

    def _answers(self, messages: Sequence[Request | Malformed], asker: Asker, exchange: Exchange) -> Answered:
        """Return all answers as one array, which is no larger than a single one may be, but for the last."""
        left, found = self._server.limits.message_size, []
        for message in messages:
            if left > 0:
                answer = self._answer_one(message, asker, exchange)
            else:
                request_id = message.id if isinstance(message, Request) else message.asks
                answer = encode(Failure(request_id, INTERNAL_ERROR, "the answers before it are too large"))
            if answer is not None:
                found.append(answer)
                left -= len(answer)
        return b"[" + b",".join(found) + b"]", 200

    def _answer_one(self, message: Request | Malformed, asker: Asker, exchange: Exchange) -> bytes | None:
        if isinstance(message, Malformed):
            return encode(Failure(message.asks, INVALID_REQUEST, message.reason))
        if not self._enter(asker, message, exchange):
            return encode(Failure(None, INVALID_REQUEST, _still_answered(message)))
        return self._answered(message, asker, exchange)[0]

    # -- streams of a session -----------------------------------------------------------------------------------------

    def _get(self, visitor: Visitor, start_response: StartResponse) -> Iterable[bytes]:
        most = self._gate.most_streams(visitor.environ, start_response)
        if not self._keeps_sessions(visitor) or not most:
            text = "there are no streams here"
            return refuse(start_response, Refusal(405, METHOD_NOT_FOUND, text, headers=(("Allow", "POST"),)))
        asker = self._asker(visitor, "")
        if isinstance(asker, Refusal):
            return refuse(start_response, asker)
        session_id, after = str(asker.session_id), visitor.headers.get(LAST_EVENT_ID.lower())
        if after and not self._store.knows(KIND, session_id, after):
            return refuse(start_response, Refusal(400, INVALID_REQUEST, "the event is not known, or no longer"))
        if not self._slots.take(most, visitor.client):
            return self._no_stream(start_response)
        stream = after.rpartition(".")[0] if after else UNASKED
        if stream != UNASKED:  # from here on, whoever closes the stream gives the slot back
            replay = _Replay(self._store, session_id, stream, after)
            return self._stream(visitor, replay, lambda: self._slots.give_back(visitor.client), start_response)
        return self._unasked_stream(visitor, session_id, after, start_response)

    def _unasked_stream(
        self, visitor: Visitor, session_id: str, after: str | None, start_response: StartResponse
    ) -> Iterable[bytes]:
        try:
            unasked = self._sessions.open_stream(session_id, after)
        except BaseException:
            self._slots.give_back(visitor.client)
            raise

        def closed() -> None:
            self._sessions.close_stream(session_id, unasked)
            self._slots.give_back(visitor.client)

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


def _client_of(visitor: Visitor, asker: Asker | None = None) -> str:
    """Return whose share of what can be answered at once a request takes."""
    session_id = None if asker is None else asker.session_id
    return session_id or visitor.principal or str(visitor.environ.get("REMOTE_ADDR", ""))


def _too_many(start_response: StartResponse, request: Request | None) -> Iterable[bytes]:
    return too_busy(start_response, request, "too many requests are being answered; try again later")


def _still_answered(request: Request) -> str:
    return f"the id {request.id!r:.80} is that of a request which is still being answered"


def _id_of(message: Message) -> Any:
    return message.id if isinstance(message, Request) else None


def _without_memory(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is left of the capabilities where nothing is known of a client from request to request."""
    lasting = ("listChanged", "subscribe")
    kept = {name: one for name, one in capabilities.items() if name != "logging"}
    return {name: {key: value for key, value in one.items() if key not in lasting} for name, one in kept.items()}


def _nothing() -> None:
    """Do nothing when a stream ends: its request goes on."""
