"""MCPSession: one initialised conversation, in plain dicts; what ``transport.create_session()`` returns."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline, as_timeout
from ..engine import interrupts
from ..engine.backlog import BACKLOG_ITEMS, Backlog
from ..engine.caller import Caller, CallFuture, Incoming, Question
from ..engine.connect import Introduction, closing_time
from ..engine.lifetimes import close_when_forgotten, tell_of_forks
from ..engine.peer import Peer
from ..exceptions import ForkedClientError, JSONRPCError, MCPError, MCPTimeoutError
from ..protocol.eras import ACKNOWLEDGED, Identity, Stateless
from ..protocol.messages import METHOD_NOT_FOUND, Notification

if TYPE_CHECKING:
    from typing_extensions import Self


class MCPSession:
    """One conversation with a server, in plain dicts. All methods may be called from any thread.

    Threads: none of its own. Every method blocks at most its timeout; ``listen`` until the conversation ends.

    Attributes:
        dropped: Messages dropped because nobody listened, or not fast enough.
    """

    def __init__(
        self,
        converse: Callable[[Introduction], Caller],
        timeout: float,
        version: str | None,
        name: str,
        backlog: int = BACKLOG_ITEMS,
    ) -> None:
        self._timeout = timeout
        self._backlog = backlog
        self._pushed: Backlog[dict[str, Any] | MCPError] = Backlog(backlog)
        self._streams: list[Backlog[Any]] = []
        self._closing = False
        self.dropped = 0
        self._listening = threading.Lock()  # guards the subscribing: whoever takes it does; never given back
        opened: list[Peer] = []
        try:
            self._caller = converse(Introduction(_identity(), version, self, opened=opened.append))
            self._closed_properly = close_when_forgotten(self, self._caller, f"<MCPSession {name}>")
            era = self._caller.agreement.era
            if isinstance(era, Stateless):  # which else would send no log messages
                self._caller.dress(era.at_level("debug"))
            tell_of_forks(self)
        except BaseException as error:  # Ctrl-C just after it was opened
            for peer in opened:
                peer.close(Deadline(closing_time(error)))
            raise

    def __repr__(self) -> str:
        return f"<MCPSession {self._caller!r}>"

    @property
    def protocol_version(self) -> str:
        """The protocol version that was agreed."""
        return self._caller.agreement.era.version

    @property
    def server_info(self) -> dict[str, Any]:
        """What the server says of itself: ``name``, ``version`` ..."""
        return dict(self._caller.agreement.server_info)

    @property
    def server_capabilities(self) -> dict[str, Any]:
        """What the server offers."""
        return dict(self._caller.agreement.capabilities)

    @property
    def instructions(self) -> str | None:
        """What the server says about its use."""
        return self._caller.agreement.instructions

    @property
    def counters(self) -> dict[str, int]:
        """What has happened so far; ``sent == ok + error + timeout + cancelled + pending``."""
        return self._caller.counters

    def send_request(
        self, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Ask, and return the result.

        Args:
            method: The method, e.g. ``"tools/list"``.
            params: Its params.
            timeout: Seconds; None means the session's own.

        Raises:
            JSONRPCError: The server answered with an error.
            MCPTimeoutError: No answer within the timeout; the server has been told to stop.
            MCPConnectionError: The connection is over.
            ProtocolError: One side said something that the protocol forbids.
        """
        return self._caller.call(Question(method, _checked(params)), self._deadline(timeout))

    def submit_request(
        self, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> CallFuture[dict[str, Any]]:
        """Ask, and return a ``concurrent.futures.Future`` of the result; arguments as for ``send_request``."""
        question: Question[dict[str, Any]] = Question(method, _checked(params))
        return self._caller.submit(question, self._deadline(timeout))

    def send_notification(
        self, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> None:
        """Say something that has no answer.

        Raises:
            MCPConnectionError: The connection is over.
            MCPTimeoutError: The server did not read it within the timeout.
        """
        self._caller.notify(method, _checked(params), self._deadline(timeout))

    def send_streaming_request(
        self, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Iterator[dict[str, Any]]:
        """Ask, and iterate what comes: progress and log messages as they arrive, then the result.

        A message is a dict with ``method`` and ``params``; the last item is the result, as ``send_request`` returns
        it. Log messages carry no mark of their request: those that arrive meanwhile are included. Leaving the loop
        early cancels the request.

        Raises:
            MCPError: As ``send_request``, from the iterator.
        """
        deadline = self._deadline(timeout)
        items: Backlog[Any] = Backlog(self._backlog)
        question: Question[dict[str, Any]] = Question(
            method,
            _checked(params),
            on_progress=lambda *report: self._keep(items, _progress(*report)),
            then=lambda future: self._caller.post(lambda: self._end_stream(items, future)),  # after what came before it
        )
        self._streams.append(items)
        try:
            return self._stream(items, self._caller.submit(question, deadline), deadline)
        except BaseException:
            self._end_stream(items, None)
            raise

    def _end_stream(self, items: Backlog[Any], future: CallFuture[dict[str, Any]] | None) -> None:
        """Put no more messages there, but the future; on the lane, so never wait for whoever reads, or does not."""
        items.put(future)
        try:
            self._streams.remove(items)
        except ValueError:
            pass  # whoever reads was first

    def _stream(
        self, items: Backlog[Any], future: CallFuture[dict[str, Any]], deadline: Deadline
    ) -> Iterator[dict[str, Any]]:
        try:
            while True:
                item = items.get(timeout=deadline.remaining + 1.0)
                if item is future:
                    break
                yield item
            yield future.result(0)
        except queue.Empty:
            raise MCPTimeoutError(f"{future.question.method}: callbacks kept the result from arriving") from None
        finally:
            self._end_stream(items, None)
            future.cancel()

    def listen(self) -> Iterator[dict[str, Any]]:
        """Iterate every notification of the server, from the session's beginning on, until the session ends.

        Each is a dict with ``method`` and ``params``. In the stateless era changes of lists are only told to those who
        subscribe, which this does, and waits for.

        Raises:
            MCPConnectionError: The connection was lost; a session that we close just ends the loop.
        """
        if not self._caller.agreement.era.server_asks and self._listening.acquire(blocking=False):
            self._subscribe(self._deadline(None))
        return self._listen()

    def _subscribe(self, deadline: Deadline) -> None:
        begun = interrupts.Event()
        offered = self._caller.agreement.capabilities
        wanted = {f"{kind}ListChanged": True for kind in ("tools", "prompts", "resources") if kind in offered}
        question: Question[Any] = Question(
            "subscriptions/listen",
            {"notifications": wanted},
            on_push=lambda notification: begun.set(),
            then=lambda future: begun.set(),  # refused, perhaps: then there is nothing of the kind to hear
            open_ended=True,
        )
        self._caller.submit(question, deadline)
        begun.wait(deadline.remaining)

    def _listen(self) -> Iterator[dict[str, Any]]:
        while True:
            item = self._pushed.get()
            if not isinstance(item, MCPError):
                yield item
                continue
            self._pushed.put(item)  # for others who listen
            if self._closing:
                return
            raise item.about("", may_have_run=item.may_have_run)

    stream_response = listen

    def close(self, timeout: float | None = None) -> None:
        """End the conversation and the connection. Idempotent, from any thread.

        Args:
            timeout: Seconds; None means 5.
        """
        self._closing = True
        self._caller.close(Deadline(as_timeout(timeout, default=5.0)))
        self._closed_properly()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- Handler, on the lane and on request threads ------------------------------------------------------------------

    def offers(self, method: str) -> bool:
        """Tell that nothing is offered."""
        return False

    def request(self, incoming: Incoming) -> dict[str, Any]:
        """Refuse: a session in plain dicts offers the server nothing."""
        raise JSONRPCError(METHOD_NOT_FOUND, f"{incoming.request.method} is not offered")

    def notification(self, notification: Notification) -> None:
        """Keep it for whoever listens."""
        if notification.method == ACKNOWLEDGED:
            return  # the beginning of a subscription is no news
        message = notification.as_dict()
        self._keep(self._pushed, message, notification.size)
        if notification.method == "notifications/message":
            for items in list(self._streams):
                self._keep(items, message, notification.size)

    def closed(self, error: MCPError) -> None:
        """End the loops of whoever listens."""
        self._pushed.put(error)

    def forked(self) -> None:
        """In a forked child: end the loops of whoever listens; the old queue's locks may be held by nobody."""
        self._pushed = Backlog(self._backlog)
        text = f"{self._caller.name} was connected by the process that this one was forked from"
        self._pushed.put(ForkedClientError(text))

    def _keep(self, items: Backlog[Any], message: dict[str, Any], size: int = 0) -> None:
        if not items.offer(message, size):
            self.dropped += 1

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(as_timeout(timeout, default=self._timeout))


def _identity() -> Identity:
    from .. import __version__

    return Identity({"name": "mcp-sync", "version": __version__})


def _progress(progress: float, total: float | None, message: str | None) -> dict[str, Any]:
    report = {"progress": progress, "total": total, "message": message}
    return Notification(
        "notifications/progress", {key: value for key, value in report.items() if value is not None}
    ).as_dict()


def _checked(params: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if params is not None and type(params) is not dict and not isinstance(params, Mapping):
        raise TypeError(f"params must be a dict, not {type(params).__name__} ({params!r})")
    return params
