"""Hub: who wants to hear when the tools, prompts or resources of a server change, and how they are told.

Notices are few and small. Telling never waits: a listener puts the notice where its own writer finds it.

Source: basic/patterns/subscriptions; server/{tools,prompts,resources} (list changed, resources/subscribe).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..protocol.eras import SUBSCRIPTION_KEY
from ..protocol.messages import RequestId
from .allowances import check_listen

log = logging.getLogger("mcp_sync")

TOOLS, PROMPTS, RESOURCES = "tools", "prompts", "resources"
_FILTERS = {TOOLS: "toolsListChanged", PROMPTS: "promptsListChanged", RESOURCES: "resourcesListChanged"}


@dataclass(frozen=True, slots=True)
class Notice:
    """Something has changed: a list, or with a URI the one resource, or with a task's id the task.

    Attributes:
        what: ``tools``, ``prompts``, ``resources``, ``resource`` or ``task``.
        uri: The resource's URI, or the task's id.
        body: What else the notification says.
    """

    what: str
    uri: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method of the notification."""
        if self.what == "resource":
            return "notifications/resources/updated"
        return "notifications/tasks" if self.what == "task" else f"notifications/{self.what}/list_changed"

    @property
    def params(self) -> dict[str, Any]:
        """The params of the notification."""
        return {**self.body, "uri": self.uri} if self.what == "resource" else dict(self.body)

    def encode(self) -> bytes:
        """Return it as bytes for the other processes."""
        return json.dumps([self.what, self.uri, dict(self.body)]).encode()

    @classmethod
    def decode(cls, data: bytes) -> Notice:
        """Return what ``encode`` made bytes of."""
        what, uri, body = json.loads(data)
        return cls(what, uri, body)


class Listener(Protocol):
    """Somebody who wants to hear of notices."""

    @property
    def over(self) -> bool:
        """Whether it does so no more."""

    def tell(self, notice: Notice) -> None:
        """Hear of one; must not wait."""


class Hub:
    """All listeners of one server in this process.

    Locks: ``_lock``, held for a few instructions; listeners are told outside it.

    Attributes:
        relay: How other processes hear of what is published here, where there are such.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _listeners
        self._listeners: list[Listener] = []
        self._follower: Listener | None = None
        self.relay: Callable[[Notice], None] | None = None

    def join(self, listener: Listener) -> None:
        """Tell this listener as well, from now on; those that are over are forgotten."""
        with self._lock:
            self._listeners = [*(one for one in self._listeners if not one.over), listener]

    def follow(self, listener: Listener) -> None:
        """Tell this one as well, after all others: it acts on what it hears, and what comes of that is news again."""
        self._follower = listener

    def leave(self, listener: Listener) -> None:
        """Tell it no more."""
        with self._lock:
            self._listeners = [one for one in self._listeners if one is not listener]

    def publish(self, notice: Notice) -> None:
        """Tell everybody, in the other processes as well."""
        if self.relay is not None:
            self.relay(notice)
        else:
            self.deliver(notice)

    def deliver(self, notice: Notice) -> None:
        """Tell everybody in this process."""
        follower = self._follower
        for listener in self._listeners if follower is None else [*self._listeners, follower]:  # replaced whole
            if not listener.over:
                try:
                    listener.tell(notice)
                except Exception:  # the others have to hear of it all the same
                    log.exception("a listener could not be told of %s", notice.method)

    def forked(self) -> None:
        """In a forked child: whoever listened did so in the parent."""
        self._lock = threading.Lock()  # guards as before
        self._listeners, self._follower = [], None


@dataclass(frozen=True, slots=True)
class Interest:
    """What a ``subscriptions/listen`` wants to hear of.

    Attributes:
        subscription: The id of its request.
        lists: ``tools``, ``prompts``, ``resources``.
        resources: The URIs of single resources.
        tasks: The ids of tasks.
    """

    subscription: RequestId
    lists: Collection[str] = ()
    resources: Collection[str] = ()
    tasks: Collection[str] = ()

    @property
    def acknowledged(self) -> dict[str, Any]:
        """What is honoured, as the acknowledgement says it."""
        honoured: dict[str, Any] = {_FILTERS[name]: True for name in self.lists}
        if self.resources:
            honoured["resourceSubscriptions"] = sorted(self.resources)
        if self.tasks:
            honoured["taskIds"] = sorted(self.tasks)
        return honoured

    @property
    def meta(self) -> dict[str, Any]:
        """The metadata of everything that is said about it."""
        return {SUBSCRIPTION_KEY: self.subscription}

    def wants(self, notice: Notice) -> bool:
        """Whether a notice is of interest. A resource below a subscribed one is (schema, ResourceUpdated)."""
        if notice.what == "resource":
            return any_at_or_above(notice.uri, self.resources)
        return notice.uri in self.tasks if notice.what == "task" else notice.what in self.lists

    def dressed(self, notice: Notice) -> dict[str, Any]:
        """Return the params of a notice for this subscription."""
        params = notice.params
        return {**params, "_meta": {**params.get("_meta", {}), **self.meta}}


def any_at_or_above(uri: str, watched: Collection[str]) -> bool:
    """Tell whether one of these, best in a set, is the URI, or a resource that it is a part of."""
    slashes = [at for at, letter in enumerate(uri) if letter == "/"] if watched else []
    return uri in watched or any(uri[:at] in watched or uri[: at + 1] in watched for at in slashes)


def interest_of(
    subscription: RequestId, wanted: Any, offered: Collection[str], tasks: Collection[str] = ()
) -> Interest:
    """Return what a client may hear of what it wants to.

    Args:
        subscription: The id of its request.
        wanted: ``params.notifications`` as it came.
        offered: The lists that exist here: ``tools``, ``prompts``, ``resources``.
        tasks: The ids of tasks it may hear of.

    Raises:
        ValueError: It is not what ``notifications`` may be; the text says why.
    """
    if not isinstance(wanted, Mapping):
        raise ValueError("params.notifications must be an object")
    flags = {name: wanted.get(key, False) for name, key in _FILTERS.items()}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"params.notifications.{_FILTERS[name]} must be true or false")
    uris = wanted.get("resourceSubscriptions") or []
    if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
        raise ValueError("params.notifications.resourceSubscriptions must be an array of strings")
    named = wanted.get("taskIds")
    ids = [one for one in named if isinstance(one, str)] if isinstance(named, list) else []
    check_listen([str(subscription), *uris, *ids])
    lists = tuple(name for name, flag in flags.items() if flag and name in offered)
    return Interest(subscription, lists, frozenset(uris if RESOURCES in offered else ()), frozenset(tasks))
