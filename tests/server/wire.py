"""The client's end of a connection to a Server in memory, spoken to in raw messages: whatever a client might say."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import PipeChannel
from mcp_sync.engine.dispatch import join, start_thread
from mcp_sync.policies import Limits
from mcp_sync.server import Server
from mcp_sync.transports.memory import memory_pipes

PATIENCE = 10.0
STATELESS, HANDSHAKE = "2026-07-28", "2025-11-25"
META = "io.modelcontextprotocol/"
FORM = {"elicitation": {"form": {}}}


class Wire:
    """Says what it is told to, and keeps what it is told. Reads from its first question on, not before.

    Attributes:
        version: What messages are dressed in: of the stateless era, or None for none.
        capabilities: What the client declares.
    """

    def __init__(
        self,
        server: Server,
        version: str | None = STATELESS,
        capabilities: Mapping[str, Any] | None = None,
        channel: type[PipeChannel] = PipeChannel,
    ) -> None:
        self.version = version
        self.capabilities = dict(capabilities or {})
        self._pipe, theirs = memory_pipes()
        self.conversation = server.serve(channel(theirs, Limits(message_size=server.limits.message_size)))
        self._came: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader: Any = None
        self._numbers = iter(range(1000, 1_000_000))

    # -- saying -------------------------------------------------------------------------------------------------------

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        self._pipe.write(data, Deadline(PATIENCE))

    def send(self, message: Any) -> None:
        """Send anything that JSON can say, without a word of ours."""
        self.raw(json.dumps(message).encode())

    def ask(self, method: str, params: Any = None, id_: Any = None, meta: Mapping[str, Any] | None = None) -> Any:
        """Send a request, and return its id."""
        id_ = next(self._numbers) if id_ is None else id_
        self.send({"jsonrpc": "2.0", "id": id_, "method": method, "params": self.dressed(params, meta)})
        return id_

    def tell(self, method: str, params: Any = None) -> None:
        """Send a notification."""
        self.send({"jsonrpc": "2.0", "method": method, "params": params or {}})

    def cancel(self, id_: Any) -> None:
        """Say that an answer is wanted no more."""
        self.tell("notifications/cancelled", {"requestId": id_, "reason": "tired"})

    def dressed(self, params: Any, meta: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return params with the metadata of the era."""
        own = dict(meta or {})
        if self.version is not None:
            own = {META + "protocolVersion": self.version, META + "clientCapabilities": self.capabilities, **own}
        return {**(params or {}), **({"_meta": own} if own else {})}

    def greet(self, version: str = HANDSHAKE) -> dict[str, Any]:
        """Begin a conversation of the handshake era, and return the result of ``initialize``."""
        self.version = None
        info = {"name": "wire", "version": "1"}
        params = {"protocolVersion": version, "capabilities": self.capabilities, "clientInfo": info}
        result = self.result("initialize", params)
        self.tell("notifications/initialized")
        return result

    # -- hearing ------------------------------------------------------------------------------------------------------

    def next(self, patience: float = PATIENCE) -> dict[str, Any]:
        """Return the next message, of whatever kind."""
        self._read_on()
        message = self._came.get(timeout=patience)
        assert message is not None, "the server has hung up"
        return message

    def answer(self, id_: Any) -> dict[str, Any]:
        """Return the answer to a request; what comes before it is forgotten."""
        while True:
            message = self.next()
            if "method" not in message and message.get("id") == id_ and type(message.get("id")) is type(id_):
                return message

    def news(self, method: str) -> dict[str, Any]:
        """Return the next message of a method; what comes before it is forgotten."""
        while True:
            message = self.next()
            if message.get("method") == method:
                return message

    def result(self, method: str, params: Any = None, **more: Any) -> dict[str, Any]:
        """Ask, and return the result."""
        answer = self.answer(self.ask(method, params, **more))
        assert "result" in answer, answer
        return dict(answer["result"])

    def error(self, method: str, params: Any = None, **more: Any) -> dict[str, Any]:
        """Ask, and return the error."""
        answer = self.answer(self.ask(method, params, **more))
        assert "error" in answer, answer
        return dict(answer["error"])

    def call(self, tool: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Call a tool, and return the result."""
        return self.result("tools/call", {"name": tool, "arguments": dict(arguments or {})}, **more)

    def rest(self) -> list[dict[str, Any]]:
        """Return all that comes until everything that was sent has been seen to."""
        last, found = self.ask("server/discover", meta=self._stateless_meta()), []
        while (message := self.next()).get("id") != last:
            found.append(message)
        return found

    def _stateless_meta(self) -> dict[str, Any]:
        return {META + "protocolVersion": STATELESS, META + "clientCapabilities": {}}

    def ended(self) -> bool:
        """Wait until the server has hung up; what comes before is forgotten."""
        self._read_on()
        while self._came.get(timeout=PATIENCE) is not None:
            pass
        return True

    def _read_on(self) -> None:
        if self._reader is None:
            self._reader = start_thread("mcp-test-wire", self._read)

    def _read(self) -> None:
        while pieces := self._pipe.read():
            for piece in pieces:
                self._came.put(json.loads(piece))
        self._came.put(None)

    # -- the end ------------------------------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """End the connection."""
        self._pipe.hang_up(Deadline(PATIENCE))

    def close(self) -> None:
        """End the connection, and wait until the server has noticed."""
        self.hang_up()
        assert self.conversation.wait(PATIENCE)
        if self._reader is not None:
            assert join(self._reader, Deadline(PATIENCE))


@contextmanager
def wire_to(
    server: Server, version: str = STATELESS, channel: type[PipeChannel] = PipeChannel, **capabilities: Any
) -> Iterator[Wire]:
    """Connect to a server by the rules of a version, and close it and the connection in the end."""
    wire = Wire(server, STATELESS, capabilities, channel)
    try:
        if version != STATELESS:
            wire.greet(version)
        yield wire
    finally:
        wire.close()
        server.close()
