"""Under our own host a call is answered by the host's thread itself, and another one comes where that takes a while."""

from __future__ import annotations

import gc
import http.client
import json
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from server.web import META, STATELESS

from mcp_sync.deadlines import Deadline
from mcp_sync.engine.dispatch import Crew, start_thread
from mcp_sync.exceptions import TooManyRequests
from mcp_sync.server import Context, Server, exchange
from mcp_sync.server.exchange import Companion, Exchange, Exchanges, Recipient
from mcp_sync.server.hosting import HttpHost
from mcp_sync.server.hosts import REPLY
from peers.running import until

PATIENCE = 15.0
SHORT = 0.05
JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}


class Tools:
    """A server whose tools do what the test says, when it says so."""

    def __init__(self, **options: Any) -> None:
        self.server = Server("s", **options)
        self.began, self.noticed = threading.Semaphore(0), threading.Event()  # guards nothing: the former counts
        self.go = threading.Event()
        self.threads: list[str] = []
        for tool in (self.name, self.wait, self.hang, self.report, self.flood, self.hangs_up):
            self.server.add_tool(tool)

    def name(self) -> str:
        """Return the name of the thread."""
        self.threads.append(threading.current_thread().name)
        return self.threads[-1]

    def wait(self, context: Context) -> str:
        """Wait until the client is gone, or the test says go."""
        self.began.release()
        while not self.go.is_set():
            if context.wait(0.01):
                self.noticed.set()
                context.check()
        return "waited"

    def hang(self, context: Context) -> str:
        """Wait until the test says go, whatever the client does."""
        self.began.release()
        assert self.go.wait(4 * PATIENCE)  # longer than any client waits
        return "hung"

    def report(self, context: Context) -> str:
        """Report, then wait."""
        for step in range(3):
            context.progress(step + 1)
        return self.hang(context)

    def flood(self, context: Context) -> str:
        """Say more than fits into any buffer."""
        self.began.release()
        for step in range(40):
            context.progress(step + 1, message=str(step) * 300_000)
        return "said"

    def hangs_up(self, context: Context) -> str:
        """End the stream, then wait."""
        context.progress(1)
        context.close_stream()
        return self.hang(context)


@contextmanager
def hosted(tools: Tools, threads: int = 8, **options: Any) -> Iterator[HttpHost]:
    app = tools.server.wsgi_app(**options)
    with HttpHost(app, port=0, threads=threads, on_close=app.close) as host:
        try:
            yield host
        finally:
            tools.go.set()
    app.close()  # a call that went on while the host closed may have got another thread since


class Guest:
    """A connection, and what it asks."""

    def __init__(self, host: HttpHost, session: str | None = None) -> None:
        self.socket = socket.create_connection(host.address, PATIENCE)
        self._session = session

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def post(self, message: dict[str, Any], headers: dict[str, str]) -> http.client.HTTPResponse:
        self.send(message, headers)
        return self.response()

    def send(self, message: dict[str, Any], headers: dict[str, str]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        host = f"127.0.0.1:{self.socket.getpeername()[1]}"
        lines = {"Host": host, **JSON, **headers, "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.socket.sendall(f"POST / HTTP/1.1\r\n{head}\r\n".encode() + body)

    def response(self) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        return response

    def call(self, tool: str, number: int = 1, meta: dict[str, Any] | None = None) -> None:
        """Call a tool, in the session if there is one."""
        params: dict[str, Any] = {"name": tool, "arguments": {}, "_meta": {"progressToken": "t", **(meta or {})}}
        headers = {"MCP-Protocol-Version": "2025-11-25", "Mcp-Session-Id": self._session or ""}
        if self._session is None:
            params["_meta"] |= {META + "protocolVersion": STATELESS, META + "clientCapabilities": {}}
            headers = {"MCP-Protocol-Version": STATELESS, "Mcp-Method": "tools/call", "Mcp-Name": tool}
        self.send({"id": number, "method": "tools/call", "params": params}, headers)

    def notify(self, method: str, params: dict[str, Any]) -> int:
        headers = {"MCP-Protocol-Version": "2025-11-25", "Mcp-Session-Id": self._session or ""}
        response = self.post({"method": method, "params": params}, headers)
        response.read()
        return response.status


def begin_session(host: HttpHost) -> str:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    with Guest(host) as guest:
        response = guest.post({"id": 0, "method": "initialize", "params": params}, {})
        response.read()
        return response.headers["Mcp-Session-Id"]


def text_of(response: http.client.HTTPResponse) -> str:
    """Return the text of an answer in JSON."""
    assert response.headers["Content-Type"] == "application/json"
    return str(json.loads(response.read())["result"]["content"][0]["text"])


def events_of(response: http.client.HTTPResponse) -> list[Any]:
    """Return the messages of a whole stream."""
    lines = response.read().decode().split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ") and len(line) > 6]


def next_event(response: http.client.HTTPResponse) -> Any:
    """Return the next message of a stream; comments and what primes it are passed over."""
    while line := response.readline():
        if line.startswith(b"data: {"):
            return json.loads(line[6:])
    return None


@pytest.fixture(params=["stateless", "session"])
def era(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody look for long calls, so that another thread comes only if it is sent for."""
    monkeypatch.setattr(exchange, "SHORT_SECONDS", 60.0)


def guest_of(host: HttpHost, era: str) -> Guest:
    return Guest(host, begin_session(host) if era == "session" else None)


# -- who answers ------------------------------------------------------------------------------------------------------


def test_a_short_call_is_answered_by_the_hosts_own_thread(era: str) -> None:
    tools = Tools()
    with hosted(tools) as host, guest_of(host, era) as guest:
        for number in range(3):
            guest.call("name", number)
            response = guest.response()
            assert (response.status, text_of(response)) == (200, tools.threads[-1])
        assert {name.rpartition("-")[0] for name in tools.threads} == {f"mcp-http-{host.address[1]}"}


def test_who_stands_between_host_and_application_sees_all_that_is_written() -> None:
    tools = Tools()
    app = tools.server.wsgi_app()
    seen: list[bytes] = []

    def watching(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        def started(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, headers, exc_info)

        for piece in app(environ, started):
            seen.append(piece)
            yield piece

    tools.go.set()
    with HttpHost(watching, port=0, on_close=app.close) as host, Guest(host) as guest:
        guest.call("name")
        assert text_of(guest.response()).startswith("mcp-http-")
        assert tools.threads[0].count("-") == 2  # another thread than the host's: that one has to write
        guest.call("report")
        assert len(events_of(guest.response())) == 4
    assert b"".join(seen).count(b"notifications/progress") == 3


def test_what_a_request_needed_is_gone_with_it_without_the_collector() -> None:
    tools = Tools()
    kept: list[weakref.ref[Any]] = []
    app = tools.server.wsgi_app()

    def noting(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        kept.append(weakref.ref(environ[REPLY]))
        return app(environ, start_response)

    def keeps(context: Context) -> str:
        kept.append(weakref.ref(context._call.link))
        return "x"

    tools.server.add_tool(keeps)
    gc.disable()
    try:
        with HttpHost(noting, port=0, on_close=app.close) as host, Guest(host) as guest:
            for number in range(3):
                guest.call("keeps", number)
                assert text_of(guest.response()) == "x"
            assert len(kept) == 6
            assert until(lambda: all(one() is None for one in kept))
    finally:
        gc.enable()


# -- what is said meanwhile -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_what_a_tool_says_arrives_while_it_runs(era: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SHORT_SECONDS", seconds)  # either with another thread, or without
    tools = Tools()
    with hosted(tools) as host, guest_of(host, era) as guest:
        guest.call("report")
        response = guest.response()
        assert [next_event(response)["params"]["progress"] for _ in range(3)] == [1, 2, 3]
        assert tools.began.acquire(timeout=PATIENCE)
        tools.go.set()
        assert next_event(response)["result"]["content"][0]["text"] == "hung"
        assert next_event(response) is None


def test_a_silent_call_becomes_a_stream_that_says_comments_and_then_the_answer(era: str) -> None:
    tools = Tools()
    with hosted(tools, heartbeat=SHORT) as host, guest_of(host, era) as guest:
        guest.call("hang")
        response = guest.response()
        assert response.headers["Content-Type"] == "text/event-stream"
        assert until(lambda: response.readline() == b": \n")
        assert until(lambda: response.readline() == b": \n")
        tools.go.set()
        assert next_event(response)["result"]["content"][0]["text"] == "hung"
        assert next_event(response) is None


def test_much_that_is_said_waits_for_a_client_that_reads_late_and_arrives_whole(era: str) -> None:
    tools = Tools()
    with hosted(tools, heartbeat=SHORT) as host, guest_of(host, era) as guest, Guest(host) as other:
        guest.call("flood")
        assert tools.began.acquire(timeout=PATIENCE)
        other.call("name")
        assert text_of(other.response())  # nobody else waits for that client
        *said, last = events_of(guest.response())
        assert [one["params"]["message"] for one in said] == [str(step) * 300_000 for step in range(40)]
        assert last["result"]["content"][0]["text"] == "said"


def test_without_more_threads_a_call_that_says_something_is_answered_all_the_same(
    era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Crew, "start", lambda self, job: False)
    tools = Tools()
    tools.go.set()
    with hosted(tools, heartbeat=SHORT) as host, guest_of(host, era) as guest:
        guest.call("report")
        assert len(events_of(guest.response())) == 4


def test_the_answer_arrives_though_others_go_on_to_say_more_than_there_is_room_for(
    era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Crew, "start", lambda self, job: False)  # so that nobody but the host's thread can write
    tools = Tools()
    helpers: list[threading.Thread] = []

    def leaves_helpers(context: Context) -> str:
        for number in range(8):
            helpers.append(start_thread(f"mcp-test-{number}", context.log, "info", "x" * 1_048_200))
        assert until(lambda: all(not one.is_alive() or context._call.link.outbox._pieces for one in helpers))
        return "done"

    tools.server.add_tool(leaves_helpers)
    with hosted(tools) as host, guest_of(host, era) as guest:
        guest.call("leaves_helpers", meta={META + "logLevel": "info"})
        response = guest.response()
        *_, last = events_of(response)
        assert last["result"]["content"][0]["text"] == "done"
        for helper in helpers:
            helper.join(PATIENCE)
            assert not helper.is_alive()


class SlowReply:
    """A response whose client does not take what it is sent."""

    is_behind = True

    def __init__(self) -> None:
        self.told: list[bytes] = []

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> object:
        return None

    def tell(self, data: bytes) -> None:
        self.told.append(data)

    def end(self) -> None:
        raise AssertionError


def companion_of(reply: SlowReply, jobs: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch) -> Companion:
    """Return one, of a crew that keeps jobs for the test to run."""
    monkeypatch.setattr(Crew, "start", lambda self, job: bool(jobs.append(job)) or True)
    recipient = Recipient({}, reply.start_response, "c", lambda: None)
    spoken = Exchange()
    made = spoken.companion = Companion(Crew("mcp-test", 1), spoken, recipient, reply, SHORT, SHORT)
    spoken.notify("notifications/message", {})
    return made


def test_who_says_something_does_not_write_to_a_client_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    reply, jobs = SlowReply(), list[Callable[[], object]]()
    companion_of(reply, jobs, monkeypatch)
    assert (reply.told, len(jobs)) == ([], 1)


def test_a_second_thread_that_comes_too_late_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reply, jobs = SlowReply(), list[Callable[[], object]]()
    companion = companion_of(reply, jobs, monkeypatch)
    assert companion.take_over()
    jobs[0]()
    assert reply.told == []
    companion.drain()
    assert b"notifications/message" in reply.told[0]


# -- clients that go --------------------------------------------------------------------------------------------------


def test_a_client_that_goes_has_cancelled_though_nothing_was_said() -> None:
    tools = Tools()
    with hosted(tools) as host:
        with Guest(host) as guest:
            guest.call("wait")
            assert tools.began.acquire(timeout=PATIENCE)
        assert tools.noticed.wait(PATIENCE)


def test_a_call_that_hangs_and_that_no_client_waits_for_keeps_no_thread_from_others(era: str) -> None:
    tools = Tools()
    with hosted(tools, threads=1, heartbeat=SHORT) as host:
        session = begin_session(host) if era == "session" else None
        for _ in range(3):
            with Guest(host, session) as guest:
                guest.call("hang", _)
                assert tools.began.acquire(timeout=PATIENCE)
        with Guest(host) as other:
            other.call("name")
            assert text_of(other.response())
        staff = host._staff
        tools.go.set()
        assert until(lambda: staff._most == 1)


@pytest.mark.usefixtures("unhurried")
def test_a_session_that_cancels_a_call_has_an_end_of_it_at_once_and_its_tool_goes_on() -> None:
    tools = Tools()
    with hosted(tools, heartbeat=600) as host:
        session = begin_session(host)
        with Guest(host, session) as guest, Guest(host, session) as canceller:
            guest.call("hang", 7)
            assert tools.began.acquire(timeout=PATIENCE)
            assert canceller.notify("notifications/cancelled", {"requestId": 7}) == 202
            response = guest.response()
            assert (response.status, response.read()) == (202, b"")
            guest.call("name", 8)  # the connection goes on, though the tool is not back
            assert text_of(guest.response())
            assert not tools.go.is_set()


@pytest.mark.usefixtures("unhurried")
def test_a_tool_that_hangs_up_ends_the_response_and_goes_on() -> None:
    tools = Tools()
    with hosted(tools, heartbeat=600) as host, Guest(host, begin_session(host)) as guest:
        guest.call("hangs_up")
        assert [one["method"] for one in events_of(guest.response())] == ["notifications/progress"]
        guest.call("name", 8)
        assert text_of(guest.response())
        assert not tools.go.is_set()


# -- limits, and the end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"max_concurrent_requests": 2}, {}])
def test_no_more_are_answered_at_once_than_may_be(options: dict[str, int]) -> None:
    tools = Tools(max_concurrent_requests=16 if options else 2)
    with hosted(tools, **options) as host, ExitStack() as stack:
        for number in range(2):
            stack.enter_context(Guest(host)).call("hang", number)
            assert tools.began.acquire(timeout=PATIENCE)
        guest = stack.enter_context(Guest(host))
        guest.call("name")
        response = guest.response()
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        response.read()
        tools.go.set()

        def is_served() -> bool:
            guest.call("name")
            again = guest.response()
            again.read()
            return again.status == 200

        assert until(is_served)


def test_closing_waits_for_a_call_and_its_answer_arrives() -> None:
    tools = Tools()
    with hosted(tools) as host, Guest(host) as guest:
        guest.call("hang")
        assert tools.began.acquire(timeout=PATIENCE)
        closer = start_thread("mcp-test-closer", host.close, Deadline(PATIENCE))
        assert until(lambda: host._closing)
        tools.go.set()
        assert text_of(guest.response()) == "hung"
        closer.join(PATIENCE)
        assert not closer.is_alive()


def test_closing_the_application_waits_for_what_is_being_answered() -> None:
    tools = Tools()
    app = tools.server.wsgi_app()
    with HttpHost(app, port=0) as host, Guest(host) as guest:
        guest.call("hang")
        assert tools.began.acquire(timeout=PATIENCE)
        app.close(Deadline(SHORT))  # which is too short
        closer = start_thread("mcp-test-closer", app.close, Deadline(PATIENCE))
        closer.join(SHORT)
        assert closer.is_alive()
        tools.go.set()
        assert text_of(guest.response()) == "hung"
        closer.join(PATIENCE)
        assert not closer.is_alive()
    app.close()


def test_a_tool_may_close_the_host_that_it_runs_under() -> None:
    tools, took = Tools(), []

    def ends() -> str:
        began = time.monotonic()
        host.close(Deadline(60))  # the half of which the application has for what it is doing
        took.append(time.monotonic() - began)
        return "closed"

    tools.server.add_tool(ends)
    with hosted(tools) as host, Guest(host) as guest:
        guest.call("ends")
        assert until(lambda: took)
    assert took[0] < PATIENCE


def test_an_application_that_was_closed_can_be_used_again() -> None:
    tools = Tools()
    app = tools.server.wsgi_app()
    with HttpHost(app, port=0, on_close=app.close) as host, Guest(host) as guest:
        guest.call("name")
        assert text_of(guest.response())
        app.close()
        guest.call("name")
        assert text_of(guest.response())


def test_where_nobody_can_look_after_clients_a_call_is_refused_and_may_be_made_again(
    era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(deadline: Deadline, job: Callable[[], object]) -> Any:
        raise TooManyRequests("there can be no more threads", may_have_run=False)

    tools = Tools()
    with hosted(tools) as host, guest_of(host, era) as guest:
        with monkeypatch.context() as patch:
            patch.setattr("mcp_sync.server.exchange.reaper.at", full)
            guest.call("name")
            response = guest.response()
            response.read()
            assert response.status == 503
        guest.call("name")
        assert text_of(guest.response())


def test_looking_for_long_calls_ends_with_the_calls() -> None:
    exchanges = Exchanges(1, 1, heartbeat=SHORT, max_message_size=1000)
    assert exchanges._look_soon()
    assert until(lambda: not exchanges._is_looking)
