"""Errands: how far a stream has been read, and what of a body is shown."""

from __future__ import annotations

import sys

from mcp_sync.protocol.sse import Event
from mcp_sync.transports.errands import LONGEST_ID, Cursor, shown


def event(name: str) -> Event:
    return Event("message", "x", name, None)


def test_a_thousand_ids_take_little_memory_however_long_they_are() -> None:
    """I13"""
    cursor = Cursor()
    for number in range(2000):
        assert cursor.takes(event(f"{number:>08}" * (LONGEST_ID // 8)))
    cursor.pause()
    kept = [*cursor._seen, *cursor._before]
    assert len(kept) == 2000
    assert sum(map(sys.getsizeof, kept)) < 200_000


def test_an_event_id_that_is_too_long_for_a_header_counts_as_none() -> None:
    """I13"""
    cursor = Cursor()
    cursor.takes(event("e1"))
    assert cursor.takes(event("x" * (LONGEST_ID + 1)))
    assert cursor.last_id == "e1"


def test_an_event_that_is_replayed_is_known_by_its_id_of_any_length() -> None:
    cursor = Cursor()
    cursor.takes(event("y" * LONGEST_ID))
    cursor.pause()
    assert not cursor.takes(event("y" * LONGEST_ID))
    assert cursor.takes(event("z"))


def test_half_a_secret_at_the_end_of_what_was_read_is_not_shown() -> None:
    """I12"""
    secret = "c4naryS3cret"
    assert shown(secret.encode() * 80, [secret]) == "***" * 66 + "**"
    assert shown(b"(" + secret.encode() * 66 + secret[:7].encode(), [secret]) == "(" + "***" * 66 + "*"
    assert shown(b"the end", ["ending"]) == "the end"
