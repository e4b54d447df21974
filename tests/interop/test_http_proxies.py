"""The client behind nginx: as it streams and as it buffers, when it loses patience, when it says no."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from interop.proxy import Proxy, proxying

from mcp_sync import Client, MCPConnectionError, MCPError, MCPTimeoutError, MCPTransportError, Notification
from mcp_sync.exceptions import AuthError, HTTPStatusError, RateLimited, ServerError, SessionExpired
from peers.running import PATIENCE, Fleet, Running, free_port, running, script

pytestmark = pytest.mark.interop

STATELESS, HANDSHAKE = "2026-07-28", "2025-11-25"
SOON = 3.0
WELL_DONE = "proxy_http_version 1.1; proxy_set_header Connection ''; proxy_buffering off;"
AS_IT_COMES = ""
BUFFERING = "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;"
ZIPPED = f"{WELL_DONE} gzip on; gzip_types application/json text/event-stream; gzip_min_length 1; gzip_proxied any;"
IMPATIENT = f"{WELL_DONE} proxy_read_timeout 1s;"


def site(server: Running | int, manner: str) -> str:
    port = server if isinstance(server, int) else server.port
    return f"listen HERE; location / {{ {manner} proxy_pass http://127.0.0.1:{port}; }}"


ANSWERS = """
    listen HERE;
    location = /html { default_type text/html; return 200 '<html>Log in</html>'; }
    location = /401 { add_header WWW-Authenticate 'Bearer realm="here"' always; return 401 'who are you'; }
    location = /403 { return 403 'not you'; }
    location = /429 { add_header Retry-After 7 always; return 429 'not now'; }
    location = /500 { return 500 'oh no'; }
    location = /503 { add_header Retry-After 3 always; return 503 'later'; }
    location = /301 { return 301 /mcp; }
    location = /302 { return 302 /mcp; }
    location = /307 { return 307 /mcp; }
    location = /308 { return 308 /mcp; }
    location = /away { return 308 http://localhost:PORT/mcp; }
    location = /round { return 308 /round; }
    location = /mcp { proxy_pass http://127.0.0.1:PORT; }
    location /locked/ { auth_basic here; auth_basic_user_file users; proxy_pass http://127.0.0.1:PORT/; }
"""


@pytest.fixture(scope="module")
def sdk2(fleet: Fleet) -> Running:
    return fleet.server("sdk2", PEER_PAGE_SIZE="4")


@pytest.fixture(scope="module")
def proxy(fleet: Fleet, sdk2: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    remembering, sse = fleet.server("sdk1", PEER_PAGE_SIZE="4", PEER_EVENTS="1"), fleet.server("sdk1", "sse")
    sites = {
        "streaming": site(sdk2, WELL_DONE),
        "as-it-comes": site(sdk2, AS_IT_COMES),
        "buffering": site(sdk2, BUFFERING),
        "zipped": site(sdk2, ZIPPED),
        "impatient": site(sdk2, IMPATIENT),
        "impatient-remembering": site(remembering, IMPATIENT),
        "narrow": "client_max_body_size 100k;" + site(sdk2, WELL_DONE),
        "forgetful": "keepalive_timeout 200ms;" + site(sdk2, WELL_DONE),
        "curt": "keepalive_requests 3;" + site(sdk2, WELL_DONE),
        "dead": site(free_port(), WELL_DONE),
        "answers": ANSWERS.replace("PORT", str(sdk2.port)),
        "sse": site(sse, AS_IT_COMES),
        "sse-buffering": site(sse, BUFFERING),
    }
    folder = tmp_path_factory.mktemp("nginx") / "proxies"
    with proxying(folder, sites) as proxy:
        (folder / "users").write_text("ada:{PLAIN}secret\n")
        yield proxy


@pytest.fixture(params=[STATELESS, HANDSHAKE], ids=["stateless", "handshake"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(url: str, version: str | None = None, **options: Any) -> Client:
    return Client(url, **{"timeout": PATIENCE, "protocol_version": version, **options})


ALL = ["streaming", "as-it-comes", "buffering", "zipped", "curt"]


@pytest.mark.parametrize("site", ALL)
def test_the_newest_version_is_found_through_a_proxy(site: str, proxy: Proxy) -> None:
    with connect(proxy.url(site)) as client:
        assert client.protocol_version == STATELESS
        assert {tool.name for tool in client.list_tools()} >= {"add", "echo"}


@pytest.mark.parametrize("site", ALL)
def test_calls_and_their_progress_come_through(site: str, version: str, proxy: Proxy) -> None:
    reports: list[float] = []
    with connect(proxy.url(site), version) as client:
        begin = time.monotonic()
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
        client.call_tool("count", {"n": 3}, on_progress=lambda now, *_: reports.append(now))
        assert reports == [1, 2, 3]
        assert client.call_tool("big", {"n": 1_000_000}).text == "x" * 1_000_000
        assert client.call_tool("echo", {"text": "\u00fc" * 400_000}).data == "\u00fc" * 400_000
        assert time.monotonic() - begin < 10


@pytest.mark.parametrize("site", ALL)
def test_sixteen_threads_share_a_client_behind_a_proxy(site: str, version: str, proxy: Proxy) -> None:
    def work(thread: int) -> list[str]:
        return [client.call_tool("echo", {"text": f"{thread}/{n}"}).text for n in range(4)]

    with connect(proxy.url(site), version) as client, ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [[f"{thread}/{n}" for n in range(4)] for thread in range(16)]


@pytest.mark.parametrize("site", ["streaming", "as-it-comes", "zipped"])
def test_what_the_server_says_by_itself_comes_through_a_proxy_that_streams(
    site: str, version: str, proxy: Proxy
) -> None:
    with connect(proxy.url(site), version, elicitation=lambda asked: {"name": "Ada"}) as client:
        assert client.call_tool("ask_name").text == "hello Ada"
        with client.listen(resource_subscriptions=["memo://greeting"]) as news:
            client.call_tool("touch_resource", {"uri": "memo://greeting"})
            assert news.next(PATIENCE) is not None


def test_a_proxy_that_buffers_holds_back_what_has_no_end_and_the_client_says_so_in_time(proxy: Proxy) -> None:
    with connect(proxy.url("buffering"), elicitation=lambda asked: {"name": "Ada"}) as client:
        assert client.call_tool("ask_name").text == "hello Ada"  # which is two answers here
        begin = time.monotonic()
        with pytest.raises(MCPTimeoutError, match="subscriptions/listen"):
            client.listen(resource_subscriptions=["memo://greeting"], timeout=0.5)
        assert time.monotonic() - begin < SOON
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
    with connect(proxy.url("buffering"), HANDSHAKE, elicitation=lambda asked: {"name": "Ada"}) as client:
        begin = time.monotonic()
        with pytest.raises(MCPTimeoutError):
            client.call_tool("ask_name", timeout=0.5)  # its question is held back
        assert time.monotonic() - begin < SOON
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


def test_closing_tells_the_server_through_a_proxy(sdk2: Running, proxy: Proxy) -> None:
    mark = sdk2.mark()
    with connect(proxy.url("streaming"), HANDSHAKE) as client:
        client.ping()
    (line,) = sdk2.wait_for('"DELETE /mcp', mark)
    assert line.endswith("200 OK")


def test_a_call_that_is_cancelled_or_late_is_stopped_on_the_server_behind(
    version: str, sdk2: Running, proxy: Proxy
) -> None:
    sdk2.forget_journal()
    with connect(proxy.url("streaming"), version) as client:
        future = client.submit_tool("slow", {"seconds": 60})
        assert sdk2.journal() == "started slow"
        assert future.cancel()
        assert sdk2.journal() == "cancelled slow"
        with pytest.raises(MCPTimeoutError):
            client.call_tool("slow", {"seconds": 60}, timeout=0.5)
        assert [sdk2.journal(), sdk2.journal()] == ["started slow", "cancelled slow"]


# -- a proxy that loses patience --------------------------------------------------------------------------------------


def test_a_call_of_which_the_proxy_tires_may_have_run(version: str, proxy: Proxy) -> None:
    with connect(proxy.url("impatient"), version) as client:
        begin = time.monotonic()
        with pytest.raises(MCPTransportError) as caught:  # a stream that is cut, or HTTP 504
            client.call_tool("slow", {"seconds": 5})
        assert 0.9 < time.monotonic() - begin < SOON
        assert caught.value.may_have_run is None
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


def test_a_call_whose_stream_is_cut_by_the_proxy_again_and_again_is_taken_up_where_the_server_remembers(
    proxy: Proxy,
) -> None:
    with connect(proxy.url("impatient-remembering")) as client:
        futures = [client.submit_tool("slow", {"seconds": 2.5}) for _ in range(3)]
        assert [future.result(PATIENCE).text for future in futures] == ["slept 2.5"] * 3


def test_news_arrive_though_the_proxy_cuts_the_stream_that_they_come_on(proxy: Proxy) -> None:
    uris: queue.Queue[str] = queue.Queue()

    def note(news: Notification) -> None:
        if news.method == "notifications/resources/updated":
            uris.put((news.params or {})["uri"])

    with connect(proxy.url("impatient-remembering"), on_notification=note) as client:
        client.subscribe("memo://greeting")
        for _ in range(2):
            client.call_tool("touch_resource", {"uri": "memo://greeting"})
            assert uris.get(timeout=PATIENCE) == "memo://greeting"
            time.sleep(1.3)  # until it has been cut; there is nothing else to wait for


def test_a_subscription_of_which_the_proxy_tires_breaks_off(proxy: Proxy) -> None:
    with (
        connect(proxy.url("impatient")) as client,
        client.listen(resource_subscriptions=["memo://greeting"]) as news,
        pytest.raises(MCPConnectionError, match="broke off"),
    ):
        news.next(PATIENCE)


def test_connections_that_the_proxy_has_closed_meanwhile_are_not_used_again(version: str, proxy: Proxy) -> None:
    with connect(proxy.url("forgetful"), version) as client, ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            results = list(pool.map(lambda n: client.call_tool("add", {"a": n, "b": 1}).data, range(4)))
            assert results == [1, 2, 3, 4]
            time.sleep(0.4)  # until they have been closed


# -- a proxy that says no ---------------------------------------------------------------------------------------------


def test_a_request_that_is_too_big_for_the_proxy_was_surely_not_executed(version: str, proxy: Proxy) -> None:
    with connect(proxy.url("narrow"), version) as client:
        with pytest.raises(MCPError, match="413") as caught:
            client.call_tool("echo", {"text": "x" * 200_000})
        assert caught.value.may_have_run in (False, True)
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


def test_a_proxy_without_a_server_behind_it_is_no_older_server(proxy: Proxy) -> None:
    begin = time.monotonic()
    with pytest.raises(ServerError, match="502"):
        connect(proxy.url("dead"), timeout=5).connect()
    assert time.monotonic() - begin < SOON


@pytest.mark.parametrize(
    ("status", "kind", "retry_after"),
    [
        (401, AuthError, None),
        (403, AuthError, None),
        (429, RateLimited, 7),
        (500, ServerError, None),
        (503, ServerError, 3),
    ],
)
def test_a_status_that_says_nothing_of_versions_is_told_as_it_is(
    status: int, kind: type[HTTPStatusError], retry_after: float | None, proxy: Proxy
) -> None:
    with pytest.raises(kind, match=f"HTTP {status}") as caught:
        connect(f"{proxy.origin('answers')}/{status}", timeout=5).connect()
    assert (caught.value.status, caught.value.retry_after) == (status, retry_after)
    assert caught.value.may_have_run is False


def test_a_page_that_is_no_answer_is_told_as_such(proxy: Proxy) -> None:
    with pytest.raises(MCPError, match="text/html"):
        connect(f"{proxy.origin('answers')}/html", timeout=5).connect()


@pytest.mark.parametrize("status", ["307", "308"])
def test_a_redirect_within_the_origin_that_keeps_the_method_is_followed(status: str, proxy: Proxy) -> None:
    with connect(f"{proxy.origin('answers')}/{status}") as client:
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3


@pytest.mark.parametrize("path", ["301", "302", "away", "round"])
def test_any_other_redirect_is_not(path: str, sdk2: Running, proxy: Proxy) -> None:
    mark = sdk2.mark()
    with pytest.raises(HTTPStatusError, match=r"redirect"):
        connect(f"{proxy.origin('answers')}/{path}", headers={"Authorization": "Bearer secret"}, timeout=5).connect()
    assert sdk2.since(mark, "/mcp") == []


def test_a_password_that_the_proxy_wants_goes_with_every_request(version: str, sdk2: Running, proxy: Proxy) -> None:
    url = f"{proxy.origin('answers')}/locked/mcp"
    with connect(url, version, headers={"Authorization": "Basic YWRhOnNlY3JldA=="}) as client:
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
        assert client.call_tool("header", {"name": "authorization"}).text == "Basic YWRhOnNlY3JldA=="
    with pytest.raises(AuthError, match="401"):
        connect(url, version, timeout=5).connect()


def test_a_server_that_comes_back_behind_the_proxy_is_found_again(version: str, tmp_path: Path) -> None:
    port = free_port()
    with proxying(tmp_path / "nginx", {"front": site(port, WELL_DONE)}) as proxy:
        client = connect(proxy.url("front"), version)
        with running(script("sdk2"), tmp_path / "first", port=port):
            assert client.call_tool("add", {"a": 1, "b": 1}).data == 2
        with pytest.raises(ServerError, match="502"):
            client.call_tool("add", {"a": 1, "b": 1})
        with running(script("sdk2"), tmp_path / "second", port=port):
            if version == HANDSHAKE:
                with pytest.raises(SessionExpired):
                    client.call_tool("add", {"a": 1, "b": 1})
            assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
            client.close()


# -- HTTP+SSE ---------------------------------------------------------------------------------------------------------


def test_the_older_binding_comes_through_a_proxy_that_streams(proxy: Proxy) -> None:
    with connect(f"{proxy.origin('sse')}/sse", elicitation=lambda asked: {"name": "Ada"}) as client:
        assert client.call_tool("add", {"a": 1, "b": 2}).data == 3
        assert client.call_tool("ask_name").text == "hello Ada"


def test_the_older_binding_behind_a_proxy_that_buffers_fails_in_time(proxy: Proxy) -> None:
    begin = time.monotonic()
    with pytest.raises(MCPError):
        connect(f"{proxy.origin('sse-buffering')}/sse", timeout=1).connect()
    assert time.monotonic() - begin < SOON
