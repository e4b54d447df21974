"""The limit: a loop of ``os.write`` and ``os.read`` with the standard library's json, tuned until it hurt.

It has no timeouts, no threads, no errors; nobody could use it, and nobody can be faster with this json. A large answer
is read into one buffer that grows and is used again, and is decoded once. Several callers are one thread that keeps
so many requests on their way.
"""

from __future__ import annotations

import json
import os
from typing import Any

from contenders.contender import TINY, TINY_ARGUMENTS, VERSIONS, Contender, Times, Watch, popen_pipes, write_all

encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode
META = {
    "io.modelcontextprotocol/protocolVersion": VERSIONS["stateless"],
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
UNTOUCHED = (32 << 20) - 8192
"""Freeing a block of this size once tells glibc to recycle blocks of a megabyte instead of returning their pages."""


class Loop:
    """One conversation, one question at a time."""

    def __init__(self, command: list[str], era: str) -> None:
        self.process, self.stdin, self.stdout = popen_pipes(command)
        self.stateless = era == "stateless"
        self.number = 0
        self.buffer = bytearray()
        if self.stateless:
            self.ask("server/discover", {"_meta": META})
        else:
            info = {"name": "raw", "version": "0"}
            self.ask("initialize", {"protocolVersion": VERSIONS[era], "capabilities": {}, "clientInfo": info})
            os.write(self.stdin, b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')

    def request(self, method: str, params: dict[str, Any]) -> bytes:
        self.number += 1
        return (encode({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}) + "\n").encode()

    def params(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.stateless:
            return {"name": tool, "arguments": arguments, "_meta": META}
        return {"name": tool, "arguments": arguments}

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        write_all(self.stdin, self.request(method, params))
        chunk = os.read(self.stdout, 65536)
        text = chunk.decode() if chunk.endswith(b"\n") else self.rest(chunk)
        return json.loads(text)["result"]

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return self.ask("tools/call", self.params(tool, arguments))

    def rest(self, chunk: bytes) -> str:
        """Read the rest of a long line."""
        if not self.buffer:
            del_me = bytearray(UNTOUCHED)
            del del_me
            self.buffer = bytearray(1 << 20)
        size = len(chunk)
        self.buffer[:size] = chunk
        while True:
            if size == len(self.buffer):
                self.buffer += bytes(size)
            with memoryview(self.buffer) as whole, whole[size:] as room:
                size += os.readv(self.stdout, [room])
            if self.buffer[size - 1] == 10:
                with memoryview(self.buffer) as whole, whole[:size] as line:
                    return str(line, "utf-8")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Raw(Contender):
    """The limit."""

    def connect(self, era: str) -> Loop:
        return Loop(self.server, era)

    def crowd(self, n: int, width: int) -> Times:
        return self._window(n, width)

    def flight(self, n: int, width: int) -> Times:
        return self._window(n * width, width)

    def _window(self, n: int, width: int) -> Times:
        """Keep so many requests on their way; answers that come together are followed by requests that go together."""
        loop, loads = self.connection, json.loads
        params = loop.params(TINY, TINY_ARGUMENTS)
        rest = b""
        with Watch() as watch:
            asked, answered = width, 0
            write_all(loop.stdin, b"".join([loop.request("tools/call", params) for _ in range(width)]))
            while answered < n:
                lines = (rest + os.read(loop.stdout, 65536)).split(b"\n")
                rest = lines.pop()
                for line in lines:
                    loads(line.decode())["result"]
                answered += len(lines)
                more = min(len(lines), n - asked)
                if more > 0:
                    write_all(loop.stdin, b"".join([loop.request("tools/call", params) for _ in range(more)]))
                    asked += more
        return watch.per(answered)

    def notifications(self, n: int, burst: int) -> Times:
        loop, loads = self.connection, json.loads
        params = loop.params("bench_notify", {"number": burst})
        rest = b""
        with Watch() as watch:
            for _ in range(n):
                write_all(loop.stdin, loop.request("tools/call", params))
                missing = burst + 1
                while missing:
                    lines = (rest + os.read(loop.stdout, 65536)).split(b"\n")
                    rest = lines.pop()
                    for line in lines:
                        loads(line.decode())
                    missing -= len(lines)
        return watch.per(n * burst)
