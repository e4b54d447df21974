"""What the application does with what a server asks and says: a Handler made of plain callbacks.

Source: client/{sampling,elicitation,roots}; server/utilities/logging; basic/patterns/mrtr.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ..engine.caller import Incoming
from ..exceptions import ForkedClientError, JSONRPCError, MCPError
from ..protocol.eras import ACKNOWLEDGED
from ..protocol.messages import INVALID_PARAMS, METHOD_NOT_FOUND, Notification

if TYPE_CHECKING:
    import mcp_types as types

log = logging.getLogger("mcp_sync")


Sampling: TypeAlias = (
    "Callable[[types.CreateMessageRequestParams], str | Mapping[str, Any] | types.CreateMessageResult]"
)
Elicitation: TypeAlias = (
    "Callable[[types.ElicitRequestFormParams | types.ElicitRequestURLParams], "
    "Mapping[str, Any] | types.ElicitResult | None]"
)
Roots: TypeAlias = "Iterable[Any] | Callable[[], Iterable[Any]]"
OnLog: TypeAlias = "Callable[[types.LoggingMessageNotificationParams], Any]"
OnNotification: TypeAlias = Callable[[Notification], Any]
Listener: TypeAlias = Callable[[Notification | MCPError], None]


class Callbacks:
    """The Handler of a client. It refers to what the application gave, never to the client.

    Threads: called on the lane and on request threads, never on a reader.
    Locks: ``_lock``, held for a few instructions.
    """

    def __init__(
        self,
        sampling: Sampling | None = None,
        elicitation: Elicitation | None = None,
        roots: Roots | None = None,
        on_log: OnLog | None = None,
        on_notification: OnNotification | None = None,
    ) -> None:
        given = {"sampling": sampling, "elicitation": elicitation, "on_log": on_log, "on_notification": on_notification}
        for name, callback in given.items():
            if callback is not None and not callable(callback):
                raise TypeError(f"{name} must be a function, not {type(callback).__name__} ({callback!r})")
        if roots is not None and not callable(roots) and (isinstance(roots, str) or not isinstance(roots, Iterable)):
            raise TypeError(f"roots must be a list of paths or a function that returns one, not {roots!r}")
        self._sampling = sampling
        self._elicitation = elicitation
        self._roots = roots
        self._on_log = on_log
        self._on_notification = on_notification
        self._lock = threading.Lock()  # guards _listeners
        self._listeners: list[Listener] = []

    @property
    def capabilities(self) -> dict[str, Any]:
        """What the server may ask of us, by the callbacks that there are."""
        offered: dict[str, Any] = {}
        if self._sampling is not None:
            offered["sampling"] = {}
        if self._elicitation is not None:
            offered["elicitation"] = {"form": {}, "url": {}}
        if self._roots is not None:
            offered["roots"] = {"listChanged": True}
        return offered

    @property
    def wants_log(self) -> bool:
        """Whether there is somebody for log messages."""
        return self._on_log is not None

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Pass every notification, and the end, to a listener of our own; returns what stops it."""
        with self._lock:
            self._listeners = [*self._listeners, listener]

        def stop() -> None:
            with self._lock:
                self._listeners = [other for other in self._listeners if other is not listener]

        return stop

    def forked(self) -> None:
        """In a forked child: the conversation is the parent's, and whoever listens to it is told that it is over."""
        self._lock = threading.Lock()  # guards as before; the old one may be held by a thread that stayed behind
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener(ForkedClientError("the connection belongs to the process that this one was forked from"))

    # -- Handler ------------------------------------------------------------------------------------------------------

    def offers(self, method: str) -> bool:
        """Whether there is a callback for it."""
        asked = {
            "sampling/createMessage": self._sampling,
            "elicitation/create": self._elicitation,
            "roots/list": self._roots,
        }
        return asked.get(method) is not None

    def request(self, incoming: Incoming) -> dict[str, Any]:
        """Answer a request of the server."""
        return self.answer(incoming.request.method, incoming.request.params or {})

    def answer(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer what a server asks, whichever way it asked.

        Raises:
            JSONRPCError: There is no callback for it, or its params make no sense.
        """
        from . import answers

        if method == "sampling/createMessage" and self._sampling is not None:
            return answers.sampling_answer(self._sampling(_fitting(method, answers.sampling_params, params)))
        if method == "elicitation/create" and self._elicitation is not None:
            asked = _fitting(method, answers.elicitation_params, params)
            return answers.elicitation_answer(params, self._elicitation(asked))
        if method == "roots/list" and self._roots is not None:
            return answers.roots_answer(self._roots() if callable(self._roots) else self._roots)
        raise JSONRPCError(METHOD_NOT_FOUND, f"{method} is not offered by this client")

    def notification(self, notification: Notification) -> None:
        """Tell whoever wants to know."""
        for listener in self._listeners:
            listener(notification)
        if notification.method == "notifications/message" and self._on_log is not None:
            self._log(notification.params or {})
        if self._on_notification is not None and notification.method != ACKNOWLEDGED:
            self._on_notification(notification)

    def closed(self, error: MCPError) -> None:
        """Tell our own listeners."""
        for listener in self._listeners:
            listener(error)

    def _log(self, params: Mapping[str, Any]) -> None:
        from . import answers

        assert self._on_log is not None
        try:
            record = answers.log_params(params)
        except ValueError as flaw:
            log.warning("a log message of the server is not valid: %s", flaw)
            return
        try:
            self._on_log(record)
        except Exception:
            log.exception("the callback on_log failed")


def _fitting(method: str, parse: Callable[[Mapping[str, Any]], Any], params: Mapping[str, Any]) -> Any:
    try:
        return parse(params)
    except ValueError as flaw:  # pydantic's is one
        raise JSONRPCError(INVALID_PARAMS, f"{method}: params are not valid: {flaw}") from flaw
