"""An MCP server for WSGI hosts: ``app``, at /mcp. MCP_STORE is the URL of a Redis server, MCP_JOURNAL a file."""

from __future__ import annotations

import os
import threading
import time

STARTED_AT_IMPORT = threading.active_count()

from mcp_sync.server import (  # noqa: E402
    Context,
    Elicit,
    RedisSessionStore,
    Roots,
    Server,
    gate,
)
from mcp_sync.server.running import At  # noqa: E402

server = Server("hosted", version="1.0")
gate.BODY_SECONDS = float(os.environ.get("MCP_BODY_SECONDS", gate.BODY_SECONDS))


def note(text: str) -> None:
    with open(os.environ["MCP_JOURNAL"], "a") as file:
        file.write(f"{text} {time.monotonic()}\n")


@server.tool()
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@server.tool()
def process() -> int:
    """Say which process answers, not so soon that one process can have all calls."""
    time.sleep(0.05)
    return os.getpid()


@server.tool()
def steps(to: int, context: Context) -> str:
    for number in range(to):
        context.progress(number + 1, to)
    return "done"


@server.tool()
def name(context: Context) -> str:
    answer = context.elicit("Name?", {"type": "object", "properties": {"name": {"type": "string"}}}, timeout=10)
    return str((answer.content or {}).get("name"))


@server.tool()
def both(context: Context) -> str:
    found = context.ask(10, place=Roots(), form=Elicit("?", {"type": "object", "properties": {}}))
    return f"{found['place'][0].uri} {found['form'].action}"


@server.tool()
def waits(context: Context, talks: bool = False) -> str:
    note("began")
    context.progress(1)
    end = time.monotonic() + 30
    number = 1
    while time.monotonic() < end and not context.wait(0.1):
        if talks:
            number += 1
            context.progress(number)
    note("cancelled" if context.cancelled else "not cancelled")
    return "waited"


@server.tool()
def change() -> str:
    server.tools_changed()
    return "changed"


store = RedisSessionStore(os.environ["MCP_STORE"]) if "MCP_STORE" in os.environ else None
threads = int(os.environ["MCP_THREADS"]) if "MCP_THREADS" in os.environ else None
app = At("/mcp", server.wsgi_app(store=store, threads=threads))
assert threading.active_count() == STARTED_AT_IMPORT, threading.enumerate()
