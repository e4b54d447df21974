"""Pump, Inbox, Relay and PipeChannel, with pipes made for the purpose."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from mcp_sync import (
    ForkedClientError,
    MCPConnectionError,
    MCPTimeoutError,
    MessageTooLarge,
    RemoteProtocolError,
)
from mcp_sync.deadlines import Deadline
from mcp_sync.engine import channel as channel_module
from mcp_sync.engine.channel import Pipe, PipeChannel, pump
from mcp_sync.engine.dispatch import join, start_thread
from mcp_sync.engine.inbox import Inbox, Relay
from mcp_sync.observe import Observers, Unreadable
from mcp_sync.policies import Limits
from mcp_sync.protocol.framing import Overlong
from mcp_sync.protocol.messages import Batch, Malformed, Notification, Result, encode
from mcp_sync.testing import Collector, in_threads

T = 5.0


# -- pump ------------------------------------------------------------------------------------------------------------


def test_pump_delivers_messages_and_then_the_reason_of_the_end() -> None:
    def messages() -> Iterator[Result]:
        yield Result(1, {})
        yield Result(2, {})
        raise MCPConnectionError("the wire was cut")

    sink = Collector()
    pump(messages(), sink)
    assert [sink.next(), sink.next()] == [Result(1, {}), Result(2, {})]
    assert str(sink.end()) == "the wire was cut"


def test_pump_tells_the_waiting_of_any_crash_whatever_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def messages() -> Iterator[Result]:
        yield Result(1, {})
        raise SystemExit("even this")

    sink = Collector()
    pump(messages(), sink)
    assert isinstance(sink.end(), MCPConnectionError)
    assert isinstance(sink.end().__cause__, SystemExit)
    assert "a reader failed" in caplog.text


# -- Inbox -----------------------------------------------------------------------------------------------------------


class Valve:
    """Of a Channel only what an Inbox needs."""

    def __init__(self) -> None:
        self.reading = True

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True


def inbox_of(limit: int) -> tuple[Inbox, Valve]:
    inbox, valve = Inbox(limit), Valve()
    inbox.attend(valve)  # type: ignore[arg-type]
    return inbox, valve


def test_a_full_inbox_pauses_reading_and_taking_resumes_it() -> None:
    inbox, valve = inbox_of(3)
    for n in range(3):
        assert valve.reading
        inbox.received(Result(n, {}))
    assert not valve.reading
    assert inbox.take(T) == Result(0, {})
    assert valve.reading


def test_an_inbox_drops_nothing_however_full() -> None:
    inbox, _ = inbox_of(2)
    for n in range(100):
        inbox.received(Result(n, {}))
    assert [inbox.take(T) for _ in range(100)] == [Result(n, {}) for n in range(100)]


def test_a_message_that_is_taken_just_before_the_pause_does_not_stop_reading_for_ever() -> None:
    class Sly(Valve):
        def pause(self) -> None:
            if not taken:
                taken.append(inbox.take(T))  # another thread, between the look and the pause
            super().pause()

    taken: list[Any] = []
    inbox, valve = Inbox(1), Sly()
    inbox.attend(valve)  # type: ignore[arg-type]
    inbox.received(Result(1, {}))
    assert taken == [Result(1, {})]
    assert valve.reading


def test_errors_travel_through_the_inbox_in_their_place() -> None:
    inbox, _ = inbox_of(10)
    inbox.received(Result(1, {}))
    inbox.received(Malformed("cut", b"{", answers=2))
    inbox.received(Malformed("noise", b"hello"))
    inbox.received(Malformed("long", b"{", answers=3, too_large=1024))
    inbox.received(Batch((Result(4, {}), Notification("news"))))
    inbox.closed(MCPConnectionError("over", details={"exit_status": 3}))
    assert inbox.take(T) == Result(1, {})
    with pytest.raises(RemoteProtocolError, match="cut"):
        inbox.take(T)
    with pytest.raises(MessageTooLarge):
        inbox.take(T)
    assert [inbox.take(T), inbox.take(T)] == [Result(4, {}), Notification("news")]
    errors = []
    for _ in range(3):
        with pytest.raises(MCPConnectionError, match="over") as found:
            inbox.take(T)
        errors.append(found.value)
    assert len({id(error) for error in errors}) == 3
    assert all(error.details["exit_status"] == 3 for error in errors)


def test_the_end_wakes_everybody_who_takes() -> None:
    inbox, _ = inbox_of(10)
    begun = threading.Barrier(5)

    def take(_: int) -> str:
        begun.wait(T)
        try:
            inbox.take(T)
        except MCPConnectionError as error:
            return str(error)
        return "a message"

    ending = start_thread("mcp-test-ending", lambda: (begun.wait(T), inbox.closed(MCPConnectionError("over"))))
    assert in_threads(4, take) == ["over"] * 4
    assert join(ending, Deadline(T))


def test_taking_from_an_empty_inbox_times_out() -> None:
    inbox, _ = inbox_of(10)
    with pytest.raises(MCPTimeoutError, match=r"0\.05 s") as found:
        inbox.take(0.05)
    assert found.value.details["limit"] == 0.05


# -- Relay -----------------------------------------------------------------------------------------------------------


def test_a_relay_passes_on_to_whoever_it_is_told() -> None:
    first, second = Collector(), Collector()
    relay = Relay(first)
    relay.received(Result(1, {}))
    relay.swap(second)
    relay.received(Result(2, {}))
    relay.lost(3, MCPConnectionError("lost"))
    assert relay.ended is False
    relay.closed(MCPConnectionError("over"))
    assert relay.ended is True
    assert first.next() == Result(1, {})
    assert second.next() == Result(2, {})
    assert second.losses[0][0] == 3
    assert second.ended
    assert not first.ended


def test_what_an_inbox_still_holds_goes_first_the_end_included() -> None:
    inbox, sink = Inbox(10), Collector()
    relay = Relay(inbox)
    relay.received(Notification("a"))
    relay.received(Notification("b"))
    relay.closed(MCPConnectionError("over"))
    relay.swap(sink)
    assert [sink.next(), sink.next()] == [Notification("a"), Notification("b")]
    assert str(sink.end()) == "over"


def test_no_message_is_lost_or_overtaken_while_the_sink_is_changed() -> None:
    inbox, sink = Inbox(100_000), Collector()
    relay = Relay(inbox)
    half = threading.Event()

    def flow() -> None:
        for n in range(20_000):
            relay.received(Result(n, {}))
            if n == 1000:
                half.set()

    flowing = start_thread("mcp-test-flow", flow)
    assert half.wait(T)
    relay.swap(sink)
    assert join(flowing, Deadline(T * 2))
    assert [sink.next() for _ in range(20_000)] == [Result(n, {}) for n in range(20_000)]


# -- PipeChannel -----------------------------------------------------------------------------------------------------


class Hose(Pipe):
    """A Pipe that a test fills and empties by hand."""

    name = "hose"
    kind = "test"

    def __init__(self) -> None:
        self.incoming: queue.Queue[Sequence[bytes | Overlong]] = queue.Queue()
        self.written: list[bytes] = []
        self.calls: list[str] = []
        self.stuck = threading.Event()
        self.stuck.set()
        self.writing = threading.Event()

    def read(self) -> Sequence[bytes | Overlong]:
        return self.incoming.get()

    def write(self, data: bytes, deadline: Deadline) -> None:
        self.writing.set()
        self.stuck.wait(T)
        self.written.append(data)

    def hang_up(self, deadline: Deadline) -> None:
        self.calls.append("hang_up")
        self.incoming.put([])

    def end_writing(self) -> None:
        self.calls.append("end_writing")

    def finish(self) -> None:
        self.calls.append("finish")

    def epitaph(self) -> MCPConnectionError:
        return MCPConnectionError("the hose burst", details={"pressure": 9})

    def disown(self) -> None:
        self.calls.append("disown")


@contextmanager
def open_channel(hose: Hose, **limits: int) -> Iterator[tuple[PipeChannel, Collector]]:
    channel, sink = PipeChannel(hose, Limits(**limits)), Collector()
    channel.start(sink)
    try:
        yield channel, sink
    finally:
        channel.close(Deadline(T))
        channel.lane.close(Deadline(T))
        channel.events.close(Deadline(T))


def test_a_pipe_is_ended_in_order_and_once() -> None:
    hose = Hose()
    with open_channel(hose) as (channel, sink):
        in_threads(4, lambda _: channel.close(Deadline(T)))
        assert sink.ended
    assert [call for call in hose.calls if call != "hang_up"] == ["end_writing", "finish"]


def test_after_the_pipe_has_ended_by_itself_sending_says_why() -> None:
    hose = Hose()
    with open_channel(hose) as (channel, sink):
        hose.incoming.put([])
        assert str(sink.end()) == "the hose burst"
        with pytest.raises(MCPConnectionError, match="the hose burst") as found:
            channel.send(Result(1, {}), Deadline(T))
        assert found.value.details["pressure"] == 9
        assert found.value.may_have_run is False


def test_what_was_read_before_the_end_is_delivered_before_the_end() -> None:
    hose = Hose()
    with open_channel(hose) as (_, sink):
        hose.incoming.put([encode(Result(n, {})) for n in range(3)])
        hose.incoming.put([])
        assert [sink.next() for _ in range(3)] == [Result(n, {}) for n in range(3)]
        sink.end()


def test_a_message_over_the_limit_is_none_though_the_pipe_let_it_through() -> None:
    hose = Hose()
    with open_channel(hose, message_size=1024) as (_, sink):
        hose.incoming.put([encode(Result(5, {"text": "x" * 2000})), encode(Result(6, {}))])
        long = sink.next()
        assert isinstance(long, Malformed)
        assert (long.answers, long.too_large) == (5, 1024)
        assert sink.next() == Result(6, {})


def test_noise_is_reported_to_observers() -> None:
    hose, events = Hose(), queue.Queue[Any]()
    observers = Observers([events.put])
    channel, sink = PipeChannel(hose, Limits(), observers), Collector()
    channel.start(sink)
    hose.incoming.put([b"Listening on stdio ..."])
    event = events.get(timeout=T)
    assert isinstance(event, Unreadable)
    assert (event.server, event.raw) == ("hose", b"Listening on stdio ...")
    channel.close(Deadline(T))
    channel.events.close(Deadline(T))


def test_a_paused_channel_reads_no_more_and_closing_it_does_not_wait_for_that() -> None:
    class Pausing(Collector):
        def received(self, message: Any) -> None:
            super().received(message)
            channel.pause()

    hose = Hose()
    channel, sink = PipeChannel(hose, Limits()), Pausing()
    channel.start(sink)
    for n in range(10):
        hose.incoming.put([encode(Result(n, {}))])
    assert sink.next() == Result(0, {})
    with pytest.raises(queue.Empty):
        sink.next(0.05)
    channel.resume()
    assert sink.next() == Result(1, {})
    channel.close(Deadline(T))
    assert sink.ended


def test_a_write_that_never_ends_does_not_keep_the_pipe_from_being_given_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(channel_module, "FINISH_SECONDS", 0.05)
    hose = Hose()
    hose.stuck.clear()
    with open_channel(hose) as (channel, sink):
        writer = start_thread("mcp-test-writer", channel.send, Result(1, {}), Deadline(T))
        assert hose.writing.wait(T)
        with caplog.at_level(logging.WARNING, "mcp_sync"):
            channel.close(Deadline(T))
        assert "finish" in hose.calls
        assert "end_writing" not in hose.calls
        assert "a write goes on" in caplog.text
        hose.stuck.set()
        assert join(writer, Deadline(T))


def test_in_a_forked_child_a_channel_gives_back_its_copies_and_does_nothing_else() -> None:
    hose = Hose()
    with open_channel(hose) as (channel, _):
        channel.forked()
        channel.close(Deadline(T))
        assert hose.calls == ["disown"]
        with pytest.raises(ForkedClientError):
            channel.send(Result(1, {}), Deadline(T))
        channel._forked = False  # the end of the pretence
    assert "finish" in hose.calls


def test_a_channel_that_was_not_started_is_given_back_as_well() -> None:
    hose = Hose()
    channel = PipeChannel(hose)
    in_threads(4, lambda _: channel.close(Deadline(T)))
    assert [call for call in hose.calls if call != "hang_up"] == ["end_writing", "finish"]


def test_starting_what_was_closed_says_that_it_is_over() -> None:
    hose, sink = Hose(), Collector()
    channel = PipeChannel(hose)
    channel.close(Deadline(T))
    channel.start(sink)
    assert isinstance(sink.end(), MCPConnectionError)
    channel.close(Deadline(T))
