"""Session: the bookkeeping of one conversation: who owes whom an answer. Pure.

A Session is told what we are about to send and what has arrived, and says what that means: an Effect. It decides who
resolves a call: whoever takes it out of ``pending`` (the answer, the deadline, a cancel, the end of the connection)
and nobody else, so every call is resolved exactly once. It is not thread-safe; a Peer holds it under a lock.

Source: JSON-RPC 2.0; basic/index; utilities cancellation, progress; patterns/subscriptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from ..exceptions import MCPError, MCPTimeoutError, RemoteProtocolError
from .eras import SUBSCRIPTION_KEY, Era, Opening
from .messages import (
    INVALID_REQUEST,
    PARSE_ERROR,
    Batch,
    Failure,
    Malformed,
    Message,
    Notification,
    Request,
    RequestId,
    Result,
)

T = TypeVar("T")

LISTEN = "subscriptions/listen"
UNCANCELLABLE = frozenset({"initialize", "server/discover"})
"""Requests whose end is never announced (lifecycle: initialize must not be cancelled; a probe is just dropped)."""


# What a message means. Tuples, because one is made for every message.
class Settle(NamedTuple):
    """A call is over: resolve its ticket with the result, or with the error."""

    ticket: Any
    result: dict[str, Any] | None
    error: MCPError | None


class Progressed(NamedTuple):
    """A call that is under way reports progress."""

    ticket: Any
    params: dict[str, Any]
    size: int


class Pushed(NamedTuple):
    """A subscription has news."""

    ticket: Any
    notification: Notification


class Told(NamedTuple):
    """The other side says something to nobody in particular."""

    notification: Notification


class Serve(NamedTuple):
    """The other side asks; answer it with ``answer`` or ``refuse``."""

    request: Request


class Withdrawn(NamedTuple):
    """The other side no longer wants the answer to its request."""

    request_id: RequestId


class Reply(NamedTuple):
    """Send this; nobody need be asked."""

    message: Message


class Dropped(NamedTuple):
    """Nothing follows from it."""

    why: str
    message: Message


Effect: TypeAlias = "Settle | Progressed | Pushed | Told | Serve | Withdrawn | Reply | Dropped"


@dataclass(slots=True)
class Counters:
    """What has happened so far. Always: ``sent == ok + error + timeout + cancelled + pending``."""

    sent: int = 0
    ok: int = 0
    error: int = 0
    timeout: int = 0
    cancelled: int = 0
    notifications_sent: int = 0
    notifications_received: int = 0
    requests_received: int = 0
    requests_refused: int = 0
    dropped_late: int = 0
    dropped_unknown: int = 0
    dropped_backlog: int = 0
    parse_errors: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return them as a plain dict."""
        return asdict(self)


class Session(Generic[T]):
    """Who owes whom an answer.

    Type parameter T is the ticket that the owner wants back when a call is over.

    Attributes:
        era: What was agreed; Opening until then.
        counters: What has happened so far.
        closed: Whether the conversation is over.
    """

    def __init__(self, era: Era | None = None) -> None:
        self.era: Era = era or Opening()
        self.counters = Counters()
        self.closed = False
        self._pending: dict[RequestId, tuple[T, str]] = {}
        self._serving: set[RequestId] = set()
        self._next_id = 1

    @property
    def pending(self) -> int:
        """How many answers we are owed."""
        return len(self._pending)

    # -- what we say --------------------------------------------------------------------------------------------------

    def ask(self, method: str, params: Mapping[str, Any] | None, ticket: T, progress: bool = False) -> Request:
        """Return the request to send; its answer will settle the ticket.

        Args:
            method: The method.
            params: Its params, as the caller means them.
            ticket: What to hand back when the call is over.
            progress: Whether to ask for progress; the token is the request's id.
        """
        number = self._next_id
        self._next_id = number + 1
        dressed = self.era.dress(params)
        if progress:
            dressed = dict(dressed or {})
            dressed["_meta"] = {**(dressed.get("_meta") or {}), "progressToken": number}
        self._pending[number] = (ticket, method)
        self.counters.sent += 1
        return Request(number, method, dressed)

    def tell(self, method: str, params: Mapping[str, Any] | None) -> Notification:
        """Return the notification to send."""
        self.counters.notifications_sent += 1
        return Notification(method, None if params is None else dict(params))

    def answer(self, request_id: RequestId, result: dict[str, Any]) -> Result | None:
        """Return the answer to send, or None where the other side has withdrawn the question."""
        if request_id not in self._serving:
            return None
        self._serving.discard(request_id)
        return Result(request_id, result)

    def refuse(self, request_id: RequestId, code: int, message: str, data: Any = None) -> Failure | None:
        """Return the error to send, or None where the other side has withdrawn the question."""
        if request_id not in self._serving:
            return None
        self._serving.discard(request_id)
        return Failure(request_id, code, message, data)

    def cancel_notice(self, request_id: RequestId, method: str, reason: str) -> Notification | None:
        """Return what tells the other side that an answer is no longer wanted (utilities/cancellation)."""
        if method in UNCANCELLABLE:
            return None
        return self.tell("notifications/cancelled", {"requestId": request_id, "reason": reason})

    # -- calls that end without an answer -----------------------------------------------------------------------------

    def give_up(self, request_id: RequestId, why: str) -> T | None:
        """Stop waiting; ``why`` is the counter: timeout, cancelled or error. None: it is over already."""
        entry = self._pending.pop(request_id, None)
        if entry is None:
            return None
        setattr(self.counters, why, getattr(self.counters, why) + 1)
        return entry[0]

    def lost(self, request_id: RequestId, error: MCPError) -> Effect:
        """The answer to this request will never come."""
        ticket = self.give_up(request_id, "timeout" if isinstance(error, MCPTimeoutError) else "error")
        if ticket is None:
            return self._stray(request_id, Malformed(str(error)))
        return Settle(ticket, None, error)

    def close_books(self, ticket: T) -> None:
        """Forget a call that Ctrl-C came to halfway in, and count as cancelled one that it came to halfway out."""
        for number in [number for number, entry in self._pending.items() if entry[0] is ticket]:
            del self._pending[number]
        counted = self.counters
        ended = counted.ok + counted.error + counted.timeout + counted.cancelled
        counted.cancelled += counted.sent - ended - len(self._pending)

    def close(self) -> list[T]:
        """End the conversation; return the tickets of all who wait in vain."""
        self.closed = True
        tickets = [ticket for ticket, _ in self._pending.values()]
        self.counters.error += len(tickets)
        self._pending.clear()
        self._serving.clear()
        return tickets

    # -- what they say ------------------------------------------------------------------------------------------------

    def received(self, message: Message) -> Effect:
        """Say what an arrived message means. A Batch has to be unpacked first."""
        kind = type(message)
        if kind is Result:
            return self._result(message)  # type: ignore[arg-type]
        if kind is Notification:
            return self._notification(message)  # type: ignore[arg-type]
        if kind is Request:
            return self._request(message)  # type: ignore[arg-type]
        if kind is Failure:
            return self._failure(message)  # type: ignore[arg-type]
        return self._malformed(message)

    def unpack(self, batch: Batch) -> list[Message]:
        """Return the messages of a batch; where the era has no batches, what is wrong with each."""
        if self.era.batches:
            return list(batch.messages)
        reason = f"a batch, which protocol version {self.era.version or 'of the handshake'} does not allow"
        return [
            message
            if isinstance(message, Malformed)  # it says itself whom it answers
            else Malformed(
                reason,
                answers=message.id if isinstance(message, (Result, Failure)) else None,
                asks=message.id if isinstance(message, Request) else None,
                parsed=True,
            )
            for message in batch.messages
        ]

    def _result(self, message: Result) -> Effect:
        entry = self._pending.pop(message.id, None)
        if entry is None:
            return self._stray(message.id, message)
        flaw = self.era.flaw_of(message.result)
        if flaw:
            self.counters.error += 1
            text = f"{entry[1]}: the result is not valid in {self.era.version}: {flaw}"
            return Settle(entry[0], None, RemoteProtocolError(text, may_have_run=True))
        self.counters.ok += 1
        return tuple.__new__(Settle, (entry[0], message.result, None))  # Settle(...), at a third of the price

    def _failure(self, message: Failure) -> Effect:
        request_id = message.id
        if request_id is None and type(self.era) is Opening and len(self._pending) == 1:
            # In a negotiation one question is open at a time: an error without an id can only be its answer.
            request_id = next(iter(self._pending))
        entry = self._pending.pop(request_id, None) if request_id is not None else None
        if entry is None:
            return self._stray(request_id, message)
        self.counters.error += 1
        return Settle(entry[0], None, message.as_error(entry[1]))

    def _malformed(self, message: Message) -> Effect:
        self.counters.parse_errors += 1
        if not isinstance(message, Malformed):
            return Dropped("not a single message", message)
        if message.answers is not None and message.answers in self._pending:
            return self.lost(message.answers, message.as_error(self._pending[message.answers][1]))
        if message.asks is not None and message.asks not in self._serving and self.era.server_asks:
            code = INVALID_REQUEST if message.parsed or message.too_large else PARSE_ERROR
            return Reply(Failure(message.asks, code, message.reason))
        return Dropped("noise", message)

    def _request(self, message: Request) -> Effect:
        self.counters.requests_received += 1
        if not self.era.server_asks:  # nor may we say so: a client writes no responses in this era (basic/patterns)
            self.counters.requests_refused += 1
            return Dropped(f"a request, which a server may not send in {self.era.version}", message)
        if message.id in self._serving:
            self.counters.requests_refused += 1
            return Dropped("a request with the id of one that is being answered", message)
        if message.method == "ping":
            return Reply(Result(message.id, {}))
        self._serving.add(message.id)
        return Serve(message)

    def _notification(self, message: Notification) -> Effect:
        self.counters.notifications_received += 1
        params = message.params or {}
        if message.method == "notifications/progress":
            return self._progress(message, params)
        if message.method == "notifications/cancelled":
            return self._cancelled(message, params)
        meta = params.get("_meta")
        if type(meta) is dict and SUBSCRIPTION_KEY in meta:
            entry = self._pending.get(_hashable(meta[SUBSCRIPTION_KEY]))
            if entry and entry[1] == LISTEN:
                return Pushed(entry[0], message)
            return Dropped("news of a subscription that is not, or no longer, ours", message)
        return Told(message)

    def _progress(self, message: Notification, params: dict[str, Any]) -> Effect:
        entry = self._pending.get(_hashable(params.get("progressToken")))
        progress = params.get("progress")
        if entry is None or type(progress) not in (int, float):
            return Dropped("progress of a call that is not under way", message)
        return Progressed(entry[0], params, message.size)

    def _cancelled(self, message: Notification, params: dict[str, Any]) -> Effect:
        request_id = _hashable(params.get("requestId"))
        if request_id in self._serving:
            self._serving.discard(request_id)
            return Withdrawn(request_id)
        entry = self._pending.get(request_id)
        if entry and entry[1] == LISTEN:  # the server ends a subscription (patterns/cancellation)
            del self._pending[request_id]
            self.counters.ok += 1
            return Settle(entry[0], {"resultType": "complete"}, None)
        return Dropped("the cancel of a request that is not under way", message)

    def _stray(self, request_id: RequestId | None, message: Message) -> Dropped:
        if type(request_id) is int and 0 < request_id < self._next_id:
            self.counters.dropped_late += 1
            return Dropped("an answer that came too late, or twice", message)
        self.counters.dropped_unknown += 1
        return Dropped("an answer to nothing we asked", message)


def _hashable(value: Any) -> Any:
    """Return an id that may be looked up: True must not find 1, nor a list raise."""
    return value if type(value) in (int, str) else None
