"""A child that the kernel is slow to end is waited for all the same, later (I7)."""

from __future__ import annotations

import os
import sys
import time

import pytest

from mcp_sync import StdioTransport
from mcp_sync.transports import process

STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); x = bytearray(400 << 20); time.sleep(60)"


def test_a_killed_child_that_takes_its_time_to_end_does_not_stay_a_zombie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "KILLED_SECONDS", 0.0)  # a busy machine does the same with the real figure
    monkeypatch.setattr(process, "BURIAL_SECONDS", 0.05)
    transport = StdioTransport([sys.executable, "-c", STUBBORN], shutdown_timeout=0.001)
    before = children()
    transport.connect()
    (pid,) = children() - before
    deadline = time.monotonic() + 20
    while resident(pid) < 400 << 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    transport.disconnect()
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")


def children() -> set[int]:
    return {int(word) for word in os.listdir("/proc") if word.isdigit() and parent_of(word) == os.getpid()}


def parent_of(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def resident(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("VmRSS")), 0)
