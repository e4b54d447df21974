"""What a program does that has ``requests`` only: ``Session.post`` and json, no timeouts, nothing of the protocol."""

from __future__ import annotations

import json
from typing import Any

import requests
from contenders.contender import VERSIONS, Contender
from contenders.raw import META


class Plain:
    """One conversation; ``call`` from any thread."""

    def __init__(self, url: str, era: str) -> None:
        self.url = url
        self.stateless = era == "stateless"
        self.session = requests.Session()
        self.session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=64))
        self.session.headers["Accept"] = "application/json, text/event-stream"
        self.session.headers["MCP-Protocol-Version"] = VERSIONS[era]
        if self.stateless:
            self.ask("server/discover", {"_meta": META})
        else:
            info = {"name": "requests", "version": "0"}
            self.ask("initialize", {"protocolVersion": VERSIONS[era], "capabilities": {}, "clientInfo": info})
            self.session.post(url, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.news = self.session.get(url, stream=True) if url.endswith("/stream") else None

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with self.session.post(self.url, json=question, stream=True) as response:
            if response.headers["Content-Type"] == "application/json":
                return response.json()["result"]
            return self.answer_in(response)

    def answer_in(self, response: requests.Response) -> dict[str, Any]:
        """Return the last message of a stream; all others are decoded, too."""
        message: dict[str, Any] = {}
        data = []
        for line in response.iter_lines(65536):
            if line.startswith(b"data: "):
                data.append(line[6:])
            elif not line and data:
                message = json.loads(b"\n".join(data))
                data = []
        return message["result"]

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        params = {"name": tool, "arguments": arguments}
        return self.ask("tools/call", {**params, "_meta": META} if self.stateless else params)

    def collect(self, number: int) -> None:
        """All notifications have been decoded before the answer."""

    def close(self) -> None:
        if self.news is not None:
            self.news.close()
        self.session.close()


class Requests(Contender):
    """requests, and nothing else."""

    def connect(self, era: str) -> Plain:
        return Plain(self.server, era)
