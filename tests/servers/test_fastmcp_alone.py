"""Servers made with fastmcp that a test has for itself: they are to change, to hang or to die."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, wait
from pathlib import Path
from typing import Any

import pytest
from servers.others import HANDSHAKES, PATIENCE, STATELESS, Inbox, Server

from mcp_sync import Client, JSONRPCError, MCPConnectionError, MCPTimeoutError, RemoteProtocolError, ToolError

pytestmark = pytest.mark.interop

TOOLS = {
    *("add", "echo", "primes", "points", "maybe", "point", "table", "nothing", "plain", "mixed", "media", "big"),
    *("careful", "fail", "crash", "die", "slow", "count", "shout", "grow", "hide"),
    *("ask_name", "choose", "think", "where", "interview"),
}


@pytest.fixture(params=[STATELESS, "2025-11-25"], ids=["stateless", "handshake"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(version: str | None, env: dict[str, str] | None = None, **options: Any) -> Client:
    return Server("fastmcp", env=env).client(protocol_version=version, **options)


def test_the_newest_version_is_agreed_on_without_being_asked_for() -> None:
    with connect(None) as client:
        assert client.protocol_version == STATELESS
        assert (client.server_info.name, client.server_info.version) == ("peer-fastmcp", "1.0")
        assert client.instructions == "A peer for tests."
        assert client.server_capabilities.completions is not None
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


@pytest.mark.parametrize("older", HANDSHAKES[:-1])
def test_every_older_version_does_as_well(older: str) -> None:
    with connect(older) as client:
        assert client.protocol_version == older
        assert {tool.name for tool in client.list_tools()} == TOOLS
        assert client.call_tool("add", {"a": 1, "b": 2}).text == "3"
        client.ping()


def test_tools_are_listed_with_all_that_is_said_of_them(version: str) -> None:
    with connect(version, env={"PEER_PAGE_SIZE": "5"}) as client:
        assert len(client.request("tools/list")["tools"]) == 5
        tools = {tool.name: tool for tool in client.list_tools()}
        with pytest.raises(JSONRPCError, match="cursor") as caught:
            client.request("tools/list", {"cursor": "nonsense"})
    assert set(tools) == TOOLS
    assert caught.value.code == -32602
    careful = tools["careful"]
    assert (careful.title, careful.description) == ("The careful one", "Take only what fits.")
    assert careful.annotations is not None
    assert (careful.annotations.read_only_hint, careful.annotations.open_world_hint) == (True, False)
    size = {"type": "integer", "minimum": 1, "maximum": 10, "description": "How many"}
    assert careful.input_schema["properties"]["size"] == size
    assert careful.meta == {"fastmcp": {"tags": ["safe"]}}
    assert tools["add"].output_schema is not None
    assert tools["add"].output_schema["x-fastmcp-wrap-result"] is True
    assert tools["plain"].output_schema is None


def test_a_question_that_the_client_cannot_answer_fails_that_call_only(version: str) -> None:
    def refuse(params: Any) -> str:
        raise JSONRPCError(-1, "the user refused")

    with connect(version, sampling=refuse) as client:
        with pytest.raises((ToolError, JSONRPCError), match="the user refused"):
            client.call_tool("think", {"prompt": "no"}).raise_for_error()
        with pytest.raises((ToolError, RemoteProtocolError)):
            client.call_tool("ask_name").raise_for_error()
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2


def test_a_new_tool_is_announced_and_can_be_called(version: str) -> None:
    heard = Inbox()
    with connect(version, on_notification=lambda news: heard.put(news.method)) as client:
        client.list_tools()
        assert client.call_tool("grow").data == "grown_1"
        heard.next(lambda method: method == "notifications/tools/list_changed")
        assert client.call_tool("grown_1").text == "grown_1"
        assert {tool.name for tool in client.list_tools()} == TOOLS | {"grown_1"}


def test_a_session_can_have_tools_hidden_from_it_where_there_is_one() -> None:
    with connect("2025-11-25") as client, client.listen(tools_list_changed=True) as news:
        assert client.call_tool("hide").text == "hidden"  # its schema may be forgotten by then: the list has changed
        assert news.next(PATIENCE).method == "notifications/tools/list_changed"
        assert "careful" not in {tool.name for tool in client.list_tools()}
        with pytest.raises(ToolError, match="careful"):
            client.call_tool("careful", {"size": 1}).raise_for_error()


def test_a_call_that_is_cancelled_or_late_is_stopped_on_the_server(
    version: str, journal: Callable[[], str], tmp_path: Path
) -> None:
    with connect(version, env={"PEER_JOURNAL": str(tmp_path / "journal")}) as client:
        future = client.submit_tool("slow", {"seconds": 60})
        assert journal() == "started slow"
        assert future.cancel()
        assert journal() == "cancelled slow"
        assert wait([future], PATIENCE).done == {future}
        with pytest.raises(CancelledError):
            future.result(0)
        with pytest.raises(MCPTimeoutError):
            client.call_tool("slow", {"seconds": 60}, timeout=1)
        assert [journal(), journal()] == ["started slow", "cancelled slow"]
        futures = [client.submit_tool("add", {"a": n, "b": n}) for n in range(30)]
        assert [future.result(PATIENCE).data for future in futures] == [2 * n for n in range(30)]


def test_a_server_that_ends_in_a_call_is_reported_with_its_last_words(version: str) -> None:
    with connect(version) as client:
        with pytest.raises(MCPConnectionError) as caught:
            client.call_tool("die", {"code": 7})
        assert caught.value.details["exit_status"] == 7
        assert "about to die" in caught.value.details["stderr"]
        assert caught.value.may_have_run is None
        assert not client.connected
        client.connect()
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2
