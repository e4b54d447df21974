"""A result has come. Whatever a second request of our own makes of itself, the caller gets the result."""

from __future__ import annotations

from typing import Any

import pytest
from faults.tools import PATIENCE, adds_up, manner, serving, within

SECONDS: dict[str, Any] = {
    "is refused": manner("refuse", code=-32603, message="no list today"),
    "is not answered": manner("silent"),
    "is answered with nonsense": manner("says", texts=['{"jsonrpc": "2.0", "id": $ID, "result": {]}\n'], then=False),
    "has no tools": manner("says", texts=['{"jsonrpc": "2.0", "id": $ID, "result": {"tools": 7}}\n'], then=False),
    "is answered too long": manner("long", size=3 << 20),
    "kills the server": manner("exit", code=3),
    "makes the server mute": manner("mute"),
    "never ends": manner("endless"),
}
TIMEOUT = 0.8


BOTH = [(how, "handshake") for how in SECONDS] + [("is refused", "stateless"), ("kills the server", "stateless")]


@pytest.mark.parametrize(("how", "era"), BOTH)
def test_a_hidden_request_that_fails_does_not_cost_the_result(how: str, era: str) -> None:
    """I4, I10: the tool has run; that its schema cannot be looked up is nobody's loss."""
    with serving(
        era, work=manner("structured"), on={"tools/list": SECONDS[how]}, max_message_size=1 << 20, shutdown_timeout=0.3
    ) as client:
        with within(TIMEOUT + 0.1):
            result = client.call_tool("work", timeout=TIMEOUT)
        assert result.structured_content == {"value": 42}
        assert not result.is_error
        adds_up(client.counters)


def test_a_hidden_request_that_hangs_does_not_cost_a_future_its_result_either() -> None:
    """I1, I10"""
    with serving(work=manner("structured"), on={"tools/list": manner("silent")}) as client:
        future = client.submit_tool("work", timeout=TIMEOUT)
        with within(TIMEOUT + 0.2):
            assert future.result(PATIENCE).data == {"value": 42}
