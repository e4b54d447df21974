"""A Flask application in front of an MCP server: lists its tools, and calls them.

``MCP_URL`` says where the server is, else http://127.0.0.1:9000/mcp. With Flask's development server, or in earnest::

    flask --app examples/flask_client.py run
    gunicorn -w 4 --threads 4 --chdir examples flask_client:app

    curl http://127.0.0.1:5000/tools
    curl -X POST 'http://127.0.0.1:5000/tools/add?a=1&b=2'

One client serves all threads. It connects on its first call, so each worker process has a connection of its own, with
``--preload`` as well. Whoever reaches this application may call every tool: put your own log-in in front of it.
"""

import json
import os

from flask import Flask, request

from mcp_sync import (
    Client,
    JSONRPCError,
    MCPError,
    MCPTimeoutError,
    MCPTransportError,
    RateLimited,
    Refused,
    RemoteProtocolError,
    ToolError,
)

app = Flask(__name__)
client = Client(
    os.environ.get("MCP_URL", "http://127.0.0.1:9000/mcp"),
    timeout=float(os.environ.get("MCP_TIMEOUT", "10")),
    max_retries=1,  # of what surely did not run: a server that was started anew is no error
)


@app.get("/tools")
def list_tools():
    return {tool.name: tool.description for tool in client.list_tools()}


@app.post("/tools/<name>")
def call_tool(name):
    result = client.call_tool(name, {key: value_of(text) for key, text in request.args.items()})
    result.raise_for_error()
    return {"text": result.text, "data": result.data}


def value_of(text):
    """Take an argument for JSON, or for text where it is none: ``1`` is a number, ``one`` and ``"1"`` are texts."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@app.errorhandler(MCPError)
def tell(error):
    return {"error": str(error)}, status_of(error)


def status_of(error):
    match error:
        case ToolError():
            return 422  # the tool ran, and says no
        case MCPTimeoutError():
            return 504
        case Refused() | RateLimited():
            return 503  # too many requests, or the server is left alone for a while
        case JSONRPCError(code=-32602):
            return 400  # no such tool, or arguments that are not its own
        case MCPTransportError() | RemoteProtocolError() | JSONRPCError():
            return 502
    return 500
