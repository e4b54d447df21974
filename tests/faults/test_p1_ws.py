"""WebSocket: what is UTF-8 by all the tables of Autobahn's section 6, and codes with which a server ends a beginning.

FAULTS.md, 5.3, P1, as far as no other file here shows it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults.tools import until, within
from faults.ws_server import CLOSE, CONTINUATION, TEXT, Exchange, Manner, closing, made, sends
from faults.ws_tools import NOW, serving, tells, unconnected

from mcp_sync import MCPError, RemoteProtocolError
from mcp_sync.exceptions import ClosedByServer
from mcp_sync.observe import Disconnected, Event
from mcp_sync.protocol.frames import Flaw, FrameCutter, Item

CODES = [1000, 1001, 1008, 1009, 1011, 1012, 1013]

# -- the tables of section 6 -------------------------------------------------------------------------------------------

STARTS = {2: range(0xC0, 0xE0), 3: range(0xE0, 0xF0), 4: range(0xF0, 0xF8), 5: range(0xF8, 0xFC), 6: (0xFC, 0xFD)}
CUT_SHORT = ["c0", "e080", "f08080", "f8808080", "fc80808080", "df", "efbf", "f7bfbf", "fbbfbfbf", "fdbfbfbfbf"]
OVERLONG = ["c0af", "e080af", "f08080af", "f8808080af", "fc80808080af"]
OVERLONG_MOST = ["c1bf", "e09fbf", "f08fbfbf", "f887bfbfbf", "fc83bfbfbfbf"]
OVERLONG_NUL = ["c080", "e08080", "f0808080", "f880808080", "fc8080808080"]
HIGH, LOW = ("eda080", "edadbf", "edae80", "edafbf"), ("edb080", "edbe80", "edbfbf")


def valid() -> Iterator[tuple[str, bytes]]:
    yield "6.1", b""
    yield "6.2", "Hello-µ@ßöäüàá-UTF-8!!".encode()
    yield "6.5", bytes.fromhex("cebae1bdb9cf83cebcceb5")
    for number in (0x0, 0x80, 0x800, 0x10000, 0x7F, 0x7FF, 0xFFFF, 0x10FFFF, 0xD7FF, 0xE000, 0xFFFD):
        yield "6.6 to 6.11, 6.22", chr(number).encode()
    for plane in range(17):
        for number in (0xFFFE, 0xFFFF):
            yield "6.22", chr(plane << 16 | number).encode()


def invalid() -> Iterator[tuple[str, bytes]]:
    yield "6.3", bytes.fromhex("cebae1bdb9cf83cebcceb5eda080656469746564")
    yield "6.4", bytes.fromhex("cebae1bdb9cf83cebcceb5f4908080656469746564")
    for number in (0x1FFFFF, 0x110000):
        yield "6.8", bytes([0xF0 | number >> 18, *(0x80 | number >> shift & 0x3F for shift in (12, 6, 0))])
    yield from (("6.8", bytes.fromhex(raw)) for raw in ("f888808080", "fbbfbfbfbf", "fc8480808080", "fdbfbfbfbfbf"))
    yield from (("6.12", data) for count in range(1, 8) for data in (b"\x80" * count, b"\x80\xbf" * count))
    yield "6.12", bytes(range(0x80, 0xC0))
    for firsts in STARTS.values():
        yield from (("6.13", bytes([first])) for first in firsts)
        yield "6.13", b"".join(bytes([first, 0x20]) for first in firsts)
    yield from (("6.14", bytes.fromhex(raw)) for raw in CUT_SHORT)
    yield "6.15", bytes.fromhex("".join(CUT_SHORT))
    yield from (("6.16", bytes.fromhex(raw)) for raw in ("fe", "ff", "fefeffff"))
    yield from (("6.17 to 6.19", bytes.fromhex(raw)) for raw in (*OVERLONG, *OVERLONG_MOST, *OVERLONG_NUL))
    yield from (("6.20", bytes.fromhex(raw)) for raw in (*HIGH, *LOW))
    yield from (("6.21", bytes.fromhex(high + low)) for high in HIGH for low in LOW)


def as_frames(data: bytes) -> Iterator[bytes]:
    """Yield it in one frame, and in one for each byte."""
    yield made(TEXT, data)
    pieces = (made(CONTINUATION, data[at : at + 1], fin=False) for at in range(len(data)))
    yield made(TEXT, fin=False) + b"".join(pieces) + made(CONTINUATION)


def cut(data: bytes) -> list[Item]:
    return list(FrameCutter(1000).feed(data))


def test_what_the_tables_call_utf_8_is_taken() -> None:
    found = list(valid())
    assert len(found) == 48
    for table, data in found:
        for framed in as_frames(data):
            assert cut(framed) == [data], (table, data)


def test_what_the_tables_do_not_call_utf_8_ends_it_with_1007() -> None:
    found = list(invalid())
    assert len(found) > 120
    for table, data in found:
        for framed in as_frames(b"{" + data + b"}"):
            items = cut(framed)
            assert [type(item) for item in items] == [Flaw], (table, data, items)
            assert items[0].code == 1007, (table, data)  # type: ignore[union-attr]


@pytest.mark.parametrize("raw", [OVERLONG_NUL[0], HIGH[0] + LOW[0], CUT_SHORT[1], "f4908080", "ff"])
def test_a_text_that_is_none_fails_its_call_at_once_and_the_server_is_told(raw: str) -> None:
    data = b'{"jsonrpc":"2.0","id":1,"result":{"x":"' + bytes.fromhex(raw) + b'"}}'
    for framed in as_frames(data):
        with serving(on={"work": sends(framed)}) as (client, server):
            with within(NOW), pytest.raises(RemoteProtocolError) as found:
                client.call_tool("work")
            tells(found.value, server, code=1007)
            until(lambda: server.connected == 0)
            assert [frame.code for frame in server.frames if frame.opcode == CLOSE] == [1007]


# -- codes -------------------------------------------------------------------------------------------------------------


def behind_its_head(data: bytes) -> Manner:
    """Answer the upgrade, and send this with the same write."""

    def act(exchange: Exchange) -> None:
        exchange.send(exchange.head + data)
        exchange.hold()

    return act


@pytest.mark.parametrize("code", CODES)
def test_a_code_instead_of_the_first_answer_is_what_connect_says_at_once(code: int) -> None:
    with unconnected(on={"upgrade": behind_its_head(closing(code, "not today"))}) as (client, _):
        with within(NOW), pytest.raises(ClosedByServer) as found:
            client.connect()
        assert (found.value.code, found.value.reason) == (code, "not today")
        assert found.value.may_have_run is False


@pytest.mark.parametrize("code", CODES)
def test_a_code_that_comes_while_nobody_calls_is_told_and_the_next_call_connects_again(code: int) -> None:
    events: list[Event] = []

    def answers_and_closes(exchange: Exchange) -> None:
        exchange.answer()
        exchange.send(closing(code, "enough"))

    with serving(on={"work": [answers_and_closes]}) as (client, server):
        client.transport.observe(events.append)
        client.call_tool("work")
        until(lambda: [str(code) in one.reason for one in events if isinstance(one, Disconnected)] == [True])
        with within(NOW):
            try:
                client.call_tool("echo")
            except MCPError as error:
                raise AssertionError("the end of a connection that nobody used harms no call") from error
        assert server.accepted == 2
