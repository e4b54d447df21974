"""Our server and the clients of others: the official SDKs for Python and TypeScript, 2.x and 1.x, and fastmcp.

Each is a program of its own that plays one story, over one binding, in one era, and says what it saw.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from peers import install
from peers.running import Running, running, until

pytestmark = pytest.mark.interop

ROOT = Path(__file__).resolve().parents[2]
SERVED = Path(__file__).with_name("served.py")
SKILLS = ROOT / "tests" / "conformance" / "skills"
PATIENCE = 55.0
STATELESS, HANDSHAKE = "2026-07-28", "2025-11-25"
PATHS = {"http": "http://127.0.0.1:{}/mcp", "sse": "http://127.0.0.1:{}/sse", "websocket": "ws://127.0.0.1:{}/mcp"}
ENV = {"PYTHONPATH": str(ROOT), "PEER_SKILLS": str(SKILLS), "PYTHONUNBUFFERED": "1"}

INVALID_PARAMS, RESOURCE_NOT_FOUND, TIMED_OUT = -32602, -32002, -32001
TOOLS = [
    *("add", "ask_model", "ask_name", "count", "echo", "fail", "forecast", "grow", "introduce", "part", "picture"),
    *("ponder", "region", "roots", "several", "shrink", "slow", "touch"),
]
SEEN: dict[str, Any] = {
    "server": ["interop", "1.0"],
    "instructions": "For the clients of others.",
    "tools": TOOLS,
    "add": ["3", {"result": 3}],
    "forecast": {"city": "Oslo", "days": 3, "unit": "celsius"},
    "fail": [True, "no luck"],
    "bad_argument": "is_error",
    "unknown_tool": INVALID_PARAMS,
    "picture": ["image", "audio"],
    "long": 200_000,
    "count": "counted to 3",
    "progress": [[1, 3, "step 1"], [2, 3, "step 2"], [3, 3, "step 3"]],
    "logs": ["counted 1", "counted 2", "counted 3"],
    "part": ["whole", [1, 2, 3, 4]],
    "ask_name": "hello Ada",
    "ask_model": "Paris",
    "several": "Ada, Paris, 1",
    "introduce": "Ada likes red",
    "ponder": "? Ada: 42",
    "roots": {"result": ["file:///work"]},
    "resources": ["config://app", "memo://picture"],
    "templates": ["greeting://{name}"],
    "config": ["application/json", {"theme": "dark"}],
    "greeting": "Hello, Ada!",
    "blob": "iVBORw0K",
    "prompts": [["greet", ["name"]]],
    "greet": "Say hello to Ada.",
    "completion": ["alice", "albert"],
    "cities": ["amsterdam", "athens"],
    "changes": ["config://app", "tools"],
    "grown": True,
}
"""What every client sees, in every way."""


@dataclass(frozen=True)
class Way:
    """A client, the era that it is told to speak, and the binding."""

    script: str
    era: str
    binding: str

    @property
    def client(self) -> str:
        return self.script.partition("_")[0]

    @property
    def is_stateless(self) -> bool:
        return self.era != "handshake"

    @property
    def loses_progress(self) -> bool:
        """Whether the client itself may drop reports that come together with the answer: it is told of them later."""
        return self.client.startswith("ts") and self.binding != "http"

    @property
    def expected(self) -> dict[str, Any]:
        mirrored = self.is_stateless and self.binding == "http"
        more: dict[str, Any] = {
            "version": STATELESS if self.is_stateless else HANDSHAKE,
            "region": "=?base64?WsO8cmljaA==?=" if mirrored else "no header",
            "missing_resource": INVALID_PARAMS if self.is_stateless else RESOURCE_NOT_FOUND,
        }
        if self.client == "ts2":
            more["missing_resource"] = INVALID_PARAMS  # it calls both codes by the newer one
        if self.client == "fastmcp":
            more["data"] = "Oslo"
            if self.is_stateless:
                more |= {"skills": ["meeting-notes"], "task": [True, "! Ada: 42"]}
        if self.client in SAID_OF_CANCELLED:
            more["slow"] = SAID_OF_CANCELLED[self.client]
        skills = sorted(f"skill://{path.relative_to(SKILLS).as_posix()}" for path in SKILLS.rglob("*.md"))
        more["resources"] = [*SEEN["resources"], *skills]
        return {**SEEN, **more}


SAID_OF_CANCELLED = {"sdk2": TIMED_OUT, "ts2": "given up", "ts1": "given up"}
"""The clients that give up a call, and what they say of it."""
ERAS = ("auto", "handshake")
WAYS = [
    *(Way("sdk2_client.py", era, binding) for era in ERAS for binding in ("http", "stdio")),
    *(Way("fastmcp_client.py", era, binding) for era in ERAS for binding in ("http", "stdio")),
    *(Way("ts2_client.cjs", era, binding) for era in ("auto", "handshake") for binding in ("http", "stdio")),
    Way("ts2_client.cjs", "stateless", "http"),
    *(Way(script, "handshake", "sse") for script in ("sdk2_client.py", "fastmcp_client.py", "ts2_client.cjs")),
    *(Way("sdk1_client.py", "handshake", binding) for binding in ("http", "stdio", "sse", "websocket")),
    *(Way("ts1_client.cjs", "handshake", binding) for binding in ("http", "stdio", "sse", "websocket")),
]


class Harbour:
    """Our servers, each started when the first client comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()
        self._servers: dict[str, Running] = {}

    def server(self, binding: str) -> Running:
        if binding not in self._servers:
            started = running(lambda port: served(binding, port), self._folder / binding, ENV)
            self._servers[binding] = self._running.enter_context(started)
        return self._servers[binding]

    def end(self) -> None:
        self._running.close()


def served(*args: object) -> list[str]:
    """What starts our server."""
    return [sys.executable, str(SERVED), *map(str, args)]


@pytest.fixture(scope="module")
def harbour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harbour]:
    ships = Harbour(tmp_path_factory.mktemp("harbour"))
    yield ships
    ships.end()


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, harbour: Harbour) -> Running | None:
    """The server for the binding of a way; over stdio each client starts its own."""
    return None if request.param == "stdio" else harbour.server(request.param)


def play(way: Way, server: Running | None, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Have a client play its story, and return what it saw."""
    try:
        command = install.client(way.script)
    except install.InstallError as error:
        pytest.fail(str(error), pytrace=False)
    target = served("stdio") if server is None else [PATHS[way.binding].format(server.port)]
    done = subprocess.run(
        [*command, way.era, way.binding, *target],
        env={**harmless(), **ENV, "NODE_PATH": install.node_path("clients"), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{done.stderr}\n{'' if server is None else server.output[-40:]}"
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def harmless() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


def is_part_of(part: list[Any], whole: list[Any]) -> bool:
    """Whether it holds nothing but things of the other, in the same order."""
    rest = iter(whole)
    return all(item in rest for item in part)


# -- the story --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "server"),
    [pytest.param(way, way.binding, id=f"{way.client}-{way.era}-{way.binding}") for way in WAYS],
    indirect=["server"],
)
def test_the_client_sees_all_that_the_server_has(way: Way, server: Running | None, tmp_path: Path) -> None:
    if server is not None:
        server.forget_journal()
    journal = tmp_path / "journal"
    seen = play(way, server, {"PEER_JOURNAL": str(journal)})
    check_schema(seen.pop("schema"))
    expected = way.expected
    if way.loses_progress:
        assert is_part_of(seen.pop("progress"), expected.pop("progress"))
        (whole, steps), (expected_whole, expected_steps) = seen.pop("part"), expected.pop("part")
        assert whole == expected_whole
        assert is_part_of(steps, expected_steps)
    assert seen == expected
    if way.client in SAID_OF_CANCELLED:
        assert said_by_the_tool(server, journal) == ["started slow", "cancelled slow"]


def check_schema(schema: dict[str, Any]) -> None:
    assert schema["required"] == ["city"]
    told = {
        name: {key: value for key, value in field.items() if key != "title"}
        for name, field in schema["properties"].items()
    }
    assert told == {
        "city": {"type": "string", "description": "Where."},
        "days": {"type": "integer", "default": 3, "description": "How far ahead."},
        "unit": {
            "type": "string",
            "enum": ["celsius", "fahrenheit"],
            "default": "celsius",
            "description": "Of the temperatures.",
        },
    }


def said_by_the_tool(server: Running | None, journal: Path) -> list[str]:
    """What the tool wrote that was given up; over HTTP the server may notice only by its heartbeat."""
    if server is not None:
        return [server.journal(), server.journal()]
    until(lambda: journal.exists() and journal.read_text().count("\n") == 2)
    return journal.read_text().splitlines()
