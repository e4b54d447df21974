"""The limit in a container: the engine's interface through the docker SDK, the socket it gives up, and json.

The container has the settings that mcp_sync gives it. There are no timeouts, and of the frames only those of stdout
are looked at. Beside it the command line, a child process with pipes, whose own CPU time is not seen. It has the same
settings but for ``network_disabled``, which it cannot ask for.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import docker
from contenders.contender import VERSIONS, Contender
from contenders.raw import UNTOUCHED, Loop, encode

API = "1.41"
"""Given, so that making a client asks nothing."""
HOST = {
    "network_mode": "none",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "pids_limit": 512,
    "init": True,
    "log_config": {"type": "none", "config": {}},
}
OPTIONS = ["--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
OPTIONS += ["--pids-limit", "512", "--init", "--log-driver", "none"]
STREAMS = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
STDOUT = 1


class Container:
    """One conversation, one question at a time."""

    def __init__(self, server: dict[str, Any], era: str) -> None:
        self.api = docker.APIClient(base_url=os.environ.get("DOCKER_HOST"), version=API)
        host = self.api.create_host_config(**HOST)
        self.id = self.api.create_container(
            server["image"], server["command"], stdin_open=True, network_disabled=True, host_config=host
        )["Id"]
        self.attached = self.api.attach_socket(self.id, params=STREAMS)
        self.line: socket.socket = self.attached._sock
        self.api.start(self.id)
        self.number = 0
        del_me = bytearray(UNTOUCHED)  # as the raw loop does
        del del_me
        info = {"name": "raw", "version": "0"}
        self.ask("initialize", {"protocolVersion": VERSIONS[era], "capabilities": {}, "clientInfo": info})
        self.line.sendall(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        request = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        self.line.sendall((encode(request) + "\n").encode())
        return json.loads(self.answer().decode())["result"]

    def answer(self) -> bytes:
        """Read a line."""
        data, parts, place = bytearray(), [], 0
        while True:
            chunk = self.line.recv(65536)
            if not chunk:
                raise ConnectionError("the container ended")
            data += chunk
            while len(data) - place >= 8:
                start = place + 8
                end = start + int.from_bytes(data[place + 4 : start], "big")
                if end > len(data):
                    break
                if data[place] == STDOUT:
                    parts.append(data[start:end])
                    if data[end - 1] == 10:
                        return b"".join(parts)
                place = end

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return self.ask("tools/call", {"name": tool, "arguments": arguments})

    def close(self) -> None:
        self.line.shutdown(socket.SHUT_RDWR)
        self.line.close()
        self.attached.close()
        self.api.remove_container(self.id, force=True)
        self.api.close()


class Engine(Contender):
    """The limit."""

    def connect(self, era: str) -> Container:
        return Container(self.server, era)


class CommandLine(Contender):
    """``docker run -i --rm``."""

    def connect(self, era: str) -> Loop:
        return Loop(["docker", "run", "-i", "--rm", *OPTIONS, self.server["image"], *self.server["command"]], era)
