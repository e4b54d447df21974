"""Each strategy is a pure function from how endpoints stand to the order in which to try them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_sync.manage.orderings import ORDERINGS, Standing, chosen, least_latency, priority, round_robin, weighted

standings = st.lists(
    st.builds(
        Standing,
        name=st.sampled_from("abcdefgh"),
        weight=st.integers(1, 9),
        usable=st.booleans(),
        aside=st.booleans(),
        latency=st.none() | st.floats(0, 10),
        turn=st.integers(0, 9),
        credit=st.integers(-20, 20),
    ),
    unique_by=lambda one: one.name,
)


def turns(strategy: str, standings: list[Standing], count: int) -> str:
    """Return who has so many turns, in order."""
    had = ""
    for _ in range(count):
        name = ORDERINGS[strategy](standings)[0]
        standings = chosen(standings, name)
        had += name
    return had


@pytest.mark.parametrize("strategy", ORDERINGS)
@given(standings)
def test_every_order_has_all_and_those_that_work_come_first(strategy: str, standings: list[Standing]) -> None:
    order = ORDERINGS[strategy](standings)
    assert sorted(order) == sorted(one.name for one in standings)
    by_name = {one.name: one for one in standings}
    ranks = [by_name[name].rank for name in order]
    assert ranks == sorted(ranks)


def test_priority_is_the_order_of_registration() -> None:
    assert priority([Standing("b"), Standing("a"), Standing("c", usable=False), Standing("d")]) == ["b", "a", "d", "c"]


def test_round_robin_gives_everybody_a_turn() -> None:
    assert turns("round_robin", [Standing("a"), Standing("b"), Standing("c")], 7) == "abcabca"
    assert round_robin([Standing("a", turn=2), Standing("b", turn=1)]) == ["b", "a"]


def test_one_that_comes_back_has_one_turn_and_not_all_that_it_missed() -> None:
    rest = [Standing("a", turn=41), Standing("b", turn=42), Standing("c", turn=3)]
    assert turns("round_robin", rest, 4) == "cabc"


def test_least_latency_takes_the_fastest_and_tries_what_it_does_not_know() -> None:
    known = [Standing("a", latency=0.2), Standing("b", latency=0.1)]
    assert least_latency(known) == ["b", "a"]
    assert least_latency([*known, Standing("c")]) == ["c", "b", "a"]


def test_weighted_spreads_the_turns_evenly() -> None:
    assert turns("weighted", [Standing("a", 3), Standing("b", 1)], 8) == "aabaaaba"
    assert turns("weighted", [Standing("a", 5), Standing("b", 1), Standing("c", 1)], 7) == "aabacaa"  # as nginx says


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_with_weights_each_has_exactly_its_share_of_a_round(weights: list[int]) -> None:
    names = "abcde"[: len(weights)]
    had = turns("weighted", [Standing(name, weight) for name, weight in zip(names, weights, strict=True)], sum(weights))
    assert Counter(had) == dict(zip(names, weights, strict=True))


def test_what_does_not_work_gathers_no_credit() -> None:
    rest = [Standing("a", 1), Standing("b", 1, usable=False), Standing("c", 1, aside=True)]
    for _ in range(100):
        rest = chosen(rest, weighted(rest)[0])
    back = [replace(one, usable=True, aside=False) for one in rest]
    assert turns("weighted", back, 6) == "abcabc"
