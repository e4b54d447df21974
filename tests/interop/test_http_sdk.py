"""The client over HTTP against the servers of the official SDKs: 2.x in both eras, 1.x, and their old HTTP+SSE."""

from __future__ import annotations

import base64
import gc
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from house import leakcheck
from mcp_sync import (
    Client,
    JSONRPCError,
    MCPConnectionError,
    MCPError,
    MCPTimeoutError,
    Notification,
    SessionExpired,
    SSETransport,
    StreamableHTTPTransport,
    ToolError,
)
from mcp_sync.engine import connect
from peers.running import PATIENCE, Fleet, Running, running, script

pytestmark = pytest.mark.interop

STATELESS, HANDSHAKE = "2026-07-28", "2025-11-25"
TOOLS = {
    *("add", "point", "echo", "fail", "image", "big", "die", "slow", "count", "shout"),
    *("touch_resource", "grow", "ask_name", "think", "where", "part", "header"),
}
SOON = 3.0
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Way:
    """One server, one binding, and the version to ask for."""

    sdk: str
    binding: str
    agreed: str
    version: str | None = None
    env: dict[str, str] = field(default_factory=dict)

    @property
    def is_stateless(self) -> bool:
        return self.agreed == STATELESS

    @property
    def has_sessions(self) -> bool:
        return self.binding == "http" and not self.is_stateless

    @property
    def streams(self) -> bool:
        """Whether anything may come before the answer of a call."""
        return "PEER_JSON" not in self.env

    @property
    def cancels(self) -> bool:
        """Whether the server stops what nobody waits for: this SDK does not look out for it where it says JSON."""
        return self.streams or not self.is_stateless


JSON, EVENTS = {"PEER_JSON": "1"}, {"PEER_EVENTS": "1"}
WAYS = {
    "sdk2-stateless": Way("sdk2", "http", STATELESS),
    "sdk2-handshake": Way("sdk2", "http", HANDSHAKE, HANDSHAKE),
    "sdk1": Way("sdk1", "http", HANDSHAKE),
    "sdk1-events": Way("sdk1", "http", HANDSHAKE, env=EVENTS),
    "sdk1-sse": Way("sdk1", "sse", HANDSHAKE),
    "sdk2-sse": Way("sdk2", "sse", HANDSHAKE),
    "sdk2-json": Way("sdk2", "http", STATELESS, env=JSON),
    "sdk1-json": Way("sdk1", "http", HANDSHAKE, env=JSON),
}


@dataclass
class Peer:
    """A server that is running, and how to reach it."""

    way: Way
    server: Running

    @property
    def url(self) -> str:
        return self.server.url if self.way.binding == "http" else f"{self.server.origin}/sse"

    def client(self, **options: Any) -> Client:
        """Return a client, not connected yet."""
        return Client(self.url, **{"timeout": PATIENCE, "protocol_version": self.way.version, **options})


@pytest.fixture(scope="module", params=list(WAYS))
def peer(request: pytest.FixtureRequest, fleet: Fleet) -> Peer:
    return start(fleet, request.param)


@pytest.fixture(scope="module", params=[name for name, way in WAYS.items() if way.streams])
def streaming(request: pytest.FixtureRequest, fleet: Fleet) -> Peer:
    """A peer that may say something before it answers."""
    return start(fleet, request.param)


def start(fleet: Fleet, name: str) -> Peer:
    way = WAYS[name]
    return Peer(way, fleet.server(way.sdk, way.binding, PEER_PAGE_SIZE="4", **way.env))


# -- what any binding does --------------------------------------------------------------------------------------------


def test_the_newest_version_is_found_and_both_sides_say_who_they_are(peer: Peer) -> None:
    with peer.client() as client:
        assert client.protocol_version == peer.way.agreed
        assert client.server_info.name == f"peer-{peer.way.sdk}"
        assert client.instructions == "A peer for tests."
        assert client.server_capabilities.tools is not None
        assert client.connected
        client.ping()
    assert not client.connected


def test_tools_are_listed_from_every_page(peer: Peer) -> None:
    with peer.client() as client:
        first = client.request("tools/list")
        assert (len(first["tools"]), first["nextCursor"]) == (4, "page-4")
        tools = {tool.name for tool in client.list_tools()}
    assert tools >= TOOLS
    assert {name for name in tools if not name.startswith("grown_")} <= TOOLS | {"region"}


def test_a_call_returns_text_and_structured_output(peer: Peer) -> None:
    with peer.client() as client:
        total = client.call_tool("add", {"a": 1, "b": 2})
        assert (total.data, total.text, total.is_error) == (3, "3", False)
        assert client.call_tool("point", {"x": 1, "y": 2}).data == {"x": 1.0, "y": 2.0}
        assert client.call_tool("echo", {"text": "a\u2028b\U0001f600\r\n"}).data == "a\u2028b\U0001f600\r\n"


def test_a_call_takes_and_returns_long_texts(peer: Peer) -> None:
    with peer.client() as client:
        assert client.call_tool("big", {"n": 1_000_000}).text == "x" * 1_000_000
        assert client.call_tool("echo", {"text": "\u00fc" * 500_000}).data == "\u00fc" * 500_000
        assert base64.b64decode(client.call_tool("image").content[0].data).startswith(b"\x89PNG")


def test_what_fails_says_why_and_the_next_call_is_fine(peer: Peer) -> None:
    with peer.client() as client:
        with pytest.raises(ToolError, match="'fail' reported an error.*no luck"):
            client.call_tool("fail", {"message": "no luck"}).raise_for_error()
        with pytest.raises((JSONRPCError, ToolError), match="no_such_tool"):
            client.call_tool("no_such_tool").raise_for_error()
        with pytest.raises(JSONRPCError):
            client.read_resource("memo://missing")
        with pytest.raises(JSONRPCError) as unknown:
            client.request("no/such/method")
        assert unknown.value.code in (-32601, -32602)
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2
        assert client.protocol_version == peer.way.agreed


def test_resources_templates_prompts_and_completion_work(peer: Peer) -> None:
    with peer.client() as client:
        assert {str(resource.uri) for resource in client.list_resources()} == {"memo://greeting", "memo://binary"}
        assert [template.uri_template for template in client.list_resource_templates()] == ["memo://note/{name}"]
        assert client.read_resource("memo://greeting").contents[0].text == "hello"
        assert base64.b64decode(client.read_resource("memo://binary").contents[0].blob) == bytes(range(256))
        assert client.read_resource("memo://note/x%20y").contents[0].text in ("note x y", "note x%20y")
        assert [prompt.name for prompt in client.list_prompts()] == ["greet"]
        assert client.get_prompt("greet", {"name": "Bo"}).messages[0].content.text == "Say hello to Bo."
        found = client.complete({"type": "ref/prompt", "name": "greet"}, {"name": "name", "value": "al"})
        assert found.completion.values == ["alice", "albert"]


def test_cancelling_a_future_cancels_the_tool(peer: Peer) -> None:
    peer.server.forget_journal()
    with peer.client() as client:
        future = client.submit_tool("slow", {"seconds": 60})
        assert peer.server.journal() == "started slow"
        assert future.cancel()
        if peer.way.cancels:
            assert peer.server.journal() == "cancelled slow"
        assert wait([future], PATIENCE).done == {future}
        with pytest.raises(CancelledError):
            future.result(0)
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2


def test_a_call_that_times_out_is_cancelled_on_the_server(peer: Peer) -> None:
    peer.server.forget_journal()
    with peer.client() as client:
        client.ping()
        begin = time.monotonic()
        with pytest.raises(MCPTimeoutError, match=r"tools/call .*timed out.*limit 0.5 s") as caught:
            client.call_tool("slow", {"seconds": 60}, timeout=0.5)
        assert time.monotonic() - begin < SOON
        assert caught.value.may_have_run is None
        assert peer.server.journal() == "started slow"
        if peer.way.cancels:
            assert peer.server.journal() == "cancelled slow"
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2


def test_sixteen_threads_share_a_client_and_each_gets_its_own_answers(peer: Peer) -> None:
    def work(thread: int) -> list[str]:
        return [client.call_tool("echo", {"text": f"{thread}/{n}"}).text for n in range(8)]

    with peer.client() as client, ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [[f"{thread}/{n}" for n in range(8)] for thread in range(16)]
        counters = client.counters
        assert counters["pending"] == 0
        assert counters["sent"] == sum(counters[name] for name in ("ok", "error", "timeout", "cancelled"))


def test_futures_are_as_good_as_threads(peer: Peer) -> None:
    with peer.client() as client:
        futures = [client.submit_tool("add", {"a": n, "b": 1}) for n in range(50)]
        assert [future.result(PATIENCE).data for future in futures] == [n + 1 for n in range(50)]


def test_ten_clients_do_not_get_into_each_others_way(peer: Peer) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(peer.client()) for _ in range(10)]
        futures = [client.submit_tool("echo", {"text": str(n)}) for n, client in enumerate(clients)]
        assert [future.result(PATIENCE).text for future in futures] == [str(n) for n in range(10)]


def test_closing_ends_the_session_where_there_is_one_and_says_nothing_where_there_is_none(peer: Peer) -> None:
    mark = peer.server.mark()
    with peer.client() as client:
        client.list_tools()
        assert peer.server.since(mark, "DELETE") == []
    if peer.way.has_sessions:
        (deleted,) = peer.server.wait_for('"DELETE /mcp', mark)
        assert deleted.endswith("200 OK")
    with peer.client() as client:  # whose first request is there after anything of the client before
        client.list_tools()
    if peer.way.has_sessions:
        peer.server.wait_for('"DELETE /mcp', mark, times=2)
    assert len(peer.server.since(mark, "DELETE")) == 2 * peer.way.has_sessions
    if peer.way.is_stateless:
        assert peer.server.since(mark, '"GET') == []


def test_closing_does_not_wait_for_calls_in_flight(peer: Peer) -> None:
    peer.server.forget_journal()
    with peer.client() as client:
        calls = [client.submit_tool("slow", {"seconds": 60}) for _ in range(3)]
        assert [peer.server.journal() for _ in calls] == ["started slow"] * 3
        begin = time.monotonic()
    assert time.monotonic() - begin < SOON
    for call in calls:
        with pytest.raises(MCPConnectionError, match="closed"):
            call.result(0)
    if peer.way.cancels:
        assert [peer.server.journal() for _ in calls] == ["cancelled slow"] * 3


def test_closing_gives_back_every_descriptor_at_once(peer: Peer) -> None:
    peer.server.forget_journal()
    before = leakcheck.take().descriptors
    gc.collect()
    gc.disable()  # which would close what nobody has closed
    try:
        with peer.client() as client:
            calls = [client.submit_tool("slow", {"seconds": 60}) for _ in range(4)]
            assert [peer.server.journal() for _ in calls] == ["started slow"] * 4
            assert all(call.cancel() for call in calls)
            calls = [client.submit_tool("echo", {"text": str(n)}) for n in range(8)]
            assert [call.result(PATIENCE).text for call in calls] == [str(n) for n in range(8)]
        assert leakcheck.take().descriptors <= before
    finally:
        gc.enable()


def test_headers_of_the_application_go_with_every_call(peer: Peer) -> None:
    with peer.client(headers={"X-Tenant": "blue"}) as client:
        assert client.call_tool("header", {"name": "x-tenant"}).text == "blue"
        assert client.call_tool("header", {"name": "authorization"}).text == "None"
        if peer.way.binding == "http":
            assert client.call_tool("header", {"name": "accept"}).text == "application/json, text/event-stream"
            assert client.call_tool("header", {"name": "content-type"}).text == "application/json"
            assert client.call_tool("header", {"name": "mcp-protocol-version"}).text == peer.way.agreed


# -- what comes before the answer -------------------------------------------------------------------------------------


def test_progress_is_reported_before_the_call_returns(streaming: Peer) -> None:
    reports: list[tuple[float, float | None, str | None]] = []
    with streaming.client() as client:
        client.call_tool("count", {"n": 3}, on_progress=lambda *report: reports.append(report))
        assert reports == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]


def test_progress_of_sixteen_calls_at_once_is_not_mixed_up(streaming: Peer) -> None:
    def work(n: int) -> list[float]:
        reports: list[float] = []
        client.call_tool("count", {"n": n}, on_progress=lambda now, *_: reports.append(now))
        return reports

    with streaming.client() as client, ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(1, 17))) == [list(range(1, n + 1)) for n in range(1, 17)]


def test_log_messages_from_the_wanted_level_on_arrive(streaming: Peer) -> None:
    records: queue.Queue[tuple[str, object]] = queue.Queue()
    with streaming.client(on_log=lambda it: records.put((it.level, it.data)), log_level="info") as client:
        client.call_tool("shout", {"text": "hey"})
        assert [records.get(timeout=PATIENCE) for _ in range(3)] == [(level, "hey") for level in LEVELS[1:]]
        client.set_logging_level("error")
        client.call_tool("shout", {"text": "ho"})
        assert records.get(timeout=PATIENCE) == ("error", "ho")


def test_the_server_may_ask_for_sampling_elicitation_and_roots(streaming: Peer, tmp_path: Path) -> None:
    with streaming.client(
        sampling=lambda asked: f"I think: {asked.messages[0].content.text}",
        elicitation=lambda asked: {"name": "Ada"},
        roots=[tmp_path],
    ) as client:
        assert client.call_tool("think", {"prompt": "hm"}).text == "I think: hm"
        assert client.call_tool("ask_name").text == "hello Ada"
        assert client.call_tool("where").text == tmp_path.as_uri()


def test_the_server_may_ask_in_eight_calls_at_once_and_be_asked_meanwhile(streaming: Peer) -> None:
    def think(asked: Any) -> str:
        prompt = asked.messages[0].content.text
        return client.call_tool("echo", {"text": f"about {prompt}"}).text

    with streaming.client(sampling=think) as client, ThreadPoolExecutor(8) as pool:
        thoughts = pool.map(lambda n: client.call_tool("think", {"prompt": str(n)}).text, range(8))
        assert list(thoughts) == [f"about {n}" for n in range(8)]


def test_an_elicitation_can_be_declined_or_cancelled(streaming: Peer) -> None:
    answers = iter([None, {"action": "cancel"}])
    with streaming.client(elicitation=lambda asked: next(answers)) as client:
        assert client.call_tool("ask_name").text == "declined"
        assert client.call_tool("ask_name").text == "cancelled"


def test_a_tool_that_needs_what_the_client_does_not_offer_fails_at_once(streaming: Peer) -> None:
    with streaming.client() as client:
        with pytest.raises((JSONRPCError, ToolError)):
            client.call_tool("ask_name").raise_for_error()
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2


def test_a_subscribed_resource_is_reported_until_it_is_unsubscribed(streaming: Peer) -> None:
    uris: queue.Queue[str] = queue.Queue()

    def note(news: Notification) -> None:
        if news.method == "notifications/resources/updated":
            uris.put((news.params or {})["uri"])

    with streaming.client(on_notification=note) as client:
        client.subscribe("memo://greeting")
        client.call_tool("touch_resource", {"uri": "memo://greeting"})
        assert uris.get(timeout=PATIENCE) == "memo://greeting"
        client.unsubscribe("memo://greeting")
        client.call_tool("touch_resource", {"uri": "memo://greeting"})
        client.subscribe("memo://binary")
        client.call_tool("touch_resource", {"uri": "memo://binary"})
        assert uris.get(timeout=PATIENCE) == "memo://binary"  # and nothing of the other in between
        client.unsubscribe("memo://binary")


def test_listen_iterates_changes_of_tools_and_resources(streaming: Peer) -> None:
    with streaming.client() as client:
        before = len(client.list_tools())
        with client.listen(tools_list_changed=True, resource_subscriptions=["memo://greeting"]) as news:
            assert news.honoured == {"toolsListChanged": True, "resourceSubscriptions": ["memo://greeting"]}
            client.call_tool("grow")
            first = news.next(PATIENCE)
            client.call_tool("touch_resource", {"uri": "memo://greeting"})
            second = news.next(PATIENCE)
        assert first is not None
        assert first.method == "notifications/tools/list_changed"
        assert second is not None
        assert (second.params or {})["uri"] == "memo://greeting"
        assert list(news) == []  # closed
        assert len(client.list_tools()) == before + 1


def test_four_subscriptions_at_once_hear_what_they_asked_for(streaming: Peer) -> None:
    uris = ["memo://greeting", "memo://binary"]
    with streaming.client() as client, ExitStack() as stack:
        heard = [stack.enter_context(client.listen(resource_subscriptions=[uri])) for uri in uris * 2]
        for uri in uris:
            client.call_tool("touch_resource", {"uri": uri})
        for uri, news in zip(uris * 2, heard, strict=True):
            assert (news.next(PATIENCE).params or {})["uri"] == uri


def test_subscriptions_that_come_and_go_in_several_threads_are_never_deaf(streaming: Peer) -> None:
    def work(thread: int) -> int:
        heard = 0
        for n in range(10):
            with client.listen(resource_subscriptions=["memo://greeting"]) as news:
                client.call_tool("touch_resource", {"uri": "memo://greeting"})
                heard += news.next(5) is not None
            time.sleep((thread + n) % 3 / 500)  # so that now and then nobody listens
        return heard

    with streaming.client() as client, ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == [10, 10, 10]


# -- how it is reached ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sdk2(fleet: Fleet) -> Running:
    return start(fleet, "sdk2-stateless").server


@pytest.fixture(scope="module")
def sdk1(fleet: Fleet) -> Running:
    return start(fleet, "sdk1").server


@pytest.fixture(scope="module")
def sse(fleet: Fleet) -> Running:
    return start(fleet, "sdk1-sse").server


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
@pytest.mark.parametrize("sdk", ["sdk1", "sdk2"])
def test_every_older_version_can_be_asked_for(version: str, sdk: str, sdk1: Running, sdk2: Running) -> None:
    url = (sdk1 if sdk == "sdk1" else sdk2).url
    with Client(url, protocol_version=version, timeout=PATIENCE) as client:
        assert client.protocol_version == version
        assert client.call_tool("add", {"a": 1, "b": 2}).text == "3"
        expected = "None" if version < "2025-06-18" else version
        assert client.call_tool("header", {"name": "mcp-protocol-version"}).text in (expected, version)


def test_the_version_is_found_in_one_question_or_two_and_remembered(
    sdk1: Running, sdk2: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_spoken", {})  # nothing is known of anybody
    handshake = ["200 OK", "202 Accepted"]
    for server, first, later in (
        (sdk2, ["200 OK"], ["200 OK"]),
        (sdk1, ["400 Bad Request", *handshake], handshake),
    ):
        for posts in (first, later):
            mark = server.mark()
            with Client(server.url, timeout=PATIENCE) as client:
                client.connect()
                found = server.wait_for('"POST /mcp', mark, len(posts))
                assert [line.rpartition('HTTP/1.1" ')[2] for line in found] == posts


def test_a_version_that_somebody_asked_for_is_not_taken_for_all_that_the_server_knows(sdk2: Running) -> None:
    with Client(sdk2.url, protocol_version=HANDSHAKE, timeout=PATIENCE) as client:
        assert client.protocol_version == HANDSHAKE
        with Client(sdk2.url, timeout=PATIENCE) as newer:
            assert newer.protocol_version == STATELESS
    with Client(sdk2.url, timeout=PATIENCE) as newer:
        assert newer.protocol_version == STATELESS


def test_transports_can_be_made_by_hand(sdk2: Running, sse: Running) -> None:
    for transport, agreed in (
        (StreamableHTTPTransport(sdk2.url), STATELESS),
        (StreamableHTTPTransport(f"http://localhost:{sdk2.port}/mcp", timeout=PATIENCE), STATELESS),
        (SSETransport(sse.origin), HANDSHAKE),
        (SSETransport(sse.origin, endpoint_path="/sse"), HANDSHAKE),
    ):
        with Client(transport) as client:
            assert client.protocol_version == agreed
            assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


def test_plain_messages_can_be_passed(sdk1: Running, sse: Running) -> None:
    for transport in (StreamableHTTPTransport(sdk1.url), SSETransport(sse.origin)):
        with transport:
            session = transport.create_session()
            add = {"name": "add", "arguments": {"a": 1, "b": 2}}
            assert session.send_request("tools/call", add)["content"][0]["text"] == "3"
            count = {"name": "count", "arguments": {"n": 3}}
            *reports, result = session.send_streaming_request("tools/call", count)
            assert len(reports) == 3
            assert "counted 3" in str(result)
            session.close()


@pytest.fixture(scope="module", params=["sdk1", "sdk2"])
def remembering(request: pytest.FixtureRequest, fleet: Fleet) -> Running:
    """A server that remembers what it said on a stream."""
    return fleet.server(request.param, PEER_PAGE_SIZE="4", **EVENTS)


def test_a_stream_that_is_cut_by_the_server_is_taken_up_where_it_ended(remembering: Running) -> None:
    def work(n: int) -> list[float]:
        reports: list[float] = []
        result = client.call_tool("part", {"n": n}, on_progress=lambda now, *_: reports.append(now))
        assert result.text == "whole"
        return reports

    with Client(remembering.url, timeout=PATIENCE, protocol_version=HANDSHAKE) as client:
        assert work(3) == [1, 2, 3, 4, 5, 6]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(1, 9))) == [list(range(1, 2 * n + 1)) for n in range(1, 9)]


def test_an_annotated_argument_goes_into_a_header_too_whatever_it_holds(sdk2: Running) -> None:
    with Client(sdk2.url, timeout=PATIENCE) as client:
        assert client.call_tool("region", {"name": "us-west1"}).text == "us-west1"  # nothing was listed before
        client.list_tools()
        assert client.call_tool("region", {"name": "a b"}).text == "a b"
        for name in ("Zürich", " padded ", "line\nbreak", "=?base64?eA==?=", "tab\t"):
            coded = base64.b64encode(name.encode()).decode()
            assert client.call_tool("region", {"name": name}).text == f"=?base64?{coded}?="


# -- when it goes wrong -----------------------------------------------------------------------------------------------


def test_where_nobody_listens_it_says_so_at_once(sdk2: Running, tmp_path: Path) -> None:
    with running(script("sdk2"), tmp_path / "gone") as server:
        pass
    begin = time.monotonic()
    with pytest.raises(MCPConnectionError, match="nobody listens") as caught:
        Client(server.url, timeout=PATIENCE).connect()
    assert time.monotonic() - begin < SOON
    assert caught.value.may_have_run is False


@pytest.mark.parametrize("path", ["/none", "/"])
def test_where_there_is_no_such_endpoint_it_says_so(path: str, sdk2: Running) -> None:
    begin = time.monotonic()
    with pytest.raises(MCPError, match="404"):
        Client(sdk2.origin + path, timeout=PATIENCE).connect()
    assert time.monotonic() - begin < SOON


@dataclass
class Mortal:
    """A way to reach a server that a test may kill and start again, on the same port."""

    way: Way
    start: Callable[[], Running]

    def client(self, server: Running) -> Client:
        return Peer(self.way, server).client()


@pytest.fixture(params=["sdk2-stateless", "sdk2-handshake", "sdk1", "sdk1-sse"])
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mortal]:
    way = WAYS[request.param]
    port: list[int] = []
    with ExitStack() as stack:

        def start() -> Running:
            command = script(way.sdk, way.binding)
            server = stack.enter_context(running(command, tmp_path / "server", way.env, *port))
            port[:] = [server.port]
            return server

        yield Mortal(way, start)


def test_a_server_that_dies_fails_the_calls_in_flight_and_can_be_connected_to_again(mortal: Mortal) -> None:
    server = mortal.start()
    with mortal.client(server) as client:
        calls = [client.submit_tool("slow", {"seconds": 60}) for _ in range(3)]
        assert [server.journal() for _ in calls] == ["started slow"] * 3
        server.kill()
        for call in calls:
            with pytest.raises(MCPConnectionError) as caught:
                call.result(PATIENCE)
            assert caught.value.may_have_run is None
        with pytest.raises(MCPConnectionError, match="nobody listens") as late:
            client.call_tool("add", {"a": 1, "b": 1}, timeout=1)
        assert late.value.may_have_run is False
        mortal.start()
        if mortal.way.has_sessions:
            assert_session_expired(client)
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2


def assert_session_expired(client: Client) -> None:
    """See that the server has forgotten the session, so that nothing was done; the next call has a new one."""
    __tracebackhide__ = True
    with pytest.raises(SessionExpired) as caught:
        client.call_tool("add", {"a": 1, "b": 1})
    assert caught.value.may_have_run is False


def test_a_server_that_was_restarted_while_nobody_asked_is_found_again(mortal: Mortal) -> None:
    server = mortal.start()
    with mortal.client(server) as client:
        assert client.call_tool("add", {"a": 1, "b": 1}).data == 2
        server.kill()
        mortal.start()
        if mortal.way.has_sessions:
            assert_session_expired(client)
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


def test_a_subscription_to_a_server_that_was_restarted_breaks_off(mortal: Mortal) -> None:
    server = mortal.start()
    with mortal.client(server) as client, client.listen(resource_subscriptions=["memo://greeting"]) as news:
        server.kill()
        mortal.start()
        with pytest.raises(MCPConnectionError, match="broke off"):
            news.next(PATIENCE)


@pytest.mark.slow
def test_a_subscription_to_a_server_that_is_gone_breaks_off(mortal: Mortal) -> None:
    server = mortal.start()
    with mortal.client(server) as client, client.listen(resource_subscriptions=["memo://greeting"]) as news:
        server.kill()
        with pytest.raises(MCPConnectionError, match="broke off"):
            news.next(45)
