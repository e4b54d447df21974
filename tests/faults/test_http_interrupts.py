"""Ctrl-C at any moment of a call over HTTP: nothing stays locked, no place is lost, and other threads go on (I16)."""

from __future__ import annotations

import subprocess
import sys

import pytest
from faults.http_server import Server

SCRIPT = """
import random, signal, sys, threading, time
from mcp_sync import Client, MCPError
from mcp_sync.engine.dispatch import reaper

T, live = 3.0, [False]

def interrupt(*_):
    if live[0]:
        live[0] = False
        raise KeyboardInterrupt

def echo(client):
    return client.call_tool("echo", {"a": 1}).text

def from_another_thread(client):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(echo(client)), daemon=True)
    thread.start()
    thread.join(T)
    return bool(answers)

signal.signal(signal.SIGALRM, interrupt)
client = Client(sys.argv[1], timeout=T, max_connections_per_host=3).connect()
echo(client)
pressed, slowest, until = 0, 0.0, time.monotonic() + 4.0
while time.monotonic() < until:
    began = time.monotonic()
    try:
        live[0] = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.0030))
        echo(client)
    except KeyboardInterrupt:
        pressed += 1
    except MCPError:
        pass
    live[0] = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    slowest = max(slowest, time.monotonic() - began)
assert pressed > 50, pressed
assert slowest < T / 2, f"one of {pressed} made a call take {slowest:.2f} s"
for _ in range(4):  # one more than there are places
    assert from_another_thread(client), f"after {pressed}, another thread is not answered any more"
    assert echo(client)
client.close()
print("fine")
"""


@pytest.mark.alone
@pytest.mark.parametrize("era", ["stateless", "handshake"])
def test_ctrl_c_at_any_moment_leaves_nothing_locked(era: str) -> None:
    """I1, I16: conditions and semaphores stay locked where a signal comes before their ``with`` has begun."""
    with Server(era) as server:  # type: ignore[arg-type]
        command = [sys.executable, "-W", "ignore", "-X", "faulthandler", "-c", SCRIPT, server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=40)
        assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr[-2000:]
