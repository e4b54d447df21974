"""WebSocketTransport: what may be handed over, what its keywords do, and what observers are told."""

from __future__ import annotations

import inspect
import json
import pickle
import queue
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from faults.http_tls import client_context
from faults.http_tools import is_silent_about
from faults.tools import PATIENCE, ROOT, until, works
from faults.ws_server import CLOSE, TEXT, Server, closing, declines, header_of, made, sends
from faults.ws_tools import CANARY, serving

import mcp_sync
from mcp_sync import AuthError, Client, MCPConnectionError, MCPError, StreamableHTTPTransport, WebSocketTransport
from mcp_sync.deadlines import Deadline
from mcp_sync.policies import Keepalive, Limits
from mcp_sync.testing.tools import Collector
from mcp_sync.transports import framed, lines

URL = "ws://127.0.0.1:9/mcp"


# -- what may be handed over -------------------------------------------------------------------------------------------


def test_the_scheme_of_http_is_refused_with_the_url_that_was_meant() -> None:
    for wrong, meant in (("http://h/mcp", "ws://h/mcp"), ("https://h:1/mcp?a=1", "wss://h:1/mcp")):
        with pytest.raises(ValueError) as found:
            WebSocketTransport(wrong)
        assert f"did you mean '{meant}" in str(found.value)
    with pytest.raises(ValueError, match="did you mean 'https://h/mcp'"):
        StreamableHTTPTransport("wss://h/mcp")
    with pytest.raises(ValueError, match="did you mean 'ws://localhost:8000/mcp'"):
        WebSocketTransport("localhost:8000/mcp")


@pytest.mark.parametrize("url", ["", "ws://", "ws:///mcp", "ws://h:0/", "ws://h:99999", "ws://h\\x/", "ftp://h/"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        WebSocketTransport(url)


def test_a_client_takes_both_schemes_in_any_case() -> None:
    for url in ("ws://h/mcp", "wss://h/mcp", "WS://h/mcp"):
        assert isinstance(Client(url).transport, WebSocketTransport)
    with pytest.raises(TypeError, match="did you mean 'ping_interval'"):
        Client("ws://h/mcp", ping_intervall=3)
    with pytest.raises(ValueError, match="ws://"):
        Client("gopher://h/mcp")


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"subprotocols": "mcp"}, TypeError, "subprotocols"),
    ({"subprotocols": [1]}, TypeError, "subprotocols"),
    ({"subprotocols": ["a b"]}, ValueError, "subprotocols"),
    ({"subprotocols": [""]}, ValueError, "subprotocols"),
    ({"subprotocols": ["grün"]}, ValueError, "subprotocols"),
    ({"headers": {"Host": "x"}}, ValueError, "Host"),
    ({"headers": {"Sec-WebSocket-Key": "x"}}, ValueError, "Sec-WebSocket-Key"),
    ({"custom_headers": {"sec-websocket-protocol": "x"}}, ValueError, "see subprotocols"),
    ({"headers": {"X-A": "a\r\nX-B: b"}}, ValueError, "headers"),
    ({"headers": [("a", "b")]}, TypeError, "headers"),
    ({"auth_header": "a\nb"}, ValueError, "auth_header"),
    ({"auth_provider": object()}, TypeError, "auth_provider"),
    ({"verify_ssl": 1}, TypeError, "verify_ssl"),
    ({"verify_ssl": "/no/such/file"}, FileNotFoundError, "verify_ssl"),
    ({"ssl_context": True}, TypeError, "ssl_context"),
    ({"cert": 5}, TypeError, "cert"),
    ({"ping_interval": 0}, ValueError, "ping_interval"),
    ({"ping_timeout": -1}, ValueError, "ping_timeout"),
    ({"ping_interval": "often"}, TypeError, "ping_interval"),
    ({"send_buffer_size": 1}, ValueError, "send_buffer_size"),
    ({"receive_buffer_size": "1"}, TypeError, "receive_buffer_size"),
    ({"enable_compression": 1}, TypeError, "enable_compression"),
    ({"compression_threshold": -1}, ValueError, "compression_threshold"),
    ({"max_reconnects": -1}, ValueError, "max_reconnects"),
    ({"heartbeat_interval": 3}, TypeError, "heartbeat_interval"),
    ({"chunk_size": 3}, TypeError, "chunk_size"),
    ({"validate_origin": "no"}, TypeError, "validate_origin"),
]


@pytest.mark.parametrize(("knobs", "kind", "name"), WRONG)
def test_what_makes_no_sense_is_refused_by_name(knobs: dict[str, Any], kind: type[Exception], name: str) -> None:
    with pytest.raises(kind) as found:
        WebSocketTransport(URL, **knobs)
    assert name in str(found.value)


def test_its_signature_lists_every_keyword() -> None:
    parameters = inspect.signature(WebSocketTransport).parameters
    wanted = {"url", "headers", "custom_headers", "subprotocols", "auth_header", "auth_provider", "timeout"}
    wanted |= {"ping_interval", "ping_timeout", "reconnect_interval", "max_reconnects", "max_message_size"}
    wanted |= {"send_buffer_size", "receive_buffer_size", "max_pending_messages", "enable_compression"}
    wanted |= {"compression_threshold", "verify_ssl", "ssl_context", "cert", "validate_origin", "allowed_origins"}
    wanted |= {"trust_env", "max_retries", "circuit_breaker_enabled", "policies"}
    assert wanted <= set(parameters)
    assert parameters["trust_env"].default is False
    assert parameters["subprotocols"].default == ("mcp",)
    assert "WebSocketTransport" in mcp_sync.__all__


def test_policies_may_be_given_whole() -> None:
    transport = WebSocketTransport(URL, policies=[Keepalive(5.0, None), Limits(message_size=5000)], ping_timeout=2.0)
    assert transport._policies[Keepalive] == Keepalive(5.0, 2.0)
    assert transport._policies[Limits].message_size == 5000


def test_it_shows_no_secrets() -> None:
    """I12."""
    transport = WebSocketTransport(
        f"wss://user:{CANARY}@h/mcp?token={CANARY}#{CANARY}", headers={"X-Api-Key": CANARY}, auth_header=CANARY
    )
    is_silent_about(CANARY, transport, transport.name, transport._passport)


def test_importing_it_does_not_bring_requests() -> None:
    program = textwrap.dedent("""
        import sys
        from mcp_sync import WebSocketTransport
        from mcp_sync.transports import framed, lines, upgrade
        assert "websocket" in sys.modules
        assert not {"requests", "urllib3"} & set(sys.modules), "requests takes its time"
    """)
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": str(ROOT)}, timeout=PATIENCE)


# -- what its keywords do ----------------------------------------------------------------------------------------------


def test_headers_and_credentials_are_in_the_upgrade() -> None:
    knobs = {"headers": {"X-A": "1", "X-B": "2"}, "custom_headers": {"X-B": "3"}, "auth_header": "Bearer me"}
    with serving(**knobs, url="ws://127.0.0.1:{port}/a%20b/ü?q=ä#x") as (client, server):
        works(client)
        request = server.requests[0]
        assert request.startswith(b"GET /a%20b/%C3%BC?q=%C3%A4 HTTP/1.1\r\n")
        assert [header_of(request, name) for name in ("X-A", "X-B", "Authorization")] == ["1", "3", "Bearer me"]


def test_a_header_in_latin_1_arrives_as_that() -> None:
    with serving(headers={"X-Name": "Jürgen"}) as (client, server):
        works(client)
        assert "X-Name: Jürgen".encode("latin-1") in server.requests[0]


def test_the_buffers_of_the_socket_are_as_large_as_told() -> None:
    with Server() as server:
        transport = WebSocketTransport(server.url, send_buffer_size=8192, receive_buffer_size=8192)
        channel = transport.dial(Deadline(PATIENCE))
        sock = channel._pipe._line._sock  # type: ignore[attr-defined]
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            assert sock.getsockopt(socket.SOL_SOCKET, option) in (8192, 16384)  # Linux says the double
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        channel.close(Deadline(PATIENCE))


def test_reading_pauses_when_too_many_messages_wait() -> None:
    sent = threading.Semaphore(0)
    note = made(TEXT, b'{"jsonrpc":"2.0","method":"news","params":{"x":"' + b"x" * 10_000 + b'"}}')

    def floods(connection: Any) -> None:
        for _ in range(2000):
            connection.send(note)
            sent.release()
        connection.converse()

    with Server(converse=floods) as server:
        knobs = {"max_pending_messages": 3, "receive_buffer_size": 1 << 16}
        with WebSocketTransport(server.url, **knobs) as transport:
            threading.Event().wait(0.3)
            assert sent._value < 1000  # type: ignore[attr-defined]  # it waits for us
            for _ in range(2000):
                assert transport.receive_message(PATIENCE)["method"] == "news"


def test_a_server_that_was_away_is_reached_again_as_often_as_told() -> None:
    on = {"work": [sends(closing(1012)), None], "upgrade": [None, sends(then="close"), sends(then="close"), None]}
    with serving(on=on, reconnect_interval=0.01, max_reconnects=3) as (client, server):
        with pytest.raises(MCPConnectionError):
            client.call_tool("work", {})
        works(client)
        assert server.accepted == 4
    on = {"work": sends(closing(1012)), "upgrade": [None, *[sends(then="close")] * 5]}
    with serving(on=on, reconnect_interval=0.01, max_reconnects=2) as (client, server):
        for _ in range(2):
            with pytest.raises(MCPConnectionError):
                client.call_tool("work", {})
        assert server.accepted == 3


def test_max_retries_repeats_what_is_safe_and_nothing_else() -> None:
    on = {"tools/list": [sends(then="close"), None], "work": [sends(then="close"), None]}
    with serving(on=on, max_retries=2, retry_delay=0.01) as (client, server):
        assert [tool.name for tool in client.list_tools()] == ["work"]
        with pytest.raises(MCPConnectionError):
            client.call_tool("work", {})
        assert sum(message["method"] == "tools/call" for message in server.messages) == 1


def test_a_refused_upgrade_is_tried_again_where_the_status_is_worth_it() -> None:
    with serving(on={"upgrade": [declines(503), None]}, max_retries=1, retry_delay=0.01) as (client, server):
        works(client)
        assert server.accepted == 2


def test_reconnect_makes_a_new_connection_and_says_goodbye_to_the_old() -> None:
    with serving() as (client, server):
        works(client)
        client.transport.reconnect()
        works(client)
        assert server.accepted == 2
        until(lambda: [frame.code for frame in server.frames if frame.opcode == CLOSE] == [1000])


# -- what is told ------------------------------------------------------------------------------------------------------


def test_the_life_of_a_connection_is_told() -> None:
    """W2."""
    told: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    with Server(on={"work": sends(closing(1001, "bye"))}) as server:
        transport = WebSocketTransport(server.url, timeout=PATIENCE)
        transport.on_lifecycle_event(lambda event, data: told.put((event, data)))
        with Client(transport) as client, pytest.raises(MCPConnectionError):
            client.call_tool("work", {})
        seen = {}
        while "disconnected" not in seen or "error" not in seen:
            event, data = told.get(timeout=PATIENCE)
            seen[event] = data
        assert list(seen)[:2] == ["connecting", "connected"]
        assert seen["connected"]["server"] == server.url
        assert "1001" in seen["disconnected"]["reason"]
        assert (seen["error"]["kind"], seen["error"]["details"]["code"]) == ("connection_lost", 1001)


def test_a_refusal_is_told_by_its_kind() -> None:
    told: queue.Queue[str] = queue.Queue()
    statuses = {401: "auth_failed", 429: "rate_limited", 500: "server_error"}
    with Server(on={"upgrade": [declines(status) for status in statuses] + [sends(then="close")]}) as server:
        transport = WebSocketTransport(server.url)
        transport.on_error(lambda kind, data: told.put(kind))
        for kind in (*statuses.values(), "connection_lost"):
            with pytest.raises(MCPError):
                transport.connect()
            assert told.get(timeout=PATIENCE) == kind


def test_notifications_are_routed_by_their_method() -> None:
    """W6."""
    told: queue.Queue[dict[str, Any]] = queue.Queue()
    note = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"a": 1}}

    def tells(exchange: Any) -> None:
        exchange.send(made(TEXT, json.dumps(note).encode()))
        exchange.answer()

    with serving(on={"work": tells}) as (client, _):
        client.transport.route_message("notifications/tools/list_changed")(told.put)
        client.call_tool("work", {})
        assert told.get(timeout=PATIENCE)["params"] == {"a": 1}


def test_errors_survive_pickling() -> None:
    with serving(on={"work": sends(closing(1011, "oops"))}) as (client, _):
        with pytest.raises(mcp_sync.ClosedByServer) as found:
            client.call_tool("work", {})
        copy = pickle.loads(pickle.dumps(found.value))
        assert (copy.code, copy.reason, copy.details) == (1011, "oops", found.value.details)
    with Server(on={"upgrade": declines(403, "go away")}) as server:
        with pytest.raises(AuthError) as refused:
            WebSocketTransport(server.url).connect()
        assert pickle.loads(pickle.dumps(refused.value)).status == 403


# -- what breaks in between --------------------------------------------------------------------------------------------


def test_where_the_pipe_cannot_be_made_the_socket_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    with Server() as server:
        monkeypatch.setattr(framed.os, "pipe", full)
        with pytest.raises(MCPConnectionError, match="Too many open files"):
            WebSocketTransport(server.url).dial(Deadline(PATIENCE))
        monkeypatch.undo()
        until(lambda: server.connected == 0)


@pytest.mark.parametrize("tls", [False, True])
def test_what_is_written_is_noted_whatever_interrupts_the_writing(tls: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """I16: a message that Ctrl-C came into the middle of is finished before the next one begins."""
    limits = {"max_message_size": 1 << 24, **({"ssl_context": client_context()} if tls else {})}
    with Server(tls=tls) as server:
        transport = WebSocketTransport(server.url, **limits)
        channel = transport.dial(Deadline(PATIENCE))
        sink = Collector()
        channel.start(sink)
        real, calls = lines.Line.flush, []

        def interrupted(line: lines.Line) -> bool:
            calls.append(line)
            if len(calls) == 1:
                raise KeyboardInterrupt
            return real(line)

        monkeypatch.setattr(lines.Line, "flush", interrupted)
        call = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "a", "arguments": {}}}
        with pytest.raises(KeyboardInterrupt):
            channel.send({**call, "id": 1}, Deadline(PATIENCE))
        channel.send({**call, "id": 2}, Deadline(PATIENCE))
        ids = [1, 2] if tls else [2]  # what was encrypted cannot be taken back
        assert [sink.next().id for _ in ids] == ids  # type: ignore[union-attr]
        channel.close(Deadline(PATIENCE))


PROGRAM = """
import os, sys, threading, time, signal
from mcp_sync import Client, ForkedClientError, WebSocketTransport
url = sys.argv[1]
knobs = {"verify_ssl": False} if url.startswith("wss") else {}
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had us ignore it
def storm(seconds):
    time.sleep(0.3)
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.003)
"""


def run(program: str, url: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(program), url],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("tls", [False, True])
def test_after_a_fork_the_child_dials_anew_and_the_parent_notices_nothing(tls: bool) -> None:
    """I14."""
    program = """
    import warnings
    warnings.simplefilter("ignore")
    with Client(url, timeout=10, **knobs) as client:
        session = WebSocketTransport(url, **knobs).create_session()
        child = os.fork()
        if not child:
            try: session.send_request("ping")
            except ForkedClientError: print("refused", flush=True)
            print(client.call_tool("work", {"a": 1}).text, flush=True)
            client.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        session.send_request("ping")
        session.close()
        print(client.call_tool("work", {"a": 2}).text)
    """
    with Server(tls=tls) as server:
        assert run(program, server.url).splitlines() == ["refused", '{"a": 1}', '{"a": 2}']
        assert server.accepted == 3
        until(lambda: server.connected == 0)


@pytest.mark.parametrize("tls", [False, True])
def test_a_storm_of_ctrl_c_tears_no_message(tls: bool) -> None:
    """I16."""
    program = """
    with Client(url, timeout=10, **knobs) as client:
        thread = threading.Thread(target=storm, args=(1.0,))
        thread.start()
        calls = interrupts = 0
        armed = False
        def hear(*_):
            if armed: raise KeyboardInterrupt
        signal.signal(signal.SIGINT, hear)
        while thread.is_alive():
            try:
                armed = True
                assert '"a": 1' in client.call_tool("work", {"a": 1, "x": "x" * (calls % 7 * 10_000)}).text
                armed = False
                calls += 1
            except KeyboardInterrupt:
                armed = False
                interrupts += 1
        assert interrupts > 20 and calls > 20, (interrupts, calls)
        print(client.call_tool("work", {"b": 1}).text)
    """
    with Server(tls=tls) as server:
        assert run(program, server.url) == '{"b": 1}\n'
        assert server.accepted == 1


def test_a_script_that_forgets_to_close_ends(tmp_path: Path) -> None:
    """I15."""
    with Server() as server:
        assert run("client = Client(url).connect(); print(client.call_tool('work', {}).text)", server.url) == "{}\n"
        until(lambda: server.connected == 0)
