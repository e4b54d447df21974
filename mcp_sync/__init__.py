"""MCP without asyncio: a synchronous, thread-based Model Context Protocol client.

::

    from mcp_sync import Client

    with Client(["python", "server.py"]) as client:
        print([tool.name for tool in client.list_tools()])
        print(client.call_tool("add", {"a": 1, "b": 2}).data)

Names are resolved when they are first used, so importing the package imports next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOMES = {
    "credentials": ("APIKeyAuth", "BearerTokenAuth", "JWTAuth"),
    "exceptions": (
        "AllTransportsFailed",
        "AuthError",
        "CircuitOpen",
        "ClosedByServer",
        "ForkedClientError",
        "HTTPStatusError",
        "JSONRPCError",
        "LocalProtocolError",
        "MCPConnectionError",
        "MCPError",
        "MCPTimeoutError",
        "MCPTransportError",
        "MessageTooLarge",
        "NoEndpoint",
        "ProtocolError",
        "RateLimited",
        "Refused",
        "RemoteProtocolError",
        "ServerError",
        "SessionExpired",
        "TooManyRequests",
        "ToolError",
    ),
    "client.answers": ("ToolResult",),
    "client.client": ("Client",),
    "client.subscriptions": ("Subscription",),
    "client.tasks": ("Task",),
    "engine.caller": ("CallFuture",),
    "manage.manager": ("TransportManager",),
    "manage.metrics": ("TransportMetrics",),
    "manage.security": ("RedactingFilter", "TransportSecurity"),
    "manage.tracing": ("Tracing",),
    "protocol.messages": ("Notification",),
    "transports.custom": ("CustomTransport",),
    "transports.docker": ("DockerTransport",),
    "transports.http": ("HttpTransport", "StreamableHTTPTransport"),
    "transports.memory": ("MemoryTransport",),
    "transports.session": ("MCPSession",),
    "transports.sse": ("SSETransport", "SseTransport"),
    "transports.stdio": ("EnhancedStdioTransport", "StdioTransport"),
    "transports.transport": ("MCPTransport",),
    "transports.websocket": ("WebSocketTransport",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]

if TYPE_CHECKING:
    from .client.answers import ToolResult as ToolResult
    from .client.client import Client as Client
    from .client.subscriptions import Subscription as Subscription
    from .client.tasks import Task as Task
    from .credentials import APIKeyAuth as APIKeyAuth
    from .credentials import BearerTokenAuth as BearerTokenAuth
    from .credentials import JWTAuth as JWTAuth
    from .engine.caller import CallFuture as CallFuture
    from .exceptions import AllTransportsFailed as AllTransportsFailed
    from .exceptions import AuthError as AuthError
    from .exceptions import CircuitOpen as CircuitOpen
    from .exceptions import ClosedByServer as ClosedByServer
    from .exceptions import ForkedClientError as ForkedClientError
    from .exceptions import HTTPStatusError as HTTPStatusError
    from .exceptions import JSONRPCError as JSONRPCError
    from .exceptions import LocalProtocolError as LocalProtocolError
    from .exceptions import MCPConnectionError as MCPConnectionError
    from .exceptions import MCPError as MCPError
    from .exceptions import MCPTimeoutError as MCPTimeoutError
    from .exceptions import MCPTransportError as MCPTransportError
    from .exceptions import MessageTooLarge as MessageTooLarge
    from .exceptions import NoEndpoint as NoEndpoint
    from .exceptions import ProtocolError as ProtocolError
    from .exceptions import RateLimited as RateLimited
    from .exceptions import Refused as Refused
    from .exceptions import RemoteProtocolError as RemoteProtocolError
    from .exceptions import ServerError as ServerError
    from .exceptions import SessionExpired as SessionExpired
    from .exceptions import ToolError as ToolError
    from .exceptions import TooManyRequests as TooManyRequests
    from .manage.manager import TransportManager as TransportManager
    from .manage.metrics import TransportMetrics as TransportMetrics
    from .manage.security import RedactingFilter as RedactingFilter
    from .manage.security import TransportSecurity as TransportSecurity
    from .manage.tracing import Tracing as Tracing
    from .protocol.messages import Notification as Notification
    from .transports.custom import CustomTransport as CustomTransport
    from .transports.docker import DockerTransport as DockerTransport
    from .transports.http import HttpTransport as HttpTransport
    from .transports.http import StreamableHTTPTransport as StreamableHTTPTransport
    from .transports.memory import MemoryTransport as MemoryTransport
    from .transports.session import MCPSession as MCPSession
    from .transports.sse import SSETransport as SSETransport
    from .transports.sse import SseTransport as SseTransport
    from .transports.stdio import EnhancedStdioTransport as EnhancedStdioTransport
    from .transports.stdio import StdioTransport as StdioTransport
    from .transports.transport import MCPTransport as MCPTransport
    from .transports.websocket import WebSocketTransport as WebSocketTransport
else:

    def __getattr__(name):
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
