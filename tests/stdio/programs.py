"""What the tests of restarts, limits and confinement share: servers that die, grow, spin, and try what they may not."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

from mcp_sync import StdioTransport

ROOT = Path(__file__).resolve().parents[2]
T = 20.0
"""Seconds for whatever has to happen at all."""

# A server of the handshake era by the standard library only; a method it has no function for is answered by its params.
SERVER = """
import json, os, signal, subprocess, sys, threading, time
signal.alarm(120)  # whatever happens

def answer(id_, result):
    data = (json.dumps({"jsonrpc": "2.0", "id": id_, "result": result}) + "\\n").encode()
    while data:
        data = data[os.write(1, data):]

def refuse(id_):
    error = {"code": -32601, "message": "no"}
    os.write(1, (json.dumps({"jsonrpc": "2.0", "id": id_, "error": error}) + "\\n").encode())

def initialize(id_, params):
    answer(id_, {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}})

def die(id_, params):
    os.write(2, (params.get("words", "last words") + "\\n").encode())
    os.kill(os.getpid(), params["signal"]) if "signal" in params else os._exit(params.get("code", 3))

def pid(id_, params):
    answer(id_, {"pid": os.getpid()})

def hang(id_, params):
    pass

def main(methods):
    for line in iter(sys.stdin.readline, ""):
        message = json.loads(line)
        if "id" in message:
            name = message["method"].replace("/", "_")
            methods.get(name, refuse_or_echo)(message["id"], message.get("params") or {})

def refuse_or_echo(id_, params):
    refuse(id_) if "protocolVersion" not in params and "_meta" in params else answer(id_, params)
"""
MAIN = "\nmain({name: value for name, value in globals().items() if callable(value)})\n"


def server(program: str = "", **knobs: Any) -> StdioTransport:
    """Return a transport to a server that has further functions, one for each method."""
    knobs.setdefault("timeout", T)
    return StdioTransport([sys.executable, "-I", "-S", "-c", SERVER + dedent(program) + MAIN], **knobs)


class Notes:
    """What ``on_process_event`` was told."""

    def __init__(self, transport: StdioTransport) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []
        self._come = threading.Condition()
        transport.on_process_event(self._note)

    def _note(self, name: str, data: dict[str, Any]) -> None:
        with self._come:
            self.all.append((name, data))
            self._come.notify_all()

    def of(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Return what was said of one event, once that came so many times."""
        with self._come:
            assert self._come.wait_for(lambda: len(self._found(name)) >= count, T), (name, self.all)
            return self._found(name)

    def _found(self, name: str) -> list[dict[str, Any]]:
        return [data for found, data in self.all if found == name]


def until(true: Callable[[], object], seconds: float = T) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        threading.Event().wait(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
