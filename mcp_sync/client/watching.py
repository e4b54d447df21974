"""Watching: who watches which resource on one connection of the handshake era.

The server knows a resource as subscribed to, or not (server/resources); several here may want that at once.
"""

from __future__ import annotations

import threading
from collections import Counter

from ..deadlines import Deadline
from ..engine.caller import Caller, Question


class Watching:
    """How many watch each resource; the first subscribes, the last unsubscribes.

    Locks: ``_lock``, held for a few instructions.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _watchers
        self._watchers: Counter[str] = Counter()

    def begin(self, uri: str, caller: Caller, deadline: Deadline) -> None:
        """Watch a resource; raises as Caller.call says."""
        with self._lock:
            self._watchers[uri] += 1
            first = self._watchers[uri] == 1
        if not first:
            return
        try:
            caller.call(Question("resources/subscribe", {"uri": uri}), deadline)
        except BaseException:
            self._leave(uri)
            raise

    def end(self, uri: str, caller: Caller, deadline: Deadline) -> None:
        """Watch it no more; raises as Caller.call says."""
        if self._leave(uri):
            caller.call(Question("resources/unsubscribe", {"uri": uri}), deadline)

    def _leave(self, uri: str) -> bool:
        """Return whether nobody is left."""
        with self._lock:
            self._watchers[uri] -= 1
            if self._watchers[uri] > 0:
                return False
            del self._watchers[uri]
            return True
