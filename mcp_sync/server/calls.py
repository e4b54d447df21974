"""Call: one request as the application sees it, whichever binding brought it; and Link, the way back to who asked.

A binding makes a Call of each request and hands it to ``Server.answer``. What the application says meanwhile (progress,
log messages, questions) goes back over the Link, so nothing above it knows of streams, sessions or sockets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ..deadlines import Deadline
from ..engine import interrupts
from ..exceptions import MCPConnectionError
from ..protocol.messages import Request

Wire: TypeAlias = "Mapping[str, Any]"
"""A question as the wire has it: ``{"method": ..., "params": ...}``."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, as far as is known.

    Attributes:
        version: The protocol version of the request.
        stateless: Whether that is one of the stateless era.
        info: What the client says of itself (``name``, ``version``); for display only.
        capabilities: What the client says it can be asked.
        headers: The headers of the HTTP request, names in lower case; empty where there are none.
        principal: The name that authentication gave to the client, or None.
        session_id: The id of the HTTP session, or None.
        log_level: The least level of log messages that it wants; None wants none.
    """

    version: str
    stateless: bool
    info: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    principal: str | None = None
    session_id: str | None = field(default=None, repr=False)
    log_level: str | None = None

    def at_level(self, level: str) -> Asker:
        """Return the same, wanting log messages from another level on."""
        return replace(self, log_level=level)


class Link(ABC):
    """The way back to whoever asked, for as long as the request is being answered. Methods by any thread.

    Attributes:
        withdrawn: Set when nobody wants the answer any more.
        asks: Whether ``ask`` can be used; if not, questions are put by ending the request (multi-round requests).
        background: Whether nobody waits for the answer: it is a task's.
    """

    asks: bool = False
    background: bool = False

    def __init__(self, withdrawn: interrupts.Event | None = None) -> None:
        self.withdrawn = withdrawn or interrupts.Event()

    @abstractmethod
    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Say something about the request. Waits while the client does not read; says nothing when nobody listens."""

    def ask(self, questions: Mapping[str, Wire], deadline: Deadline) -> dict[str, dict[str, Any]]:
        """Ask the client all of these at once, and wait for its results.

        Args:
            questions: By key, each with ``method`` and ``params``.
            deadline: For all of them.

        Returns:
            The results by key.

        Raises:
            JSONRPCError: The client answered with an error.
            MCPTimeoutError: The deadline passed.
            MCPConnectionError: The client is gone, or cannot be asked.
        """
        raise MCPConnectionError("this client cannot be asked while its request is being answered")

    def close_stream(self, retry: float | None) -> None:
        """Let the client come back for the rest later, where the binding knows how; otherwise do nothing."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        request: The request as it came.
        asker: Who asks.
        link: The way back.
        around: Makes a context that the application runs in; None: none in particular.
    """

    request: Request
    asker: Asker
    link: Link
    around: Callable[[], Any] | None = None

    @property
    def params(self) -> dict[str, Any]:
        """The params; empty where there are none."""
        return self.request.params or {}

    @property
    def meta(self) -> Mapping[str, Any]:
        """The metadata of the request; empty where there is none."""
        meta = self.params.get("_meta")
        return meta if isinstance(meta, Mapping) else {}


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """What a tool returns that goes on in the background: the answer is the task.

    Attributes:
        result: The answer to the call.
    """

    result: dict[str, Any]


class Withdrawn(BaseException):
    """Nobody wants the answer any more: ends a function that asks ``Context.check()``.

    No Exception, so that no ``except Exception`` of an application swallows it.
    """


class InputRequired(BaseException):
    """The answer needs something of the client, which has to ask again with it (basic/patterns/mrtr).

    No Exception, so that no ``except Exception`` of an application swallows it.

    Attributes:
        requests: The questions by key, as the wire has them.
    """

    def __init__(self, requests: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(f"input required: {', '.join(requests)}")
        self.requests = requests
