"""A server that writes down which calls it ran: ``marking_server.py NOTE [http|websocket PORT]``; NOTE is a file."""

import os
import sys
import threading

from mcp_sync.server import Server

NOTE = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

server = Server("marking", version="1.0")


@server.tool()
def mark(ident: str) -> str:
    """Write the call down: one write, so that no other process's comes in between."""
    os.write(NOTE, f"{ident}\n".encode())
    return ident


@server.tool()
def process() -> int:
    """The number of this process."""
    return os.getpid()


@server.tool()
def wait(seconds: float) -> str:
    """Take some time."""
    threading.Event().wait(seconds)
    return "done"


@server.resource("marking://note", mime_type="text/plain")
def note() -> str:
    """What was written down."""
    return "..."


if __name__ == "__main__":
    transport = sys.argv[2] if len(sys.argv) > 2 else "stdio"
    server.run(transport, **({"port": int(sys.argv[3])} if len(sys.argv) > 3 else {}))
