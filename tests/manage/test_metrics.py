"""Figures: exact, bounded in number, silent about secrets; exported on one clock, gone with whoever asked for them."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults.http_server import Server, replies
from faults.tools import PATIENCE, until

from mcp_sync import Client, MemoryTransport, StreamableHTTPTransport, TransportManager, TransportMetrics
from mcp_sync.engine.dispatch import start_thread
from mcp_sync.manage import figures as home
from mcp_sync.manage.figures import summary
from mcp_sync.observe import (
    Called,
    CircuitChanged,
    Connected,
    Disconnected,
    Event,
    Finished,
    LimitExceeded,
    Observers,
    Reconnected,
    Restarted,
    Retried,
    Streaming,
    Trouble,
)
from mcp_sync.testing import in_threads


class Source:
    """Something to measure: tells what it is told to tell."""

    def __init__(self, name: str = "calc") -> None:
        self.name = name
        self.observers = Observers()

    def observe(self, observer: Callable[[Event], None]) -> None:
        self.observers.append(observer)

    def unobserve(self, observer: Callable[[Event], None]) -> None:
        self.observers.remove(observer)

    def tell(self, *events: Event) -> None:
        for event in events:
            for observer in list(self.observers):
                observer(event)


def value(metrics: TransportMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def metrics(source: Source) -> Iterator[TransportMetrics]:
    with TransportMetrics(source) as made:
        yield made


def call(method: str = "ping", error: str | None = None, seconds: float = 0.01) -> list[Event]:
    return [Called("s", method, 1), Finished("s", method, 1, seconds, error)]


# -- counting ---------------------------------------------------------------------------------------------------------


def test_calls_are_counted_by_method_and_outcome(source: Source, metrics: TransportMetrics) -> None:
    source.tell(*call(), *call(), *call("tools/call", "MCPTimeoutError"), *call("tools/call", "CancelledError"))
    source.tell(*call("tools/call", "JSONRPCError"))
    found = {"ping": {"ok": 2}, "tools/call": {"timeout": 1, "cancelled": 1, "error": 1}}
    for method, outcomes in found.items():
        for outcome, number in outcomes.items():
            labels = {"endpoint": "calc", "method": method, "outcome": outcome}
            assert value(metrics, "mcp_client_requests_total", **labels) == number
    for error in ("MCPTimeoutError", "CancelledError", "JSONRPCError"):
        assert value(metrics, "mcp_client_errors_total", endpoint="calc", type=error) == 1
    count = value(metrics, "mcp_client_request_duration_seconds_count", endpoint="calc", method="tools/call")
    assert count == 3


def test_what_is_in_flight_is_known_and_never_less_than_nothing(source: Source, metrics: TransportMetrics) -> None:
    begun, over = call()
    source.tell(over, over)  # they began before anybody looked
    assert value(metrics, "mcp_client_in_flight", endpoint="calc") == 0
    source.tell(begun, begun, over)
    assert value(metrics, "mcp_client_in_flight", endpoint="calc") == 1


EVENTS: list[tuple[Event, str, dict[str, str]]] = [
    (Retried("s", "ping", 1, "ServerError", 0.1), "mcp_client_retries_total", {"method": "ping"}),
    (Connected("s", "2026-07-28"), "mcp_client_connections_total", {}),
    (Disconnected("s", "exit status 3"), "mcp_client_connections_lost_total", {}),
    (Reconnected("s"), "mcp_client_reconnects_total", {}),
    (Restarted("s", 1), "mcp_client_restarts_total", {}),
    (Trouble("s", "auth_failed", {}), "mcp_client_troubles_total", {"kind": "auth_failed"}),
    (LimitExceeded("s", "memory_mb", 1.0, 2.0), "mcp_client_limits_exceeded_total", {"resource": "memory_mb"}),
]


@pytest.mark.parametrize(("event", "name", "labels"), EVENTS, ids=[name for _, name, _ in EVENTS])
def test_each_event_has_its_figure(
    event: Event, name: str, labels: dict[str, str], source: Source, metrics: TransportMetrics
) -> None:
    source.tell(event, event)
    assert value(metrics, name, endpoint="calc", **labels) == 2


def test_a_connection_that_we_close_is_not_lost(source: Source, metrics: TransportMetrics) -> None:
    source.tell(Disconnected("s", None))
    assert value(metrics, "mcp_client_connections_lost_total", endpoint="calc") == 0


def test_the_breaker_is_in_one_state(source: Source, metrics: TransportMetrics) -> None:
    for state in ("open", "half-open", "closed"):
        source.tell(CircuitChanged("s", state))
        states = {
            one: value(metrics, "mcp_client_breaker_state", endpoint="calc", state=one)
            for one in ("open", "half-open", "closed")
        }
        assert [one for one, on in states.items() if on] == [state]


def test_bytes_of_long_replies_are_summed_reply_by_reply(source: Source, metrics: TransportMetrics) -> None:
    source.tell(Streaming("s", 100, None), Streaming("s", 250, None), *call())
    source.tell(Streaming("s", 300, None))  # the next reply on this thread, larger from the start
    start_thread("other", lambda: source.tell(Streaming("s", 40, 80), Streaming("s", 80, 80))).join(PATIENCE)
    source.tell(Streaming("s", 310, None))
    assert value(metrics, "mcp_client_streamed_bytes_total", endpoint="calc") == 250 + 310 + 80


def test_many_threads_lose_nothing(source: Source, metrics: TransportMetrics) -> None:
    in_threads(8, lambda _: source.tell(*call() * 500))
    assert value(metrics, "mcp_client_requests_total", endpoint="calc", method="ping", outcome="ok") == 4000
    assert value(metrics, "mcp_client_in_flight", endpoint="calc") == 0


# -- labels -----------------------------------------------------------------------------------------------------------


def test_whatever_a_server_or_an_application_says_labels_are_few(source: Source, metrics: TransportMetrics) -> None:
    for number in range(300):
        source.tell(*call(f"odd/{number}", f"Odd{number}"), Retried("s", f"odd/{number}", 1, "E", 0))
        source.tell(Trouble("s", f"odd{number}", {}))
    assert value(metrics, "mcp_client_requests_total", endpoint="calc", method="other", outcome="error") == 300
    assert value(metrics, "mcp_client_errors_total", endpoint="calc", type="other") == 300
    assert len(list(metrics.figures.samples())) < 100


def test_endpoints_past_the_limit_share_a_label() -> None:
    sources = {f"s{number}": Source() for number in range(5)}
    with TransportMetrics(sources, max_endpoints=2) as metrics:
        for one in sources.values():
            one.tell(*call())
        assert set(metrics.snapshot()["endpoints"]) == {"s0", "s1", "other"}
        assert metrics.snapshot()["endpoints"]["other"]["requests"] == 3
        begun, over = call()
        sources["s2"].tell(begun)
        sources["s3"].tell(begun)
        metrics.watch("s5", Source())
        assert metrics.snapshot()["endpoints"]["other"]["in_flight"] == 2
        metrics.unwatch(sources["s3"])
        assert metrics.snapshot()["endpoints"]["other"]["in_flight"] == 1
        sources["s2"].tell(over)
        assert metrics.snapshot()["endpoints"]["other"]["in_flight"] == 0


def test_secrets_are_nowhere_in_the_figures() -> None:
    """I12."""
    canary = "c4naryS3cret"
    manner = {"work": replies(500, f'{{"token": "{canary}"}}'), canary: replies(403, canary)}
    with Server("stateless", on=manner) as server:
        url = server.url.replace("http://", f"http://user:{canary}@") + f"?key={canary}"
        transport = StreamableHTTPTransport(url, headers={"X-Api-Key": canary}, timeout=PATIENCE)
        lines: list[str] = []
        with TransportMetrics(transport, exporters=["prometheus", "json"], json=lines.append) as metrics:
            with Client(transport) as client:
                for name in ("work", canary, "echo"):
                    try:
                        client.call_tool(name, {"token": canary})
                    except Exception:
                        pass
            page = b"".join(metrics.wsgi_app()({"PATH_INFO": "/", "REQUEST_METHOD": "GET"}, lambda *_: None))
            metrics.export()
        assert b"mcp_client_requests_total" in page
        for text in (page.decode(), repr(metrics), *lines):
            assert canary not in text


# -- what is measured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["transport", "client", "mapping"])
def test_real_calls_are_counted_exactly_without_a_manager(what: str) -> None:
    with Server("stateless") as server:
        transport = StreamableHTTPTransport(server.url, timeout=PATIENCE)
        client = Client(transport)
        targets = {"transport": transport, "client": client, "mapping": {"mine": transport}}
        with TransportMetrics(targets[what], name="mine") as metrics, client:
            in_threads(4, lambda _: [client.call_tool("echo") for _ in range(50)])
            labels = {"endpoint": "mine", "method": "tools/call", "outcome": "ok"}
            assert value(metrics, "mcp_client_requests_total", **labels) == 200
            assert metrics.snapshot()["endpoints"]["mine"]["in_flight"] == 0
        assert len(server.calls("echo")) == 200


def test_a_conversation_that_gets_a_new_connection_is_counted() -> None:
    with Server("handshake") as server:
        transport = StreamableHTTPTransport(server.url, timeout=PATIENCE)
        with TransportMetrics({"s": transport}) as metrics, Client(transport) as client:
            client.ping()
            server.forget_sessions()
            client.ping()
            until(lambda: metrics.snapshot()["endpoints"]["s"]["reconnects"] == 1)
            assert metrics.snapshot()["endpoints"]["s"]["connections"] == 2


def test_endpoints_of_a_manager_come_and_go() -> None:
    fleet = SimpleNamespace(endpoints=[SimpleNamespace(name="a", transport=Source())])
    with TransportMetrics(fleet) as metrics:
        second = SimpleNamespace(name="b", transport=Source())
        fleet.endpoints.append(second)
        assert set(metrics.snapshot()["endpoints"]) == {"a", "b"}
        second.transport.tell(*call())
        fleet.endpoints.remove(second)
        metrics.snapshot()
        assert second.transport.observers == []
        second.transport.tell(*call())
        assert metrics.snapshot()["endpoints"]["b"]["requests"] == 1
        metrics.watch("c", third := Source())  # by hand, so the manager need not know it
        third.tell(*call())
        assert metrics.snapshot()["endpoints"]["c"]["requests"] == 1


def test_the_endpoints_of_a_real_manager_are_measured_each_by_itself() -> None:
    with Server("stateless") as near, Server("stateless") as far, TransportManager() as manager:
        manager.register_transport("near", StreamableHTTPTransport(near.url, timeout=PATIENCE), group="a")
        with TransportMetrics(manager) as metrics:
            manager.register_transport("far", StreamableHTTPTransport(far.url, timeout=PATIENCE), group="b")
            assert set(metrics.snapshot()["endpoints"]) == {"near", "far"}
            with Client(manager.endpoint("near")) as client:
                in_threads(4, lambda _: [client.call_tool("echo") for _ in range(10)])
            for _ in range(7):
                manager.send_request("far", "tools/call", {"name": "echo", "arguments": {}})
            labels = {"method": "tools/call", "outcome": "ok"}
            assert value(metrics, "mcp_client_requests_total", endpoint="near", **labels) == 40
            assert value(metrics, "mcp_client_requests_total", endpoint="far", **labels) == 7
            manager.unregister_transport("far")
            assert metrics.snapshot()["endpoints"]["far"]["requests"] >= 7
        assert len(near.calls("echo")) == 40
        assert len(far.calls("echo")) == 7


def test_endpoints_that_come_and_go_have_no_more_labels_than_the_limit() -> None:
    with TransportMetrics(max_endpoints=3) as metrics:
        for number in range(9):
            metrics.watch(f"s{number}", source := Source())
            source.tell(*call())
            metrics.unwatch(source)
        endpoints = metrics.snapshot()["endpoints"]
        assert {name: one["requests"] for name, one in endpoints.items()} == {"s0": 1, "s1": 1, "s2": 1, "other": 6}
        metrics.watch("s1", source := Source())  # its label is its own still
        source.tell(*call())
        assert metrics.snapshot()["endpoints"]["s1"]["requests"] == 2


def test_a_transport_that_nobody_has_any_more_is_forgotten_with_its_calls() -> None:
    with TransportMetrics() as metrics:
        for _ in range(3):
            metrics.watch("calc", source := Source())
            source.tell(call()[0])
            del source
        gc.collect()
        assert metrics.snapshot()["endpoints"]["calc"]["in_flight"] == 0
        assert repr(metrics) == "<TransportMetrics of nothing>"


def test_an_endpoint_that_is_registered_later_is_measured_from_its_first_call() -> None:
    with Server("stateless") as server, TransportManager() as manager, TransportMetrics(manager) as metrics:
        assert metrics.snapshot()["endpoints"] == {}
        manager.register_transport("late", StreamableHTTPTransport(server.url, timeout=PATIENCE))
        manager.send_request("late", "tools/call", {"name": "echo", "arguments": {}})
        manager.unregister_transport("late")  # before anybody has looked
        assert metrics.snapshot()["endpoints"]["late"]["requests"] >= 1
        follower = weakref.ref(metrics)
        del metrics
    gc.collect()
    assert follower() is None
    manager.follow(broken := Source())  # type: ignore[arg-type]
    del broken
    assert list(manager._fleet._followers) == []


def test_what_cannot_be_observed_in_a_manager_is_left_out() -> None:
    inner = TransportManager()
    inner.register_transport("one", MemoryTransport(SimpleNamespace(serve=lambda channel: None)))
    with TransportManager() as manager:
        manager.register_transport("nested", inner.endpoint("one"))  # type: ignore[arg-type]
        with TransportMetrics(manager) as metrics:
            assert metrics.snapshot()["endpoints"] == {}


@pytest.mark.parametrize("target", ["http://host/mcp", 7, [1], object()])
def test_what_cannot_be_measured_is_refused(target: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        TransportMetrics(target)


def test_a_transport_is_measured_once(source: Source, metrics: TransportMetrics) -> None:
    metrics.watch("calc", source)
    source.tell(*call())
    assert metrics.snapshot()["endpoints"]["calc"]["requests"] == 1


def test_nobody_is_kept_alive(source: Source) -> None:
    metrics = TransportMetrics(source)
    gone = weakref.ref(metrics), weakref.ref(source)
    del metrics
    gc.collect()
    assert gone[0]() is None
    source.tell(*call())  # to nobody
    metrics = TransportMetrics(other := Source())
    gone = weakref.ref(metrics), weakref.ref(other)
    del other
    assert gone[1]() is None  # not even a cycle
    metrics.close()


def test_what_is_closed_counts_no_more_and_costs_nothing(source: Source) -> None:
    metrics = TransportMetrics(source)
    metrics.close()
    metrics.close()
    assert source.observers == []
    transport = StreamableHTTPTransport("http://127.0.0.1:1/")
    with TransportMetrics(transport):
        assert transport._observers
    assert not transport._observers


# -- the summary ------------------------------------------------------------------------------------------------------


def test_a_snapshot_sums_up(source: Source, metrics: TransportMetrics) -> None:
    for number in range(100):
        source.tell(*call("tools/list" if number % 2 else "tools/call", seconds=0.02 if number < 99 else 2.0))
    source.tell(*call(error="ServerError"), CircuitChanged("s", "open"))
    for method in ("initialize", "server/discover", "ping"):  # a start and checks, which are no calls
        source.tell(*call(method, seconds=60.0))
    entry = metrics.snapshot()["endpoints"]["calc"]
    assert entry["requests"] == 104
    assert entry["errors"] == 1
    assert entry["errors_by_type"] == {"ServerError": 1}
    assert entry["breaker"] == "open"
    latency = entry["latency_ms"]
    assert 10 <= latency["p50"] <= 25
    assert latency["p50"] <= latency["p95"] <= latency["p99"] <= 2500
    assert latency["avg"] == pytest.approx((99 * 20 + 2000 + 10) / 101, rel=0.01)
    json.dumps(metrics.snapshot())


def test_before_the_first_call_there_is_no_latency(metrics: TransportMetrics) -> None:
    assert metrics.snapshot()["endpoints"]["calc"]["latency_ms"] == {"avg": None, "p50": None, "p95": None, "p99": None}
    assert summary([]) == {}


# -- what the application adds ----------------------------------------------------------------------------------------


def test_a_function_can_be_measured_however_it_ends(metrics: TransportMetrics) -> None:
    @metrics.histogram("work_seconds")
    def work(fail: bool) -> str:
        """Work."""
        if fail:
            raise KeyError
        return "done"

    assert value(metrics, "work_seconds_count") == 0
    assert work(False) == "done"
    assert (work.__name__, work.__doc__) == ("work", "Work.")
    with pytest.raises(KeyError):
        work(True)
    with metrics.histogram("work_seconds").time():
        pass
    metrics.histogram("work_seconds").observe(0.3)
    assert value(metrics, "work_seconds_count") == 4


@pytest.mark.parametrize("name", ["not a name", "", "mcp_client_request_duration_seconds"])
def test_a_histogram_that_cannot_be_is_refused_at_once(metrics: TransportMetrics, name: str) -> None:
    with pytest.raises(ValueError):
        metrics.histogram(name)


def test_an_alert_fires_while_its_function_says_so(
    source: Source, metrics: TransportMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mcp_sync")

    @metrics.alert("slow")
    def slow(snapshot: dict[str, Any]) -> bool:
        return snapshot["endpoints"]["calc"]["in_flight"] > 0

    begun, over = call()
    for events, fires in (([], False), ([begun], True), ([], True), ([over], False)):
        source.tell(*events)
        metrics.export()
        assert value(metrics, "mcp_client_alert_firing", alert="slow") == fires
        assert metrics.snapshot()["alerts"] == (["slow"] if fires else [])
    assert caplog.messages == ["alert slow fires", "alert slow ended"]
    assert slow(metrics.snapshot()) is False  # it is what it was


def test_an_alert_that_raises_hurts_nobody(metrics: TransportMetrics, caplog: pytest.LogCaptureFixture) -> None:
    metrics.alert("bad")(lambda snapshot: 1 / 0)
    asked: list[Any] = []
    metrics.alert("good")(asked.append)
    metrics.export()
    assert len(asked) == 1
    assert "the alert bad failed" in caplog.text


def test_alerts_have_names_of_their_own(metrics: TransportMetrics) -> None:
    metrics.alert("one")(lambda snapshot: False)
    with pytest.raises(ValueError, match="already"):
        metrics.alert("one")(lambda snapshot: False)
    with pytest.raises(ValueError, match="letters"):
        metrics.alert("a b")
    with pytest.raises(TypeError, match="alert"):
        metrics.alert(lambda snapshot: False)  # type: ignore[arg-type,type-var]


# -- exporting --------------------------------------------------------------------------------------------------------


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mcp-metrics")]


def test_without_anything_to_export_there_is_no_thread(source: Source) -> None:
    with TransportMetrics(source, export_interval=0.01):
        time.sleep(0.05)
        assert ours() == []


def test_the_text_file_is_replaced_again_and_again_and_always_whole(source: Source, tmp_path: Path) -> None:
    file = tmp_path / "mcp.prom"
    with TransportMetrics(source, export_interval=0.02, textfile=file):
        until(file.exists)
        for number in range(1, 20):
            source.tell(*call())
            until(lambda number=number: f'outcome="ok"}} {number}.0' in file.read_text())  # type: ignore[misc]
            assert "mcp_client_in_flight" in file.read_text()
        assert ours() == ["mcp-metrics"]
    assert [one.name for one in tmp_path.iterdir()] == ["mcp.prom"]
    assert file.stat().st_mode & 0o044 == 0o044 & ~_umask()
    assert ours() == []


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_lines_of_json_go_to_a_file_a_function_or_the_log(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mcp_sync.metrics")
    file, told = tmp_path / "figures.jsonl", list[str]()
    for to in (file, told.append, None):
        with TransportMetrics(source, export_interval=1000, exporters=["json"], json=to) as metrics:  # type: ignore[arg-type]
            metrics.export()
            source.tell(*call())
    for lines in (file.read_text().splitlines(), told, caplog.messages):
        first, last = map(json.loads, lines)  # the last on closing
        assert first["endpoints"]["calc"]["requests"] == 0
        assert last["endpoints"]["calc"]["requests"] == 1


def test_an_export_that_fails_is_logged_and_the_next_one_comes(
    source: Source, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def take(line: str) -> None:
        told.append(line)
        raise OSError("full")

    with TransportMetrics(source, 0.01, json=take, textfile=tmp_path / "missing" / "mcp.prom"):
        until(lambda: len(told) > 3)
    assert "could not be written" in caplog.text


def test_closing_does_not_wait_for_ever_for_an_export_that_hangs(source: Source) -> None:
    hanging, inside = threading.Event(), threading.Event()

    def take(line: str) -> None:
        inside.set()
        if threading.current_thread() is not threading.main_thread():
            hanging.wait(PATIENCE)

    metrics = TransportMetrics(source, 0.01, json=take)
    assert inside.wait(PATIENCE)
    begun = time.monotonic()
    metrics.close(0.1)
    assert time.monotonic() - begun < 5
    hanging.set()
    until(lambda: not ours())


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        ({"exporters": ["statsd"]}, ValueError, "among prometheus, json"),
        ({"exporters": "json"}, TypeError, "list"),
        ({"export_interval": 0}, ValueError, "export_interval"),
        ({"export_interval": "5"}, TypeError, "export_interval"),
        ({"exporters": ["json"], "textfile": "x"}, ValueError, "textfile needs 'prometheus'"),
        ({"exporters": ["prometheus"], "json": "x"}, ValueError, "json needs 'json'"),
        ({"json": 7}, TypeError, "json must be"),
        ({"max_endpoints": 0}, ValueError, "max_endpoints"),
    ],
)
def test_values_that_make_no_sense_are_refused(source: Source, bad: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        TransportMetrics(source, **bad)


def test_without_prometheus_there_is_nothing_to_scrape(source: Source) -> None:
    with TransportMetrics(source, exporters=["json"]) as metrics, pytest.raises(ValueError, match="wsgi_app"):
        metrics.wsgi_app()


def test_without_the_library_the_error_names_the_extra(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=r"pip install 'mcp-sync-transports\[metrics\]'"):
        TransportMetrics(source)


# -- forks ------------------------------------------------------------------------------------------------------------


def test_a_forked_child_begins_anew_and_exports_nothing(source: Source, tmp_path: Path) -> None:
    """I14."""
    file = tmp_path / "mcp.prom"
    with TransportMetrics(source, 0.01, textfile=file) as metrics:
        until(file.exists)
        source.tell(*call(), call()[0])
        metrics.alert("one")(lambda snapshot: True)
        metrics._lock.acquire()  # a thread that stays behind may hold it, and those of the library
        metrics.registry._lock.acquire()
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            signal.alarm(10)  # lest a lock that nobody gives back keeps it for ever
            source.tell(*call())
            metrics.histogram("x_seconds").observe(1)
            entry = metrics.snapshot()["endpoints"]["calc"]
            os.write(write, json.dumps([entry["requests"], entry["in_flight"], metrics._ticker.ticking]).encode())
            os._exit(0)
        os.close(write)
        metrics.registry._lock.release()
        metrics._lock.release()
        with os.fdopen(read) as answer:
            assert json.loads(answer.read()) == [1, 0, False]
        os.waitpid(pid, 0)
        assert metrics.snapshot()["endpoints"]["calc"]["requests"] == 1


def test_the_methods_that_repeat_are_among_those_with_a_label() -> None:
    assert home.SAFE_METHODS < home.METHODS
    assert "tools/call" in home.METHODS
    assert "MCPTimeoutError" in home.ERRORS


def test_a_server_in_this_process_is_measured_too() -> None:
    from mcp_sync.server import Server as Application

    server = Application("s")
    transport = MemoryTransport(server, timeout=PATIENCE)
    with TransportMetrics(transport, name="memory") as metrics, Client(transport) as client:
        assert client.protocol_version
        assert metrics.snapshot()["endpoints"]["memory"]["requests"] >= 1
