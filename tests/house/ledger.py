"""I1, I2 and I20, looked at after every test: no call outlives its deadline, and every call is accounted for.

Every Caller of the library is watched, Peers and what stands around them: how long each ``call`` took beyond its
deadline, whether the futures of ``submit`` are resolved once theirs has passed, and whether the counters add up:
sent == ok + error + timeout + cancelled + pending.
"""

from __future__ import annotations

import functools
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Caller, CallFuture
from mcp_sync.engine.peer import Peer

GRACE_SECONDS = float(os.environ.get("MCP_SYNC_TEST_MS", "750")) / 1000
"""How far a call may outlive its deadline on a loaded machine; the promise is 0.25 s."""
PAUSE = 0.01

Promises = list[tuple["weakref.ref[CallFuture[Any]]", str, Deadline]]


@contextmanager
def watched_peers(grace: float = GRACE_SECONDS) -> Iterator[list[str]]:
    """Watch every Caller made or used inside; the list yielded has what was wrong, once the block is left."""
    flaws: list[str] = []
    seen: set[Peer] = set()
    promises: Promises = []
    replaced: list[tuple[type, str, Any]] = []
    for kind in _callers():
        for name, watch in (("call", _watched_call), ("submit", _watched_submit)):
            if name in vars(kind):
                replaced.append((kind, name, vars(kind)[name]))
                notes = flaws if name == "call" else promises
                setattr(kind, name, watch(vars(kind)[name], seen, notes, grace))  # type: ignore[operator]
    try:
        yield flaws
    finally:
        for kind, name, original in replaced:
            setattr(kind, name, original)
        flaws += [flaw for promise in promises if (flaw := _broken(*promise, grace))]
        flaws += [flaw for peer in seen for flaw in _unbalanced(peer)]


def _callers(kind: type = Caller) -> Iterator[type]:
    """Yield the library's own kinds of Caller; what tests have made need not keep promises."""
    for one in kind.__subclasses__():
        if one.__module__.startswith("mcp_sync.") and not one.__module__.startswith("mcp_sync.testing"):
            yield one
        yield from _callers(one)


def _watched_call(original: Callable[..., Any], seen: set[Peer], flaws: list[str], grace: float) -> Any:
    @functools.wraps(original)
    def call(self: Caller, question: Any, deadline: Deadline) -> Any:
        if isinstance(self, Peer):
            seen.add(self)
        try:
            return original(self, question, deadline)
        finally:
            over = deadline.elapsed - deadline.limit
            if over > grace:
                flaws.append(f"{question.method} outlived its deadline of {deadline.limit:g} s by {over:.2f} s (I1)")

    return call


def _watched_submit(original: Callable[..., Any], seen: set[Peer], promises: Promises, grace: float) -> Any:
    @functools.wraps(original)
    def submit(self: Caller, question: Any, deadline: Deadline) -> Any:
        if isinstance(self, Peer):
            seen.add(self)
        future = original(self, question, deadline)
        if not question.open_ended:
            promises.append((weakref.ref(future), question.method, deadline))
        return future

    return submit


def _broken(known: weakref.ref[CallFuture[Any]], method: str, deadline: Deadline, grace: float) -> str | None:
    """Return what is wrong with a future whose deadline has passed; one that still has time is not looked at."""
    future = known()
    if future is None or future.done() or not deadline.expired:
        return None
    end = time.monotonic() + grace
    while not future.done():
        if time.monotonic() > end:
            over = deadline.elapsed - deadline.limit
            return f"the future of {method} is pending {over:.2f} s after its deadline of {deadline.limit:g} s (I1, I2)"
        time.sleep(PAUSE)
    return None


def _unbalanced(peer: Peer) -> list[str]:
    counters = peer.counters
    ended = counters["ok"] + counters["error"] + counters["timeout"] + counters["cancelled"]
    if counters["sent"] == ended + counters["pending"]:
        return []
    return [f"the counters of {peer!r} do not add up: {counters} (I20)"]
