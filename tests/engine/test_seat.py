"""The seat: callers read for themselves, nobody is forgotten, and the keeper is there whenever nobody else is."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from mcp_sync import MCPConnectionError, MCPTimeoutError
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Question
from mcp_sync.engine.channel import LARGE, Pipe, PipeChannel
from mcp_sync.engine.peer import Peer
from mcp_sync.engine.seat import GRACE_SECONDS, STALE_SECONDS
from mcp_sync.policies import Limits
from mcp_sync.protocol.framing import Overlong
from mcp_sync.testing import in_threads

T = 10.0
MANY = 200


class Wire(Pipe):
    """A pipe that lends: what the test says arrives, and it notes who has read it, and what was written when."""

    name = kind = "wire"
    lends = True

    def __init__(self, answer: Callable[[dict[str, Any]], Sequence[dict[str, Any]]] | None = None) -> None:
        self.readers: list[str] = []
        self.written: list[dict[str, Any]] = []
        self.attention = False
        self.over = False
        self._answer = answer
        self._arriving: deque[bytes] = deque()
        self._came: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._hung_up = False

    def say(self, *messages: dict[str, Any]) -> None:
        """Let messages arrive, in one piece."""
        with self._changed:
            self._arriving.append(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
            self._changed.notify_all()

    def demand(self) -> None:
        """Let there be something to see to that is no message."""
        with self._changed:
            self.attention = True
            self._changed.notify_all()

    def end(self) -> None:
        """Let the stream end."""
        with self._changed:
            self.over = True
            self._changed.notify_all()

    def _await(self, seconds: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: self._arriving or self.over or self._hung_up or self.attention, seconds
            ) and bool(self._arriving)

    def _note(self) -> None:
        thread = threading.current_thread()
        self.readers.append("keeper" if thread.name.endswith("-reader") else thread.name)

    def read(self) -> Sequence[bytes | Overlong]:
        while not self._hung_up:
            if self._came:
                return self.cut()
            self.attention = False
            if self._await(None):
                self._note()
                self._came.append(self._arriving.popleft())
            elif self.over:
                return []
        return []

    def fetch(self, seconds: float) -> bool:
        if self.attention or not self._await(seconds) or self._hung_up:
            return False
        self._note()
        self._came.append(self._arriving.popleft())
        return True

    def whole(self) -> bytes | None:
        line = b"".join(self._came)
        return line if line.count(b"\n") == 1 and line.endswith(b"\n") else None

    def partial(self) -> bool:
        return bool(self._came) and b"\n" not in b"".join(self._came)

    def taken(self) -> None:
        self._came.clear()

    def cut(self) -> Sequence[bytes | Overlong]:
        data = b"".join(self._came)
        self._came.clear()
        return data.splitlines()

    def is_over(self) -> bool:
        return self.over

    def write(self, data: bytes, deadline: Deadline) -> None:
        message = json.loads(data)
        self.written.append(message)
        if self._answer is not None:
            for answer in self._answer(message):
                self.say(answer)

    def hang_up(self, deadline: Deadline) -> None:
        with self._changed:
            self._hung_up = True
            self._changed.notify_all()

    def epitaph(self) -> MCPConnectionError:
        return MCPConnectionError("the wire was cut")


def result(request: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request["id"], "result": {"of": request.get("params")}}


def told(number: int) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": number}}


class Ears:
    """A Handler that notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def offers(self, method: str) -> bool:
        return False

    def request(self, incoming: Any) -> dict[str, Any] | None:
        return None

    def notification(self, notification: Any) -> None:
        self.heard.append(notification.params["n"])

    def closed(self, error: Exception) -> None:
        self.heard.append("closed")


@contextmanager
def conversing(
    answer: Callable[[dict[str, Any]], Sequence[dict[str, Any]]] | None, ears: Ears | None = None
) -> Iterator[tuple[Peer, Wire]]:
    wire = Wire(answer)
    channel = PipeChannel(wire)
    peer = Peer(channel, ears, Limits())
    channel.start(peer)
    try:
        yield peer, wire
    finally:
        peer.close(Deadline(T))


def ask(peer: Peer, number: Any = 0, timeout: float = T) -> Any:
    return peer.call(Question("ask", {"n": number}), Deadline(timeout))["of"]["n"]


def at_once(request: dict[str, Any]) -> Sequence[dict[str, Any]]:
    return [result(request)] if "id" in request else []


def until(met: Callable[[], Any]) -> None:
    deadline = time.monotonic() + T
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# -- who reads -------------------------------------------------------------------------------------------------------


def test_a_caller_who_calls_again_and_again_reads_for_itself() -> None:
    with conversing(at_once) as (peer, wire):
        ask(peer)  # the first may come before the keeper gets up
        wire.readers.clear()
        for number in range(MANY):
            assert ask(peer, number) == number
        assert wire.readers.count("MainThread") > MANY / 2


def test_a_caller_after_a_pause_is_answered_by_the_keeper_who_then_leaves_the_seat() -> None:
    with conversing(at_once) as (peer, wire):
        until(lambda: peer._channel._seat.kept)  # type: ignore[attr-defined]
        assert ask(peer) == 0
        assert wire.readers == ["keeper"]
        until(lambda: not peer._channel._seat.kept)  # type: ignore[attr-defined]
        until(lambda: peer._channel._seat.kept)  # type: ignore[attr-defined]  # and comes back by itself


def test_what_is_said_unasked_is_heard_though_nobody_calls() -> None:
    ears = Ears()
    with conversing(at_once, ears) as (peer, wire):
        ask(peer)
        wire.say(told(1))
        until(lambda: ears.heard == [1])
        wire.say(told(2), told(3))
        until(lambda: ears.heard == [1, 2, 3])
        assert ask(peer) == 0


def test_what_comes_with_an_answer_is_heard_in_its_order() -> None:
    ears = Ears()

    def talkative(request: dict[str, Any]) -> Sequence[dict[str, Any]]:
        n = request["params"]["n"]
        return [told(2 * n), result(request), told(2 * n + 1)]

    with conversing(talkative, ears) as (peer, _):
        for number in range(MANY):
            assert ask(peer, number) == number
        until(lambda: len(ears.heard) == 2 * MANY)
        assert ears.heard == list(range(2 * MANY))


def test_a_future_needs_no_caller_who_reads() -> None:
    with conversing(at_once) as (peer, _):
        ask(peer)  # now the keeper has left the seat
        began = time.monotonic()
        for number in range(20):
            future = peer.submit(Question("ask", {"n": number}), Deadline(T))
            assert future.result(T)["of"]["n"] == number
            ask(peer)
        assert time.monotonic() - began < T


def test_a_future_that_is_answered_late_does_not_wait_for_a_caller_to_come_back() -> None:
    with conversing(lambda request: at_once(request) if request["params"]["n"] else []) as (peer, wire):
        late = peer.submit(Question("ask", {"n": 0}), Deadline(T))
        for number in range(1, 50):
            assert ask(peer, number) == number
        wire.say(result(wire.written[0]))
        assert late.result(T)["of"]["n"] == 0
        assert not peer._channel._expected  # type: ignore[attr-defined]


@pytest.mark.parametrize("end", ["timeout", "cancel"])
def test_a_future_that_ends_without_an_answer_is_expected_no_more(end: str) -> None:
    with conversing(None) as (peer, _):
        future = peer.submit(Question("ask", {"n": 0}), Deadline(T if end == "cancel" else 0.05))
        if end == "cancel":
            future.cancel()
        else:
            with pytest.raises(MCPTimeoutError):
                future.result(T)
        until(lambda: not peer._channel._expected)  # type: ignore[attr-defined]


# -- nobody is forgotten -----------------------------------------------------------------------------------------------


def test_callers_in_many_threads_get_their_own_answers() -> None:
    with conversing(at_once) as (peer, _):

        def calls(thread: int) -> None:
            for number in range(MANY):
                assert ask(peer, [thread, number]) == [thread, number]

        in_threads(16, calls)
        assert peer.counters["ok"] == 16 * MANY
        assert peer.counters["pending"] == 0


def test_answers_in_any_order_find_those_who_wait() -> None:
    waiting: list[dict[str, Any]] = []
    lock = threading.Lock()

    def shuffled(request: dict[str, Any]) -> Sequence[dict[str, Any]]:
        with lock:
            waiting.append(request)
            if len(waiting) < 8:
                return []
            answers = [result(one) for one in reversed(waiting)]
            waiting.clear()
        return answers

    with conversing(shuffled) as (peer, _):

        def calls(thread: int) -> None:
            for number in range(50):
                assert ask(peer, [thread, number]) == [thread, number]

        in_threads(8, calls)


def test_who_has_the_seat_and_whose_time_is_over_hands_it_on() -> None:
    """The first caller reads and is never answered; the second lines up behind it, and must not be forgotten."""
    with conversing(lambda request: []) as (peer, wire):
        ask_in_vain = [threading.Thread(target=lambda: pytest.raises(MCPTimeoutError, ask, peer, 0, 0.1)) for _ in "ab"]
        for thread in ask_in_vain:
            thread.start()
        answered: list[Any] = []
        patient = threading.Thread(target=lambda: answered.append(ask(peer, 7)))
        patient.start()
        for thread in ask_in_vain:
            thread.join(T)
        until(lambda: any(one.get("params", {}).get("n") == 7 for one in wire.written))
        wire.say(result(next(one for one in wire.written if one.get("params", {}).get("n") == 7)))
        patient.join(T)
        assert answered == [7]


def test_a_caller_who_waits_long_is_not_in_the_way_of_the_keeper_afterwards() -> None:
    ears = Ears()
    with conversing(None, ears) as (peer, wire):
        with pytest.raises(MCPTimeoutError):
            ask(peer, 0, GRACE_SECONDS * 5)
        wire.say(told(1))
        until(lambda: ears.heard == [1])


def test_all_who_wait_hear_of_the_end_at_once() -> None:
    with conversing(None) as (peer, wire):
        errors: list[BaseException] = []

        def call() -> None:
            try:
                ask(peer)
            except MCPConnectionError as error:
                errors.append(error)

        threads = [threading.Thread(target=call) for _ in range(5)]
        for thread in threads:
            thread.start()
        until(lambda: len(wire.written) == 5)
        wire.end()
        for thread in threads:
            thread.join(T)
        assert [str(error) for error in errors] == ["ask: the wire was cut"] * 5


def test_what_is_no_message_is_for_the_keeper_and_callers_go_on() -> None:
    with conversing(at_once) as (peer, wire):
        for number in range(50):
            wire.demand()
            assert ask(peer, number) == number
        until(lambda: not wire.attention)


def test_a_connection_that_has_ended_since_the_last_call_is_found_out_before_anything_is_written() -> None:
    with conversing(at_once) as (peer, wire):
        ask(peer)
        ask(peer)
        wire.over = True  # nobody is told
        time.sleep(STALE_SECONDS * 4)
        written = len(wire.written)
        with pytest.raises(MCPConnectionError) as caught:
            ask(peer)
        assert caught.value.may_have_run is False
        assert len(wire.written) == written


def test_somebody_reads_while_a_large_message_is_written() -> None:
    """Trap 18: the other side fills the pipe before it reads ours."""
    with conversing(None) as (peer, wire):
        read_meanwhile = threading.Event()

        def answer(request: dict[str, Any]) -> Sequence[dict[str, Any]]:
            if "id" not in request:
                return []
            wire.say(told(1))
            until(lambda: not wire._arriving)  # somebody has taken it, though this thread writes
            read_meanwhile.set()
            return [result(request)]

        wire._answer = lambda request: []
        with pytest.raises(MCPTimeoutError):
            ask(peer, 0, 0.01)  # the keeper is not in the seat now
        wire._answer = answer
        assert ask(peer, "x" * LARGE) == "x" * LARGE
        assert read_meanwhile.is_set()


def test_closing_while_a_caller_reads_ends_its_call() -> None:
    with conversing(None) as (peer, wire):
        errors: list[BaseException] = []

        def call() -> None:
            try:
                ask(peer)
            except MCPConnectionError as error:
                errors.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        until(lambda: wire.written)
        peer.close(Deadline(T))
        thread.join(T)
        assert len(errors) == 1


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


def test_the_main_thread_takes_in_nothing_but_its_own_answer() -> None:
    """What Ctrl-C could tear is then only what nobody waits for any more."""
    ears = Ears()
    with conversing(None, ears) as (peer, wire):
        others: list[Any] = []
        thread = threading.Thread(target=lambda: others.append(ask(peer, 1)), name="other")

        def answer(request: dict[str, Any]) -> Sequence[dict[str, Any]]:
            n = request.get("params", {}).get("n")
            return [told(5), result(wire.written[0]), result(request)] if n == 2 else []

        wire._answer = answer
        thread.start()
        until(lambda: wire.written)
        assert ask(peer, 2) == 2
        thread.join(T)
        assert others == [1]
        until(lambda: ears.heard == [5])
