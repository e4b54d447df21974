"""What the programs of the stdio tests are made of: a tiny server over a Channel, with good and bad manners.

Only what is imported from mcp_sync is under test. Each request runs on a thread of its own, and is answered with what
its method returns; ``nothing`` is never answered. ``run()`` serves until the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.engine.dispatch import Crew
from mcp_sync.exceptions import MCPError
from mcp_sync.policies import Limits
from mcp_sync.protocol.messages import Failure, Malformed, Message, Notification, Request, Result
from mcp_sync.server.stdio import run_stdio

FLOODED: list[int] = []
"""How many notifications of a flood were sent, and the most memory it took, in KiB."""


def echo(channel: Channel, params: dict[str, Any]) -> dict[str, Any]:
    return params


def sleep(channel: Channel, params: dict[str, Any]) -> dict[str, Any]:
    time.sleep(params["seconds"])
    return {"slept": params["seconds"]}


def wait_in_c(channel: Channel, params: dict[str, Any]) -> dict[str, Any]:
    ctypes.CDLL(None).sleep(60)
    return {}


def big(channel: Channel, params: dict[str, Any]) -> dict[str, Any]:
    return {"text": "x" * params["size"]}


def shout(channel: Channel, params: dict[str, Any]) -> dict[str, Any]:
    """Write to stdout in every way there is."""
    print("by print")
    os.write(1, b"by descriptor\n")
    subprocess.run([sys.executable, "-S", "-c", "print('by a child')"], check=True)
    os.system("echo by a shell")
    libc = ctypes.CDLL(None)
    libc.puts(b"by C")
    libc.fflush(None)
    sys.__stdout__.write("by the first stdout\n")
    sys.__stdout__.flush()
    return {}


def fork(channel: Channel, params: dict[str, Any]) -> dict[str, Any]:
    """Fork as multiprocessing does; the child says what it has open, and lives on until its stdin, a pipe, ends."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.write(writes, json.dumps(open_descriptors()).encode())
        os.close(writes)
        time.sleep(params.get("seconds", 0))
        os._exit(0)
    os.close(writes)
    with open(reads, "rb") as said:
        found = json.load(said)
    if not params.get("seconds"):
        os.waitpid(child, 0)
    return {"descriptors": found}


def spawn(channel: Channel, params: dict[str, Any]) -> dict[str, Any]:
    """Start a program that says what it has open, every inheritable descriptor included."""
    text = "import json, os; print(json.dumps({n: os.readlink(f'/proc/self/fd/{n}') for n in range(50) if has(n)}))"
    text = f"import os\ndef has(n):\n    try: os.fstat(n)\n    except OSError: return False\n    return True\n{text}"
    done = subprocess.run([sys.executable, "-S", "-c", text], stdout=subprocess.PIPE, close_fds=False, check=True)
    return {"descriptors": json.loads(done.stdout)}


def descriptors(channel: Channel, params: dict[str, Any]) -> dict[str, Any]:
    return {"descriptors": open_descriptors(), "stdin": os.read(0, 10).decode()}


def open_descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed the folder
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def print_for_ever(channel: Channel, params: dict[str, Any]) -> dict[str, Any]:
    while True:
        print("still here")


def log_for_ever(channel: Channel, params: dict[str, Any]) -> dict[str, Any]:
    while True:
        logging.getLogger("tool").warning("still here")


def count_for_ever(channel: Channel, params: dict[str, Any]) -> dict[str, Any]:
    number = 0
    while True:
        number += 1


def flood(channel: Channel, params: dict[str, Any]) -> dict[str, Any]:
    """Send notifications until one of them cannot be sent, and say on stderr how that went."""
    sent, began = 0, time.monotonic()
    try:
        while True:
            channel.send(Notification("words", {"text": "x" * params["size"]}), Deadline(params["seconds"]))
            sent += 1
            began = time.monotonic()
    except MCPError as error:
        seconds = time.monotonic() - began
        say("flooded", sent, type(error).__name__, error.may_have_run, round(seconds, 2), memory())
    return {}


def say(*words: object) -> None:
    """Print a line to stderr, whatever becomes of sys.stderr."""
    os.write(2, (" ".join(map(str, words)) + "\n").encode())


def memory() -> int:
    """The most this process ever had, in KiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


METHODS: dict[str, Callable[[Channel, dict[str, Any]], dict[str, Any]]] = {
    tool.__name__: tool
    for tool in (
        *(echo, sleep, wait_in_c, big, shout, fork, spawn, descriptors),
        *(print_for_ever, log_for_ever, count_for_ever, flood),
    )
}


class Conversation:
    """The Sink of a channel, and what ``serve`` returns."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._crew = Crew(f"mcp-{channel.threads}-request", 32)
        self._cancelled: set[object] = set()
        self.over = threading.Event()

    def received(self, message: Message) -> None:
        if isinstance(message, Request) and message.method != "nothing":
            assert self._crew.start(lambda: self._answer(message))
        elif isinstance(message, Malformed) and message.answers is None:
            self._crew.start(lambda: self._send(Failure(message.asks, -32700, message.reason)))
        elif isinstance(message, Notification) and message.method == "notifications/cancelled":
            self._cancelled.add((message.params or {}).get("requestId"))

    def _answer(self, request: Request) -> None:
        result = METHODS[request.method](self._channel, request.params or {})
        if request.id not in self._cancelled:
            self._send(Result(request.id, result))

    def _send(self, message: Message) -> None:
        try:
            self._channel.send(message, Deadline(20))
        except MCPError as error:
            say("unsent", type(error).__name__, error)

    def lost(self, request_id: object, error: MCPError) -> None:
        raise AssertionError("stdio loses nothing")

    def closed(self, error: MCPError) -> None:
        say("closed", error)
        self.over.set()

    def wait(self, timeout: float | None = None) -> bool:
        return self.over.wait(timeout)

    def close(self, deadline: Deadline) -> None:
        self._channel.close(deadline)
        self._crew.close(deadline)


def serve(channel: Channel) -> Conversation:
    """Begin to answer."""
    conversation = Conversation(channel)
    channel.start(conversation)
    return conversation


def run(**limits: Any) -> None:
    """Serve until the end."""
    run_stdio(serve, Limits(**limits))


if __name__ == "__main__":
    run()
