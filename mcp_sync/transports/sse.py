"""HTTP+SSE: a server of 2024-11-05, which answers on one stream of events what is posted to another URL.

::

    connect()   -> GET ... event: endpoint ...                 the stream is the connection
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
from ..engine.caller import Caller
from ..engine.channel import Channel, Sink, pump
from ..engine.connect import Introduction
from ..engine.dispatch import Workers, join, start_thread
from ..engine.interrupts import await_event
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
from ..observe import Observers, Trouble, Unreadable
from ..policies import Connections, Limits, Policies, Reconnect, Replies, Trust, with_knobs
from ..protocol.eras import HANDSHAKE_VERSIONS, Era
from ..protocol.headers import media_type
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
from .errands import DRAIN_BYTES, DRAIN_SECONDS, EVENTS, JSON, Errand, no_answer, read_start, status_error, trouble
from .events import EventReader
from .http import HTTP_KINDS, HttpKnobs, StreamableHTTPTransport
from .passport import Passport, request_headers
from .web import Reply, Web

if TYPE_CHECKING:
    from typing_extensions import Unpack

_numbers = itertools.count(1)


class SseChannel(Channel):
    """A connection over HTTP+SSE.

    Threads: ``mcp-<name>-reader`` reads the stream, ``-post-<n>`` send requests that nobody waits for, ``-heart``
    waits for silence where there is a heartbeat. ``send`` blocks until the server has accepted the message, or has
    answered it; ``close`` until all threads have ended.
    Locks: ``_lock``, held for a few instructions.

    Args:
        web: Makes the requests.
        stream: The reply that is the stream.
        reader: What has read it so far.
        endpoint: Where to post to.
        passport: The headers.
        policies: The transport's.
        name: For people.
        observers: Whom to tell of events.
        early: What came on the stream right behind the endpoint.
    """

    in_order = False

    def __init__(
        self,
        web: Web,
        stream: Reply,
        reader: EventReader,
        endpoint: str,
        passport: Passport,
        policies: Policies,
        name: str,
        observers: Observers | None,
        early: list[Event | TooLong | NotText],
    ) -> None:
        limits, connections = policies[Limits], policies[Connections]
        super().__init__(name, "sse", observers, limits.backlog, f"sse-{next(_numbers)}")
        self._web = web
        self._stream = stream
        self._reader = reader
        self._endpoint = endpoint
        self._foreign = not same_origin(endpoint, web.url)
        self._passport = passport
        self._limit = limits.message_size
        self._piece = policies[Replies].piece
        self._heartbeat = policies[Reconnect].heartbeat
        self._early = early
        self._sink: Sink | None = None
        self._version = ""
        self._lock = threading.Lock()  # guards _errands
        self._errands: dict[RequestId, Errand] = {}
        self._closing = False
        self._forked = False
        self._quiet_since = time.monotonic()
        self._over = threading.Event()
        self._reading_on = threading.Event()
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
        return self._closing

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
            pump(self._messages(), sink)
        finally:
            self._closing = True
            self._drop_all()
            self._over.set()
            self._stream.close()

    def _messages(self) -> Iterator[Message]:
        items, self._early = self._early, []
        while True:
            for item in items:
                message = self._message_in(item)
                if message is not None:
                    yield message
                    self._answered(message)
            if not self._reading_on.is_set():
                await_event(self._reading_on)
            items = self._reader.feed(self._next_piece())

    def _next_piece(self) -> bytes:
        try:
            piece = self._stream.read(self._piece)
        except MCPError as error:
            raise self._end(error) from None
        if not piece:
            raise self._end(MCPConnectionError(f"{self.name}: the server ended the stream"))
        self._quiet_since = time.monotonic()
        return piece

    def _end(self, error: MCPError) -> MCPError:
        if self._closing:
            return MCPConnectionError(f"the connection to {self.name} is closed", details={"phase": "closed"})
        silence = self._heartbeat
        if silence is not None and time.monotonic() - self._quiet_since >= silence:
            error = MCPConnectionError(f"{self.name}: nothing came for {silence:g} s (heartbeat_interval)")
        self.feed.emit(Trouble(self.name, "connection_lost", dict(error.details)))
        return error

    def _message_in(self, item: Event | TooLong | NotText) -> Message | None:
        if isinstance(item, TooLong):
            return too_large(item.head.partition(b"data:")[2].lstrip(), b"", item.limit)
        if isinstance(item, NotText):
            return Malformed(item.reason, item.head)
        if item.name != "message" or not item.data:
            return None
        message = decode(item.data.encode("utf-8"))
        if isinstance(message, Malformed) and message.answers is None and message.asks is None:
            self.feed.emit(Unreadable(self.name, message.reason, message.raw))
        return message

    def _answered(self, message: Message) -> None:
        """The answer has come: nobody need wait any more for the server to accept the question."""
        if isinstance(message, (Result, Failure)) and message.id is not None:
            self.abandon(message.id)

    def _await_silence(self, seconds: float) -> None:
        while not await_event(self._over, max(0.01, self._quiet_since + seconds - time.monotonic())):
            if time.monotonic() - self._quiet_since >= seconds:
                self._stream.exchange.cut()
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
        if not isinstance(message, Request):
            self._post(body, Errand(deadline))
            return
        errand = self._enter(message.id, deadline)
        try:
            self._post(body, errand)
        except MCPTimeoutError as late:
            if late.may_have_run is False:
                raise  # else the answer may have come all the same
        except MCPError as error:
            if not errand.dropped:
                self._refused(message, error)
        finally:
            self._leave(message.id, errand)

    def submit(self, message: Message | Mapping[str, Any], deadline: Deadline, open_ended: bool = False) -> None:
        """Post one message on another thread; all that goes wrong is delivered."""
        message, _ = self._prepared(message)
        checked = message

        def job() -> None:
            try:
                self.send(checked, deadline)
            except MCPError as error:
                self._lost(checked.id if isinstance(checked, Request) else None, error)

        if not self._workers.offer(job):
            raise TooManyRequests(
                f"too many requests to {self.name} are under way, or wait to be sent", may_have_run=False
            )

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
        if self._closing:
            raise MCPConnectionError(f"the connection to {self.name} is closed", may_have_run=False)
        body = encode(message)
        if len(body) > self._limit:
            raise MessageTooLarge(
                f"the message has {len(body)} bytes; max_message_size is {self._limit}",
                details={"size": len(body), "limit": self._limit, "phase": "send"},
                may_have_run=False,
            )
        return (decode(body) if isinstance(message, Mapping) else message), body

    def _post(self, body: bytes, errand: Errand) -> None:
        """Post to the endpoint; it answers on the stream. Credentials that are refused are renewed once."""
        deadline = errand.deadline
        assert deadline is not None
        for last in (False, True):
            generation = self._passport.generation
            headers = {} if self._foreign else request_headers(self._passport, JSON)
            headers |= {"Content-Type": JSON, "Accept": JSON}
            if self._version:
                headers["MCP-Protocol-Version"] = self._version
            reply = self._web.send("POST", self._endpoint, headers, body, errand.on(self._web.exchange(deadline)))
            try:
                if 200 <= reply.status < 300:
                    reply.drain(DRAIN_SECONDS, DRAIN_BYTES)
                    return
                if last or reply.status != 401 or not self._passport.renew(generation, deadline):
                    raise status_error(reply, read_start(reply))
            finally:
                reply.close()

    def _enter(self, key: RequestId, deadline: Deadline) -> Errand:
        errand = Errand(deadline)
        with self._lock:
            self._errands[key] = errand
        if self._closing:
            errand.drop()
        return errand

    def _leave(self, key: RequestId, errand: Errand) -> None:
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
        self._stream.exchange.cut()
        self._drop_all()
        self._reading_on.set()
        self._over.set()

    def close(self, deadline: Deadline) -> None:
        """End the stream, and everything here. Idempotent."""
        if self._forked:
            return
        self.hang_up(deadline)
        self._workers.close(deadline)
        for thread in (self._thread, self._heart):
            join(thread, deadline)
        if self._thread is None:  # nobody reads: it was never started
            self._stream.close()
        self._web.close()

    def forked(self) -> None:
        """In a forked child: nothing can be asked any more; the descriptors have been given back."""
        self._forked = self._closing = True
        self._passport.forked()


@with_knobs(*HTTP_KINDS)
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
    _post_url: str | None = None

    def __init__(
        self, base_url: str | None = None, endpoint_path: str = "/sse", **knobs: Unpack[HttpKnobs]
    ) -> None:
        super().__init__(base_url, endpoint_path, **knobs)

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        """Begin a conversation: always with the handshake, servers of this kind know nothing newer."""
        if introduction.version is None:
            introduction = replace(introduction, version=HANDSHAKE_VERSIONS[-1])
        return super().converse(introduction, deadline)

    def dial(self, deadline: Deadline) -> Channel:
        """Return a fresh channel whose stream is open and has named its endpoint."""
        web = self._web(self.url)
        try:
            return self._open(web, deadline)
        except BaseException:
            web.close()
            raise

    def _open(self, web: Web, deadline: Deadline) -> SseChannel:
        reply = self._get(web, deadline)
        try:
            reader = EventReader(self._policies[Limits].message_size)
            early: list[Event | TooLong | NotText] = []
            endpoint = self._post_url
            if endpoint is None:
                named, early = _await_endpoint(reply, reader)
                endpoint = self._checked_endpoint(named)
            reply.exchange.unbound()
            return SseChannel(
                web, reply, reader, endpoint, self._passport, self._policies, self.name, self._observers, early
            )
        except BaseException:
            reply.close()
            raise

    def _get(self, web: Web, deadline: Deadline) -> Reply:
        for last in (False, True):
            generation = self._passport.generation
            exchange = web.exchange(deadline)
            exchange.counted = False
            reply = web.send("GET", self.url, request_headers(self._passport, EVENTS), None, exchange)
            try:
                if reply.status == 200 and media_type(reply.headers.get("Content-Type")) == EVENTS:
                    return reply
                if reply.status == 401 and not last and self._passport.renew(generation, deadline):
                    reply.close()
                    continue
                start = read_start(reply)
                if 200 <= reply.status < 300:
                    raise no_answer(reply, "with no stream of events", start)
                raise status_error(reply, start)
            except BaseException:
                reply.close()
                raise
        raise AssertionError  # the last one returned, or raised

    def _checked_endpoint(self, reference: str) -> str:
        trust = self._policies[Trust]
        try:
            url, user, _ = without_userinfo(resolve(self.url, reference.strip()))
        except ValueError as flaw:
            raise RemoteProtocolError(f"{self.name}: the endpoint makes no sense: {flaw}", may_have_run=False) from None
        if user is not None or (trust.check_origin and not allowed(url, self.url, trust.origins)):
            raise RemoteProtocolError(
                f"{self.name} names an endpoint on another origin, {redact_url(url)}; if that is right, add its origin "
                "to allowed_origins",
                details={"endpoint": redact_url(url)},
                may_have_run=False,
            )
        return url


def _await_endpoint(reply: Reply, reader: EventReader) -> tuple[str, list[Event | TooLong | NotText]]:
    """Return where to post to, which the first event says, and what came right behind it."""
    while piece := reply.read(1 << 16):
        items = reader.feed(piece)
        for number, item in enumerate(items):
            if isinstance(item, Event) and item.name == "endpoint" and item.data:
                return item.data, items[number + 1 :]
            if not isinstance(item, Event) or item.data:
                raise no_answer(reply, "its first event is no endpoint", piece[:200])
    text = f"{redact_url(reply.url)}: the stream ended before it named an endpoint"
    raise MCPConnectionError(text, may_have_run=False)


@with_knobs(*HTTP_KINDS)
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
