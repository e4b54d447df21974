"""Subscription: news of changes on the server, iterated by whoever wants them.

In the stateless era it is a ``subscriptions/listen`` request that stays open; in the handshake era the server tells
everybody, and resources are subscribed to one by one. Both look the same from here.

Source: basic/patterns/subscriptions (2026-07-28); server/{tools,prompts,resources} (handshake era).
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline, as_timeout
from ..engine import interrupts
from ..engine.backlog import BACKLOG_ITEMS, Backlog
from ..engine.caller import CallFuture, Question
from ..engine.dispatch import start_thread_in_finalizer
from ..exceptions import MCPConnectionError, MCPError, MCPTimeoutError
from ..protocol.eras import ACKNOWLEDGED
from ..protocol.messages import Notification
from .asking import Asker
from .callbacks import Callbacks

if TYPE_CHECKING:
    from typing_extensions import Self

CLOSE_SECONDS = 5.0


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

    def covers(self, news: Notification) -> bool:
        """Tell whether a notification carries such news; a resource may be a part of what was subscribed to."""
        if news.method != "notifications/resources/updated":
            return news.method in self.methods
        uri = str((news.params or {}).get("uri"))
        return any(uri.startswith(wanted) for wanted in self.resource_subscriptions)


class Subscription:
    """News of changes on the server. Iterate it; close it, or use it in a ``with`` statement.

    One that is forgotten is ended, as by ``close``.

    Threads: iterating blocks until there is news, or the end.
    """

    def __init__(self, news: News) -> None:
        self._news = news
        self._forgotten = weakref.finalize(self, start_thread_in_finalizer, "mcp-janitor", news.close, CLOSE_SECONDS)
        self._forgotten.atexit = False

    def __repr__(self) -> str:
        return f"<Subscription {self._news.wanted.as_dict()}{' closed' if self._news.closed else ''}>"

    @property
    def honoured(self) -> dict[str, Any]:
        """What the server agreed to tell, as on the wire (``toolsListChanged`` ...)."""
        return self._news.honoured

    @property
    def dropped(self) -> int:
        """News dropped because nobody iterated fast enough."""
        return self._news.waiting.dropped

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
        return self._news.take(None if timeout is None else as_timeout(timeout))

    def close(self, timeout: float | None = None) -> None:
        """Tell the server that no more news is wanted. Idempotent.

        Args:
            timeout: Seconds; None means 5.
        """
        self._forgotten.detach()
        self._news.close(as_timeout(timeout, default=CLOSE_SECONDS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class News:
    """What is behind a Subscription: filled by the reader or the lane, which must not keep the user's object alive."""

    def __init__(self, wanted: Filter, kept: int = BACKLOG_ITEMS) -> None:
        self.wanted = wanted
        self.honoured: dict[str, Any] = {}
        self.closed = False
        self.waiting: Backlog[Notification | MCPError | None] = Backlog(kept)
        self._acknowledged = interrupts.Event()
        self._refusal: MCPError | None = None
        self._first = threading.Lock()  # guards _refusal: whoever takes it says how it began; never given back
        self._stop: Callable[[Deadline], object] = lambda deadline: None
        self._stop_listening: Callable[[], None] = lambda: None

    def take(self, limit: float | None) -> Notification | None:
        """Return the next piece of news, or None at the end; raises as Subscription.next says."""
        try:
            news = self.waiting.get(limit)
        except queue.Empty:
            raise MCPTimeoutError(f"no news within {limit:g} s", details={"limit": limit}) from None
        if isinstance(news, Notification):
            return news
        self.waiting.put(news)  # the end stays, for others who iterate
        if news is None or self.closed or news.details.get("phase") == "closed":
            return None
        raise news.about("the subscription broke off", may_have_run=None)

    def end_on_server(self, deadline: Deadline) -> None:
        """End it, here and on the server; raises as Caller.call says. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self.waiting.put(None)
        self._stop(deadline)

    def close(self, seconds: float) -> None:
        """End it, here and as far as possible on the server. Idempotent."""
        try:
            self.end_on_server(Deadline(seconds))
        except MCPError:
            pass  # the connection is gone, and the subscription with it

    # -- filled from elsewhere; nothing here waits --------------------------------------------------------------------

    def push(self, notification: Notification) -> None:
        """Take a piece of news, or the server's acknowledgement."""
        if notification.method == ACKNOWLEDGED:
            self.honoured = dict((notification.params or {}).get("notifications") or {})
            self._acknowledge(None)
        else:
            self.waiting.offer(notification, notification.size)

    def end(self, error: MCPError | None) -> None:
        """Take note that nothing more will come: None, in good order."""
        self._acknowledge(error or MCPConnectionError("the server ended the subscription before it began"))
        self.waiting.put(error)

    def _acknowledge(self, error: MCPError | None) -> None:
        if self._first.acquire(blocking=False):
            self._refusal = error
            self._acknowledged.set()

    # -- opened in one way or the other -------------------------------------------------------------------------------

    def open(self, asker: Asker, callbacks: Callbacks, deadline: Deadline) -> None:
        """Subscribe, in the way of the era.

        Raises:
            JSONRPCError: The server refused.
            MCPTimeoutError: It did not acknowledge by the deadline.
        """
        if asker.caller.agreement.era.server_asks:
            self._open_by_notices(asker, callbacks, deadline)
        else:
            self._open_by_request(asker, deadline)

    def _open_by_request(self, asker: Asker, deadline: Deadline) -> None:
        question: Question[Any] = Question(
            "subscriptions/listen",
            {"notifications": self.wanted.as_dict()},
            on_push=self.push,
            then=self._ended,
            open_ended=True,
        )
        future = asker.caller.submit(question, deadline)
        self._stop = lambda deadline: future.cancel()
        try:
            if not self._acknowledged.wait(deadline.remaining):
                raise MCPTimeoutError(
                    f"subscriptions/listen was not acknowledged within {deadline.limit:g} s",
                    details={"limit": deadline.limit, "method": "subscriptions/listen"},
                )
            if self._refusal is not None:
                raise self._refusal
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
        watched: list[str] = []
        watching = asker.watching

        def stop(deadline: Deadline) -> None:
            self._stop_listening()
            for uri in watched if watching is asker.watching else ():  # else the server has forgotten it
                watching.end(uri, asker.caller, deadline)

        self._stop = stop
        try:
            for uri in self.wanted.resource_subscriptions:
                watching.begin(uri, asker.caller, deadline)
                watched.append(uri)
        except BaseException:
            self.close(max(deadline.remaining, 0.001))
            raise
        self.honoured = self.wanted.as_dict()

    def _overhear(self, news: Notification | MCPError) -> None:
        if isinstance(news, MCPError):
            self._stop_listening()  # what a new connection says is no news of this one
            self.end(news)
        elif self.wanted.covers(news):
            self.push(news)


def subscribe(wanted: Filter, asker: Asker, callbacks: Callbacks, deadline: Deadline) -> Subscription:
    """Return a subscription that the server has acknowledged; raises as News.open says."""
    news = News(wanted)
    news.open(asker, callbacks, deadline)
    return Subscription(news)


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
