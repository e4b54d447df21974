"""A server for `Client(server)` that answers by a table of functions and remembers all it was told.

::

    server = Scripted({"tools/call": lambda ask: text("hello")})
    with Client(server) as client:
        assert client.call_tool("x").text == "hello"
    assert server.asked("tools/call")[0].params["name"] == "x"

A function is given the Asked; it returns a result, or LATER, or raises a JSONRPCError. It runs on the reader thread of
the server's end, one at a time, in the order in which requests arrive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp_sync import JSONRPCError, MCPError
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.protocol.messages import Failure, Message, Notification, Request, RequestId, Result

STATELESS, HANDSHAKE = "2026-07-28", "2025-11-25"
PATIENCE = 10.0
LATER: dict[str, Any] = {"": "the test answers, or nobody does"}


@dataclass(frozen=True)
class Asked:
    """One request that arrived, and the ways to react."""

    id: RequestId
    method: str
    params: dict[str, Any]
    line: Channel

    @property
    def meta(self) -> dict[str, Any]:
        """The request's metadata."""
        return dict(self.params.get("_meta") or {})

    @property
    def arguments(self) -> dict[str, Any]:
        """A tool call's arguments."""
        return dict(self.params.get("arguments") or {})

    def answer(self, result: Any) -> None:
        """Answer, with anything at all."""
        say(self.line, {"jsonrpc": "2.0", "id": self.id, "result": result})

    def fail(self, code: int, message: str, data: Any = None) -> None:
        """Answer with an error."""
        say(self.line, Failure(self.id, code, message, data))

    def report(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Report progress."""
        token = self.meta["progressToken"]
        params = {"progressToken": token, "progress": progress, "total": total, "message": message}
        say(self.line, Notification("notifications/progress", params))

    def acknowledge(self) -> None:
        """Say that a subscription has begun."""
        self.push("notifications/subscriptions/acknowledged", {"notifications": self.params["notifications"]})

    def push(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a piece of news that belongs to this subscription."""
        meta = {"io.modelcontextprotocol/subscriptionId": self.id}
        say(self.line, Notification(method, {**(params or {}), "_meta": meta}))


Answerer = Callable[[Asked], Any]


class Scripted:
    """See the module.

    Attributes:
        dials: How many connections were made.
        line: The server's end of the last one.
    """

    def __init__(
        self, table: Mapping[str, Answerer] | None = None, *, era: str = STATELESS, capabilities: Any = None
    ) -> None:
        self._table = {**_greetings(era, capabilities or {}), "tools/list": lambda ask: {"tools": []}, **(table or {})}
        self._changed = threading.Condition()  # guards all below
        self._log: list[Message] = []
        self._requests: list[Asked] = []
        self._asking = 0
        self.dials = 0
        self.line: Any = None

    def serve(self, channel: Channel) -> None:
        """Serve one connection."""
        with self._changed:
            self.dials += 1
            self.line = channel
        channel.start(_Line(self, channel))

    def asked(self, method: str, count: int = 1) -> list[Asked]:
        """Return all requests for a method, waiting until there are so many."""
        return self._await(lambda: [ask for ask in self._requests if ask.method == method], count, method)

    def told(self, method: str, count: int = 1) -> list[Notification]:
        """Return all notifications of a method, waiting until there are so many."""
        kind = Notification
        return self._await(
            lambda: [it for it in self._log if isinstance(it, kind) and it.method == method], count, method
        )

    def heard(self, method: str) -> int:
        """Return how many requests and notifications of a method have come so far."""
        with self._changed:
            return sum(getattr(message, "method", None) == method for message in self._log)

    def tell(self, method: str, params: dict[str, Any] | None = None) -> None:
        """Send a notification that belongs to nothing."""
        say(self.line, Notification(method, params))

    def ask(self, method: str, params: dict[str, Any] | None = None) -> Result | Failure:
        """Send a request, and return the client's answer to it."""
        with self._changed:
            self._asking += 1
            id_ = f"server-{self._asking}"
        say(self.line, Request(id_, method, params))
        return self._await(lambda: [it for it in self._log if _answers(it, id_)], 1, f"the answer to {method}")[0]

    def hang_up(self) -> None:
        """End the last connection from this side."""
        self.line.close(Deadline(PATIENCE))

    def _await(self, found: Callable[[], list[Any]], count: int, what: str) -> list[Any]:
        with self._changed:
            in_time = self._changed.wait_for(lambda: len(found()) >= count, PATIENCE)
            assert in_time, f"the client did not send {what} {count} times, but {[repr(it)[:100] for it in self._log]}"
            return found()

    def take(self, message: Message, line: Channel) -> None:
        """Remember a message, and answer it."""
        ask = Asked(message.id, message.method, message.params or {}, line) if isinstance(message, Request) else None
        with self._changed:
            self._log.append(message)
            if ask is not None:
                self._requests.append(ask)
            self._changed.notify_all()
        if ask is not None:
            self._answer(ask)

    def _answer(self, ask: Asked) -> None:
        function = self._table.get(ask.method)
        if function is None:
            ask.fail(-32601, f"no method {ask.method}")
            return
        try:
            result = function(ask)
        except JSONRPCError as error:
            ask.fail(error.code, error.message, error.data)
        else:
            if result is not LATER:
                ask.answer(result)


class _Line:
    """The Sink of one connection."""

    def __init__(self, server: Scripted, channel: Channel) -> None:
        self._server = server
        self._channel = channel

    def received(self, message: Message) -> None:
        self._server.take(message, self._channel)

    def lost(self, request_id: RequestId, error: MCPError) -> None:
        """Never happens here."""

    def closed(self, error: MCPError) -> None:
        """Nothing to do: whoever closed it knows."""


def say(line: Channel, message: Any) -> None:
    """Send a message; a client that has gone does not want it."""
    try:
        line.send(message, Deadline(PATIENCE))
    except MCPError:
        pass


def text(words: str, **more: Any) -> dict[str, Any]:
    """Return a tool's result that is a text."""
    return {"content": [{"type": "text", "text": words}], **more}


def structured(value: Any, **more: Any) -> dict[str, Any]:
    """Return a tool's result that is structured."""
    return {"content": [], "structuredContent": value, **more}


def tool(name: str, output: Any = None) -> dict[str, Any]:
    """Return a tool as it is listed."""
    made: dict[str, Any] = {"name": name, "inputSchema": {"type": "object"}}
    return made if output is None else {**made, "outputSchema": output}


def object_of(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object that must have these properties."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _answers(message: Message, id_: str) -> bool:
    return isinstance(message, (Result, Failure)) and message.id == id_


def _greetings(era: str, capabilities: Any) -> dict[str, Answerer]:
    info = {"name": "scripted", "version": "1"}
    discovered = {
        "supportedVersions": [era],
        "capabilities": capabilities,
        "_meta": {"io.modelcontextprotocol/serverInfo": info},
    }
    initialized = {"protocolVersion": era, "capabilities": capabilities, "serverInfo": info}
    if era == STATELESS:
        return {"server/discover": lambda ask: discovered}
    return {"initialize": lambda ask: initialized, "ping": lambda ask: {}}
