"""What a server may have kept for it: a few cookies, and small ones (RFC 6265, section 6.1)."""

from __future__ import annotations

from contextlib import closing

from faults.http_server import Server, replies

from mcp_sync.deadlines import Deadline
from mcp_sync.policies import Connections, Replies, Trust
from mcp_sync.testing.tools import PATIENCE
from mcp_sync.transports.web import COOKIE_BYTES, COOKIES, Web


def test_of_a_server_that_sets_many_and_large_cookies_few_are_kept() -> None:
    lines = [f"Set-Cookie: huge={'x' * COOKIE_BYTES}", *(f"Set-Cookie: n{one}=1" for one in range(COOKIES + 20))]
    with (
        Server(on={"POST": replies(200, "hello", *lines)}) as server,
        closing(Web(server.url, Connections(), Trust(), Replies())) as web,
    ):
        for _ in range(2):
            with closing(web.send("POST", server.url, {}, b"{}", web.exchange(Deadline(PATIENCE)))) as reply:
                assert reply.read(100) == b"hello"
        first, second = (one.headers.get("cookie") for one in server.requests)
        assert first is None
        assert second is not None
        assert (second.count("="), "huge" in second) == (COOKIES, False)
