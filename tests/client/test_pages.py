"""Lists that come in pages: followed to the end, and no further."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from client.scripted import HANDSHAKE, STATELESS, Asked, Scripted, tool

from mcp_sync import Client, JSONRPCError, RemoteProtocolError

LISTS: dict[str, tuple[Callable[[Client], list[Any]], str, dict[str, Any]]] = {
    "tools/list": (Client.list_tools, "tools", tool("t")),
    "resources/list": (Client.list_resources, "resources", {"uri": "memo://r", "name": "r"}),
    "resources/templates/list": (
        Client.list_resource_templates,
        "resourceTemplates",
        {"uriTemplate": "memo://{x}", "name": "x"},
    ),
    "prompts/list": (Client.list_prompts, "prompts", {"name": "p"}),
}


def pages(key: str, item: dict[str, Any], *cursors: Any) -> Callable[[Asked], dict[str, Any]]:
    """Answer with one item a page; each page names the next cursor, the last one none."""
    following = dict(zip((None, *cursors), cursors, strict=False))

    def answer(ask: Asked) -> dict[str, Any]:
        cursor = ask.params.get("cursor")
        page = {key: [{**item, "name": f"{cursor}"}]}
        return {**page, "nextCursor": following[cursor]} if cursor in following else page

    return answer


@pytest.mark.parametrize("era", [STATELESS, HANDSHAKE])
@pytest.mark.parametrize("method", LISTS)
def test_every_page_of_a_list_is_fetched(method: str, era: str) -> None:
    every, key, item = LISTS[method]
    server = Scripted({method: pages(key, item, "b", "c")}, era=era)
    with Client(server) as client:
        assert [found.name for found in every(client)] == ["None", "b", "c"]
    assert ["cursor" in ask.params for ask in server.asked(method)] == [False, True, True]


def test_an_empty_cursor_is_followed_in_the_stateless_era() -> None:
    with Client(Scripted({"tools/list": pages("tools", tool("t"), "", "b")})) as client:
        assert [found.name for found in client.list_tools()] == ["None", "", "b"]


def test_an_empty_cursor_is_the_end_in_the_handshake_era() -> None:
    with Client(Scripted({"tools/list": pages("tools", tool("t"), "", "b")}, era=HANDSHAKE)) as client:
        assert [found.name for found in client.list_tools()] == ["None"]


def test_a_cursor_of_null_is_the_end() -> None:
    with Client(Scripted({"tools/list": lambda ask: {"tools": [tool("t")], "nextCursor": None}})) as client:
        assert len(client.list_tools()) == 1


@pytest.mark.parametrize("cursor", ["again", ""])
def test_the_same_cursor_twice_is_an_error(cursor: str) -> None:
    server = Scripted({"tools/list": lambda ask: {"tools": [], "nextCursor": cursor}})
    with Client(server) as client, pytest.raises(RemoteProtocolError, match="tools/list.*pages never end.*twice"):
        client.list_tools()
    assert len(server.asked("tools/list")) == 2


def test_a_cursor_that_is_no_text_is_an_error_that_says_so() -> None:
    with (
        Client(Scripted({"tools/list": lambda ask: {"tools": [], "nextCursor": 5}})) as client,
        pytest.raises(RemoteProtocolError, match="nextCursor is 5, not a string"),
    ):
        client.list_tools()


@pytest.mark.parametrize("method", LISTS)
@pytest.mark.parametrize("wrong", [None, {}, "x", [1], [None]])
def test_a_list_of_the_wrong_shape_is_an_error_that_names_the_member(method: str, wrong: Any) -> None:
    every, key, _ = LISTS[method]
    with (
        Client(Scripted({method: lambda ask: {key: wrong}})) as client,
        pytest.raises(RemoteProtocolError, match=f"{method}.*{key!r}"),
    ):
        every(client)


def test_an_item_that_is_not_valid_is_an_error_that_names_the_field() -> None:
    with (
        Client(Scripted({"tools/list": lambda ask: {"tools": [{"name": 5}]}})) as client,
        pytest.raises(RemoteProtocolError, match="tools/list.*name") as caught,
    ):
        client.list_tools()
    assert caught.value.details["method"] == "tools/list"


def test_an_error_in_the_middle_of_the_pages_is_raised() -> None:
    def answer(ask: Asked) -> dict[str, Any]:
        if "cursor" in ask.params:
            raise JSONRPCError(-32602, "Invalid cursor")
        return {"tools": [tool("t")], "nextCursor": "b"}

    with Client(Scripted({"tools/list": answer})) as client, pytest.raises(JSONRPCError, match="Invalid cursor"):
        client.list_tools()
