"""What a program does that has ``websockets.sync`` only: ``send``, ``recv`` and json, nothing of the protocol.

Two threads may not wait for a message of one such connection, so each thread has a connection of its own.
"""

from __future__ import annotations

import json
import threading
from typing import Any

from contenders.contender import LIMIT, VERSIONS, Contender
from contenders.raw import encode
from websockets.sync.client import ClientConnection, connect


class Plain:
    """One conversation for each thread; ``call`` from any of them."""

    def __init__(self, url: str, era: str) -> None:
        self.url = url
        self.version = VERSIONS[era]
        self.local = threading.local()
        self.lines: list[ClientConnection] = []
        self.line()

    def line(self) -> ClientConnection:
        """Return this thread's connection."""
        try:
            return self.local.line
        except AttributeError:
            line = self.local.line = connect(self.url, subprotocols=["mcp"], compression=None, max_size=LIMIT)
            self.lines.append(line)
            info = {"name": "websockets", "version": "0"}
            self.ask("initialize", {"protocolVersion": self.version, "capabilities": {}, "clientInfo": info})
            line.send('{"jsonrpc":"2.0","method":"notifications/initialized"}')
            return line

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        line = self.line()
        line.send(encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        return json.loads(line.recv())["result"]

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return self.ask("tools/call", {"name": tool, "arguments": arguments})

    def close(self) -> None:
        for line in self.lines:
            line.close()


class WebSockets(Contender):
    """websockets, and nothing else."""

    def connect(self, era: str) -> Plain:
        return Plain(self.server, era)
