"""mcp_sync, as it is measured: over stdio; with a port over HTTP; a host for WSGI takes ``application``."""

import sys

import words

from mcp_sync.server import Context, Server

server = Server("bench")


def tiny(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def steps(number: int, context: Context) -> str:
    """Report so many times, then answer."""
    for step in range(number):
        context.progress(step + 1, number)
    return "done"


for name, function in {"tiny": tiny, "text": words.text, "steps": steps, **dict.fromkeys(words.EXTRA, tiny)}.items():
    server.add_tool(function, f"bench_{name}")
application = server.wsgi_app()

if __name__ == "__main__":
    if sys.argv[1:]:
        server.run("http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
