"""Start a server, list its tools, call one: once in each era of the protocol.

The server (sdk_server.py, beside this file) is made with the official Python SDK. Run it with ``make demo``, or after
``pip install 'mcp-sync-transports[examples]'``.
"""

import pathlib
import sys
from concurrent.futures import as_completed

from mcp_sync import Client

SERVER = [sys.executable, str(pathlib.Path(__file__).with_name("sdk_server.py"))]


def main() -> None:
    with Client(SERVER, timeout=30.0) as client:
        print(f"{client.server_info.name} speaks {client.protocol_version}")
        for tool in client.list_tools():
            print(f"  {tool.name}: {tool.description}")

        result = client.call_tool("add", {"a": 1, "b": 2}, timeout=5)
        print("add(1, 2) =", result.data)
        print("weather:", client.call_tool("weather", {"city": "Lisbon"}).data)

        def report(progress: float, total: float | None, message: str | None) -> None:
            print(f"  {progress:g} of {total:g}: {message}")

        print(client.call_tool("countdown", {"n": 3}, on_progress=report).text)

        futures = [client.submit_tool("add", {"a": n, "b": n}) for n in range(5)]
        print("five at once:", sorted(future.result().data for future in as_completed(futures)))

    with Client(SERVER, protocol_version="2025-11-25") as client:
        print(f"the same server, asked for {client.protocol_version}: add(3, 4) =", end=" ")
        print(client.call_tool("add", {"a": 3, "b": 4}).data)


if __name__ == "__main__":
    main()
