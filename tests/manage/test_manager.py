"""The manager: names, strategies, checks in the background, switching by hand; with real servers in this process."""

from __future__ import annotations

import gc
import http.server
import itertools
import json
import queue
import threading
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from mcp_sync import (
    AllTransportsFailed,
    Client,
    HttpTransport,
    LocalProtocolError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    MemoryTransport,
    NoEndpoint,
    TransportManager,
)
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Caller, Question
from mcp_sync.engine.channel import Channel
from mcp_sync.engine.connect import Introduction
from mcp_sync.engine.dispatch import join, start_thread
from mcp_sync.manage.catalogue import Wanted, fits
from mcp_sync.manage.checks import JITTER
from mcp_sync.manage.wrapper import Wrapper
from mcp_sync.server import Context, Server
from mcp_sync.testing import PartnerServer
from mcp_sync.testing.caller import verdict_of_child
from mcp_sync.testing.tools import PATIENCE, in_threads

INTERVAL = 0.1


class Site:
    """A server in this process that can be taken down; its transport is ``transport``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.down: str = ""
        self.channels: list[Channel] = []
        self.ran: list[str] = []
        self.dials: list[float] = []
        self.hold = threading.Event()
        self.server = Server(name, version="1")
        self.server.tool(name="who")(lambda: name)
        self.server.tool(name=f"only_{name}")(lambda: name)
        self.server.tool(name="mark")(self.mark)
        self.server.resource("state://x", mime_type="text/plain", name="x")(lambda: name)
        self.server.resource("city://{city}", mime_type="text/plain", name="city")(lambda city: city)
        self.server.prompt(name=f"prompt_{name}")(lambda: name)
        self.transport = Remembering(self)

    def mark(self, ident: str) -> str:
        self.ran.append(ident)
        return self.name

    def serve(self, channel: Channel) -> None:
        """Serve, unless down."""
        self.dials.append(time.monotonic())
        if self.down == "refuse":
            channel.close(Deadline(1))
            raise MCPConnectionError(f"{self.name} is down")
        self.channels.append(channel)
        if self.down == "mute":
            channel.start(Deaf())
        else:
            self.server.serve(channel)

    def take_down(self, how: str = "refuse") -> None:
        """End all connections, and be so from now on."""
        self.down = how
        for channel in self.channels:
            channel.close(Deadline(PATIENCE))
        until(lambda: all(channel.ending for channel in self.transport.dialled))  # or a call might just be sent


class Remembering(MemoryTransport):
    """A transport that knows what it has dialled."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.dialled: list[Channel] = []

    def dial(self, deadline: Deadline) -> Channel:
        self.dialled.append(super().dial(deadline))
        return self.dialled[-1]


class Deaf:
    """A Sink that answers nothing."""

    def received(self, message: object) -> None: ...

    def lost(self, request_id: object, error: MCPError) -> None: ...

    def closed(self, error: MCPError) -> None: ...


class Ears(queue.Queue["tuple[str, dict[str, Any]]"]):
    """What ``on_health_event`` is told."""

    def hear(self, event: str, data: dict[str, Any]) -> None:
        self.put((event, data))

    def until(self, event: str, endpoint: str) -> dict[str, Any]:
        """Return what was told with that event, waiting for it."""
        patience = Deadline(PATIENCE)
        while True:
            told, data = self.get(timeout=patience.remaining)
            if (told, data["endpoint"]) == (event, endpoint):
                return data


@contextmanager
def managed(*names: str, **knobs: Any) -> Iterator[tuple[TransportManager, list[Site], Ears]]:
    """Give a manager of such sites, the sites, and what is told of them."""
    sites, ears = [Site(name) for name in names], Ears()
    try:
        with TransportManager(**{"default_timeout": PATIENCE, "health_check_interval": None, **knobs}) as manager:
            manager.on_health_event(ears.hear)
            for site in sites:
                manager.register_transport(site.name, site.transport)
            yield manager, sites, ears
    finally:
        for site in sites:
            site.take_down()


def answers(client: Client) -> str:
    """Return who answers, or nothing where nobody does."""
    try:
        return client.call_tool("who").text
    except MCPError:
        return ""


def who(manager: TransportManager, name: str, **timeout: float) -> str:
    result = manager.send_request(name, "tools/call", {"name": "who", "arguments": {}}, **timeout)
    return str(result["content"][0]["text"])


def fails(manager: TransportManager, name: str) -> bool:
    """Ask what is down."""
    with pytest.raises(MCPConnectionError):
        who(manager, name)
    return True


def until(truth: Callable[[], Any]) -> None:
    """Wait until something is true."""
    patience = Deadline(PATIENCE)
    while not truth():
        assert not patience.expired
        threading.Event().wait(0.01)


# Bad input.


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"load_balancing_strategy": "fastest"}, "round_robin, weighted, least_latency, priority"),
        ({"failover_threshold": 0}, "failover_threshold must be 1 or more"),
        ({"max_concurrent_connections": -1}, "max_concurrent_connections"),
        ({"health_check_interval": 0}, "None means never"),
        ({"default_timeout": 0}, "default_timeout"),
    ],
)
def test_values_that_make_no_sense_are_refused_at_once(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TransportManager(**knobs)


def test_names_and_weights_that_make_no_sense_are_refused_at_once() -> None:
    manager, site = TransportManager(), Site("a")
    manager.register_transport("a", site.transport)
    with pytest.raises(ValueError, match="an endpoint named 'a' already"):
        manager.register_transport("a", site.transport)
    with pytest.raises(ValueError, match="weight must be 1 or more, not -1"):
        manager.register_transport("b", site.transport, -1)
    for bad in (object(), MemoryTransport, "https://example.com/mcp"):
        with pytest.raises(TypeError, match="transport must be a transport"):
            manager.register_transport("b", bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name must be a str"):
        manager.register_transport("", site.transport)
    for ask in (
        lambda: manager.endpoint("x"),
        lambda: manager.send_request("x", "ping"),
        lambda: manager.unregister_transport("x"),
        lambda: manager.restart_transport("x"),
        lambda: manager.refresh_auth("x"),
        lambda: manager.switch_to_backup_transport("x"),
    ):
        with pytest.raises(NoEndpoint, match="no endpoint is named 'x'; there are: a"):
            ask()
    with pytest.raises(TypeError, match="on_health_event wants a function"):
        manager.on_health_event(7)  # type: ignore[type-var]
    manager.close()


@pytest.mark.parametrize("text", ["", "tools.call:", "tools:x", "tools..call", "prompts.get:"])
def test_capabilities_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="capability must be|names nothing"):
        Wanted.read(text)


# Requests.


def test_a_request_begins_with_the_endpoint_that_is_named_and_goes_on_with_the_others_of_its_group() -> None:
    with managed("a", "b", "c") as (manager, sites, ears):
        assert [who(manager, name) for name in ("b", "a", "b")] == ["b", "a", "b"]
        sites[1].take_down()
        assert who(manager, "b") in ("a", "c")
        assert ears.until("failover", "b")["moved_to"] in ("a", "c")


def test_no_call_leaves_its_group() -> None:
    with managed("a") as (manager, [site], _), managed("x") as (_, [other], _):
        manager.register_transport("x", other.transport, group="elsewhere")
        site.take_down()
        with pytest.raises(MCPConnectionError):
            who(manager, "a")
        assert who(manager, "elsewhere") == "x"
        assert len(other.dials) == 1


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("round_robin", "abcabcab"), ("priority", "aaaaaaaa"), ("weighted", "aabacaaa")],
)
def test_a_request_to_a_group_goes_where_the_strategy_says(strategy: str, expected: str) -> None:
    sites = [Site(name) for name in "abc"]
    with TransportManager(health_check_interval=None, load_balancing_strategy=strategy) as manager:
        for site in sites:
            manager.register_transport(site.name, site.transport, 5 if site.name == "a" else 1, group="g")
        had = "".join(who(manager, "g") for _ in expected)
    assert Counter(had) == Counter(expected) if strategy == "weighted" else had == expected


def test_clients_of_a_group_are_spread_over_it_and_stay_where_they_are() -> None:
    with managed("a", "b") as (manager, _, _):
        clients = [Client(manager.endpoint("default")) for _ in range(4)]
        answers = [[client.call_tool("who").text for _ in range(3)] for client in clients]
        assert answers == [["a"] * 3, ["b"] * 3, ["a"] * 3, ["b"] * 3]
        for client in clients:
            client.close()


def test_callbacks_of_a_client_work_through_the_manager() -> None:
    with managed("a", "b") as (manager, [site, _], _):

        @site.server.tool()
        def ask(context: Context) -> str:
            answer = context.elicit("Name?", {"type": "object", "properties": {"name": {"type": "string"}}})
            return str(answer.content)

        with Client(manager.endpoint("a"), elicitation=lambda params: {"name": "Eve"}) as client:
            assert client.call_tool("ask").text == "{'name': 'Eve'}"
            assert client.timeout == manager.default_timeout
        with pytest.raises(TypeError, match="headers"):
            Client(manager.endpoint("a"), headers={})


def test_unregistering_ends_the_connections_and_others_take_over() -> None:
    with managed("a", "b") as (manager, sites, _), Client(manager.endpoint("a")) as client:
        assert client.call_tool("who").text == "a"
        manager.unregister_transport("a")
        assert client.call_tool("who").text == "b"
        with pytest.raises(NoEndpoint):
            manager.send_request("a", "ping")
        manager.unregister_transport("b")
        with pytest.raises(MCPError):
            client.call_tool("who")
        manager.register_transport("c", sites[0].transport)
        assert client.call_tool("who").text == "a"


def test_more_connections_than_the_limit_are_refused() -> None:
    with managed("a", max_concurrent_connections=1) as (manager, _, _), Client(manager.endpoint("a")):
        another = Client(manager.endpoint("a"))
        pytest.raises(MCPError, another.connect).match("max_concurrent_connections is 1")
    assert manager.get_health_report()["a"]["status"] == "healthy"


def test_a_connection_that_has_ended_keeps_no_place_from_its_successor() -> None:
    one = managed("a", "b", max_concurrent_connections=1)
    with one as (manager, sites, _), Client(manager.endpoint("a")) as client:
        assert client.call_tool("who").text == "a"
        sites[0].take_down()
        assert client.call_tool("who").text == "b"  # which a's, dead as it is, would keep out
        sites[0].down = ""
        sites[1].take_down()
        until(lambda: answers(client) == "a")
        assert manager._fleet._places.taken == 1


def test_connections_that_only_checks_have_used_make_room_for_callers_and_not_for_each_other() -> None:
    knobs: dict[str, Any] = {"max_concurrent_connections": 2, "health_check_interval": INTERVAL}
    with managed("a", "b", "c", **knobs) as (manager, sites, _):
        manager._begin()
        until(lambda: manager._fleet._places.taken == 2)
        checks = sites[0].transport.dialled + sites[1].transport.dialled + sites[2].transport.dialled
        with Client(manager.endpoint("a")) as first, Client(manager.endpoint("a")) as second:
            assert (first.call_tool("who").text, second.call_tool("who").text) == ("a", "a")
            until(lambda: all(channel.ending for channel in checks))
            pytest.raises(MCPError, Client(manager.endpoint("a")).connect).match("max_concurrent_connections is 2")
            assert (first.call_tool("who").text, second.call_tool("who").text) == ("a", "a")
            dials = sum(len(site.dials) for site in sites)
            assert dials <= 5  # checks that had no place have dialled nothing


def test_a_check_that_is_late_connects_to_nothing_once_the_manager_is_closed() -> None:
    with managed("a", health_check_interval=INTERVAL) as (manager, [site], _):
        there, go, line = threading.Event(), threading.Event(), manager._fleet.line

        def late(endpoint: Any) -> Any:
            there.set()
            assert go.wait(PATIENCE)
            return line(endpoint)

        manager._fleet.checks._line = late
        manager._begin()
        assert there.wait(PATIENCE)
        manager.close(0.05)  # it is not waited for any longer than that
        go.set()
        manager.close()
        assert site.dials == []


def test_a_client_that_stays_keeps_nothing_of_endpoints_that_come_and_go() -> None:
    gone: list[weakref.ref[Any]] = []
    with managed("a") as (manager, [stays], _), Client(manager.endpoint("a")) as client:
        for number in range(3):
            site = Site("b")
            gone.append(weakref.ref(site.transport))
            manager.register_transport(f"b{number}", site.transport)
            manager.switch_to_backup_transport("a")
            assert client.call_tool("who").text == "b"
            manager.send_request(f"b{number}", "tools/list")
            manager.unregister_transport(f"b{number}")
            assert client.call_tool("who").text == "a"
            site.take_down()
            del site
        until(lambda: gc.collect() and not any(one() for one in gone))
        assert client.counters["ok"] >= 6  # what was asked there is not forgotten
        assert manager._fleet._answered_by == {}
        manager.unregister_transport("a")
        manager.register_transport("a", stays.transport)  # the same group, though it was empty for a while
        assert client.call_tool("who").text == "a"
        manager.register_transport("alone", Site("alone").transport, group="its own")
        assert manager.endpoint("its own").name == "its own"
        manager.unregister_transport("alone")
        gc.collect()
        assert list(manager._fleet.groups) == ["default"]


def test_after_closing_nothing_can_be_asked() -> None:
    with managed("a") as (manager, [site], _):
        client = Client(manager.endpoint("a")).connect()
        manager.close()
        manager.close()
        for ask in (lambda: who(manager, "a"), lambda: client.call_tool("who"), lambda: who(manager, "default")):
            with pytest.raises(MCPConnectionError, match="closed") as caught:
                ask()
            assert caught.value.may_have_run is False
        with pytest.raises(MCPConnectionError, match="closed"):
            manager.register_transport("b", site.transport)
        client.close()


def test_a_manager_that_is_forgotten_ends_with_a_warning() -> None:
    site = Site("a")
    manager = TransportManager(health_check_interval=INTERVAL)
    manager.register_transport("a", site.transport)
    assert who(manager, "a") == "a"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del manager
        gc.collect()
    assert ["was never closed" in str(one.message) for one in caught] == [True]


def test_a_forked_child_connects_for_itself_and_the_parent_goes_on() -> None:
    with managed("a", "b", health_check_interval=INTERVAL) as (manager, _, _), Client(manager.endpoint("a")) as client:
        assert (who(manager, "a"), client.call_tool("who").text) == ("a", "a")

        def in_child() -> None:
            assert who(manager, "b") == "b"
            assert client.call_tool("who").text == "a"
            client.close()
            manager.close()

        assert verdict_of_child(in_child) == "fine"
        assert (who(manager, "a"), client.call_tool("who").text) == ("a", "a")


# FAULTS 5.5.


@pytest.mark.parametrize("flaw", ["hangs", "floods", "raises"])
def test_health_check_hangs_floods_raises_and_never_delays_a_call(flaw: str) -> None:
    with managed("a", health_check_interval=INTERVAL) as (manager, _, ears):
        checks = Counting(flaw)
        manager.register_transport("bad", checks, group="bad")  # type: ignore[arg-type]
        began = time.monotonic()
        until(lambda: checks.most >= 1 and len(checks.times) >= 2)
        while time.monotonic() < began + 5 * INTERVAL:
            before = time.monotonic()
            assert who(manager, "a") == "a"
            assert time.monotonic() - before < PATIENCE / 2
        checks.hold.set()
        assert checks.most == 1
        until(lambda: manager.get_health_report()["a"]["status"] == "healthy")
        if flaw == "raises":
            assert ears.until("degraded", "bad")["error_type"] == "connection_failed"


class Counting:
    """A transport whose conversations have something wrong with them when they are checked."""

    name = "counting"

    def __init__(self, flaw: str) -> None:
        self.partner = MemoryTransport(PartnerServer())
        self.flaw = flaw
        self.hold = threading.Event()
        self.times: list[float] = []
        self.now = self.most = 0

    def converse(self, introduction: Introduction, deadline: Deadline) -> Caller:
        self.now += 1
        self.most = max(self.most, self.now)
        self.times.append(deadline.remaining)
        try:
            if self.flaw == "raises":
                raise ZeroDivisionError("on purpose")
            if self.flaw == "hangs":
                if len(self.times) > 1:
                    self.hold.wait(PATIENCE)  # whatever its deadline says
                raise MCPTimeoutError("too late")
            return Flooding(self, self.partner.converse(replace(introduction, version="2025-11-25"), deadline))
        finally:
            self.now -= 1


class Flooding(Wrapper):
    """A conversation in which every check is answered with thousands of notifications first."""

    def __init__(self, counting: Counting, caller: Caller) -> None:
        super().__init__(caller)
        self.counting = counting

    def call(self, question: Question[Any], deadline: Deadline) -> dict[str, Any]:
        self.counting.times.append(deadline.remaining)
        super().call(Question("notify", {"count": 5000}), deadline)
        return super().call(question, deadline)


def test_all_down_then_recovery_within_one_interval_with_subscriptions_made_again_and_told_by_events() -> None:
    with managed("a", "b", health_check_interval=INTERVAL) as (manager, sites, ears):
        news: queue.Queue[Any] = queue.Queue()
        client = Client(manager.endpoint("a"), on_notification=news.put, protocol_version="2025-11-25").connect()
        client.subscribe("state://x")
        for site in sites:
            site.take_down()
        began = time.monotonic()
        with pytest.raises(AllTransportsFailed) as caught:
            client.request("tools/list", timeout=PATIENCE)
        assert time.monotonic() - began < PATIENCE
        assert set(caught.value.causes) == {"a", "b"}
        ears.until("unhealthy", "a")
        began = time.monotonic()
        with pytest.raises(AllTransportsFailed):
            client.call_tool("who", timeout=PATIENCE)
        assert time.monotonic() - began < PATIENCE / 2
        sites[0].down = ""
        back = time.monotonic()
        ears.until("healthy", "a")
        assert time.monotonic() - back < INTERVAL * (1 + JITTER) + 2.0  # and what a loaded machine takes
        assert client.call_tool("who").text == "a"
        sites[0].server.resource_updated("state://x")
        assert news.get(timeout=PATIENCE).method == "notifications/resources/updated"
        client.close()


@pytest.mark.parametrize("seconds", [2.0, pytest.param(60.0, marks=[pytest.mark.slow, pytest.mark.timeout(120)])])
def test_flapping_up_100_ms_down_100_ms(seconds: float) -> None:
    with managed("a", health_check_interval=0.5) as (manager, [site], _), Client(manager.endpoint("a")) as client:
        over = threading.Event()

        def flap() -> None:
            for n in itertools.count():
                if over.wait(0.1):
                    break
                site.take_down("" if n % 2 else "refuse")
            site.down = ""

        def ask() -> tuple[int, int]:
            came = failed = 0
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                try:
                    came += client.call_tool("who").text == "a"
                except MCPConnectionError:
                    failed += 1
                threading.Event().wait(0.005)
            return came, failed

        flapping = start_thread("flapping", flap)
        results = in_threads(4, lambda _: ask(), seconds + PATIENCE)
        over.set()
        assert join(flapping, Deadline(PATIENCE))
        assert all(came + failed for came, failed in results)
        # The client's line at most once in 100 ms, and less and less often; and each check may connect as well.
        assert len(site.dials) <= 2 + seconds / 0.1 / 2 + seconds / 0.5
        until(lambda: who(manager, "a") == "a" if site.down == "" and not fails_now(client) else False)
        assert sum(not channel.ending for channel in site.channels) <= 2  # the client's, and the manager's own


def fails_now(client: Client) -> bool:
    """Ask, and return whether that failed."""
    try:
        client.call_tool("who")
    except MCPConnectionError:
        return True
    return False


def test_server_side_state_across_failover_is_never_lost_in_silence() -> None:
    with managed("a", "b") as (manager, sites, ears):
        news: queue.Queue[Any] = queue.Queue()
        with Client(manager.endpoint("a"), on_notification=news.put, protocol_version="2025-11-25") as client:
            client.subscribe("state://x")
            with client.listen(tools_list_changed=True) as subscription:
                sites[0].take_down()
                assert client.call_tool("who").text == "b"
                with pytest.raises(MCPConnectionError, match="broke off"):
                    subscription.next(PATIENCE)
            lost = ears.until("session_lost", "a")
            assert lost["moved_to"] == "b"
            sites[1].server.resource_updated("state://x")
            told = news.get(timeout=PATIENCE)
            assert (told.method, told.params["uri"]) == ("notifications/resources/updated", "state://x")


def test_credentials_per_endpoint_are_never_sent_to_another() -> None:
    with bearer_server(200, fails=True) as first, bearer_server(200) as second, TransportManager(
        health_check_interval=INTERVAL
    ) as manager:  # fmt: skip
        manager.register_transport("one", HttpTransport(first.url, headers={"X-Key": "key-one"}, max_retries=0))
        manager.register_transport("two", HttpTransport(second.url, headers={"X-Key": "key-two"}, max_retries=0))
        for _ in range(5):
            assert manager.send_request("one", "tools/list")["tools"] == []
        with Client(manager.endpoint("one")) as client:
            assert client.list_tools() == []
        assert {key for key, _ in second.seen} == {"key-two"}
        assert {key for key, _ in first.seen} == {"key-one"}
        sessions = [{session for _, session in one.seen if session} for one in (first, second)]
        assert not sessions[0] & sessions[1]


class Bearer(http.server.HTTPServer):
    """A server over HTTP that remembers the keys it is shown, and may fail."""

    seen: list[tuple[str | None, str | None]]
    fails: bool

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mcp"


@contextmanager
def bearer_server(status: int, fails: bool = False) -> Iterator[Bearer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        server: Bearer

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.seen.append((self.headers["X-Key"], self.headers["Mcp-Session-Id"]))
            method, result = body.get("method"), {}
            if method == "initialize":
                info = {"name": "bearer", "version": "1"}
                result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
            elif method == "tools/list":
                result = {"tools": []}
            failing = self.server.fails and method == "tools/list"
            known = "id" in body and method in ("initialize", "tools/list", "ping")
            answer = {"result": result} if known else {"error": {"code": -32601, "message": "no"}}
            data = json.dumps({"jsonrpc": "2.0", "id": body.get("id"), **answer}).encode()
            self.send_response(503 if failing else 200 if "id" in body else 202)
            self.send_header("Content-Type", "application/json")
            self.send_header("Mcp-Session-Id", f"session-{self.server.server_port}")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.send_error(405)

        def do_DELETE(self) -> None:
            self.send_error(405)

        def log_message(self, *args: object) -> None: ...

    server = Bearer(("127.0.0.1", 0), Handler)
    server.seen, server.fails = [], fails
    thread = start_thread("bearer", server.serve_forever, 0.01)
    try:
        yield server
    finally:
        server.shutdown()
        join(thread, Deadline(PATIENCE))
        server.server_close()


def test_a_check_keeps_a_connection_to_a_backup_and_lets_it_go_when_a_client_has_one() -> None:
    with managed("a", "b", health_check_interval=INTERVAL) as (manager, sites, ears):
        client = Client(manager.endpoint("a")).connect()
        until(lambda: manager.get_health_report()["b"]["connections"] == 1)
        checked = manager.get_health_report()["b"]["last_check"]
        until(lambda: manager.get_health_report()["b"]["last_check"] > checked + 2 * INTERVAL)
        assert len(sites[1].dials) == 1  # it is not connected anew for each check
        assert len(sites[0].dials) == 1  # and the client's own connection does for both
        manager.switch_to_backup_transport("a")
        assert client.call_tool("who").text == "b"
        until(lambda: [channel.ending for channel in sites[1].channels] == [True, False])
        client.close()


# By hand.


def test_switching_by_hand_holds_until_it_is_switched_back_or_the_backup_fails() -> None:
    with managed("a", "b", failover_threshold=1) as (manager, sites, ears), Client(manager.endpoint("a")) as client:
        assert client.call_tool("who").text == "a"
        assert manager.switch_to_backup_transport("a") == "b"
        assert ears.until("switched", "a")["moved_to"] == "b"
        assert (client.call_tool("who").text, who(manager, "a")) == ("b", "b")
        assert manager.switch_back_transport("a") is True
        assert manager.switch_back_transport("a") is False
        assert (client.call_tool("who").text, who(manager, "a")) == ("a", "a")  # at once: it has never failed
        assert manager.switch_to_backup_transport() == "b"
        ears.until("switched", "a")
        ears.until("switched", "a")
        sites[1].take_down()
        until(lambda: who(manager, "a") == "a" and manager.get_health_report()["b"]["status"] == "unhealthy")
        assert ears.until("backup_failed", "a")["backup"] == "b"
        assert client.call_tool("who").text == "a"
    with managed("a") as (manager, _, _), pytest.raises(NoEndpoint, match="no alternative"):
        manager.switch_to_backup_transport()


def test_restarting_makes_new_connections_and_tells_the_server_again() -> None:
    with managed("a", "b") as (manager, [site, _], ears), Client(manager.endpoint("a")) as client:
        assert client.call_tool("who").text == "a"
        assert len(site.dials) == 1
        manager.restart_transport("a")
        ears.until("restarted", "a")
        assert len(site.dials) == 2
        assert client.call_tool("who").text == "a"
        assert len(site.dials) == 2
        site.take_down()
        with pytest.raises(MCPConnectionError, match="a is down"):
            manager.restart_transport("a", timeout=1)


def test_clients_that_were_closed_are_no_obstacle_to_restarting() -> None:
    with managed("a") as (manager, [site], _):
        closed = Client(manager.endpoint("a"))
        assert closed.call_tool("who").text == "a"
        closed.close()
        manager.restart_transport("a")
        assert len(site.dials) == 2
        del closed


def test_credentials_are_refreshed_where_there_are_any() -> None:
    class Auth:
        refreshed = 0

        def get_auth_headers(self) -> dict[str, str]:
            return {"Authorization": f"Bearer {self.refreshed}"}

        def refresh_token(self) -> bool:
            self.refreshed += 1
            return True

    with managed("a") as (manager, _, _):
        with pytest.raises(LocalProtocolError, match="no credentials"):
            manager.refresh_auth("a")
        manager.register_transport("h", HttpTransport("http://127.0.0.1:9/mcp"), group="h")
        assert manager.refresh_auth("h") is False


# What servers offer.


def test_a_capability_leads_to_an_endpoint_that_has_it() -> None:
    with managed("a", "b", load_balancing_strategy="priority") as (manager, sites, _):
        find = manager.get_transport_for_capability
        assert find("tools").name == "a"
        assert find("tools.call:only_b").name == "b"
        assert find("tools.call:only_b").transport is sites[1].transport
        assert find("prompts.get:prompt_b").name == "b"
        assert find("resources.read:state://x").name == "a"
        assert find("resources.read:city://Oslo").name == "a"
        for nothing in ("tools.call:what", "completions.what", "resources.read:nowhere://x"):
            with pytest.raises(NoEndpoint, match="no endpoint offers"):
                find(nothing)
        with Client(find("tools.call:only_b")) as client:
            assert client.call_tool("only_b").text == "b"
        sites[0].take_down()
        assert find("tools.call:only_b").name == "b"
        with pytest.raises(NoEndpoint, match="a could not be asked"):
            find("tools.call:only_a")


def test_a_capability_that_several_have_leads_to_each_in_turn() -> None:
    with managed("a", "b") as (manager, _, _):
        names = [manager.get_transport_for_capability("tools.call:who").name for _ in range(4)]
        assert names == ["a", "b", "a", "b"]
        assert manager.get_transport_for_capability("tools.call:only_a").name == "a"
    with managed("a", load_balancing_strategy="weighted") as (manager, _, _):
        manager.register_transport("heavy", Site("heavy").transport, weight=3)
        names = [manager.get_transport_for_capability("tools.call:who").name for _ in range(8)]
        assert Counter(names) == {"a": 2, "heavy": 6}


def test_what_is_kept_of_a_server_that_hangs_does_not_make_it_healthy() -> None:
    with managed("a", "b", failover_threshold=2) as (manager, [site, _], ears):
        site.server.tool(name="hang")(lambda: str(site.hold.wait(PATIENCE)))
        assert manager.get_transport_for_capability("tools.call:only_a").name == "a"
        for failures in (1, 2):
            with pytest.raises(MCPTimeoutError):
                manager.send_request("a", "tools/call", {"name": "hang", "arguments": {}}, timeout=0.05)
            assert manager.get_health_report()["a"]["consecutive_failures"] == failures
            if failures == 1:
                assert manager.get_transport_for_capability("tools.call:only_a").name == "a"
        ears.until("unhealthy", "a")
        until(lambda: _has(manager, "tools.call:only_a") == "a")  # by the leave of the one who may ask
        assert manager.get_health_report()["a"]["status"] == "unhealthy"
        site.hold.set()


def _has(manager: TransportManager, capability: str) -> str:
    try:
        return manager.get_transport_for_capability(capability).name
    except NoEndpoint:
        return ""


def test_lists_are_kept() -> None:
    with managed("a") as (manager, _, _):
        manager.get_transport_for_capability("tools.call:who")
        fleet = manager._fleet
        [catalogue] = fleet._catalogues.values()
        before = catalogue.caller.counters["sent"]
        for _ in range(3):
            manager.get_transport_for_capability("tools.call:who")
        assert catalogue.caller.counters["sent"] == before


@pytest.mark.parametrize(
    ("template", "uri", "does"),
    [
        ("city://{name}", "city://Oslo", True),
        ("city://{name}", "city://Oslo/x", False),
        ("file:///{+path}", "file:///a/b", True),
        ("x://{a}/{b}", "x://1/2", True),
        ("x://{a}/{b}", "x://1", False),
        ("x://a.b", "x://aXb", False),
    ],
)
def test_templates_fit_what_they_can_give(template: str, uri: str, does: bool) -> None:
    assert fits(template, uri) is does


# Health.


def test_the_report_says_how_each_does() -> None:
    with managed("a", "b", health_check_interval=INTERVAL) as (manager, sites, ears):
        who(manager, "a")
        reports: list[dict[str, Any]] = []

        def well() -> bool:
            """Whether a check went well: one that this machine has made late is a failure."""
            reports.append(manager.get_health_report()["a"])
            return bool(reports[-1]["last_check"]) and reports[-1]["status"] == "healthy"

        until(well)
        report = reports[-1]
        assert report["error_type"] is None
        assert 0 < report["avg_latency"] < 1000 * PATIENCE
        assert abs(report["last_check"] - time.time()) < PATIENCE
        assert (report["group"], report["weight"], report["connections"]) == ("default", 1, 1)
        assert report["calls"] >= 1
        sites[0].take_down()
        told = ears.until("unhealthy", "a")
        assert (told["previous"], told["error_type"], told["group"]) == ("degraded", "connection_failed", "default")
        report = manager.get_health_report()["a"]
        assert (report["status"], report["error_type"]) == ("unhealthy", "connection_failed")
        assert "a is down" in report["error"]


def test_without_metrics_nothing_is_counted_in_the_report() -> None:
    with managed("a", enable_metrics=False) as (manager, _, _):
        assert who(manager, "a") == "a"
        assert "calls" not in manager.get_health_report()["a"]


def test_a_listener_that_raises_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with managed("a", failover_threshold=1) as (manager, [site], ears):
        manager.on_health_event(lambda event, data: 1 / 0)
        assert who(manager, "a") == "a"
        site.take_down()
        until(lambda: fails(manager, "a") and not ears.empty())
        ears.until("unhealthy", "a")
    assert "ZeroDivisionError" in caplog.text


def test_many_threads_may_ask_register_and_switch_at_once() -> None:
    with managed("a", "b", "c", health_check_interval=INTERVAL) as (manager, sites, _):

        def work(number: int) -> list[str]:
            if number == 0:
                for n in range(20):
                    manager.register_transport(f"x{n}", sites[0].transport)
                    manager.switch_to_backup_transport("a")
                    manager.unregister_transport(f"x{n}")
            return [who(manager, "abc"[number % 3]) for _ in range(20)]

        for answers in in_threads(8, work):
            assert set(answers) <= set("abc")


