"""Two threads at the same call, in both orders: who comes first decides, and the other finds it decided.

The order is made by the doubles here: a Pipe whose writes and whose end can be held, and a Feed that stops the thread
which has just taken a call out of the Session, and before it resolves the future. The product has no pause points.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager
from typing import Any

import pytest
from faults.tools import PATIENCE, T, adds_up, until, within

from mcp_sync import MCPConnectionError, MCPError, MCPSession, MCPTimeoutError, MCPTransport
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel, Pipe, PipeChannel
from mcp_sync.observe import Event, Feed, Finished
from mcp_sync.testing import in_threads
from mcp_sync.testing.tools import Background


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Gate:
    """A place where a thread stops until it is let through."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def stop(self) -> None:
        self.reached.set()
        assert self.open.wait(PATIENCE), "nobody opened the gate"

    def await_somebody(self) -> None:
        assert self.reached.wait(PATIENCE), "nobody came to the gate"


class Line(Pipe):
    """A server of the stateless era that answers what the test tells it to."""

    name, kind = "line", "double"

    def __init__(self) -> None:
        self._incoming: queue.Queue[bytes] = queue.Queue()
        self.written: list[dict[str, Any]] = []
        self.before_write: Callable[[dict[str, Any]], object] = lambda message: None
        self.before_finish: Callable[[], object] = lambda: None
        self.finished = 0
        self.over = False

    def say(self, **message: Any) -> None:
        self._incoming.put(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def answer(self, request: dict[str, Any], **result: Any) -> None:
        self.say(id=request["id"], result=result)

    def die(self) -> None:
        self._incoming.put(b"")

    def asked(self, method: str, count: int = 1) -> dict[str, Any]:
        """Return the last of so many messages of a method."""
        found = until(lambda: [each for each in self.written if each["method"] == method][count - 1 :])
        return dict(found[0])

    def read(self) -> Sequence[bytes]:
        message = self._incoming.get()
        return [message] if message else []

    def write(self, data: bytes, deadline: Deadline) -> None:
        message = json.loads(data)
        self.before_write(message)
        if self.over:
            raise MCPConnectionError("the line is dead")
        self.written.append(message)
        if message["method"] == "server/discover":
            self.answer(message, supportedVersions=["2026-07-28"], capabilities={})

    def hang_up(self, deadline: Deadline) -> None:
        self.die()

    def epitaph(self) -> MCPConnectionError:
        return MCPConnectionError("the line went dead", details={"exit_status": 9})

    def finish(self) -> None:
        self.before_finish()
        self.finished += 1


class Watching(Feed):
    """Tells the test of every event, on the thread on which it happens."""

    def __init__(self) -> None:
        super().__init__()
        self.hook: Callable[[Event], object] = lambda event: None

    @property
    def watched(self) -> bool:
        return True

    def emit(self, event: Event) -> None:
        self.hook(event)


class Double(MCPTransport):
    """Reaches a Line."""

    def __init__(self, line: Line, feed: Watching) -> None:
        super().__init__(timeout=PATIENCE)
        self._double = line, feed

    def dial(self, deadline: Deadline) -> Channel:
        line, feed = self._double
        channel = PipeChannel(line)
        channel.feed = feed
        return channel


@contextmanager
def conversation() -> Iterator[tuple[MCPSession, Line, Watching]]:
    """Give a session, its line and its feed; afterwards the counters add up."""
    line, feed = Line(), Watching()
    session = Double(line, feed).create_session()
    try:
        yield session, line, feed
    finally:
        feed.hook = line.before_write = lambda _: None
        line.before_finish = lambda: None
        session.close()
        adds_up(session.counters)
        assert session.counters["pending"] == 0
        assert line.finished == 1


def at(gate: Gate, kind: type[Event], once: bool = True) -> Callable[[Event], None]:
    """Return what stops the first thread that emits such an event."""

    def hook(event: Event) -> None:
        if isinstance(event, kind) and not (once and gate.reached.is_set()):
            gate.stop()

    return hook


# -- reply and timeout -------------------------------------------------------------------------------------------------


def test_reply_then_timeout() -> None:
    """I2: the reader has taken the call when its deadline passes: the result counts, a moment late."""
    with conversation() as (session, line, feed):
        gate = Gate()
        feed.hook = at(gate, Finished)
        calling = Background(lambda: session.send_request("work", {}, T))
        line.answer(line.asked("work"), x=1)
        gate.await_somebody()
        until(lambda: Deadline(0).expired and not calling.thread.join(T * 1.2))
        gate.open.set()
        assert calling.result() == {"x": 1}
        assert (session.counters["timeout"], session.counters["ok"]) == (0, 2)
        assert [each["method"] for each in line.written].count("notifications/cancelled") == 0


def test_timeout_then_reply() -> None:
    """I2, I3: the caller has taken the call when the reply comes: it is late, and counted."""
    with conversation() as (session, line, feed):
        gate = Gate()
        feed.hook = at(gate, Finished)
        calling = Background(lambda: session.send_request("work", {}, 0.05))
        gate.await_somebody()  # the caller itself, after its deadline
        line.answer(line.asked("work"), x=1)
        until(lambda: session.counters["dropped_late"] == 1)
        gate.open.set()
        assert isinstance(calling.error(), MCPTimeoutError)
        assert line.asked("notifications/cancelled")["params"]["requestId"] == line.asked("work")["id"]


def test_timeout_of_a_future_then_reply_and_the_other_way_round() -> None:
    """I2: the reaper instead of the caller."""
    with conversation() as (session, line, feed):
        for reply_first in (True, False):
            gate = Gate()
            feed.hook = at(gate, Finished)
            count = 1 if reply_first else 2
            future = session.submit_request("work", {}, PATIENCE if reply_first else 0.05)
            if reply_first:
                line.answer(line.asked("work", count), x=1)
            gate.await_somebody()
            if not reply_first:
                line.answer(line.asked("work", count), x=1)
                until(lambda: session.counters["dropped_late"] == 1)
            gate.open.set()
            assert isinstance(future.exception(PATIENCE), type(None) if reply_first else MCPTimeoutError)


# -- close and call ----------------------------------------------------------------------------------------------------


def test_close_then_call() -> None:
    """I2: nothing is sent."""
    with conversation() as (session, line, _):
        session.close()
        with within(0.1), pytest.raises(MCPConnectionError, match="closed") as found:
            session.send_request("work")
        assert found.value.may_have_run is False
        assert not [each for each in line.written if each["method"] == "work"]


def test_call_then_close_before_it_is_written() -> None:
    """I2: the call was entered, and has not been written when everything is closed."""
    with conversation() as (session, line, feed):
        gate = Gate()
        feed.hook = lambda event: type(event).__name__ == "Called" and gate.stop()
        calling = Background(lambda: session.send_request("work"))
        gate.await_somebody()
        session.close()
        gate.open.set()
        error = calling.error()
        assert isinstance(error, MCPConnectionError)
        assert "closed" in str(error)
        assert not [each for each in line.written if each["method"] == "work"]


def test_call_then_close_while_it_waits() -> None:
    """I2, I7"""
    with conversation() as (session, line, _):
        calling = Background(lambda: session.send_request("work"))
        line.asked("work")
        with within(0.3):
            session.close()
        assert "closed" in str(calling.error())


def test_reply_then_close() -> None:
    """I2: what the reader has taken is a result, though everything is being closed."""
    with conversation() as (session, line, feed):
        gate = Gate()
        feed.hook = at(gate, Finished)
        calling = Background(lambda: session.send_request("work"))
        line.answer(line.asked("work"), x=1)
        gate.await_somebody()
        closing = Background(session.close)
        until(lambda: session._caller.over)
        gate.open.set()
        assert calling.result() == {"x": 1}
        closing.result()


def test_close_then_reply() -> None:
    """I2: the reply is nobody's any more."""
    with conversation() as (session, line, feed):
        gate = Gate()
        feed.hook = at(gate, Finished)
        calling = Background(lambda: session.send_request("work"))
        request = line.asked("work")
        closing = Background(session.close)
        gate.await_somebody()  # close() has taken the call, and not yet resolved it
        line.answer(request, x=1)
        gate.open.set()
        closing.result()
        assert isinstance(calling.error(), MCPConnectionError)


# -- death and call ----------------------------------------------------------------------------------------------------


def test_die_then_call() -> None:
    """I2, I6: it is said why, and nothing is sent."""
    with conversation() as (session, line, _):
        line.over = True
        line.die()
        until(lambda: session._caller.over)
        with pytest.raises(MCPConnectionError, match="went dead") as found:
            session.send_request("work")
        assert found.value.may_have_run is False
        assert found.value.details["exit_status"] == 9


def test_call_then_die_before_it_is_written() -> None:
    """I2, I6: the writer and the reader both have something to say; the reader knows why."""
    with conversation() as (session, line, _):
        gate = Gate()
        line.before_write = lambda message: message["method"] == "work" and gate.stop()
        calling = Background(lambda: session.send_request("work"))
        gate.await_somebody()
        line.over = True
        line.die()
        until(lambda: session._caller.over)
        gate.open.set()
        error = calling.error()
        assert isinstance(error, MCPConnectionError)
        assert "went dead" in str(error)
        assert error.details["exit_status"] == 9


def test_call_fails_to_write_then_die() -> None:
    """I2, I6: a broken pipe is noticed before the end is; who writes waits a moment for the reason."""
    with conversation() as (session, line, _):
        line.over = True
        calling = Background(lambda: session.send_request("work"))
        until(lambda: session.counters["pending"] == 1)
        line.die()
        error = calling.error()
        assert isinstance(error, MCPConnectionError)
        assert "went dead" in str(error)


def test_last_words_then_die() -> None:
    """I2: what came before the end is a result."""
    with conversation() as (session, line, _):
        future = session.submit_request("work")
        line.answer(line.asked("work"), x=1)
        line.die()
        assert future.result(PATIENCE) == {"x": 1}


# -- close and close ---------------------------------------------------------------------------------------------------


def test_close_while_another_closes() -> None:
    """I7: both return when it is over, and it is done once."""
    with conversation() as (session, line, _):
        gate = Gate()
        line.before_finish = gate.stop
        first = Background(session.close)
        gate.await_somebody()
        second = Background(session.close)
        second.thread.join(0.05)
        assert first.thread.is_alive()
        assert second.thread.is_alive()
        gate.open.set()
        first.result()
        second.result()
        assert line.finished == 1


def test_close_after_close_and_while_it_dies() -> None:
    """I7"""
    with conversation() as (session, line, _):
        gate = Gate()
        line.before_finish = gate.stop
        line.die()
        gate.await_somebody()  # the reader ends it all by itself
        closing = Background(session.close)
        closing.thread.join(0.05)
        gate.open.set()
        closing.result()
        with within(0.05):
            session.close()
        assert line.finished == 1


def test_close_that_gives_up_waiting_and_close_that_finishes() -> None:
    """I1, I7: the first had little time."""
    with conversation() as (session, line, _):
        gate = Gate()
        line.before_finish = gate.stop
        with within(0.3):
            session.close(0.1)
        assert line.finished == 0
        gate.open.set()
        session.close()
        assert line.finished == 1


# -- cancel and write --------------------------------------------------------------------------------------------------


def test_cancel_while_another_writes() -> None:
    """I1, I4: cancel() waits for nobody; the server is told when there is room."""
    with conversation() as (session, line, _):
        future = session.submit_request("first")
        gate = Gate()
        line.before_write = lambda message: message["method"] == "second" and gate.stop()
        calling = Background(lambda: session.send_request("second"))
        gate.await_somebody()
        with within(0.1):
            assert future.cancel()
        assert future.cancelled()
        gate.open.set()
        line.answer(line.asked("second"), x=2)
        assert calling.result() == {"x": 2}
        assert line.asked("notifications/cancelled")["params"]["requestId"] == line.asked("first")["id"]


def test_write_while_a_cancel_is_written() -> None:
    """I1, I4: who writes meanwhile waits for its turn, and no longer than its own timeout."""
    with conversation() as (session, line, _):
        future = session.submit_request("first")
        gate = Gate()
        line.before_write = lambda message: message["method"] == "notifications/cancelled" and gate.stop()
        assert future.cancel()
        gate.await_somebody()  # the lane, with the write lock
        with within(0.1 + 0.1), pytest.raises(MCPTimeoutError) as found:
            session.send_request("second", {}, 0.1)
        assert found.value.may_have_run is False
        calling = Background(lambda: session.send_request("third"))
        calling.thread.join(0.05)
        gate.open.set()
        line.answer(line.asked("third"), x=3)
        assert calling.result() == {"x": 3}
        methods = [each["method"] for each in line.written]
        assert methods.index("notifications/cancelled") < methods.index("third")
        assert "second" not in methods


# -- set_result and cancel ---------------------------------------------------------------------------------------------


def test_set_result_then_cancel() -> None:
    """I2, B31: the reader has it in hand; cancel() says that it is too late, and does not wait."""
    with conversation() as (session, line, feed):
        gate = Gate()
        feed.hook = at(gate, Finished)
        future = session.submit_request("work")
        line.answer(line.asked("work"), x=1)
        gate.await_somebody()
        with within(0.1):
            assert not future.cancel()
        gate.open.set()
        assert future.result(PATIENCE) == {"x": 1}
        assert not future.cancelled()
        assert session.counters["cancelled"] == 0


def test_cancel_then_set_result() -> None:
    """I2, B31: whoever cancels has taken the call; the reply is late, and the reader lives."""
    with conversation() as (session, line, feed):
        gate = Gate()
        feed.hook = at(gate, Finished)
        future = session.submit_request("work")
        request = line.asked("work")
        cancelling = Background(future.cancel)
        gate.await_somebody()
        line.answer(request, x=1)
        until(lambda: session.counters["dropped_late"] == 1)
        gate.open.set()
        assert cancelling.result() is True
        with pytest.raises(CancelledError):
            future.result(0)
        assert wait([future], 1).done == {future}
        again = session.submit_request("again")
        line.answer(line.asked("again"), x=2)
        assert again.result(PATIENCE) == {"x": 2}


def test_cancel_then_close_and_close_then_cancel() -> None:
    """I2, I20"""
    for cancel_first in (True, False):
        with conversation() as (session, line, feed):
            gate = Gate()
            feed.hook = at(gate, Finished)
            future = session.submit_request("work")
            line.asked("work")
            first = Background(future.cancel if cancel_first else session.close)
            gate.await_somebody()
            second = Background(session.close if cancel_first else future.cancel)
            second.thread.join(0.05)
            gate.open.set()
            outcome = first.result(), second.result()
            assert outcome == ((True, None) if cancel_first else (None, False))
            assert future.cancelled() is cancel_first


# -- without any order -------------------------------------------------------------------------------------------------


def test_all_of_them_at_once_many_times() -> None:
    """I2, I20: a reply, a timeout, a cancel, a death and a close; exactly one of them ends each call."""
    for round_ in range(60):
        with conversation() as (session, line, _):
            line.before_write = lambda message, line=line: (  # type: ignore[misc]
                "id" in message and message["method"] == "work" and line.answer(message, x=1)
            )
            ended: queue.Queue[Any] = queue.Queue()

            def work(
                number: int,
                session: MCPSession = session,
                line: Line = line,
                ended: queue.Queue[Any] = ended,
                round_: int = round_,
            ) -> None:
                if number == 5:
                    session.close() if round_ % 3 == 0 else line.die() if round_ % 3 == 1 else None
                    return
                for _ in range(4):
                    try:
                        future = session.submit_request("work", {}, 0.002 if number == 4 else PATIENCE)
                    except MCPConnectionError:
                        return
                    future.add_done_callback(ended.put)
                    if number % 2:
                        future.cancel()
                    try:
                        ended.put((future, future.result(PATIENCE)))
                    except (MCPError, CancelledError) as error:
                        ended.put((future, error))

            in_threads(6, work)
            session.close()
            items = list(ended.queue)
            futures = [item[0] for item in items if isinstance(item, tuple)]
            assert len(futures) == len(set(map(id, futures)))
            for future in futures:
                assert sum(item is future for item in items) == 1  # one callback each
