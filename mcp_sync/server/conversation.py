"""Conversation: a server at one end of a two-way connection: stdio, WebSocket, memory.

A Peer over the channel, whose handler is the server. Requests that bring their own metadata are answered by the rules
of the stateless era, all others by those of the handshake; both may come over one connection (basic/versioning).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.caller import CallFuture, Incoming, Question
from ..engine.channel import Channel
from ..engine.peer import Peer
from ..exceptions import JSONRPCError, LocalProtocolError, MCPConnectionError, MCPError, MessageTooLarge
from ..policies import Limits
from ..protocol.eras import ACKNOWLEDGED, CAPABILITIES_KEY, VERSION_KEY, Handshake
from ..protocol.messages import INVALID_PARAMS, INVALID_REQUEST, Notification, Request, RequestId
from ..protocol.negotiation import Agreement
from ..protocol.serving import ServerSession, envelope_of
from ..protocol.session import LISTEN
from .allowances import (
    CONNECTION_BYTES,
    MAX_SUBSCRIPTIONS,
    check_greeting,
    check_uri,
    json_bytes,
    text_bytes,
)
from .answering import checked_level, stateless_asker
from .calls import Asker, Call, Link, Wire, Withdrawn
from .hub import Interest, Notice, any_at_or_above

if TYPE_CHECKING:
    from .app import Server

SAY_SECONDS = 30.0
"""How long a notification waits for a client that does not read."""
SLICE_SECONDS = 0.25
"""How soon a function that asks the client notices that the client has withdrawn what it is about."""
GOODBYE_SECONDS = 0.25
"""How long the end of its subscriptions waits for a client that does not read."""
CLOSE_SECONDS = 2.0
FIRST_LEVEL = "info"
"""The level of log messages until the client sets one (server/utilities/logging)."""


class _PeerLink(Link):
    """The way back over a Peer."""

    def __init__(self, peer: Peer, withdrawn: interrupts.Event, asks: bool) -> None:
        super().__init__(withdrawn)
        self._peer = peer
        self.asks = asks

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        try:
            self._peer.notify(method, params, Deadline(SAY_SECONDS))
        except (LocalProtocolError, MessageTooLarge):
            raise  # which is the fault of who says it
        except MCPError:
            pass  # whoever wants the answer will find out by itself

    def ask(self, questions: Mapping[str, Wire], deadline: Deadline) -> dict[str, dict[str, Any]]:
        futures: dict[str, CallFuture[dict[str, Any]]] = {}
        try:
            for key, one in questions.items():
                question: Question[dict[str, Any]] = Question(one["method"], one["params"])
                futures[key] = self._peer.submit(question, deadline)
            return {key: self._awaited(future) for key, future in futures.items()}
        except MCPConnectionError:
            raise Withdrawn from None  # with the client gone, there is nobody to tell that it is
        finally:
            for future in futures.values():  # the others, where one failed, or nobody wants any of them any more
                future.cancel()

    def _awaited(self, future: CallFuture[dict[str, Any]]) -> dict[str, Any]:
        while not future.wait(SLICE_SECONDS):
            if self.withdrawn.is_set():
                raise Withdrawn
        return future.raw()


def _stranger(request: Request) -> JSONRPCError:
    """Return the error for who has sent no ``initialize``, nor what the stateless era demands of each request."""
    meta = (request.params or {}).get("_meta")
    if isinstance(meta, Mapping) and CAPABILITIES_KEY in meta:
        return JSONRPCError(INVALID_PARAMS, f"params._meta lacks {VERSION_KEY}, a string")
    return JSONRPCError(INVALID_REQUEST, f"{request.method:.80}: params._meta is missing; or send initialize first")


class _Subscription:
    """One ``subscriptions/listen`` of a conversation.

    Attributes:
        size: Bytes of its request, which the Peer keeps whole until it is answered.
    """

    def __init__(self, peer: Peer, request: Request, interest: Interest, withdrawn: interrupts.Event) -> None:
        self._peer = peer
        self.request = request
        self.size = json_bytes(request.params)
        self.interest = interest
        self._withdrawn = withdrawn

    @property
    def over(self) -> bool:
        return self._withdrawn.is_set()

    def acknowledge(self) -> None:
        params = {"_meta": self.interest.meta, "notifications": self.interest.acknowledged}
        self._peer.tell_soon(ACKNOWLEDGED, params)

    def tell(self, notice: Notice) -> None:
        if self.interest.wants(notice):
            self._peer.tell_soon(notice.method, self.interest.dressed(notice))

    def end(self, deadline: Deadline) -> None:
        if not self.over:
            self._peer.give(self.request, {"resultType": "complete", "_meta": self.interest.meta}, deadline)


class Conversation:
    """A server and one client. It is the Handler of its Peer, and a Listener of its server's Hub.

    Threads: those of the channel and of the Peer. ``close`` blocks until they have ended, at most until its deadline.
    Locks: ``_lock``, held for a few instructions.

    Args:
        server: The server.
        channel: The connection, not yet started. Its ``headers`` and ``principal``, where it has such, say who came.
        limits: How much may wait.
    """

    def __init__(self, server: Server, channel: Channel, limits: Limits) -> None:
        self._server = server
        self._channel = channel
        self._peer = Peer(channel, self, limits, ServerSession())
        self._headers: Mapping[str, str] = getattr(channel, "headers", {})
        self._principal: str | None = getattr(channel, "principal", None)
        self._lock = threading.Lock()  # guards _asker, _declared, _watched, _subscriptions
        self._asker: Asker | None = None
        self._declared: frozenset[str] = frozenset()
        self._watched: frozenset[str] = frozenset()
        self._subscriptions: dict[RequestId, _Subscription] = {}
        self._ended = interrupts.Event()
        self._own: dict[str, Callable[[Request], dict[str, Any]]] = {
            "logging/setLevel": self._set_level,
            "resources/subscribe": self._watch,
            "resources/unsubscribe": self._unwatch,
        }

    def __repr__(self) -> str:
        return f"<Conversation of {self._server.name} over {self._channel.name}>"

    def start(self) -> None:
        """Begin to answer."""
        self._server.hub.join(self)
        self._channel.start(self._peer)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over; False: so many seconds passed first."""
        return self._ended.wait(timeout)

    def close(self, deadline: Deadline) -> None:
        """End it: subscriptions are told, the connection is closed. Idempotent."""
        self._server.hub.leave(self)
        self.say_goodbye(deadline)
        self._peer.close(deadline)
        self._server.forget(self)
        self._ended.set()

    def say_goodbye(self, deadline: Deadline) -> None:
        """End the subscriptions in good order, unless the client does not read."""
        with self._lock:
            subscriptions, self._subscriptions = list(self._subscriptions.values()), {}
        patience = deadline.sooner(GOODBYE_SECONDS)
        for subscription in subscriptions:
            subscription.end(patience)

    def hang_up(self, deadline: Deadline) -> None:
        """Begin to end it, and wait for nothing."""
        self._peer.hang_up(deadline)

    # -- Handler ------------------------------------------------------------------------------------------------------

    def offers(self, method: str) -> bool:
        """Return True: what is not known has an answer of its own."""
        return True

    def request(self, incoming: Incoming) -> dict[str, Any] | None:
        """Return the result of a request."""
        request = incoming.request
        if envelope_of(request.params) is not None or (self._asker is None and request.method == "server/discover"):
            return self._stateless(request, incoming.withdrawn)
        if request.method == "initialize":
            return self._initialize(request)
        asker = self._asker
        if asker is None:
            raise _stranger(request)
        if request.method in self._own:
            return self._own[request.method](request)
        return self._answer(Call(request, asker, _PeerLink(self._peer, incoming.withdrawn, asks=True)))

    def notification(self, notification: Notification) -> None:
        """Take note of nothing: what the protocol has for us is told by the Peer."""

    def closed(self, error: MCPError) -> None:
        """End everything: the client is gone."""
        self.close(Deadline(CLOSE_SECONDS))

    # -- the handshake era --------------------------------------------------------------------------------------------

    def _initialize(self, request: Request) -> dict[str, Any]:
        params = request.params or {}
        version, result = self._server.answerer.initialized(params)
        check_greeting(params.get("clientInfo") or {}, params.get("capabilities") or {})
        asker = Asker(
            version,
            False,
            params.get("clientInfo") or {},
            params.get("capabilities") or {},
            self._headers,
            self._principal,
            log_level=FIRST_LEVEL,
        )
        with self._lock:
            self._asker, self._declared = asker, frozenset(result["capabilities"])
        self._peer.agree(Agreement(Handshake(version), asker.info, asker.capabilities))
        return result

    def _set_level(self, request: Request) -> dict[str, Any]:
        level = checked_level(request.params or {})
        with self._lock:
            if self._asker is not None:
                self._asker = self._asker.at_level(level)
        return {}

    def _watch(self, request: Request) -> dict[str, Any]:
        uri = self._server.checked_uri(request.params or {})
        check_uri(uri)
        with self._lock:
            if uri not in self._watched:
                if len(self._watched) >= MAX_SUBSCRIPTIONS:
                    raise JSONRPCError(INVALID_PARAMS, f"more than {MAX_SUBSCRIPTIONS} resources are subscribed to")
                self._make_room(text_bytes(uri))
                self._watched |= {uri}
        return {}

    def _make_room(self, size: int) -> None:
        """Forget subscriptions that are over; under the lock. Raises JSONRPCError where still too much is kept."""
        self._subscriptions = {key: one for key, one in self._subscriptions.items() if not one.over}
        kept = sum(map(text_bytes, self._watched)) + sum(one.size for one in self._subscriptions.values())
        if kept + size > CONNECTION_BYTES:
            text = f"the subscriptions of this connection are more than {CONNECTION_BYTES >> 10} KB"
            raise JSONRPCError(INVALID_PARAMS, text)

    def _unwatch(self, request: Request) -> dict[str, Any]:
        uri = self._server.checked_uri(request.params or {})
        with self._lock:
            self._watched -= {uri}
        return {}

    # -- the stateless era --------------------------------------------------------------------------------------------

    def _stateless(self, request: Request, withdrawn: interrupts.Event) -> dict[str, Any] | None:
        asker = stateless_asker(request, self._headers, self._principal)
        if request.method == LISTEN:
            self._listen(request, asker, withdrawn)
            return None
        return self._answer(Call(request, asker, _PeerLink(self._peer, withdrawn, asks=False)))

    def _listen(self, request: Request, asker: Asker, withdrawn: interrupts.Event) -> None:
        interest = self._server.interest(request, asker)
        subscription = _Subscription(self._peer, request, interest, withdrawn)
        with self._lock:
            self._make_room(subscription.size)
            if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
                raise JSONRPCError(INVALID_REQUEST, f"there are {MAX_SUBSCRIPTIONS} subscriptions already")
            self._subscriptions[request.id] = subscription
            subscription.acknowledge()  # posted, not sent: under the lock it comes before any notice

    def _answer(self, call: Call) -> dict[str, Any] | None:
        try:
            return self._server.answer(call)
        except Withdrawn:
            if not call.link.withdrawn.is_set():  # somebody raised it who had no reason to, and an answer is due
                raise
            return None

    # -- Listener -----------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether nobody hears it any more."""
        return self._peer.over

    def tell(self, notice: Notice) -> None:
        """Hear of a change: what the client subscribed to, and in the handshake era all lists."""
        with self._lock:
            subscriptions, watched, declared = list(self._subscriptions.values()), self._watched, self._declared
        for subscription in subscriptions:
            if not subscription.over:
                subscription.tell(notice)
        updated = notice.what == "resource" and any_at_or_above(notice.uri, watched)
        if updated or notice.what in declared:  # what was not declared has no changes (basic/lifecycle, operation)
            self._peer.tell_soon(notice.method, notice.params or None)


