"""The fixtures for those who test a server: ``pytest_plugins = ["mcp_sync.testing.plugin"]``."""

from __future__ import annotations

import pytest

CONFTEST = """
import pytest
from mcp_sync.server import Context, Server

pytest_plugins = ["mcp_sync.testing.plugin"]
"""
SERVER = """
@pytest.fixture
def mcp_server():
    server = Server("calculator")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    def ask(context: Context) -> str:
        return context.elicit("Sure?", {"type": "object", "properties": {}}).action

    return server
"""


def test_a_server_is_tested_without_a_port_or_a_child(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST + SERVER)
    pytester.makepyfile(
        """
        import threading
        import pytest

        seen = []

        def test_adding(mcp_client):
            seen.append(mcp_client)
            assert mcp_client.call_tool("add", {"a": 1, "b": 2}).data == 3

        def test_the_client_before_was_closed():
            assert not seen[0].connected

        @pytest.mark.parametrize("version", ["2025-06-18", "2026-07-28"])
        def test_other_clients(mcp_connect, mcp_server, version):
            client = mcp_connect(mcp_server, protocol_version=version, elicitation=lambda params: {})
            assert client.protocol_version == version
            assert client.call_tool("ask").text == "accept"
            assert mcp_connect(mcp_server).call_tool("add", {"a": 2, "b": 2}).data == 4
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=4)


def test_who_forgets_the_server_is_told_what_to_define(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("def test_adding(mcp_client): pass")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*define a fixture mcp_server that returns your mcp_sync.server.Server*"])
