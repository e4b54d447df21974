"""The web server that we bring: begin and end, bad clients, large and slow ones, and what it costs."""

from __future__ import annotations

import errno
import http.client
import json
import logging
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import pytest
from faults.tools import within

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.dispatch import start_thread
from mcp_sync.server import hosting, waitress_parts
from mcp_sync.server.hosting import HttpHost
from mcp_sync.server.hosts import client_gone
from peers.running import until

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 15.0
NOTICED = 2.0
HALF_OPEN = 300
STREAM = [("Content-Type", "text/event-stream")]

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


def plain(start_response: Any, body: bytes) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer with the length of the body."""
    return plain(start_response, str(len(environ["wsgi.input"].read())).encode())


class Streaming:
    """Streams what it is told to; a request that is no GET is echoed."""

    def __init__(self) -> None:
        self.began, self.ended, self.more = (threading.Semaphore(0) for _ in range(3))  # guards nothing: they count
        self.pieces = [b": first\n\n"] * 1000
        self.open = True

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            return echo(environ, start_response)
        start_response("200 OK", STREAM)
        return self._stream(client_gone(environ))

    def _stream(self, gone: Callable[[], bool]) -> Iterator[bytes]:
        self.began.release()
        try:
            for piece in self.pieces:
                yield piece
                while not self.more.acquire(timeout=0.05):
                    if gone() or not self.open:
                        return
        finally:
            self.ended.release()


def ended(streaming: Streaming, streams: int = 1, seconds: float = PATIENCE) -> bool:
    return all(streaming.ended.acquire(timeout=seconds) for _ in range(streams))


def connect(host: HttpHost, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", host.address[1]), PATIENCE)
    connection.sendall(data)
    return connection


def post(body: bytes = b"", headers: str = "") -> bytes:
    return f"POST / HTTP/1.1\r\nHost: here\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def is_cut(connection: socket.socket) -> bool:
    """Wait until the other side ends it; what it says before does not matter."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def bodies(connection: socket.socket, number: int) -> list[bytes]:
    """Return the bodies of so many small answers that come one behind the other."""
    received = b""
    while len(found := re.findall(rb"\r\n\r\n(\d+)", received)) < number:
        received += connection.recv(65536)
    return found


def threads_of(host: HttpHost) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(f"mcp-http-{host.address[1]}")]


# -- beginning and end ------------------------------------------------------------------------------------------------


def test_it_serves_and_leaves_nothing(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO, "mcp_sync"):
        host = HttpHost(echo, port=0)
        host.start()
    port = host.address[1]
    assert host.address == ("127.0.0.1", port)
    assert port > 0
    assert host.url == f"http://127.0.0.1:{port}"
    assert caplog.messages == [f"listening at {host.url}"]
    with connect(host, post(b"four")) as connection:
        assert answer(connection)[2] == b"4"
    host.close(Deadline(PATIENCE))
    assert host.over
    assert threads_of(host) == []
    with HttpHost(echo, port=port) as again:  # the port is free
        assert again.address == ("127.0.0.1", port)
    assert capfd.readouterr() == ("", "")


def test_it_listens_to_ipv6_too() -> None:
    try:
        host = HttpHost(echo, host="::1", port=0)
        host.start()
    except OSError:
        pytest.skip("there is no IPv6 here")
    with socket.create_connection(("::1", host.address[1])) as connection:
        connection.sendall(post(b"1"))
        assert answer(connection)[2] == b"1"
    assert host.url == f"http://[::1]:{host.address[1]}"
    host.close(Deadline(PATIENCE))


def test_without_a_host_it_listens_everywhere() -> None:
    with HttpHost(echo, host="", port=0) as host:
        assert host.url == f"http://0.0.0.0:{host.address[1]}"
        connect(host).close()


def test_run_serves_until_somebody_closes() -> None:
    host = HttpHost(echo, port=0)
    runner = start_thread("mcp-test-runner", host.run)
    assert until(lambda: host.address[1])
    with connect(host, post(b"1")) as connection:
        assert answer(connection)[2] == b"1"
    host.close(Deadline(PATIENCE))
    runner.join(PATIENCE)
    assert not runner.is_alive()


def test_a_port_that_is_taken_is_an_error_that_says_so() -> None:
    with HttpHost(echo, port=0) as host:
        other = HttpHost(echo, port=host.address[1])
        with pytest.raises(OSError, match=f"cannot serve at {host.url}: Address already in use") as error:
            other.run()
    assert error.value.errno == errno.EADDRINUSE


def test_a_host_that_does_not_exist_is_an_error_that_says_so() -> None:
    with pytest.raises(OSError, match="cannot serve at http://nowhere.invalid:8000"):
        HttpHost(echo, host="nowhere.invalid").run()


def test_it_cannot_be_started_twice_nor_after_the_end() -> None:
    with HttpHost(echo, port=0) as host, pytest.raises(RuntimeError, match="was started before"):
        host.start()
    with pytest.raises(RuntimeError, match="was started before"):
        host.start()
    HttpHost(echo, port=0).close(Deadline(PATIENCE))  # and need not be at all


def test_without_waitress_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp_sync.server.waitress_parts", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'mcp-sync-transports[server]'")) as error:
        HttpHost(echo)
    assert error.value.name == "waitress"


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("port", 65536, ValueError),
        ("port", "8000", TypeError),
        ("threads", 0, ValueError),
        ("max_body_size", -1, ValueError),
        ("max_connections", 0, ValueError),
        ("request_timeout", 0, ValueError),
        ("idle_timeout", "1", TypeError),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(option: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=option):
        HttpHost(echo, **{option: value})


def test_what_is_no_application_is_refused() -> None:
    with pytest.raises(TypeError, match="app must be a WSGI application, not NoneType"):
        HttpHost(None)  # type: ignore[arg-type]


def test_closing_ends_open_streams_and_idle_connections() -> None:
    streaming = Streaming()
    with ExitStack() as stack:
        host = stack.enter_context(HttpHost(streaming, port=0))
        streams = [stack.enter_context(connect(host, GET)) for _ in range(5)]
        idle = stack.enter_context(connect(host, post(b"1")))
        answer(idle)
        assert all(streaming.began.acquire(timeout=PATIENCE) for _ in streams)
        with within(NOTICED):
            host.close(Deadline(PATIENCE))
        assert ended(streaming, 5, 0)
        assert all(is_cut(connection) for connection in [*streams, idle])


def test_closing_tells_the_application_first_so_that_answers_arrive_whole() -> None:
    streaming = Streaming()
    told: list[Deadline] = []

    def on_close(deadline: Deadline) -> None:
        told.append(deadline)
        streaming.open = False

    with HttpHost(streaming, port=0, on_close=on_close) as host, connect(host, GET) as connection:
        assert streaming.began.acquire(timeout=PATIENCE)
        host.close(Deadline(PATIENCE))
        assert answer(connection)[2] == b": first\n\n"  # an IncompleteRead, if it had been cut
    assert 0 < told[0].limit <= PATIENCE / 2


def test_closing_goes_on_as_soon_as_the_last_answer_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waitress_parts, "TURN_SECONDS", 60)  # by itself the main thread looks after that time
    monkeypatch.setattr(hosting, "PARTING_SECONDS", 60)
    began, go = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        began.set()
        assert go.wait(PATIENCE)
        return plain(start_response, b"1")

    with HttpHost(app, port=0, on_close=lambda deadline: None) as host, connect(host, post()) as connection:
        assert began.wait(PATIENCE)
        closer = start_thread("mcp-test-closer", host.close, Deadline(60))
        server = host._server
        assert server is not None
        assert until(lambda: server.is_closing)
        go.set()
        closer.join(PATIENCE)
        assert not closer.is_alive()
        assert answer(connection)[2] == b"1"


def test_a_connection_is_kept_after_a_stream() -> None:
    streaming = Streaming()
    streaming.open = False
    with HttpHost(streaming, port=0) as host, connect(host) as connection:
        for _ in range(3):
            connection.sendall(GET)
            assert answer(connection)[2] == b": first\n\n"
        connection.sendall(GET.replace(b"Host", b"Connection: close\r\nHost"))
        assert answer(connection)[1]["connection"] == "close"
        assert is_cut(connection)
        connection = connect(host, GET.replace(b"1.1", b"1.0"))
        assert answer(connection)[2] == b": first\n\n"  # which has no other end there
        connection.close()


def test_nobody_comes_in_while_the_application_closes() -> None:
    refused: list[bool] = []

    def comes_in() -> bool:
        try:
            connect(host).close()
        except ConnectionError:
            return False
        return True

    with HttpHost(echo, port=0, on_close=lambda deadline: refused.append(until(lambda: not comes_in()))) as host:
        assert comes_in()
    assert refused == [True]


def test_an_application_that_fails_to_close_keeps_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def on_close(deadline: Deadline) -> None:
        raise ValueError("not now")

    with HttpHost(echo, port=0, on_close=on_close):
        pass
    assert "did not close" in caplog.text


def test_a_thread_that_the_application_keeps_is_named_when_time_is_over(caplog: pytest.LogCaptureFixture) -> None:
    inside, leave = threading.Event(), threading.Event()

    def stuck(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        inside.set()
        leave.wait(PATIENCE)
        return plain(start_response, b"")

    with HttpHost(stuck, port=0) as host, connect(host, GET) as connection:
        assert inside.wait(PATIENCE)
        host.close(Deadline(0.1))
        assert f"thread mcp-http-{host.address[1]}-1 has not ended within" in caplog.text
        assert is_cut(connection)
        leave.set()
        host.close(Deadline(PATIENCE))
        assert threads_of(host) == []


def test_many_may_close_at_once_the_application_included() -> None:
    def closing(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        host.close(Deadline(PATIENCE))
        return plain(start_response, b"")

    with HttpHost(closing, port=0) as host, connect(host, GET) as connection:
        assert is_cut(connection)
        closers = [start_thread(f"mcp-test-{n}", host.close, Deadline(PATIENCE)) for n in range(8)]
        for closer in closers:
            closer.join(PATIENCE)
            assert not closer.is_alive()


def test_a_web_server_that_breaks_down_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(waitress_parts.WebServer, "turn", broken)
    with pytest.raises(RuntimeError, match="broke down"):
        HttpHost(echo, port=0).run()


# -- in a process of its own ------------------------------------------------------------------------------------------

PROGRAM = """
import logging, os, signal, sys, threading
from mcp_sync.server.hosting import HttpHost
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored where a shell started us in the background
def app(environ, start_response):
    if environ["REQUEST_METHOD"] == "POST":
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return stream()
def stream():
    while True:
        yield b": still there\\n\\n"
        threading.Event().wait(0.1)
host = HttpHost(app, port=0)
def ready():
    while not host.address[1]:
        threading.Event().wait(0.01)
    print(host.address[1], flush=True)
telling = threading.Thread(target=ready)
telling.start()
"""


@contextmanager
def program(rest: str) -> Iterator[tuple[Popen[str], int]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM + rest]  # 3.12 has one against forks
    with Popen(command, env=env, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def open_stream(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.sendall(GET)
    assert connection.recv(100)
    return connection


@pytest.mark.parametrize(
    ("rest", "number", "status", "said"),
    [
        ("host.run(); print('after')", signal.SIGINT, 0, "after\n"),
        ("host.run()", signal.SIGTERM, -signal.SIGTERM, ""),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\nhost.run()", signal.SIGTERM, 3, ""),
        ("signal.signal(signal.SIGTERM, lambda *_: host.hang_up(None))\nhost.run()", signal.SIGTERM, 0, ""),
    ],
    ids=["ctrl-c", "sigterm", "sigterm-exits", "sigterm-closes"],
)
def test_signals_end_it_in_time_with_a_stream_open(rest: str, number: int, status: int, said: str) -> None:
    with program(rest) as (process, port), open_stream(port):
        process.send_signal(number)
        with within(hosting.CLOSE_SECONDS):
            out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (status, said, "")


def test_a_program_that_forgets_to_close_ends_all_the_same() -> None:
    rest = "host.start(); threading.Event().wait(1)"
    with program(rest) as (process, port), open_stream(port), within(3.0):
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


FORKING = """
host.start()
telling.join()
before = set(os.listdir("/proc/self/fd"))
child = os.fork()
if not child:
    sockets = [name for name in before if os.path.exists(f"/proc/self/fd/{name}")
               and os.readlink(f"/proc/self/fd/{name}").startswith("socket")]
    os._exit(len(sockets) + (not host.over))
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print("child", status, flush=True)
host._over.wait()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="descriptors are found in /proc")
def test_a_forked_child_holds_nothing_of_it_and_the_parent_goes_on() -> None:
    with program(FORKING) as (process, port):
        assert process.stdout is not None
        assert process.stdout.readline() == "child 0\n"
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            connection.sendall(post())
            assert answer(connection)[2] == b"ok"


# -- what goes in and out ---------------------------------------------------------------------------------------------


def test_a_connection_is_kept_and_the_next_request_may_wait_in_it() -> None:
    with HttpHost(echo, port=0) as host, connect(host) as connection:
        for length in (0, 1, 70_000):
            connection.sendall(post(b"x" * length))
            assert answer(connection)[2] == str(length).encode()
        connection.sendall(post(b"a") + post(b"ab") + post(b"abc", "Connection: close\r\n"))
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert re.findall(rb"\r\n\r\n(\d)", received) == [b"1", b"2", b"3"]


def test_head_and_body_of_an_answer_come_in_one_piece() -> None:
    with HttpHost(echo, port=0) as host, connect(host) as connection:
        for _ in range(20):
            connection.sendall(post())
            assert connection.recv(65536).endswith(b"\r\n\r\n0")


def test_what_is_written_is_sent_at_once() -> None:
    delays: list[int] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        connection = environ["waitress.client_disconnected"].__self__.socket
        delays.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return plain(start_response, b"")

    with HttpHost(app, port=0) as host, connect(host, GET) as connection:
        answer(connection)
    assert delays == [1]


def test_each_piece_of_a_stream_arrives_when_it_is_written() -> None:
    streaming = Streaming()
    streaming.pieces = [f"data: {n}\n\n".encode() for n in range(20)]
    with HttpHost(streaming, port=0) as host, connect(host, GET) as connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        for piece in streaming.pieces:
            assert response.read1(100) == piece
            streaming.more.release()
        assert response.read() == b""
    assert ended(streaming)


def test_much_is_streamed_whole_to_a_client_that_reads_late() -> None:
    streaming = Streaming()
    streaming.pieces = [bytes([n]) * 300_000 for n in range(100)]  # ten times what may wait
    streaming.more = threading.Semaphore(1000)  # guards nothing
    with HttpHost(streaming, port=0) as host, connect(host, GET) as connection:
        assert streaming.began.acquire(timeout=PATIENCE)
        assert not ended(streaming, seconds=0.2)  # it waits for the client
        assert answer(connection)[2] == b"".join(streaming.pieces)


def test_the_main_thread_leaves_a_connection_alone_that_a_worker_writes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[tuple[bool, str]] = []
    send = waitress_parts.Connection.send

    def watched(self: Any, data: bytes, do_close: bool = True) -> int:
        looked_at.append((self.writable(), threading.current_thread().name))
        return int(send(self, data, do_close))

    monkeypatch.setattr(waitress_parts.Connection, "send", watched)
    with HttpHost(echo, port=0) as host, connect(host, post(b"four")) as connection:
        assert answer(connection)[2] == b"4"
    assert looked_at == [(False, f"mcp-http-{host.address[1]}-1")]  # or it would poll it again and again meanwhile


def test_the_main_thread_is_woken_for_what_a_client_does_not_take_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waitress_parts, "TURN_SECONDS", 60)  # by itself it looks after that time
    monkeypatch.setattr(waitress_parts, "MOST_UNSENT", 1 << 30)  # and when a worker waits for it, which none does here
    keep = waitress_parts.Connection._keep

    def late(self: Any, data: bytes, sent: int) -> None:
        keep(self, data, sent)
        self.server.look_at(self)
        threading.Event().wait(0.05)  # the main thread looks meanwhile, and is to look again

    monkeypatch.setattr(waitress_parts.Connection, "_keep", late)
    streaming = Streaming()
    streaming.pieces = [b"x" * (32 << 20)]  # more than goes into the sockets' buffers
    with HttpHost(streaming, port=0) as host, connect(host, GET) as connection:
        assert streaming.began.acquire(timeout=PATIENCE)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert len(response.read(32 << 20)) == 32 << 20


@pytest.fixture(params=["epoll", "poll", "select"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What there is to wait for many descriptors with, here and elsewhere."""
    if request.param != "epoll":
        monkeypatch.setattr(waitress_parts, "_HAS_EPOLL", False)
    if request.param == "select":
        monkeypatch.setattr(waitress_parts, "_poller", lambda: None)
    return str(request.param)


def test_any_system_will_do(system: str) -> None:
    streaming = Streaming()
    streaming.pieces = [b"x" * (8 << 20)] * 2  # more than goes into the sockets' buffers
    with HttpHost(streaming, port=0) as host, connect(host) as connection, connect(host, GET) as stream:
        for length in (0, 1, 70_000):
            connection.sendall(post(b"x" * length) + post(b"x") + post(b""))
            assert bodies(connection, 3) == [str(length).encode(), b"1", b"0"]
        streaming.more.release()
        streaming.open = False
        assert len(answer(stream)[2]) == 16 << 20
        connect(host, GET).close()
        host.close(Deadline(PATIENCE))
        assert is_cut(connection)


def test_while_nothing_happens_nothing_is_done(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []
    clean_up = waitress_parts.WebServer._clean_up

    def counted(self: Any) -> None:
        turns.append(1)
        clean_up(self)

    monkeypatch.setattr(waitress_parts.WebServer, "_clean_up", counted)
    with HttpHost(echo, port=0) as host, ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(connect(host, post(b"four") + post()))
            assert bodies(connection, 2) == [b"4", b"0"]
        turns.clear()
        threading.Event().wait(0.3)
        assert len(turns) < 10


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll here")
def test_what_a_forked_child_closes_the_parent_still_hears_of() -> None:
    with HttpHost(echo, port=0) as host, connect(host, post(b"1")) as connection:
        assert answer(connection)[2] == b"1"
        server = host._server
        assert server is not None
        pid = os.fork()
        if not pid:
            try:
                server.disown()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        connection.sendall(post(b"22"))
        assert answer(connection)[2] == b"2"


def test_requests_beyond_the_threads_wait_and_all_are_answered() -> None:
    with HttpHost(echo, port=0, threads=2) as host, ExitStack() as stack:
        connections = [stack.enter_context(connect(host, post(b"x" * n))) for n in range(40)]
        assert [answer(connection)[2] for connection in connections] == [str(n).encode() for n in range(40)]
        assert len(threads_of(host)) == 3


def test_open_streams_leave_threads_for_calls() -> None:
    streaming = Streaming()
    with HttpHost(streaming, port=0, threads=64) as host, ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(connect(host, GET))
        assert all(streaming.began.acquire(timeout=PATIENCE) for _ in range(60))
        with connect(host, post(b"call")) as connection:
            assert answer(connection)[2] == b"4"


@pytest.mark.parametrize("fails", [ValueError, FileNotFoundError, SystemExit])
def test_an_application_that_fails_is_logged_and_the_next_request_served(
    fails: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "GET":
            raise fails("s3cret")
        return echo(environ, start_response)

    with HttpHost(app, port=0) as host:
        with connect(host, GET) as connection:
            received = connection.makefile("rb").read()
        assert received[:12] == (b"" if fails is SystemExit else b"HTTP/1.1 500")
        assert b"s3cret" not in received
        assert "s3cret" in caplog.text
        with connect(host, post()) as connection:
            assert answer(connection)[0] == 200


def test_an_application_that_fails_in_the_middle_of_a_stream_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", STREAM)
        yield b": first\n\n"
        raise ValueError("in the middle")

    with HttpHost(app, port=0) as host, connect(host, GET) as connection, pytest.raises(http.client.IncompleteRead):
        answer(connection)
    assert "in the middle" in caplog.text


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnothing\r\n", 400),
        (b"GET / HTTP/1.1\r\nLong: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused_as_json(request_: bytes, status: int) -> None:
    with HttpHost(echo, port=0) as host, connect(host, request_) as connection:
        found, headers, body = answer(connection)
    assert found == status
    assert headers["content-type"] == "application/json"
    assert "server" not in headers
    assert b"waitress" not in body
    assert json.loads(body)["jsonrpc"] == "2.0"


def test_headers_with_underscores_and_those_of_proxies_do_not_reach_the_application() -> None:
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        seen.update(environ)
        return plain(start_response, b"")

    more = "Mcp_Name: forged\r\nMcp-Name: true\r\nX-Forwarded-Host: elsewhere\r\n"
    with HttpHost(app, port=0) as host, connect(host, post(b"", more)) as connection:
        answer(connection)
    assert seen["HTTP_MCP_NAME"] == "true"
    assert "HTTP_X_FORWARDED_HOST" not in seen
    assert seen["wsgi.input_terminated"] is True


# -- clients that go away ---------------------------------------------------------------------------------------------


def test_a_client_that_has_gone_ends_its_stream_while_something_is_written() -> None:
    streaming = Streaming()
    streaming.more = threading.Semaphore(1 << 30)  # guards nothing
    streaming.pieces = [b": more\n\n"] * (1 << 20)
    with HttpHost(streaming, port=0) as host:
        connection = connect(host, GET)
        assert streaming.began.acquire(timeout=PATIENCE)
        connection.close()
        with within(NOTICED):
            assert ended(streaming)


def test_a_client_that_has_gone_is_seen_while_nothing_is_written() -> None:
    streaming = Streaming()
    with HttpHost(streaming, port=0) as host:
        connection = connect(host, GET)
        assert streaming.began.acquire(timeout=PATIENCE)
        connection.close()
        with within(NOTICED):
            assert ended(streaming)


def test_the_host_itself_knows_of_a_client_that_has_gone() -> None:
    told: list[bool] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        inside.set()
        told.append(until(environ["waitress.client_disconnected"]))  # so the next write fails, not the one after
        return plain(start_response, b"")

    inside = threading.Event()
    with HttpHost(app, port=0) as host:
        connection = connect(host, GET)
        assert inside.wait(PATIENCE)
        connection.close()
        with within(NOTICED):
            assert until(lambda: told)
    assert told == [True]


@pytest.fixture
def put_away(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The requests whose bodies, which may be in files, were closed."""
    closed: list[object] = []
    close = waitress_parts.HTTPChannel.parser_class.close

    def noted(self: Any) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(waitress_parts.HTTPChannel.parser_class, "close", noted)
    return closed


def test_a_request_behind_one_whose_client_has_gone_is_put_away(put_away: list[object]) -> None:
    streaming = Streaming()
    with HttpHost(streaming, port=0) as host:
        connection = connect(host, GET + post(b"x" * 1_000_000))
        assert streaming.began.acquire(timeout=PATIENCE)
        connection.close()
        assert ended(streaming)
        assert until(lambda: len(set(map(id, put_away))) == 2)


def test_half_a_request_is_put_away(put_away: list[object]) -> None:
    with HttpHost(echo, port=0) as host, connect(host, post() + PARTS["body"]) as connection:
        answer(connection)
        assert until(lambda: len(put_away) == 1)
    assert len(put_away) == 2


def test_a_request_that_the_application_ran_away_from_is_put_away(
    put_away: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        inside.set()
        assert until(environ["waitress.client_disconnected"])
        raise SystemExit

    inside = threading.Event()
    with HttpHost(app, port=0) as host:
        connection = connect(host, post(b"x" * 1_000_000))
        assert inside.wait(PATIENCE)
        connection.close()
    assert len(put_away) == 1
    assert "a request was not answered" in caplog.text


# -- bad clients ------------------------------------------------------------------------------------------------------

PARTS = {
    "nothing": b"",
    "head": b"POST / HTTP/1.1\r\nHost: he",
    "body": b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500,
    "chunk": b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" + b"x" * 500,
    "continue": b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n",
}


@pytest.mark.parametrize("part", PARTS)
def test_300_half_open_clients_keep_no_thread_and_delay_nobody(part: str) -> None:
    with HttpHost(echo, port=0, threads=4) as host, ExitStack() as stack:
        for _ in range(HALF_OPEN):
            stack.enter_context(connect(host, PARTS[part]))
        with within(NOTICED), connect(host) as connection:
            for _ in range(50):
                connection.sendall(post(b"good"))
                assert answer(connection)[2] == b"4"
        assert len(threads_of(host)) <= 5


@pytest.mark.parametrize("part", PARTS)
def test_a_client_that_does_not_finish_its_request_is_cut(part: str) -> None:
    with HttpHost(echo, port=0, request_timeout=0.3, idle_timeout=0.5 if part == "nothing" else 60) as host:
        with connect(host, PARTS[part]) as connection:
            assert is_cut(connection)
        with connect(host, post()) as connection:
            assert answer(connection)[0] == 200


def test_a_request_that_drips_is_cut_too() -> None:
    with HttpHost(echo, port=0, request_timeout=0.5) as host, connect(host, PARTS["body"]) as connection:
        connection.settimeout(0.05)
        began, over = time.monotonic(), False
        while not over and time.monotonic() - began < PATIENCE:
            try:
                connection.sendall(b"x")
                over = connection.recv(1) == b""
            except TimeoutError:
                pass
            except ConnectionError:
                over = True
        assert over


def test_a_connection_that_is_idle_is_cut_but_not_while_an_answer_is_being_made() -> None:
    streaming = Streaming()
    streaming.pieces = [b": only\n\n"]
    with ExitStack() as stack:
        host = stack.enter_context(HttpHost(streaming, port=0, request_timeout=0.1, idle_timeout=0.1))
        stream = stack.enter_context(connect(host, GET))
        idle = stack.enter_context(connect(host, post()))
        answer(idle)
        assert is_cut(idle)
        assert not ended(streaming, seconds=1.5)  # it would have been cut by now
        streaming.more.release()
        assert answer(stream)[2] == b": only\n\n"


def test_a_client_that_takes_nothing_is_cut_and_its_thread_is_free() -> None:
    streaming = Streaming()
    streaming.pieces = [b"x" * 1_000_000] * 1000
    streaming.more = threading.Semaphore(1000)  # guards nothing
    with HttpHost(streaming, port=0, threads=1, idle_timeout=0.5) as host, connect(host, GET):
        assert streaming.began.acquire(timeout=PATIENCE)
        assert ended(streaming)
        with connect(host, post()) as connection:
            assert answer(connection)[0] == 200


def test_when_there_are_too_many_connections_the_silent_ones_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waitress_parts, "YOUNG_SECONDS", 0.0)
    streaming = Streaming()
    with HttpHost(streaming, port=0, max_connections=5) as host, ExitStack() as stack:
        stream = stack.enter_context(connect(host, GET))
        assert streaming.began.acquire(timeout=PATIENCE)
        silent = [stack.enter_context(connect(host, PARTS["head"])) for _ in range(20)]
        with connect(host, post(b"good")) as connection:
            assert answer(connection)[2] == b"4"
        assert is_cut(silent[0])
        streaming.open = False
        assert answer(stream)[0] == 200  # who is being served does not


def test_without_descriptors_it_waits_a_little_instead_of_trying_on_and_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[float] = []
    accept = waitress_parts.TcpWSGIServer.accept

    def exhausted(self: Any) -> Any:
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(self)

    monkeypatch.setattr(waitress_parts.TcpWSGIServer, "accept", exhausted)
    with HttpHost(echo, port=0) as host, connect(host, post()) as connection:
        assert answer(connection)[0] == 200
    assert all(later - before >= waitress_parts.PAUSE_SECONDS for before, later in zip(tries, tries[1:], strict=False))
    assert "no more connections can be had" in caplog.text


def test_without_threads_clients_are_turned_away_and_nothing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting.Workers, "offer", lambda self, job: False)
    with HttpHost(echo, port=0) as host, connect(host, post(b"x" * 1_000_000)) as connection:
        assert is_cut(connection)


# -- large requests ---------------------------------------------------------------------------------------------------

LIMIT = 1 << 20
LARGE = 50 << 20


def chunked(size: int) -> Iterator[bytes]:
    yield b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(size >> 16):
        yield b"10000\r\n" + b"x" * 65536 + b"\r\n"
    yield b"0\r\n\r\n"


def known(size: int) -> Iterator[bytes]:
    yield f"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: {size}\r\n\r\n".encode()
    for _ in range(size >> 16):
        yield b"x" * 65536


def rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is found in /proc")
@pytest.mark.parametrize("how", [known, chunked])
def test_50_mb_are_refused_without_memory(how: Callable[[int], Iterator[bytes]]) -> None:
    with HttpHost(echo, port=0, max_body_size=LIMIT) as host, connect(host) as connection:
        before = rss()
        try:
            for piece in how(LARGE):
                connection.sendall(piece)
        except ConnectionError:
            pass  # it need not hear us out
        status, headers, body = answer(connection)
        assert rss() - before < 10 << 20
    assert status == 413
    assert headers["connection"] == "close"
    assert json.loads(body)["error"] == {"code": -32600, "message": f"the body has more than {LIMIT} bytes"}


def test_a_client_that_asks_first_hears_at_once_that_its_request_is_too_large() -> None:
    ask = f"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: {LARGE}\r\nExpect: 100-continue\r\n\r\n".encode()
    with HttpHost(echo, port=0, max_body_size=LIMIT) as host, connect(host, ask) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_asks_first_is_told_to_go_on() -> None:
    with HttpHost(echo, port=0, max_body_size=LIMIT) as host, connect(host, PARTS["continue"]) as connection:
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"x" * 1000)
        assert answer(connection)[2] == b"1000"


def test_the_largest_body_is_that_of_the_limit() -> None:
    with HttpHost(echo, port=0, max_body_size=LIMIT) as host:
        for body, status in ((b"x" * LIMIT, 200), (b"x" * (LIMIT + 1), 413)):
            with connect(host, post(body)) as connection:
                assert answer(connection)[0] == status
        with connect(host) as connection:
            connection.sendall(b"".join(chunked(LIMIT >> 1)))
            assert answer(connection)[2] == str(LIMIT >> 1).encode()
