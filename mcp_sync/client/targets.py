"""Targets: what a Client may be given, and the transport that each means."""

from __future__ import annotations

import os
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, cast

from ..policies import unexpected_keyword
from ..protocol.redact import redact_url
from ..transports.custom import CustomTransport
from ..transports.objects import is_custom
from ..transports.transport import MCPTransport

_HOST_AND_PORT = re.compile(r"[\w.-]+:\d{1,5}(?:/|\Z)")
_INTERPRETERS = {".py": [sys.executable], ".js": ["node"], ".mjs": ["node"]}


@dataclass(frozen=True)
class Choice:
    """A target whose kind is known: what an entry of a configuration file means.

    Attributes:
        kind: ``stdio``, ``docker``, ``http`` (finds out what is spoken), ``streamable`` or ``sse``.
        what: The command, the image, or the URL.
    """

    kind: str
    what: Any


def transport_to(target: Any, knobs: Mapping[str, Any], own: Iterable[str]) -> MCPTransport:
    """Return the transport that a target means.

    Args:
        target: What Client was given; a transport, or an object with ``converse(introduction, deadline)``, ``name`` and
            ``timeout``, is taken as it is.
        knobs: Keywords for the transport.
        own: The keywords of Client itself; a misspelt one ends up among the knobs.

    Raises:
        TypeError: The target or a keyword makes no sense.
        ValueError: No interpreter is known for a script.
        FileNotFoundError: There is no such script.
    """
    if isinstance(target, type):
        raise TypeError(f"Client() cannot connect to a class, {target.__name__}; make an object of it first")
    if isinstance(target, MCPTransport) or callable(getattr(target, "converse", None)):
        _check_knobs(knobs, (), own)
        return cast(MCPTransport, target)  # or what has as much of one as a Client needs: manager.endpoint(name)
    kind, what = _kind_of(target)
    _check_knobs(knobs, _keywords_of(kind, knobs), own)
    transport: MCPTransport = kind(what, **knobs)
    return transport


def _kind_of(target: Any) -> tuple[Any, Any]:
    """Return the class of the transport, and its first argument."""
    if isinstance(target, Choice):
        return _chosen(target)
    if isinstance(target, str) and target.lower().startswith(("http:", "https:")):
        from ..transports.http import UrlTransport

        return UrlTransport, target
    if isinstance(target, str) and target.lower().startswith(("ws:", "wss:")):
        from ..transports.websocket import WebSocketTransport

        return WebSocketTransport, target
    if isinstance(target, str) and target.lower().startswith("docker://"):
        from ..transports.docker import UrlDockerTransport

        return UrlDockerTransport, target
    if isinstance(target, (str, os.PathLike)):
        target = _command_of(os.fspath(target))
    if isinstance(target, Sequence) and not isinstance(target, (bytes, bytearray)):
        from ..transports.stdio import StdioTransport

        return StdioTransport, target
    if callable(getattr(target, "serve", None)):
        from ..transports.memory import MemoryTransport

        return MemoryTransport, target
    if is_custom(target):
        return CustomTransport, target
    raise TypeError(
        f"Client() cannot connect to {target!r} ({type(target).__name__}); give a URL, a command as a list "
        "(['python', 'server.py']), the path of a server script, or a transport"
    )


def _chosen(choice: Choice) -> tuple[Any, Any]:
    if choice.kind == "docker":
        from ..transports.docker import DockerTransport

        return DockerTransport, choice.what
    if choice.kind == "streamable":
        from ..transports.http import StreamableHTTPTransport

        return StreamableHTTPTransport, choice.what
    if choice.kind == "sse":
        from ..transports.sse import SSETransport

        return SSETransport, choice.what
    return _kind_of(choice.what)


def _keywords_of(kind: Any, wanted: Iterable[str]) -> set[str]:
    known = set(signature(kind).parameters)
    if known.issuperset(wanted) or not hasattr(kind, "further_keywords"):
        return known
    return {*known, *kind.further_keywords()}


def _check_knobs(knobs: Iterable[str], known: Iterable[str], own: Iterable[str]) -> None:
    for keyword in knobs:
        if keyword not in known:
            raise TypeError(unexpected_keyword("Client", keyword, {*own, *known}))


def _command_of(path: str) -> list[str]:
    if "://" in path:
        raise ValueError(
            f"Client() cannot connect to {redact_url(path)!r}: the URL of a server begins with http://, https://, "
            "ws://, wss:// or docker://"
        )
    script = pathlib.Path(path).expanduser()
    if not script.exists():
        hint = "; give a command as a list, one word an item" if " " in path else ""
        if _HOST_AND_PORT.match(path):
            hint = f"; if it is a URL, write 'http://{path}'"
        raise FileNotFoundError(f"there is no server script {path!r}{hint}")
    if script.suffix not in _INTERPRETERS:
        raise ValueError(
            f"no interpreter is known for {path!r}; give the command as a list, such as ['python', {path!r}]"
        )
    return [*_INTERPRETERS[script.suffix], str(script)]
