"""Transports of users' own, in three shapes, keep the contracts as far as their shape allows."""

from __future__ import annotations

import inspect
import io
import json
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from mcp_sync import (
    Client,
    CustomTransport,
    ForkedClientError,
    MCPConnectionError,
    MCPTimeoutError,
    MCPTransport,
    StdioTransport,
)
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.engine.dispatch import start_thread
from mcp_sync.policies import Limits, gather, with_knobs
from mcp_sync.testing import CallerContract, ChannelContract, Partner, TransportContract, in_threads
from mcp_sync.testing.caller import verdict_of_child
from mcp_sync.testing.tools import SLACK
from mcp_sync.transports import objects


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


class Plain(MCPTransport):
    """Shape three in its shortest form: the four methods as the README has them, and no more."""

    def __init__(self, timeout: float | None = None) -> None:
        super().__init__(timeout)
        self.line: Line | None = None

    def connect(self) -> None:  # type: ignore[override]
        self.line = Line()

    def disconnect(self) -> None:  # type: ignore[override]
        line, self.line = self.line, None
        if line is not None:
            line.end()

    def send_message(self, message: dict[str, Any]) -> None:  # type: ignore[override]
        assert self.line is not None
        self.line.there.put(json.dumps(message).encode())

    def receive_message(self, timeout: float | None = None) -> Any:
        assert self.line is not None
        data = self.line.back.get(timeout=timeout)
        if data is None:
            self.line.back.put(None)
            raise EOFError
        return data


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


class TestPlainChannel(CustomChannel):
    limited = False

    def connect(self) -> Channel:
        return Plain().dial(Deadline(5))


class TestDerivedTransport(TransportContract):
    bounded = False
    dials_often = False
    exact = False

    def make(self, **knobs: Any) -> MCPTransport:
        return Derived(**knobs)


class TestPlainTransport(TransportContract):
    bounded = False
    dials_often = False
    limited = False

    def make(self, **knobs: Any) -> MCPTransport:
        return Plain(**knobs)


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


class TestPeerOverPlain(CallerContract):
    limited = False

    def connect(self, limits: Limits) -> Channel:
        return Plain().dial(Deadline(5))


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


# -- subclasses -------------------------------------------------------------------------------------------------------


class Sending:
    """Half of a transport."""

    line: Line

    def send_message(self, message: dict[str, Any]) -> None:
        self.line.there.put(json.dumps(message).encode())


class Halves(Sending, MCPTransport):  # type: ignore[misc]
    """The other half; it never connects, it is."""

    def __init__(self) -> None:
        self.line = Line()

    def receive_message(self, timeout: float | None = None) -> Any:
        return self.line.back.get(timeout=timeout)


def test_the_methods_of_a_subclass_may_come_from_several_classes_and_be_but_two() -> None:
    transport = Halves()
    with transport:
        transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "echo"})
        assert transport.receive_message(5)["id"] == 1
        assert transport.connected is True
        with transport.create_session(5) as session:
            assert session.send_request("echo", {"a": 1}) == {"a": 1}
    assert transport.connected is False
    transport.line.end()


def test_an_authors_own_method_may_call_the_others_and_those_of_the_class_above() -> None:
    class Talkative(Plain):
        closed = 0

        def connect(self) -> None:
            super().connect()
            MCPTransport.connect(self)
            self.send_message({"jsonrpc": "2.0", "method": "words"})

        def receive_message(self, timeout: float | None = None) -> Any:
            message = super().receive_message(timeout)
            self.send_message({"jsonrpc": "2.0", "method": "words"})
            return message

        def close(self) -> None:  # type: ignore[override]
            self.disconnect()

        def disconnect(self) -> None:
            type(self).closed += 1
            super().disconnect()
            MCPTransport.disconnect(self)

    with Talkative() as transport, transport.create_session(5) as session:
        assert session.send_request("echo", {"a": 1}) == {"a": 1}
        assert len(session.send_request("seen", {})["notifications"]) >= 3
    assert Talkative.closed == 1


def test_a_subclass_that_defines_only_close_is_closed() -> None:
    class Closing(Halves):
        closed = 0

        def close(self) -> None:  # type: ignore[override]
            type(self).closed += 1
            self.line.end()

    with Closing():
        pass
    assert Closing.closed == 1


def test_eight_sessions_at_once_over_one_object_are_one_and_seven_refusals() -> None:
    transport = Plain()
    sessions = []

    def begin(_: int) -> str:
        try:
            sessions.append(transport.create_session(5))
        except MCPConnectionError:
            return "refused"
        return "begun"

    assert sorted(in_threads(8, begin)) == ["begun"] + ["refused"] * 7
    assert sessions[0].send_request("echo", {}) == {}
    sessions[0].close()


def test_an_authors_methods_are_given_what_is_left_where_they_take_a_timeout() -> None:
    given: list[float | None] = []

    class Timed(Plain):
        def connect(self, timeout: float | None = None) -> None:  # type: ignore[override]
            given.append(timeout)
            super().connect()

        def disconnect(self, timeout: float | None = None) -> None:
            given.append(timeout)
            super().disconnect()

    transport = Timed()
    transport.connect(timeout=3)
    transport.disconnect(timeout=2)
    connecting, disconnecting = given
    assert connecting is not None
    assert disconnecting is not None
    assert 0 < disconnecting <= 2 < connecting <= 3


def test_a_subclass_with_its_own_constructor_has_its_own_signature() -> None:
    class Mine(StdioTransport):
        def __init__(self, where: str) -> None:
            super().__init__(["server", where])

    class Others(StdioTransport):
        pass

    class Derivative(Derived):
        def __init__(self, where: str) -> None:
            super().__init__()

    assert list(inspect.signature(Mine).parameters) == ["where"]
    assert list(inspect.signature(Derivative).parameters) == ["where"]
    assert inspect.signature(Others) == inspect.signature(StdioTransport)


def test_a_subclass_of_a_transport_that_dials_may_override_what_it_likes() -> None:
    sent: list[Any] = []

    class Loud(CustomTransport):
        def send_message(self, message: Any, timeout: float | None = None) -> None:
            sent.append(message)
            super().send_message(message, timeout)

        def receive_message(self, timeout: float | None = None) -> Any:
            return super().receive_message(timeout)

    with Loud(Chatty()) as transport:
        transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "echo"})
        assert transport.receive_message(5)["id"] == 1
    assert len(sent) == 1


# -- what blocks ------------------------------------------------------------------------------------------------------


def took(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


class Stuck(Simple):
    """Its close waits for somebody."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()
        self.closing = threading.Event()

    def close(self) -> None:
        self.closing.set()
        self.release.wait(10)
        super().close()


def test_a_close_that_blocks_is_waited_for_no_longer_than_until_the_deadline(
    caplog: pytest.LogCaptureFixture,
) -> None:
    target = Stuck()
    session = CustomTransport(target).create_session(5)
    try:
        assert took(lambda: session.close(0.3)) < 0.3 + SLACK
        assert target.closing.is_set()
    finally:
        target.release.set()
    assert "reader" in caplog.text


def test_a_close_that_blocks_does_not_keep_connect_from_failing_in_time() -> None:
    class Silent(Stuck):
        def read(self) -> str:
            self.release.wait(10)
            return super().read()

    target = Silent()
    client = Client(target, timeout=0.5)
    try:
        began = time.monotonic()
        with pytest.raises(MCPTimeoutError):
            client.connect()
        assert time.monotonic() - began < 0.5 + SLACK
    finally:
        target.release.set()
    client.close()


def test_a_connection_is_not_opened_while_the_one_before_is_being_closed() -> None:
    class Slow(Chatty):
        release = threading.Event()

        def disconnect(self) -> None:
            self.release.wait(10)
            super().disconnect()

    transport = CustomTransport(Slow())
    transport.create_session(5).close(0.1)
    with pytest.raises(MCPTimeoutError, match="closing"):
        transport.create_session(0.3)
    Slow.release.set()
    with transport.create_session(5) as session:
        assert session.send_request("echo", {}) == {}


def test_where_no_thread_can_be_had_close_runs_in_place_unless_somebody_waits_in_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    reading, release, closed = threading.Event(), threading.Event(), []

    def read() -> None:
        reading.set()
        release.wait(10)

    monkeypatch.setattr(objects, "start_thread", no_thread)
    idle = objects.ObjectPipe("idle", read, lambda *_: None, lambda _: closed.append("idle"))
    idle.hang_up(Deadline(1))
    busy = objects.ObjectPipe("busy", read, lambda *_: None, lambda _: closed.append("busy"))
    reader = start_thread("mcp-test-reader", busy.read)
    assert reading.wait(10)
    busy.hang_up(Deadline(1))
    release.set()
    reader.join(10)
    assert closed == ["idle"]
    assert "busy" in caplog.text


def test_an_object_that_is_asked_a_little_at_a_time_is_closed_within_half_a_second() -> None:
    class Mute(Chatty):
        def disconnect(self) -> None:
            pass  # which ends nobody's waiting

    target = Mute()
    session = CustomTransport(target).create_session(5)
    assert took(session.close) < 0.5
    assert target.line is not None
    target.line.end()


@pytest.mark.parametrize("make", [Client, CustomTransport])
def test_files_are_refused_with_a_hint(make: Any, tmp_path: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rwb") as of_socket, open(tmp_path / "file", "w+") as of_disk:
        for file in (of_socket, of_disk, io.BytesIO()):
            with pytest.raises(TypeError, match="wrap it"):
                make(file)


def test_none_from_a_method_that_takes_a_timeout_is_nothing_yet() -> None:
    class Hasty(Plain):
        asked = 0

        def receive_message(self, timeout: float | None = None) -> Any:
            type(self).asked += 1
            assert self.line is not None
            try:
                return self.line.back.get_nowait()
            except queue.Empty:
                return None

    class HastyObject(Chatty):
        def receive_message(self, timeout: float | None = None) -> Any:
            try:
                return super().receive_message(timeout)
            except queue.Empty:
                return None

    with Hasty().create_session(5) as session:
        before = Hasty.asked
        with pytest.raises(MCPTimeoutError):
            session.send_request("hold", {}, timeout=0.3)
        assert Hasty.asked - before < 100
        assert session.send_request("echo", {}) == {}
    with CustomTransport(HastyObject()).create_session(5) as session:
        with pytest.raises(MCPTimeoutError):
            session.send_request("hold", {}, timeout=0.6)
        assert session.send_request("echo", {}) == {}


# -- forks ------------------------------------------------------------------------------------------------------------


def test_in_a_forked_child_an_object_that_cannot_connect_is_left_to_the_parent() -> None:
    with Client(Simple(), timeout=5) as client:
        assert client.request("echo", {"a": 1}) == {"a": 1}

        def in_child() -> None:
            for _ in range(2):
                with pytest.raises(ForkedClientError, match="no connect"):
                    client.request("echo", {})

        assert verdict_of_child(in_child) == "fine"
        assert client.request("echo", {"a": 2}) == {"a": 2}


@pytest.mark.parametrize("make", [Chatty, Plain, Derived])
def test_in_a_forked_child_an_object_that_can_connect_does_so_anew(make: Any) -> None:
    with Client(make(), timeout=5) as client:
        assert client.request("echo", {"a": 1}) == {"a": 1}

        def in_child() -> None:
            assert client.request("count", {}).get("echo") is None
            client.close()

        assert verdict_of_child(in_child) == "fine"
        assert client.request("count", {})["echo"] == 1
