"""Servers that others wrote, as child processes, and what a test wants at hand to talk to them."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_sync import Client, StdioTransport
from mcp_sync.observe import Event, ProcessEnded, ProcessStarted
from peers import install

PATIENCE = 20.0
HANDSHAKES = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
STATELESS = "2026-07-28"


def command_of(server: str) -> list[str]:
    """What starts a server; fails where it is not installed, for a test that is skipped proves nothing."""
    try:
        if server != "fastmcp":
            return install.command_of(f"server-{server}")
        install.demand("fastmcp")
        return [install.python_of("fastmcp"), str(Path(install.__file__).with_name("fastmcp_server.py"))]
    except install.InstallError as error:
        pytest.fail(str(error), pytrace=False)


class Inbox(queue.Queue[Any]):
    """Whatever arrives on other threads, for a test to wait for."""

    def next(self, wanted: Callable[[Any], bool] = lambda item: True) -> Any:
        """Return the next item that is wanted, dropping those before it; fails when none comes."""
        until = time.monotonic() + PATIENCE
        dropped = []
        while True:
            try:
                item = self.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"waited {PATIENCE:g} s in vain; what came: {dropped}")
            if wanted(item):
                return item
            dropped.append(item)

    def line(self, part: str) -> str:
        """Return the next line that contains a text."""
        found: str = self.next(lambda line: part in line)
        return found


class Server:
    """A server that is going to be started, perhaps several times, and what is seen of it from outside.

    Attributes:
        stderr: The lines that it wrote there.
        pids: Its processes, as they were started.
        ends: The exit statuses of those that have ended.
    """

    def __init__(self, name: str, *args: str | Path, **knobs: Any) -> None:
        self.stderr = Inbox()
        self.pids: list[int] = []
        self.ends: Inbox = Inbox()
        command = [*command_of(name), *map(str, args)]
        self.transport = StdioTransport(command, stderr=self.stderr.put, timeout=PATIENCE, **knobs)
        self.transport.observe(self._note)
        self._started = Inbox()

    def client(self, **options: Any) -> Client:
        """Return a client of it, not connected yet."""
        return Client(self.transport, **options)

    @property
    def pid(self) -> int:
        """The process that was started last."""
        if not self.pids:
            self._started.next()
        return self.pids[-1]

    def _note(self, event: Event) -> None:
        if isinstance(event, ProcessStarted):
            self.pids.append(event.pid)
            self._started.put(event.pid)
        elif isinstance(event, ProcessEnded):
            self.ends.put(event.status)


def is_gone(pid: int) -> bool:
    """Whether nothing is left of a server: it leads a process group of its own."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return False
