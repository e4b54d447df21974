"""HTTP+SSE: the stream is the connection: when it is cut, calls fail at once, and the next call connects again."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from faults.http_server import EVENTS, Exchange, Manner, late, replies, silent
from faults.http_streams import OldServer, accepts, event, listening, news, sse
from faults.http_tools import NOW, T, closes, resets
from faults.tools import PATIENCE, adds_up, close, host, tool, until, within, works

from mcp_sync import Client, MCPConnectionError, MCPError, MCPTimeoutError, Notification
from mcp_sync.exceptions import AuthError, HTTPStatusError, ServerError
from mcp_sync.testing import in_threads

CUTS = pytest.mark.parametrize("how", ["close", "cut", "reset"])


def opened(server: OldServer, count: int) -> None:
    until(lambda: len(server.stream.lines) >= count)


@CUTS
def test_a_stream_that_is_cut_fails_the_calls_under_way_at_once_and_the_next_connects_again(how: str) -> None:
    """5.2, I2, I10: whether they ran, nobody knows; none is sent again."""
    with listening(on={"work": accepts, "dead": silent}) as (client, server):
        futures = [client.submit_tool("work", timeout=PATIENCE) for _ in range(4)]
        futures += [client.submit_tool("dead", timeout=PATIENCE) for _ in range(4)]
        until(lambda: len(server.calls()) == 8)

        def call(number: int) -> MCPError:
            if number == 8:
                until(lambda: len(server.calls()) == 16)
                server.stream.end(how)
                return MCPError("")
            with pytest.raises(MCPConnectionError) as found:
                client.call_tool("work" if number % 2 else "dead")
            return found.value

        with within(NOW):
            errors = in_threads(9, call)[:8]
            errors += [future.exception(PATIENCE) for future in futures]  # type: ignore[misc]
        assert {error.may_have_run for error in errors} == {None}
        assert all(error.details["method"] == "tools/call" for error in errors)
        with within(NOW):
            works(client)
        assert len(server.verbs("GET")) == 2
        assert len(server.calls("work")) + len(server.calls("dead")) == 16
        until(lambda: client.counters["pending"] == 0)
        adds_up(client.counters)


def test_eight_calls_that_find_the_stream_gone_connect_again_once() -> None:
    """5.2: single flight."""
    with listening() as (client, server):
        server.stream.end()
        until(lambda: client._asker.caller._caller.over)  # type: ignore[union-attr]
        with within(NOW):
            assert in_threads(8, lambda n: tool(client, "echo", n=n)) == [{"n": n} for n in range(8)]
        assert len(server.verbs("GET")) == 2
        assert len(server.posted) == 2 * 2 + 8


def test_a_call_that_was_never_sent_is_sent_on_the_new_connection() -> None:
    """I10: the stream ends between two calls, again and again; each call runs once, or is an error."""
    with listening() as (client, server):
        ok = 0
        for number in range(1, 11):  # 0 and -0 would be one call that ran twice
            server.stream.end("reset" if number % 2 else "close")
            try:
                assert tool(client, "echo", NOW, n=number) == {"n": number}
                ok += 1
            except MCPConnectionError:
                until(lambda number=number: tool(client, "echo", n=-number) == {"n": -number})
        assert ok >= 3
        ran = [request.arguments["n"] for request in server.calls("echo")]
        assert len(ran) == len(set(ran))
        adds_up(client.counters)


def test_a_user_who_wants_no_reconnecting_gets_none() -> None:
    """max_reconnects=0: the client says so, and may be connected again by hand."""
    with listening(max_reconnects=0) as (client, server):
        server.stream.end()
        until(lambda: not client.connected)
        for _ in range(2):
            with within(NOW), pytest.raises(MCPConnectionError) as found:
                client.ping()
            assert found.value.may_have_run is False
        assert len(server.verbs("GET")) == 1
        client.connect()
        works(client)
        assert len(server.verbs("GET")) == 2


DOWN: dict[str, Manner] = {
    "503": replies(503, "", content_type=None),
    "closed": closes,
    "reset": resets,
    "ended before the endpoint": lambda exchange: (
        exchange.send(exchange.head(200, "Connection: close", content_type=EVENTS)) or exchange.close()
    ),
}


@pytest.mark.parametrize("how", DOWN)
def test_a_server_that_does_not_come_back_is_given_up_after_so_many_attempts_with_the_cause(how: str) -> None:
    """I9: the pause doubles; the error says why."""
    with listening(max_reconnects=3, reconnect_interval=0.1) as (client, server):
        server.set(GET=DOWN[how])
        server.stream.end()
        until(lambda: client._asker.caller._caller.over)  # type: ignore[union-attr]
        began = time.monotonic()
        with within(NOW), pytest.raises(ServerError if how == "503" else MCPConnectionError) as found:
            client.ping()
        assert time.monotonic() - began >= 0.29
        assert found.value.may_have_run is False
        assert str(server.port) in str(found.value)
        times = [request.at for request in server.verbs("GET")[1:]]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert len(times) == 3
        assert 0.09 <= pauses[0] <= 0.19
        assert 0.19 <= pauses[1] <= 0.39
        server.set(GET=server.stream)
        works(client)


def test_nobody_there_at_all_is_said_after_so_many_attempts() -> None:
    """I6"""
    with listening(max_reconnects=2, reconnect_interval=0.1) as (client, server):
        with server.refusing():
            until(lambda: client._asker.caller._caller.over)  # type: ignore[union-attr]
            with within(NOW), pytest.raises(MCPConnectionError, match="nobody listens"):
                client.ping()
        works(client)


def test_a_server_that_comes_back_meanwhile_is_found() -> None:
    """5.2: the call that waits has its answer."""
    with listening(max_reconnects=5, reconnect_interval=0.1) as (client, server):
        server.set(GET=[replies(503, "", content_type=None), closes, server.stream])
        server.stream.end()
        until(lambda: client._asker.caller._caller.over)  # type: ignore[union-attr]
        with within(NOW):
            works(client)
        assert len(server.verbs("GET")) == 4


@pytest.mark.parametrize("status", [401, 404])
def test_a_server_that_says_no_is_not_asked_again(status: int) -> None:
    """I9: it is there; only 5xx may be different in a moment."""
    with listening(reconnect_interval=0.05) as (client, server):
        server.set(GET=replies(status, "no", content_type="text/plain"))
        server.stream.end()
        until(lambda: client._asker.caller._caller.over)  # type: ignore[union-attr]
        with within(NOW), pytest.raises(AuthError if status == 401 else HTTPStatusError) as found:
            client.ping()
        assert found.value.may_have_run is False
        assert len(server.verbs("GET")) == 2


def test_attempts_end_with_the_timeout_of_the_call_at_the_latest() -> None:
    """I1: and an attempt that would come too late is not begun."""
    with listening(max_reconnects=50, reconnect_interval=0.2) as (client, server):
        server.set(GET=closes)
        server.stream.end()
        until(lambda: client._asker.caller._caller.over)  # type: ignore[union-attr]
        with within(T), pytest.raises((MCPConnectionError, MCPTimeoutError)):
            client.ping(T)
        server.set(GET=silent)
        with within(T), pytest.raises(MCPTimeoutError):
            client.ping(T)
        server.set(GET=server.stream)
        works(client)


@pytest.mark.parametrize("where", ["the pause", "the GET", "initialize"])
def test_close_while_reconnecting_is_at_once_and_leaves_nothing(where: str) -> None:
    """I7"""
    with listening(max_reconnects=5, reconnect_interval=5.0 if where == "the pause" else 0.05) as (client, server):
        if where == "initialize":
            server.set(initialize=silent)
        else:
            server.set(GET=closes if where == "the pause" else silent)
        server.stream.end()
        until(lambda: client._asker.caller._caller.over)  # type: ignore[union-attr]

        def work(number: int) -> None:
            if number:
                until(lambda: len(server.verbs("GET")) == 2)
                if where == "initialize":
                    until(lambda: len(server.posts("initialize")) == 2)
                with within(0.5):
                    client.close()
                return
            with within(NOW), pytest.raises(MCPConnectionError):
                client.ping(10.0)

        in_threads(2, work)
        until(lambda: not server.connected)


def test_whoever_waits_for_the_new_connection_waits_no_longer_than_his_own_timeout() -> None:
    """I1"""
    with listening() as (client, server):
        server.set(initialize=late(T * 2))
        server.stream.end()
        until(lambda: client._asker.caller._caller.over)  # type: ignore[union-attr]

        def slow(exchange: Exchange) -> None:
            exchange.pause(T * 2)
            exchange.send(exchange.plain)

        server.set(initialize=slow)

        def call(number: int) -> None:
            if number:
                client.ping(PATIENCE)
                return
            with within(T), pytest.raises(MCPTimeoutError):
                client.ping(T)

        in_threads(2, call)
        works(client)


def test_the_new_connection_is_told_what_was_subscribed_to_and_the_log_level() -> None:
    """C6: and news of a subscription that broke off ends with an error."""
    heard: list[Any] = []
    about: dict[str, Any] = {"serverInfo": {"name": "x", "version": "1"}, "protocolVersion": "2024-11-05"}
    capabilities = {"resources": {"subscribe": True}, "logging": {}}

    def begins(exchange: Exchange) -> None:
        accepts(exchange)
        whole = {**about, "capabilities": capabilities}
        exchange.server.say(event(id=exchange.request.id, result=whole))  # type: ignore[attr-defined]

    def takes(exchange: Exchange) -> None:
        accepts(exchange)
        exchange.server.say(event(id=exchange.request.id, result={}))  # type: ignore[attr-defined]

    on = {"initialize": begins, "resources/subscribe": takes, "logging/setLevel": takes}

    def note(notification: Notification) -> None:
        heard.append((notification.params or {}).get("uri"))

    with listening(on=on, log_level="error", on_notification=note) as (client, server):
        client.subscribe("file:///a")
        subscription = client.listen(tools_list_changed=True)
        server.stream.end()
        with within(NOW), pytest.raises(MCPConnectionError):
            subscription.next(PATIENCE)
        subscription.close()
        client.ping()
        assert [request.params["uri"] for request in server.posts("resources/subscribe")] == ["file:///a"] * 2
        assert [request.params["level"] for request in server.posts("logging/setLevel")] == ["error"] * 2
        server.say(event(method="notifications/resources/updated", params={"uri": "file:///a"}))
        until(lambda: heard == ["file:///a"])


def test_an_endpoint_may_be_another_one_each_time() -> None:
    """F1: messages go to the one of the stream that is open."""
    with listening() as (client, server):
        works(client)
        server.stream.end()
        until(lambda: client._asker.caller._caller.over)  # type: ignore[union-attr]
        works(client)
        lines = [request.target.rpartition("=")[2] for request in server.posted]
        assert lines == ["0"] * 3 + ["1"] * 3


# -- silence -----------------------------------------------------------------------------------------------------------


def test_a_stream_that_is_silent_for_too_long_counts_as_lost() -> None:
    """heartbeat_interval: calls under way fail, with the reason; the next connects again."""
    with listening(on={"work": accepts}, heartbeat_interval=T) as (client, server):
        began = time.monotonic()
        with within(T + 0.1), pytest.raises(MCPConnectionError, match="heartbeat_interval"):
            client.call_tool("work")
        assert time.monotonic() - began >= T * 0.7
        works(client)
        assert len(server.verbs("GET")) == 2
        adds_up(client.counters)


@pytest.mark.parametrize("what", [": ping\n", news(1), "event: ping\ndata: x\n\n"], ids=range(3))
def test_whatever_comes_on_the_stream_is_a_sign_of_life(what: str) -> None:
    """E5: comments too."""
    with listening(on={"work": accepts}, heartbeat_interval=T) as (client, server):
        future = client.submit_tool("work", timeout=PATIENCE)
        for _ in range(6):
            time.sleep(T / 4)
            server.say(what)
        assert not future.done()
        assert len(server.verbs("GET")) == 1
        works(client)


def test_silence_means_nothing_where_no_heartbeat_is_wanted() -> None:
    """Many servers say nothing for hours."""
    with listening() as (client, server):
        time.sleep(T)
        works(client)
        assert len(server.verbs("GET")) == 1


def test_close_while_the_heartbeat_is_watched_is_at_once() -> None:
    """I7"""
    with listening(heartbeat_interval=60.0) as (client, _), within(0.2):
        client.close()


def test_a_client_that_connects_and_closes_again_and_again_leaves_nothing() -> None:
    """I7: threads and descriptors are counted after every test."""
    with OldServer() as server:
        for _ in range(20):
            client = Client(sse(server.url, heartbeat_interval=5.0), timeout=PATIENCE)
            works(client)
            with within(0.5):
                close(client)
        until(lambda: not server.connected)


# -- fork --------------------------------------------------------------------------------------------------------------


def test_a_forked_client_connects_anew_and_the_parents_is_unharmed() -> None:
    """I14: a bare session says so at once."""
    text = """
import warnings
faulthandler.cancel_dump_traceback_later()
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from mcp_sync import ForkedClientError, SSETransport
def child(work):
    pid = os.fork()
    if not pid:
        signal.alarm(10)
        try: work()
        except BaseException as error: os.write(2, repr(error).encode()); os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
transport = SSETransport(COMMAND[0], "")
client = Client(transport, timeout=5).connect()
session = transport.create_session(5)
def work():
    assert client.call_tool("echo", {"a": 2}).text == '{"a": 2}'
    client.close()
    try: tool(session, "echo", a=3)
    except ForkedClientError: pass
    else: raise AssertionError("no error")
    session.close()
for _ in range(2): child(work)
print(client.call_tool("echo", {"a": 4}).text, tool(session, "echo", a=5))
session.close()
client.close()
"""
    with OldServer() as server:
        assert host(text, server.url, stderr="") == ['{"a": 4} {\'a\': 5}']
        assert [request.arguments["a"] for request in server.calls("echo")] == [2, 2, 4, 5]
        assert len(server.verbs("GET")) == 4
