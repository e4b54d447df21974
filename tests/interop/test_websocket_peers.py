"""The client over WebSocket against servers of others: the official SDK 1.x, the library websockets, ws for Node.js."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mcp_sync import Client, JSONRPCError, MCPConnectionError, MCPTimeoutError, ToolError, WebSocketTransport
from mcp_sync.exceptions import ClosedByServer
from mcp_sync.testing.tools import in_threads
from peers import install
from peers.running import HERE, PATIENCE, Command, Fleet, Running, running

pytestmark = pytest.mark.interop

HANDSHAKE = "2025-11-25"


def url_of(server: Running) -> str:
    return f"ws://127.0.0.1:{server.port}/mcp"


def websockets_server() -> Command:
    return lambda port: [sys.executable, str(HERE / "websockets_server.py"), str(port)]


def ws_server() -> Command:
    install.demand("node")
    return lambda port: [install._stamp("node")[1], str(HERE / "ws_server.cjs"), str(port)]


NODE_PATH = {"NODE_PATH": os.path.join(install.VENVS, "node", "node_modules")}
SERVERS: dict[str, tuple[Callable[[], Command], dict[str, str]]] = {
    "websockets": (websockets_server, {}),
    "ws": (ws_server, NODE_PATH),
}


@pytest.fixture(scope="module", params=list(SERVERS))
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One of the libraries, with permessage-deflate."""
    command, env = SERVERS[request.param]
    with running(command(), tmp_path_factory.mktemp(request.param), env) as server:
        yield server


@pytest.fixture(scope="module")
def sdk(fleet: Fleet) -> Running:
    """The official SDK."""
    return fleet.server("sdk1", "ws")


def client_of(server: Running, **options: Any) -> Client:
    return Client(url_of(server), **{"timeout": PATIENCE, **options})


# -- what the official SDK and its client can do, over this binding ---------------------------------------------------


def test_the_official_server_and_we_agree_and_talk(sdk: Running) -> None:
    with client_of(sdk) as client:
        assert client.protocol_version == HANDSHAKE
        assert client.server_info.name == "peer-sdk1"
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
        assert client.call_tool("echo", {"text": "grüße, 世界 \u2028"}).text == "grüße, 世界 \u2028"
        assert len(client.call_tool("big", {"n": 3_000_000}).text) == 3_000_000
        assert client.read_resource("memo://greeting").contents[0].text == "hello"
        with pytest.raises(ToolError):
            client.call_tool("fail", {"message": "no"}).raise_for_error()
        with pytest.raises(JSONRPCError):
            client.request("no/such")


def test_progress_logs_and_questions_come_over_the_same_connection(sdk: Running) -> None:
    steps: list[float] = []
    with client_of(sdk, sampling=lambda params: "a thought") as client:
        client.call_tool("count", {"n": 5}, on_progress=lambda done, total, message: steps.append(done))
        assert steps == [1, 2, 3, 4, 5]
        assert client.call_tool("think", {"prompt": "?"}).text == "a thought"


def test_a_call_that_times_out_is_cancelled_and_the_connection_lives(sdk: Running) -> None:
    with client_of(sdk) as client:
        sdk.forget_journal()
        with pytest.raises(MCPTimeoutError):
            client.call_tool("slow", {"seconds": 30}, timeout=0.5)
        assert [sdk.journal(), sdk.journal()] == ["started slow", "cancelled slow"]
        client.ping()


def test_many_threads_share_one_connection_to_the_official_server(sdk: Running) -> None:
    with client_of(sdk) as client:
        sums = in_threads(16, lambda n: [client.call_tool("add", {"a": n, "b": k}).data for k in range(10)])
        assert sums == [[n + k for k in range(10)] for n in range(16)]


def test_the_death_of_the_official_server_is_noticed_and_its_return(tmp_path_factory: pytest.TempPathFactory) -> None:
    from peers.running import script

    folder = tmp_path_factory.mktemp("dying")
    with running(script("sdk1", "ws"), folder / "first") as server:
        client = client_of(server, reconnect_interval=0.1, max_reconnects=100)
        with client:
            with pytest.raises(MCPConnectionError) as found:
                client.call_tool("die", {})
            assert found.value.may_have_run is None
            with running(script("sdk1", "ws"), folder / "second", port=server.port):
                client.ping()
                assert client.call_tool("add", {"a": 2, "b": 2}).data == 4


def test_a_path_that_the_official_server_does_not_know_is_refused_with_its_status(sdk: Running) -> None:
    from mcp_sync import AuthError

    with pytest.raises(AuthError) as found:  # what Starlette says of a WebSocket that it does not accept
        Client(url_of(sdk) + "/nowhere", timeout=PATIENCE).connect()
    assert found.value.status == 403


# -- the libraries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [False, True])
def test_messages_of_every_size_go_there_and_back(peer: Running, compression: bool) -> None:
    with client_of(peer, enable_compression=compression, compression_threshold=0) as client:
        agreed = client.call_tool("extensions", {}).text
        assert ("permessage-deflate" in agreed) is compression
        for size in (0, 1, 125, 126, 65_535, 65_536, 2_000_000):
            text = ("grüße " * (size // 6 + 1))[:size]
            assert client.call_tool("echo", {"text": text}).text == text
            assert client.call_tool("big", {"n": size}).text == "x" * size


def test_compressed_calls_of_many_threads_are_not_mixed_up(peer: Running) -> None:
    with client_of(peer, enable_compression=True, compression_threshold=0) as client:

        def echo(number: int) -> bool:
            texts = [f"{number}-{n} " * 500 for n in range(20)]
            return [client.call_tool("echo", {"text": text}).text for text in texts] == texts

        assert all(in_threads(8, echo))


def test_below_the_threshold_nothing_is_compressed_and_above_it_is_what_gets_shorter(peer: Running) -> None:
    from unittest import mock

    from mcp_sync.protocol import frames

    firsts: list[int] = []

    def noted(*args: Any, **kwargs: Any) -> bytes:
        made = real(*args, **kwargs)
        firsts.append(made[0])
        return made

    real = frames.frame
    with client_of(peer, enable_compression=True, compression_threshold=1000) as client:
        with mock.patch.object(frames, "frame", noted):
            client.call_tool("echo", {"text": "x" * 10})
            client.call_tool("echo", {"text": "x" * 5000})
        assert firsts == [0x81, 0xC1]


def test_a_bomb_of_a_real_server_costs_a_call_and_not_the_memory(peer: Running) -> None:
    from mcp_sync import MessageTooLarge

    with client_of(peer, enable_compression=True, max_message_size=100_000) as client:
        with pytest.raises(MessageTooLarge):
            client.call_tool("big", {"n": 150_000})
        assert client.call_tool("echo", {"text": "still here"}).text == "still here"
        with pytest.raises(MessageTooLarge):
            client.call_tool("big", {"n": 30_000_000})
        assert client.call_tool("echo", {"text": "here again"}).text == "here again"


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 4321])
def test_the_code_of_a_close_arrives(peer: Running, code: int) -> None:
    with client_of(peer) as client:
        with pytest.raises(ClosedByServer) as found:
            client.call_tool("code", {"code": code})
        assert (found.value.code, found.value.reason) == (code, "as you wish")
        assert client.call_tool("echo", {"text": "again"}).text == "again"


def test_pings_of_both_sides_are_answered(peer: Running) -> None:
    with client_of(peer, ping_interval=0.05, ping_timeout=1.0) as client:
        assert client.call_tool("ask", {}).text.startswith("there")
        threading.Event().wait(0.4)
        assert client.call_tool("echo", {"text": "still"}).text == "still"


def test_closing_is_clean_on_the_other_side(peer: Running) -> None:
    mark = peer.mark()
    with client_of(peer) as client:
        client.ping()
    assert peer.since(mark, "flaw") == []


def test_connecting_and_closing_again_and_again_leaves_nothing(peer: Running) -> None:
    transport = WebSocketTransport(url_of(peer), timeout=PATIENCE)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with Client(transport) as client:
            client.ping()
    assert len(os.listdir("/proc/self/fd")) == before
