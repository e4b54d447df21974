"""The servers of others, as they are measured; each runs in the environment of its package.

::

    peer_server.py sdk2                 # or sdk1, fastmcp; over stdio
    peer_server.py sdk2 8000            # over HTTP, under uvicorn; in a session each answer is a stream
    peer_server.py sdk2 8000 json       # ... or JSON, which is faster, and has no room for progress

Their tools are coroutines, which cost them least: plain functions they run on threads, but for version 1 of the SDK.
None of them logs anything but errors.
"""

import os
import sys

import words


def sdk2():
    from mcp.server.mcpserver import Context, MCPServer

    server = MCPServer("bench", log_level="ERROR")
    return Context, server.add_tool, server.run, server.streamable_http_app


def sdk1():
    from mcp.server.fastmcp import Context, FastMCP

    server = FastMCP("bench", log_level="ERROR")

    def app(json_response):
        server.settings.json_response = json_response
        return server.streamable_http_app()

    return Context, server.add_tool, server.run, app


def fastmcp():
    os.environ["FASTMCP_LOG_LEVEL"] = "ERROR"
    os.environ["FASTMCP_SHOW_SERVER_BANNER"] = "false"
    from fastmcp import Context, FastMCP

    server = FastMCP("bench")
    return Context, lambda function, name: server.tool(function, name=name), server.run, server.http_app


def main(package, port="", form=""):
    context_type, add_tool, run, app = {"sdk2": sdk2, "sdk1": sdk1, "fastmcp": fastmcp}[package]()

    async def tiny(a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)

    async def text(number: int) -> str:
        """Return about so many bytes."""
        return words.text(number)

    async def steps(number: int, context: context_type) -> str:
        """Report so many times, then answer."""
        for step in range(number):
            await context.report_progress(step + 1, number)
        return "done"

    for name, function in {"tiny": tiny, "text": text, "steps": steps, **dict.fromkeys(words.EXTRA, tiny)}.items():
        add_tool(function, f"bench_{name}")
    if port:
        import uvicorn

        uvicorn.run(app(json_response=form == "json"), host="127.0.0.1", port=int(port), log_level="error")
    else:
        run("stdio")


if __name__ == "__main__":
    main(*sys.argv[1:])
