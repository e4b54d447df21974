"""I1, I2 and I20, looked at after every test: no call outlives its deadline, and every call is accounted for.

Every Peer that a test makes is watched: how long each ``call`` took beyond its deadline, and whether its counters add
up: sent == ok + error + timeout + cancelled + pending.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.peer import Peer

GRACE_SECONDS = float(os.environ.get("MCP_SYNC_TEST_MS", "750")) / 1000
"""How far a call may outlive its deadline on a loaded machine; the promise is 0.25 s."""


@contextmanager
def watched_peers(grace: float = GRACE_SECONDS) -> Iterator[list[str]]:
    """Watch every Peer made or used inside; the list yielded has what was wrong, once the block is left."""
    flaws: list[str] = []
    seen: set[Peer] = set()
    original = Peer.call

    @functools.wraps(original)
    def call(self: Peer, question: Any, deadline: Deadline) -> Any:
        seen.add(self)
        try:
            return original(self, question, deadline)
        finally:
            over = deadline.elapsed - deadline.limit
            if over > grace:
                flaws.append(f"{question.method} outlived its deadline of {deadline.limit:g} s by {over:.2f} s (I1)")

    Peer.call = call  # type: ignore[method-assign]
    try:
        yield flaws
    finally:
        Peer.call = original  # type: ignore[method-assign]
        flaws += [flaw for peer in seen for flaw in _unbalanced(peer)]


def _unbalanced(peer: Peer) -> list[str]:
    counters = peer.counters
    ended = counters["ok"] + counters["error"] + counters["timeout"] + counters["cancelled"]
    if counters["sent"] == ended + counters["pending"]:
        return []
    return [f"the counters of {peer!r} do not add up: {counters} (I20)"]
