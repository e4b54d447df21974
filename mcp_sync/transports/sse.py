"""HTTP+SSE: a server of 2024-11-05, which answers on one stream of events what is posted to another URL.

::

    start()     -> GET ... event: endpoint ...                 mcp-sse-...-reader; the stream is the connection
    Peer.call() -> POST to the endpoint ... 202                the caller's thread
                   ... event: message -> sink                  mcp-sse-...-reader

Source: 2024-11-05 basic/transports (HTTP with SSE); deprecated since, and still what many servers speak.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.caller import Caller
from ..engine.channel import Channel, Sink, pump
from ..engine.connect import Introduction, closing_time
from ..engine.dispatch import Workers, join, start_thread
from ..engine.lifetimes import tell_of_forks
from ..exceptions import (
    ForkedClientError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MessageTooLarge,
    RemoteProtocolError,
    TooManyRequests,
)
from ..observe import Observers, Streaming, Trouble, Unreadable
from ..policies import Connections, Heartbeat, Limits, Packing, Policies, Replies, Trust, with_knobs
from ..protocol.eras import HANDSHAKE_VERSIONS, Era
from ..protocol.headers import PROTOCOL_VERSION, media_type
from ..protocol.messages import (
    Failure,
    Malformed,
    Message,
    Request,
    RequestId,
    Result,
    decode,
    encode,
    too_large,
)
from ..protocol.origins import allowed, check_url, resolve, same_origin, without_userinfo
from ..protocol.redact import redact_url
from ..protocol.sse import Event, NotText, TooLong
from .errands import (
    DRAIN_BYTES,
    DRAIN_SECONDS,
    EVENTS,
    JSON,
    Courier,
    Errand,
    compressed,
    no_answer,
    read_start,
    status_error,
    trouble,
)
from .events import EventReader
from .http import SSE_KINDS, HttpKnobs, StreamableHTTPTransport, older_origin
from .passport import Passport, forms, hide, masked, request_headers, secrets_in_query
from .web import Reply, Web

if TYPE_CHECKING:
    from typing_extensions import Unpack

HANDED_OVER = ("session_id", "session_version")
"""Keywords of StreamableHTTPTransport that mean nothing here."""

_numbers = itertools.count(1)


class SseChannel(Channel):
    """A connection over HTTP+SSE.

    Threads: ``mcp-<name>-reader`` opens the stream and reads it, ``-post-<n>`` send requests that nobody waits for,
    ``-heart`` waits for silence where there is a heartbeat. ``send`` blocks until the server has said where to post to,
    and has accepted the message, or answered it; ``close`` until all threads have ended.
    Locks: ``_lock``, held for a few instructions.

    Args:
        web: Makes the requests.
        passport: The headers.
        policies: The transport's.
        name: For people.
        observers: Whom to tell of events.
        deadline: By when the stream has to be open.
        endpoint: Where to post to; empty: the server says it.
    """

    in_order = False

    def __init__(
        self,
        web: Web,
        passport: Passport,
        policies: Policies,
        name: str,
        observers: Observers | None,
        deadline: Deadline,
        endpoint: str = "",
    ) -> None:
        limits, connections = policies[Limits], policies[Connections]
        super().__init__(name, "sse", observers, limits.backlog, f"sse-{next(_numbers)}")
        self.origin = older_origin(name)
        self._web = web
        self._endpoint = endpoint
        self._passport = passport
        self._courier = Courier(web, passport)
        self._limit = limits.message_size
        self._replies = policies[Replies]
        self._piece = self._replies.piece
        self._packing = policies[Packing]
        self._trust = policies[Trust]
        self._heartbeat = policies[Heartbeat].seconds
        self._listening = Errand(deadline)
        self._stream: Reply | None = None
        self._reader = EventReader(self._replies.size or limits.message_size)
        self._unsaid = 0
        self._early: list[Event | TooLong | NotText] = []
        self._opened = interrupts.Event()
        self._refusal: MCPError | None = None
        self._sink: Sink | None = None
        self._version = ""
        self._lock = threading.Lock()  # guards _errands
        self._errands: dict[object, Errand] = {}
        self._closing = False
        self._forked = False
        self._quiet_since: float | None = None
        self._over = interrupts.Event()
        self._reading_on = interrupts.Event()
        self._reading_on.set()
        self._thread: threading.Thread | None = None
        self._heart: threading.Thread | None = None
        self._workers = Workers(
            f"mcp-{self.threads}-post", connections.in_flight if connections.at_once else 1
        )
        tell_of_forks(self)

    def __repr__(self) -> str:
        return f"<SseChannel {self.name}{' closing' if self._closing else ''}>"

    @property
    def ending(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._closing or self._refusal is not None

    # -- the stream ---------------------------------------------------------------------------------------------------

    def start(self, sink: Sink) -> None:
        """Begin delivering to the sink.

        Raises:
            MCPConnectionError: There can be no more threads.
        """
        self._sink = sink
        try:
            self._thread = start_thread(f"mcp-{self.threads}-reader", self._read_all, sink)
            if self._heartbeat is not None:
                self._heart = start_thread(f"mcp-{self.threads}-heart", self._await_silence, self._heartbeat)
        except RuntimeError as error:
            text = f"no more threads can be started, and nobody would read from {self.name} ({error})"
            raise MCPConnectionError(text, details={"phase": "connect"}, may_have_run=False) from error

    def _read_all(self, sink: Sink) -> None:
        try:
            stream = self._open()
            if self._refusal is None:
                pump(() if stream is None else self._messages(stream), sink)
        finally:
            if self._refusal is None:
                self._closing = True
                self._drop_all()
            self._opened.set()
            self._over.set()
            if self._stream is not None:
                self._stream.close()

    def _open(self) -> Reply | None:
        """Open the stream and find out where to post to; None: that failed. Then whoever sends is told why."""
        try:
            self._stream = stream = self._get()
            if not self._endpoint:
                self._endpoint = self._checked(self._named_endpoint(stream))
            stream.exchange.unbound()
        except MCPError as error:
            if self._closing:
                return None
            known = {"transport": self.kind, "server": self.name, "phase": "connect"}
            self._refusal = hide(error.about("", may_have_run=False, **known), self._passport.secrets)
            return None
        self._opened.set()
        return stream

    def _get(self) -> Reply:
        reply = self._courier.send(
            "GET", self._listening, lambda: request_headers(self._passport, EVENTS), counted=False
        )
        try:
            kind = media_type(reply.headers.get("Content-Type"))
            if reply.status == 200 and (kind == EVENTS or not self._replies.check_type):
                return reply
            start = read_start(reply)
            if 200 <= reply.status < 300:
                raise no_answer(reply, "with no stream of events", start)
            raise status_error(reply, start)
        except BaseException:
            reply.close()
            raise

    def _named_endpoint(self, stream: Reply) -> str:
        """Return where to post to, which the first event says; what came right behind it is kept."""
        while piece := stream.read(self._piece):
            items = self._reader.feed(piece)
            for number, item in enumerate(items):
                if isinstance(item, Event) and item.name == "endpoint" and item.data:
                    self._early = items[number + 1 :]
                    return item.data
                if not isinstance(item, Event) or item.data:
                    raise no_answer(stream, "its first event is no endpoint", piece[:200])
        raise MCPConnectionError(f"{self.name}: the stream ended before it named an endpoint")

    def _checked(self, reference: str) -> str:
        try:
            url, user, _ = without_userinfo(resolve(self._web.url, reference.strip()))
        except ValueError as flaw:
            raise RemoteProtocolError(f"{self.name}: the endpoint makes no sense: {flaw}") from None
        if user is not None or (self._trust.check_origin and not allowed(url, self._web.url, self._trust.origins)):
            raise RemoteProtocolError(
                f"{self.name} names an endpoint on another origin, {redact_url(url)}; if that is right, add its origin "
                "to allowed_origins",
                details={"endpoint": redact_url(url)},
            )
        return url

    def await_endpoint(self, deadline: Deadline) -> None:
        """Wait until it is known where to post to.

        Raises:
            MCPError: It will never be.
            MCPTimeoutError: The deadline passed.
        """
        if not self._opened.wait(deadline.remaining):
            raise MCPTimeoutError(f"{self.name} has not said in time where to post to", may_have_run=False)
        if self._refusal is not None:
            raise self._refusal.about("", may_have_run=False)
        self._check_open()

    def _messages(self, stream: Reply) -> Iterator[Message]:
        items, self._early = self._early, []
        while True:
            for item in items:
                message = self._message_in(item)
                if message is not None:
                    yield message
                    self._answered(message)
            if not self._reading_on.is_set():
                self._reading_on.wait()
            items = self._reader.feed(self._next_piece(stream))

    def _next_piece(self, stream: Reply) -> bytes:
        self._quiet_since = time.monotonic()
        try:
            piece = stream.read(self._piece)
        except MCPError as error:
            raise self._end(error) from None
        if not piece:
            raise self._end(MCPConnectionError(f"{self.name}: the server ended the stream"))
        self._quiet_since = None
        self._unsaid += len(piece)
        if self._unsaid > self._replies.threshold and self.feed.watched:
            self.feed.emit(Streaming(self.name, self._unsaid, None))
        return piece

    def _end(self, error: MCPError) -> MCPError:
        if self._closing:
            return MCPConnectionError(f"the connection to {self.name} is closed", details={"phase": "closed"})
        silence = self._heartbeat
        if silence is not None and self._silence >= silence:
            error = MCPConnectionError(f"{self.name}: nothing came for {silence:g} s (heartbeat_interval)")
        self.feed.emit(Trouble(self.name, "connection_lost", dict(error.details)))
        return error

    def _message_in(self, item: Event | TooLong | NotText) -> Message | None:
        if isinstance(item, TooLong):
            return too_large(item.head.partition(b"data:")[2].lstrip(), b"", item.limit)
        if isinstance(item, NotText):
            return Malformed(item.reason, masked(item.head, self._secrets))
        self._unsaid = 0
        if item.name != "message" or not item.data:
            return None
        message = decode(item.data.encode("utf-8"))
        if isinstance(message, Malformed):
            message = replace(message, raw=masked(message.raw, self._secrets))
        if isinstance(message, Malformed) and message.answers is None and message.asks is None:
            self.feed.emit(Unreadable(self.name, message.reason, message.raw))
        return message

    @property
    def _secrets(self) -> set[str]:
        return self._passport.secrets | forms(secrets_in_query(self._web.url) | secrets_in_query(self._endpoint or ""))

    def _answered(self, message: Message) -> None:
        """The answer has come: nobody need wait any more for the server to accept the question."""
        if isinstance(message, (Result, Failure)) and message.id is not None:
            self.abandon(message.id)

    @property
    def _silence(self) -> float:
        """For how many seconds the server has said nothing; while nobody listens, that is not its fault."""
        since = self._quiet_since
        return 0.0 if since is None else time.monotonic() - since

    def _await_silence(self, seconds: float) -> None:
        self._opened.wait()
        while not self._over.wait(max(0.01, seconds - self._silence)):
            if self._silence >= seconds:
                self._listening.drop()
                return

    def pause(self) -> None:
        """Let nothing more be read for now."""
        self._reading_on.clear()
        if self._closing:
            self._reading_on.set()

    def resume(self) -> None:
        """Read on."""
        self._reading_on.set()

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, message: Message | Mapping[str, Any], deadline: Deadline) -> None:
        """Post one message; raises as Channel.send says, and HTTPStatusError where it is refused."""
        message, body = self._prepared(message)
        self._carry(message, body, self._enter(message, deadline))

    def submit(self, message: Message | Mapping[str, Any], deadline: Deadline, open_ended: bool = False) -> None:
        """Post one message on another thread; all that goes wrong is delivered."""
        message, body = self._prepared(message)
        errand = self._enter(message, deadline)
        if not self._workers.offer(lambda: self._deliver(message, body, errand)):
            self._leave(message, errand)
            raise TooManyRequests(
                f"too many requests to {self.name} are under way, or wait to be sent", may_have_run=False
            )

    def _deliver(self, message: Message, body: bytes, errand: Errand) -> None:
        """Post a message on a thread of ours."""
        try:
            self._carry(message, body, errand)
        except MCPError as error:
            if not errand.dropped:
                self._lost(message.id if isinstance(message, Request) else None, error)

    def _carry(self, message: Message, body: bytes, errand: Errand) -> None:
        """Post a message; what becomes of a request is delivered, what of any other message is raised."""
        deadline = errand.deadline
        assert deadline is not None
        try:
            self.await_endpoint(deadline)
            self._post(body, errand)
        except MCPTimeoutError as late:
            if late.may_have_run is False or not isinstance(message, Request):
                raise  # else the answer may have come all the same
        except MCPError as error:
            if not isinstance(message, Request):
                raise
            if not errand.dropped:
                self._refused(message, error)
        finally:
            self._leave(message, errand)

    def _refused(self, request: Request, error: MCPError) -> None:
        kind = trouble(error)
        if kind and self.feed.watched:
            self.feed.emit(Trouble(self.name, kind, dict(error.details)))
        self._lost(request.id, error.about(request.method, may_have_run=error.may_have_run))

    def _prepared(self, message: Message | Mapping[str, Any]) -> tuple[Message, bytes]:
        if self._forked:
            raise ForkedClientError(
                f"{self.name} was connected by the process that this one was forked from", may_have_run=False
            )
        self._check_open()
        body = encode(message)
        if len(body) > self._limit:
            raise MessageTooLarge(
                f"the message has {len(body)} bytes; max_message_size is {self._limit}",
                details={"size": len(body), "limit": self._limit, "phase": "send"},
                may_have_run=False,
            )
        return (decode(body) if isinstance(message, Mapping) else message), body

    def _check_open(self) -> None:
        if self._closing:
            raise MCPConnectionError(f"the connection to {self.name} is closed", may_have_run=False)

    def _post(self, body: bytes, errand: Errand) -> None:
        """Post to the endpoint; it answers on the stream. Credentials that are refused are renewed once."""
        foreign = not same_origin(self._endpoint, self._web.url)
        body, packed = compressed(body, self._packing)

        def headers() -> dict[str, str]:
            headers = {} if foreign else request_headers(self._passport, JSON)
            headers |= {"Content-Type": JSON, "Accept": JSON, **packed}
            if self._version:
                headers[PROTOCOL_VERSION] = self._version
            return headers

        reply = self._courier.send("POST", errand, headers, body, url=self._endpoint)
        try:
            if not 200 <= reply.status < 300:
                raise status_error(reply, read_start(reply))
            reply.drain(DRAIN_SECONDS, DRAIN_BYTES)
        finally:
            reply.close()

    def _enter(self, message: Message, deadline: Deadline) -> Errand:
        errand = Errand(deadline)
        with self._lock:
            self._errands[message.id if isinstance(message, Request) else errand] = errand
        if self._closing:
            errand.drop()
        return errand

    def _leave(self, message: Message, errand: Errand) -> None:
        key = message.id if isinstance(message, Request) else errand
        with self._lock:
            if self._errands.get(key) is errand:
                del self._errands[key]

    def abandon(self, request_id: RequestId) -> bool:
        """Wait no longer for a request to be accepted; the server is to be told by a notification."""
        with self._lock:
            errand = self._errands.pop(request_id, None)
        if errand is not None:
            errand.drop()
        return False

    def agreed(self, era: Era, deadline: Deadline) -> None:
        """Take note of the version."""
        self._version = era.version

    def _lost(self, request_id: RequestId | None, error: MCPError) -> None:
        if self._sink is not None:
            self._sink.lost(request_id, error)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _drop_all(self) -> None:
        with self._lock:
            errands = list(self._errands.values())
            self._errands.clear()
        for errand in errands:
            errand.drop()

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to close, and wait for nothing."""
        if self._forked:
            return
        self._closing = True
        self._listening.drop()
        self._drop_all()
        for waited_for in (self._opened, self._reading_on, self._over):
            waited_for.set()

    def close(self, deadline: Deadline) -> None:
        """End the stream, and everything here. Idempotent."""
        if self._forked:
            return
        self.hang_up(deadline)
        self._workers.close(deadline)
        for thread in (self._thread, self._heart):
            join(thread, deadline)
        self._web.close()

    def forked(self) -> None:
        """In a forked child: nothing can be asked any more; the descriptors have been given back."""
        self._forked = self._closing = True
        self._passport.forked()


@with_knobs(*SSE_KINDS, passed_on_to=StreamableHTTPTransport, without=HANDED_OVER)
class SSETransport(StreamableHTTPTransport):
    """Reaches a server of 2024-11-05 by HTTP+SSE.

    The stream of events is the connection: when it ends, calls under way fail, and the next call connects again,
    as ``max_reconnects`` and ``reconnect_interval`` say. The endpoint that the server names has to be on its own
    origin, or on one of ``allowed_origins``, which is shown no credentials.

    Args:
        base_url: As for StreamableHTTPTransport, and so is all that is not named here.
        endpoint_path: The path of the stream.
        heartbeat_interval: Seconds of silence after which the stream counts as lost; None: silence means nothing.

    Raises:
        TypeError: A keyword is misspelt or foreign, or a value has the wrong type.
        ValueError: A value is out of range, or the URL is none.
    """

    transport_type: ClassVar[str] = "sse"
    _kinds = SSE_KINDS
    _post_url: str | None = None

    def __init__(
        self, base_url: str | None = None, endpoint_path: str = "/sse", **knobs: Unpack[HttpKnobs]
    ) -> None:
        for keyword in HANDED_OVER:
            if keyword in knobs:
                raise TypeError(f"{type(self).__name__}() has no use for {keyword!r}: its connection is the session")
        super().__init__(base_url, endpoint_path, **knobs)

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        """Begin a conversation: always with the handshake, servers of this kind know nothing newer."""
        if introduction.version is None:
            newest = HANDSHAKE_VERSIONS[-1]
            introduction = replace(introduction, version=newest, expected=newest)
        return super().converse(introduction, deadline)

    def dial(self, deadline: Deadline) -> Channel:
        """Return a fresh channel; it opens its stream, by the deadline, when it is started."""
        web, endpoint = self._web(self.url), self._post_url or ""
        return SseChannel(web, self._passport, self._policies, self.name, self._observers, deadline, endpoint)

    def _dial_line(self, deadline: Deadline) -> None:
        super()._dial_line(deadline)
        line = self._line
        if line is None or not isinstance(line.channel, SseChannel):
            return
        try:
            line.channel.await_endpoint(deadline)
        except BaseException as error:
            self._end_line(Deadline(closing_time(error)))
            raise


@with_knobs(*SSE_KINDS, passed_on_to=StreamableHTTPTransport, without=HANDED_OVER)
class SseTransport(SSETransport):
    """SSETransport for those who know both URLs.

    Args:
        sse_url: Of the stream.
        post_url: Where to post to; None: the server names it.
        **knobs: As for SSETransport.
    """

    def __init__(self, sse_url: str, post_url: str | None = None, **knobs: Unpack[HttpKnobs]) -> None:
        super().__init__(sse_url, "", **knobs)
        if post_url is not None:
            self._post_url = without_userinfo(check_url(post_url, ("http", "https"), "post_url"))[0]
