"""Orderings: in which order the endpoints of a group are tried; one pure function for each strategy.

Each is given how the endpoints stand, in the order in which they were registered, and returns their names, best first.
Whatever the strategy: those that are in use come before those that were put aside by hand, and those before the ones
that do not work. ``chosen`` returns how they stand after one of them was taken, which is what the next turn depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Standing:
    """How an endpoint stands.

    Attributes:
        name: Its name.
        weight: Its share of the load, in comparison with the weights of the others.
        usable: Whether it works, as far as is known.
        aside: Whether somebody has put it aside.
        latency: Seconds that a call takes on average; None where nobody knows.
        turn: The turn in which it was chosen the last time; 0 never.
        credit: What it is owed by the others, in units of weight.
    """

    name: str
    weight: int = 1
    usable: bool = True
    aside: bool = False
    latency: float | None = None
    turn: int = 0
    credit: int = 0

    @property
    def rank(self) -> int:
        """0 for the first resort, 2 for the last."""
        return 2 if not self.usable else int(self.aside)


Ordering: TypeAlias = "Callable[[Sequence[Standing]], list[str]]"


def priority(standings: Sequence[Standing]) -> list[str]:
    """The first that was registered is the best."""
    return _by(standings, lambda one: 0)


def round_robin(standings: Sequence[Standing]) -> list[str]:
    """Whose turn is the longest ago comes first."""
    return _by(standings, lambda one: one.turn)


def least_latency(standings: Sequence[Standing]) -> list[str]:
    """The fastest comes first; one that was never asked counts as fast, or nobody would ever know."""
    return _by(standings, lambda one: one.latency or 0.0)


def weighted(standings: Sequence[Standing]) -> list[str]:
    """Each has its share, as evenly spread as can be: with weights 3 and 1 the turns are a a b a, not a a a b.

    Every turn each gains its weight, and whoever is owed most has it and pays for all (nginx's smooth round robin).
    """
    return _by(standings, lambda one: -(one.credit + one.weight))


ORDERINGS: dict[str, Ordering] = {
    "round_robin": round_robin,
    "weighted": weighted,
    "least_latency": least_latency,
    "priority": priority,
}
"""By the name of the strategy."""


def chosen(standings: Sequence[Standing], name: str) -> list[Standing]:
    """Return how all stand after this one was taken.

    What does not take part in a turn is owed nothing: else one that comes back would have all turns at first.
    """
    turn = 1 + max((one.turn for one in standings), default=0)
    best = min((one.rank for one in standings), default=0)
    sharing = {one.name for one in standings if one.rank == best} | {name}
    whole = sum(one.weight for one in standings if one.name in sharing)
    return [_after(one, one.name in sharing, whole if one.name == name else 0, turn) for one in standings]


def _after(one: Standing, shares: bool, price: int, turn: int) -> Standing:
    if not shares:
        return replace(one, credit=0)
    return replace(one, credit=one.credit + one.weight - price, turn=turn if price else one.turn)


def _by(standings: Iterable[Standing], merit: Callable[[Standing], float]) -> list[str]:
    """Sort by rank and merit; among equals the order of registration holds."""
    return [one.name for one in sorted(standings, key=lambda one: (one.rank, merit(one)))]
