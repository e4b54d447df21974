"""Watching: who watches which resource on one connection of the handshake era.

The server knows a resource as subscribed to, or not (server/resources); several here may want that at once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ..deadlines import Deadline
from ..engine.caller import Caller, Question
from ..engine.interrupts import let_go
from ..exceptions import MCPTimeoutError


class Watching:
    """How many watch each resource; the first subscribes, the last unsubscribes.

    Locks: ``_telling`` is held while the server is told, so that it hears things in the order in which they are meant,
    though over HTTP each goes its own way; always acquired with the deadline.
    """

    def __init__(self) -> None:
        self._telling = threading.RLock()  # guards _watchers, and the telling
        self._watchers: Counter[str] = Counter()

    def begin(self, uri: str, caller: Caller, deadline: Deadline) -> None:
        """Watch a resource; raises as Caller.call says."""
        with self._turn(uri, deadline):
            if not self._watchers[uri]:
                caller.call(Question("resources/subscribe", {"uri": uri}), deadline)
            self._watchers[uri] += 1

    def end(self, uri: str, caller: Caller, deadline: Deadline) -> None:
        """Watch it no more; raises as Caller.call says."""
        with self._turn(uri, deadline):
            self._watchers[uri] -= 1
            if self._watchers[uri] <= 0:
                del self._watchers[uri]
                caller.call(Question("resources/unsubscribe", {"uri": uri}), deadline)

    @contextmanager
    def _turn(self, uri: str, deadline: Deadline) -> Iterator[None]:
        try:
            if not self._telling.acquire(timeout=deadline.remaining):
                raise MCPTimeoutError(f"another thread is still subscribing to {uri}", may_have_run=False)
            try:
                yield
            finally:
                self._telling.release()
        except BaseException:
            let_go(self._telling)
            raise
