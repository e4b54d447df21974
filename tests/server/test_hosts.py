"""What we find out about the web server that calls us; each is run for real, as a child process.

``SEEN`` are the versions that all of this was seen to work with. A test that fails under a later one, and only there,
is the canary: that host has changed what ``mcp_sync/server/hosts.py`` looks at.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults.http_tls import HERE, HERE_KEY, client_context

from mcp_sync.server import hosts
from mcp_sync.server.hosts import client_gone, threads_of
from peers.running import Running, running, until

pytestmark = pytest.mark.interop

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("host_program.py")
SEEN = {
    "cheroot": "11.1.2",
    "django": "5.2.19",
    "gunicorn": "27.0.1",
    "waitress": "3.0.2",
    "werkzeug": "3.1.9",
    "wsgiref": "CPython 3.10 to 3.13",
    "ours": "waitress 3.0.2",
}
THREADS = {
    "waitress": 5,
    "waitress-lookahead": 5,
    "gunicorn": 5,
    "gunicorn-sync": 1,
    "gunicorn-tls": 5,
    "gunicorn-django": 5,
    "cheroot": 5,
    "werkzeug": None,
    "werkzeug-single": 1,
    "werkzeug-tls": None,
    "wsgiref": 1,
    "wsgiref-threaded": None,
    "django": None,
    "django-single": None,
    "ours": 5,
}
"""What each of them is to say; in a view of Django nothing is left that would tell of --nothreading."""
NOTICED = 2.0
"""Seconds in which a client that has gone is to be noticed, on a machine with nothing else to do."""
SLACK = 8.0


@dataclass
class Site:
    """The program, under one host."""

    kind: str
    server: Running

    @property
    def is_alone(self) -> bool:
        """Whether it has one thread for all."""
        return self.kind.endswith(("-single", "-sync")) or self.kind == "wsgiref"

    @property
    def origin(self) -> str:
        return f"{self.kind} (seen to work with {SEEN[self.kind.partition('-')[0]]})"

    def connect(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.server.port), 15)
        if not self.kind.endswith("-tls"):
            return plain
        return client_context().wrap_socket(plain, server_hostname="127.0.0.1")

    def ask(self, path: str) -> Any:
        with self.connect() as connection:
            connection.sendall(request(path, "Connection: close\r\n"))
            return answer(connection)

    def wait_until_gone(self, more: str = "", body: bytes = b"") -> socket.socket:
        """Return a connection on which the application waits until nobody is there."""
        before = self.ask("/noticed")["begun"]
        connection = self.connect()
        connection.sendall(request("/wait", more) + body)
        if not self.is_alone:  # a host that knows at once that the client has gone does not even call the application
            assert until(lambda: self.ask("/noticed")["begun"] > before)
        return connection

    def has_noticed(self, before: int) -> bool:
        return until(lambda: self.ask("/noticed")["noticed"] > before, NOTICED + SLACK)


def request(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: here\r\n{more}\r\n".encode()


def answer(connection: socket.socket) -> Any:
    response = http.client.HTTPResponse(connection)
    response.begin()
    content = response.read()
    assert response.status == 200, content
    return json.loads(content)


@pytest.fixture(scope="module", params=THREADS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "cert.pem").write_text(HERE)
    (folder / "key.pem").write_text(HERE_KEY)

    def command(port: int) -> list[str]:
        return [sys.executable, str(PROGRAM), request.param, str(port), str(folder)]

    with running(command, folder / "output", {"PYTHONPATH": str(ROOT)}) as server:
        yield Site(request.param, server)


def test_the_number_of_threads_is_known(site: Site) -> None:
    facts = site.ask("/facts")
    assert facts["threads"] == THREADS[site.kind], f"{site.origin}: {facts}"
    assert facts["gone"] is False


def test_a_client_that_hangs_up_is_noticed(site: Site) -> None:
    before = site.ask("/noticed")["noticed"]
    site.wait_until_gone().close()
    assert site.has_noticed(before), site.origin


def test_a_client_that_resets_the_connection_is_noticed(site: Site) -> None:
    before = site.ask("/noticed")["noticed"]
    connection = site.wait_until_gone()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert site.has_noticed(before), site.origin


def test_a_client_that_only_stops_sending_counts_as_gone(site: Site) -> None:
    before = site.ask("/noticed")["noticed"]
    with site.wait_until_gone() as connection:
        connection.shutdown(socket.SHUT_WR)
        assert site.has_noticed(before), site.origin


@pytest.mark.parametrize(
    ("more", "body"), [("Content-Length: 3\r\n", b"abc"), ("Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n")]
)
def test_a_client_that_hangs_up_is_noticed_though_its_body_was_not_read(site: Site, more: str, body: bytes) -> None:
    before = site.ask("/noticed")["noticed"]
    site.wait_until_gone(more, body).close()
    assert site.has_noticed(before), site.origin


def test_a_client_that_waits_is_not_gone(site: Site) -> None:
    assert not any(site.ask("/steady")["gone"]), site.origin


def test_a_request_behind_the_one_that_is_answered_is_neither_the_end_nor_lost(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(request("/steady") + request("/facts", "Connection: close\r\n"))
        received = bytearray()
        while piece := connection.recv(65536):
            received += piece
            if received.count(b"}") == 2:
                break
    assert b"true" not in received, site.origin
    if keeps_connections(site):
        assert received.count(b"HTTP/1.1 200") == 2, site.origin


def keeps_connections(site: Site) -> bool:
    """Whether there is a second request on a connection at all."""
    return site.kind.startswith(("waitress", "gunicorn", "cheroot", "ours")) and site.kind != "gunicorn-sync"


def test_a_pipelined_request_hides_no_end(site: Site) -> None:
    before = site.ask("/noticed")["noticed"]
    connection = site.wait_until_gone()
    connection.sendall(request("/facts"))
    connection.close()
    assert site.has_noticed(before), site.origin


# -- hosts that nobody knows ------------------------------------------------------------------------------------------


def start_response(status: str, headers: list[tuple[str, str]]) -> None:
    """Stand for a host's."""


class Stubborn:
    """Fails whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise TypeError(name)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"wsgi.input": io.BytesIO(b"body")},
        {"wsgi.input": None, "gunicorn.socket": None, "waitress.client_disconnected": 1},
        {"werkzeug.socket": "none"},
        {"waitress.client_disconnected": lambda: True},
        {"wsgi.early_hints": len, "wsgi.multithread": True},
    ],
)
def test_of_an_unknown_host_nothing_is_said(environ: dict[str, Any]) -> None:
    assert threads_of(environ, start_response) is None
    assert client_gone(environ)() is False


@pytest.mark.parametrize(("kind", "threads"), [("gthread", 7), ("gevent", None), ("eventlet", None)])
def test_only_those_workers_of_gunicorn_that_have_threads_tell_how_many(kind: str, threads: int | None) -> None:
    class Response:
        cfg = SimpleNamespace(threads=7, worker_class_str=kind)

        def start_response(self) -> None:
            """Stand for gunicorn's."""

    assert threads_of({"wsgi.multithread": True}, Response().start_response) == threads


def test_a_host_without_threads_has_one() -> None:
    assert threads_of({"wsgi.multithread": False}, start_response) == 1


def test_streams_around_streams_without_end_are_given_up() -> None:
    class Endless:
        @property
        def raw(self) -> Any:
            return Endless()

    assert client_gone({"wsgi.input": Endless()})() is False


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_connection_that_the_host_has_closed_is_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    gone = client_gone({"gunicorn.socket": ours})
    assert not gone()
    ours.close()
    assert gone()


@pytest.mark.parametrize("look", ["_ended_by_poll", "_ended_by_peek"])
def test_looking_takes_nothing(look: str, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ended = getattr(hosts, look)
    assert not ended(ours.fileno())
    theirs.sendall(b"more")
    assert not ended(ours.fileno())
    assert ours.recv(100) == b"more"
    theirs.close()
    assert ended(ours.fileno())
    assert ours.recv(100) == b""
