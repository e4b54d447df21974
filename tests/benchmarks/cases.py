"""Who takes part, and in what. Data only; nothing here imports what it measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MB = 1 << 20


@dataclass(frozen=True)
class Entry:
    """Somebody who takes part.

    Attributes:
        label: For the table.
        module: In ``contenders/``.
        cls: The class there.
        peer: Whose interpreter runs it: an environment of tests/peers/install.py; empty means our own.
        bindings: What it can speak.
        program: What has to be in PATH.
    """

    label: str
    module: str
    cls: str
    peer: str = ""
    bindings: tuple[str, ...] = ("stdio", "http")
    program: str = ""


_ALL = ("stdio", "http", "websocket", "docker")

ENTRIES = {
    "raw": Entry("raw loop (the limit)", "raw", "Raw", bindings=("stdio",)),
    "socket": Entry("raw socket (the limit)", "raw_http", "Socket", bindings=("http",)),
    "requests": Entry("requests.Session alone", "plain_http", "Requests", bindings=("http",)),
    "frames": Entry("raw socket, zero mask (limit)", "raw_ws", "Frames", bindings=("websocket",)),
    "websockets": Entry("websockets.sync alone", "plain_ws", "WebSockets", bindings=("websocket",)),
    "engine": Entry("docker SDK alone (the limit)", "raw_docker", "Engine", bindings=("docker",)),
    "docker": Entry("docker command line", "raw_docker", "CommandLine", bindings=("docker",), program="docker"),
    "session": Entry("mcp_sync session, dicts", "ours", "Session", bindings=_ALL),
    "client": Entry("mcp_sync Client, typed", "ours", "TypedClient", bindings=_ALL),
    "fast": Entry("mcp_sync session, [fast]", "ours", "FastSession", bindings=("stdio", "http", "websocket")),
    "sdk": Entry("official SDK 2, async", "sdk2", "Async", "sdk2"),
    "portal": Entry("official SDK 2, sync portal", "sdk2", "Portal", "sdk2"),
}
LIMITS = {"stdio": "raw", "http": "socket", "websocket": "frames", "docker": "engine"}


@dataclass(frozen=True)
class Case:
    """One kind of work.

    Attributes:
        title: For the table.
        method: Of Contender.
        unit: What the times are for.
        arguments: For the method, beside ``n``.
        era: Of the connection.
        binding: Of the connection.
        path: Of the server, over HTTP.
        warm_up: ``n`` of the first run, which tells how many make a round of ``seconds``, and is not counted.
        seconds: How long a round may take.
        rounds: How many at most; none means that the first run is all.
        together: Whether the contender and the server share a CPU; otherwise each has its own.
        without: Who does not take part, and why.
    """

    title: str
    method: str
    unit: str = "call"
    arguments: dict[str, Any] = field(default_factory=dict)
    era: str = "handshake"
    binding: str = "stdio"
    path: str = "/mcp"
    warm_up: int = 1
    seconds: float = 0.25
    rounds: int = 99
    together: bool = False
    without: dict[str, str] = field(default_factory=dict)


def _text(megabytes: int, **more: Any) -> Case:
    return Case(f"{megabytes} MB result", "calls", arguments={"tool": "bench_text", "number": megabytes * MB}, **more)


def _http(title: str, method: str = "calls", **more: Any) -> Case:
    return Case(f"HTTP: {title}", method, binding="http", **more)


def _websocket(title: str, method: str = "calls", **more: Any) -> Case:
    return Case(f"WebSocket: {title}", method, binding="websocket", **more)


def _docker(title: str, method: str = "calls", **more: Any) -> Case:
    return Case(f"Docker: {title}", method, binding="docker", **more)


_EACH_WAY = {"tool": "bench_text", "number": MB, "size": MB}
_QUADRATIC = "its line buffer is quadratic"

CASES = {
    "tiny": Case("tiny call, one caller, p50", "calls", warm_up=300),
    "tiny-one-cpu": Case("tiny call, all on one CPU, p50", "calls", warm_up=300, together=True),
    "stateless": Case("tiny call, 2026-07-28, p50", "calls", era="stateless", warm_up=300),
    "text1": _text(1, warm_up=10),
    "text10": _text(10),
    "text40": _text(40, rounds=3),
    "text100": _text(100, rounds=3, without={"sdk": _QUADRATIC, "portal": _QUADRATIC}),
    "arg1": Case("1 MB argument", "calls", arguments={"size": MB}, warm_up=10),
    "threads8": Case("8 threads (tasks)", "crowd", arguments={"width": 8}, warm_up=800),
    "threads64": Case("64 threads (tasks)", "crowd", arguments={"width": 64}, warm_up=1280),
    "flight": Case("1000 calls in flight", "flight", arguments={"width": 1000}),
    "notify": Case("notifications in, bursts of 500", "notifications", "notification", {"burst": 500}),
    "connect": Case("connect, call, close", "connects", "connection", warm_up=2, seconds=0.5),
    "idle": Case("50 idle connections", "idle", "connection", warm_up=50, rounds=0),
    "http": _http("tiny call, answered as JSON, p50", warm_up=100),
    "http-one-cpu": _http("tiny call, all on one CPU, p50", warm_up=100, together=True),
    "http-stateless": _http("tiny call, 2026-07-28, p50", era="stateless", warm_up=100),
    "http-stream": _http("tiny call, answered as a stream, p50", arguments={"tool": "bench_stream"}, warm_up=100),
    "http-stream-one-cpu": _http(
        "tiny call as a stream, all on one CPU, p50", arguments={"tool": "bench_stream"}, warm_up=100, together=True
    ),
    "http-text1": _http("1 MB result as JSON", arguments={"tool": "bench_text", "number": MB}, warm_up=10),
    "http-threads32": _http("32 threads (tasks)", "crowd", arguments={"width": 32}, warm_up=640),
    "http-events": _http(
        "100,000 events on one stream",
        "notifications",
        unit="event",
        arguments={"burst": 100_000},
        without=dict.fromkeys(("session", "fast"), "what nobody takes at once, it drops"),
    ),
    "http-event10": _http(
        "one event of 10 MB in 120,000 lines", arguments={"tool": "bench_lines", "number": 120_000}, rounds=5
    ),
    "http-connect": _http("connect, call, close", "connects", unit="connection", warm_up=2, seconds=0.5),
    "http-idle": _http("200 idle connections", "idle", unit="connection", warm_up=200, rounds=0),
    "http-idle-stream": _http(
        "200 idle connections with a stream", "idle", unit="connection", path="/stream", warm_up=200, rounds=0
    ),
    "ws": _websocket("tiny call, p50", warm_up=300),
    "ws-one-cpu": _websocket("tiny call, all on one CPU, p50", warm_up=300, together=True),
    "ws-text1": _websocket("1 MB result", arguments={"tool": "bench_text", "number": MB}, warm_up=10),
    "ws-both1": _websocket("1 MB each way", arguments=_EACH_WAY, warm_up=10),
    "ws-threads8": _websocket("8 threads", "crowd", arguments={"width": 8}, warm_up=800),
    "docker-start": _docker("start to first answer", "starts", unit="start", warm_up=2, seconds=0.8),
    "docker": _docker("tiny call, p50", warm_up=100),
    "docker-both1": _docker("1 MB each way", arguments=_EACH_WAY, warm_up=10),
}
GROWTH = {"40/10 MB": ("text40", "text10"), "100/10 MB": ("text100", "text10")}
"""Costs to be compared with each other, within one contender: 4 and 10 where they are linear."""

# What a new process has to pay until it knows the answer to its first call: CPU time, beyond that of bare Python.
# SERVER stands for the server's command. Who runs it, what it is called, and what it runs.
_RAW = """
import json, subprocess
server = subprocess.Popen(SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
for id, method, params in ((1, "initialize", {"protocolVersion": "2025-11-25"}), (2, "tools/call", {"name": TOOL})):
    request = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
    server.stdin.write(json.dumps(request, separators=(",", ":")).encode() + b"\\n")
    server.stdin.flush()
    json.loads(server.stdout.readline())
done()
server.communicate()
"""
_SESSION = """
import mcp_sync
session = mcp_sync.StdioTransport(SERVER).create_session(protocol_version="2025-11-25")
session.send_request("tools/call", {"name": TOOL})
done()
session.close()
"""
_CLIENT = """
import mcp_sync
with mcp_sync.Client(SERVER, protocol_version="2025-11-25") as client:
    client.call_tool(TOOL)
    done()
"""
_SDK = """
import asyncio
from mcp import Client, StdioServerParameters
async def main():
    async with Client(StdioServerParameters(command=SERVER[0], args=SERVER[1:]), mode="legacy") as client:
        await client.call_tool(TOOL)
        done()
asyncio.run(main())
"""
STARTS = {
    "bare": ("bare Python", "", "done()"),
    "raw": ("raw loop, first call", "", _RAW),
    "import": ("import mcp_sync", "", "import mcp_sync\ndone()"),
    "session": ("mcp_sync session, first call", "", _SESSION),
    "client": ("mcp_sync Client, first typed call", "", _CLIENT),
    "sdk-import": ("import mcp", "sdk2", "import mcp\ndone()"),
    "sdk": ("official SDK 2 Client, first call", "sdk2", _SDK),
}
