"""Subscriptions: news of changes, until one side has enough, in both eras."""

from __future__ import annotations

import gc
import queue
import threading
from typing import Any

import pytest
from client.scripted import HANDSHAKE, LATER, STATELESS, Asked, Scripted

from mcp_sync import Client, JSONRPCError, MCPConnectionError, MCPTimeoutError, Notification

TOOLS = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"
ERAS = pytest.mark.parametrize("era", [STATELESS, HANDSHAKE])


class Listening(Scripted):
    """Acknowledges every subscription, and leaves it open."""

    def __init__(self, era: str = STATELESS, **table: Any) -> None:
        names = {name.replace("_", "/", 1): function for name, function in table.items()}
        subscribing = {"resources/subscribe": lambda ask: {}, "resources/unsubscribe": lambda ask: {}}
        super().__init__({"subscriptions/listen": self._begin, **subscribing, **names}, era=era)
        self.subscriptions: queue.Queue[Asked] = queue.Queue()

    def _begin(self, ask: Asked) -> Any:
        ask.acknowledge()
        self.subscriptions.put(ask)
        return LATER

    def news(self, method: str, params: dict[str, Any] | None = None) -> None:
        """Send news in the way of the era."""
        if self.subscriptions.empty():
            self.tell(method, params)
        else:
            self.subscriptions.queue[0].push(method, params)


@ERAS
def test_news_that_is_wanted_is_iterated_in_order(era: str) -> None:
    server = Listening(era)
    with Client(server) as client, client.listen(tools_list_changed=True, resource_subscriptions=["memo://a"]) as news:
        assert news.honoured == {"toolsListChanged": True, "resourceSubscriptions": ["memo://a"]}
        server.news(TOOLS)
        server.news(UPDATED, {"uri": "memo://a/sub"})  # a part of what was subscribed to
        first, second = news.next(10), news.next(10)
    assert first is not None
    assert second is not None
    assert (first.method, second.method) == (TOOLS, UPDATED)
    assert (second.params or {})["uri"] == "memo://a/sub"


def test_what_is_wanted_goes_out_as_a_filter_and_what_is_honoured_comes_back() -> None:
    def partly(ask: Asked) -> Any:
        ask.push("notifications/subscriptions/acknowledged", {"notifications": {"promptsListChanged": True}})
        return LATER

    server = Scripted({"subscriptions/listen": partly})
    with Client(server) as client, client.listen(prompts_list_changed=True, resources_list_changed=True) as news:
        assert news.honoured == {"promptsListChanged": True}
    (ask,) = server.asked("subscriptions/listen")
    assert ask.params["notifications"] == {"promptsListChanged": True, "resourcesListChanged": True}


def test_closing_a_subscription_of_the_stateless_era_cancels_it_on_the_wire() -> None:
    server = Listening()
    with Client(server) as client:
        with client.listen(tools_list_changed=True) as news:
            pass
        news.close()
        assert list(news) == []
        (notice,) = server.told("notifications/cancelled")
        assert (notice.params or {})["requestId"] == server.subscriptions.get(timeout=10).id
        assert client.counters["pending"] == 0


def test_closing_a_subscription_of_the_handshake_era_unsubscribes() -> None:
    server = Listening(HANDSHAKE)
    with Client(server) as client:
        with client.listen(resource_subscriptions=["memo://a", "memo://b"]):
            assert [ask.params["uri"] for ask in server.asked("resources/subscribe", 2)] == ["memo://a", "memo://b"]
        assert [ask.params["uri"] for ask in server.asked("resources/unsubscribe", 2)] == ["memo://a", "memo://b"]


def test_closing_from_another_thread_ends_the_loop() -> None:
    with Client(Listening()) as client:
        news = client.listen(tools_list_changed=True)
        found: list[Any] = []
        looping = threading.Thread(target=lambda: found.append(list(news)))
        looping.start()
        news.close()
        looping.join(10)
        assert found == [[]]


def test_a_subscription_that_the_server_ends_by_a_result_ends_the_loop_in_good_order() -> None:
    server = Listening()
    with Client(server) as client:
        news = client.listen(tools_list_changed=True)
        ask = server.subscriptions.get(timeout=10)
        ask.push(TOOLS)
        ask.answer({"resultType": "complete"})
        assert [item.method for item in news] == [TOOLS]
        assert news.next(10) is None
        news.close()
        client.ping()
    assert server.heard("notifications/cancelled") == 0


def test_a_subscription_that_the_server_cancels_ends_the_loop_in_good_order() -> None:
    server = Listening()
    with Client(server) as client:
        news = client.listen(tools_list_changed=True)
        server.tell("notifications/cancelled", {"requestId": server.subscriptions.get(timeout=10).id})
        assert list(news) == []
        assert client.counters["pending"] == 0


@ERAS
def test_a_subscription_that_breaks_off_is_an_error(era: str) -> None:
    server = Listening(era)
    with Client(server) as client:
        news = client.listen(tools_list_changed=True)
        server.news(TOOLS)
        server.hang_up()
        assert news.next(10) is not None  # what came before is not lost
        for _ in range(2):
            with pytest.raises(MCPConnectionError, match="the subscription broke off"):
                news.next(10)


def test_a_subscription_that_ends_by_an_error_says_which() -> None:
    server = Listening()
    with Client(server) as client:
        news = client.listen(tools_list_changed=True)
        server.subscriptions.get(timeout=10).fail(-32000, "Connection closed")
        with pytest.raises(JSONRPCError, match="the subscription broke off.*Connection closed"):
            news.next(10)


@ERAS
def test_closing_the_client_ends_the_loop_in_good_order(era: str) -> None:
    with Client(Listening(era)) as client:
        news = client.listen(tools_list_changed=True)
        found: list[Any] = []
        looping = threading.Thread(target=lambda: found.append(list(news)))
        looping.start()
        client.close()
        looping.join(10)
        assert found == [[]]
        news.close()


def test_a_subscription_that_is_not_acknowledged_in_time_is_an_error_and_cancelled() -> None:
    server = Scripted({"subscriptions/listen": lambda ask: LATER})
    with Client(server) as client:
        with pytest.raises(MCPTimeoutError, match=r"subscriptions/listen was not acknowledged within 0\.2 s"):
            client.listen(tools_list_changed=True, timeout=0.2)
        (notice,) = server.told("notifications/cancelled")
        assert (notice.params or {})["requestId"] == server.asked("subscriptions/listen")[0].id


def test_a_subscription_that_is_refused_is_an_error() -> None:
    def refuse(ask: Asked) -> Any:
        raise JSONRPCError(-32601, "no subscriptions here")

    with (
        Client(Scripted({"subscriptions/listen": refuse})) as client,
        pytest.raises(JSONRPCError, match="no subscriptions here"),
    ):
        client.listen(tools_list_changed=True)


def test_a_subscription_that_ends_before_it_begins_is_an_error() -> None:
    with (
        Client(Scripted({"subscriptions/listen": lambda ask: {}})) as client,
        pytest.raises(MCPConnectionError, match="ended the subscription before it began"),
    ):
        client.listen(tools_list_changed=True)


def test_a_resource_that_cannot_be_subscribed_to_leaves_no_other_subscribed() -> None:
    def choosy(ask: Asked) -> Any:
        if ask.params["uri"] == "memo://bad":
            raise JSONRPCError(-32602, "no such resource")
        return {}

    server = Listening(HANDSHAKE, resources_subscribe=choosy)
    with Client(server) as client:
        with pytest.raises(JSONRPCError, match="no such resource"):
            client.listen(resource_subscriptions=["memo://good", "memo://bad"])
        assert [ask.params["uri"] for ask in server.asked("resources/unsubscribe")] == ["memo://good"]


def test_no_news_within_the_timeout_is_a_timeout_and_the_subscription_goes_on() -> None:
    server = Listening()
    with Client(server) as client, client.listen(tools_list_changed=True) as news:
        with pytest.raises(MCPTimeoutError, match=r"no news within 0\.05 s"):
            news.next(0.05)
        server.news(TOOLS)
        assert news.next(10) is not None


def test_the_timeout_of_next_is_checked_like_any_other() -> None:
    with Client(Listening()) as client, client.listen(tools_list_changed=True) as news:
        with pytest.raises(TypeError, match="timeout must be a number of seconds, not str"):
            news.next("5")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="timeout must be .*above 0"):
            news.next(-1)


def test_several_subscriptions_are_kept_apart() -> None:
    server = Listening()
    with (
        Client(server) as client,
        client.listen(tools_list_changed=True) as tools,
        client.listen(prompts_list_changed=True) as prompts,
    ):
        first, second = server.subscriptions.get(timeout=10), server.subscriptions.get(timeout=10)
        second.push("notifications/prompts/list_changed")
        first.push(TOOLS)
        one, other = tools.next(10), prompts.next(10)
        assert one is not None
        assert other is not None
        assert (one.method, other.method) == (TOOLS, "notifications/prompts/list_changed")
        assert first.id != second.id


@ERAS
def test_subscribe_tells_on_notification_until_unsubscribe(era: str) -> None:
    news: queue.Queue[Notification] = queue.Queue()
    server = Listening(era)
    with Client(server, on_notification=lambda it: news.put(it) if it.method == UPDATED else None) as client:
        client.subscribe("memo://a")
        server.news(UPDATED, {"uri": "memo://a"})
        assert (news.get(timeout=10).params or {})["uri"] == "memo://a"
        client.unsubscribe("memo://a")
        client.unsubscribe("memo://never")
        server.told("notifications/cancelled") if era == STATELESS else server.asked("resources/unsubscribe", 2)


def test_subscribing_twice_keeps_one_subscription() -> None:
    server = Listening()
    with Client(server) as client:
        client.subscribe("memo://a")
        client.subscribe("memo://a")
        assert server.heard("subscriptions/listen") == 1


def test_an_old_subscription_hears_nothing_of_a_new_connection() -> None:
    server = Listening(HANDSHAKE)
    seen: queue.Queue[Notification] = queue.Queue()
    with Client(server, on_notification=seen.put) as client:
        old = client.listen(tools_list_changed=True)
        server.hang_up()
        with pytest.raises(MCPConnectionError):
            old.next(10)
        client.connect()
        server.tell(TOOLS)
        assert seen.get(timeout=10).method == TOOLS
        with pytest.raises(MCPConnectionError):
            old.next(10)
        with pytest.raises(MCPConnectionError):
            old.next(10)


def test_news_beyond_what_is_kept_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Listening()
    with Client(server) as client, client.listen(tools_list_changed=True) as news:
        for _ in range(1005):
            server.news(TOOLS)
        client.ping()
        assert news.dropped == 5
        assert "toolsListChanged" in repr(news)


@ERAS
def test_what_was_subscribed_to_is_subscribed_to_again_on_a_new_connection(era: str) -> None:
    news: queue.Queue[Notification] = queue.Queue()
    server = Listening(era)
    method = "subscriptions/listen" if era == STATELESS else "resources/subscribe"
    with Client(server, on_notification=news.put) as client:
        client.subscribe("memo://a")
        client.subscribe("memo://b")
        client.unsubscribe("memo://b")
        server.hang_up()
        with pytest.raises(MCPConnectionError):
            client.ping()
        server.subscriptions.queue.clear()
        client.connect()
        again = server.asked(method, count=3)[2]
        assert "memo://a" in str(again.params)
        server.news(UPDATED, {"uri": "memo://a"})
        assert news.get(timeout=10).method == UPDATED


def test_what_can_no_longer_be_subscribed_to_does_not_keep_from_connecting(caplog: pytest.LogCaptureFixture) -> None:
    refused: list[str] = []

    def subscribe(ask: Asked) -> dict[str, Any]:
        if refused:
            raise JSONRPCError(-32602, refused[0])
        return {}

    server = Scripted({"resources/subscribe": subscribe}, era=HANDSHAKE)
    with Client(server) as client:
        client.subscribe("memo://a")
        refused.append("it is gone")
        server.hang_up()
        with pytest.raises(MCPConnectionError):
            client.ping()
        client.connect().ping()
    assert "memo://a can no longer be subscribed to" in caplog.text


def test_the_beginning_of_a_subscription_is_no_news() -> None:
    news: queue.Queue[Notification] = queue.Queue()
    server = Listening()
    with Client(server, on_notification=news.put) as client:
        client.subscribe("memo://a")
        server.tell("notifications/custom")
        assert news.get(timeout=10).method == "notifications/custom"


def test_two_who_watch_one_resource_do_not_end_each_others_news() -> None:
    server = Listening(HANDSHAKE)
    with Client(server) as client:
        first = client.listen(resource_subscriptions=["memo://a"])
        second = client.listen(resource_subscriptions=["memo://a"])
        first.close()
        assert server.heard("resources/unsubscribe") == 0
        server.news(UPDATED, {"uri": "memo://a"})
        assert second.next(10) is not None
        second.close()
        assert server.heard("resources/subscribe") == server.heard("resources/unsubscribe") == 1


def test_news_of_one_resource_is_no_news_for_those_who_watch_another() -> None:
    server = Listening(HANDSHAKE)
    with Client(server) as client:
        binary = client.listen(resource_subscriptions=["memo://binary"])
        greeting = client.listen(resource_subscriptions=["memo://greeting"])
        server.news(UPDATED, {"uri": "memo://greeting"})
        server.news(UPDATED, {"uri": "memo://binary/part"})
        found = binary.next(10), greeting.next(10)
        assert [(news.params or {})["uri"] for news in found if news] == ["memo://binary/part", "memo://greeting"]
        binary.close()
        greeting.close()


@ERAS
def test_a_forgotten_subscription_is_ended(era: str) -> None:
    server = Listening(era)
    with Client(server) as client:
        client.listen(tools_list_changed=True, resource_subscriptions=["memo://a"])
        gc.collect()
        server.told("notifications/cancelled") if era == STATELESS else server.asked("resources/unsubscribe")
