"""A server under real WSGI hosts: gunicorn's gthread, waitress, the development servers; one process and several.

FAULTS.md 5.6 (WSGI): clients that are gone, streams that are capped, prefork with nothing started at import.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from hosts import install
from mcp_sync import Client, MCPError
from peers.redis_server import redis_running
from peers.running import Running, running, until

pytestmark = pytest.mark.interop

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WAIT = 10.0
NOTICED = 2.0
HEARTBEAT = 5.0
NOISE = 1.0
ERAS = ["2026-07-28", "2025-11-25"]

WAITRESS = "from waitress import serve; from mcp_app import app; serve(app, host='127.0.0.1', port={port}, threads=16)"
WERKZEUG = """
from werkzeug.serving import run_simple
from mcp_app import app
run_simple("127.0.0.1", {port}, app, threaded=True)
"""
WSGIREF = """
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server
from mcp_app import app
class Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True
def single(environ, start_response):
    return app({**environ, 'wsgi.multithread': True}, start_response)
make_server('127.0.0.1', {port}, single, server_class=Threaded).serve_forever()
"""


def gunicorn(workers: int = 1, threads: int = 16, *options: str) -> Callable[[int], list[str]]:
    own = [f"--workers={workers}", f"--threads={threads}", "--worker-class=gthread", "--graceful-timeout=2", *options]
    return lambda port: [
        *(install.demand(), "-m", "gunicorn", *own, f"--bind=127.0.0.1:{port}", f"--chdir={HERE}", "mcp_app:app")
    ]


def program(code: str) -> Callable[[int], list[str]]:
    return lambda port: [install.demand(), "-c", code.replace("{port}", str(port))]


HOSTS = {
    "gunicorn": gunicorn(),
    "waitress": program(WAITRESS),
    "werkzeug": program(WERKZEUG),
    "wsgiref": program(WSGIREF),
}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    with ExitStack() as stack:

        def start(command: Callable[[int], list[str]], **env: str) -> Running:
            known = {"PYTHONPATH": f"{ROOT}:{HERE}", "MCP_JOURNAL": str(tmp_path / "notes"), **env}
            return stack.enter_context(running(command, tmp_path / "host", known))

        yield start


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[str], float | None]:
    """When the server noted something."""

    def noted(text: str) -> float | None:
        path = tmp_path / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        times = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{text} ")]
        return times[-1] if times else None

    return noted


def accept(params: Any) -> dict[str, Any]:
    return {"action": "accept", "content": {"name": "Ann"}}


def connected(server: Running, version: str, **options: Any) -> Client:
    return Client(server.url, protocol_version=version, elicitation=accept, timeout=WAIT, **options)


# -- all is well ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize("name", HOSTS)
def test_everything_works_under_every_host(host: Callable[..., Running], name: str, version: str) -> None:
    heard: list[str] = []
    progress: list[float] = []
    server = host(HOSTS[name])
    options = {"roots": ["file:///a"], "on_notification": lambda one: heard.append(one.method)}
    with connected(server, version, **options) as client:
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
        assert client.call_tool("steps", {"to": 3}, on_progress=lambda done, *_: progress.append(done)).text == "done"
        assert progress == [1, 2, 3]
        assert client.call_tool("name").text == "Ann"
        assert client.call_tool("both").text == "file:///a accept"
        if version < "2026":
            client.call_tool("change")
            assert until(lambda: "notifications/tools/list_changed" in heard, WAIT)
        else:
            with client.listen(tools_list_changed=True) as subscription:
                client.call_tool("change")
                assert next(iter(subscription)).method == "notifications/tools/list_changed"
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda n: client.call_tool("add", {"a": n, "b": 1}).data, range(40)))
        assert found == list(range(1, 41))


# -- clients that are gone --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("talks", [True, False], ids=["something is said", "silence"])
@pytest.mark.parametrize("name", HOSTS)
def test_a_client_that_is_gone_is_noticed(
    host: Callable[..., Running], notes: Callable[[str], float | None], name: str, talks: bool
) -> None:
    server = host(HOSTS[name])
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "progressToken": 1,
    }
    params = {"name": "waits", "arguments": {"talks": talks}, "_meta": meta}
    reply = requests.post(
        server.url,
        json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
        headers={
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": "waits",
        },
        stream=True,
        timeout=WAIT,
    )
    assert reply.raw.readline().startswith(b"event: message")
    gone = time.monotonic()
    reply.close()
    assert until(lambda: notes("cancelled"), HEARTBEAT + WAIT)
    noticed = notes("cancelled")
    assert noticed is not None
    assert noticed - gone < (NOTICED if talks else HEARTBEAT) + NOISE


def test_bodies_that_drip_in_hold_up_nobody_for_long(host: Callable[..., Running]) -> None:
    server = host(gunicorn(1, 2), MCP_BODY_SECONDS="1")
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 6000\r\n\r\n{"
    dripping = [socket.create_connection(("127.0.0.1", server.port), WAIT) for _ in range(2)]  # all its threads
    try:
        for connection in dripping:
            connection.sendall(head)
        with connected(server, "2026-07-28") as client:
            assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
    finally:
        for connection in dripping:
            connection.close()


# -- how many streams -------------------------------------------------------------------------------------------------


def open_stream(server: Running) -> requests.Response:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"notifications": {"toolsListChanged": True}, "_meta": meta}
    return requests.post(
        server.url,
        json={"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params},
        headers={
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "subscriptions/listen",
        },
        stream=True,
        timeout=WAIT,
    )


@pytest.mark.parametrize("name", ["gunicorn", "waitress"])
def test_sixty_four_threads_carry_fifty_one_idle_streams(host: Callable[..., Running], name: str) -> None:
    command = gunicorn(1, 64) if name == "gunicorn" else program(WAITRESS.replace("threads=16", "threads=64"))
    server = host(command)
    with ThreadPoolExecutor(16) as pool:
        streams = list(pool.map(lambda _: open_stream(server), range(51)))
    try:
        assert [stream.status_code for stream in streams] == [200] * 51
        refused = open_stream(server)
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        refused.close()
        with connected(server, "2026-07-28") as client, ThreadPoolExecutor(8) as callers:
            found = list(callers.map(lambda n: client.call_tool("add", {"a": n, "b": 1}).data, range(40)))
            assert found == list(range(1, 41))
    finally:
        for stream in streams:
            stream.close()


# -- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preload", [False, True])
def test_workers_need_no_shared_place_in_the_stateless_era(host: Callable[..., Running], preload: bool) -> None:
    options = ["--preload"] if preload else []
    server = host(gunicorn(3, 8, *options), MCP_SYNC_SECRET_KEY="shared by all")
    with connected(server, "2026-07-28") as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: client.call_tool("name").text, range(24)))
        assert found == ["Ann"] * 24


def test_workers_without_a_shared_place_serve_the_handshake_era_without_sessions(host: Callable[..., Running]) -> None:
    server = host(gunicorn(3, 8))
    with connected(server, "2025-11-25") as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: client.call_tool("add", {"a": n, "b": 1}).data, range(40)))
        assert found == list(range(1, 41))
        assert client.call_tool("name").is_error


@pytest.mark.parametrize("version", ERAS)
def test_workers_share_sessions_by_redis(
    host: Callable[..., Running], tmp_path: Path, version: str, notes: Callable[[str], float | None]
) -> None:
    heard: list[str] = []
    with redis_running(tmp_path / "redis") as redis:
        # A connection for each request, or one process may get them all.
        server = host(gunicorn(3, 16, "--keep-alive=0"), MCP_STORE=f"redis://127.0.0.1:{redis.port}/0")
        with (
            connected(server, version, on_notification=lambda one: heard.append(one.method)) as client,
            ThreadPoolExecutor(6) as pool,
        ):
            assert list(pool.map(lambda _: client.call_tool("name").text, range(18))) == ["Ann"] * 18
            with ThreadPoolExecutor(12) as many:
                assert len(set(many.map(lambda _: client.call_tool("process").data, range(60)))) > 1
            future = client.submit("tools/call", {"name": "waits", "arguments": {}})
            assert until(lambda: notes("began"), WAIT)
            future.cancel()
            assert until(lambda: notes("cancelled"), HEARTBEAT + WAIT)
            if version < "2026":
                for _ in range(3):
                    client.call_tool("change")
                assert until(lambda: heard.count("notifications/tools/list_changed") >= 3, WAIT), heard


def test_without_redis_the_handshake_era_is_told_to_come_later(host: Callable[..., Running], tmp_path: Path) -> None:
    with redis_running(tmp_path / "redis") as redis:
        server = host(gunicorn(2, 8), MCP_STORE=f"redis://127.0.0.1:{redis.port}/0")
        with connected(server, "2025-11-25") as client:
            assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
            redis.kill()
            with pytest.raises(MCPError):
                client.call_tool("add", {"a": 1, "b": 2})
        with connected(server, "2026-07-28") as client:
            assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
