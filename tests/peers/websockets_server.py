"""A server with the library websockets, on threads, with permessage-deflate: `websockets_server.py PORT`.

Tools: echo(text), big(n), extensions(): what was agreed, code(code): close with it, ask(): ping the client.
"""

import json
import sys
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve


def extensions(connection: ServerConnection, arguments: dict[str, Any]) -> str:
    return ", ".join(one.name for one in connection.protocol.extensions)


def code(connection: ServerConnection, arguments: dict[str, Any]) -> str:
    connection.close(arguments["code"], "as you wish")
    return ""


def ask(connection: ServerConnection, arguments: dict[str, Any]) -> str:
    return "there" if connection.ping(b"there?").wait(10) else "nobody there"


TOOLS = {
    "echo": lambda connection, arguments: arguments["text"],
    "big": lambda connection, arguments: "x" * arguments["n"],
    "extensions": extensions,
    "code": code,
    "ask": ask,
}


def answer(connection: ServerConnection, message: dict[str, Any]) -> dict[str, Any]:
    method, params = message["method"], message.get("params", {})
    if method == "initialize":
        about = {"name": "websockets", "version": "1"}
        return {"result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": about}}
    if method == "ping":
        return {"result": {}}
    if method == "tools/call" and params["name"] in TOOLS:
        text = TOOLS[params["name"]](connection, params.get("arguments", {}))
        return {"result": {"content": [{"type": "text", "text": text}]}}
    return {"error": {"code": -32601, "message": f"no {method}"}}


def handle(connection: ServerConnection) -> None:
    try:
        for text in connection:
            message = json.loads(text)
            if "id" in message:
                reply = {"jsonrpc": "2.0", "id": message["id"], **answer(connection, message)}
                connection.send(json.dumps(reply))
    except ConnectionClosed as closed:
        print("closed:", closed, file=sys.stderr, flush=True)


if __name__ == "__main__":
    with serve(handle, "127.0.0.1", int(sys.argv[1]), subprotocols=["mcp"], max_size=64 << 20) as server:
        server.serve_forever()
