"""The traps of requests, urllib3 and http.client (FAULTS.md, section 3, B1 to B8): sprung by plain requests, not by us.

Each test shows first what the library does when it is used plainly. If one of these beginnings fails, the library has
changed for the better, and that part may go.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from faults.http_server import PATH, Exchange, Server, replies, says, silent
from faults.http_tools import CANARY, NOW, T, bomb, drips, goes_on, is_silent_about, serving
from faults.tools import PATIENCE, tool, until, within, works

from mcp_sync import Client, MCPConnectionError, MCPError, MCPTimeoutError, MessageTooLarge
from mcp_sync.testing import in_threads

CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "work", "arguments": {"x": "plain"}}}
SECRETS = {"X-Api-Key": CANARY, "Authorization": f"Bearer {CANARY}"}


@pytest.fixture
def plain() -> Iterator[requests.Session]:
    """Requests, as it comes out of the box, but for proxies."""
    with requests.Session() as session:
        session.proxies = {"no_proxy": "*"}
        yield session


def test_b1_a_timeout_is_one_of_the_whole_call(plain: requests.Session) -> None:
    """B1: theirs is one of each read, so an answer that drips never times out."""
    slow = {
        "headers": drips(lambda exchange: exchange.plain[:30] + b" " * 20 + exchange.plain[30:], T / 40),
        "body": lambda exchange: exchange.send(exchange.plain[:-20]) or exchange.drip(exchange.plain[-20:], T / 10),
        "continue": lambda exchange: (
            exchange.drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 40, T / 20, 25) or exchange.send(exchange.plain)
        ),
    }
    for manner in slow.values():
        with serving(on={"work": manner}, tools=[]) as (client, server):
            if manner is not slow["headers"]:
                began = time.monotonic()
                meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
                call = {**CALL, "params": {**CALL["params"], "_meta": meta}}  # type: ignore[dict-item]
                assert plain.post(server.url, json=call, timeout=(T, T)).content
                assert time.monotonic() - began > T * 1.5
            with within(T), pytest.raises(MCPTimeoutError):
                client.call_tool("work", timeout=T)
            works(client)


def test_b1_the_deadline_of_one_call_never_cuts_another_on_the_same_connection() -> None:
    """B1: a reaper that is late, or whose socket has been given back, cuts nobody."""
    with serving() as (client, server):
        for number in range(200):
            assert tool(client, "work", 0.2, n=number) == {"n": number}
        time.sleep(0.3)
        works(client)
        assert server.accepted == 1


def test_b2_a_redirect_takes_nothing_to_another_origin(plain: requests.Session) -> None:
    """B2: theirs takes keys, cookies and the whole body along, and makes a GET of a POST."""
    with Server(on={"POST": replies(200, "{}"), "GET": replies(200, "{}")}) as other:
        for status in (302, 307):
            on = {"work": replies(status, "", f"Location: {other.url}", content_type=None)}
            with serving(on=on, headers=SECRETS) as (client, server):
                answer = plain.post(server.url, json=CALL, headers=SECRETS)
                assert answer.status_code == 200
                assert CANARY.encode() in other.heard
                heard = len(other.heard)
                with within(NOW), pytest.raises(MCPError):
                    client.call_tool("work")
                works(client)
                assert len(other.heard) == heard
        assert {request.verb for request in other.requests} == {"GET", "POST"}


def test_b3_neither_netrc_nor_a_proxy_of_the_environment_is_taken(
    plain: requests.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B3: theirs lets netrc outdo an explicit Authorization, and sends what is for this machine to the proxy."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password theirs\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with Server() as proxy, serving(auth_header=f"Bearer {CANARY}") as (client, server):
        plain.post(server.url, json=CALL, headers=SECRETS)
        assert server.requests[-1].headers["authorization"].startswith("Basic ")
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.origin)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        requests.post(server.url, json=CALL, headers={"X-Api-Key": CANARY})
        assert CANARY.encode() in proxy.heard
        heard = len(proxy.heard)
        works(client)
        assert server.calls("echo")[-1].headers["authorization"] == f"Bearer {CANARY}"
        with Client(server.url, timeout=PATIENCE) as another:  # made when the environment has a proxy
            works(another)
        assert len(proxy.heard) == heard


def test_b4_what_is_unpacked_is_counted(plain: requests.Session) -> None:
    """B4: theirs unpacks whatever comes."""
    with serving(on={"work": bomb("gzip", 64)}, max_message_size=1 << 20) as (client, server):
        assert len(plain.post(server.url, json=CALL).content) > 64 << 20
        with within(NOW), pytest.raises(MessageTooLarge, match=str(1 << 20)):
            client.call_tool("work")
        works(client)


def test_b5_closing_wakes_whoever_reads(plain: requests.Session) -> None:
    """B5: their close() waits for the reader that it should end."""
    with Server(on={"work": goes_on(lambda exchange: exchange.head(200, length=10**6), b" ", 3600.0)}) as server:
        answer = plain.post(server.url, json=CALL, stream=True)
        reader = threading.Thread(target=read, args=(answer,))
        closer = threading.Thread(target=answer.close)
        reader.start()
        time.sleep(0.05)
        closer.start()
        closer.join(0.2)
        assert closer.is_alive()
        assert reader.is_alive()
        server.hang_up(idle_only=False)
        reader.join(PATIENCE)
        closer.join(PATIENCE)
    for manner in (server.on["work"], silent, goes_on(lambda exchange: exchange.head(200), b" ", 0.01)):
        with serving(on={"work": manner}) as (client, server):
            future = client.submit_tool("work")
            caught: list[BaseException] = []
            caller = threading.Thread(target=call, args=(client, caught))
            caller.start()
            until(lambda server=server: len(server.calls("work")) == 2)
            with within(0.5):
                client.close()
                caller.join(PATIENCE)
                assert isinstance(future.exception(PATIENCE), MCPConnectionError)
            assert isinstance(caught[0], MCPConnectionError)


def read(answer: requests.Response) -> None:
    try:
        answer.raw.read()
    except Exception:
        pass


def call(client: Client, caught: list[BaseException]) -> None:
    try:
        client.call_tool("work")
    except MCPError as error:
        caught.append(error)


def test_b6_an_answer_that_is_cut_in_its_headers_is_no_answer(plain: requests.Session) -> None:
    """B6: theirs takes the end for a blank line: 200, and an empty body. And half a gzip file for a whole one."""
    cut = says("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
    with serving(on={"work": cut}) as (client, server):
        answer = plain.post(server.url, json=CALL)
        assert (answer.status_code, answer.content) == (200, b"")
        with within(NOW), pytest.raises(MCPConnectionError):
            client.call_tool("work")
        works(client)

    def half_a_file(exchange: Exchange) -> None:
        data = gzip.compress(exchange.body)
        exchange.reply(200, data[: len(data) // 2], "Content-Encoding: gzip")

    with serving(on={"work": half_a_file}) as (client, server):
        assert plain.post(server.url, json=CALL).status_code == 200
        with within(NOW), pytest.raises(MCPConnectionError):
            client.call_tool("work")
        works(client)


def test_b7_no_error_holds_a_token_of_the_url_or_of_a_header(plain: requests.Session) -> None:
    """B7: theirs have both in their text."""
    with Server() as server:
        url = f"http://127.0.0.1:{server.port}{PATH}?token={CANARY}"
    with pytest.raises(requests.ConnectionError, match=CANARY):
        plain.post(url, json=CALL)
    with pytest.raises(requests.exceptions.InvalidHeader, match=CANARY):
        plain.post(url, json=CALL, headers={"X-Api-Key": f"{CANARY}\n"})
    client = Client(url, timeout=PATIENCE)
    with within(NOW), pytest.raises(MCPConnectionError) as found:
        client.connect()
    is_silent_about(CANARY, found.value)
    with pytest.raises((ValueError, MCPError)) as refused:
        Client(url, headers={"X-Api-Key": f"{CANARY}\n"}, timeout=PATIENCE).connect()
    is_silent_about(CANARY, str(refused.value), repr(refused.value))
    client.close()


def test_b8_neither_cookies_nor_ten_connections_are_shared(plain: requests.Session) -> None:
    """B8: theirs keeps one jar for all ports; its pool throws away the connections over ten."""
    bakes = replies(200, "{}", f"Set-Cookie: a={CANARY}; Path=/")
    with Server(on={"POST": bakes}) as baker, Server(on={"POST": replies(200, "{}")}) as other:
        plain.post(baker.url, json=CALL)
        plain.post(other.url, json=CALL)
        assert CANARY.encode() in other.heard
    shared = requests.Session()
    with shared, serving(session=shared) as (client, server), serving(session=shared) as (friend, other):
        answer = '{"jsonrpc": "2.0", "id": $ID, "result": {"resultType": "complete", "content": []}}'
        server.on["work"] = replies(200, answer, f"Set-Cookie: b={CANARY}; Path=/")
        client.call_tool("work")
        works(friend)
        assert CANARY.encode() not in other.heard

    gathering = threading.Barrier(30)

    def gathers(exchange: Exchange) -> None:
        gathering.wait(PATIENCE)
        exchange.send(exchange.plain)

    with serving(on={"work": gathers}) as (client, server):
        for _ in range(3):
            in_threads(30, lambda number: tool(client, "work", n=number), PATIENCE)
        assert server.accepted <= 31
