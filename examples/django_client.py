"""A Django application, all in one file, in front of an MCP server: lists its tools, and calls them.

``MCP_URL`` says where the server is, else http://127.0.0.1:9000/mcp. With Django's development server, or in earnest::

    python examples/django_client.py runserver
    gunicorn -w 4 --threads 4 --chdir examples django_client:application

    curl http://127.0.0.1:8000/tools
    curl -X POST 'http://127.0.0.1:8000/tools/add?a=1&b=2'

One client serves all threads. It connects on its first call, so each worker process has a connection of its own, with
``--preload`` as well. Whoever reaches this application may call every tool: put your own log-in in front of it.
"""

import json
import os
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

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

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    MIDDLEWARE=[f"{__name__}.ErrorsAsStatuses"],
    ROOT_URLCONF=__name__,
)

client = Client(
    os.environ.get("MCP_URL", "http://127.0.0.1:9000/mcp"),
    timeout=float(os.environ.get("MCP_TIMEOUT", "10")),
    max_retries=1,  # of what surely did not run: a server that was started anew is no error
)


@require_GET
def list_tools(request):
    return JsonResponse({tool.name: tool.description for tool in client.list_tools()})


@require_POST
def call_tool(request, name):
    result = client.call_tool(name, {key: value_of(text) for key, text in request.GET.items()})
    result.raise_for_error()
    return JsonResponse({"text": result.text, "data": result.data})


urlpatterns = [path("tools", list_tools), path("tools/<name>", call_tool)]


def value_of(text):
    """Take an argument for JSON, or for text where it is none: ``1`` is a number, ``one`` and ``"1"`` are texts."""
    try:
        return json.loads(text)
    except ValueError:
        return text


class ErrorsAsStatuses:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, error):
        if isinstance(error, MCPError):
            return JsonResponse({"error": str(error)}, status=status_of(error))
        return None


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


application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
