"""What has to be said, but not by the reader: it waits for no callback, and is bounded in bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mcp_sync import JSONRPCError
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Incoming, Question
from mcp_sync.engine.peer import Peer
from mcp_sync.exceptions import MCPError
from mcp_sync.policies import Limits
from mcp_sync.protocol.messages import Failure, Notification, Request, Result
from mcp_sync.testing.tools import Collector
from mcp_sync.transports.memory import memory_pair

T = 10.0


class Stuck:
    """A handler whose every notification hangs until the test lets go."""

    def __init__(self) -> None:
        self.entered, self.let_go = threading.Event(), threading.Event()

    def offers(self, method: str) -> bool:
        return method == "odd"

    def request(self, incoming: Incoming) -> dict[str, object]:
        raise JSONRPCError(5, "odd", data=object())

    def notification(self, notification: Notification) -> None:
        self.entered.set()
        assert self.let_go.wait(T)

    def closed(self, error: MCPError) -> None:
        """Nothing to do."""


@pytest.fixture
def ends() -> Iterator[tuple[Peer, Stuck, Collector]]:
    ours, theirs = memory_pair()
    handler, other = Stuck(), Collector()
    theirs.start(other)
    peer = Peer(ours, handler, Limits())
    ours.start(peer)
    other.line = theirs
    yield peer, handler, other
    handler.let_go.set()
    peer.close(Deadline(T))
    theirs.close(Deadline(T))


def test_a_callback_that_hangs_delays_neither_a_pong_nor_a_cancel(ends: tuple[Peer, Stuck, Collector]) -> None:
    peer, handler, other = ends
    future = peer.submit(Question("slow"), Deadline(T))
    request = other.next()
    other.line.send(Notification("news"), Deadline(T))
    assert handler.entered.wait(T)
    other.line.send(Request(7, "ping"), Deadline(T))
    assert other.next() == Result(7, {})
    assert future.cancel()
    notice = other.next()
    assert isinstance(notice, Notification)
    assert notice.method == "notifications/cancelled"
    assert (notice.params or {})["requestId"] == request.id


def test_a_refusal_does_not_repeat_a_long_name(ends: tuple[Peer, Stuck, Collector]) -> None:
    _, _, other = ends
    other.line.send(Request(1, "m" * 100_000), Deadline(T))
    refusal = other.next()
    assert isinstance(refusal, Failure)
    assert refusal.code == -32601
    assert len(refusal.message) < 200


def test_an_error_that_cannot_be_sent_is_replaced_by_one_that_can(ends: tuple[Peer, Stuck, Collector]) -> None:
    _, _, other = ends
    other.line.send(Request(1, "odd"), Deadline(T))
    assert other.next() == Failure(1, 5, "the error that the callback raised cannot be sent")
