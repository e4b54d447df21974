"""An exchange is answered once, and nothing comes after that: not to the client, nor to one that comes back later."""

from __future__ import annotations

from mcp_sync.protocol.messages import Notification, encode
from mcp_sync.server.exchange import Exchange

EARLY, LATE = Notification("early"), Notification("late")


def test_the_first_answer_is_the_answer() -> None:
    exchange = Exchange()
    exchange.finish(b"one")
    exchange.finish(b"two", 500)
    exchange.say(LATE)
    assert exchange.whole == (200, b"one")
    assert exchange.await_answer(0.0, bool) == (200, b"one")


def test_nothing_is_kept_for_a_client_that_comes_back_once_the_answer_is() -> None:
    kept: list[tuple[bytes, bool]] = []

    def record(data: bytes, last: bool) -> str:
        kept.append((data, last))
        return str(len(kept))

    exchange = Exchange(record)
    exchange.say(EARLY)
    exchange.finish(b"one")
    exchange.say(LATE)
    exchange.finish(b"two")
    assert kept == [(encode(EARLY), False), (b"one", True)]
