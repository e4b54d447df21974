"""ChannelContract: what every Channel has to do, whatever it is made of."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from ..deadlines import Deadline
from ..engine.channel import Channel, Sink
from ..engine.dispatch import join, start_thread
from ..exceptions import (
    HTTPStatusError,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MessageTooLarge,
    RemoteProtocolError,
)
from ..protocol.eras import Handshake
from ..protocol.messages import Malformed, Notification, Request, RequestId, Result
from .partner import GARBAGE, Partner, Wire
from .tools import PATIENCE, SLACK, Background, Collector, in_threads, raises


class ChannelContract:
    """What every Channel has to do. Inherit it, define ``connect``, and set what your binding cannot do.

    Attributes:
        message_size: The limit of one message in bytes that ``connect`` has to set, if it can.
        limited: Whether it can; else nothing is tried that is over the limit.
        bounded: Whether a sender ever has to wait for the other side to read.
        exact: Whether the partner can send what is no message.
        hangs_up: Whether the binding has a way of its own to abandon a request.
        shared: Whether all messages come one way. Else each answer comes the way of its request: where it cannot be
            read the sink is told that it is lost, and ``send`` may wait for it.
        ends: Whether the other side can end the connection; it cannot where there are only single requests.
        close_seconds: How long ``close`` may take when the partner behaves.
    """

    message_size: ClassVar[int] = 1 << 16
    limited: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    hangs_up: ClassVar[bool] = False
    shared: ClassVar[bool] = True
    ends: ClassVar[bool] = True
    close_seconds: ClassVar[float] = 3.0

    # -- for bindings --------------------------------------------------------------------------------------------------

    def connect(self) -> Channel:
        """Return a Channel to a fresh Partner, not yet started; the limit of a message is ``message_size``."""
        raise NotImplementedError

    def run_partner(self, wire: Wire) -> None:
        """Run a Partner on a thread of this process; it has to end when the channel is closed."""
        self._partners = [*getattr(self, "_partners", []), start_thread("mcp-contract-partner", Partner(wire).run)]

    # -- for tests -----------------------------------------------------------------------------------------------------

    @contextmanager
    def connected(self, sink: Sink | None = None) -> Iterator[tuple[Channel, Collector]]:
        """Give a started channel and its Collector; nothing is left of it afterwards."""
        channel, collector = self.connect(), Collector()
        try:
            channel.start(sink or collector)
            yield channel, collector
        finally:
            self._end(channel)

    def _end(self, channel: Channel) -> None:
        channel.close(Deadline(PATIENCE))
        channel.lane.close(Deadline(PATIENCE))
        channel.events.close(Deadline(PATIENCE))
        for thread in getattr(self, "_partners", []):
            assert join(thread, Deadline(PATIENCE)), "closing the channel has not ended the partner"

    def _flawed(self, sink: Collector, request_id: RequestId) -> MCPError:
        """Return what is told of an answer that cannot be read."""
        if not self.shared:
            lost, error = sink.loss()
            assert lost == request_id
            return error
        message = sink.next()
        assert isinstance(message, Malformed)
        assert message.answers == request_id
        return message.as_error()

    def _fill(self, channel: Channel, timeout: float = 0.3) -> tuple[MCPTimeoutError, float]:
        """Send to a partner that does not read until that fails; return the error, and how long it took to come."""
        message = Notification("words", {"text": "x" * (self.message_size // 4)})
        for _ in range(5000):
            began = time.monotonic()
            try:
                channel.send(message, Deadline(timeout))
            except MCPTimeoutError as error:
                return error, time.monotonic() - began
        raise AssertionError("5000 messages were sent to somebody who does not read")

    # -- messages ------------------------------------------------------------------------------------------------------

    def test_a_message_goes_there_and_back_unharmed(self) -> None:
        params = {
            "text": "grüße, 世界 \N{GRINNING FACE}\u2028\u2029\x85 \r\n\t\0\x1b",
            "numbers": [0, -1, 1.5, 2**53, -(2**63), 1e300],
            "nothing": None,
            "nested": {"": [[], {}, [True, False]]},
        }
        with self.connected() as (channel, sink):
            channel.send(Request(1, "echo", params), Deadline(PATIENCE))
            assert sink.next() == Result(1, params)

    def test_a_plain_dict_may_be_sent_as_it_is(self) -> None:
        with self.connected() as (channel, sink):
            channel.send({"jsonrpc": "2.0", "id": "a", "method": "echo", "params": {"n": 1}}, Deadline(PATIENCE))
            assert sink.next() == Result("a", {"n": 1})

    def test_a_message_of_nearly_the_limit_goes_there_and_back(self) -> None:
        params = {"text": "x" * (self.message_size - 200)}
        with self.connected() as (channel, sink):
            channel.send(Request(1, "echo", params), Deadline(PATIENCE))
            assert sink.next() == Result(1, params)

    def test_messages_arrive_in_the_order_they_were_sent_in(self) -> None:
        with self.connected() as (channel, sink):
            for n in range(200):
                channel.send(Request(n, "echo", {}), Deadline(PATIENCE))
            assert [sink.next() for _ in range(200)] == [Result(n, {}) for n in range(200)]

    def test_what_the_other_side_says_unasked_arrives_in_order(self) -> None:
        with self.connected() as (channel, sink):
            channel.send(Request(1, "notify", {"count": 100}), Deadline(PATIENCE))
            assert [sink.next() for _ in range(100)] == [Notification("news", {"n": n}) for n in range(100)]
            assert sink.next() == Result(1, {})

    def test_requests_of_the_other_side_arrive(self) -> None:
        with self.connected() as (channel, sink):
            channel.submit(Request(1, "ask", {"method": "what", "params": {"a": 1}}), Deadline(PATIENCE))
            asked = sink.next()
            assert isinstance(asked, Request)
            assert (asked.method, asked.params) == ("what", {"a": 1})
            channel.send(Result(asked.id, {"b": 2}), Deadline(PATIENCE))
            assert sink.answer(1) == Result(1, {"answers": [{"result": {"b": 2}}]})

    def test_many_threads_may_send_at_once_and_no_message_is_torn(self) -> None:
        with self.connected() as (channel, sink):

            def send_ten(number: int) -> None:
                for n in range(10):
                    params = {"text": "x" * (1000 * n), "from": number}
                    channel.send(Request(number * 10 + n, "echo", params), Deadline(PATIENCE))

            in_threads(20, send_ten)
            answers = [sink.next() for _ in range(200)]
            senders = {answer.id: answer.result["from"] for answer in answers if isinstance(answer, Result)}
            assert senders == {n: n // 10 for n in range(200)}

    def test_what_was_agreed_may_be_told(self) -> None:
        with self.connected() as (channel, sink):
            channel.agreed(Handshake("2025-11-25"), Deadline(PATIENCE))
            channel.send(Request(1, "echo", {}), Deadline(PATIENCE))
            assert sink.next() == Result(1, {})

    def test_abandoning_a_request_leaves_the_others_alone(self) -> None:
        with self.connected() as (channel, sink):
            channel.submit(Request(1, "hold", {}), Deadline(PATIENCE))
            assert channel.abandon(1) is self.hangs_up
            assert self.hangs_up or channel.abandon(99) is False
            channel.send(Request(2, "echo", {}), Deadline(PATIENCE))
            assert sink.answer(2) == Result(2, {})

    def test_while_reading_is_paused_nothing_is_lost(self) -> None:
        with self.connected() as (channel, sink):
            channel.pause()
            channel.submit(Request(1, "notify", {"count": 50}), Deadline(PATIENCE))
            channel.resume()
            assert [sink.next() for _ in range(50)] == [Notification("news", {"n": n}) for n in range(50)]

    # -- what cannot be sent or read -----------------------------------------------------------------------------------

    def test_what_json_cannot_say_is_refused_and_the_connection_lives(self) -> None:
        with self.connected() as (channel, sink):
            for params in ({"a": {1, 2}}, {"a": float("nan")}, {"a": "\ud800"}):
                with raises(LocalProtocolError) as found:
                    channel.send(Request(1, "echo", params), Deadline(PATIENCE))
                assert found[0].may_have_run is False
                assert "params.a" in str(found[0])
            channel.send(Request(2, "echo", {}), Deadline(PATIENCE))
            assert sink.next() == Result(2, {})

    def test_a_message_over_the_limit_is_not_sent_and_the_connection_lives(self) -> None:
        if not self.limited:
            return
        with self.connected() as (channel, sink):
            with raises(MessageTooLarge) as found:
                channel.send(Request(1, "echo", {"text": "x" * self.message_size}), Deadline(PATIENCE))
            assert found[0].details["limit"] == self.message_size
            assert found[0].may_have_run is False
            assert str(self.message_size) in str(found[0])
            channel.send(Request(2, "echo", {}), Deadline(PATIENCE))
            assert sink.next() == Result(2, {})

    def test_an_answer_over_the_limit_is_known_for_what_it_is_and_the_connection_lives(self) -> None:
        if not self.limited:
            return
        with self.connected() as (channel, sink):
            channel.send(Request(7, "oversize", {"size": 2 * self.message_size}), Deadline(PATIENCE))
            error = self._flawed(sink, 7)
            assert isinstance(error, MessageTooLarge)
            assert error.details["limit"] == self.message_size
            channel.send(Request(8, "echo", {}), Deadline(PATIENCE))
            assert sink.next() == Result(8, {})

    def test_garbage_is_skipped_and_the_next_message_arrives(self) -> None:
        if not (self.exact and self.shared):
            return
        with self.connected() as (channel, sink):
            channel.send(Request(1, "garbage", {}), Deadline(PATIENCE))
            skipped = [sink.next() for _ in range(len(GARBAGE) + 1)]  # the two in the array are two
            assert all(isinstance(message, Malformed) and message.answers is None for message in skipped)
            assert sink.next() == Result(1, {})

    def test_an_answer_that_cannot_be_read_is_known_for_what_it_is(self) -> None:
        if not self.exact:
            return
        with self.connected() as (channel, sink):
            channel.send(Request(7, "malformed", {}), Deadline(PATIENCE))
            assert isinstance(self._flawed(sink, 7), RemoteProtocolError)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def test_sending_to_somebody_who_does_not_read_ends_at_the_deadline(self) -> None:
        if not self.bounded:
            return
        with self.connected() as (channel, sink):
            channel.send(Request(1, "deaf", {}), Deadline(PATIENCE))
            assert sink.next() == Result(1, {})
            first, seconds = self._fill(channel)
            assert seconds < 0.3 + SLACK
            assert first.may_have_run in (None, False)
            began = time.monotonic()
            with raises(MCPTimeoutError) as found:  # the next one as well, and it has not even begun
                channel.send(Notification("words"), Deadline(0.3))
            assert found[0].may_have_run is False
            assert time.monotonic() - began < 0.3 + SLACK

    def test_a_sender_waits_for_another_one_no_longer_than_its_own_deadline(self) -> None:
        if not self.bounded:
            return
        with self.connected() as (channel, sink):
            channel.send(Request(1, "deaf", {}), Deadline(PATIENCE))
            sink.next()
            self._fill(channel)
            patient = Background(lambda: channel.send(Notification("words"), Deadline(PATIENCE)))
            with raises(MCPTimeoutError) as found:
                channel.send(Notification("words"), Deadline(0.2))
            assert found[0].may_have_run is False
            channel.close(Deadline(PATIENCE))
            assert isinstance(patient.error(), MCPConnectionError)

    # -- the end -------------------------------------------------------------------------------------------------------

    def test_the_other_side_may_end_it(self) -> None:
        if not self.ends:
            return
        with self.connected() as (channel, sink):
            channel.send(Request(1, "close", {}), Deadline(PATIENCE))
            assert sink.next() == Result(1, {})
            error = sink.end()
            assert isinstance(error, MCPConnectionError)
            assert channel.name in str(error)
            with raises(MCPConnectionError):
                channel.send(Request(2, "echo", {}), Deadline(PATIENCE))

    def test_the_other_side_may_die(self) -> None:
        with self.connected() as (channel, sink):
            channel.send(Request(1, "die", {}), Deadline(PATIENCE))
            if self.ends:
                assert isinstance(sink.end(), MCPConnectionError)
            else:
                lost, error = sink.loss()
                assert lost == 1
                assert isinstance(error, MCPConnectionError)
                assert error.may_have_run is None

    def test_closing_it_ends_everything_and_says_so_once(self) -> None:
        with self.connected() as (channel, sink):
            channel.submit(Request(1, "hold", {}), Deadline(PATIENCE))
            began = time.monotonic()
            channel.close(Deadline(PATIENCE))
            assert time.monotonic() - began < self.close_seconds
            assert sink.ended
            for _ in range(3):
                channel.close(Deadline(PATIENCE))
            assert len(sink.ends) == 1
            assert isinstance(sink.end(), MCPConnectionError)

    def test_after_closing_nothing_can_be_sent(self) -> None:
        with self.connected() as (channel, _):
            channel.close(Deadline(PATIENCE))
            with raises(MCPConnectionError) as found:
                channel.send(Request(1, "echo", {}), Deadline(PATIENCE))
            assert found[0].may_have_run is False
            assert "closed" in str(found[0])

    def test_it_may_be_closed_without_ever_having_been_started(self) -> None:
        channel = self.connect()
        self._end(channel)
        self._end(channel)

    def test_eight_threads_may_close_it_at_once_and_for_each_it_is_over_afterwards(self) -> None:
        with self.connected() as (channel, sink):

            def close(_: int) -> bool:
                channel.close(Deadline(PATIENCE))
                return sink.ended

            assert in_threads(8, close) == [True] * 8
            assert len(sink.ends) == 1

    def test_it_may_be_closed_by_the_thread_that_delivers(self) -> None:
        class Closing(Collector):
            def received(self, message: object) -> None:
                channel.close(Deadline(PATIENCE))

        sink = Closing()
        with self.connected(sink) as (channel, _):
            channel.send(Request(1, "echo", {}), Deadline(PATIENCE))
            assert isinstance(sink.end(), MCPConnectionError)

    def test_closing_releases_those_who_send(self) -> None:
        if not self.bounded:
            return
        with self.connected() as (channel, sink):
            channel.send(Request(1, "deaf", {}), Deadline(PATIENCE))
            sink.next()
            self._fill(channel)
            begun = threading.Barrier(4)

            def send() -> None:
                begun.wait(PATIENCE)
                channel.send(Notification("words"), Deadline(PATIENCE * 3))

            senders = [Background(send) for _ in range(3)]
            begun.wait(PATIENCE)
            began = time.monotonic()
            channel.close(Deadline(PATIENCE))
            errors = [sender.error() for sender in senders]
            assert time.monotonic() - began < PATIENCE
            assert all(isinstance(error, MCPConnectionError) for error in errors)

    def test_the_other_side_ending_it_releases_those_who_send(self) -> None:
        if not self.ends:
            return
        with self.connected() as (channel, sink):
            stop: list[MCPError] = []

            def send_on(_: int) -> None:
                try:
                    while not stop:
                        channel.send(Notification("words", {"text": "x" * 1000}), Deadline(PATIENCE))
                except (MCPConnectionError, HTTPStatusError) as error:  # where each message has a reply of its own
                    stop.append(error)

            senders = Background(lambda: in_threads(4, send_on))
            channel.send(Request(1, "close", {}), Deadline(PATIENCE))
            sink.end()
            senders.result(PATIENCE * 2)
            assert stop

    def test_it_may_be_closed_while_much_is_arriving(self) -> None:
        with self.connected() as (channel, sink):
            channel.submit(Request(1, "notify", {"count": 20_000}), Deadline(PATIENCE))
            sink.next()
            channel.close(Deadline(PATIENCE))
            assert sink.ended

    def test_it_may_be_closed_while_reading_is_paused(self) -> None:
        class Pausing(Collector):
            def received(self, message: object) -> None:
                channel.pause()

        sink = Pausing()
        with self.connected(sink) as (channel, _):
            channel.submit(Request(1, "notify", {"count": 10}), Deadline(PATIENCE))
            began = time.monotonic()
            channel.close(Deadline(PATIENCE))
            assert time.monotonic() - began < self.close_seconds
            assert sink.ended

    def test_its_threads_say_what_they_belong_to(self) -> None:
        with self.connected() as (channel, sink):
            channel.submit(Request(1, "echo", {}), Deadline(PATIENCE))
            sink.next()
            assert all(name.startswith("mcp-") for name in sink.threads)

    def test_its_repr_names_it(self) -> None:
        channel = self.connect()
        assert channel.name in repr(channel)
        self._end(channel)
