"""The end of calls and of connections over HTTP: cancel, close, fork; at any moment, from anywhere, nothing is left."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import threading
import time
import warnings
from typing import Any

import pytest
from faults.http_server import EVENTS, Exchange, Manner, replies, silent, streams
from faults.http_streams import ANSWER, Broken, Stream, conversing, event, message, news, part, refusing
from faults.http_tools import NOW, Gate, T, serving, unconnected
from faults.tools import ERAS, PATIENCE, adds_up, host, tool, until, within, works

from mcp_sync import MCPConnectionError, MCPError, MCPTimeoutError, StreamableHTTPTransport
from mcp_sync.testing import in_threads

CALLERS = 16
HEALTHY = 0.5


def stays_open(exchange: Exchange) -> None:
    streams(news(1), answer=False, then="hold")(exchange)


def half_an_answer(exchange: Exchange) -> None:
    exchange.send(exchange.head(200, length=1000) + b"{")
    exchange.hold()


WAITS: dict[str, Manner] = {"no head": silent, "an open stream": stays_open, "half an answer": half_an_answer}


# -- one call ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", WAITS)
@pytest.mark.parametrize("why", ["timeout", "cancel", "a future's timeout"])
def test_in_the_stateless_era_a_call_that_is_given_up_closes_its_connection_and_posts_nothing(
    how: str, why: str
) -> None:
    """H2, E7, V13"""
    with serving(on={"work": WAITS[how]}) as (client, server):
        give_up(client, server, why)
        with within(0.2):
            until(lambda: len(server.abandoned) == 1)
        works(client)
        assert [request.method for request in server.posts() if request.id is None] == []
        adds_up(client.counters)


@pytest.mark.parametrize("how", WAITS)
@pytest.mark.parametrize("why", ["timeout", "cancel", "a future's timeout"])
def test_in_the_handshake_era_a_call_that_is_given_up_is_cancelled_by_one_notification(how: str, why: str) -> None:
    """H1, D6: with its id, in its session; and nothing is waited for."""
    with conversing(on={"work": WAITS[how]}) as (client, server):
        give_up(client, server, why)
        until(lambda: server.posts("notifications/cancelled"))
        with within(0.2):
            until(lambda: len(server.abandoned) == 1)
        works(client)
        time.sleep(0.02)
        (notice,) = server.posts("notifications/cancelled")
        assert notice.params["requestId"] == server.calls("work")[0].id
        assert notice.session == "session-1"
        adds_up(client.counters)


def give_up(client: Any, server: Any, why: str) -> None:
    if why == "timeout":
        with within(T), pytest.raises(MCPTimeoutError):
            client.call_tool("work", timeout=T)
        return
    future = client.submit_tool("work", timeout=T if "timeout" in why else PATIENCE)
    until(lambda: server.calls("work"))
    if why == "cancel":
        with within(0.1):
            assert future.cancel()
        assert future.cancelled()
        return
    with within(T), pytest.raises(MCPTimeoutError):
        future.result(PATIENCE)


@ERAS
def test_a_server_that_does_not_take_the_news_of_a_cancel_delays_nobody(era: str) -> None:
    """I4"""
    with serving(era, on={"work": silent, "notifications/cancelled": silent}) as (client, _):
        for _ in range(3):
            with within(0.2), pytest.raises(MCPTimeoutError):
                client.call_tool("work", timeout=0.2)
        with within(0.1):
            works(client)
        with within(HEALTHY):
            client.close()


@ERAS
def test_futures_that_are_cancelled_make_room_for_others(era: str) -> None:
    """5: a worker each, and no more than max_pipeline_size of them."""
    with serving(era, on={"work": silent}, max_pipeline_size=4) as (client, server):
        for _ in range(5):
            futures = [client.submit_tool("work", timeout=PATIENCE) for _ in range(8)]
            until(lambda: server.busy >= 4)
            last = client.submit_tool("echo", {"a": 1})
            with within(NOW):
                assert all(future.cancel() for future in reversed(futures))  # those that wait for room first
                assert last.result(PATIENCE).text == '{"a": 1}'
        assert len(server.calls("work")) == 20  # those that still waited were never sent
        assert client.counters["cancelled"] == 40
        works(client)
        adds_up(client.counters)


def test_an_answer_that_comes_while_its_call_is_cancelled_is_either() -> None:
    """H4: a race that has no wrong end."""
    with serving(on={"work": streams(ANSWER, answer=False)}) as (client, _):
        for number in range(50):
            future = client.submit_tool("work")
            time.sleep(number * 0.0001)
            if future.cancel():
                assert future.cancelled()
            else:
                assert future.result(0).text == '"done"'
        works(client)
        adds_up(client.counters)


# -- subscriptions -----------------------------------------------------------------------------------------------------

META = '"_meta": {"io.modelcontextprotocol/subscriptionId": $ID}'
ACKNOWLEDGED = (
    'data: {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", '
    f'"params": {{{META}, "notifications": {{"toolsListChanged": true}}}}}}\n\n'
)
CHANGED = f'data: {{"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {{{META}}}}}\n\n'
ENDED = f'data: {{"jsonrpc": "2.0", "id": $ID, "result": {{"resultType": "complete", {META}}}}}\n\n'


def listener(*first: str) -> tuple[Stream, dict[str, Any]]:
    stream = Stream(*first)
    return stream, {"subscriptions/listen": stream}


def test_a_subscription_outlives_the_timeout_of_the_call_that_began_it() -> None:
    """M3: it stays open; news comes at once."""
    stream, on = listener(ACKNOWLEDGED)
    with serving(on=on, timeout=T) as (client, server):
        subscription = client.listen(tools_list_changed=True)
        assert subscription.honoured == {"toolsListChanged": True}
        time.sleep(T * 1.5)
        stream.say(CHANGED)
        with within(0.1):
            news_ = subscription.next(NOW)
        assert news_ is not None
        assert news_.method == "notifications/tools/list_changed"
        works(client)
        with within(0.2):
            subscription.close()
        until(lambda: server.abandoned)
        assert subscription.next(NOW) is None
        assert not [request for request in server.posts() if request.id is None]  # V13
        works(client)
        adds_up(client.counters)


@pytest.mark.parametrize("how", ["close", "cut", "reset"])
def test_a_subscription_that_is_cut_breaks_off_with_an_error(how: str) -> None:
    """M4: never silently; the client goes on."""
    stream, on = listener(ACKNOWLEDGED)
    with serving(on=on) as (client, _):
        subscription = client.listen(tools_list_changed=True)
        stream.say(CHANGED)
        stream.end(how)
        with within(NOW):
            assert subscription.next(PATIENCE) is not None
            with pytest.raises(MCPConnectionError, match="broke off"):
                subscription.next(PATIENCE)
        subscription.close()
        works(client)
        adds_up(client.counters)
        again = client.listen(tools_list_changed=True)
        again.close()


def test_a_subscription_that_the_server_ends_in_good_order_ends_so() -> None:
    """M4, M5: and is counted as a good one."""
    stream, on = listener(ACKNOWLEDGED)
    with serving(on=on) as (client, _):
        subscription = client.listen(tools_list_changed=True)
        stream.say(CHANGED, ENDED)
        assert [item.method for item in subscription] == ["notifications/tools/list_changed"]
        subscription.close()
        until(lambda: client.counters["pending"] == 0)
        time.sleep(0.02)
        assert client.counters["dropped_late"] == 0
        works(client)
        adds_up(client.counters)


NO_SUBSCRIPTION: dict[str, Any] = {
    "never acknowledged": streams(answer=False, then="hold"),
    "no head": silent,
    "ended before": streams(answer=False),
    "an error": replies(200, message(id="$ID", error={"code": -32601, "message": "no"})),
    "not found": replies(404, message(id="$ID", error={"code": -32601, "message": "no"})),
    "500": replies(500, "no", content_type="text/plain"),
    "202": replies(202, "", content_type=None),
    "a page": replies(200, "<h1>", content_type="text/html"),
}


@pytest.mark.parametrize("how", NO_SUBSCRIPTION)
def test_a_subscription_that_does_not_begin_is_an_error_in_time_and_leaves_nothing_open(how: str) -> None:
    """I1, M2"""
    with serving(on={"subscriptions/listen": NO_SUBSCRIPTION[how]}) as (client, server):
        with within(T), pytest.raises(MCPError):
            client.listen(tools_list_changed=True, timeout=T)
        until(lambda: not server.busy)
        until(lambda: client.counters["pending"] == 0)
        works(client)
        adds_up(client.counters)


def test_many_subscriptions_at_once_each_have_their_own_news() -> None:
    """M3, I3: and take no place of a call."""
    stream, on = listener(ACKNOWLEDGED)
    with serving(on=on, max_connections_per_host=2) as (client, _):
        subscriptions = [client.listen(tools_list_changed=True) for _ in range(10)]
        for number in range(10):
            stream.say(*[CHANGED] * (number + 1), line=number)
        for number, subscription in enumerate(subscriptions):
            for _ in range(number + 1):
                assert subscription.next(NOW) is not None
            with pytest.raises(MCPTimeoutError):
                subscription.next(0.01)
        in_threads(8, lambda n: tool(client, "echo", n=n))
        with within(HEALTHY):
            client.close()
        assert [subscription.next(NOW) for subscription in subscriptions] == [None] * 10
        for subscription in subscriptions:
            subscription.close()


# -- close -------------------------------------------------------------------------------------------------------------


@ERAS
@pytest.mark.parametrize("how", WAITS)
def test_close_with_calls_under_way_ends_each_of_them_once(era: str, how: str) -> None:
    """I2, I7: those that wait and those that do not; half a second at most."""
    stream = Stream()
    with serving(era, on={"work": WAITS[how], "GET": stream}) as (client, server):
        futures = [client.submit_tool("work", timeout=PATIENCE) for _ in range(CALLERS)]
        called: list[int] = []
        for future in futures:
            future.add_done_callback(lambda _: called.append(1))

        def call(number: int) -> None:
            if number == CALLERS:
                until(lambda: len(server.calls("work")) == 2 * CALLERS)
                with within(HEALTHY):
                    client.close()
                return
            with pytest.raises(MCPConnectionError, match="closed"):
                client.call_tool("work")

        in_threads(CALLERS + 1, call, PATIENCE)
        for future in futures:
            with pytest.raises(MCPConnectionError, match="closed"):
                future.result(0)
        until(lambda: len(called) == CALLERS)
        assert client.counters["error"] == 2 * CALLERS + (era == "handshake")  # the probe is one there
        adds_up(client.counters)
        until(lambda: not server.busy)
        with pytest.raises(MCPConnectionError, match="closed"):
            client.call_tool("work")


@ERAS
def test_close_by_eight_threads_at_once_is_over_for_each_of_them(era: str) -> None:
    """I7: none returns before there is nothing left."""
    stream = Stream()
    with serving(era, on={"work": silent, "GET": stream}) as (client, server):
        futures = [client.submit_tool("work", timeout=PATIENCE) for _ in range(4)]
        until(lambda: len(server.calls("work")) == 4)

        def end(_: int) -> list[str]:
            client.close()
            return [t.name for t in threading.enumerate() if t.name.startswith(("mcp-http-", "mcp-sse-"))]

        with within(HEALTHY):
            left = in_threads(8, end)
        assert left == [[]] * 8
        assert all(future.done() for future in futures)


WHERE = ["on_notification", "on_log", "roots", "on_progress", "done-callback", "observer"]


@pytest.mark.parametrize("where", WHERE)
def test_close_in_a_callback_ends_everything(where: str) -> None:
    """I7, B31: of whichever kind; the call that waits meanwhile fails."""
    ended = threading.Event()
    clients: list[Any] = []

    def leave(*_: Any) -> list[str]:
        if clients and not ended.is_set():
            clients[0].close()
            ended.set()
        return []

    blocks = {
        "on_notification": [event(method="notifications/x")],
        "on_log": [news(1)],
        "roots": [event(id=1, method="roots/list")],
        "on_progress": [event(method="notifications/progress", params={"progressToken": "$ID", "progress": 1})],
    }.get(where, [])
    manner = streams(*blocks, answer=False, then="hold")
    knobs = {where: leave} if where in ("on_notification", "on_log", "roots") else {}
    with conversing(on={"work": manner}, **knobs) as (client, server):
        clients.append(client)
        if where == "observer":
            client.transport.observe(leave)
        with within(NOW + HEALTHY):
            future = client.submit_tool("work", on_progress=leave if where == "on_progress" else None)
            if where == "done-callback":
                until(lambda: server.calls("work"))
                future.add_done_callback(leave)
                future.cancel()
            assert ended.wait(PATIENCE)
        assert future.cancelled() or isinstance(future.exception(PATIENCE), MCPConnectionError)
        assert not client.connected
        until(lambda: not server.busy)
        adds_up(client.counters)
        clients.clear()


BEGINNINGS = ["server/discover", "initialize", "notifications/initialized"]


@pytest.mark.parametrize("step", BEGINNINGS)
def test_close_while_connecting_tells_whoever_connects(step: str) -> None:
    """I7: at whichever step; nothing is left when close() has returned."""
    with unconnected("handshake", on={step: silent}) as (client, server):

        def work(number: int) -> None:
            if number:
                until(lambda: [r for r in server.requests if step in (r.method, r.verb)])
                with within(HEALTHY):
                    client.close()
                return
            with within(NOW), pytest.raises(MCPConnectionError, match="closed"):
                client.ping()

        in_threads(2, work)
        until(lambda: not server.busy)


@pytest.mark.parametrize("step", ["initialize", "notifications/initialized"])
def test_close_while_reconnecting_tells_whoever_reconnects(step: str) -> None:
    """I7: a connection that is being made in place of another is no exception."""
    with conversing() as (client, server):
        server.forget_sessions()
        server.set(**{step: silent})
        began = len([r for r in server.requests if r.method == step])

        def work(number: int) -> None:
            if number:
                until(lambda: len([r for r in server.requests if r.method == step]) > began)
                with within(HEALTHY):
                    client.close()
                until(lambda: not server.busy, HEALTHY)
                return
            with within(NOW), pytest.raises(MCPConnectionError):
                client.ping(PATIENCE)

        in_threads(2, work)
        adds_up(client.counters)


def test_close_while_a_notification_is_being_sent_ends_that_too() -> None:
    """I1, I7: it is no request, but somebody waits."""
    with conversing(on={"notifications/x": silent}) as (client, server):

        def work(number: int) -> None:
            if number:
                until(lambda: server.posts("notifications/x"))
                with within(HEALTHY):
                    client.close()
                return
            with within(NOW), pytest.raises(MCPConnectionError):
                client.notify("notifications/x")

        in_threads(2, work)


def test_close_while_an_answer_of_ours_is_being_sent_ends_that_too() -> None:
    """I7: the server asked, and does not take the answer."""
    stream = Stream()
    with conversing(on={"GET": stream}, roots=list) as (client, server):
        until(lambda: stream.lines)
        server.set(POST=silent)
        stream.say(event(id=1, method="roots/list"), event(id=2, method="ping"))
        until(lambda: [request for request in server.posts() if not request.method])
        with within(HEALTHY):
            client.close()
        until(lambda: not server.busy, HEALTHY)


def test_close_while_a_reply_is_being_resumed_ends_the_wait() -> None:
    """I7: during the pause, and during the GET."""
    for parts in [part("retry: 60000\nid: e1\ndata:\n\n")], [part("id: e1\ndata:\n\n"), hangs]:
        broken = Broken(*parts)
        with conversing(on=broken.on) as (client, server):
            future = client.submit_tool("work", timeout=PATIENCE)
            until(lambda: server.calls("work"))
            if len(parts) == 2:
                until(lambda broken=broken: broken.resumed)
            time.sleep(0.05)
            with within(HEALTHY):
                client.close()
            assert isinstance(future.exception(0), MCPConnectionError)


def hangs(exchange: Exchange, _: Any) -> None:
    exchange.hold()


def test_close_while_the_application_is_slow_to_receive_messages_one_by_one() -> None:
    """I7, I8: the reader waits for room, and is woken."""

    def floods(exchange: Exchange) -> None:
        exchange.send(exchange.head(200, "Connection: close", content_type=EVENTS))
        while True:
            exchange.send(news(1).encode() * 100)

    with serving(on={"work": floods}) as (_, server):
        transport = StreamableHTTPTransport(server.url, max_pending_messages=10).connect()
        params = {"name": "work", "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}
        transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        assert transport.receive_message(PATIENCE)
        time.sleep(0.1)
        with within(HEALTHY):
            transport.disconnect()


def test_close_while_calls_never_stop_ends_all_callers() -> None:
    """I2: each call has a result or an error, and none a private type."""
    with conversing(on={"DELETE": replies(200)}) as (client, _):
        outcomes: list[str] = []

        def call(number: int) -> None:
            if number == 8:
                until(lambda: len(outcomes) > 40)
                with within(HEALTHY):
                    client.close()
                return
            while True:
                try:
                    client.call_tool("echo", {"n": number})
                    outcomes.append("ok")
                except MCPConnectionError:
                    return

        with within(5.0):
            in_threads(9, call, PATIENCE)
        adds_up(client.counters)


def sockets() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            pass
    return {target for target in found if target.startswith("socket:")}


@ERAS
@pytest.mark.parametrize("how", ["500", "cut", "half an answer", "lost", "resumed in vain"])
def test_an_error_that_is_kept_keeps_no_connection_open(era: str, how: str) -> None:
    """I7: after close() there is no descriptor, whoever still refers to what was raised."""
    before = sockets()
    manners: dict[str, Any] = {
        "500": {"work": replies(500, "no", content_type="text/plain")},
        "cut": {"work": streams(news(1), answer=False)},
        "half an answer": {"work": half_an_answer},
        "lost": {"work": replies(404, "no", content_type="text/plain")},
        "resumed in vain": Broken(part("id: e1\ndata:\n\n", then="cut"), refusing(500, "", content_type=None)).on,
    }[how]
    kept: list[BaseException] = []
    with serving(era, on=manners) as (client, _):
        for _ in range(3):
            try:
                client.call_tool("work", timeout=0.2)
            except MCPError as error:
                kept.append(error)
    assert len(kept) == 3
    assert sockets() - before == set()
    kept.clear()


@ERAS
def test_a_client_that_is_forgotten_is_ended(era: str) -> None:
    """B32: with a stream open and a call under way; a warning says so."""
    stream = Stream()
    with serving(era, on={"GET": stream, "work": silent}) as (_, server):
        other = StreamableHTTPTransport(server.url).create_session(PATIENCE)
        other.submit_request("tools/call", {"name": "work"})
        until(lambda: server.calls("work"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del other
            gc.collect()
        assert [str(warning.message) for warning in caught if warning.category is ResourceWarning]
        until(lambda: server.busy <= (1 if era == "handshake" else 0), 3.0)


@pytest.mark.parametrize("call", ["cancel", "result", "close"])
def test_whatever_is_done_to_a_future_after_close_is_at_once(call: str) -> None:
    """I2"""
    with conversing(on={"work": silent}) as (client, server):
        future = client.submit_tool("work", timeout=PATIENCE)
        until(lambda: server.calls("work"))
        client.close()
        with within(0.1):
            if call == "cancel":
                assert not future.cancel()
            elif call == "close":
                client.close()
            assert future.done()
            assert concurrent.futures.wait([future], 0).done == {future}
            with pytest.raises(MCPConnectionError, match="closed"):
                future.result()


def test_connections_come_and_go_and_nothing_stays() -> None:
    """I7: threads, descriptors."""
    for number in range(20):
        stream = Stream()
        with conversing(on={"GET": stream, "work": silent}) as (client, server):
            client.submit_tool("work")
            until(lambda server=server: server.calls("work"))
            works(client)
            if number % 2:
                stream.say(news(1))
            with within(HEALTHY):
                client.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("mcp-http")]


# -- fork --------------------------------------------------------------------------------------------------------------

FORK = """
import signal, traceback, warnings
faulthandler.cancel_dump_traceback_later()
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from mcp_sync import ForkedClientError, SSETransport, StreamableHTTPTransport, Client
def child(work):
    pid = os.fork()
    if not pid:
        signal.alarm(10)
        try: work()
        except BaseException: traceback.print_exc(); os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
def refused(work):
    began = time.monotonic()
    try: work()
    except ForkedClientError: pass
    else: raise AssertionError("no error")
    assert time.monotonic() - began < 0.5
url = COMMAND[0]
"""


@ERAS
def test_a_forked_client_connects_anew_and_the_parents_is_unharmed(era: str) -> None:
    """I14: with a stream open and calls under way; nothing of the parent's is sent, or ended."""
    text = """
client = Client(url, timeout=5).connect()
future = client.submit_tool("work", {"n": 1})
assert client.call_tool("echo", {"a": 1}).text
time.sleep(0.1)
def work():
    assert client.call_tool("echo", {"a": 2}).text == '{"a": 2}'
    assert not future.done() or isinstance(future.exception(0), ForkedClientError)
    client.close()
child(work)
child(lambda: None)
print(client.call_tool("echo", {"a": 3}).text)
print(future.result(5).text)
client.close()
"""
    gate = Gate()
    stream = Stream()
    with serving(era, on={"work": gate, "GET": stream}) as (_, server):
        before = len(server.posts("initialize"))
        threading.Thread(target=opens_once_asked, args=(gate, server)).start()
        lines = host(FORK + text, server.url, stderr=None)
        assert lines == ['{"a": 3}', '{"n": 1}']
        assert not server.posts("notifications/cancelled")
        if era == "handshake":
            sessions = {r.session for r in server.calls("echo")}
            assert len(sessions) == 2  # the parent's and the child's
            assert len(server.posts("initialize")) - before == 2
            assert len(server.verbs("DELETE")) == 2


def opens_once_asked(gate: Gate, server: Any) -> None:
    until(lambda: len(server.calls("echo")) == 3)
    gate.open()


@ERAS
def test_a_forked_session_says_so_at_once_and_the_parents_is_unharmed(era: str) -> None:
    """I14"""
    text = """
transport = StreamableHTTPTransport(url)
session = transport.create_session(5)
call = lambda n: session.send_request("tools/call", {"name": "echo", "arguments": {"a": n}})["content"][0]["text"]
assert call(1)
def work():
    refused(lambda: call(2))
    refused(lambda: session.submit_request("tools/list"))
    refused(lambda: session.send_notification("notifications/x"))
    session.close()
    other = transport.create_session(5)
    assert other.send_request("tools/list")["tools"]
    other.close()
for _ in range(2): child(work)
print(call(3))
session.close()
"""
    with serving(era, on={"GET": Stream()}) as (_, server):
        assert host(FORK + text, server.url, stderr="") == ['{"a": 3}']
        assert [request.arguments["a"] for request in server.calls("echo")] == [1, 3]
        assert not server.posts("notifications/x")


# -- the interpreter's end ---------------------------------------------------------------------------------------------


@ERAS
def test_a_script_that_forgets_to_close_ends_all_the_same(era: str) -> None:
    """I15: with a stream open, a call under way, and a server that answers no farewell."""
    text = """
from mcp_sync import Client
client = Client(COMMAND[0], timeout=30).connect()
client.submit_tool("work")
threading.Thread(target=lambda: client.call_tool("work"), daemon=True).start()
while client.counters["pending"] < 2: time.sleep(0.001)
print("end", flush=True)
"""
    with serving(era, on={"work": silent, "GET": Stream(), "DELETE": silent}) as (_, server):
        began = time.monotonic()
        assert host(text, server.url, stderr=None) == ["end"]
        assert time.monotonic() - began < 6.0
        server.set(DELETE=None)
        until(lambda: not [r for r in server.calls("work") if r not in server.abandoned])
