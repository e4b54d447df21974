"""Our server and our own client, over every binding, in both eras: all that the clients of others see as well."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mcp_sync import Client, JSONRPCError, LocalProtocolError, MCPTimeoutError, Task
from peers.running import PATIENCE, Running, running, until

pytestmark = pytest.mark.interop

ROOT = Path(__file__).resolve().parents[2]
SERVED = Path(__file__).with_name("served.py")
SKILLS = ROOT / "tests" / "conformance" / "skills"
ENV = {"PYTHONPATH": str(ROOT), "PEER_SKILLS": str(SKILLS), "PYTHONUNBUFFERED": "1"}
PATHS = {"http": "http://127.0.0.1:{}/mcp", "sse": "http://127.0.0.1:{}/sse", "websocket": "ws://127.0.0.1:{}/mcp"}
STATELESS, HANDSHAKE = "2026-07-28", "2025-11-25"
WAYS = [
    *((binding, STATELESS) for binding in ("http", "websocket", "stdio")),
    *((binding, HANDSHAKE) for binding in ("http", "websocket", "stdio", "sse")),
    ("http", "2025-06-18"),
    ("http", "2025-03-26"),
    ("sse", "2024-11-05"),
    ("stdio", "2024-11-05"),
]
INVALID_PARAMS, RESOURCE_NOT_FOUND = -32602, -32002


@dataclass
class Peer:
    """Our server, behind a binding, and the version to speak."""

    target: Any
    version: str
    server: Running | None
    journal: Path
    logs: list[Any] = field(default_factory=list)

    @property
    def is_stateless(self) -> bool:
        return self.version == STATELESS

    def client(self) -> Client:
        knobs = {"env": {**ENV, "PEER_JOURNAL": str(self.journal)}} if self.server is None else {}
        return Client(
            self.target,
            timeout=PATIENCE,
            protocol_version=self.version,
            sampling=lambda params: "Paris",
            elicitation=lambda params: {
                name: {"name": "Ada"}.get(name, "red") for name in params.requested_schema["properties"]
            },
            roots=["file:///work"],
            on_log=lambda params: self.logs.append(params.data),
            **knobs,
        )

    def said_by_the_tool(self) -> list[str]:
        if self.server is not None:
            return [self.server.journal(), self.server.journal()]
        until(lambda: self.journal.exists() and self.journal.read_text().count("\n") == 2)
        return self.journal.read_text().splitlines()


Start = Callable[[str], "Running | None"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """What starts our server for a binding, once."""
    started: dict[str, Running] = {}
    with ExitStack() as stack:

        def find(binding: str) -> Running | None:
            if binding != "stdio" and binding not in started:
                command = [sys.executable, str(SERVED), binding]
                folder = tmp_path_factory.mktemp(binding)
                started[binding] = stack.enter_context(running(lambda port: [*command, str(port)], folder, ENV))
            return started.get(binding)

        yield find


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest, start: Start) -> tuple[str, str, Running | None]:
    binding, version = request.param
    return binding, version, start(binding)


@pytest.fixture
def peer(way: tuple[str, str, Running | None], tmp_path: Path) -> Peer:
    binding, version, server = way
    target: Any = [sys.executable, str(SERVED), "stdio"]
    if server is not None:
        target = PATHS[binding].format(server.port)
        server.forget_journal()
    return Peer(target, version, server, tmp_path / "journal")


def test_tools_resources_prompts_and_completions_are_there(peer: Peer) -> None:
    with peer.client() as client:
        assert client.protocol_version == peer.version
        assert (client.server_info.name, client.server_info.version) == ("interop", "1.0")
        assert {"add", "forecast", "ask_name"} <= {tool.name for tool in client.list_tools()}
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
        assert client.call_tool("forecast", {"city": "Oslo"}).data == {"city": "Oslo", "days": 3, "unit": "celsius"}
        failed = client.call_tool("fail", {"message": "no luck"})
        assert (failed.is_error, failed.text) == (True, "no luck")
        assert client.call_tool("add", {"a": "one", "b": 2}).is_error
        assert [block.type for block in client.call_tool("picture", {}).content] == ["image", "audio"]
        assert len(client.call_tool("echo", {"text": "é" * 200_000}).text) == 200_000
        assert client.read_resource("greeting://Ada").contents[0].text == "Hello, Ada!"
        assert client.get_prompt("greet", {"name": "Ada"}).messages[0].content.text == "Say hello to Ada."
        ref = {"type": "ref/prompt", "name": "greet"}
        assert client.complete(ref, {"name": "name", "value": "al"}).completion.values == ["alice", "albert"]
        client.ping()


def test_what_does_not_exist_has_the_error_of_its_era(peer: Peer) -> None:
    with peer.client() as client:
        with pytest.raises(JSONRPCError) as found:
            client.call_tool("nobody", {})
        assert found.value.code == INVALID_PARAMS
        with pytest.raises(JSONRPCError) as found:
            client.read_resource("config://nothing")
        assert found.value.code == (INVALID_PARAMS if peer.is_stateless else RESOURCE_NOT_FOUND)


def test_progress_and_logs_come_before_the_answer(peer: Peer) -> None:
    steps: list[Any] = []
    with peer.client() as client:
        if not peer.is_stateless:
            client.set_logging_level("info")
        result = client.call_tool("count", {"to": 3}, on_progress=lambda *step: steps.append(step))
        assert result.text == "counted to 3"
        assert steps == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]
        until(lambda: len(peer.logs) == 3)
    assert peer.logs == ["counted 1", "counted 2", "counted 3"]


def test_a_stream_that_the_server_closes_is_taken_up_again(peer: Peer) -> None:
    steps: list[float] = []
    with peer.client() as client:
        result = client.call_tool("part", {"to": 4}, on_progress=lambda done, *more: steps.append(done))
    assert (result.text, steps) == ("whole", [1, 2, 3, 4])


def test_the_server_asks_the_client(peer: Peer) -> None:
    with peer.client() as client:
        assert client.call_tool("ask_model", {}).text == "Paris"
        assert client.call_tool("roots", {}).data == ["file:///work"]
        if peer.version >= "2025-06-18":  # elicitation is as old as that
            assert client.call_tool("ask_name", {}).text == "hello Ada"
            assert client.call_tool("several", {}).text == "Ada, Paris, 1"
            assert client.call_tool("introduce", {}).text == "Ada likes red"
            assert client.call_tool("ponder", {"question": "?"}).text == "? Ada: 42"


def test_changes_are_heard_of(peer: Peer) -> None:
    with peer.client() as client:
        with client.listen(tools_list_changed=True, resource_subscriptions=["config://app"]) as news:
            name = client.call_tool("grow", {}).text
            client.call_tool("touch", {"uri": "config://app"})
            heard = [news.next(PATIENCE), news.next(PATIENCE)]
        assert client.call_tool(name, {}).text == name
        client.call_tool("shrink", {"name": name})
    assert sorted(one.method for one in heard if one is not None) == [
        "notifications/resources/updated",
        "notifications/tools/list_changed",
    ]


def test_a_call_that_is_given_up_is_cancelled(peer: Peer) -> None:
    with peer.client() as client:
        with pytest.raises(MCPTimeoutError):
            client.call_tool("slow", {"seconds": 60}, timeout=0.5)
        client.ping()
        assert peer.said_by_the_tool() == ["started slow", "cancelled slow"]


def test_a_task_goes_on_in_the_background_where_the_era_has_such(peer: Peer) -> None:
    with peer.client() as client:
        if not peer.is_stateless:
            with pytest.raises(LocalProtocolError):
                client.start_task("ponder", {"question": "!"})
            return
        task = client.start_task("ponder", {"question": "!"})
        assert isinstance(task, Task)
        assert task.result(PATIENCE).text == "! Ada: 42"
