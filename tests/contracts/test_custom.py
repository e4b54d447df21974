"""Transports of users' own, in three shapes, keep the contracts as far as their shape allows."""

from __future__ import annotations

import json
import queue
import threading
from typing import Any, ClassVar

import pytest

from mcp_sync import CustomTransport, MCPConnectionError, MCPTimeoutError, MCPTransport
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.engine.dispatch import start_thread
from mcp_sync.policies import Limits, gather, with_knobs
from mcp_sync.testing import CallerContract, ChannelContract, Partner, TransportContract


class Line:
    """What a user might have: two queues and a partner behind them."""

    def __init__(self) -> None:
        self.there: queue.Queue[bytes | None] = queue.Queue()
        self.back: queue.Queue[bytes | None] = queue.Queue()
        self.thread = start_thread("partner", Partner(self.Wire(self)).run)

    def end(self) -> None:
        self.there.put(None)
        self.back.put(None)

    class Wire:
        def __init__(self, line: Line) -> None:
            self.line = line

        def read(self) -> bytes | None:
            return self.line.there.get()

        def write(self, data: bytes) -> None:
            self.line.back.put(data)

        def idle(self) -> None:
            while self.line.there.get() is not None:
                pass

        def close(self) -> None:
            self.line.end()

        die = close


class Simple:
    """Shape one: read, write, close."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._lock = threading.Lock()

    @property
    def line(self) -> Line:
        with self._lock:
            if not self._lines:
                self._lines.append(Line())
            return self._lines[0]

    def read(self) -> str:
        data = self.line.back.get()
        return "" if data is None else data.decode("utf-8", "replace")

    def write(self, message: dict[str, Any]) -> None:
        self.line.there.put(json.dumps(message).encode())

    def close(self) -> None:
        self.line.end()


class Chatty:
    """Shape two: connect, send_message, receive_message, disconnect."""

    def __init__(self) -> None:
        self.line: Line | None = None
        self.dials = 0

    @property
    def connected(self) -> bool:
        return self.line is not None

    def connect(self) -> None:
        self.line = Line()
        self.dials += 1

    def disconnect(self) -> None:
        line, self.line = self.line, None
        if line is not None:
            line.end()

    def send_message(self, message: dict[str, Any]) -> None:
        if self.line is None:
            raise ConnectionError("gone")
        self.line.there.put(json.dumps(message).encode())

    def receive_message(self, timeout: float | None = None) -> dict[str, Any] | bytes | None:
        line = self.line
        if line is None:
            return None
        data = line.back.get(timeout=timeout)
        if data is None:
            line.back.put(None)
            raise EOFError
        return data


@with_knobs(Limits)
class Derived(MCPTransport):
    """Shape three: a subclass of MCPTransport with its own four methods, written as its author would."""

    transport_type: ClassVar[str] = "derived"

    def __init__(self, *, timeout: float | None = None, **knobs: Any) -> None:
        super().__init__(timeout, gather(Derived, (Limits,), None, knobs))
        self.line: Line | None = None

    def connect(self, timeout: float | None = None) -> None:  # type: ignore[override]
        self.line = Line()

    def disconnect(self, timeout: float | None = None) -> None:
        line, self.line = self.line, None
        if line is not None:
            line.end()

    def send_message(self, message: Any, timeout: float | None = None) -> None:
        if self.line is None:
            raise MCPConnectionError("not connected; call connect()", may_have_run=False)
        self.line.there.put(json.dumps(message).encode())

    def receive_message(self, timeout: float | None = None) -> dict[str, Any]:
        line = self.line
        if line is None:
            raise EOFError
        try:
            data = line.back.get(timeout=timeout if timeout is not None else self.timeout)
        except queue.Empty:
            raise MCPTimeoutError(f"nothing within {timeout} s") from None
        if data is None:
            line.back.put(None)
            raise EOFError
        return json.loads(data)  # type: ignore[no-any-return]


class CustomChannel(ChannelContract):
    bounded = False  # its queues are not


class TestSimpleChannel(CustomChannel):
    def connect(self) -> Channel:
        return CustomTransport(Simple(), max_message_size=self.message_size).dial(Deadline(5))


class TestChattyChannel(CustomChannel):
    def connect(self) -> Channel:
        return CustomTransport(Chatty(), max_message_size=self.message_size).dial(Deadline(5))


class TestDerivedChannel(CustomChannel):
    exact = False  # its author decodes, and did not think of garbage

    def connect(self) -> Channel:
        return Derived(max_message_size=self.message_size).dial(Deadline(5))


class TestSimpleTransport(TransportContract):
    bounded = False
    dials_anew = dials_often = False

    def make(self, **knobs: Any) -> MCPTransport:
        return CustomTransport(Simple(), **knobs)


class TestChattyTransport(TransportContract):
    bounded = False
    dials_often = False

    def make(self, **knobs: Any) -> MCPTransport:
        return CustomTransport(Chatty(), **knobs)


class TestPeerOverSimple(CallerContract):
    def connect(self, limits: Limits) -> Channel:
        return CustomTransport(Simple(), max_message_size=limits.message_size, max_backlog=limits.backlog).dial(
            Deadline(5)
        )


class TestPeerOverChatty(CallerContract):
    def connect(self, limits: Limits) -> Channel:
        return CustomTransport(Chatty(), max_message_size=limits.message_size, max_backlog=limits.backlog).dial(
            Deadline(5)
        )


class TestPeerOverDerived(CallerContract):
    exact = False

    def connect(self, limits: Limits) -> Channel:
        return Derived(max_message_size=limits.message_size, max_backlog=limits.backlog).dial(Deadline(5))


def test_a_subclass_with_its_own_connect_is_dialled_once_and_knows_whether_it_is_connected() -> None:
    transport = Derived()
    assert transport.connected is False
    with transport as entered:
        assert entered is transport
        assert transport.connected is True
        line = transport.line
        with transport.create_session(5) as session:
            assert session.send_request("echo", {"a": 1}) == {"a": 1}
            assert transport.line is line
    assert transport.connected is False
    assert transport.connect() is transport
    transport.close()
    assert transport.line is None


def test_without_a_connection_a_subclass_is_connected_by_its_session() -> None:
    transport = Derived()
    with transport.create_session(5) as session:
        assert session.send_request("echo", {}) == {}
        assert transport.connected is True
    assert transport.connected is False
    with transport.create_session(5) as session:
        assert session.send_request("echo", {}) == {}


def test_a_subclass_may_note_itself_whether_it_is_connected() -> None:
    class Noting(Derived):
        def connect(self, timeout: float | None = None) -> None:  # type: ignore[override]
            super().connect()
            self.connected = True  # type: ignore[misc]

    transport = Noting()
    with transport, transport.create_session(5) as session:
        assert session.send_request("echo", {}) == {}


@pytest.mark.parametrize("make", [lambda: CustomTransport(Chatty()), Derived, lambda: CustomTransport(Simple())])
def test_two_conversations_at_once_over_one_object_are_refused(make: Any) -> None:
    transport = make()
    with transport.create_session(5) as session:
        with pytest.raises(MCPConnectionError, match="another conversation") as found:
            transport.create_session(5)
        assert found.value.may_have_run is False
        assert session.send_request("echo", {}) == {}


def test_an_object_that_says_at_once_that_nothing_came_is_not_asked_without_end() -> None:
    class Impatient(Simple):
        asked = 0

        def read(self) -> str:
            Impatient.asked += 1
            data = self.line.back.get_nowait()
            return "" if data is None else data.decode()

    with CustomTransport(Impatient()).create_session(5) as session:
        before = Impatient.asked
        with pytest.raises(MCPTimeoutError):
            session.send_request("hold", {}, timeout=0.3)
        assert Impatient.asked - before < 100
        assert session.send_request("echo", {}) == {}


def test_an_object_that_cannot_connect_says_why() -> None:
    class Failing(Chatty):
        def connect(self) -> None:
            raise OSError("the cable is not plugged in")

    with pytest.raises(MCPConnectionError, match="the cable is not plugged in") as found:
        CustomTransport(Failing()).create_session(5)
    assert isinstance(found.value.__cause__, OSError)
    assert found.value.may_have_run is False


@pytest.mark.parametrize("odd", [42, object(), ["\ud800", {1}]])
def test_an_object_that_reads_what_is_no_message_says_so(odd: object) -> None:
    class Odd(Simple):
        def read(self) -> Any:
            return odd

    with pytest.raises(MCPConnectionError, match="reading failed"):
        CustomTransport(Odd()).create_session(5)


def test_what_reading_and_writing_raise_is_in_the_error() -> None:
    class Breaking(Simple):
        def read(self) -> Any:
            super().read()
            raise OSError("the cable was pulled")

    with pytest.raises(MCPConnectionError, match="the cable was pulled") as found:
        CustomTransport(Breaking()).create_session(5)
    assert isinstance(found.value.__cause__, (OSError, MCPConnectionError))

    class Mute(Simple):
        def write(self, message: object) -> None:
            raise OSError("no ink")

    with pytest.raises(MCPConnectionError, match="no ink"):
        CustomTransport(Mute()).create_session(0.5)


def test_a_method_that_takes_a_timeout_is_given_what_is_left() -> None:
    given: list[float] = []

    class Timed(Chatty):
        def send_message(self, message: dict[str, Any], timeout: float = 0) -> None:  # type: ignore[override]
            given.append(timeout)
            super().send_message(message)

    with CustomTransport(Timed()).create_session(5) as session:
        session.send_request("echo", {}, timeout=3)
    assert 0 < given[-1] <= 3


@pytest.mark.parametrize("target", [object(), "python server.py", None, {"read": 1}])
def test_what_cannot_pass_messages_is_refused(target: object) -> None:
    with pytest.raises(TypeError, match="cannot pass messages"):
        CustomTransport(target)
