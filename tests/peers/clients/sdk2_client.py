"""A client made with the official Python SDK 2.x, which plays a story and prints what it saw, as JSON.

`sdk2_client.py auto http URL`, or `handshake` for the old era, and `sse URL` or `stdio COMMAND...`.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.subscriptions import ResourceUpdated
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

warnings.simplefilter("ignore", MCPDeprecationWarning)
PATIENCE = 20.0
META = {"io.modelcontextprotocol/logLevel": "info"}

logs: list[str] = []
heard: list[str] = []


async def log(params: types.LoggingMessageNotificationParams) -> None:
    logs.append(str(params.data))


async def hear(message: Any) -> None:
    if isinstance(message, types.ToolListChangedNotification):
        heard.append("tools")
    elif isinstance(message, types.ResourceUpdatedNotification):
        heard.append(str(message.params.uri))


async def elicit(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    wanted = params.requested_schema["properties"]
    return types.ElicitResult(action="accept", content={name: {"name": "Ada"}.get(name, "red") for name in wanted})


async def sample(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    asked = params.messages[0].content
    text = "Paris" if "France" in getattr(asked, "text", "") else "?"
    return types.CreateMessageResult(role="assistant", content=types.TextContent(text=text), model="m")


async def roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri="file:///work", name="work")])


def text(result: types.CallToolResult) -> str:
    return "".join(getattr(block, "text", f"<{block.type}>") for block in result.content)


async def call(client: Client, name: str, /, **arguments: Any) -> str:
    return text(await client.call_tool(name, arguments))


async def tools(client: Client) -> dict[str, Any]:
    listed = (await client.list_tools()).tools
    added = await client.call_tool("add", {"a": 1, "b": 2})
    forecast = await client.call_tool("forecast", {"city": "Oslo"})
    failed = await client.call_tool("fail", {"message": "no luck"})
    bad = await refusal(lambda: client.call_tool("add", {"a": "one", "b": 2}))
    unknown = await refusal(lambda: client.call_tool("nobody", {}))
    return {
        "tools": sorted(tool.name for tool in listed if not tool.name.startswith("grown")),
        "schema": next(tool.input_schema for tool in listed if tool.name == "forecast"),
        "add": [text(added), added.structured_content],
        "forecast": forecast.structured_content,
        "fail": [failed.is_error, text(failed)],
        "bad_argument": bad,
        "unknown_tool": unknown,
        "picture": [block.type for block in (await client.call_tool("picture", {})).content],
        "region": await call(client, "region", name="Zürich"),
        "long": len(await call(client, "echo", text="é" * 200_000)),
    }


async def refusal(ask: Callable[[], Awaitable[types.CallToolResult]]) -> Any:
    try:
        return "result" if not (await ask()).is_error else "is_error"
    except MCPError as error:
        return error.error.code


async def streams(client: Client) -> dict[str, Any]:
    steps: list[Any] = []

    async def step(progress: float, total: float | None, message: str | None) -> None:
        steps.append([progress, total, message])

    counted = await client.call_tool("count", {"to": 3}, progress_callback=step, meta=META)
    seen = {"count": text(counted), "progress": list(steps), "logs": list(logs)}
    steps.clear()
    resumed = await client.call_tool("part", {"to": 4}, progress_callback=step)
    return {**seen, "part": [text(resumed), [done for done, _, _ in steps]]}


async def questions(client: Client) -> dict[str, Any]:
    names = ("ask_name", "ask_model", "several", "introduce")
    answers = {name: await call(client, name) for name in names}
    answers["ponder"] = await call(client, "ponder", question="?")
    found = await client.call_tool("roots", {})
    return {**answers, "roots": found.structured_content}


async def others(client: Client) -> dict[str, Any]:
    read = [(await client.read_resource(uri)).contents[0] for uri in ("config://app", "greeting://Ada")]
    blob = (await client.read_resource("memo://picture")).contents[0]
    prompt = await client.get_prompt("greet", {"name": "Ada"})
    of_prompt = types.PromptReference(type="ref/prompt", name="greet")
    of_template = types.ResourceTemplateReference(type="ref/resource", uri="greeting://{name}")
    missing = await refusal(lambda: client.read_resource("config://nothing"))  # type: ignore[arg-type,return-value]
    return {
        "resources": sorted(str(one.uri) for one in (await client.list_resources()).resources),
        "templates": [one.uri_template for one in (await client.list_resource_templates()).resource_templates],
        "config": [read[0].mime_type, json.loads(read[0].text)],
        "greeting": read[1].text,
        "blob": blob.blob[:8],
        "missing_resource": missing,
        "prompts": [[one.name, [argument.name for argument in one.arguments]] for one in await prompts(client)],
        "greet": prompt.messages[0].content.text,
        "completion": (await client.complete(of_prompt, {"name": "name", "value": "al"})).completion.values,
        "cities": (await client.complete(of_template, {"name": "name", "value": "a"})).completion.values,
    }


async def prompts(client: Client) -> list[types.Prompt]:
    return (await client.list_prompts()).prompts


async def changes(client: Client) -> dict[str, Any]:
    """Have the server change, and hear of it."""
    if client.protocol_version >= "2026":
        events: list[Any] = []
        async with client.listen(tools_list_changed=True, resource_subscriptions=["config://app"]) as listening:
            name = await call(client, "grow")
            await call(client, "touch", uri="config://app")
            async for event in listening:
                events.append(event)
                if len(events) == 2:
                    break
        seen = [event.uri if isinstance(event, ResourceUpdated) else "tools" for event in events]
    else:
        await client.subscribe_resource("config://app")
        name = await call(client, "grow")
        await call(client, "touch", uri="config://app")
        while len(heard) < 2:
            await anyio.sleep(0.02)
        await client.unsubscribe_resource("config://app")
        seen = heard[:2]
    called = await call(client, name)
    await call(client, "shrink", name=name)
    return {"changes": sorted(seen), "grown": called == name}


async def cancelled(client: Client) -> dict[str, Any]:
    try:
        await client.call_tool("slow", {"seconds": 30}, read_timeout_seconds=0.5)
    except MCPError as error:
        await call(client, "echo", text="closing at once might hold back the cancellation")
        return {"slow": error.error.code}
    return {"slow": "it came"}


async def play(client: Client) -> dict[str, Any]:
    info = client.server_info
    seen: dict[str, Any] = {"version": client.protocol_version, "server": [info.name, info.version]}
    seen["instructions"] = client.instructions
    if client.protocol_version < "2026":
        await client.send_ping()
        await client.set_logging_level("info")
    for scene in (tools, streams, questions, others, changes, cancelled):
        seen |= await scene(client)
    return seen


def target(binding: str, args: list[str]) -> Any:
    if binding == "stdio":
        return StdioServerParameters(command=args[0], args=args[1:], env=dict(os.environ))
    return args[0] if binding == "http" else sse_client(args[0])


async def main(era: str, binding: str, *args: str) -> None:
    client = Client(
        target(binding, list(args)),
        mode={"handshake": "legacy"}.get(era, era),
        sampling_callback=sample,
        list_roots_callback=roots,
        elicitation_callback=elicit,
        logging_callback=log,
        message_handler=hear,
        read_timeout_seconds=PATIENCE,
    )
    with anyio.fail_after(2 * PATIENCE):
        async with client:
            seen = await play(client)
    print(json.dumps(seen))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    anyio.run(main, *sys.argv[1:])
