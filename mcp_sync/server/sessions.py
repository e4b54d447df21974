"""Sessions: the handshake era over HTTP (2025-03-26 to 2025-11-25): who has greeted us, and their open streams.

What has to outlive one HTTP request is in a SessionStore: who the client is, what it subscribed to, the events of its
streams. With a store that processes share, each request of a session may come to another of them: an answer to a
question, or a cancel, that comes to the wrong one is broadcast.

Source: basic/transports (session management, resumability, 2025-11-25), utilities/{cancellation,logging}.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline
from ..engine.dispatch import Job, Lane
from ..exceptions import JSONRPCError, MCPConnectionError, MCPError, MCPTimeoutError
from ..protocol.eras import HANDSHAKE_VERSIONS
from ..protocol.messages import Failure, Notification, Request, RequestId, Result, encode
from .allowances import check_greeting, check_subscribed, check_uri
from .answering import checked_level
from .calls import Asker, Wire
from .exchange import Exchange
from .hub import PROMPTS, RESOURCES, TOOLS, Notice, any_at_or_above
from .stores import Gone, SessionStore
from .streams import Outbox, event, share_of

if TYPE_CHECKING:
    from .app import Server

log = logging.getLogger("mcp_sync")

KIND = "session"
UNASKED = "get"
"""The stream of what is said without being asked: that of a plain GET."""
FIRST_LEVEL = "info"
CLOSE_SECONDS = 5.0
LOOK_SECONDS = 15.0
"""How often a stream that stays open looks whether its session does."""
SLICE_SECONDS = 1.0
"""How often one who waits for a client's answer looks whether its session still exists."""
PRIMED_SINCE = HANDSHAKE_VERSIONS.index("2025-11-25")
MAX_WAITING = 10_000
"""How many events may wait to be kept; the stream of one for which there is no room ends."""
NEWS_BYTES = 200
"""What telling an answer to other processes adds to it."""
MAX_ID = 200
"""Characters of the id of a request whose cancel is told to other processes."""

_QUESTION = re.compile(r"([0-9a-f]{16})\.[A-Za-z0-9_-]{16}")
_LISTS = (TOOLS, PROMPTS, RESOURCES)


class SessionExchange(Exchange):
    """One request of a session: what it says can be asked for again, and it can ask the client."""

    asks = True

    def __init__(self, sessions: Sessions, session_id: str, version: str) -> None:
        stream = secrets.token_hex(8)

        def record(data: bytes, last: bool) -> str | None:
            return sessions.record(session_id, stream, data, last)

        super().__init__(record, primes=HANDSHAKE_VERSIONS.index(version) >= PRIMED_SINCE)
        self._sessions = sessions
        self._session_id = session_id

    def ask(self, questions: Mapping[str, Wire], deadline: Deadline) -> dict[str, dict[str, Any]]:
        """Ask the client on the stream of its request; the answers come with other requests."""
        return self._sessions.ask(self, self._session_id, questions, deadline)


class Unasked:
    """The stream of one session for what is said without being asked. It is a Listener of the server's Hub.

    What it is told is kept in the store, and put where it is written, by the lane of the Sessions.

    Locks: ``_lock``, held while something is kept and put, and while what was kept before is.

    Attributes:
        token: What tells it from other streams of the session.
    """

    def __init__(self, sessions: Sessions, session_id: str) -> None:
        self.outbox = Outbox()
        self.token = secrets.token_hex(8)
        self._sessions = sessions
        self._session_id = session_id
        self._looked = time.monotonic()
        self._lock = threading.Lock()  # guards the order of events
        self._watched: frozenset[str] = frozenset()
        self._change = object()  # a new one with every change of what is watched
        self._known: object = None  # the change up to which we know it

    @property
    def over(self) -> bool:
        """Whether nobody reads it any more."""
        return self.outbox.over

    def begin(self, join: Callable[[], None], after: str | None) -> None:
        """Hear of changes from now on; before them comes what the session has missed since an event."""
        with self._lock:
            join()
            missed = self._sessions.missed(self._session_id, after) if after else ()
            if missed:  # as one piece: into an empty outbox goes whatever it is
                self.outbox.put_now(b"".join(event(data, event_id) for event_id, data in missed))

    def watches_anew(self) -> None:
        """Take note that the session subscribed to something, or does so no more."""
        self._change = object()

    def tell(self, notice: Notice) -> None:
        """Hear of a change."""
        if notice.what == "task" or (notice.what == "resource" and not self._may_watch(notice.uri)):
            return
        data = encode(Notification(notice.method, notice.params or None))
        if not self._sessions.later(lambda: self._say(notice, data), len(data)):
            self.outbox.end()

    def _may_watch(self, uri: str) -> bool:
        return self._known is not self._change or any_at_or_above(uri, self._watched)

    def _say(self, notice: Notice, data: bytes) -> None:
        try:
            if notice.what == "resource" and not self._is_watched(notice.uri):
                return
            with self._lock:
                event_id = self._sessions.record(self._session_id, UNASKED, data, False)
                kept = event_id is not None and self.outbox.put_now(event(data, event_id))
        except MCPError as error:
            log.warning("a session cannot be told of %s: %s", notice.method, error)
            kept = False
        if not kept:
            self.outbox.end()  # the session is over; or its client comes back for what there is no room for

    def _is_watched(self, uri: str) -> bool:
        change = self._change
        if self._known is not change:
            watched = self._sessions.watched(self._session_id)
            if watched is None:
                self.outbox.end()
            self._watched = frozenset(watched or ())
            self._known = change
        return any_at_or_above(uri, self._watched)

    def session_is_over(self) -> bool:
        """Whether its session is; as long as somebody listens, it is not idle."""
        if time.monotonic() < self._looked + LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        return not self._sessions.touch(self._session_id)


class Sessions:
    """The sessions of one application in this process.

    Threads: ``mcp-http-unasked``, which keeps what is said unasked.
    Locks: ``_lock``, held for a few instructions.

    Args:
        server: The server.
        store: Where sessions are kept.
        seconds: How long one may be idle.
        most: How many there may be at once; 0: any number.
        most_per_principal: How many one principal may have; 0: any number.
    """

    def __init__(
        self, server: Server, store: SessionStore, seconds: float, most: int, most_per_principal: int
    ) -> None:
        self._server = server
        self.store = store
        self._seconds = seconds
        self._most = most
        self._most_per_principal = most_per_principal
        self._hearing: Future[Callable[[], None]] | None = None
        self._serving = False
        self._lane = Lane("mcp-http-unasked", MAX_WAITING)
        self.forked()

    def forked(self) -> None:
        """Be as new: at first, and in a forked child."""
        self._lock = threading.Lock()  # guards _running, _waiting, _streams, _hearing
        self._token = secrets.token_hex(8)
        self._running: dict[tuple[str, RequestId], Exchange] = {}
        self._waiting: dict[tuple[str, str], Future[dict[str, Any]]] = {}
        self._streams: dict[str, Unasked] = {}
        self._lane.forked()
        if self._hearing is not None and not self._hearing.done():  # else the store goes on listening in the child
            self._hearing = None

    # -- the sessions -------------------------------------------------------------------------------------------------

    def begin(self, asker: Asker, client: str = "") -> str | None:
        """Begin a session, and return its id; None: there are too many. Raises JSONRPCError: it says too much.

        Args:
            asker: Who begins it.
            client: Whose share of all sessions it takes, where the asker has no name; "" is nobody's in particular.
        """
        check_greeting(asker.info, asker.capabilities)
        self.hear()
        session_id = secrets.token_urlsafe(32)
        value: dict[str, Any] = {
            "version": asker.version,
            "info": dict(asker.info),
            "capabilities": dict(asker.capabilities),
            "principal": asker.principal,
            "level": FIRST_LEVEL,
            "watched": [],
        }
        most = self._most_per_principal if asker.principal else share_of(self._most) if self._most else 0
        caps = {"most": self._most, "most_per_owner": most}
        made = self.store.create(KIND, session_id, value, self._seconds, owner=asker.principal or client, **caps)
        return session_id if made else None

    def find(self, session_id: str, headers: Mapping[str, str], principal: str | None) -> Asker | None:
        """Return who has this session; None: nobody has, or somebody else."""
        self.hear()  # an answer or a cancel of its client may come to another process
        value = self.store.load(KIND, session_id)
        if value is None or value["principal"] != principal:
            return None
        return Asker(
            value["version"],
            False,
            value["info"],
            value["capabilities"],
            headers,
            principal,
            session_id,
            value["level"],
        )

    def touch(self, session_id: str) -> bool:
        """Let its idle time begin anew; False: it is over."""
        return self.store.load(KIND, session_id) is not None

    def end(self, session_id: str) -> None:
        """End a session, its streams, what is being answered to its client, and what is asked of it."""
        self.store.drop(KIND, session_id)
        self._tell_others({"ended": session_id})
        self._ended(session_id)

    def _ended(self, session_id: str) -> None:
        with self._lock:
            stream = self._streams.pop(session_id, None)
            futures = [future for (owner, _), future in self._waiting.items() if owner == session_id]
            running = [exchange for (owner, _), exchange in self._running.items() if owner == session_id]
        if stream is not None:
            stream.outbox.end()
        for future in futures:
            _fail(future, MCPConnectionError("the client has ended its session"))
        for exchange in running:
            exchange.withdrawn.set()

    def watched(self, session_id: str) -> list[str] | None:
        """Return the resources that a session subscribed to; None: it is over."""
        value = self.store.load(KIND, session_id)
        return None if value is None else value["watched"]

    # -- methods that change a session --------------------------------------------------------------------------------

    def own_answer(self, request: Request, session_id: str) -> dict[str, Any] | None:
        """Return the result of a method that only changes the session; None: it is no such method.

        Raises:
            JSONRPCError: The params are not valid.
        """
        params = request.params or {}
        if request.method == "logging/setLevel":
            self._change(session_id, level=checked_level(params))
        elif request.method == "resources/subscribe":
            self._watch(session_id, self._server.checked_uri(params))
        elif request.method == "resources/unsubscribe":
            self._unwatch(session_id, self._server.checked_uri(params))
        else:
            return None
        return {}

    def _change(self, session_id: str, **changes: Any) -> None:
        self.store.update(KIND, session_id, lambda value: {**value, **changes})

    def _watch(self, session_id: str, uri: str) -> None:
        check_uri(uri)

        def watch(value: dict[str, Any]) -> dict[str, Any] | None:
            if uri in value["watched"]:
                return None
            watched = [*value["watched"], uri]
            check_subscribed(watched)
            return {**value, "watched": watched}

        self.store.update(KIND, session_id, watch)
        self._watches_anew(session_id)

    def _unwatch(self, session_id: str, uri: str) -> None:
        def unwatch(value: dict[str, Any]) -> dict[str, Any]:
            return {**value, "watched": [one for one in value["watched"] if one != uri]}

        self.store.update(KIND, session_id, unwatch)
        self._watches_anew(session_id)

    def _watches_anew(self, session_id: str) -> None:
        self._renewed(session_id)
        self._tell_others({"watched": session_id})

    def _renewed(self, session_id: str) -> None:
        with self._lock:
            stream = self._streams.get(session_id)
        if stream is not None:
            stream.watches_anew()

    # -- events -------------------------------------------------------------------------------------------------------

    def record(self, session_id: str, stream: str, data: bytes, last: bool) -> str | None:
        """Keep an event of a stream; returns its id, or None: the session is over, or the stream is complete."""
        try:
            return self.store.append(KIND, session_id, stream, data, last=last)
        except (Gone, ValueError):  # complete: its request was cancelled while this was about to be said
            return None

    def later(self, job: Job, size: int) -> bool:
        """Run a job that waits for the store, after those before it; False: too many wait, or too many bytes."""
        return self._lane.offer(job, size)

    def missed(self, session_id: str, after: str) -> list[tuple[str, bytes]]:
        """Return what was said unasked after an event."""
        try:
            return self.store.read(KIND, session_id, UNASKED, after, 0.0)[0]
        except Gone:
            return []

    def open_stream(self, session_id: str, after: str | None) -> Unasked:
        """Open the stream for what is said unasked; one that is open already ends: its client has lost it.

        Args:
            session_id: Whose.
            after: The id of the event that the client had last, or None.
        """
        stream = Unasked(self, session_id)
        with self._lock:
            before, self._streams[session_id] = self._streams.get(session_id), stream
        if before is not None:
            before.outbox.end()
        self._tell_others({"opened": session_id, "token": stream.token})
        stream.begin(lambda: self._server.hub.join(stream), after)
        return stream

    def _opened_elsewhere(self, session_id: str, token: str) -> None:
        with self._lock:
            stream = self._streams.get(session_id)
        if stream is not None and stream.token != token:
            stream.outbox.end()

    def close_stream(self, session_id: str, stream: Unasked) -> None:
        """Take note that a stream is read no more."""
        self._server.hub.leave(stream)
        with self._lock:
            if self._streams.get(session_id) is stream:
                del self._streams[session_id]

    def close(self) -> None:
        """End all streams that are open here, and hear no more of other processes until somebody is served again."""
        with self._lock:
            streams, self._streams = list(self._streams.values()), {}
            attempt, self._hearing = self._hearing, None
            stop = attempt.result() if attempt is not None and attempt.done() else None
        for stream in streams:
            stream.outbox.end()
        if stop is not None:
            stop()
        self._lane.close(Deadline(CLOSE_SECONDS))
        self._lane.forked()

    # -- requests that are being answered -----------------------------------------------------------------------------

    def enter(self, session_id: str, request_id: RequestId, exchange: Exchange) -> bool:
        """Take note that a request is being answered; False: one with this id is already."""
        with self._lock:
            return self._running.setdefault((session_id, request_id), exchange) is exchange

    def leave(self, session_id: str, request_id: RequestId) -> None:
        """Take note that it is no more."""
        with self._lock:
            self._running.pop((session_id, request_id), None)

    def told(self, session_id: str, notification: Notification) -> None:
        """Take in a notification of the client."""
        request_id = (notification.params or {}).get("requestId")
        if notification.method != "notifications/cancelled" or type(request_id) not in (int, str):
            return
        known = self._cancelled(session_id, request_id)  # type: ignore[arg-type]  # the line above said so
        if not known and len(str(request_id)) <= MAX_ID:
            self._tell_others({"cancelled": session_id, "request": request_id})

    def _cancelled(self, session_id: str, request_id: RequestId) -> bool:
        with self._lock:
            exchange = self._running.get((session_id, request_id))
        if exchange is None:
            return False
        exchange.withdrawn.set()
        exchange.finish(None, 202)
        return True

    # -- questions to the client --------------------------------------------------------------------------------------

    def ask(
        self, exchange: Exchange, session_id: str, questions: Mapping[str, Wire], deadline: Deadline
    ) -> dict[str, dict[str, Any]]:
        """Ask the client on the stream of one of its requests, and wait for the answers; raises as Link.ask."""
        asked = {key: (self.question_id(), Future[dict[str, Any]]()) for key in questions}
        with self._lock:
            self._waiting |= {(session_id, question_id): future for question_id, future in asked.values()}
        try:
            for key, (question_id, _) in asked.items():
                exchange.say(Request(question_id, questions[key]["method"], dict(questions[key]["params"])))
            return {key: self._awaited(future, exchange, session_id, deadline) for key, (_, future) in asked.items()}
        finally:
            with self._lock:
                for question_id, _ in asked.values():
                    del self._waiting[session_id, question_id]

    def question_id(self) -> str:
        """Return a new id for a question; it begins with what tells this process from others."""
        return f"{self._token}.{secrets.token_urlsafe(12)}"

    def _awaited(
        self, future: Future[dict[str, Any]], exchange: Exchange, session_id: str, deadline: Deadline
    ) -> dict[str, Any]:
        while True:
            try:
                return future.result(min(SLICE_SECONDS, deadline.remaining))
            except FutureTimeout:
                if future.done():
                    raise
            if exchange.withdrawn.is_set():
                raise MCPConnectionError("the client has withdrawn its request")
            if not self.touch(session_id):
                raise MCPConnectionError("the client's session is over")
            if deadline.expired:
                raise MCPTimeoutError(f"the client has not answered within {deadline.limit:g} s")

    def answered(self, session_id: str, message: Result | Failure) -> None:
        """Take in an answer of the client; what another process has asked is told to all."""
        if self._resolve(session_id, message.id, message) or not self._is_of_others(message.id):
            return
        answer = {"result": message.result} if isinstance(message, Result) else message.as_dict()
        news = _packed({**answer, "answered": session_id, "id": message.id})
        if self.store.shared and len(news) <= self._server.limits.message_size + NEWS_BYTES:
            self.store.broadcast(news)

    def _is_of_others(self, question_id: RequestId | None) -> bool:
        found = _QUESTION.fullmatch(question_id) if isinstance(question_id, str) else None
        return found is not None and found[1] != self._token

    def _resolve(self, session_id: str, question_id: RequestId | None, message: Result | Failure) -> bool:
        with self._lock:
            future = self._waiting.get((session_id, str(question_id)))
        if future is None:
            return False
        if isinstance(message, Result):
            _settle(future, message.result)
        else:
            _fail(future, JSONRPCError(message.code, message.message, message.data))
        return True

    # -- other processes ----------------------------------------------------------------------------------------------

    def hear(self) -> None:
        """Hear from now on what other processes tell; raises MCPConnectionError.

        Many may come at once while the store cannot be reached; they wait for the same attempt.
        """
        self.served()
        if not self.store.shared:
            return
        with self._lock:
            mine = self._hearing is None
            attempt = self._hearing = self._hearing or Future()
        if mine:
            self._begin_to_hear(attempt)
        else:
            attempt.result()  # which comes when the store has answered, or its timeout has passed

    def served(self) -> None:
        """Take note that this process serves somebody; from now on others are told of the lists that change here."""
        self._serving = True

    def _begin_to_hear(self, attempt: Future[Callable[[], None]]) -> None:
        try:
            stop = self.store.listen(self._heard)
        except BaseException as error:
            with self._lock:
                self._hearing = None if self._hearing is attempt else self._hearing
            attempt.set_exception(MCPConnectionError(f"other processes cannot be heard: {error}"))
            raise
        with self._lock:
            wanted = self._hearing is attempt  # or the application was closed meanwhile
            attempt.set_result(stop)
        if not wanted:
            stop()

    def _tell_others(self, news: Mapping[str, Any]) -> None:
        if self.store.shared:
            self.store.broadcast(_packed(news))

    def _heard(self, data: bytes) -> None:
        news = json.loads(data)
        if "notice" in news:
            self._server.hub.deliver(Notice.decode(news["notice"].encode()))
        elif "opened" in news:
            self._opened_elsewhere(news["opened"], news["token"])
        elif "ended" in news:
            self._ended(news["ended"])
        elif "watched" in news:
            self._renewed(news["watched"])
        elif "cancelled" in news:
            self._cancelled(news["cancelled"], news["request"])
        elif "answered" in news:
            error = news.get("error")
            message: Result | Failure = (
                Result(news["id"], news["result"])
                if error is None
                else Failure(news["id"], error["code"], error["message"], error.get("data"))
            )
            self._resolve(news["answered"], news["id"], message)

    def relay(self, notice: Notice) -> None:
        """Tell all processes of a change, this one included; where they cannot be reached, at least this one.

        What is offered before anybody is served is no change, and it is no time to wait for a store.
        """
        if notice.what in _LISTS and not self._serving:
            self._server.hub.deliver(notice)
            return
        try:
            self.hear()
            self._tell_others({"notice": notice.encode().decode()})
        except MCPError as error:
            log.warning("other processes cannot be told of %s: %s", notice.method, error)
            self._server.hub.deliver(notice)


def _packed(news: Mapping[str, Any]) -> bytes:
    return json.dumps(news, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _settle(future: Future[dict[str, Any]], result: dict[str, Any]) -> None:
    try:
        future.set_result(result)
    except InvalidStateError:
        pass  # it was answered twice


def _fail(future: Future[dict[str, Any]], error: Exception) -> None:
    try:
        future.set_exception(error)
    except InvalidStateError:
        pass  # it was answered before
