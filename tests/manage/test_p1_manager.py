"""The manager by the clock on the wall: all endpoints down and one of them mute, and servers over HTTP that flap.

FAULTS.md, 5.5, P1, as far as test_manager.py and test_failover.py do not show it.
"""

from __future__ import annotations

import threading
import time

import pytest
from faults.http_server import Server
from faults.tools import until, within
from manage.test_manager import Ears, managed

from mcp_sync import AllTransportsFailed, Client, HttpTransport, MCPConnectionError, MCPError, MCPTimeoutError
from mcp_sync import TransportManager as Manager
from mcp_sync.testing.tools import PATIENCE, in_threads

T = 0.9


def test_all_down_and_one_of_them_mute_is_told_within_the_timeout_and_then_at_once() -> None:
    """By eight callers: each hears each cause, by his own time; what is asked while all are left alone is not sent."""
    with managed("a", "b", "c", failover_threshold=1) as (manager, sites, ears):
        sites[0].take_down("mute")
        for site in sites[1:]:
            site.take_down()
        errors: list[MCPError] = []

        def ask(_: int) -> None:
            with within(T), pytest.raises((AllTransportsFailed, MCPTimeoutError)) as found:
                manager.send_request("a", "tools/list", timeout=T)
            errors.append(found.value)

        in_threads(8, ask, PATIENCE)
        found = [error.causes for error in errors if isinstance(error, AllTransportsFailed)]
        assert all(set(causes) == {"a", "b", "c"} for causes in found)
        assert any(isinstance(causes["a"], MCPTimeoutError) for causes in found)  # who comes later finds it left alone
        told: set[str] = set()
        while told != {"a", "b", "c"}:  # in whatever order
            event, data = ears.get(timeout=PATIENCE)
            told |= {data["endpoint"]} if event == "unhealthy" else set()
        dials = [len(site.dials) for site in sites]
        with within(0.1), pytest.raises(AllTransportsFailed) as again:
            manager.send_request("a", "tools/list", timeout=PATIENCE)
        assert again.value.may_have_run is False
        assert set(again.value.causes) == {"a", "b", "c"}
        assert dials == [len(site.dials) for site in sites]


def test_a_server_over_http_that_flaps_has_one_session_of_a_client_and_none_after_it() -> None:
    """Up for 100 ms and down for 100 ms: what it has of a client is one session, whichever connection that uses."""
    ears, flaps = Ears(), 8
    with Server("handshake") as server, Manager(health_check_interval=None, default_timeout=PATIENCE) as manager:
        manager.on_health_event(ears.hear)
        manager.register_transport("a", HttpTransport(server.url, max_retries=0))
        over = threading.Event()
        with Client(manager.endpoint("a")) as client:

            def ask(_: int) -> tuple[int, int]:
                came = failed = 0
                while not over.is_set():
                    try:
                        came += client.call_tool("echo").text == "{}"
                    except MCPConnectionError:
                        failed += 1
                    over.wait(0.005)
                return came, failed

            def flap(_: int) -> tuple[int, int]:
                for _ in range(flaps):
                    with server.refusing():
                        time.sleep(0.1)
                    time.sleep(0.1)
                over.set()
                return 1, 1

            results = in_threads(5, lambda n: ask(n) if n else flap(n), PATIENCE)
            assert all(came and failed for came, failed in results)
            assert 1 <= len(server.posts("initialize")) <= flaps + 1
            until(lambda: comes(client))
            assert len(server.live) == 1
        until(lambda: not server.live)


def comes(client: Client) -> bool:
    try:
        return client.call_tool("echo").text == "{}"
    except MCPConnectionError:
        return False
