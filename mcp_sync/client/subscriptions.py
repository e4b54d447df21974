"""Subscription: news of changes on the server, iterated by whoever wants them.

In the stateless era it is a ``subscriptions/listen`` request that stays open; in the handshake era the server tells
everybody, and resources are subscribed to one by one. Both look the same from here.

Source: basic/patterns/subscriptions (2026-07-28); server/{tools,prompts,resources} (handshake era).
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline, as_timeout
from ..engine.caller import CallFuture, Question
from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError
from ..protocol.messages import Notification
from .asking import Asker
from .callbacks import ACKNOWLEDGED, Callbacks

if TYPE_CHECKING:
    from typing_extensions import Self

KEPT = 1000
"""News that wait to be iterated; beyond that, new ones are dropped and counted."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What somebody wants to hear of; the field names are those of the wire's filter."""

    tools_list_changed: bool = False
    prompts_list_changed: bool = False
    resources_list_changed: bool = False
    resource_subscriptions: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as it goes on the wire."""
        wanted: dict[str, Any] = {
            "toolsListChanged": self.tools_list_changed,
            "promptsListChanged": self.prompts_list_changed,
            "resourcesListChanged": self.resources_list_changed,
            "resourceSubscriptions": list(self.resource_subscriptions),
        }
        return {name: value for name, value in wanted.items() if value}

    @property
    def methods(self) -> set[str]:
        """The notifications that carry such news."""
        lists = {
            "notifications/tools/list_changed": self.tools_list_changed,
            "notifications/prompts/list_changed": self.prompts_list_changed,
            "notifications/resources/list_changed": self.resources_list_changed,
            "notifications/resources/updated": bool(self.resource_subscriptions),
        }
        return {method for method, wanted in lists.items() if wanted}


class Subscription:
    """News of changes on the server. Iterate it; close it, or use it in a ``with`` statement.

    Threads: filled by the reader or the lane; iterating blocks until there is news, or the end.

    Attributes:
        honoured: What the server agreed to tell, as on the wire (``toolsListChanged`` ...).
        dropped: News dropped because nobody iterated fast enough.
    """

    def __init__(self, wanted: Filter, kept: int = KEPT) -> None:
        self.honoured: dict[str, Any] = {}
        self.dropped = 0
        self._wanted = wanted
        self._kept = kept
        self._news: queue.Queue[Notification | MCPError | None] = queue.Queue()
        self._acknowledged: queue.Queue[MCPError | None] = queue.Queue(1)
        self._stop: Callable[[Deadline], object] = lambda deadline: None
        self._stop_listening: Callable[[], None] = lambda: None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Subscription {self._wanted.as_dict()}{' closed' if self._closed else ''}>"

    def __iter__(self) -> Iterator[Notification]:
        """Iterate the news until the subscription is closed, here or, in good order, by the server.

        Raises:
            MCPConnectionError: It broke off; what happened meanwhile has to be looked up.
        """
        while (news := self.next()) is not None:
            yield news

    def next(self, timeout: float | None = None) -> Notification | None:
        """Return the next piece of news, waiting for it; None when the subscription is closed.

        Args:
            timeout: Seconds; None waits for the end of the subscription.

        Raises:
            MCPTimeoutError: None came within the timeout.
            MCPConnectionError: The subscription broke off; a JSONRPCError where the server said why.
        """
        limit = None if timeout is None else as_timeout(timeout)
        try:
            news = self._news.get(timeout=limit)
        except queue.Empty:
            raise MCPTimeoutError(f"no news within {timeout:g} s", details={"limit": timeout}) from None
        if isinstance(news, Notification):
            return news
        self._news.put(news)  # the end stays, for others who iterate
        if news is None or self._closed or news.details.get("phase") == "closed":
            return None
        raise news.about("the subscription broke off", may_have_run=None)

    def close(self, timeout: float = 5.0) -> None:
        """Tell the server that no more news is wanted. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._news.put(None)
        try:
            self._stop(Deadline(timeout))
        except MCPError:
            pass  # the connection is gone, and the subscription with it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- filled from elsewhere; nothing here waits --------------------------------------------------------------------

    def push(self, notification: Notification) -> None:
        """Take a piece of news, or the server's acknowledgement."""
        if notification.method == ACKNOWLEDGED:
            self.honoured = dict((notification.params or {}).get("notifications") or {})
            self._acknowledge(None)
        elif self._news.qsize() < self._kept:
            self._news.put(notification)
        else:
            self.dropped += 1

    def end(self, error: MCPError | None) -> None:
        """Take note that nothing more will come: None, in good order."""
        self._acknowledge(error or MCPConnectionError("the server ended the subscription before it began"))
        self._news.put(error)

    def _acknowledge(self, error: MCPError | None) -> None:
        try:
            self._acknowledged.put_nowait(error)
        except queue.Full:
            pass  # it was before

    # -- opened in one way or the other -------------------------------------------------------------------------------

    @classmethod
    def open(
        cls, wanted: Filter, asker: Asker, callbacks: Callbacks, deadline: Deadline, kept: int = KEPT
    ) -> Subscription:
        """Return a subscription that the server has acknowledged, and that keeps so much news.

        Raises:
            JSONRPCError: The server refused.
            MCPTimeoutError: It did not acknowledge by the deadline.
        """
        subscription = cls(wanted, kept)
        if asker.peer.agreement.era.server_asks:
            subscription._open_by_notices(asker, callbacks, deadline)
        else:
            subscription._open_by_request(asker, deadline)
        return subscription

    def _open_by_request(self, asker: Asker, deadline: Deadline) -> None:
        question: Question[Any] = Question(
            "subscriptions/listen",
            {"notifications": self._wanted.as_dict()},
            on_push=self.push,
            then=self._ended,
            open_ended=True,
        )
        future = asker.peer.submit(question, deadline)
        self._stop = lambda deadline: future.cancel()
        try:
            error = self._acknowledged.get(timeout=deadline.remaining)
            if error is not None:
                raise error
        except queue.Empty:
            future.cancel()
            raise MCPTimeoutError(
                f"subscriptions/listen was not acknowledged within {deadline.limit:g} s",
                details={"limit": deadline.limit, "method": "subscriptions/listen"},
            ) from None
        except BaseException:  # Ctrl-C too
            future.cancel()
            raise

    def _ended(self, future: CallFuture[Any]) -> None:
        try:
            future.raw()
        except MCPError as error:
            self.end(error)
        else:
            self.end(None)

    def _open_by_notices(self, asker: Asker, callbacks: Callbacks, deadline: Deadline) -> None:
        self._stop_listening = callbacks.listen(self._overhear)
        subscribed: list[str] = []

        def stop(deadline: Deadline) -> None:
            self._stop_listening()
            for uri in subscribed:
                asker.peer.call(Question("resources/unsubscribe", {"uri": uri}), deadline)

        self._stop = stop
        try:
            for uri in self._wanted.resource_subscriptions:
                asker.peer.call(Question("resources/subscribe", {"uri": uri}), deadline)
                subscribed.append(uri)
        except BaseException:
            self.close(max(deadline.remaining, 0.001))
            raise
        self.honoured = self._wanted.as_dict()

    def _overhear(self, news: Notification | MCPError) -> None:
        if isinstance(news, MCPError):
            self._stop_listening()  # what a new connection says is no news of this one
            self.end(news)
        elif news.method in self._wanted.methods:
            self.push(news)


def make_filter(wanted: Mapping[str, bool], uris: Sequence[str]) -> Filter:
    """Return a checked filter.

    Raises:
        TypeError: ``uris`` is one str.
        ValueError: Nothing is wanted.
    """
    if isinstance(uris, str):
        raise TypeError(f"resource_subscriptions must be a list of URIs, not one str ({uris!r})")
    if not uris and not any(wanted.values()):
        raise ValueError(f"nothing to listen to; set one of {', '.join(wanted)} or resource_subscriptions")
    return Filter(**wanted, resource_subscriptions=tuple(str(uri) for uri in uris))
