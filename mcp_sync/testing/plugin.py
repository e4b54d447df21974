"""Fixtures for those who test a server: a client in the same process, without a port or a child.

::

    # conftest.py
    pytest_plugins = ["mcp_sync.testing.plugin"]

    @pytest.fixture
    def mcp_server():
        return my_package.server

    # test_tools.py
    def test_adding(mcp_client):
        assert mcp_client.call_tool("add", {"a": 1, "b": 2}).data == 3
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ..client.client import Client


@pytest.fixture
def mcp_server() -> Any:
    """Return the server that is tested; define a fixture of this name that does."""
    pytest.fail("define a fixture mcp_server that returns your mcp_sync.server.Server", pytrace=False)


@pytest.fixture
def mcp_connect() -> Iterator[Callable[..., Client]]:
    """Connect clients to servers in this process: ``mcp_connect(server, elicitation=...)``; closed after the test."""
    with ExitStack() as clients:

        def connect(server: Any, **options: Any) -> Client:
            return clients.enter_context(Client(server, **options))

        yield connect


@pytest.fixture
def mcp_client(mcp_server: Any, mcp_connect: Callable[..., Client]) -> Client:
    """A client that is connected to ``mcp_server``."""
    return mcp_connect(mcp_server)
