"""Frames that break the protocol or a limit, over a real socket: the call fails at once, and the server is told why."""

from __future__ import annotations

import resource
import threading
from typing import Any

import pytest
from faults.tools import PATIENCE, tool, until, within, works
from faults.ws_server import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Exchange,
    Manner,
    made,
    sends,
)
from faults.ws_tools import NOW, T, serving, tells

from mcp_sync import Client, MCPConnectionError, MCPError, MCPTimeoutError, MessageTooLarge, RemoteProtocolError

LIMIT = 10_000

BROKEN: dict[str, tuple[bytes, int]] = {
    "a masked frame": (made(TEXT, b"{}", key=b"abcd"), 1002),
    "an unasked extension (RSV1)": (made(TEXT, b"{}", rsv=4), 1002),
    "RSV2": (made(TEXT, b"{}", rsv=2), 1002),
    "RSV3": (made(TEXT, b"{}", rsv=1), 1002),
    "opcode 3": (made(3, b"{}"), 1002),
    "opcode 11": (made(11), 1002),
    "a continuation of nothing": (made(CONTINUATION, b"{}"), 1002),
    "a message within another": (made(TEXT, b"{", fin=False) + made(TEXT, b"}"), 1002),
    "a control frame in pieces": (made(PING, b"a", fin=False), 1002),
    "a control frame that is long": (made(PING, b"a" * 126), 1002),
    "a length of 64 bits": (made(TEXT, length=(1 << 64) - 1, width=8), 1002),
    "a close code of one byte": (made(CLOSE, b"\x03"), 1002),
    "a close code that is none": (made(CLOSE, b"\x03\xed"), 1002),
    "a reason that is not UTF-8": (made(CLOSE, b"\x03\xe8\xff\xff"), 1007),
    "a binary message": (made(BINARY, b'{"jsonrpc":"2.0"}'), 1003),
    "a text that is not UTF-8": (made(TEXT, b"\xff\xfe"), 1007),
    "a text cut within a character": (made(TEXT, b"\xc3", fin=False) + made(CONTINUATION), 1007),
}


def closes_told(server: Any) -> list[int]:
    return [frame.code for frame in server.frames if frame.opcode == CLOSE]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_frame_ends_the_connection_with_its_code_and_the_next_call_makes_a_new_one(name: str) -> None:
    data, code = BROKEN[name]
    with serving(on={"work": sends(data)}) as (client, server):
        with within(NOW), pytest.raises(RemoteProtocolError) as found:
            client.call_tool("work", {})
        tells(found.value, server, code=code)
        assert found.value.may_have_run is None
        assert "breaks the WebSocket protocol" in str(found.value)
        until(lambda: server.connected == 0)
        assert closes_told(server) == [code]
        works(client)
        assert server.accepted == 2


def test_all_calls_under_way_fail_once_each_with_an_error_of_their_own() -> None:
    """I2."""
    came = threading.Semaphore(0)
    with serving(on={"held": lambda _: came.release(), "work": sends(made(BINARY))}) as (client, _):
        held = [client.submit_tool("held", {}) for _ in range(5)]
        for _ in held:
            assert came.acquire(timeout=PATIENCE)
        with pytest.raises(RemoteProtocolError) as found:
            client.call_tool("work", {})
        errors = [one.exception(PATIENCE) for one in held]
        assert all(isinstance(error, RemoteProtocolError) for error in errors)
        assert len({id(error) for error in (*errors, found.value)}) == 6


# -- limits ------------------------------------------------------------------------------------------------------------


def too_large(error: MCPError) -> None:
    assert error.details["limit"] == LIMIT
    assert str(LIMIT) in str(error)


@pytest.mark.parametrize("size", [4 * LIMIT + 1, 1 << 31, 1 << 40, (1 << 63) - 1])
def test_an_announced_length_far_over_the_limit_is_refused_before_a_byte_is_read(size: int) -> None:
    """B11, I8: an announced TiB costs nothing."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serving(on={"work": sends(made(TEXT, length=size, width=8))}, max_message_size=LIMIT) as (client, server):
        with within(NOW), pytest.raises(MessageTooLarge) as found:
            client.call_tool("work", {})
        too_large(found.value)
        until(lambda: server.connected == 0)
        assert closes_told(server) == [1009]
        works(client)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_an_answer_a_little_over_the_limit_fails_its_call_and_no_other() -> None:
    """I4: neither the connection nor the call beside it is harmed."""
    on = {"work": lambda exchange: exchange.send(made(TEXT, exchange.result("x" * LIMIT)))}
    with serving(on=on, max_message_size=LIMIT) as (client, server):
        with within(NOW), pytest.raises(MessageTooLarge) as found:
            client.call_tool("work", {})
        too_large(found.value)
        works(client)
        assert server.accepted == 1


def test_fragments_over_the_limit_fail_their_call_and_endless_ones_the_connection() -> None:
    """B11: the joined size is limited, not only that of each frame."""

    def fragments(exchange: Exchange) -> None:
        answer = exchange.result("x" * LIMIT)
        exchange.send(made(TEXT, answer[:500], fin=False))
        for at in range(500, len(answer), 500):
            exchange.send(made(CONTINUATION, answer[at : at + 500], fin=at + 500 >= len(answer)))

    def endless(exchange: Exchange) -> None:
        exchange.send(made(TEXT, b"{", fin=False))
        while True:
            exchange.send(made(CONTINUATION, b" " * 1000, fin=False))

    with serving(on={"work": [fragments, endless]}, max_message_size=LIMIT) as (client, server):
        for accepted in (1, 2):
            with within(NOW), pytest.raises(MessageTooLarge) as found:
                client.call_tool("work", {})
            too_large(found.value)
            works(client)
            assert server.accepted == accepted


def test_a_message_over_the_limit_that_does_not_come_on_is_given_up_at_once() -> None:
    """I5: nobody waits for the rest of what nobody may have."""
    with serving(on={"work": sends(made(TEXT, b"{", length=2 * LIMIT), then="hold")}, max_message_size=LIMIT) as (
        client,
        server,
    ):
        with within(NOW), pytest.raises(MessageTooLarge) as found:
            client.call_tool("work", {})
        too_large(found.value)
        works(client)
        assert server.accepted == 2


def test_a_message_of_ours_over_the_limit_is_not_sent() -> None:
    with serving(max_message_size=LIMIT) as (client, server):
        with pytest.raises(MessageTooLarge) as found:
            client.call_tool("work", {"x": "x" * LIMIT})
        assert found.value.may_have_run is False
        works(client)
        assert all("x" * LIMIT not in str(message) for message in server.messages)


# -- stalls and drips --------------------------------------------------------------------------------------------------

HELD: dict[str, Manner] = {
    "silence": lambda exchange: exchange.hold(),
    "a head that ends in the middle": sends(b"\x81", then="hold"),
    "a length that ends in the middle": sends(b"\x81\x7e\x01", then="hold"),
    "a payload that ends in the middle": lambda exchange: (
        exchange.send(made(TEXT, exchange.plain)[:-3]) or exchange.hold()
    ),
    "fragments without an end": lambda exchange: (
        exchange.send(made(TEXT, exchange.plain, fin=False)) or exchange.hold()
    ),
    "a drip": lambda exchange: exchange.drip(made(TEXT, b" " * 5000 + exchange.plain), 0.01),
    "pings and nothing else": lambda exchange: exchange.drip(made(PING, b"a") * 10_000, 0.005, 3),
    "pongs nobody asked for": lambda exchange: exchange.drip(made(PONG, b"a") * 10_000, 0.005, 3),
    "empty fragments": lambda exchange: (
        exchange.send(made(TEXT, fin=False)) or exchange.drip(made(CONTINUATION, fin=False) * 10_000, 0.005, 2)
    ),
}


@pytest.mark.parametrize("name", HELD)
def test_a_call_ends_at_its_deadline_whatever_comes_instead_of_an_answer(name: str) -> None:
    """I1."""
    with serving(on={"work": HELD[name]}) as (client, server):
        with within(T), pytest.raises(MCPTimeoutError) as found:
            client.call_tool("work", {}, T)
        tells(found.value, server)
        assert found.value.may_have_run is None


def test_an_answer_that_drips_arrives_where_there_is_time() -> None:
    on = {"work": lambda exchange: exchange.drip(made(TEXT, exchange.plain), 0.001)}
    with serving(on=on) as (client, _):
        assert tool(client, "work", a=1) == {"a": 1}
        works(client)


def test_a_flood_of_messages_does_not_keep_a_call_from_its_deadline() -> None:
    """I1, I8: neither does it fill the memory."""

    def flood(exchange: Exchange) -> None:
        note = made(TEXT, b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}')
        while True:
            exchange.send(note * 500)

    with serving(on={"work": flood}) as (client, _), within(T), pytest.raises(MCPTimeoutError):
        client.call_tool("work", {}, T)


@pytest.mark.parametrize("frame", [made(PING, b"x"), made(PONG), made(PING, b"y" * 125)])
def test_a_flood_of_control_frames_does_not_keep_a_call_from_its_deadline_nor_close_from_its_own(frame: bytes) -> None:
    """B13: the reader answers no ping itself, so a deaf server that floods blocks nobody."""

    def flood(exchange: Exchange) -> None:
        while True:
            exchange.send(frame * 2000)

    with serving(on={"work": flood}) as (client, _):
        with within(T), pytest.raises(MCPTimeoutError):
            client.call_tool("work", {}, T)
        with within(0.5):
            client.close()


def test_pings_are_answered_with_what_was_in_them_and_of_many_at_once_the_newest() -> None:
    heard: list[bytes] = []

    def asks(exchange: Exchange) -> None:
        exchange.send(made(PING, b"one"))
        frame = exchange.listen()
        assert frame is not None
        assert (frame.opcode, frame.masked) == (PONG, True)
        heard.append(frame.payload)
        exchange.send(b"".join(made(PING, b"%d" % n) for n in range(1000)))
        while heard[-1] != b"999":
            frame = exchange.listen()
            assert frame is not None
            heard.append(frame.payload)
        exchange.answer()

    with serving(on={"work": asks}) as (client, _):
        assert tool(client, "work", a=2) == {"a": 2}
        assert heard[0] == b"one"
        assert len(heard) < 1000


def test_frames_of_ours_are_masked_each_with_a_key_of_its_own() -> None:
    with serving() as (client, server):
        for _ in range(3):
            works(client)
        assert all(frame.masked for frame in server.frames)


def test_two_answers_in_one_segment_and_one_in_many_arrive() -> None:
    def many(exchange: Exchange) -> None:
        note = made(TEXT, b'{"jsonrpc":"2.0","method":"notifications/progress","params":{}}')
        exchange.send(note + made(PING) + made(TEXT, exchange.plain) + note)

    with serving(on={"work": many}) as (client, _):
        for _ in range(20):
            assert tool(client, "work", a=1) == {"a": 1}


def deaf(exchange: Exchange) -> None:
    exchange.hold()


def test_a_server_that_does_not_read_costs_a_call_its_timeout_and_nobody_more() -> None:
    """I1: writing is within the deadline; the reader reads on meanwhile."""
    with serving(on={"work": deaf}, max_message_size=1 << 26) as (client, server):
        with within(T), pytest.raises(MCPTimeoutError) as found:
            client.call_tool("work", {"x": "x" * (1 << 25)}, T)
        assert found.value.may_have_run is None
        for _ in range(2):
            with within(T), pytest.raises(MCPTimeoutError):
                client.call_tool("work", {"x": "x" * (1 << 20)}, T)
        with within(0.5):
            client.close()
        until(lambda: server.connected == 0)


def test_a_server_that_only_floods_and_does_not_read_does_not_deadlock_a_large_request() -> None:
    def floods(exchange: Exchange) -> None:
        while True:
            exchange.send(made(PING, b"z" * 100) * 100 + made(TEXT, b"[1]") * 100)

    with serving(on={"first": floods}) as (client, _):
        with within(T), pytest.raises(MCPTimeoutError):
            client.call_tool("first", {}, T)
        with within(T), pytest.raises(MCPTimeoutError):
            client.call_tool("work", {"x": "x" * (8 << 20)}, T)


def test_what_a_slow_server_reads_in_the_end_is_whole_though_calls_timed_out_meanwhile() -> None:
    """B12: no frame is torn by a call that gave up in the middle of it."""

    def slow(exchange: Exchange) -> None:
        exchange.answer()
        threading.Event().wait(4 * T)

    with serving(on={"slow": slow}, max_message_size=1 << 26) as (client, server):
        client.call_tool("slow", {})
        with within(T), pytest.raises(MCPTimeoutError):
            client.call_tool("work", {"x": "x" * (1 << 25)}, T)
        works(client)
        assert server.accepted == 1
        calls = [message for message in server.messages if message["method"] == "tools/call"]
        assert [len(call["params"]["arguments"].get("x", "")) for call in calls] == [0, 1 << 25, 0]


def test_the_connection_error_of_a_flaw_is_final_for_those_who_come_late() -> None:
    with serving(on={"work": sends(made(BINARY))}, max_reconnects=0) as (client, _):
        with pytest.raises(RemoteProtocolError):
            client.call_tool("work", {})
        assert isinstance(client, Client)
        with pytest.raises(MCPConnectionError) as found:
            client.call_tool("work", {})
        assert found.value.may_have_run is False
