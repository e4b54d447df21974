"""Application code: a server with something of everything, and a client's callbacks. No lock may be held in here."""

from __future__ import annotations

import threading
from typing import Any

from mcp_sync import Client
from mcp_sync.server import Context, Server


def server() -> Server:
    """Return a server whose tools use what there is."""
    made = Server("whole", version="1.0")

    @made.tool()
    def echo(text: str) -> str:
        return text

    @made.tool()
    def work(context: Context, steps: int) -> str:
        for step in range(steps):
            context.progress(step, steps, "on the way")
            context.info({"step": step})
        return "done"

    @made.tool()
    def wait(context: Context) -> str:
        context.wait(5.0)
        return "late"

    @made.tool()
    def fail() -> str:
        raise ValueError("no")

    @made.tool()
    def ask(context: Context) -> str:
        return str(context.sample("What?", max_tokens=5).text)

    @made.tool()
    def change() -> str:
        made.tools_changed()
        made.resource_updated("state://x")
        return "changed"

    @made.resource("state://x", mime_type="text/plain")
    def state() -> str:
        return "x"

    @made.prompt()
    def greet(name: str) -> str:
        return f"Hello {name}"

    return made


class Ears:
    """What a client is told."""

    def __init__(self) -> None:
        self.heard = 0
        self.client: Client | None = None

    def notification(self, news: Any) -> None:
        self.heard += 1

    def log(self, *news: Any) -> None:
        self.heard += 1

    def sampling(self, asked: Any) -> str:
        return "that"

    def progress(self, *steps: Any) -> None:
        self.heard += 1

    def observe(self, event: Any) -> None:
        self.heard += 1

    def done(self, future: Any) -> None:
        self.heard += 1

    def stderr(self, line: str) -> None:
        self.heard += 1

    def health(self, event: str, data: Any) -> None:
        self.heard += 1


def hooks(ears: Ears) -> dict[str, Any]:
    """Return the keywords of a client that listens to everything."""
    return {"on_notification": ears.notification, "on_log": ears.log, "sampling": ears.sampling}


def use(client: Client, ears: Ears, over: threading.Event) -> None:
    """Do once what a client can do."""
    assert client.call_tool("echo", {"text": "a" * 5000}).text == "a" * 5000
    client.call_tool("work", {"steps": 3}, on_progress=ears.progress)
    client.list_tools()
    client.list_resources()
    client.read_resource("state://x")
    client.list_prompts()
    client.get_prompt("greet", {"name": "Ada"})
    client.call_tool("fail")
    client.call_tool("change")
    client.call_tool("ask")
    client.set_logging_level("debug")
    future = client.submit_tool("wait")
    future.add_done_callback(ears.done)
    future.cancel()
    client.submit_tool("echo", {"text": "b"}).result()
