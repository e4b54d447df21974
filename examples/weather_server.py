"""A small MCP server: tools, a resource, a prompt.

One program, whatever the transport::

    python examples/weather_server.py                  # over stdio, as desktop applications start it
    python examples/weather_server.py http 8000        # Streamable HTTP: http://127.0.0.1:8000/mcp
    python examples/weather_server.py sse 8000         # for older clients: http://127.0.0.1:8000/sse
    python examples/weather_server.py websocket 8000   # ws://127.0.0.1:8000/mcp

All but stdio need the extra: ``pip install 'mcp-sync-transports[server]'``.
"""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from mcp_sync.server import Context, Server

server = Server("weather-service", version="1.0", instructions="Knows the weather of a few cities.")

CELSIUS = {"Lisbon": 21, "Oslo": 4, "Nairobi": 24}


@dataclass
class Weather:
    city: str
    sky: str
    temperature: float
    unit: Literal["celsius", "fahrenheit"]


@server.tool()
def get_weather(
    city: Annotated[str, "The name of the city"], unit: Literal["celsius", "fahrenheit"] = "celsius"
) -> Weather:
    """Get the weather for a city."""
    if city not in CELSIUS:
        raise ValueError(f"nobody has looked out of a window in {city}; ask for one of {', '.join(CELSIUS)}")
    degrees = CELSIUS[city]
    return Weather(city, "sunny", degrees if unit == "celsius" else degrees * 9 / 5 + 32, unit)


@server.tool()
def tour(context: Context) -> str:
    """Look at the sky of every city, with a report for each."""
    for number, city in enumerate(CELSIUS, 1):
        context.progress(number, len(CELSIUS), city)
        if context.wait(0.05):  # nobody wants to know any more
            break
    return f"it is sunny in {', '.join(CELSIUS)}"


@server.tool()
def greet(context: Context) -> str:
    """Ask the user for a name, and say hello."""
    answer = context.elicit("What is your name?", {"type": "object", "properties": {"name": {"type": "string"}}})
    return f"Hello {answer.content['name']}!" if answer.accepted else "Hello, whoever you are!"


@server.resource("weather://{city}", mime_type="application/json")
def report(city: str) -> dict[str, object]:
    """The weather report of a city."""
    return {"city": city, "celsius": CELSIUS.get(city)}


@server.prompt()
def packing(city: str, days: int) -> str:
    """What to pack for a journey."""
    return f"I travel to {city} for {days} days. Look at the weather there and tell me what to pack."


@server.completion("packing", "city")
def cities(value: str) -> list[str]:
    return [city for city in CELSIUS if city.lower().startswith(value.lower())]


if __name__ == "__main__":
    transport = sys.argv[1] if len(sys.argv) > 1 else "stdio"
    options = {"port": int(sys.argv[2])} if len(sys.argv) > 2 else {}
    server.run(transport, **options)
