"""A server made with the official Python SDK 1.x, which serves the handshake era only.

Over stdio; or over Streamable HTTP, HTTP+SSE or WebSocket: `sdk1_server.py http PORT`, or `sse`, or `ws`.

Environment: PEER_JOURNAL names a file the `slow` tool writes to, PEER_PAGE_SIZE makes
tools/list answer in pages. Over HTTP, PEER_JSON=1 makes the answers JSON, and PEER_EVENTS=1 gives
their streams a memory, for a client that asks for the rest.
"""

import base64
import os
import sys
from typing import Any

import anyio
from mcp import types
from mcp.server.fastmcp import Context, FastMCP, Image
from mcp.server.lowlevel import NotificationOptions
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import McpError
from pydantic import AnyUrl, BaseModel

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]

mcp = FastMCP("peer-sdk1", instructions="A peer for tests.", log_level="ERROR")
low = mcp._mcp_server
low.version = "1.0"
log_level = "debug"  # set by logging/setLevel
subscribed: set[str] = set()  # set by resources/subscribe
grown: list[str] = []


def journal(line: str) -> None:
    if path := os.environ.get("PEER_JOURNAL"):
        with open(path, "a") as file:
            file.write(line + "\n")


class Point(BaseModel):
    x: float
    y: float


@mcp.tool()
def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


@mcp.tool()
def point(x: float, y: float) -> Point:
    """Make a point."""
    return Point(x=x, y=y)


@mcp.tool()
def echo(text: str) -> str:
    """Return the text."""
    return text


@mcp.tool()
def fail(message: str) -> str:
    """Fail with the message."""
    raise ValueError(message)


@mcp.tool(structured_output=False)
def image() -> Image:
    """Return a picture of one pixel."""
    return Image(data=PNG, format="png")


@mcp.tool(structured_output=False)
def big(n: int) -> str:
    """Return n characters."""
    return "x" * n


@mcp.tool()
def die(code: int = 3) -> str:
    """End the server process without an answer."""
    print("about to die", file=sys.stderr, flush=True)
    os._exit(code)


# Tools that use the connection while they run


@mcp.tool()
async def slow(seconds: float) -> str:
    """Sleep; cancellable."""
    journal("started slow")
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        journal("cancelled slow")
        raise
    return f"slept {seconds}"


@mcp.tool()
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await ctx.report_progress(i, n, f"step {i}")
    return f"counted {n}"


@mcp.tool()
async def shout(text: str, ctx: Context) -> str:
    """Log the text at four levels."""
    for level in ("debug", "info", "warning", "error"):
        if LEVELS.index(level) >= LEVELS.index(log_level):
            await ctx.log(level, text, logger_name="peer")
    return "shouted"


@mcp.tool()
async def touch_resource(uri: str, ctx: Context) -> str:
    """Announce an update of the resource, to its subscribers."""
    if uri in subscribed:
        await ctx.session.send_resource_updated(AnyUrl(uri))
    return f"touched {uri}"


@mcp.tool()
async def grow(ctx: Context) -> str:
    """Add a tool and announce it."""
    name = f"grown_{len(grown) + 1}"
    grown.append(name)
    mcp.add_tool(lambda: name, name=name, description="Added at run time.", structured_output=False)
    await ctx.session.send_tool_list_changed()
    return name


# Tools that need an answer of the client


class Name(BaseModel):
    name: str


@mcp.tool()
async def ask_name(ctx: Context) -> str:
    """Ask the user for a name."""
    answer = await ctx.elicit("What is your name?", Name)
    if answer.action == "accept":
        return f"hello {answer.data.name}"
    return "declined" if answer.action == "decline" else "cancelled"


@mcp.tool()
async def think(prompt: str, ctx: Context) -> str:
    """Let the model of the client answer the prompt."""
    question = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=prompt))
    answer = await ctx.session.create_message([question], max_tokens=50, related_request_id=ctx.request_id)
    return getattr(answer.content, "text", "")


@mcp.tool()
async def where(ctx: Context) -> str:
    """List the roots of the client."""
    answer = await ctx.session.list_roots()
    return "\n".join(str(root.uri) for root in answer.roots)


@mcp.resource("memo://greeting", mime_type="text/plain")
def greeting() -> str:
    return "hello"


@mcp.resource("memo://binary", mime_type="application/octet-stream")
def binary() -> bytes:
    return bytes(range(256))


@mcp.resource("memo://note/{name}", mime_type="text/plain")
def note(name: str) -> str:
    return f"note {name}"


@mcp.prompt()
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Say hello to {name}."


@mcp.completion()
async def complete(ref: Any, argument: Any, context: Any) -> types.Completion:
    names = ["alice", "albert", "bob"] if argument.name == "name" else []
    values = [name for name in names if name.startswith(argument.value)]
    return types.Completion(values=values, total=len(values), hasMore=False)


# Methods the high-level server has no handler for


@low.list_tools()
async def list_tools(request: types.ListToolsRequest) -> types.ListToolsResult:
    tools = await mcp.list_tools()
    if request is None:  # the SDK itself, to fill its cache of output schemas
        return types.ListToolsResult(tools=tools)
    cursor = request.params.cursor if request.params else None
    size = int(os.environ.get("PEER_PAGE_SIZE") or len(tools))
    cursors = {f"page-{i}": i for i in range(size, len(tools), size)}
    if cursor is not None and cursor not in cursors:
        raise McpError(types.ErrorData(code=types.INVALID_PARAMS, message="Invalid cursor"))
    end = cursors.get(cursor, 0) + size
    return types.ListToolsResult(tools=tools[end - size : end], nextCursor=f"page-{end}" if end < len(tools) else None)


@low.set_logging_level()
async def set_level(level: str) -> None:
    global log_level
    log_level = level


@low.subscribe_resource()
async def subscribe(uri: AnyUrl) -> None:
    subscribed.add(str(uri))


@low.unsubscribe_resource()
async def unsubscribe(uri: AnyUrl) -> None:
    subscribed.discard(str(uri))


def options() -> Any:
    made = make_options(NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True))
    made.capabilities.resources.subscribe = True  # this SDK always says False
    return made


make_options, low.create_initialization_options = low.create_initialization_options, options


async def main() -> None:
    async with stdio_server() as (read, write):
        print("peer ready", file=sys.stderr, flush=True)
        await low.run(read, write, low.create_initialization_options())


# Over HTTP


async def part(n: int, ctx: Context) -> str:
    """Close the stream of the response after n reports; what comes then is for whoever asks for the rest."""
    for i in range(1, n + 1):
        await ctx.report_progress(i, 2 * n, f"step {i}")
    await ctx.close_sse_stream()
    for i in range(n + 1, 2 * n + 1):
        await ctx.report_progress(i, 2 * n, f"step {i}")
    return "whole"


async def header(name: str, ctx: Context) -> str:
    """Return a header of this call's own request."""
    return str(ctx.request_context.request.headers.get(name))


async def websocket(connection: Any) -> None:
    from mcp.server.websocket import websocket_server

    async with websocket_server(connection.scope, connection.receive, connection._send) as (read, write):
        await low.run(read, write, low.create_initialization_options())


def websocket_app() -> Any:
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute

    return Starlette(routes=[WebSocketRoute("/mcp", websocket)])


def serve(binding: str, port: str) -> None:
    import uvicorn
    from events import Events

    mcp.tool()(part)
    mcp.tool()(header)
    mcp.settings.json_response = bool(os.environ.get("PEER_JSON"))
    if os.environ.get("PEER_EVENTS"):
        mcp._event_store, mcp._retry_interval = Events(), 100
    app = {"http": mcp.streamable_http_app, "sse": mcp.sse_app, "ws": websocket_app}[binding]()
    uvicorn.run(app, host="127.0.0.1", port=int(port), timeout_graceful_shutdown=1)


if __name__ == "__main__":
    if sys.argv[1:]:
        serve(*sys.argv[1:])
    else:
        anyio.run(main)
