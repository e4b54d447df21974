"""What the Docker tests share: an engine, an image, and the certainty that no container is left."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from containers import engines, images
from containers.tools import ours, until

from mcp_sync.transports import owners


@pytest.fixture(scope="session", autouse=True)
def engine() -> Iterator[None]:
    """Have an engine with our image, in DOCKER_HOST."""
    with engines.running() as host, pytest.MonkeyPatch.context() as patch:
        if host is not None:
            patch.setenv("DOCKER_HOST", host)
        images.build()
        try:
            yield
        finally:
            images.remove()


@pytest.fixture(autouse=True)
def no_container_left(engine: None) -> Iterator[None]:
    """Fail a test that leaves a container of this process behind."""
    yield
    until(lambda: not ours(**{owners.PID: str(os.getpid())}), what="a container is left behind")
