"""A server made with the official Python SDK 2.x, serving both protocol eras.

Over stdio; or over Streamable HTTP or HTTP+SSE: `sdk2_server.py http PORT`, `sdk2_server.py sse PORT`.

Environment: PEER_JOURNAL names a file the `slow` tool writes to, PEER_PAGE_SIZE makes
tools/list answer in pages. Over HTTP, PEER_JSON=1 makes the answers JSON, PEER_EVENTS=1 gives their
streams a memory, for a client that asks for the rest, and PEER_TLS="CERT KEY CA" makes it speak TLS,
with clients that the CA has certified.
"""

import base64
import os
import ssl
import sys
import warnings
from typing import Annotated, Any

import anyio
import mcp_types as types
from mcp.server.lowlevel import NotificationOptions
from mcp.server.mcpserver import Context, Elicit, ElicitationResult, Image, ListRoots, MCPServer, Resolve, Sample
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from pydantic import BaseModel, Field

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]

warnings.simplefilter("ignore", MCPDeprecationWarning)
mcp = MCPServer("peer-sdk2", version="1.0", instructions="A peer for tests.", log_level="ERROR")
low = mcp._lowlevel_server
log_level = "debug"  # handshake era, set by logging/setLevel
subscribed: set[str] = set()  # handshake era, set by resources/subscribe
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
    raise ToolError(message)  # the text of any other exception is withheld by SDK 2


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
    await ctx.notify_resource_updated(uri)  # modern era: the listen streams
    if uri in subscribed:
        await ctx.session.send_resource_updated(uri)  # handshake era; no-op in the modern one
    return f"touched {uri}"


@mcp.tool()
async def grow(ctx: Context) -> str:
    """Add a tool and announce it."""
    name = f"grown_{len(grown) + 1}"
    grown.append(name)
    mcp.add_tool(lambda: name, name=name, description="Added at run time.", structured_output=False)
    await ctx.notify_tools_changed()
    await ctx.session.send_tool_list_changed()
    return name


# Tools that need an answer of the client: a resolver asks by a request of the server in the
# handshake era, and by an input-required result in the modern one.


class Name(BaseModel):
    name: str


def name_form() -> Elicit[Name]:
    return Elicit("What is your name?", Name)


def thought(prompt: str) -> Sample:
    return Sample([types.SamplingMessage(role="user", content=types.TextContent(text=prompt))], max_tokens=50)


def roots() -> ListRoots:
    return ListRoots()


@mcp.tool()
async def ask_name(answer: Annotated[ElicitationResult[Name], Resolve(name_form)]) -> str:
    """Ask the user for a name."""
    if answer.action == "accept":
        return f"hello {answer.data.name}"
    return "declined" if answer.action == "decline" else "cancelled"


@mcp.tool()
async def think(prompt: str, answer: Annotated[types.CreateMessageResult, Resolve(thought)]) -> str:
    """Let the model of the client answer the prompt."""
    return getattr(answer.content, "text", "")


@mcp.tool()
async def where(answer: Annotated[types.ListRootsResult, Resolve(roots)]) -> str:
    """List the roots of the client."""
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
    return types.Completion(values=values, total=len(values), has_more=False)


# Methods the high-level server has no handler for


async def list_tools(ctx: Any, params: types.PaginatedRequestParams) -> types.ListToolsResult:
    tools = await mcp.list_tools()
    size = int(os.environ.get("PEER_PAGE_SIZE") or len(tools))
    cursors = {f"page-{i}": i for i in range(size, len(tools), size)}
    if params.cursor is not None and params.cursor not in cursors:
        raise MCPError(types.INVALID_PARAMS, "Invalid cursor")
    end = cursors.get(params.cursor, 0) + size
    return types.ListToolsResult(tools=tools[end - size : end], next_cursor=f"page-{end}" if end < len(tools) else None)


async def set_level(ctx: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
    global log_level
    log_level = params.level
    return types.EmptyResult()


async def subscribe(ctx: Any, params: Any) -> types.EmptyResult:
    (subscribed.add if ctx.method == "resources/subscribe" else subscribed.discard)(str(params.uri))
    return types.EmptyResult()


low.add_request_handler("tools/list", types.PaginatedRequestParams, list_tools)
low.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)
low.add_request_handler("resources/subscribe", types.SubscribeRequestParams, subscribe)
low.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, subscribe)


def options() -> Any:
    return make_options(NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True))


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
    return str((ctx.headers or {}).get(name))


async def region(name: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})], ctx: Context) -> str:
    """Return the name as the header has it."""
    return await header("mcp-param-region", ctx)


def serve(binding: str, port: str) -> None:
    import uvicorn
    from events import Events

    for tool in (part, header, region):
        mcp.tool()(tool)
    memory: dict[str, Any] = {"event_store": Events(), "retry_interval": 100} if os.environ.get("PEER_EVENTS") else {}
    as_json = bool(os.environ.get("PEER_JSON"))
    app = mcp.streamable_http_app(json_response=as_json, **memory) if binding == "http" else mcp.sse_app()
    tls: dict[str, Any] = {}
    if files := os.environ.get("PEER_TLS", "").split():
        names = ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs")
        tls = {**dict(zip(names, files, strict=True)), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    uvicorn.run(app, host="127.0.0.1", port=int(port), timeout_graceful_shutdown=1, **tls)


if __name__ == "__main__":
    if sys.argv[1:]:
        serve(*sys.argv[1:])
    else:
        anyio.run(main)
