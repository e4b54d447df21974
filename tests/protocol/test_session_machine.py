"""The laws of the bookkeeping, in any order of events: sums add up, each call is resolved once, by its own answer.

I2, I3, I8 and I20 after each step (FAULTS.md, section 7). Time is a number here: a call has a point in time by which it
is given up, and whoever lets time pass gives up all those whose point has come. Every connection is a Session of its
own; those that are over go on hearing what their wires bring late.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mcp_sync.exceptions import MCPConnectionError
from mcp_sync.protocol.eras import Era, Handshake, Identity, Opening, Stateless
from mcp_sync.protocol.messages import Failure, Notification, Request, Result, decode, encode
from mcp_sync.protocol.session import Dropped, Effect, Progressed, Serve, Session, Settle, Told, Withdrawn

ERAS: list[Era] = [Opening(), Handshake("2025-03-26"), Handshake("2025-11-25"), Stateless(Identity())]
places = st.integers(0, 1000)
foreign_ids = st.sampled_from([0, -1, 10**9, "1", "x", True, 1.0, None, [1]])


class Conversation(RuleBasedStateMachine):
    """A Session whose wire is a list; a ticket is the id of its own request, boxed."""

    @initialize(era=st.sampled_from(ERAS))
    def begin(self, era: Era) -> None:
        self.now = 0.0
        self.due: dict[int, float] = {}  # by id, when a call of this connection is given up
        self.past: list[tuple[Session[list[int]], list[Request]]] = []  # connections that are over, and their wires
        self.connect(era)

    def connect(self, era: Era) -> None:
        self.session: Session[list[int]] = Session(era)
        self.wire: list[Request] = []  # everything that was ever asked
        self.open: dict[int, list[int]] = {}  # by id, the tickets that nobody has resolved
        self.served: set[int | str] = set()
        self.said = 0

    def hear(self, message: Any) -> Effect:
        """Let the message come by the wire, as bytes."""
        effect = self.session.received(decode(encode(message)))  # type: ignore[arg-type]
        if isinstance(effect, Settle):
            self.resolve(effect.ticket)
        return effect

    def resolve(self, ticket: list[int]) -> None:
        [own] = ticket
        assert self.open.pop(own) is ticket  # KeyError: a second time
        self.due.pop(own)

    # -- we ---------------------------------------------------------------------------------------------------------

    @rule(
        method=st.sampled_from(["tools/call", "ping", "initialize"]),
        progress=st.booleans(),
        timeout=st.sampled_from([0.1, 1.0, 30.0]),
    )
    def ask(self, method: str, progress: bool, timeout: float) -> None:
        ticket: list[int] = []
        request = self.session.ask(method, None, ticket, progress)
        assert isinstance(request.id, int)
        assert request.id not in {sent.id for sent in self.wire}
        ticket.append(request.id)
        self.wire.append(request)
        self.open[request.id] = ticket
        self.due[request.id] = self.now + timeout

    @rule(seconds=st.sampled_from([0.05, 0.5, 5.0, 60.0]))
    def let_time_pass(self, seconds: float) -> None:
        """Give up all whose time has come, the earliest first, as whoever keeps the deadlines does."""
        self.now += seconds
        for request_id, due in sorted(self.due.items(), key=lambda item: item[1]):
            if due <= self.now:
                ticket = self.session.give_up(request_id, "timeout")
                assert ticket is not None
                self.resolve(ticket)

    @precondition(lambda self: self.wire)
    @rule(place=places, why=st.sampled_from(["timeout", "cancelled", "error"]))
    def give_up(self, place: int, why: str) -> None:
        request = self.wire[place % len(self.wire)]
        ticket = self.session.give_up(request.id, why)
        assert (ticket is not None) == (request.id in self.open)
        if ticket is not None:
            self.resolve(ticket)

    @precondition(lambda self: self.wire)
    @rule(place=places)
    def lose(self, place: int) -> None:
        request = self.wire[place % len(self.wire)]
        effect = self.session.lost(request.id, MCPConnectionError("cut"))
        assert isinstance(effect, Settle) == (request.id in self.open)
        if isinstance(effect, Settle):
            self.resolve(effect.ticket)

    @rule()
    def tell(self) -> None:
        self.session.tell("notifications/x", None)
        self.said += 1

    @rule()
    def close(self) -> None:
        for ticket in self.session.close():
            self.resolve(ticket)
        assert not self.open
        self.served.clear()

    @rule(era=st.sampled_from(ERAS))
    def reconnect(self, era: Era) -> None:
        """Begin anew: nothing that was owed is owed any more, and nothing of the new connection is known to the old."""
        self.close()
        self.past.append((self.session, self.wire))
        self.connect(era)

    @rule()
    def fork(self) -> None:
        """In a child all that was owed fails; that is no matter of the parent's."""
        before = self.session.counters.as_dict()
        child = copy.deepcopy(self.session)
        assert sorted(ticket[0] for ticket in child.close()) == sorted(self.open)
        assert child.pending == 0
        assert child.close() == []
        assert (self.session.counters.as_dict(), self.session.pending) == (before, len(self.open))

    # -- they ---------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.wire)
    @rule(place=places, kind=st.sampled_from(["result", "error", "wrong", "broken"]))
    def answer(self, place: int, kind: str) -> None:
        """An answer to anything ever asked: in time, late, or a duplicate."""
        request = self.wire[place % len(self.wire)]
        waited = self.open.get(int(request.id))
        effect = self.session.received(decode(answer_of(request, kind)))
        if waited is None:
            assert isinstance(effect, Dropped)
            return
        assert isinstance(effect, Settle)
        assert effect.ticket is waited
        assert (effect.error is None) == (kind == "result")
        self.resolve(effect.ticket)

    @precondition(lambda self: any(wire for _, wire in self.past))
    @rule(place=places, kind=st.sampled_from(["result", "error"]))
    def answer_on_an_old_connection(self, place: int, kind: str) -> None:
        """What an old wire brings is for nobody, though the new connection has calls of the same number."""
        session, wire = [each for each in self.past if each[1]][-1]
        assert isinstance(session.received(decode(answer_of(wire[place % len(wire)], kind))), Dropped)

    @rule(foreign=foreign_ids, error=st.booleans())
    def answer_to_nobody(self, foreign: Any, error: bool) -> None:
        alone = foreign is None and error and isinstance(self.session.era, Opening) and len(self.open) == 1
        body = {"error": {"code": 1, "message": ""}} if error else {"result": {}}
        effect = self.hear({"jsonrpc": "2.0", "id": foreign, **body})
        assert isinstance(effect, Settle if alone else Dropped)

    @precondition(lambda self: self.wire)
    @rule(place=places)
    def progress(self, place: int) -> None:
        request = self.wire[place % len(self.wire)]
        effect = self.hear(Notification("notifications/progress", {"progressToken": request.id, "progress": 1}))
        assert isinstance(effect, Progressed) == (request.id in self.open)
        if isinstance(effect, Progressed):
            assert effect.ticket is self.open[int(request.id)]

    @rule()
    def say(self) -> None:
        assert isinstance(self.hear(Notification("notifications/tools/list_changed")), Told)

    @rule(request_id=st.sampled_from([1, 2, "1"]))
    def ask_us(self, request_id: int | str) -> None:
        effect = self.hear(Request(request_id, "roots/list"))
        welcome = self.session.era.server_asks and request_id not in self.served
        assert isinstance(effect, Serve if welcome else Dropped)
        if welcome:
            self.served.add(request_id)

    @rule(request_id=st.sampled_from([1, 2, "1"]), refuse=st.booleans())
    def answer_them(self, request_id: int | str, refuse: bool) -> None:
        told: Result | Failure | None
        if refuse:
            told = self.session.refuse(request_id, -1, "no")
        else:
            told = self.session.answer(request_id, {})
        assert (told is not None) == (request_id in self.served)
        assert told is None or (told.id == request_id and type(told.id) is type(request_id))
        self.served.discard(request_id)

    @rule(request_id=st.sampled_from([1, 2, "1", True, None]))
    def withdraw(self, request_id: Any) -> None:
        effect = self.hear(Notification("notifications/cancelled", {"requestId": request_id}))
        known = request_id is not True and request_id in self.served
        assert isinstance(effect, Withdrawn if known else Dropped)
        if known:
            self.served.discard(request_id)

    # -- always -------------------------------------------------------------------------------------------------------

    @invariant()
    def every_call_is_accounted_for(self) -> None:
        if not hasattr(self, "session"):
            return
        counters = self.session.counters
        ended = counters.ok + counters.error + counters.timeout + counters.cancelled
        assert counters.sent == len(self.wire) == ended + self.session.pending
        assert self.session.pending == len(self.open) == len(self.due)
        for old, wire in self.past:
            assert old.pending == 0
            assert old.counters.sent == len(wire)
        assert counters.notifications_sent == self.said
        assert all(count >= 0 for count in counters.as_dict().values())

    @invariant()
    def nothing_is_kept_of_what_is_over(self) -> None:
        if not hasattr(self, "session"):
            return
        kept = [value for value in vars(self.session).values() if isinstance(value, (dict, set, list))]
        assert sum(map(len, kept)) <= len(self.open) + len(self.served)


def answer_of(request: Request, kind: str) -> bytes:
    """Return an answer: good, an error, one that is no valid message, or one that is not even JSON."""
    if kind == "result":
        return encode(Result(request.id, {}))
    if kind == "error":
        return encode(Failure(request.id, 1, "no"))
    if kind == "wrong":
        return encode({"jsonrpc": "2.0", "id": request.id, "result": 5})
    return encode(Result(request.id, {}))[:-1]


Conversation.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestConversation = Conversation.TestCase


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestLongConversations(Conversation.TestCase):  # type: ignore[misc,valid-type]
    """The same for 50,000 steps."""

    settings = settings(max_examples=500, stateful_step_count=100, deadline=None)
