"""TransportContract: what every MCPTransport has to do, as a recipe and as a small blocking facade."""

from __future__ import annotations

import gc
import inspect
import queue
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from ..deadlines import Deadline
from ..engine.channel import Channel
from ..exceptions import (
    LocalProtocolError,
    MCPConnectionError,
    MCPTimeoutError,
    MessageTooLarge,
    RemoteProtocolError,
)
from ..observe import Connected, Disconnected, Event
from ..transports.transport import MCPTransport
from .tools import PATIENCE, SLACK, Background, in_threads, raises


class TransportContract:
    """What every MCPTransport has to do. Inherit it, define ``make``, and set what your transport cannot do.

    Attributes:
        dials_anew: Whether there may be a connection after the first.
        dials_often: Whether there may be several connections at once.
        bounded: Whether a sender ever has to wait for the other side to read.
        exact: Whether the partner can send what is no message.
        limited: Whether ``max_message_size`` and ``max_pending_messages`` mean something to it.
        in_order: Whether messages go out in the order of ``send_message``. Else they are under way at once, and one may
            overtake another.
        shared: Whether all messages come one way. Else each answer comes the way of its request.
        ends: Whether the other side can end the connection; it cannot where there are only single requests.
        remembers: Whether the other side knows one conversation from another.
    """

    dials_anew: ClassVar[bool] = True
    dials_often: ClassVar[bool] = True
    bounded: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    limited: ClassVar[bool] = True
    in_order: ClassVar[bool] = True
    shared: ClassVar[bool] = True
    ends: ClassVar[bool] = True
    remembers: ClassVar[bool] = True

    # -- for bindings --------------------------------------------------------------------------------------------------

    def make(self, **knobs: Any) -> MCPTransport:
        """Return a transport that reaches a Partner, a fresh one each time it dials; not connected."""
        raise NotImplementedError

    # -- for tests -----------------------------------------------------------------------------------------------------

    @contextmanager
    def connected(self, **knobs: Any) -> Iterator[MCPTransport]:
        """Give a connected transport."""
        transport = self.make(**knobs)
        try:
            transport.connect(timeout=PATIENCE)
            yield transport
        finally:
            transport.disconnect()

    def dials_of(self, transport: MCPTransport) -> list[float]:
        """Return a list that gets an item whenever the transport dials."""
        dials: list[float] = []
        dial = transport.dial

        def counted(deadline: Deadline) -> Channel:
            dials.append(time.monotonic())
            return dial(deadline)

        transport.dial = counted  # type: ignore[method-assign]
        return dials

    # -- connecting ----------------------------------------------------------------------------------------------------

    def test_in_a_with_statement_it_is_connected(self) -> None:
        transport = self.make()
        seen = [transport.connected]
        with transport as entered:
            assert entered is transport
            seen.append(transport.connected)
        seen.append(transport.connected)
        assert seen == [False, True, False]

    def test_its_repr_says_whether_it_is_connected(self) -> None:
        transport = self.make()
        assert "connected" not in repr(transport)
        with transport:
            assert "connected" in repr(transport)
            assert type(transport).__name__ in repr(transport)

    def test_connecting_gives_the_transport_and_twice_is_once(self) -> None:
        transport = self.make()
        dials = self.dials_of(transport)
        assert transport.connect() is transport
        assert transport.connect() is transport
        assert len(dials) == 1
        transport.disconnect()

    def test_many_threads_that_connect_at_once_share_one_connection(self) -> None:
        transport = self.make()
        dials = self.dials_of(transport)
        in_threads(8, lambda _: transport.connect())
        assert len(dials) == 1
        transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "echo"})
        assert transport.receive_message(PATIENCE)["id"] == 1
        transport.disconnect()

    def test_disconnecting_twice_or_without_having_connected_does_nothing(self) -> None:
        transport = self.make()
        transport.disconnect()
        transport.connect()
        transport.disconnect()
        transport.disconnect()
        transport.close()
        assert transport.connected is False

    def test_eight_threads_may_disconnect_it_at_once(self) -> None:
        transport = self.make().connect()

        def disconnect(_: int) -> bool:
            transport.disconnect()
            return transport.connected

        assert in_threads(8, disconnect) == [False] * 8

    def test_it_is_usable_again_after_it_was_disconnected(self) -> None:
        if not self.dials_anew:
            return
        transport = self.make()
        for n in range(3):
            with transport:
                transport.send_message({"jsonrpc": "2.0", "id": n, "method": "echo"})
                assert transport.receive_message(PATIENCE) == {"jsonrpc": "2.0", "id": n, "result": {}}

    def test_it_knows_when_the_other_side_has_ended_the_connection_and_connects_again(self) -> None:
        with self.connected() as transport:
            transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "die"})
            with raises(MCPConnectionError):
                transport.receive_message(PATIENCE)
            assert transport.connected is not self.ends
            if self.dials_anew:
                transport.connect()
                transport.send_message({"jsonrpc": "2.0", "id": 2, "method": "echo"})
                assert transport.receive_message(PATIENCE)["id"] == 2

    def test_a_transport_that_was_forgotten_is_closed_with_a_warning(self) -> None:
        transport = self.make().connect()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            del transport
            gc.collect()
        assert [warning.category for warning in found] == [ResourceWarning]
        assert "never closed" in str(found[0].message)

    # -- its constructor -----------------------------------------------------------------------------------------------

    def test_its_signature_lists_every_keyword(self) -> None:
        parameters = inspect.signature(type(self.make())).parameters
        assert "timeout" in parameters
        if self.limited:
            assert {"max_message_size", "max_pending_messages", "max_backlog"} <= set(parameters)
            assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())

    def test_a_misspelt_keyword_is_refused_with_the_one_that_was_meant(self) -> None:
        if not self.limited:
            return
        with raises(TypeError) as found:
            self.make(max_mesage_size=10_000)
        assert "max_mesage_size" in str(found[0])
        assert "did you mean 'max_message_size'?" in str(found[0])

    def test_values_of_the_wrong_kind_are_refused_by_name(self) -> None:
        with raises(TypeError) as found:
            self.make(timeout="soon")
        assert "timeout" in str(found[0])
        for wrong in (0, -1, float("inf"), float("nan")):
            with raises(ValueError) as refused:
                self.make(timeout=wrong)
            assert "timeout" in str(refused[0])
        if self.limited:
            with raises(ValueError) as refused:
                self.make(max_message_size=-5)
            assert "max_message_size" in str(refused[0])

    # -- message by message --------------------------------------------------------------------------------------------

    def test_messages_go_there_and_back_in_order(self) -> None:
        with self.connected() as transport:
            for n in range(20):
                transport.send_message({"jsonrpc": "2.0", "id": n, "method": "echo", "params": {"n": n}})
            received = [transport.receive_message(PATIENCE) for _ in range(20)]
            if not self.in_order:
                received.sort(key=lambda message: message["id"])
            assert received == [{"jsonrpc": "2.0", "id": n, "result": {"n": n}} for n in range(20)]

    def test_errors_and_notifications_are_received_as_they_were_sent(self) -> None:
        with self.connected() as transport:
            error = {"code": -32000, "message": "no", "data": [1]}
            transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "fail", "params": error})
            assert transport.receive_message(PATIENCE) == {"jsonrpc": "2.0", "id": 1, "error": error}
            transport.send_message({"jsonrpc": "2.0", "id": 2, "method": "notify", "params": {"count": 1}})
            assert transport.receive_message(PATIENCE) == {"jsonrpc": "2.0", "method": "news", "params": {"n": 0}}

    def test_receiving_ends_at_the_timeout_and_can_go_on(self) -> None:
        with self.connected() as transport:
            began = time.monotonic()
            with raises(MCPTimeoutError) as found:
                transport.receive_message(timeout=0.2)
            assert 0.19 < time.monotonic() - began < 0.2 + SLACK
            assert "0.2 s" in str(found[0])
            transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "echo"})
            assert transport.receive_message(PATIENCE)["id"] == 1

    def test_receiving_with_no_time_gives_what_is_there_or_says_at_once_that_nothing_is(self) -> None:
        with self.connected() as transport:
            began = time.monotonic()
            with raises(MCPTimeoutError):
                transport.receive_message(timeout=0)
            assert time.monotonic() - began < SLACK
            transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "notify", "params": {"count": 1}})
            transport.receive_message(PATIENCE)
            patience = Deadline(PATIENCE)
            while True:
                try:
                    assert transport.receive_message(timeout=0)["id"] == 1
                    return
                except MCPTimeoutError:
                    assert not patience.expired, "the answer has not come"
                    threading.Event().wait(0.01)

    def test_the_constructors_timeout_holds_where_none_is_given(self) -> None:
        with self.connected(timeout=0.2) as transport, raises(MCPTimeoutError):
            transport.receive_message()

    def test_sending_to_somebody_who_does_not_read_ends_at_the_timeout(self) -> None:
        if not self.bounded:
            return
        with self.connected() as transport:
            transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "deaf"})
            transport.receive_message(PATIENCE)
            message = {"jsonrpc": "2.0", "method": "words", "params": {"text": "x" * 20_000}}
            began = time.monotonic()
            with raises(MCPTimeoutError):
                for _ in range(5000):
                    began = time.monotonic()
                    transport.send_message(message, timeout=0.2)
            assert time.monotonic() - began < 0.2 + SLACK

    def test_before_connecting_there_is_nobody_to_send_to_or_receive_from(self) -> None:
        transport = self.make()
        with raises(MCPConnectionError) as found:
            transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "echo"})
        assert "connect()" in str(found[0])
        assert found[0].may_have_run is False
        with raises(MCPConnectionError):
            transport.receive_message(0.1)

    def test_what_is_no_dict_cannot_be_sent(self) -> None:
        with self.connected() as transport, raises(TypeError) as found:
            transport.send_message("echo")  # type: ignore[arg-type]
        assert "dict" in str(found[0])

    def test_what_json_cannot_say_cannot_be_sent(self) -> None:
        with self.connected() as transport:
            with raises(LocalProtocolError):
                transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"a": object()}})
            assert transport.connected

    def test_what_came_before_the_end_is_received_before_the_end(self) -> None:
        if not self.ends:
            return
        with self.connected() as transport:
            transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "notify", "params": {"count": 3}})
            received = [] if self.in_order else [transport.receive_message(PATIENCE) for _ in range(4)]
            transport.send_message({"jsonrpc": "2.0", "id": 2, "method": "close"})
            received += [transport.receive_message(PATIENCE) for _ in range(5 - len(received))]
            assert [message.get("id") for message in received] == [None, None, None, 1, 2]
            for _ in range(3):  # the end stays, for whoever asks next
                with raises(MCPConnectionError):
                    transport.receive_message(PATIENCE)

    def test_an_answer_that_cannot_be_read_is_an_error_in_its_place(self) -> None:
        if not self.exact:
            return
        with self.connected() as transport:
            methods = ("echo", "malformed", "garbage" if self.shared else "echo")
            for n, method in enumerate(methods):
                transport.send_message({"jsonrpc": "2.0", "id": n, "method": method})
            received: list[Any] = []
            for _ in methods:
                try:
                    received.append(transport.receive_message(PATIENCE)["id"])
                except RemoteProtocolError as error:
                    received.append(type(error))
            if not self.in_order:
                received.sort(key=str)
            expected = [0, RemoteProtocolError, 2]  # garbage is nobody's answer
            assert received == (expected if self.in_order else sorted(expected, key=str))

    def test_an_answer_over_the_limit_is_an_error_in_its_place(self) -> None:
        if not (self.limited and self.exact):
            return
        with self.connected(max_message_size=10_000) as transport:
            transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "oversize", "params": {"size": 20_000}})
            with raises(MessageTooLarge) as found:
                transport.receive_message(PATIENCE)
            assert found[0].details["limit"] == 10_000
            transport.send_message({"jsonrpc": "2.0", "id": 2, "method": "echo"})
            assert transport.receive_message(PATIENCE)["id"] == 2

    def test_a_message_over_the_limit_is_not_sent(self) -> None:
        if not self.limited:
            return
        with self.connected(max_message_size=10_000) as transport, raises(MessageTooLarge):
            transport.send_message({"jsonrpc": "2.0", "method": "words", "params": {"text": "x" * 10_000}})

    def test_when_nobody_receives_reading_pauses_and_nothing_is_dropped(self) -> None:
        if not self.limited:
            return
        with self.connected(max_pending_messages=5) as transport:
            transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "notify", "params": {"count": 500}})
            received = [transport.receive_message(PATIENCE) for _ in range(501)]
            assert [message["params"]["n"] for message in received[:-1]] == list(range(500))

    def test_disconnecting_releases_those_who_receive(self) -> None:
        transport = self.make().connect()
        receiver = Background(lambda: transport.receive_message(PATIENCE * 3))
        transport.disconnect()
        assert isinstance(receiver.error(), MCPConnectionError)

    def test_disconnecting_while_messages_wait_to_be_received_works(self) -> None:
        with self.connected(**({"max_pending_messages": 2} if self.limited else {})) as transport:
            transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "notify", "params": {"count": 100}})
            transport.receive_message(PATIENCE)
        assert transport.connected is False

    # -- conversations -------------------------------------------------------------------------------------------------

    def test_a_session_uses_the_connection_that_is_open(self) -> None:
        transport = self.make()
        dials = self.dials_of(transport)
        with transport, transport.create_session(PATIENCE) as session:
            assert session.send_request("echo", {"a": 1}) == {"a": 1}
            assert session.server_info["name"] == "partner"
            assert len(dials) == 1

    def test_without_a_connection_a_session_makes_its_own(self) -> None:
        transport = self.make()
        dials = self.dials_of(transport)
        with transport.create_session(PATIENCE) as session:
            assert session.send_request("echo", {}) == {}
        assert len(dials) == 1
        assert transport.connected is False

    def test_later_sessions_have_connections_of_their_own(self) -> None:
        if not (self.dials_often and self.remembers):
            return
        transport = self.make()
        dials = self.dials_of(transport)
        with transport, transport.create_session(PATIENCE) as first, transport.create_session(PATIENCE) as second:
            assert len(dials) == 2
            first.send_request("echo")
            assert first.send_request("count")["echo"] == 1
            assert "echo" not in second.send_request("count")

    def test_while_a_session_has_the_conversation_single_messages_are_refused(self) -> None:
        with self.connected() as transport, transport.create_session(PATIENCE) as session:
            with raises(LocalProtocolError):
                transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "echo"})
            with raises(LocalProtocolError):
                transport.receive_message(0.1)
            assert session.send_request("echo", {}) == {}

    def test_what_came_before_the_session_is_the_sessions(self) -> None:
        with self.connected() as transport:
            transport.send_message({"jsonrpc": "2.0", "id": "mine", "method": "notify", "params": {"count": 3}})
            transport.receive_message(PATIENCE)
            with transport.create_session(PATIENCE) as session:
                session.send_request("notify", {"count": 1})
                listener = session.listen()
                assert [next(listener)["params"]["n"] for _ in range(3)] == [1, 2, 0]

    def test_a_session_ends_with_the_transports_connection(self) -> None:
        transport = self.make().connect()
        session = transport.create_session(PATIENCE)
        transport.disconnect()
        with raises(MCPConnectionError):
            session.send_request("echo", {})
        session.close()

    def test_a_session_outlives_the_transport_that_made_it(self) -> None:
        transport = self.make().connect()
        session = transport.create_session(PATIENCE)
        del transport
        gc.collect()
        assert session.send_request("echo", {}) == {}
        session.close()

    def test_a_call_of_a_session_ends_at_its_timeout(self) -> None:
        with self.connected() as transport, transport.create_session(PATIENCE) as session:
            began = time.monotonic()
            with raises(MCPTimeoutError):
                session.send_request("hold", {}, timeout=0.2)
            assert time.monotonic() - began < 0.2 + SLACK
            assert session.send_request("echo", {}) == {}

    # -- events --------------------------------------------------------------------------------------------------------

    def test_observers_are_told_of_the_conversations_beginning_and_end(self) -> None:
        transport = self.make()
        events: queue.Queue[Event] = queue.Queue()
        assert transport.observe(events.put) == events.put
        with transport, transport.create_session(PATIENCE):
            pass
        seen = [events.get(timeout=PATIENCE)]
        while not isinstance(seen[-1], Disconnected):
            seen.append(events.get(timeout=PATIENCE))
        assert any(isinstance(event, Connected) for event in seen)
        with raises(TypeError):
            transport.observe("log")  # type: ignore[type-var]
