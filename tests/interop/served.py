"""A server of ours, for the clients of others.

Over stdio, or on a port of 127.0.0.1: `served.py stdio`, `served.py http PORT`, or `sse`, or `websocket`.

Environment: PEER_JOURNAL names a file that the `slow` tool writes to, PEER_SKILLS a folder of skills.
"""

from __future__ import annotations

import base64
import os
import sys
from dataclasses import dataclass
from itertools import count as numbers
from typing import Annotated, Any, Literal

from pydantic import Field

from mcp_sync import ToolError
from mcp_sync.server import Audio, Context, Elicit, Image, Roots, Sample, Server

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WAV = b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data\x02\0\0\0\x80\x80"
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
COLOUR = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "blue"], "default": "blue"}},
    "required": ["colour"],
}
CITIES = ["amsterdam", "athens", "berlin"]

server = Server("interop", version="1.0", instructions="For the clients of others.")
grown = numbers(1)


def journal(line: str) -> None:
    if path := os.environ.get("PEER_JOURNAL"):
        with open(path, "a") as file:
            file.write(line + "\n")


# -- tools that only compute ------------------------------------------------------------------------------------------


@dataclass
class Forecast:
    """What the weather will be."""

    city: str
    days: int
    unit: str


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def echo(text: str) -> str:
    """Return the text."""
    return text


@server.tool()
def forecast(city: str, days: int = 3, unit: Literal["celsius", "fahrenheit"] = "celsius") -> Forecast:
    """Tell the weather.

    Args:
        city: Where.
        days: How far ahead.
        unit: Of the temperatures.
    """
    return Forecast(city, days, unit)


@server.tool()
def fail(message: str) -> str:
    """Fail with the message."""
    raise ToolError(message)


@server.tool()
def picture() -> list[Image | Audio]:
    """Return a picture of one pixel, and a sound."""
    return [Image(PNG), Audio(WAV)]


@server.tool()
def region(name: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})], context: Context) -> str:
    """Return the name as the header of the request has it; over stdio there is none."""
    return context.headers.get("mcp-param-region", "no header")


# -- tools that use the connection while they run ---------------------------------------------------------------------


@server.tool()
def count(to: int, context: Context) -> str:
    """Report progress, and log, so many times."""
    for n in range(1, to + 1):
        context.progress(n, to, f"step {n}")
        context.info(f"counted {n}")
    return f"counted to {to}"


@server.tool()
def part(to: int, context: Context) -> str:
    """Close the stream of the response half way; what comes then is for whoever asks for the rest."""
    for n in range(1, to + 1):
        context.progress(n, to, f"step {n}")
        if n == to // 2:
            context.close_stream(retry=0.1)
    return "whole"


@server.tool()
def slow(seconds: float, context: Context) -> str:
    """Wait; can be cancelled."""
    journal("started slow")
    if context.wait(seconds):
        journal("cancelled slow")
    return f"waited {seconds}"


@server.tool()
def grow() -> str:
    """Add a tool."""
    name = f"grown_{next(grown)}"

    def tool() -> str:
        """Return its own name."""
        return name

    tool.__name__ = name
    server.add_tool(tool)
    return name


@server.tool()
def shrink(name: str) -> str:
    """Remove a tool."""
    server.remove_tool(name)
    return name


@server.tool()
def touch(uri: str) -> str:
    """Announce that a resource has changed."""
    server.resource_updated(uri)
    return uri


# -- tools that need an answer of the client --------------------------------------------------------------------------


@server.tool()
def ask_name(context: Context) -> str:
    """Ask the user for a name."""
    answer = context.elicit("Your name?", NAME)
    return f"hello {answer.content['name']}" if answer.action == "accept" else answer.action


@server.tool()
def ask_model(context: Context) -> str:
    """Ask the model of the client."""
    return context.sample("Capital of France?", max_tokens=20).text


@server.tool()
def roots(context: Context) -> list[str]:
    """List the roots of the client."""
    return [str(root.uri) for root in context.roots()]


@server.tool()
def several(context: Context) -> str:
    """Ask three things at once."""
    answers = context.ask(
        user_name=Elicit("Your name?", NAME),
        greeting=Sample("Capital of France?", max_tokens=20),
        client_roots=Roots(),
    )
    name, greeting, found = answers["user_name"], answers["greeting"], answers["client_roots"]
    return f"{name.content['name']}, {greeting.text}, {len(list(found))}"


@server.tool()
def introduce(context: Context) -> str:
    """Ask two things, one after the other, and remember something in between."""
    name = context.elicit("Your name?", NAME, key="name").content["name"]
    context.state["first"] = name
    colour = context.elicit("Your colour?", COLOUR, key="colour").content["colour"]
    return f"{context.state['first']} likes {colour}"


@server.tool(task="optional")
def ponder(question: str, context: Context) -> str:
    """Answer when there is time, and the user has said who wants to know."""
    answer = context.elicit("Your name?", NAME)
    return f"{question} {answer.content['name']}: 42"


# -- resources, prompts, completion -----------------------------------------------------------------------------------


@server.resource("config://app", mime_type="application/json")
def config() -> dict[str, Any]:
    """The configuration."""
    return {"theme": "dark"}


@server.resource("memo://picture", mime_type="image/png")
def pixel() -> bytes:
    """A picture of one pixel."""
    return PNG


@server.resource("greeting://{name}")
def greeting(name: str) -> str:
    """Greet somebody."""
    return f"Hello, {name}!"


@server.prompt()
def greet(name: str) -> str:
    """Ask for a greeting."""
    return f"Say hello to {name}."


@server.completion("greet", "name")
def names(value: str) -> list[str]:
    return [name for name in ("alice", "albert", "bob") if name.startswith(value)]


@server.completion("greeting://{name}", "name")
def cities(value: str) -> list[str]:
    return [city for city in CITIES if city.startswith(value)]


if folder := os.environ.get("PEER_SKILLS"):
    server.add_skills(folder)


def main(binding: str, port: str = "0") -> None:
    if binding == "stdio":
        server.run("stdio")
    else:
        server.run(binding, host="127.0.0.1", port=int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
