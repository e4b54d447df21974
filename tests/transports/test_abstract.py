"""A transport that cannot reach anything says so when it is made."""

from __future__ import annotations

import pytest

from mcp_sync import MCPTransport


def test_a_transport_without_a_way_to_dial_cannot_be_made() -> None:
    class Nowhere(MCPTransport):
        """Only half of what passes messages."""

        def send_message(self, message: object, timeout: float | None = None) -> None:
            """Drop it."""

    for cls in (MCPTransport, Nowhere):
        with pytest.raises(TypeError, match=f"{cls.__name__} cannot reach anything: define dial"):
            cls()
