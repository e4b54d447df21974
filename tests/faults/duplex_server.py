"""A server that talks and listens at once, as fast as it can: ``duplex_server.py CHAIN`` prints its port.

Over TLS, with the library websockets, in a process of its own: what it is to find out is whether the other side breaks.
It numbers what it says, and closes with 1008 when what it hears is not numbered on.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

SIZES = (10, 20_000, 300, 70_000)


async def talk(connection: ServerConnection) -> None:
    number = 0
    while True:
        params = {"n": number, "pad": "x" * SIZES[number % len(SIZES)]}
        await connection.send(json.dumps({"jsonrpc": "2.0", "method": "news", "params": params}))
        number += 1
        if number % len(SIZES) == 0:
            await asyncio.sleep(0)  # others want to talk as well


async def listen(connection: ServerConnection) -> None:
    expected = 0
    async for message in connection:
        found = json.loads(message)
        if "id" in found:
            answer = {"jsonrpc": "2.0", "id": found["id"], "result": {"heard": expected}}
            await connection.send(json.dumps(answer))
            continue
        params = found["params"]
        if params["n"] != expected or len(params["pad"]) != SIZES[expected % len(SIZES)]:
            await connection.close(1008, f"{params['n']}, not {expected}")
            return
        expected += 1


async def handle(connection: ServerConnection) -> None:
    talking = asyncio.create_task(talk(connection))
    try:
        await listen(connection)
    finally:
        talking.cancel()


async def main(chain: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    about: dict[str, Any] = {"subprotocols": ["mcp"], "max_size": None, "compression": None, "ping_interval": None}
    async with serve(handle, "127.0.0.1", 0, ssl=context, **about) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until the test ends


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
