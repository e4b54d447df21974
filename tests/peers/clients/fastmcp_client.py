"""A client made with fastmcp, which plays a story and prints what it saw, as JSON.

`fastmcp_client.py auto http URL`, or `handshake` for the old era, and `sse URL` or `stdio COMMAND...`.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.messages import MessageHandler
from fastmcp.client.transports import SSETransport, StdioTransport, StreamableHttpTransport
from fastmcp.exceptions import ToolError
from fastmcp.skills import SkillsClientExtension
from fastmcp_tasks import call_tool_task  # importing it makes the client know tasks
from mcp import MCPError
from mcp.client.subscriptions import ResourceUpdated, listen

PATIENCE = 20.0

logs: list[str] = []
heard: list[str] = []
heard_of_both = asyncio.Event()


class Hearing(MessageHandler):
    async def on_tool_list_changed(self, message: Any) -> None:
        hear("tools")

    async def on_resource_updated(self, message: Any) -> None:
        hear(str(message.params.uri))


def hear(what: str) -> None:
    heard.append(what)
    if len(heard) >= 2:
        heard_of_both.set()


async def log(message: Any) -> None:
    logs.append(message.data if isinstance(message.data, str) else message.data["msg"])


async def elicit(message: str, response_type: Any, params: Any, context: Any) -> Any:
    wanted = params.requested_schema["properties"]
    return ElicitResult(action="accept", content={name: {"name": "Ada"}.get(name, "red") for name in wanted})


async def sample(messages: Any, params: Any, context: Any) -> str:
    return "Paris" if "France" in messages[0].content.text else "?"


def text(result: Any) -> str:
    return "".join(getattr(block, "text", f"<{block.type}>") for block in result.content)


async def call(client: Client, name: str, /, **arguments: Any) -> str:
    return text(await client.call_tool(name, arguments))


async def tools(client: Client) -> dict[str, Any]:
    listed = await client.list_tools()
    added = await client.call_tool("add", {"a": 1, "b": 2})
    forecast = await client.call_tool("forecast", {"city": "Oslo"})
    failed = await client.call_tool("fail", {"message": "no luck"}, raise_on_error=False)
    return {
        "tools": sorted(tool.name for tool in listed if not tool.name.startswith("grown")),
        "schema": next(tool.input_schema for tool in listed if tool.name == "forecast"),
        "add": [text(added), added.structured_content],
        "data": forecast.data.city,  # fastmcp makes objects by the output schema
        "forecast": forecast.structured_content,
        "fail": [failed.is_error, text(failed)],
        "bad_argument": await refusal(lambda: client.call_tool("add", {"a": "one", "b": 2})),
        "unknown_tool": await refusal(lambda: client.call_tool("nobody", {})),
        "picture": [block.type for block in (await client.call_tool("picture", {})).content],
        "region": await call(client, "region", name="Zürich"),
        "long": len(await call(client, "echo", text="é" * 200_000)),
    }


async def refusal(ask: Callable[[], Awaitable[Any]]) -> Any:
    try:
        await ask()
        return "result"
    except ToolError:
        return "is_error"
    except MCPError as error:
        return error.error.code


async def streams(client: Client) -> dict[str, Any]:
    steps: list[Any] = []

    async def step(progress: float, total: float | None, message: str | None) -> None:
        steps.append([progress, total, message])

    counted = await client.call_tool("count", {"to": 3}, progress_handler=step)
    seen = {"count": text(counted), "progress": list(steps), "logs": list(logs)}
    steps.clear()
    resumed = await client.call_tool("part", {"to": 4}, progress_handler=step)
    return {**seen, "part": [text(resumed), [done for done, _, _ in steps]]}


async def questions(client: Client) -> dict[str, Any]:
    names = ("ask_name", "ask_model", "several", "introduce")
    answers = {name: await call(client, name) for name in names}
    answers["ponder"] = await call(client, "ponder", question="?")
    found = await client.call_tool("roots", {})
    return {**answers, "roots": found.structured_content}


async def others(client: Client) -> dict[str, Any]:
    config, greeting, blob = [
        (await client.read_resource(uri))[0] for uri in ("config://app", "greeting://Ada", "memo://picture")
    ]
    prompt = await client.get_prompt("greet", {"name": "Ada"})
    of_prompt = types.PromptReference(type="ref/prompt", name="greet")
    of_template = types.ResourceTemplateReference(type="ref/resource", uri="greeting://{name}")
    return {
        "resources": sorted(str(one.uri) for one in await client.list_resources()),
        "templates": [one.uri_template for one in await client.list_resource_templates()],
        "config": [config.mime_type, json.loads(config.text)],
        "greeting": greeting.text,
        "blob": blob.blob[:8],
        "missing_resource": await refusal(lambda: client.read_resource("config://nothing")),
        "prompts": [[one.name, [argument.name for argument in one.arguments]] for one in await client.list_prompts()],
        "greet": prompt.messages[0].content.text,
        "completion": (await client.complete(of_prompt, {"name": "name", "value": "al"})).values,
        "cities": (await client.complete(of_template, {"name": "name", "value": "a"})).values,
    }


async def changes(client: Client) -> dict[str, Any]:
    """Have the server change, and hear of it."""
    if client.protocol_version >= "2026":
        async with listen(client.session, tools_list_changed=True, resource_subscriptions=["config://app"]) as changing:
            name = await change(client)
            events = [await anext(changing), await anext(changing)]
        seen = [event.uri if isinstance(event, ResourceUpdated) else "tools" for event in events]
    else:
        await client.session.subscribe_resource("config://app")
        name = await change(client)
        await heard_of_both.wait()
        await client.session.unsubscribe_resource("config://app")
        seen = heard[:2]
    called = await call(client, name)
    await call(client, "shrink", name=name)
    return {"changes": sorted(seen), "grown": called == name}


async def change(client: Client) -> str:
    name = await call(client, "grow")
    await call(client, "touch", uri="config://app")
    return name


async def tasks(client: Client) -> dict[str, Any]:
    """Have a tool run in the background, and answer what it asks."""
    task = await call_tool_task(client, "ponder", {"question": "!"})
    status = (await task.status()).status
    return {"task": [status in ("working", "input_required"), text(await task.result())]}


async def play(client: Client) -> dict[str, Any]:
    info = client.server_info
    seen: dict[str, Any] = {"version": client.protocol_version, "server": [info.name, info.version]}
    seen["instructions"] = client.instructions
    if client.protocol_version < "2026":
        await client.ping()
        await client.set_logging_level("info")
    for scene in (tools, streams, questions, others, changes):
        seen |= await scene(client)
    extensions = client.server_capabilities.extensions or {}
    if "io.modelcontextprotocol/tasks" in extensions:
        seen |= await tasks(client)
    if "io.modelcontextprotocol/skills" in extensions:
        skills = [await client.get_skill(skill.uri) for skill in await client.list_skills()]
        seen["skills"] = [skill.frontmatter.name for skill in skills]
    return seen


def target(binding: str, args: list[str]) -> Any:
    if binding == "stdio":
        return StdioTransport(args[0], args[1:], env=dict(os.environ), keep_alive=False)
    return {"http": StreamableHttpTransport, "sse": SSETransport}[binding](args[0])


async def main(era: str, binding: str, *args: str) -> None:
    client = Client(
        target(binding, list(args)),
        mode={"handshake": "legacy"}.get(era, era),
        roots=["file:///work"],
        sampling_handler=sample,
        elicitation_handler=elicit,
        log_handler=log,
        message_handler=Hearing(),
        extensions=[SkillsClientExtension()],
        timeout=PATIENCE,
    )
    async with asyncio.timeout(2 * PATIENCE), client:
        seen = await play(client)
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
