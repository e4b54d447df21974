"""The client over stdio against server-memory, which keeps a graph of what it was told in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from servers.others import HANDSHAKES, PATIENCE, Inbox, Server

from mcp_sync import Client, ToolError

pytestmark = pytest.mark.interop

GRAPH = "memory://knowledge-graph"
ADA = {"name": "Ada", "entityType": "person", "observations": ["wrote notes"]}
ENGINE = {"name": "Engine", "entityType": "machine", "observations": []}
KNOWS = {"from": "Ada", "to": "Engine", "relationType": "describes"}
TOOLS = {
    *("create_entities", "create_relations", "add_observations", "delete_entities", "delete_observations"),
    *("delete_relations", "read_graph", "search_nodes", "open_nodes"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the server keeps what it knows."""
    return tmp_path / "memory.jsonl"


def connect(file: Path, **options: Any) -> Client:
    return Server("memory", env={"MEMORY_FILE_PATH": str(file)}).client(**options)


@pytest.mark.parametrize("version", [None, *HANDSHAKES])
def test_every_version_that_it_speaks_does(version: str | None, file: Path) -> None:
    with connect(file, protocol_version=version) as client:
        assert client.protocol_version == (version or HANDSHAKES[-1])
        assert {tool.name for tool in client.list_tools()} == TOOLS
        assert client.call_tool("read_graph").data == {"entities": [], "relations": []}


def test_what_it_is_told_can_be_found_changed_and_deleted(file: Path) -> None:
    with connect(file) as client:
        created = client.call_tool("create_entities", {"entities": [ADA, ENGINE]})
        assert created.data == {"entities": [ADA, ENGINE]}
        assert json.loads(created.text) == [ADA, ENGINE]
        assert client.call_tool("create_entities", {"entities": [ADA]}).data == {"entities": []}
        assert client.call_tool("create_relations", {"relations": [KNOWS]}).data == {"relations": [KNOWS]}

        assert client.call_tool("search_nodes", {"query": "NOTES"}).data == {"entities": [ADA], "relations": [KNOWS]}
        assert client.call_tool("open_nodes", {"names": ["Engine"]}).data["entities"] == [ENGINE]
        assert client.call_tool("search_nodes", {"query": "nobody"}).data == {"entities": [], "relations": []}

        more = {"entityName": "Ada", "contents": ["wrote notes", "née Byron \U0001f600"]}
        added = client.call_tool("add_observations", {"observations": [more]})
        assert added.data == {"results": [{"entityName": "Ada", "addedObservations": ["née Byron \U0001f600"]}]}
        less = {"entityName": "Ada", "observations": ["wrote notes"]}
        assert client.call_tool("delete_observations", {"deletions": [less]}).data["success"] is True
        assert client.call_tool("delete_relations", {"relations": [KNOWS]}).data["success"] is True
        assert client.call_tool("read_graph").data == {
            "entities": [{**ADA, "observations": ["née Byron \U0001f600"]}, ENGINE],
            "relations": [],
        }
        assert client.call_tool("delete_entities", {"entityNames": ["Ada", "Engine"]}).data["success"] is True
        assert client.call_tool("read_graph").data == {"entities": [], "relations": []}


def test_it_remembers_what_another_server_was_told(file: Path) -> None:
    with connect(file) as client:
        client.call_tool("create_entities", {"entities": [ADA]}).raise_for_error()
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"type": "entity", **ADA}]
    with connect(file) as client:
        assert client.call_tool("read_graph").data["entities"] == [ADA]


def test_what_it_cannot_do_is_said_in_the_result(file: Path) -> None:
    with connect(file) as client:
        unknown = {"entityName": "Nobody", "contents": []}
        with pytest.raises(ToolError, match="Nobody not found"):
            client.call_tool("add_observations", {"observations": [unknown]}).raise_for_error()
        with pytest.raises(ToolError, match="entities"):
            client.call_tool("create_entities", {"entities": "Ada"}).raise_for_error()
        file.write_text("{broken")
        with pytest.raises(ToolError, match="JSON"):
            client.call_tool("read_graph").raise_for_error()


def test_the_graph_is_a_resource_whose_changes_are_told(file: Path) -> None:
    heard = Inbox()
    with connect(file, on_notification=lambda news: heard.put((news.method, news.params))) as client:
        assert [resource.uri for resource in client.list_resources()] == [GRAPH]
        with client.listen(resource_subscriptions=[GRAPH]) as news:
            client.call_tool("create_entities", {"entities": [ADA]})
            assert news.next(PATIENCE).params == {"uri": GRAPH}
            assert heard.next() == ("notifications/resources/updated", {"uri": GRAPH})
            (content,) = client.read_resource(GRAPH).contents
            assert json.loads(content.text)["entities"] == [ADA]
        client.call_tool("create_entities", {"entities": [ENGINE]})  # nobody listens any more
        client.ping()
    assert heard.empty()
