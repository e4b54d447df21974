"""A Peer in any order of events, with a clock that stands until told: each future is resolved once, and in time.

What tests/protocol/test_session_machine.py does to the bookkeeping, this does to all that a future goes through: the
Peer, its deadline, cancel(), the wire. The wire is a list; nothing is answered, and no time passes, but by a rule.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mcp_sync.deadlines import Deadline
from mcp_sync.engine import caller as futures
from mcp_sync.engine.caller import CallFuture, Question
from mcp_sync.engine.channel import Channel
from mcp_sync.engine.peer import Peer
from mcp_sync.exceptions import JSONRPCError, MCPConnectionError, MCPError, MCPTimeoutError, RemoteProtocolError
from mcp_sync.policies import Limits
from mcp_sync.protocol.messages import Message, Notification, Request, decode, encode

places = st.integers(0, 1000)


class Alarm:
    """A job with a point in time, as the reaper's."""

    def __init__(self, at: float, job: Callable[[], object]) -> None:
        self.at = at
        self.job: Callable[[], object] | None = job


class Clock:
    """A clock that stands, and the reaper that goes by it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()

    def __call__(self) -> float:
        return self.now

    def at(self, deadline: Deadline, job: Callable[[], object]) -> Alarm:
        alarm = Alarm(deadline.at, job)
        heapq.heappush(self._alarms, (deadline.at, next(self._numbers), alarm))
        return alarm

    def call_off(self, alarm: Alarm) -> None:
        alarm.job = None

    @property
    def waiting(self) -> int:
        """How many alarms were neither rung nor called off."""
        return sum(alarm.job is not None for _, _, alarm in self._alarms)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        while self._alarms and self._alarms[0][0] <= self.now:
            _, _, alarm = heapq.heappop(self._alarms)
            job, alarm.job = alarm.job, None
            if job is not None:
                job()


class Wire(Channel):
    """A channel that keeps what it is given to send, or fails as told."""

    def __init__(self) -> None:
        super().__init__("wire", "double")
        self.sent: list[Request] = []
        self.fails: MCPError | None = None
        self.sink: Any = None

    def start(self, sink: Any) -> None:
        self.sink = sink

    def send(self, message: Message | Mapping[str, Any], deadline: Deadline) -> None:
        if isinstance(message, Request):
            error, self.fails = self.fails, None
            if error is not None:
                raise error
            self.sent.append(message)

    def close(self, deadline: Deadline) -> None:
        pass

    def hear(self, data: bytes) -> None:
        self.sink.received(decode(data))


class Futures(RuleBasedStateMachine):
    """One Peer after the other, and every future there ever was."""

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.patch = mock.patch.object(futures, "reaper", self.clock)
        self.patch.start()
        self.ended: dict[int, int] = {}  # by id(future), how often its `then` was run
        self.futures: list[tuple[CallFuture[Any], Deadline, Any]] = []  # with what it has to return, if anything
        self.expected: dict[int, Any] = {}
        self.peers: list[Peer] = []
        self.dial()

    def teardown(self) -> None:
        if not hasattr(self, "patch"):
            return
        try:
            for peer in self.peers:
                peer.close(Deadline(5.0))
            assert all(future.done() for future, _, _ in self.futures)
            assert self.clock.waiting == 0, "an alarm of a call that is over"
            self.each_ended_once_and_in_time()
        finally:
            self.patch.stop()

    def dial(self) -> None:
        self.wire = Wire()
        self.peer = Peer(self.wire, None, Limits())
        self.wire.start(self.peer)
        self.peers.append(self.peer)

    def note_end(self, future: CallFuture[Any]) -> None:
        self.ended[id(future)] = self.ended.get(id(future), 0) + 1

    def waiting(self, request: Request) -> CallFuture[Any] | None:
        """Return the future of a request of this connection, if it still waits."""
        for future, _, peer in self.futures:
            if future.request_id == request.id and peer is self.peer and not future.done():
                return future
        return None

    def dropped(self) -> int:
        """Return how many messages nobody waited for, or that could not be read."""
        counters = self.peer.counters
        return counters["dropped_late"] + counters["dropped_unknown"] + counters["parse_errors"]

    # -- we

    @rule(timeout=st.sampled_from([0.1, 1.0, 30.0]))
    def submit(self, timeout: float) -> None:
        deadline = Deadline(timeout, self.clock)
        over = self.peer.over
        try:
            future = self.peer.submit(Question("tools/call", {}, then=self.note_end), deadline)
        except MCPConnectionError:
            assert over
            return
        assert not over
        self.futures.append((future, deadline, self.peer))

    @rule(timeout=st.sampled_from([0.1, 1.0]), how=st.sampled_from(["lost", "stuck", "torn"]))
    def submit_and_fail_to_write(self, timeout: float, how: str) -> None:
        errors = {
            "lost": MCPConnectionError("broken pipe"),
            "stuck": MCPTimeoutError("no room", may_have_run=False),
            "torn": MCPTimeoutError("half of it"),
        }
        self.wire.fails = errors[how]
        # Whose write fails waits for the reader's verdict, by a clock that goes: no time here.
        with mock.patch("mcp_sync.engine.peer.VERDICT_SECONDS", 0.0):
            self.submit(timeout)
        self.wire.fails = None

    @precondition(lambda self: self.futures)
    @rule(place=places)
    def cancel(self, place: int) -> None:
        future, _, _ = self.futures[place % len(self.futures)]
        waited = not future.done()
        assert future.cancel() == (waited or future.cancelled())
        assert future.cancelled() or not waited

    @rule(seconds=st.sampled_from([0.05, 0.5, 5.0, 60.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.pass_by(seconds)
        assert all(future.done() for future, deadline, _ in self.futures if deadline.expired)  # I1

    @rule()
    def close(self) -> None:
        self.peer.close(Deadline(5.0))
        assert all(future.done() for future, _, _ in self.futures)

    @rule()
    def reconnect(self) -> None:
        self.close()
        self.dial()

    # -- they

    @precondition(lambda self: self.wire.sent)
    @rule(place=places, kind=st.sampled_from(["result", "error", "broken"]))
    def answer(self, place: int, kind: str) -> None:
        """An answer to anything that was asked on this connection: in time, late, or for the second time."""
        request = self.wire.sent[place % len(self.wire.sent)]
        future = self.waiting(request)
        before = self.dropped()
        members = {"error": {"code": 5, "message": "no"}} if kind == "error" else {"result": {"own": request.id}}
        data = encode({"jsonrpc": "2.0", "id": request.id, **members})
        self.wire.hear(data[:-1] if kind == "broken" else data)
        if future is None:
            assert self.dropped() == before + 1
            return
        assert future.done()
        kinds = {"result": type(None), "error": JSONRPCError, "broken": RemoteProtocolError}
        assert isinstance(future.exception(0), kinds[kind])
        if kind == "result":
            assert future.result(0) == {"own": future.request_id}  # I3

    @rule(foreign=st.sampled_from([0, -1, 10**9, "1", "x"]))
    def answer_to_nobody(self, foreign: Any) -> None:
        pending = self.peer.counters["pending"]
        self.wire.hear(encode({"jsonrpc": "2.0", "id": foreign, "result": {"own": "?"}}))
        assert self.peer.counters["pending"] == pending

    @precondition(lambda self: self.wire.sent)
    @rule(place=places)
    def lose(self, place: int) -> None:
        request = self.wire.sent[place % len(self.wire.sent)]
        future = self.waiting(request)
        self.peer.lost(request.id, MCPConnectionError("cut"))
        assert future is None or isinstance(future.exception(0), MCPConnectionError)

    @rule()
    def say(self) -> None:
        self.wire.hear(encode(Notification("notifications/x")))

    @rule()
    def die(self) -> None:
        self.peer.closed(MCPConnectionError("it went dead"))
        assert all(future.done() for future, _, _ in self.futures)

    # -- always

    @invariant()
    def each_ended_once_and_in_time(self) -> None:
        """I2: with a result or an error of ours, and by CancelledError only where it was cancelled."""
        if not hasattr(self, "futures"):
            return
        for future, _, _ in self.futures:
            if not future.done():
                assert id(future) not in self.ended
            elif not future.cancelled():
                assert self.ended[id(future)] == 1
                assert isinstance(future.exception(0), (MCPError, type(None)))
            else:
                with pytest.raises(CancelledError):
                    future.result(0)

    @invariant()
    def the_counters_add_up(self) -> None:
        """I20"""
        for peer in getattr(self, "peers", []):
            counters = peer.counters
            ends = sum(counters[key] for key in ("ok", "error", "timeout", "cancelled", "pending"))
            assert counters["sent"] == ends
            assert counters["pending"] == sum(not future.done() for future, _, home in self.futures if home is peer)


Futures.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestFutures = Futures.TestCase


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestFuturesForLong(Futures.TestCase):  # type: ignore[misc,valid-type]
    """The same for 20,000 steps."""

    settings = settings(max_examples=250, stateful_step_count=80, deadline=None)
