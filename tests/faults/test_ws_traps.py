"""The traps of websocket-client (FAULTS.md, section 3, B11 to B14): sprung by the plain library, not by us.

Each test shows first what the library does when it is used plainly. If one of these beginnings fails, the library has
changed for the better, and that part may go. B15, TLS in two directions, is in test_ws_tls.py.
"""

from __future__ import annotations

import inspect
import os
import threading
import time

import pytest
import websocket
from faults.tools import PATIENCE, tool, until, within, works
from faults.ws_server import TEXT, Exchange, Server, closing, made, sends
from faults.ws_tools import NOW, T, serving, unconnected

from house import growth
from mcp_sync import MCPConnectionError, MCPTimeoutError, MessageTooLarge
from mcp_sync.protocol.frames import FrameCutter
from mcp_sync.transports import upgrade


def plain(server: Server, **about: object) -> websocket.WebSocket:
    """The library, as it comes out of the box."""
    return websocket.create_connection(server.url, subprotocols=["mcp"], timeout=PATIENCE, **about)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_b11_nothing_is_allocated_for_what_is_only_announced() -> None:
    """B11: theirs goes on reading whatever is announced."""
    with Server(converse=lambda connection: sends(made(TEXT, b"x" * 1000, length=1 << 40))(Exchange(connection))) as s:
        theirs = plain(s)
        theirs.settimeout(T)
        with pytest.raises(websocket.WebSocketTimeoutException):
            theirs.recv()
        theirs.shutdown()
    with serving(on={"work": sends(made(TEXT, b"x" * 1000, length=1 << 40))}) as (client, _):
        with within(NOW), pytest.raises(MessageTooLarge):
            client.call_tool("work", {})
        works(client)


def test_b11_the_timeout_of_the_upgrade_is_one_of_all_of_it() -> None:
    """B11: theirs is one of each byte."""
    drip = {"upgrade": lambda exchange: exchange.drip(exchange.head, T / 50)}
    with Server(on=drip) as server:
        began = time.monotonic()
        websocket.create_connection(server.url, subprotocols=["mcp"], timeout=T).close(timeout=0)
        assert time.monotonic() - began > T * 1.5
    with unconnected(on=drip, timeout=T) as (client, _), within(T), pytest.raises(MCPTimeoutError):
        client.connect()


def test_b12_a_close_frame_of_the_server_ends_everything() -> None:
    """B12: theirs says "", closes nothing, and then ``close()`` leaves the descriptor to the garbage collector."""
    with Server(converse=lambda connection: sends(closing(1000))(Exchange(connection))) as server:
        theirs = plain(server)
        assert theirs.recv() == ""
        assert not theirs.connected
        theirs.close()
        assert theirs.sock is not None
        theirs.sock.close()
    with serving(on={"work": sends(closing(1000))}) as (client, server):
        before = descriptors()
        with within(NOW), pytest.raises(MCPConnectionError):
            client.call_tool("work", {})
        until(lambda: server.connected == 0)
        until(lambda: descriptors() < before)


def test_b12_a_message_that_was_given_up_half_way_tears_no_other() -> None:
    """B12: theirs stays ``connected``, and the next frame begins in the middle of the last."""

    def slow(exchange: Exchange) -> None:
        exchange.answer()
        threading.Event().wait(3 * T)

    with serving(on={"slow": slow}, max_message_size=1 << 26) as (client, server):
        client.call_tool("slow", {})
        for _ in range(3):
            with within(T), pytest.raises(MCPTimeoutError):
                client.call_tool("work", {"x": "x" * (1 << 24)}, T / 3)
        works(client)
        assert server.accepted == 1


def test_b13_the_pong_to_a_deaf_server_blocks_nobody() -> None:
    """B13: theirs is written by the reader, under the sender's lock."""
    over = threading.Event()

    def deaf(exchange: Exchange) -> None:
        for _ in range(100):
            exchange.send(made(9, b"p" * 125) * 20)
        exchange.answer()
        over.wait(PATIENCE)

    with serving(on={"work": deaf}, max_message_size=1 << 26) as (client, _):
        assert tool(client, "work", a=1) == {"a": 1}
        writer = client.submit_tool("work", {"x": "x" * (1 << 25)}, timeout=T)
        with within(T), pytest.raises(MCPTimeoutError):
            client.call_tool("work", {}, T)
        with pytest.raises(MCPTimeoutError):
            writer.result(PATIENCE)
        with within(0.5):
            client.close()
        over.set()


@pytest.mark.alone
def test_b14_utf_8_is_checked_at_the_speed_of_c() -> None:
    """B14: theirs takes 0.1 s for each MB, in Python."""
    text = ("{" + "grüße " * 300_000 + "}").encode()
    frame = made(TEXT, text)
    assert FrameCutter(1 << 24).feed(frame) == [text]
    if not _has_wsaccel():
        ours, theirs = FrameCutter(1 << 24), websocket._utils.validate_utf8
        growth.at_least(lambda: ours.feed(frame), lambda: theirs(text), times=5)


def _has_wsaccel() -> bool:
    try:
        import wsaccel  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        return False
    return True


def test_what_we_use_of_the_library_is_there() -> None:
    """A canary for the next version: what our Door stands for, and what connect() is told."""
    told = ("header", "host", "subprotocols", "suppress_origin", "redirect_limit", "http_no_proxy", "socket")
    text = inspect.getdoc(websocket.WebSocket.connect) or ""
    assert all(f"{name}:" in text for name in told)
    source = inspect.getsource(websocket._socket)
    assert all(f"sock.{name}(" in source for name in ("send", "recv", "gettimeout"))
    assert issubclass(websocket.WebSocketTimeoutException, websocket.WebSocketException)
    assert not hasattr(websocket.WebSocket, "__del__")
    assert {"send", "recv", "gettimeout", "settimeout", "close"} <= set(vars(upgrade.Door))
