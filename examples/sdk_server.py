"""A small server made with the official Python SDK (2.x); the examples talk to it over stdio."""

import asyncio

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("example", instructions="Adds, forecasts and counts.")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


@server.tool()
def weather(city: str) -> dict[str, str | int]:
    """Forecast the weather of a city."""
    return {"city": city, "sky": "sunny", "celsius": 21}


@server.tool()
async def countdown(n: int, ctx: Context) -> str:
    """Count down to zero, with a report for each step."""
    for step in range(n):
        await ctx.report_progress(step + 1, n, f"{n - step}...")
        await asyncio.sleep(0.05)
    return "lift-off"


if __name__ == "__main__":
    server.run("stdio")
