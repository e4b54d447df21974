"""A client made with the official Python SDK 1.x, which plays a story and prints what it saw, as JSON.

`sdk1_client.py handshake http URL`, or `sse URL`, `websocket URL` or `stdio COMMAND...`; this SDK knows the old era
only.
"""

import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
from mcp import ClientSession, StdioServerParameters, types
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.websocket import websocket_client
from mcp.shared.exceptions import McpError
from pydantic import AnyUrl

PATIENCE = timedelta(seconds=20)

logs: list[str] = []
heard: list[str] = []


async def log(params: types.LoggingMessageNotificationParams) -> None:
    logs.append(str(params.data))


async def hear(message: Any) -> None:
    if isinstance(message, types.ServerNotification):
        if isinstance(message.root, types.ToolListChangedNotification):
            heard.append("tools")
        elif isinstance(message.root, types.ResourceUpdatedNotification):
            heard.append(str(message.root.params.uri))


async def elicit(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    wanted = params.requestedSchema["properties"]
    return types.ElicitResult(action="accept", content={name: {"name": "Ada"}.get(name, "red") for name in wanted})


async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    asked = params.messages[0].content
    answer = "Paris" if "France" in getattr(asked, "text", "") else "?"
    content = types.TextContent(type="text", text=answer)
    return types.CreateMessageResult(role="assistant", content=content, model="m")


async def roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri=AnyUrl("file:///work"), name="work")])


def text(result: types.CallToolResult) -> str:
    return "".join(getattr(block, "text", f"<{block.type}>") for block in result.content)


async def call(client: ClientSession, name: str, /, **arguments: Any) -> str:
    return text(await client.call_tool(name, arguments))


async def tools(client: ClientSession) -> dict[str, Any]:
    listed = (await client.list_tools()).tools
    added = await client.call_tool("add", {"a": 1, "b": 2})
    forecast = await client.call_tool("forecast", {"city": "Oslo"})
    failed = await client.call_tool("fail", {"message": "no luck"})
    return {
        "tools": sorted(tool.name for tool in listed if not tool.name.startswith("grown")),
        "schema": next(tool.inputSchema for tool in listed if tool.name == "forecast"),
        "add": [text(added), added.structuredContent],
        "forecast": forecast.structuredContent,
        "fail": [failed.isError, text(failed)],
        "bad_argument": await refusal(lambda: client.call_tool("add", {"a": "one", "b": 2})),
        "unknown_tool": await refusal(lambda: client.call_tool("nobody", {})),
        "picture": [block.type for block in (await client.call_tool("picture", {})).content],
        "region": await call(client, "region", name="Zürich"),
        "long": len(await call(client, "echo", text="é" * 200_000)),
    }


async def refusal(ask: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return "is_error" if getattr(await ask(), "isError", False) else "result"
    except McpError as error:
        return error.error.code


async def streams(client: ClientSession) -> dict[str, Any]:
    steps: list[Any] = []

    async def step(progress: float, total: float | None, message: str | None) -> None:
        steps.append([progress, total, message])

    counted = await client.call_tool("count", {"to": 3}, progress_callback=step)
    seen = {"count": text(counted), "progress": list(steps), "logs": list(logs)}
    steps.clear()
    resumed = await client.call_tool("part", {"to": 4}, progress_callback=step)
    return {**seen, "part": [text(resumed), [done for done, _, _ in steps]]}


async def questions(client: ClientSession) -> dict[str, Any]:
    names = ("ask_name", "ask_model", "several", "introduce")
    answers = {name: await call(client, name) for name in names}
    answers["ponder"] = await call(client, "ponder", question="?")
    found = await client.call_tool("roots", {})
    return {**answers, "roots": found.structuredContent}


async def others(client: ClientSession) -> dict[str, Any]:
    config = (await client.read_resource(AnyUrl("config://app"))).contents[0]
    greeting = (await client.read_resource(AnyUrl("greeting://Ada"))).contents[0]
    blob = (await client.read_resource(AnyUrl("memo://picture"))).contents[0]
    prompts = (await client.list_prompts()).prompts
    prompt = await client.get_prompt("greet", {"name": "Ada"})
    of_prompt = types.PromptReference(type="ref/prompt", name="greet")
    of_template = types.ResourceTemplateReference(type="ref/resource", uri="greeting://{name}")
    return {
        "resources": sorted(str(one.uri) for one in (await client.list_resources()).resources),
        "templates": [one.uriTemplate for one in (await client.list_resource_templates()).resourceTemplates],
        "config": [config.mimeType, json.loads(config.text)],
        "greeting": greeting.text,
        "blob": blob.blob[:8],
        "missing_resource": await refusal(lambda: client.read_resource(AnyUrl("config://nothing"))),
        "prompts": [[one.name, [argument.name for argument in one.arguments]] for one in prompts],
        "greet": prompt.messages[0].content.text,
        "completion": (await client.complete(of_prompt, {"name": "name", "value": "al"})).completion.values,
        "cities": (await client.complete(of_template, {"name": "name", "value": "a"})).completion.values,
    }


async def changes(client: ClientSession) -> dict[str, Any]:
    """Have the server change, and hear of it."""
    await client.subscribe_resource(AnyUrl("config://app"))
    name = await call(client, "grow")
    await call(client, "touch", uri="config://app")
    await until_heard_of(2)
    await client.unsubscribe_resource(AnyUrl("config://app"))
    seen = heard[:2]
    called = await call(client, name)
    await call(client, "shrink", name=name)
    await until_heard_of(3)  # a notice that comes while this client closes breaks it
    return {"changes": sorted(seen), "grown": called == name}


async def until_heard_of(number: int) -> None:
    while len(heard) < number:
        await anyio.sleep(0.02)


async def play(client: ClientSession, begun: types.InitializeResult) -> dict[str, Any]:
    seen: dict[str, Any] = {"version": begun.protocolVersion, "instructions": begun.instructions}
    seen["server"] = [begun.serverInfo.name, begun.serverInfo.version]
    await client.send_ping()
    await client.set_logging_level("info")
    for scene in (tools, streams, questions, others, changes):
        seen |= await scene(client)
    return seen


@asynccontextmanager
async def streams_of(binding: str, args: list[str]) -> Any:
    if binding == "stdio":
        opened = stdio_client(StdioServerParameters(command=args[0], args=args[1:], env=dict(os.environ)))
    else:
        clients = {"http": streamable_http_client, "sse": sse_client, "websocket": websocket_client}
        opened = clients[binding](args[0])
    async with opened as opened_streams:
        yield opened_streams[:2]


async def main(era: str, binding: str, *args: str) -> None:
    with anyio.fail_after(2 * PATIENCE.total_seconds()):
        async with streams_of(binding, list(args)) as (read, write):
            callbacks: dict[str, Any] = {"sampling_callback": sample, "elicitation_callback": elicit}
            callbacks |= {"list_roots_callback": roots, "logging_callback": log, "message_handler": hear}
            async with ClientSession(read, write, PATIENCE, **callbacks) as client:
                seen = await play(client, await client.initialize())
    print(json.dumps(seen))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    anyio.run(main, *sys.argv[1:])
