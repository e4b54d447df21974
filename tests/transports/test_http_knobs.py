"""What the keywords of the HTTP transports do, each shown by its effect on the wire, the socket, or the caller."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from faults.http_server import Exchange, Server, replies, says, silent, streams

from mcp_sync import Client, MCPConnectionError, MCPError, MCPTimeoutError, MessageTooLarge, RemoteProtocolError
from mcp_sync.engine import lifetimes
from mcp_sync.exceptions import AuthError, HTTPStatusError, ServerError
from mcp_sync.testing import in_threads
from mcp_sync.testing.tools import PATIENCE, SLACK
from mcp_sync.transports import web as web_module
from mcp_sync.transports.http import StreamableHTTPTransport
from mcp_sync.transports.sse import SSETransport

ECHO = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def until(holds: Callable[[], Any], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)


def answers(size: int) -> Any:
    """Answer with a text of so many characters, announced."""

    def act(exchange: Exchange) -> None:
        text = {"type": "text", "text": "x" * size}
        result = {"resultType": "complete", "content": [text]}
        exchange.reply(200, json.dumps({"jsonrpc": "2.0", "id": exchange.request.id, "result": result}))

    return act


# -- how replies are read ---------------------------------------------------------------------------------------------


def progress_of(size: int, manner: Any = None, **knobs: Any) -> list[tuple[int, int | None]]:
    """Return what observers are told of a reply."""
    told: list[tuple[int, int | None]] = []
    with Server(on={"work": manner or answers(size)}) as server:
        transport = StreamableHTTPTransport(server.url, **knobs)
        transport.on_streaming_progress(lambda received, total: told.append((received, total)))
        with Client(transport, timeout=PATIENCE) as client:
            client.call_tool("work")
    return told


def test_streaming_threshold_says_from_where_on_observers_are_told_of_a_reply() -> None:
    assert progress_of(50_000, streaming_threshold=100_000, chunk_size=10_000) == []
    told = progress_of(50_000, streaming_threshold=20_000, chunk_size=10_000)
    assert told
    assert all(received > 20_000 for received, _ in told)
    [total] = {total for _, total in told}
    assert told[-1] == (total, total)
    assert total is not None
    assert total > 50_000


def test_of_a_stream_of_events_nobody_knows_the_length() -> None:
    told = progress_of(0, streams(": " + "x" * 50_000 + "\n\n"), streaming_threshold=20_000)
    assert told
    assert {total for _, total in told} == {None}


def test_a_threshold_of_nothing_tells_of_every_reply() -> None:
    assert progress_of(10, streaming_threshold=0)


@pytest.mark.parametrize("size", [1, 1000, 65536])
def test_chunk_size_is_the_largest_single_read(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = web_module.Reply.read

    def spy(self: web_module.Reply, most: int) -> bytes:
        asked.append(most)
        data = read(self, most)
        assert len(data) <= most
        return data

    monkeypatch.setattr(web_module.Reply, "read", spy)
    with Server(on={"work": answers(2000)}) as server, Client(server.url, chunk_size=size, timeout=PATIENCE) as client:
        asked.clear()
        assert len(client.call_tool("work").text) == 2000
        assert set(asked) == {size}
        assert len(asked) > 2000 // size


def wires_to(port: int) -> list[Any]:
    alive = [one for known in lifetimes._forkables if isinstance(one := known(), web_module._Wire)]
    return [wire for wire in alive if wire.port == port and wire.sock is not None]


def option_of(name: str, value: Any, level: int, option: int) -> int:
    """Return a socket option as it is with this keyword."""
    with Server() as server, Client(server.url, timeout=PATIENCE, **{name: value}) as client:
        client.list_tools()
        [wire] = wires_to(server.port)
        found: int = wire.sock.getsockopt(level, option)
        return found


def test_buffer_size_is_the_sockets_receive_buffer() -> None:
    small = option_of("buffer_size", 10_000, socket.SOL_SOCKET, socket.SO_RCVBUF)
    large = option_of("buffer_size", 100_000, socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert small in (10_000, 20_000)  # Linux doubles it
    assert large in (100_000, 200_000)


@pytest.mark.parametrize("form", ["json", "events", "gzip"])
def test_max_response_size_limits_what_a_reply_may_be_and_not_what_a_request_may(form: str) -> None:
    def act(exchange: Exchange) -> None:
        text = {"type": "text", "text": "x" * int(exchange.request.arguments["n"])}
        result = {"resultType": "complete", "content": [text]}
        body = json.dumps({"jsonrpc": "2.0", "id": exchange.request.id, "result": result}).encode()
        if form == "events":
            exchange.reply(200, b"data: " + body + b"\n\n", content_type="text/event-stream")
        elif form == "gzip":
            exchange.reply(200, gzip.compress(body), "Content-Encoding: gzip")
        else:
            exchange.reply(200, body)

    with Server(on={"work": act}) as server, Client(server.url, max_response_size=10_000, timeout=PATIENCE) as client:
        assert len(client.call_tool("work", {"n": 9000, "more": "x" * 20_000}).text) == 9000
        with pytest.raises(MessageTooLarge, match="10000") as found:
            client.call_tool("work", {"n": 10_001})
        assert found.value.details["limit"] == 10_000
        assert found.value.may_have_run is True
        assert client.call_tool("echo", {"a": 1}).text == '{"a": 1}'


def test_without_max_response_size_the_limit_is_that_of_a_message() -> None:
    with Server(on={"work": answers(20_000)}) as server:
        with (
            Client(server.url, max_message_size=10_000, timeout=PATIENCE) as client,
            pytest.raises(MessageTooLarge, match="10000"),
        ):
            client.call_tool("work")
        with Client(server.url, max_message_size=10_000, max_response_size=30_000, timeout=PATIENCE) as client:
            assert client.call_tool("work")


def test_validate_content_type_says_whether_anything_but_json_is_refused() -> None:
    def as_text(exchange: Exchange) -> None:
        exchange.reply(200, exchange.body, content_type="text/plain")

    with Server(on={"work": as_text}) as server:
        with Client(server.url, timeout=PATIENCE) as client, pytest.raises(RemoteProtocolError, match="text/plain"):
            client.call_tool("work", {"a": 1})
        with Client(server.url, validate_content_type=False, timeout=PATIENCE) as client:
            assert client.call_tool("work", {"a": 1}).text == '{"a": 1}'


# -- connections ------------------------------------------------------------------------------------------------------


class Counted:
    """A manner that counts how many requests are under way; it answers when so many have come, or after a while."""

    def __init__(self, together: int = 1, seconds: float = 0.02) -> None:
        self._lock = threading.Lock()
        self._seconds = seconds
        self._together = together
        self._all = threading.Event()
        self.now = self.most = self.came = 0

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.came += 1
            self.now += 1
            self.most = max(self.most, self.now)
            if self.came >= self._together:
                self._all.set()
        self._all.wait(PATIENCE)
        exchange.pause(self._seconds)
        with self._lock:
            self.now -= 1
        exchange.send(exchange.plain)


@pytest.mark.parametrize("kept", [1, 3])
def test_connection_pool_size_says_how_many_idle_connections_are_kept(kept: int) -> None:
    with (
        Server(on={"work": Counted(6)}) as server,
        Client(server.url, connection_pool_size=kept, timeout=PATIENCE) as client,
    ):
        in_threads(6, lambda _: client.call_tool("work"))
        assert server.accepted >= 6
        until(lambda: server.connected <= kept)
        accepted = server.accepted
        client.call_tool("echo")
        assert (server.accepted, server.connected) == (accepted, kept)


@pytest.mark.parametrize("most", [1, 4])
def test_max_connections_per_host_says_how_many_requests_are_under_way_at_once(most: int) -> None:
    counted = Counted()
    with (
        Server(on={"work": counted}) as server,
        Client(server.url, max_connections_per_host=most, timeout=PATIENCE) as client,
    ):
        in_threads(12, lambda _: client.call_tool("work"))
        assert counted.most == most


def test_keep_alive_timeout_says_how_long_an_idle_connection_is_used_again() -> None:
    for seconds, connections in ((60.0, 1), (0.0, 4)):
        with Server() as server, Client(server.url, keep_alive_timeout=seconds, timeout=PATIENCE) as client:
            for _ in range(3):
                client.list_tools()
            assert server.accepted == connections, seconds


@pytest.mark.parametrize("on", [True, False])
def test_tcp_nodelay(on: bool) -> None:
    assert bool(option_of("tcp_nodelay", on, socket.IPPROTO_TCP, socket.TCP_NODELAY)) is on


@pytest.mark.parametrize("on", [True, False])
def test_tcp_keepalive(on: bool) -> None:
    assert bool(option_of("tcp_keepalive", on, socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is on


@pytest.mark.parametrize(
    ("knobs", "most"),
    [({"max_pipeline_size": 3}, 3), ({"enable_request_pipelining": False}, 1), ({"max_pipeline_size": 1}, 1)],
)
def test_request_pipelining_says_how_many_submitted_requests_are_under_way_at_once(knobs: Any, most: int) -> None:
    counted = Counted()
    with Server(on={"work": counted}) as server, Client(server.url, timeout=PATIENCE, **knobs) as client:
        futures = [client.submit_tool("work", {"n": n}) for n in range(9)]
        assert [future.result(PATIENCE).text for future in futures] == [f'{{"n": {n}}}' for n in range(9)]
        assert counted.most == most


def test_who_waits_for_the_answer_is_not_held_up_by_those_who_do_not() -> None:
    with (
        Server(on={"work": silent}) as server,
        Client(server.url, timeout=PATIENCE, enable_request_pipelining=False) as client,
    ):
        client.submit_tool("work")
        assert client.call_tool("echo", {"a": 1}).text == '{"a": 1}'


# -- compression ------------------------------------------------------------------------------------------------------


class Unpacking:
    """A manner that takes compressed requests, and remembers how they came."""

    def __init__(self) -> None:
        self.codings: list[str] = []
        self.sizes: list[int] = []

    def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        self.codings.append(request.headers.get("content-encoding", ""))
        self.sizes.append(len(request.body))
        assert int(request.headers["content-length"]) == len(request.body)
        body = gzip.decompress(request.body) if self.codings[-1] == "gzip" else request.body
        message = json.loads(body)
        method = message["method"]
        result: dict[str, Any] = {"resultType": "complete"}
        if method == "server/discover":
            result |= {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
        elif method == "tools/list":
            result |= {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}
        else:
            length = str(len(json.dumps(message["params"].get("arguments"))))
            result |= {"content": [{"type": "text", "text": length}]}
        exchange.reply(200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))


def packed(text: str, **knobs: Any) -> tuple[str, int]:
    """Return how a call with this argument was sent, and its size on the wire."""
    unpacking = Unpacking()
    with Server(on={"POST": unpacking}) as server, Client(server.url, timeout=PATIENCE, **knobs) as client:
        answer = client.call_tool("echo", {"text": text})
        assert answer.text == str(len(json.dumps({"text": text})))
    return unpacking.codings[-1], unpacking.sizes[-1]


def test_enable_compression_sends_long_requests_as_gzip() -> None:
    text = "all work and no play " * 500
    assert packed(text) == ("", packed(text)[1])
    coding, size = packed(text, enable_compression=True)
    assert coding == "gzip"
    assert size < 1000


def test_compression_threshold_says_which_requests_are_long() -> None:
    assert packed("x" * 2000, enable_compression=True, compression_threshold=100_000)[0] == ""
    assert packed("x", enable_compression=True, compression_threshold=0)[0] == "gzip"
    assert packed("x", enable_compression=True)[0] == ""
    assert packed("x" * 2000, enable_compression=True)[0] == "gzip"


def test_compression_level_says_how_much_work_is_worth_it() -> None:
    text = "".join(f"{n * n} " for n in range(20_000))
    fast = packed(text, enable_compression=True, compression_level=1)[1]
    small = packed(text, enable_compression=True, compression_level=9)[1]
    assert small < fast


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compressobj(wbits=-15).compress(data) + b""),
        ("identity", bytes),
    ],
    ids=["gzip", "deflate", "raw deflate", "identity"],
)
def test_replies_are_unpacked_whatever_enable_compression_says(coding: str, pack: Any) -> None:
    def act(exchange: Exchange) -> None:
        body = exchange.body
        data = pack(body)
        if not data:  # a raw one has to be finished
            packer = zlib.compressobj(wbits=-15)
            data = packer.compress(body) + packer.flush()
        exchange.reply(200, data, f"Content-Encoding: {coding}")

    for on in (False, True):
        with (
            Server(on={"work": act}) as server,
            Client(server.url, enable_compression=on, timeout=PATIENCE) as client,
        ):
            assert client.call_tool("work", {"a": 1}).text == '{"a": 1}'
            accepted = server.calls()[0].headers["accept-encoding"]
            assert {"gzip", "deflate"} <= set(accepted.split(", "))


def test_enable_compression_holds_for_http_sse_as_well() -> None:
    def stream(exchange: Exchange) -> None:
        head = exchange.head(200, "Connection: close", content_type="text/event-stream")
        exchange.send(head + b"event: endpoint\ndata: /post\n\n")
        exchange.hold()

    with (
        Server(on={"GET": stream, "POST": replies(202)}) as server,
        SSETransport(server.url, "", enable_compression=True) as transport,
    ):
        transport.send_message({"jsonrpc": "2.0", "method": "words", "params": {"text": "x" * 5000}})
        until(lambda: server.posts())
        request = server.verbs("POST")[0]
        assert request.headers.get("content-encoding") == "gzip"
        assert b"x" * 5000 in gzip.decompress(request.body)


# -- health -----------------------------------------------------------------------------------------------------------


def healthy(answer: Any, **knobs: Any) -> tuple[Any, list[Any]]:
    with Server(on={"GET": answer}) as server:
        transport = StreamableHTTPTransport(server.url, **knobs)
        try:
            return transport.check_health(timeout=knobs.get("timeout", PATIENCE)), server.requests
        except MCPError as error:
            return error, server.requests


@pytest.mark.parametrize("status", [200, 204, 299])
def test_a_health_endpoint_that_says_yes_is_all_there_is_to_it(status: int) -> None:
    found, requests = healthy(replies(status), health_endpoint="/healthz?deep=1", auth_header="Bearer x")
    assert found is None
    [request] = requests
    assert (request.verb, request.target, request.headers["authorization"]) == ("GET", "/healthz?deep=1", "Bearer x")


@pytest.mark.parametrize(
    ("status", "kind"), [(401, AuthError), (404, HTTPStatusError), (500, ServerError), (503, ServerError)]
)
def test_any_other_status_is_an_error_with_what_the_server_says(status: int, kind: type[HTTPStatusError]) -> None:
    found, _ = healthy(replies(status, "the disk is full", content_type="text/plain"), health_endpoint="healthz")
    assert type(found) is kind
    assert found.status == status
    assert "the disk is full" in str(found)


def test_a_health_endpoint_that_says_nothing_is_late() -> None:
    found, _ = healthy(silent, health_endpoint="/healthz", timeout=0.2)
    assert isinstance(found, MCPTimeoutError)


def test_without_an_endpoint_or_a_server_there_is_no_health() -> None:
    with pytest.raises(ValueError, match="health_endpoint"):
        StreamableHTTPTransport("http://127.0.0.1:9/").check_health()
    with pytest.raises(MCPConnectionError, match="nobody listens"):
        StreamableHTTPTransport("http://127.0.0.1:9/", health_endpoint="/").check_health(5)


def test_checking_the_health_leaves_nothing_open() -> None:
    with Server(on={"GET": replies(200, "fine")}) as server:
        StreamableHTTPTransport(server.url, health_endpoint="/").check_health(5)
        until(lambda: not server.connected, SLACK)


# -- message by message -----------------------------------------------------------------------------------------------


def plain(body: str, status: int = 200) -> Any:
    return replies(status, body)


def test_a_server_that_only_answers_json_can_be_talked_to_message_by_message() -> None:
    with (
        Server(on={"POST": plain('{"jsonrpc": "2.0", "id": $ID, "result": {"a": 1}}')}) as server,
        StreamableHTTPTransport(server.url, headers={"X-Key": "k"}) as transport,
    ):
        for number in range(3):
            transport.send_message({**ECHO, "id": number})
            assert transport.receive_message(PATIENCE) == {"jsonrpc": "2.0", "id": number, "result": {"a": 1}}
        assert {request.headers["x-key"] for request in server.requests} == {"k"}
        assert [request.verb for request in server.requests] == ["POST"] * 3


@pytest.mark.parametrize(
    ("manner", "kind"),
    [
        (plain("no", 500), ServerError),
        (plain("no", 401), AuthError),
        (plain("no", 404), HTTPStatusError),
        (plain("{"), RemoteProtocolError),
        (plain("", 202), RemoteProtocolError),
        (says("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"), MCPConnectionError),
        (lambda exchange: exchange.close(), MCPConnectionError),
    ],
    ids=["500", "401", "404", "no JSON", "202", "half", "hangs up"],
)
def test_what_goes_wrong_with_a_message_is_received_in_its_place(manner: Any, kind: type[MCPError]) -> None:
    good = plain('{"jsonrpc": "2.0", "id": $ID, "result": {}}')
    with Server(on={"POST": [good, manner, good]}) as server, StreamableHTTPTransport(server.url) as transport:
        transport.send_message(ECHO)
        assert transport.receive_message(PATIENCE)["id"] == 1
        transport.send_message({**ECHO, "id": 2})  # says nothing of it
        with pytest.raises(kind) as found:
            transport.receive_message(PATIENCE)
        assert type(found.value) is kind
        transport.send_message({**ECHO, "id": 3})
        assert transport.receive_message(PATIENCE)["id"] == 3
        assert transport.connected


def test_a_message_that_is_not_answered_in_time_is_an_error_received_in_its_place() -> None:
    with Server(on={"POST": silent}) as server, StreamableHTTPTransport(server.url) as transport:
        transport.send_message(ECHO, timeout=0.2)
        with pytest.raises(MCPTimeoutError) as found:
            transport.receive_message(PATIENCE)
        assert "no answer" in str(found.value)


def test_a_notification_that_is_refused_is_an_error_that_is_received() -> None:
    with Server(on={"POST": plain("no", 500)}) as server, StreamableHTTPTransport(server.url) as transport:
        transport.send_message({"jsonrpc": "2.0", "method": "words"})
        with pytest.raises(ServerError):
            transport.receive_message(PATIENCE)


def test_one_that_is_accepted_is_not() -> None:
    with Server(on={"POST": plain("", 202)}) as server, StreamableHTTPTransport(server.url) as transport:
        transport.send_message({"jsonrpc": "2.0", "method": "words"})
        with pytest.raises(MCPTimeoutError):
            transport.receive_message(0.2)
        assert len(server.requests) == 1


@pytest.mark.parametrize("form", ["json", "events"])
def test_when_too_much_waits_to_be_received_nothing_more_is_read_and_nothing_is_lost(form: str) -> None:
    def act(exchange: Exchange) -> None:
        body = f'{{"jsonrpc": "2.0", "id": {exchange.request.id}, "result": {{}}}}'
        if form == "events":
            exchange.reply(200, f"data: {body}\n\n", content_type="text/event-stream")
        else:
            exchange.reply(200, body)

    with Server(on={"POST": act}) as server:
        transport = StreamableHTTPTransport(server.url, max_pending_messages=2, max_pipeline_size=1)
        with transport:
            line = transport._line
            assert line is not None
            for number in range(20):
                transport.send_message({**ECHO, "id": number})
            time.sleep(0.2)
            waiting = line.inbox._items.qsize()
            assert sorted(transport.receive_message(PATIENCE)["id"] for _ in range(20)) == list(range(20))
            assert waiting <= 3  # two, and one that was being read
