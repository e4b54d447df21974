"""Our own client and our own server (weather_server.py, beside this file), over every transport.

Run it with ``make demo``, or after ``pip install 'mcp-sync-transports[examples]'``.
"""

import pathlib
import re
import subprocess
import sys
from concurrent.futures import as_completed
from contextlib import contextmanager

from mcp_sync import Client, DockerTransport
from mcp_sync.server import Server

SERVER = pathlib.Path(__file__).with_name("weather_server.py")


def main() -> None:
    tour_over_stdio()
    for transport, scheme, path in (("http", "http", "/mcp"), ("sse", "http", "/sse"), ("websocket", "ws", "/mcp")):
        with served_over(transport) as address, Client(f"{scheme}://{address}{path}", timeout=30.0) as client:
            show(transport, client)
    in_memory()
    in_a_container()


def tour_over_stdio() -> None:
    with Client([sys.executable, str(SERVER)], timeout=30.0, elicitation=say_a_name) as client:
        print(f"{client.server_info.name}: {client.instructions}")
        for tool in client.list_tools():
            print(f"  {tool.name}: {tool.description}")
        show("stdio", client)

        def report(done, of, city):
            print(f"  {done:g}/{of:g} {city}")

        print("tour:", client.call_tool("tour", on_progress=report).text)
        print("greet:", client.call_tool("greet").text)
        print("an error:", client.call_tool("get_weather", {"city": "Atlantis"}).text)

        futures = [client.submit_tool("get_weather", {"city": city}) for city in ("Oslo", "Lisbon", "Nairobi")]
        print("three at once:", sorted(future.result().data["temperature"] for future in as_completed(futures)))

    with Client([sys.executable, str(SERVER)], protocol_version="2025-11-25") as client:
        show("stdio", client)


def show(transport: str, client: Client) -> None:
    data = client.call_tool("get_weather", {"city": "Lisbon"}).data
    print(f"{transport}, {client.protocol_version}: {data['city']} is {data['sky']}, {data['temperature']:g} degrees")


def say_a_name(question):
    print(f"  the server asks: {question.message}")
    return {"name": "Ada"}


@contextmanager
def served_over(transport: str):
    """Start the server on a port that is free; it says which."""
    command = [sys.executable, str(SERVER), transport, "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if found := re.search(r"//(127\.0\.0\.1:\d+)", line):
                    yield found[1]
                    break
        finally:
            process.terminate()


def in_memory() -> None:
    server = Server("adder")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    with Client(server) as client:  # without a process, without a port: for tests
        print("in memory: add(1, 2) =", client.call_tool("add", {"a": 1, "b": 2}).data)


def in_a_container() -> None:
    import container_image

    if not container_image.engine_is_there():
        print("Docker: no engine is here")
        return
    transport = DockerTransport(container_image.make(SERVER), container_image.COMMAND, network="none", timeout=60.0)
    with Client(transport) as client:
        show("Docker", client)


if __name__ == "__main__":
    main()
