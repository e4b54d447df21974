"""Catalogues: what an endpoint offers: its capabilities and lists, kept for a while.

Source: server/{tools,resources,prompts}, server/utilities/pagination; RFC 6570 for the templates of URIs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..deadlines import Deadline
from ..engine.caller import Caller, Question
from ..exceptions import JSONRPCError, RemoteProtocolError
from ..protocol.messages import METHOD_NOT_FOUND, Notification

KEPT_SECONDS = 60.0
"""How long a list is kept, unless the server tells of a change, or the connection is another one."""

_LISTS = {
    "tools.call": ("tools/list", "tools", "name"),
    "prompts.get": ("prompts/list", "prompts", "name"),
    "resources.read": ("resources/list", "resources", "uri"),
}
_TEMPLATES = ("resources/templates/list", "resourceTemplates", "uriTemplate")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants of a server.

    Attributes:
        path: The capability, such as ``("resources", "subscribe")``.
        verb: ``tools.call``, ``prompts.get``, ``resources.read``, or nothing.
        item: The name or URI that has to be on the list; or nothing.
    """

    path: tuple[str, ...]
    verb: str = ""
    item: str = ""

    @classmethod
    def read(cls, text: str) -> Wanted:
        """Return what a text means: ``tools``, ``resources.subscribe``, ``tools.call:NAME``, ``resources.read:URI``.

        Raises:
            TypeError: It is no text.
            ValueError: It makes no sense.
        """
        if not isinstance(text, str):
            raise TypeError(f"capability must be a str, not {type(text).__name__} ({text!r})")
        place, colon, item = text.partition(":")
        if place in _LISTS:
            if colon and not item:
                raise ValueError(f"{text!r} names nothing after the colon")
            return cls((place.partition(".")[0],), place, item)
        if colon or not all(place.split(".")):
            items = ", ".join(f"'{verb}:...'" for verb in _LISTS)
            known = f"one of a server's, such as 'tools' or 'resources.subscribe', or {items}"
            raise ValueError(f"capability must be {known}; not {text!r:.80}")
        return cls(tuple(place.split(".")))


class Catalogue:
    """What one endpoint offers, as far as it was looked up on one connection.

    Threads: whoever looks up what is not kept blocks; two may look up the same at once, which does no harm.

    Args:
        caller: The connection.

    Attributes:
        looked_up: How many lists were.
    """

    def __init__(self, caller: Caller, clock: Callable[[], float] = time.monotonic) -> None:
        self.caller = caller
        self._clock = clock
        self._kept: dict[str, tuple[float, list[str]]] = {}
        self.looked_up = 0

    def offers(self, wanted: Wanted, deadline: Deadline) -> bool:
        """Return whether it has what is wanted; raises as Caller.call says."""
        if not _has(self.caller.agreement.capabilities, wanted.path):
            return False
        if not wanted.item:
            return True
        method, key, field = _LISTS[wanted.verb]
        if wanted.item in self._list(method, key, field, deadline):
            return True
        if wanted.verb != "resources.read":
            return False
        return any(fits(template, wanted.item) for template in self._list(*_TEMPLATES, deadline))

    def overhear(self, notification: Notification) -> None:
        """Take note of what the server says: that a list has changed."""
        kind = re.fullmatch(r"notifications/(\w+)/list_changed", notification.method)
        if kind is not None:
            self._kept = {method: kept for method, kept in self._kept.items() if not method.startswith(kind[1])}

    def _list(self, method: str, key: str, field: str, deadline: Deadline) -> list[str]:
        until, items = self._kept.get(method, (0.0, []))
        if self._clock() < until:
            return items
        found = [str(item.get(field)) for item in pages(self.caller, method, key, deadline)]
        self._kept[method] = (self._clock() + KEPT_SECONDS, found)
        self.looked_up += 1
        return found


def pages(caller: Caller, method: str, key: str, deadline: Deadline) -> Iterator[dict[str, Any]]:
    """Yield the items of every page of a list; a server that has no such list has an empty one.

    Raises:
        RemoteProtocolError: A page is not valid, or a cursor comes back.
        MCPError: As Caller.call says.
    """
    cursors: set[str | None] = {None}
    params: dict[str, Any] | None = None
    while True:
        try:
            page = caller.call(Question(method, params), deadline)
        except JSONRPCError as error:
            if error.code == METHOD_NOT_FOUND:
                return
            raise
        items = page.get(key)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise RemoteProtocolError(f"{method}: the server's result has no list of objects named {key!r}")
        yield from items
        cursor = page.get("nextCursor")
        if not cursor:
            return
        if not isinstance(cursor, str) or cursor in cursors:
            raise RemoteProtocolError(f"{method}: the server's nextCursor {cursor!r:.80} leads nowhere")
        cursors.add(cursor)
        params = {"cursor": cursor}


def fits(template: str, uri: str) -> bool:
    """Return whether a URI can be what a template gives: ``{x}`` is part of a path, ``{+x}`` may be more."""
    parts = re.split(r"\{([^{}]*)\}", template)
    pattern = "".join(_expression(part) if n % 2 else re.escape(part) for n, part in enumerate(parts))
    return re.fullmatch(pattern, uri) is not None


def _expression(text: str) -> str:
    if text[:1] in ("+", "#", "/", "?", "&", ";", "."):
        return ".*"
    return "[^/?#]+"


def _has(capabilities: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    found: Any = capabilities
    for step in path:
        if not isinstance(found, Mapping) or step not in found:
            return False
        found = found[step]
    return found is not None and found is not False
