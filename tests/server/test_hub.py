"""The hub: everybody hears of what he wants to, nobody hinders another, and what is over is forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from house.growth import at_most
from mcp_sync.server.hub import PROMPTS, RESOURCES, TOOLS, Hub, Interest, Notice, any_at_or_above, interest_of
from mcp_sync.testing import in_threads

EVERY = (TOOLS, PROMPTS, RESOURCES)
KEY = "io.modelcontextprotocol/subscriptionId"


class Ear:
    """A listener that remembers."""

    def __init__(self, breaks: bool = False) -> None:
        self.heard: list[Notice] = []
        self.over = False
        self._breaks = breaks

    def tell(self, notice: Notice) -> None:
        self.heard.append(notice)
        if self._breaks:
            raise OSError("broken")


def test_everybody_hears_even_if_one_breaks(caplog: pytest.LogCaptureFixture) -> None:
    hub, ears = Hub(), [Ear(), Ear(breaks=True), Ear()]
    for ear in ears:
        hub.join(ear)
    hub.publish(Notice(TOOLS))
    hub.publish(Notice("resource", "a://b"))
    assert [len(ear.heard) for ear in ears] == [2, 2, 2]
    assert "could not be told" in caplog.text


def test_who_has_left_or_is_over_hears_nothing_and_is_forgotten() -> None:
    hub, gone, over, there = Hub(), Ear(), Ear(), Ear()
    for ear in (gone, over, there):
        hub.join(ear)
    hub.leave(gone)
    hub.leave(gone)
    over.over = True
    hub.publish(Notice(TOOLS))
    assert (gone.heard, over.heard, there.heard) == ([], [], [Notice(TOOLS)])
    hub.join(Ear())
    assert over not in hub._listeners


def test_who_acts_on_what_it_hears_is_told_last() -> None:
    hub, order = Hub(), []

    class Told(Ear):
        def tell(self, notice: Notice) -> None:
            order.append((self, notice.what))

    first, acting, last = Told(), Told(), Told()
    hub.join(first)
    hub.follow(acting)
    hub.join(last)
    hub.publish(Notice(TOOLS))
    assert [ear for ear, _ in order] == [first, last, acting]
    hub.forked()
    hub.publish(Notice(TOOLS))
    assert len(order) == 3


def test_where_there_is_a_relay_it_decides_who_hears() -> None:
    hub, ear, relayed = Hub(), Ear(), []
    hub.join(ear)
    hub.relay = relayed.append
    hub.publish(Notice(PROMPTS))
    assert (ear.heard, relayed) == ([], [Notice(PROMPTS)])
    hub.deliver(Notice.decode(relayed[0].encode()))
    assert ear.heard == [Notice(PROMPTS)]


def test_a_notice_survives_the_way_to_another_process() -> None:
    for notice in (Notice(TOOLS), Notice("resource", "a://é"), Notice("task", "id", {"status": "working", "ttlMs": 5})):
        assert Notice.decode(notice.encode()) == notice


def test_the_children_of_a_fork_do_not_speak_for_their_parent() -> None:
    hub, ear = Hub(), Ear()
    hub.join(ear)
    hub.forked()
    hub.publish(Notice(TOOLS))
    assert ear.heard == []


def test_many_may_join_leave_and_publish_at_once() -> None:
    hub, steady = Hub(), Ear()
    hub.join(steady)

    def come_and_go(number: int) -> None:
        for _ in range(50):
            ear = Ear()
            hub.join(ear)
            hub.publish(Notice("resource", f"a://{number}"))
            assert Notice("resource", f"a://{number}") in ear.heard
            hub.leave(ear)

    in_threads(8, come_and_go)
    assert len(steady.heard) == 400
    assert hub._listeners == [steady]


# -- interest ---------------------------------------------------------------------------------------------------------


def test_what_is_acknowledged_is_what_is_wanted_and_offered() -> None:
    wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["a://b"], "more": 1}
    interest = interest_of("id-1", wanted, (TOOLS, RESOURCES), ["task-1"])
    assert interest.acknowledged == {
        "toolsListChanged": True,
        "resourceSubscriptions": ["a://b"],
        "taskIds": ["task-1"],
    }
    assert interest_of(1, wanted, (PROMPTS,)).acknowledged == {"promptsListChanged": True}
    assert interest_of(1, {}, EVERY).acknowledged == {}
    assert interest_of(1, {"toolsListChanged": False}, EVERY).acknowledged == {}


@pytest.mark.parametrize(
    "wanted",
    [
        *(None, [], "tools", 5),
        *({"toolsListChanged": value} for value in (1, 0, "yes", None, [])),
        *({"resourceSubscriptions": value} for value in ("a://b", {"a": 1}, [1], [None], [["a"]])),
    ],
)
def test_what_is_no_filter_is_refused(wanted: Any) -> None:
    with pytest.raises(ValueError, match=r"params\.notifications"):
        interest_of(1, wanted, EVERY)


def test_nothing_is_told_that_was_not_wanted() -> None:
    interest = Interest(7, (TOOLS,), ("a://b", "c://d/"), ("task-1",))
    for notice, wanted in [
        (Notice(TOOLS), True),
        (Notice(PROMPTS), False),
        (Notice("resource", "a://b"), True),
        (Notice("resource", "a://b/c"), True),
        (Notice("resource", "a://bc"), False),
        (Notice("resource", "a://"), False),
        (Notice("resource", "c://d/e"), True),
        (Notice("task", "task-1"), True),
        (Notice("task", "task-2"), False),
    ]:
        assert interest.wants(notice) is wanted, notice


@pytest.mark.parametrize("subscription", [7, "7"])
def test_what_is_told_bears_the_id_of_the_subscription_in_its_own_type(subscription: int | str) -> None:
    dressed = Interest(subscription).dressed(Notice("resource", "a://b", {"_meta": {"x": 1}}))
    assert dressed == {"uri": "a://b", "_meta": {"x": 1, KEY: subscription}}
    assert type(dressed["_meta"][KEY]) is type(subscription)


def test_a_part_of_a_resource_is_below_it() -> None:
    for uri, base, below in [
        ("a://b/c/d", "a://b/c", True),
        ("a://b/c/d", "a://b/c/", True),
        ("a://b/c", "a://b/c", True),
        ("a://b/c", "a://b/c/", False),
        ("a://b/cd", "a://b/c", False),
        ("a://b", "a://b/c", False),
        ("a://b//c", "a://b/", True),
        ("a://b", "a:", True),
        ("a://b", "a://", True),
        ("/b", "", True),
        ("b", "", False),
    ]:
        assert any_at_or_above(uri, {"x://y", base}) is below, (uri, base)
    assert not any_at_or_above("a://b", ())


def test_who_hears_of_a_resource_is_found_as_fast_whatever_many_subscribed_to() -> None:
    few, many = ({f"a://b/{number}" for number in range(count)} for count in (10, 100_000))

    def look(watched: set[str]) -> None:
        for _ in range(200):
            assert not any_at_or_above("z://b/c/d", watched)

    at_most(lambda: look(few), lambda: look(many), times=20)


@pytest.mark.parametrize(
    "wanted",
    [
        {"resourceSubscriptions": ["a://b"] * 1001},
        {"resourceSubscriptions": ["a://b"] * 501, "taskIds": ["t"] * 500},
        {"taskIds": ["t"] * 1001},
        {"resourceSubscriptions": ["x" * 8193]},
        {"taskIds": ["x" * 8193]},
        {"resourceSubscriptions": [f"{number}" + "é" * 4000 for number in range(17)], "taskIds": ["x" * 8000] * 17},
    ],
)
def test_a_filter_that_wants_too_much_is_refused(wanted: Any) -> None:
    with pytest.raises(ValueError, match="more than"):
        interest_of(1, wanted, EVERY)


def test_a_filter_may_want_much() -> None:
    uris = [f"a://{number}/" + "x" * 200 for number in range(1000)]
    interest = interest_of(1, {"resourceSubscriptions": uris}, EVERY)
    assert sorted(interest.acknowledged["resourceSubscriptions"]) == sorted(uris)
    with pytest.raises(ValueError, match="more than"):
        interest_of("x" * 8193, {}, EVERY)
