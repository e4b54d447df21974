"""Answers that the server allows to be kept (2026-07-28): for how long, and what makes them go."""

from __future__ import annotations

import queue
from typing import Any

import pytest
from client.scripted import HANDSHAKE, LATER, Asked, Scripted, tool

from mcp_sync import Client, JSONRPCError, Notification
from mcp_sync.client.cache import KEPT_BYTES, AnswerCache

LONG = 3_600_000


def listing(ttl: Any, **options: Any) -> Scripted:
    """Return a server that allows its list of tools to be kept so long."""
    result = {"tools": [tool("t")], "ttlMs": ttl, "cacheScope": "private"}
    return Scripted({"tools/list": lambda ask: result}, **options)


def times_asked(server: Scripted, **options: Any) -> int:
    """Return how often the server is asked when a client lists its tools three times."""
    with Client(server, **options) as client:
        assert [len(client.list_tools()) for _ in range(3)] == [1, 1, 1]
    return server.heard("tools/list")


def test_a_list_is_kept_as_long_as_the_server_allows() -> None:
    assert times_asked(listing(LONG)) == 1


@pytest.mark.parametrize("ttl", [0, -5, None, "1000", True])
def test_a_list_with_a_time_that_makes_no_sense_is_not_kept(ttl: Any) -> None:
    assert times_asked(listing(ttl)) == 3


def test_a_list_without_a_time_is_not_kept() -> None:
    assert times_asked(Scripted({"tools/list": lambda ask: {"tools": [tool("t")]}})) == 3


def test_nothing_is_kept_where_that_is_switched_off_or_unknown() -> None:
    assert times_asked(listing(LONG), enable_response_caching=False) == 3
    assert times_asked(listing(LONG, era=HANDSHAKE)) == 3


def test_what_is_returned_is_the_callers_own_to_change() -> None:
    with Client(listing(LONG)) as client:
        client.request("tools/list")["tools"].clear()
        client.request("tools/list")["tools"].clear()
        assert len(client.list_tools()) == 1


def test_a_notice_of_change_makes_the_list_go() -> None:
    seen: queue.Queue[Notification] = queue.Queue()
    server = listing(LONG)
    with Client(server, on_notification=seen.put) as client:
        client.list_tools()
        server.tell("notifications/prompts/list_changed")
        seen.get(timeout=10)
        client.list_tools()
        assert server.heard("tools/list") == 1
        server.tell("notifications/tools/list_changed")
        seen.get(timeout=10)
        client.list_tools()
        assert server.heard("tools/list") == 2


def test_resources_are_kept_each_for_itself_until_one_is_updated() -> None:
    seen: queue.Queue[Notification] = queue.Queue()
    server = Scripted({"resources/read": lambda ask: {"contents": [], "ttlMs": LONG}})
    with Client(server, on_notification=seen.put) as client:
        for uri in ("memo://a", "memo://b", "memo://a"):
            client.read_resource(uri)
        assert [ask.params["uri"] for ask in server.asked("resources/read")] == ["memo://a", "memo://b"]
        server.tell("notifications/resources/updated", {"uri": "memo://a/part"})
        seen.get(timeout=10)
        client.read_resource("memo://a")
        assert server.heard("resources/read") == 3


def test_an_answer_that_took_rounds_is_not_kept() -> None:
    def answer(ask: Asked) -> Any:
        if "inputResponses" in ask.params:
            return {"contents": [], "ttlMs": LONG}
        return {"resultType": "input_required", "inputRequests": {"a": {"method": "roots/list"}}}

    server = Scripted({"resources/read": answer})
    with Client(server, roots=[]) as client:
        client.read_resource("memo://a")
        client.read_resource("memo://a")
    assert server.heard("resources/read") == 4


def test_a_cursor_that_is_refused_makes_all_pages_go() -> None:
    refused: list[bool] = []

    def answer(ask: Asked) -> Any:
        if "cursor" not in ask.params:
            return {"tools": [tool("a")], "nextCursor": "b", "ttlMs": LONG}
        if not refused:
            refused.append(True)
            raise JSONRPCError(-32602, "Invalid cursor")
        return {"tools": [tool("b")], "ttlMs": LONG}

    server = Scripted({"tools/list": answer})
    with Client(server) as client:
        with pytest.raises(JSONRPCError, match="Invalid cursor"):
            client.list_tools()
        assert len(client.list_tools()) == 2
    assert ["cursor" in ask.params for ask in server.asked("tools/list")] == [False, True, False, True]


def test_tools_are_called_each_time() -> None:
    server = Scripted({"tools/call": lambda ask: {"content": [], "ttlMs": LONG}})
    with Client(server) as client:
        client.call_tool("t")
        client.call_tool("t")
    assert server.heard("tools/call") == 2


def test_a_new_connection_begins_with_nothing() -> None:
    server = Scripted({"tools/list": lambda ask: {"tools": [], "ttlMs": LONG}, "never/answered": lambda ask: LATER})
    with Client(server) as client:
        client.list_tools()
        waiting = client.submit("never/answered")
        server.hang_up()
        waiting.exception(10)
        client.connect()
        client.list_tools()
    assert server.heard("tools/list") == 2


def test_an_answer_goes_when_its_time_has_passed() -> None:
    now = 100.0
    cache = AnswerCache(clock=lambda: now)
    cache.put("tools/list", None, {"tools": [], "ttlMs": 2000}, cache.generation)
    now = 101.9
    assert cache.get("tools/list", {}) == {"tools": [], "ttlMs": 2000}
    now = 102.0
    assert cache.get("tools/list", None) is None


def test_an_answer_that_was_asked_for_before_a_change_is_not_kept() -> None:
    cache = AnswerCache()
    before = cache.generation
    cache.overhear(Notification("notifications/tools/list_changed"))
    cache.put("tools/list", None, {"tools": [], "ttlMs": 2000}, before)
    assert cache.get("tools/list", None) is None


def test_what_is_kept_is_bounded_and_the_oldest_goes_first() -> None:
    cache = AnswerCache()
    words = "x" * (KEPT_BYTES // 10)
    for number in range(12):
        cache.put("resources/read", {"uri": str(number)}, {"text": words, "ttlMs": 2000}, cache.generation)
    kept = [number for number in range(12) if cache.get("resources/read", {"uri": str(number)})]
    assert kept == list(range(12 - len(kept), 12))
    assert 5 < len(kept) < 11
    cache.put("resources/read", {"uri": "big"}, {"text": words * 2, "ttlMs": 2000}, cache.generation)
    assert cache.get("resources/read", {"uri": "big"}) is None
