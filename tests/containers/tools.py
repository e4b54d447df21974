"""What the Docker tests share: transports to the test image, and a look at the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from containers.engines import api
from containers.images import COMMAND, IMAGE

from mcp_sync import DockerTransport, MCPSession
from mcp_sync.transports import owners

PATIENCE = 20.0
"""Seconds that anything may take that has to happen at all, on a loaded machine."""


def transport(*words: str, **knobs: Any) -> DockerTransport:
    """Return a transport to the test server; without a network unless told otherwise, which starts faster."""
    if "ports" not in knobs:
        knobs.setdefault("network", "none")
    knobs.setdefault("timeout", PATIENCE)
    return DockerTransport(IMAGE, [*COMMAND, *words], **knobs)


@contextmanager
def session(**knobs: Any) -> Iterator[MCPSession]:
    """Give a conversation with a fresh container."""
    made = transport(**knobs).create_session()
    try:
        yield made
    finally:
        made.close()


def container_of(made: MCPSession) -> str:
    """Return the id of a session's container."""
    return str(made._caller.explain()["container"])


def ours(**labels: str) -> list[str]:
    """Return the ids of the containers that have these labels, or else of all that are ours."""
    wanted = [f"{name}={value}" for name, value in labels.items()] or [owners.PID]
    with api() as client:
        return [found["Id"] for found in client.containers(all=True, filters={"label": wanted})]


def exists(container: str) -> bool:
    """Whether the engine has such a container."""
    with api() as client:
        return any(found["Id"] == container for found in client.containers(all=True))


def until(condition: Callable[[], Any], patience: float = PATIENCE, what: str = "it has not come true") -> Any:
    """Wait until it is true; return what it is."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
    return found
