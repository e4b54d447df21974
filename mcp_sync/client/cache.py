"""Answers that a server allows to be kept for a while.

Source: server/utilities/caching (2026-07-28): ``ttlMs`` and ``cacheScope`` on complete results. A client's cache is
never shared, so ``private`` and ``public`` are the same here.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..exceptions import MCPError
from ..protocol.messages import Notification, encode

KEPT_BYTES = 8 << 20
"""How much is kept in all; the oldest goes first, and a single answer may take an eighth of it."""

_CHANGED_BY = {
    "tools/list": "notifications/tools/list_changed",
    "prompts/list": "notifications/prompts/list_changed",
    "resources/list": "notifications/resources/list_changed",
    "resources/templates/list": "notifications/resources/list_changed",
    "resources/read": "notifications/resources/updated",
}


class AnswerCache:
    """Answers by method and params, as long as the server said, or until it says that they have changed.

    Locks: ``_lock``, held for a few instructions.

    Args:
        clock: Seconds, monotonic; tests hand in their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards _entries, _size, generation
        self._entries: dict[tuple[str, bytes], tuple[float, bytes]] = {}
        self._size = 0
        self.generation = 0

    def get(self, method: str, params: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return an answer that is still fresh, as a copy of the caller's own."""
        if not self._entries or method not in _CHANGED_BY:
            return None
        key = (method, encode(params or {}))
        with self._lock:
            until, raw = self._entries.get(key, (0.0, b""))
            if raw and until <= self._clock():
                self._drop(key)
                raw = b""
        return json.loads(raw) if raw else None

    def put(self, method: str, params: Mapping[str, Any] | None, result: Mapping[str, Any], generation: int) -> None:
        """Keep an answer, if the server allows it and nothing has changed since ``generation``, when it was asked."""
        ttl = result.get("ttlMs")
        if method not in _CHANGED_BY or type(ttl) not in (int, float) or not 0 < ttl < float("inf"):  # type: ignore[operator]
            return
        raw, key = encode(result), (method, encode(params or {}))
        with self._lock:
            if generation != self.generation or len(raw) > KEPT_BYTES // 8:
                return
            self._drop(key)
            self._entries[key] = (self._clock() + ttl / 1000, raw)  # type: ignore[operator]
            self._size += len(raw)
            while self._size > KEPT_BYTES:
                self._drop(next(iter(self._entries)))

    def forget(self, method: str | None = None) -> None:
        """Drop the answers to a method, or all."""
        with self._lock:
            self.generation += 1
            for key in [key for key in self._entries if method in (None, key[0])]:
                self._drop(key)

    def overhear(self, news: Notification | MCPError) -> None:
        """Drop what a notification says has changed. What was read may be part of what was updated: all goes."""
        if isinstance(news, Notification):
            for method, changed_by in _CHANGED_BY.items():
                if changed_by == news.method:
                    self.forget(method)

    def _drop(self, key: tuple[str, bytes]) -> None:
        _, raw = self._entries.pop(key, (0.0, b""))
        self._size -= len(raw)
