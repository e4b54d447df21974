"""HttpChannel: a connection over Streamable HTTP: every message is a POST, and its answer the reply.

The thread that asks sends the request and reads the reply itself, be it JSON or a stream of events, and resumes a
stream that broke off. There are threads only for the stream of what the server says unasked (GET), for subscriptions,
and for requests that nobody waits for.

::

    Peer.call()   -> send()   -> POST ... reply -> sink              the caller's thread
    Peer.submit() -> submit() -> Workers -> POST ... reply -> sink   mcp-http-...-post-1
                     agreed() -> GET ... events -> sink              mcp-http-...-get

Source: basic/transports (2025-11-25: sessions, GET stream, resumption), basic/transports/streamable-http (2026-07-28).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.channel import Channel, Sink
from ..engine.dispatch import Crew, Workers, exiting, join, start_thread
from ..engine.lifetimes import tell_of_forks
from ..exceptions import (
    AuthError,
    ForkedClientError,
    HTTPStatusError,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MessageTooLarge,
    RemoteProtocolError,
    SessionExpired,
    TooManyRequests,
)
from ..observe import Ignored, Observers, Streaming, Trouble, Unreadable
from ..policies import Connections, Limits, Packing, Policies, Replies, Sessions
from ..protocol.eras import Era
from ..protocol.framing import LineSplitter, Overlong
from ..protocol.headers import (
    LAST_EVENT_ID,
    PROTOCOL_VERSION,
    SESSION_ID,
    Mirror,
    assigns_session,
    media_type,
    session_id_flaw,
    version_of,
)
from ..protocol.messages import (
    Batch,
    Failure,
    Malformed,
    Message,
    Notification,
    Request,
    RequestId,
    Result,
    decode,
    encode,
    too_large,
)
from ..protocol.redact import mask
from ..protocol.sse import Event, NotText, TooLong
from .errands import (
    DRAIN_BYTES,
    DRAIN_SECONDS,
    EVENTS,
    JSON,
    LINES,
    Courier,
    Cursor,
    Errand,
    compressed,
    failure_in,
    known_of,
    no_answer,
    read_start,
    read_whole,
    status_error,
    trouble,
    unreadable,
)
from .events import EventReader
from .keeping import SessionKeeper
from .passport import Passport, forms, hide, masked, request_headers, secrets_in_query
from .web import Reply, Web

ANSWERS = f"{JSON}, {EVENTS}"
"""What a request may be answered with."""
GREETING_SECONDS, GREETING_SHARE = 1.0, 1 / 4
"""How long a conversation waits for the stream of what the server says unasked: seconds, and share of the timeout."""
FAREWELL_SECONDS, EXIT_FAREWELL_SECONDS = 2.0, 0.3
"""How long ending the session on the server may take; the second when the interpreter exits."""
STREAM_PAUSE = 1.0
"""Seconds before the stream of what the server says unasked is opened again."""
MISSED = 2
"""After how many attempts in vain to open it again those who wait for it are told."""
RESUMPTIONS = 5
"""How many times in a row a broken stream is asked for in vain, where the server cannot be reached at all."""
SUBSCRIPTIONS = 64
"""Requests that stay open, at once."""

_numbers = itertools.count(1)


class HttpChannel(Channel):
    """A connection over Streamable HTTP.

    Threads: ``mcp-<name>-get`` for the GET stream, ``-open-<n>`` for each request that stays open, ``-post-<n>`` for
    those that nobody waits for. ``send`` blocks until the answer has been delivered; ``agreed`` until the GET stream
    has begun, a second at most; ``close`` until all threads have ended.
    Locks: ``_lock``, held for a few instructions.

    Args:
        web: Makes the requests.
        passport: The headers.
        mirror: What is known of the server's tools.
        policies: The transport's.
        name: For people.
        observers: Whom to tell of events.
        session: The id and the protocol version of the session to go on with.
        keeper: The sessions of the transport; None: it has no others.

    Attributes:
        replaces: Whether this connection comes in place of another of the same conversation.
    """

    in_order = False

    def __init__(
        self,
        web: Web,
        passport: Passport,
        mirror: Mirror,
        policies: Policies,
        name: str,
        observers: Observers | None = None,
        session: tuple[str, str] | None = None,
        keeper: SessionKeeper | None = None,
    ) -> None:
        limits, connections = policies[Limits], policies[Connections]
        super().__init__(name, "http", observers, limits.backlog, f"http-{next(_numbers)}")
        self.origin = name
        self._web = web
        self._passport = passport
        self._courier = Courier(web, passport)
        self._mirror = mirror
        self._limit = limits.message_size
        self._replies = policies[Replies]
        self._reply_limit = self._replies.size or limits.message_size
        self._packing = policies[Packing]
        self._sessions = policies[Sessions]
        self._sink: Sink | None = None
        self._keeper = keeper if keeper is not None else SessionKeeper(self._sessions, name)
        self.replaces = False
        # guards _errands, _given_up, and that _sink and _session_id are taken once
        self._lock = threading.Lock()
        self._errands: dict[RequestId | Errand, Errand] = {}
        self._closing = False
        self._forked = False
        self._session_id, self._version = session or ("", "")
        self._offered_id = ""
        self._session_lost = False
        self._session_left = False
        self._given_up = False
        self._agreed = False
        self._last_used = time.monotonic()
        self._streamed = False
        self._listener: threading.Thread | None = None
        self._listening = Errand(None)
        self._reading_on = interrupts.Event()
        self._reading_on.set()
        posting = connections.in_flight if connections.at_once else 1
        self._workers = Workers(f"mcp-{self.threads}-post", posting)
        self._open = Crew(f"mcp-{self.threads}-open", SUBSCRIPTIONS)
        tell_of_forks(self)

    def __repr__(self) -> str:
        return f"<HttpChannel {self.name}{' closing' if self._closing else ''}>"

    @property
    def session_id(self) -> str:
        """What the server calls this session; empty if it keeps none."""
        return self._session_id

    @property
    def version(self) -> str:
        """The protocol version of the handshake era that is spoken; empty before, and in the stateless era."""
        return self._version

    def start(self, sink: Sink) -> None:
        """Begin delivering to the sink."""
        self._sink = sink

    @property
    def ending(self) -> bool:
        """Whether nothing can be sent any more, or the server has forgotten the session, or we have ended it."""
        return self._closing or self._session_lost or self._given_up

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
        """Send one message; a request's answer, or why there is none, has been delivered when this returns in time.

        Raises:
            LocalProtocolError: It cannot be said in JSON, or in headers.
            MessageTooLarge: It is over the limit.
            MCPConnectionError: The connection is closed; or a message that is no request did not arrive.
            MCPTimeoutError: The deadline passed before anything was sent.
            HTTPStatusError: The server refused a message that is no request.
        """
        message, body = self._prepared(message)
        if not isinstance(message, Request):
            self._tell(message, body, self._enter(None, deadline))
        elif (errand := self._entered(message, deadline)) is not None:
            self._ask(message, body, errand)

    def submit(self, message: Message | Mapping[str, Any], deadline: Deadline, open_ended: bool = False) -> None:
        """Send one message on another thread; all that goes wrong is delivered."""
        message, body = self._prepared(message)
        key = message.id if isinstance(message, Request) else None
        errand = self._entered(message, deadline) if isinstance(message, Request) else self._enter(None, deadline)
        if errand is None:
            return
        if open_ended:
            started = self._open.start(lambda: self._deliver(message, body, errand, open_ended=True))
        else:
            started = self._workers.offer(lambda: self._deliver(message, body, errand))
        if not started:
            self._leave(key, errand)
            raise TooManyRequests(
                f"too many requests to {self.name} are under way, or wait to be sent", may_have_run=False
            )

    def _deliver(self, message: Message, body: bytes, errand: Errand, open_ended: bool = False) -> None:
        """Send a message on a thread of ours."""
        key = message.id if isinstance(message, Request) else None
        try:
            if not isinstance(message, Request):
                self._tell(message, body, errand)
            elif not self._ask(message, body, errand, open_ended):
                raise MCPTimeoutError(f"{message.method}: no answer in time", may_have_run=None)
        except MCPError as error:
            if not errand.dropped:
                self._lost(key, error)

    def _prepared(self, message: Message | Mapping[str, Any]) -> tuple[Message, bytes]:
        self._check_open()
        body = encode(message)
        if len(body) > self._limit:
            raise MessageTooLarge(
                f"the message has {len(body)} bytes; max_message_size is {self._limit}",
                details={"size": len(body), "limit": self._limit, "phase": "send"},
                may_have_run=False,
            )
        if isinstance(message, Mapping):
            message = decode(body)
            if isinstance(message, Malformed):
                raise LocalProtocolError(f"this is no message: {message.reason}", may_have_run=False)
        return message, body

    def _check_open(self) -> None:
        if self._forked:
            raise ForkedClientError(
                f"{self.name} was connected by the process that this one was forked from", may_have_run=False
            )
        if self._closing:
            raise MCPConnectionError(f"the connection to {self.name} is closed", may_have_run=False)

    def _entered(self, request: Request, deadline: Deadline) -> Errand | None:
        """Take note of a request under way; None: there is no session any more, and whoever asks has been told."""
        try:
            return self._enter(request.id, deadline)
        except SessionExpired as error:
            self._lost(request.id, error)
            return None

    def _enter(self, key: RequestId | None, deadline: Deadline) -> Errand:
        """Take note of a message under way; one that is no request has no id, but has to be ended as well."""
        errand = Errand(deadline)
        with self._lock:
            if self._given_up:
                raise self._idle_error()
            self._errands[errand if key is None else key] = errand
        if self._closing:
            errand.drop()
        return errand

    def _leave(self, key: RequestId | None, errand: Errand) -> None:
        with self._lock:
            known: RequestId | Errand = errand if key is None else key
            if self._errands.get(known) is errand:
                del self._errands[known]
            self._last_used = time.monotonic()

    def _idle_error(self) -> SessionExpired:
        return SessionExpired(
            f"the session with {self.name} was ended because it was idle (session_timeout)",
            details={"phase": "send"},  # nothing of what was to be said has been
            may_have_run=False,
        )

    def abandon(self, request_id: RequestId) -> bool:
        """Hang up; in the stateless era that is how the server is told (patterns/cancellation)."""
        with self._lock:
            errand = self._errands.pop(request_id, None)
        if errand is not None:
            errand.drop()
        return not self._version

    # -- one request --------------------------------------------------------------------------------------------------

    def _ask(self, request: Request, body: bytes, errand: Errand, open_ended: bool = False) -> bool:
        """Send a request, and deliver its answer or what went wrong; False: it is too late for either."""
        try:
            if assigns_session(request) and self._sessions.on:
                self._keeper.enter(self, self.replaces)
            return self._converse(request, body, errand, open_ended)
        except MCPTimeoutError as late:
            if late.may_have_run is False:
                raise
            return False
        except MCPError as error:
            if not errand.dropped:
                named = str(error).startswith(request.method)
                error = self._hidden(error.about("" if named else request.method, may_have_run=error.may_have_run))
                self._lost(request.id, error)
                self._report(error)
            return True
        finally:
            self._leave(request.id, errand)

    def _converse(self, request: Request, body: bytes, errand: Errand, open_ended: bool) -> bool:
        cursor = Cursor()
        reply = self._post(request, body, errand, open_ended)
        try:
            if self._take_reply(request, reply, cursor, open_ended):
                return True
            broken = _ended_without_answer(reply, cursor)
        except SessionExpired:
            raise
        except MCPConnectionError as error:
            broken = error
        finally:
            reply.close()
        return errand.dropped or self._resume(request, errand, cursor, broken)

    def _post(self, message: Message, body: bytes, errand: Errand, open_ended: bool = False) -> Reply:
        """Send a message and return the reply; credentials that are refused are renewed once."""
        body, packed = compressed(body, self._packing)

        def headers() -> dict[str, str]:
            headers = self._headers(ANSWERS)
            headers.update(packed)
            headers.update(self._mirrored(message))
            headers["Content-Type"] = JSON
            return headers

        return self._courier.send("POST", errand, headers, body, counted=not open_ended)

    def _headers(self, accept: str) -> dict[str, str]:
        headers = request_headers(self._passport, accept)
        headers["Accept-Encoding"] = "gzip, deflate" if JSON in accept else "identity"
        return headers

    def _mirrored(self, message: Message | None) -> dict[str, str]:
        """Return the headers that say what the body says, or to which session a request belongs."""
        headers = {} if message is None else self._mirror.headers(message)
        if headers or (message is not None and assigns_session(message)):
            return headers
        if self._version:
            headers[PROTOCOL_VERSION] = self._version
        if self._session_id:
            headers[SESSION_ID] = self._session_id
        return headers

    # -- one reply ----------------------------------------------------------------------------------------------------

    def _take_reply(self, request: Request, reply: Reply, cursor: Cursor, open_ended: bool) -> bool:
        """Deliver what a reply says; False: it is a stream that ended without the answer."""
        if not 200 <= reply.status < 300:
            body = read_start(reply)
            failure = failure_in(reply, body, request.id)
            if failure is None or self._is_verdict(reply, failure):
                raise self._verdict(reply, body)
            self._received(failure)
            return True
        kind = media_type(reply.headers.get("Content-Type"))
        if reply.status in (202, 204):
            raise no_answer(reply, "a request wants an answer")
        self._note_session(request, reply)
        if kind == EVENTS:
            if open_ended:
                reply.exchange.unbound()
            return self._read_events(request, reply, cursor)
        if kind in LINES:
            return self._read_lines(request, reply)
        if kind != JSON and self._replies.check_type:
            raise no_answer(reply, f"with {kind or 'no content type'}, not JSON", read_start(reply))
        return self._read_json(request, reply)

    def _read_json(self, request: Request, reply: Reply) -> bool:
        self._await_room(reply)
        body = read_whole(reply, self._reply_limit, self._replies, self._progress)
        if not body:
            raise no_answer(reply, "with nothing in it")
        message = decode(body)
        if isinstance(message, Malformed) and message.asks is None:
            raise unreadable(reply, message, body, request.method)
        if not self._take_answer(request, message):
            raise no_answer(reply, "with no answer in it", body)
        return True

    def _progress(self, received: int, total: int | None) -> None:
        if self.feed.watched:
            self.feed.emit(Streaming(self.name, received, total))

    def _is_verdict(self, reply: Reply, failure: Failure) -> bool:
        """Whether a status says more than the JSON-RPC error that came with it."""
        lost_session = reply.status == 404 and self._session_id and failure.code != -32601
        return reply.status in (401, 403, 407, 429) or bool(lost_session)

    def _verdict(self, reply: Reply, body: bytes) -> MCPError:
        error = status_error(reply, body)
        if reply.status == 404 and self._session_id:
            self._session_lost = True
            self._keeper.leave(self)
            return SessionExpired(
                f"the server has forgotten the session: {error}", details=error.details, may_have_run=False
            )
        return error

    def _note_session(self, request: Request, reply: Reply) -> None:
        """Take note of the session that the reply to an initialize assigns."""
        if not assigns_session(request):
            return
        given = reply.headers.get(SESSION_ID)
        self._offered_id = ""
        if given is None:
            return
        flaw = session_id_flaw(given)
        if flaw and self._sessions.on:
            raise RemoteProtocolError(
                f"{self.name}: {flaw}", details={**known_of(reply), "phase": "connect"}, may_have_run=True
            )
        self._offered_id = given

    def _take_answer(self, request: Request, message: Message) -> bool:
        """Deliver a message that came on the way of a request's answer; False: it was not that answer.

        Raises:
            RemoteProtocolError: It is an answer that cannot be read, or one to somebody else.
        """
        if isinstance(message, Notification):
            self._received(message)
            return False
        if isinstance(message, Batch):
            return self._take_batch(request, message)
        if isinstance(message, Malformed):
            if message.asks is not None:
                self._received(message)
                return False
            raise message.as_error(request.method)
        if not isinstance(message, (Result, Failure)):
            self._received(message)
            return False
        if isinstance(message, Failure) and message.id is None:
            message = replace(message, id=request.id)
        if message.id != request.id or type(message.id) is not type(request.id):
            answered = mask(repr(message.id), self._secrets)[:80]
            raise RemoteProtocolError(
                f"{request.method}: the reply answers {answered}, the request was {request.id!r:.80}",
                details={"phase": "parse", "method": request.method},
                may_have_run=None,
            )
        if isinstance(message, Result):
            message = self._understood(request, message)
        self._received(message)
        return True

    def _take_batch(self, request: Request, batch: Batch) -> bool:
        if self._version != "2025-03-26":
            version = self._version or "2026-07-28"
            raise RemoteProtocolError(f"{request.method}: a batch, which {version} does not allow", may_have_run=True)
        answers = [self._take_answer(request, message) for message in batch.messages]
        return any(answers)

    def _understood(self, request: Request, answer: Result) -> Result:
        """Take in what an answer says about the way we talk; tools that must not be used are left out."""
        if assigns_session(request):
            self._version = version_of(request, answer.result) or self._version
            self._session_id = self._offered_id if self._sessions.on else ""
            if not self._session_id:
                self._keeper.leave(self)
        result, dropped = self._mirror.learn(request, answer.result)
        for name, reason in dropped:
            self.feed.emit(Unreadable(self.name, f"the tool {name!r:.80} is left out: {reason}", b""))
        return answer if result is answer.result else Result(answer.id, result)

    def _read_events(self, request: Request, reply: Reply, cursor: Cursor) -> bool:
        """Deliver the events of a stream until the answer has come; False: it ended before."""
        reader = EventReader(self._reply_limit)
        received = 0
        while True:
            self._await_room(reply)
            piece = reply.read(self._replies.piece)
            if not piece:
                return False
            received += len(piece)
            if received > self._replies.threshold:
                self._progress(received, None)
            for item in reader.feed(piece):
                if self._take_event(request, item, cursor):
                    reply.drain(DRAIN_SECONDS, DRAIN_BYTES)
                    return True

    def _take_event(self, request: Request, item: Event | TooLong | NotText, cursor: Cursor) -> bool:
        if not isinstance(item, Event):
            raise _bad_event(request, item)
        is_new = cursor.takes(item)
        if item.name != "message" or not item.data:
            return False
        message = decode(item.data.encode("utf-8"))
        if not is_new and isinstance(message, (Notification, Request)):
            return False  # replayed, and heard already; an answer is one whatever the id of its event
        cursor.fruitless = 0
        return self._take_answer(request, message)

    def _read_lines(self, request: Request, reply: Reply) -> bool:
        splitter = LineSplitter(self._reply_limit)
        while True:
            self._await_room(reply)
            piece = reply.read(self._replies.piece)
            lines: list[bytes | Overlong] = splitter.feed(piece) if piece else [splitter.flush()]
            for line in lines:
                if isinstance(line, Overlong):
                    raise too_large(line.head, line.tail, line.limit).as_error(request.method)
                if line and self._take_answer(request, decode(line)):
                    reply.drain(DRAIN_SECONDS, DRAIN_BYTES)
                    return True
            if not piece:
                raise no_answer(reply, "with no answer in it")

    def _await_room(self, reply: Reply) -> None:
        """Wait while whoever receives has too much to do; raises MCPTimeoutError where the reply is late by then."""
        if self._reading_on.is_set():
            return
        deadline = reply.exchange.deadline
        if not self._reading_on.wait(None if deadline is None else deadline.remaining):
            raise MCPTimeoutError(f"{self.name}: too much else was to be done", may_have_run=None)

    # -- streams that break off ---------------------------------------------------------------------------------------

    def _resume(self, request: Request, errand: Errand, cursor: Cursor, broken: MCPConnectionError) -> bool:
        """Ask for the rest of a stream (2025-11-25: always by GET) until the answer has come; False: too late."""
        unreachable = 0
        while True:
            if not self._version or cursor.last_id is None or unreachable > RESUMPTIONS:
                raise broken
            if not errand.sleep(cursor.pause()):
                return errand.dropped
            reply = None
            try:
                reply = self._get_rest(errand, cursor, broken)
                unreachable = 0
                if self._take_reply_again(request, reply, cursor, broken):
                    return True
            except MCPTimeoutError:
                return False  # whatever it says of the GET: the request has been sent
            except MCPConnectionError as error:
                if isinstance(error, SessionExpired):
                    raise
                unreachable += reply is None
            finally:
                if reply is not None:
                    reply.close()
            if errand.dropped:
                return True

    def _get_rest(self, errand: Errand, cursor: Cursor, broken: MCPError) -> Reply:
        try:
            return self._get(errand, cursor)
        except AuthError as error:
            raise _cut_short(error) from broken

    def _take_reply_again(self, request: Request, reply: Reply, cursor: Cursor, broken: MCPError) -> bool:
        if reply.status == 200 and media_type(reply.headers.get("Content-Type")) == EVENTS:
            return self._read_events(request, reply, cursor)
        raise _cut_short(self._verdict(reply, read_start(reply))) from broken

    def _get(self, errand: Errand, cursor: Cursor) -> Reply:
        def headers() -> dict[str, str]:
            headers = {**self._headers(EVENTS), **self._mirrored(None)}
            if cursor.last_id is not None:
                headers[LAST_EVENT_ID] = cursor.last_id.encode("utf-8").decode("latin-1")  # as http.client writes
            return headers

        return self._courier.send("GET", errand, headers, counted=False)

    # -- what the server says unasked ---------------------------------------------------------------------------------

    def agreed(self, era: Era, deadline: Deadline) -> None:
        """Open the stream of what the server says unasked, in the handshake era; a server need not have one."""
        if not era.server_asks:
            self._version = self._session_id = ""
        self._keep()
        if not era.server_asks:
            return
        self._version = self._version or era.version
        begun = interrupts.Event()
        try:
            self._listener = start_thread(f"mcp-{self.threads}-get", self._listen, begun)
        except RuntimeError:  # no more threads: calls do not need one
            return
        begun.wait(min(GREETING_SECONDS, deadline.limit * GREETING_SHARE, deadline.remaining))

    def _keep(self) -> None:
        """Take note of whether there is a session, now that the conversation has begun; it may be ended when idle."""
        if not self._session_id:
            self._keeper.leave(self)
            return
        self._last_used = time.monotonic()
        self._agreed = True
        self._keeper.enter(self, replaces=True)  # one that goes on with somebody else's has not asked for a place yet
        self._keeper.watch()

    def _listen(self, begun: interrupts.Event) -> None:
        cursor = Cursor()
        while not self._listening.dropped:
            try:
                if not self._listen_once(cursor, begun):
                    return
            except HTTPStatusError as error:  # 401, or a redirect to where we do not go: there is no such stream
                self._deaf(error)
                return
            except MCPError as error:
                self.feed.emit(Ignored(self.name, f"the stream of the server's messages broke off: {error}"))
                if self._streamed and cursor.fruitless == MISSED and not self._listening.dropped:
                    self._lost(None, error.about("what is said unasked", may_have_run=None))
            finally:
                begun.set()
            if not self._listening.sleep(cursor.pause(STREAM_PAUSE)):
                return

    def _listen_once(self, cursor: Cursor, begun: interrupts.Event) -> bool:
        """Deliver what one GET stream brings; False: the server has none."""
        reply = self._get(self._listening, cursor)
        try:
            if reply.status >= 500:
                return True
            if reply.status != 200 or media_type(reply.headers.get("Content-Type")) != EVENTS:
                if self._streamed:  # and else a 404 says, as 405 does, that there is no such stream
                    self._deaf(self._verdict(reply, b""))
                return False
            self._streamed = True
            begun.set()
            reader = EventReader(self._reply_limit)
            while piece := reply.read(self._replies.piece):
                for item in reader.feed(piece):
                    self._take_news(item, cursor)
                self._await_room(reply)
            return True
        finally:
            reply.close()

    def _deaf(self, error: MCPError) -> None:
        """Tell those who listen that the stream will not be opened again, if there ever was one."""
        if self._streamed and not self._listening.dropped:
            self._lost(None, error.about("what is said unasked", may_have_run=None))

    def _take_news(self, item: Event | TooLong | NotText, cursor: Cursor) -> None:
        if not isinstance(item, Event):
            head = masked(item.head, self._secrets)
            self.feed.emit(Unreadable(self.name, "an event that is too long, or no text", head))
            return
        if not cursor.takes(item) or item.name != "message" or not item.data:
            return
        cursor.fruitless = 0
        self._last_used = time.monotonic()
        message = decode(item.data.encode("utf-8"))
        for part in message.messages if isinstance(message, Batch) else (message,):
            if isinstance(part, (Result, Failure)) or (isinstance(part, Malformed) and part.answers is not None):
                # basic/transports: none of these, but on a stream that is resumed
                self.feed.emit(Ignored(self.name, "an answer where only news is due"))
            else:
                self._received(part)

    # -- messages that are no requests --------------------------------------------------------------------------------

    def _tell(self, message: Message, body: bytes, errand: Errand) -> None:
        try:
            self._post_it(message, body, errand)
        finally:
            self._leave(None, errand)

    def _post_it(self, message: Message, body: bytes, errand: Errand) -> None:
        reply = self._post(message, body, errand)
        try:
            if 200 <= reply.status < 300:
                reply.drain(DRAIN_SECONDS, DRAIN_BYTES)
            else:
                raise self._verdict(reply, read_start(reply))
        except MCPError as error:
            hidden = self._hidden(error)
            self._report(hidden)
            raise hidden from None
        finally:
            reply.close()

    # -- delivering ---------------------------------------------------------------------------------------------------

    def _received(self, message: Message) -> None:
        sink = self._sink
        if sink is not None:
            sink.received(message)

    def _lost(self, request_id: RequestId | None, error: MCPError) -> None:
        sink = self._sink
        if sink is not None:
            sink.lost(request_id, error)

    def _hidden(self, error: MCPError) -> MCPError:
        """Return an error without what is secret in what the server said."""
        return hide(error, self._secrets)

    @property
    def _secrets(self) -> set[str]:
        return self._passport.secrets | {self._session_id, self._offered_id} | forms(secrets_in_query(self._web.url))

    def _report(self, error: MCPError) -> None:
        kind = trouble(error)
        if kind and self.feed.watched:
            self.feed.emit(Trouble(self.name, kind, dict(error.details)))

    # -- the end ------------------------------------------------------------------------------------------------------

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to close, and wait for nothing."""
        if self._forked:
            return
        self._closing = True
        with self._lock:
            errands = list(self._errands.values())
            self._errands.clear()
        for errand in (*errands, self._listening):
            errand.drop()
        self._reading_on.set()

    def close(self, deadline: Deadline) -> None:
        """End the session on the server, and everything here. Idempotent."""
        if self._forked:
            return
        self.hang_up(deadline)
        with self._lock:
            sink, self._sink = self._sink, None
        if sink is not None:
            text = f"the connection to {self.name} is closed"
            sink.closed(MCPConnectionError(text, details={"phase": "closed"}))
        self._end_session(deadline)
        self._keeper.leave(self)
        self._workers.close(deadline)
        self._open.close(deadline)
        if not exiting():
            join(self._listener, deadline)
        self._web.close()

    def _end_session(self, deadline: Deadline) -> None:
        """Tell the server that the session is over (basic/transports: it may not care)."""
        with self._lock:
            session_id, self._session_id = self._session_id, ""
        if not session_id or self._session_lost or self._session_left:
            return
        patience = EXIT_FAREWELL_SECONDS if exiting() else FAREWELL_SECONDS
        named = {SESSION_ID: session_id, PROTOCOL_VERSION: self._version}
        errand = Errand(deadline.sooner(patience))
        try:
            reply = self._courier.send("DELETE", errand, lambda: {**self._headers("*/*"), **named}, counted=False)
            reply.drain(DRAIN_SECONDS, DRAIN_BYTES)
            reply.close()
        except MCPError as error:
            self.feed.emit(Ignored(self.name, f"the session could not be ended on the server: {error}"))

    def leave_session(self) -> None:
        """Do not end the session on the server when this connection is closed: somebody else goes on with it."""
        self._session_left = True

    def expire(self, patience: float) -> None:
        """End a session that nobody has used for so many seconds, soon; wait for nothing."""
        with self._lock:
            used = bool(self._errands) or time.monotonic() - self._last_used < patience
            if used or not self._agreed or self.ending or self._session_left:
                return
            self._given_up = True
        self._listening.drop()
        self._keeper.leave(self)
        self.feed.emit(Ignored(self.name, "the session is ended because it is idle"))
        self._workers.offer(lambda: self._end_session(Deadline(FAREWELL_SECONDS)))  # or else on closing

    def forked(self) -> None:
        """In a forked child: nothing can be asked any more; the descriptors have been given back."""
        self._forked = self._closing = True
        self._passport.forked()


def _bad_event(request: Request, item: TooLong | NotText) -> MCPError:
    if isinstance(item, TooLong):
        return too_large(item.head, b"", item.limit).as_error(request.method)
    return RemoteProtocolError(f"{request.method}: an event that is no text: {item.reason}", may_have_run=None)


def _cut_short(error: MCPError) -> MCPError:
    return error.about("the reply broke off, and cannot be resumed", may_have_run=None)


def _ended_without_answer(reply: Reply, cursor: Cursor) -> MCPConnectionError:
    hint = "" if cursor.last_id is not None else ", and without event ids it cannot be resumed"
    return MCPConnectionError(
        f"{known_of(reply)['url']}: the stream ended without the answer{hint}",
        details={**known_of(reply), "phase": "wait"},
        may_have_run=None,
    )
