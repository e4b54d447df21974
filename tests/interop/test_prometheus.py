"""A real Prometheus scrapes the figures, and answers queries with the right ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import requests
from faults.http_server import Exchange, Server
from faults.tools import PATIENCE

from mcp_sync import Client, MCPError, StreamableHTTPTransport, TransportMetrics
from mcp_sync.testing import in_threads
from peers import install
from peers.running import Running, running, until

pytestmark = pytest.mark.interop

CONFIGURATION = """
global: {{ scrape_interval: 250ms, scrape_timeout: 250ms }}
scrape_configs:
  - job_name: mcp
    metrics_path: {path}
    static_configs: [{{ targets: ["127.0.0.1:{port}"] }}]
"""


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(application: Any) -> Iterator[int]:
    """Serve a WSGI application on a port of this machine."""
    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="wsgi")
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(PATIENCE)


@contextmanager
def scraping(port: int, folder: Path) -> Iterator[Running]:
    """Start a Prometheus that scrapes this port four times a second; it is killed at the end."""
    try:
        install.demand("prometheus")
    except install.InstallError as error:
        pytest.fail(str(error), pytrace=False)
    folder.mkdir()
    file = folder / "prometheus.yml"
    file.write_text(CONFIGURATION.format(path="/metrics", port=port))

    def command(own: int) -> list[str]:
        where = (f"--web.listen-address=127.0.0.1:{own}", f"--storage.tsdb.path={folder / 'data'}")
        return [str(install.prometheus()), f"--config.file={file}", *where]

    with running(command, folder / "process") as server:
        assert until(lambda: _ready(server), PATIENCE), server.output
        yield server


def _ready(server: Running) -> bool:
    """Whether it has read what is on its disk, and answers."""
    return get(f"{server.origin}/-/ready").ok


def get(url: str, **params: str) -> requests.Response:
    """Ask a server on this machine, whatever proxies the environment names."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, params=params, timeout=PATIENCE)


class Questions:
    """What Prometheus is asked, through its HTTP API."""

    def __init__(self, server: Running) -> None:
        self._server = server

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the series that a query finds now."""
        found = get(f"{self._server.origin}/api/v1/query", query=query).json()
        assert found["status"] == "success", found
        series: list[dict[str, Any]] = found["data"]["result"]
        return series

    def number(self, query: str) -> float | None:
        """Return the one number that a query finds; None: nothing yet."""
        series = self.ask(query)
        assert len(series) <= 1, series
        return float(series[0]["value"][1]) if series else None

    def comes_to(self, query: str, number: float) -> None:
        """Wait until a query finds this number."""
        until(lambda: self.number(query) == number)
        assert self.number(query) == number, f"{query}: {self.ask(query)}"


def fails(exchange: Exchange) -> None:
    exchange.reply(500, "no")


@pytest.fixture
def mcp() -> Iterator[Server]:
    with Server("stateless", on={"broken": fails}) as server:
        yield server


def test_prometheus_scrapes_the_figures_and_counts_every_call(mcp: Server, tmp_path: Path) -> None:
    transport = StreamableHTTPTransport(mcp.url, timeout=PATIENCE)
    with TransportMetrics({"calc": transport}) as metrics, Client(transport) as client:
        metrics.alert("broken")(lambda snapshot: snapshot["endpoints"]["calc"]["errors"] >= 7)
        with serving(metrics.wsgi_app()) as port, scraping(port, tmp_path / "prometheus") as prometheus:
            _counts_every_call(client, metrics, Questions(prometheus))


def _counts_every_call(client: Client, metrics: TransportMetrics, questions: Questions) -> None:
    made = 'mcp_client_requests_total{endpoint="calc",method="tools/call",outcome="%s"}'
    questions.comes_to('up{job="mcp"}', 1)
    questions.comes_to('mcp_client_in_flight{endpoint="calc"}', 0)
    in_threads(4, lambda _: [client.call_tool("echo", {"a": 1}) for _ in range(30)])
    questions.comes_to(made % "ok", 120)
    for _ in range(7):
        with pytest.raises(MCPError):
            client.call_tool("broken")
    questions.comes_to(made % "error", 7)
    questions.comes_to('mcp_client_errors_total{type="ServerError"}', 7)
    questions.comes_to('mcp_client_troubles_total{kind="server_error"}', 7)
    metrics.export()  # which asks the alerts
    questions.comes_to('mcp_client_alert_firing{alert="broken"}', 1)
    questions.comes_to('mcp_client_request_duration_seconds_count{endpoint="calc",method="tools/call"}', 127)
    questions.comes_to('mcp_client_breaker_state{state="closed"}', 1)
    slowest = 'histogram_quantile(0.99, sum by (le) (mcp_client_request_duration_seconds_bucket{method="tools/call"}))'
    assert 0 < (questions.number(slowest) or 0) < PATIENCE


def test_a_text_file_and_lines_of_json_say_the_same_as_the_scrape(mcp: Server, tmp_path: Path) -> None:
    transport = StreamableHTTPTransport(mcp.url, timeout=PATIENCE)
    text, lines = tmp_path / "mcp.prom", tmp_path / "mcp.jsonl"
    with TransportMetrics({"calc": transport}, textfile=text, json=lines) as metrics, Client(transport) as client:
        for _ in range(5):
            client.call_tool("echo")
        metrics.export()
        with serving(metrics.wsgi_app()) as port:
            page = get(f"http://127.0.0.1:{port}/metrics").text
        wanted = 'mcp_client_requests_total{endpoint="calc",method="tools/call",outcome="ok"} 5.0'
        assert wanted in page
        assert wanted in text.read_text()
        last = json.loads(lines.read_text().splitlines()[-1])
        assert last["endpoints"]["calc"]["requests"] == 6  # with server/discover
