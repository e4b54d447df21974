"""A server made with fastmcp, serving both protocol eras.

Over stdio; or over Streamable HTTP or HTTP+SSE: `fastmcp_server.py http PORT`, `fastmcp_server.py sse PORT`.

Environment: PEER_JOURNAL names a file the `slow` tool writes to, PEER_PAGE_SIZE makes lists come in pages.
"""

import os
import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import anyio
import mcp_types as types
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.prompts import Message
from fastmcp.tools import ToolResult
from fastmcp.utilities.types import Audio, File, Image
from pydantic import Field

PNG = b"\x89PNG\r\n\x1a\n"  # nobody looks further

mcp = FastMCP(
    "peer-fastmcp",
    version="1.0",
    instructions="A peer for tests.",
    list_page_size=int(os.environ.get("PEER_PAGE_SIZE") or 0) or None,
)
grown: list[str] = []


def journal(line: str) -> None:
    if path := os.environ.get("PEER_JOURNAL"):
        with open(path, "a") as file:
            file.write(line + "\n")


@dataclass
class Point:
    x: float
    y: float
    label: str | None = None


# Results of every shape


@mcp.tool
def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


@mcp.tool
def echo(text: str) -> str:
    """Return the text."""
    return text


@mcp.tool
def primes(below: int) -> list[int]:
    """List primes."""
    return [n for n in range(2, below) if all(n % d for d in range(2, n))]


@mcp.tool
def points(n: int) -> list[Point]:
    """Make points."""
    return [Point(i, -i) for i in range(n)]


@mcp.tool
def maybe(found: bool) -> str | None:
    """Return a text, or nothing."""
    return "here" if found else None


@mcp.tool
def point(x: float, y: float) -> Point:
    """Make a point."""
    return Point(x, y, "p")


@mcp.tool
def table() -> dict[str, int]:
    """Return an object of any keys."""
    return {"one": 1, "two": 2}


@mcp.tool
def nothing() -> None:
    """Return nothing."""


@mcp.tool(output_schema=None)
def plain(text: str) -> str:
    """Return the text, and only that."""
    return text


@mcp.tool(output_schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
def mixed(wrong: bool = False) -> ToolResult:
    """Return content, structured content and meta that differ."""
    return ToolResult(content="for people", structured_content={"n": "one" if wrong else 1}, meta={"cost": 7})


@mcp.tool
def media() -> list[Any]:
    """Return a picture, a sound, a file and a text."""
    return [Image(data=PNG, format="png"), Audio(data=b"RIFF", format="wav"), File(data=b"%PDF", format="pdf"), "done"]


@mcp.tool(output_schema=None)
def big(n: int) -> str:
    """Return n characters."""
    return "x" * n


@mcp.tool(title="The careful one", annotations={"readOnlyHint": True, "openWorldHint": False}, tags={"safe"})
def careful(
    size: Annotated[int, Field(ge=1, le=10, description="How many")], colour: Literal["red", "green"] = "red"
) -> str:
    """Take only what fits."""
    return f"{size} {colour}"


# Failures


@mcp.tool
def fail(message: str) -> str:
    """Fail with the message."""
    raise ToolError(message)


@mcp.tool
def crash() -> str:
    """Fail without care."""
    raise KeyError("no such thing")


@mcp.tool
def die(code: int = 3) -> str:
    """End the server process without an answer."""
    print("about to die", file=sys.stderr, flush=True)
    os._exit(code)


# Tools that use the connection while they run


@mcp.tool
async def slow(seconds: float) -> str:
    """Sleep; cancellable."""
    journal("started slow")
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        journal("cancelled slow")
        raise
    return f"slept {seconds}"


@mcp.tool
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await ctx.report_progress(i, n, f"step {i}")
    return f"counted {n}"


@mcp.tool
async def shout(text: str, ctx: Context) -> str:
    """Log the text at four levels."""
    await ctx.debug(text, logger_name="peer")
    await ctx.info(text, logger_name="peer", extra={"n": 1})
    await ctx.warning(text, logger_name="peer")
    await ctx.error(text, logger_name="peer")
    return "shouted"


@mcp.tool
async def grow(ctx: Context) -> str:
    """Add a tool and announce it."""
    name = f"grown_{len(grown) + 1}"
    grown.append(name)
    mcp.tool(lambda: name, name=name, description="Added at run time.")
    await ctx.send_notification(types.ToolListChangedNotification())
    return name


@mcp.tool
async def hide(ctx: Context) -> str:
    """Hide the tools that are tagged safe from this session."""
    await ctx.disable_components(tags={"safe"})
    return "hidden"


# Tools that need an answer of the client: they ask by a request in the handshake era, by a result in the stateless one


def stateless(ctx: Context) -> bool:
    assert ctx.request_context is not None
    return ctx.request_context.protocol_version >= "2026"


def form(message: str, name: str, kind: str) -> types.ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


@mcp.tool
async def ask_name(ctx: Context) -> str | types.InputRequiredResult:
    """Ask the user for a name."""
    if not stateless(ctx):
        asked = await ctx.elicit("What is your name?", str)
        return f"hello {asked.data}" if asked.action == "accept" else asked.action
    if ctx.input_responses is None:
        return types.InputRequiredResult(input_requests={"name": form("What is your name?", "value", "string")})
    answer = ctx.input_responses["name"]
    return f"hello {answer.content['value']}" if answer.action == "accept" else answer.action


@mcp.tool
async def choose(ctx: Context) -> str:
    """Ask the user to choose; handshake era only."""
    asked = await ctx.elicit("Which colour?", ["red", "green"], response_title="Colour")
    return asked.data if asked.action == "accept" else asked.action


@mcp.tool
async def think(prompt: str, ctx: Context) -> str | types.InputRequiredResult:
    """Let the model of the client answer the prompt."""
    messages = [types.SamplingMessage(role="user", content=types.TextContent(text=prompt))]
    if not stateless(ctx):
        answer = await ctx.session.create_message(
            messages, max_tokens=50, system_prompt="Be brief.", related_request_id=ctx.request_id
        )
        return f"{answer.model}: {answer.content.text}"
    if ctx.input_responses is None:
        params = types.CreateMessageRequestParams(messages=messages, max_tokens=50, system_prompt="Be brief.")
        return types.InputRequiredResult(input_requests={"thought": types.CreateMessageRequest(params=params)})
    answer = ctx.input_responses["thought"]
    return f"{answer.model}: {answer.content.text}"


@mcp.tool
async def where(ctx: Context) -> list[str] | types.InputRequiredResult:
    """List the roots of the client."""
    if not stateless(ctx):
        return [str(root.uri) for root in (await ctx.session.list_roots()).roots]
    if ctx.input_responses is None:
        return types.InputRequiredResult(input_requests={"roots": types.ListRootsRequest()})
    return [str(root.uri) for root in ctx.input_responses["roots"].roots]


@mcp.tool
async def interview(ctx: Context) -> str | types.InputRequiredResult:
    """Ask for two things at once, then for one that depends on them; stateless era only."""
    if ctx.request_state is None:
        questions = {"name": form("Name?", "name", "string"), "age": form("Age?", "age", "integer")}
        return types.InputRequiredResult(input_requests=questions, request_state="first")
    answers = ctx.input_responses or {}
    if ctx.request_state == "first":
        so_far = f"{answers['name'].content['name']}, {answers['age'].content['age']}"
        return types.InputRequiredResult(
            input_requests={"sure": form(f"{so_far}: sure?", "sure", "boolean")}, request_state=so_far
        )
    return f"{ctx.request_state}, {answers['sure'].content['sure']}"


# Resources, prompts, completion


@mcp.resource("memo://greeting", mime_type="text/plain")
def greeting() -> str:
    return "hello"


@mcp.resource("memo://binary", mime_type="application/octet-stream")
def binary() -> bytes:
    return bytes(range(256))


@mcp.resource("memo://broken")
def broken() -> str:
    raise ValueError("torn page")


@mcp.resource("memo://note/{name}", mime_type="text/plain")
def note(name: str) -> str:
    return f"note {name}"


@mcp.resource("memo://search{?query,limit}", mime_type="application/json")
def search(query: str = "", limit: int = 3) -> dict[str, Any]:
    return {"query": query, "limit": limit}


@mcp.prompt
def greet(name: str, times: int = 1) -> str:
    """Greet somebody."""
    return f"Say hello to {name} {times} times."


@mcp.prompt
def talk(topic: str) -> list[Any]:
    """Talk about a topic."""
    return [f"Tell me about {topic}.", Message("Well,", role="assistant")]


@mcp.completion
async def complete(ref: Any, argument: Any, context: Any) -> list[str]:
    names = ["alice", "albert", "bob"] if argument.name == "name" else []
    if context is not None and context.arguments:
        names = [name for name in names if name not in context.arguments.values()]
    return [name for name in names if name.startswith(argument.value)]


if __name__ == "__main__":
    if sys.argv[1:]:
        uvicorn = {"log_level": "info", "timeout_graceful_shutdown": 1}
        mcp.run(sys.argv[1], host="127.0.0.1", port=int(sys.argv[2]), show_banner=False, uvicorn_config=uvicorn)
    else:
        mcp.run("stdio", show_banner=False, log_level="ERROR")
