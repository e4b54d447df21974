"""MCPSession: one conversation in plain dicts; what the contracts do not ask."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mcp_sync import JSONRPCError, MCPConnectionError, MCPSession, MCPTimeoutError, MemoryTransport
from mcp_sync.engine.backlog import BACKLOG_ITEMS
from mcp_sync.testing import PartnerServer
from mcp_sync.testing.tools import Background

T = 5.0


@pytest.fixture
def session() -> Iterator[MCPSession]:
    session = MemoryTransport(PartnerServer()).create_session(T)
    yield session
    session.close()


def cancelled(session: MCPSession, count: int) -> int:
    """Wait until the partner was told to forget so many requests."""
    for _ in range(1000):
        told = [item["method"] for item in session.send_request("seen")["notifications"]]
        if told.count("notifications/cancelled") >= count:
            break
    return told.count("notifications/cancelled")


def await_lane(session: MCPSession) -> None:
    """Wait until what came so far has been handled: a done-callback runs behind it."""
    done = threading.Event()
    session.submit_request("echo").add_done_callback(lambda _: done.set())
    assert done.wait(T)


def test_a_streaming_request_gives_its_progress_and_then_its_result(session: MCPSession) -> None:
    items = list(session.send_streaming_request("progress", {"count": 3}))
    assert [item["params"]["progress"] for item in items[:-1]] == [1, 2, 3]
    assert items[0] == {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progress": 1, "total": 3, "message": "step 1"},
    }
    assert items[-1] == {}
    assert session._streams == []


def test_a_streaming_request_that_fails_raises_from_the_iterator(session: MCPSession) -> None:
    with pytest.raises(JSONRPCError):
        list(session.send_streaming_request("what"))
    with pytest.raises(MCPTimeoutError):
        list(session.send_streaming_request("hold", timeout=0.1))
    assert session._streams == []


def test_leaving_a_stream_early_cancels_the_request(session: MCPSession) -> None:
    stream = session.send_streaming_request("progress", {"count": 1, "hold": True})
    assert next(stream)["params"]["progress"] == 1
    stream.close()  # type: ignore[attr-defined]
    assert cancelled(session, 1) == 1
    assert session.counters["cancelled"] == 1
    assert session._streams == []


def test_a_stream_ends_with_the_session(session: MCPSession) -> None:
    stream = session.send_streaming_request("hold")
    session.close()
    with pytest.raises(MCPConnectionError, match="closed"):
        list(stream)


def test_a_stream_that_nobody_reads_holds_nobody_up(session: MCPSession) -> None:
    stream = session.send_streaming_request("progress", {"count": 1500})
    await_lane(session)
    items = list(stream)
    kept = [item["params"]["progress"] for item in items[:-1]]
    assert kept == list(range(1, len(kept) + 1))
    assert len(kept) <= BACKLOG_ITEMS
    assert items[-1] == {}
    assert session.dropped + session.counters["dropped_backlog"] == 1500 - len(kept)
    assert session._streams == []


def test_a_stream_that_was_never_begun_is_forgotten_with_its_answer(session: MCPSession) -> None:
    session.send_streaming_request("progress", {"count": 3})
    await_lane(session)
    assert session._streams == []


def test_on_a_closed_session_a_stream_is_refused_at_once(session: MCPSession) -> None:
    session.close()
    with pytest.raises(MCPConnectionError):
        session.send_streaming_request("echo")
    assert session._streams == []


def test_listening_ends_with_the_session(session: MCPSession) -> None:
    listener = Background(lambda: list(session.listen()))
    session.send_request("notify", {"count": 3})
    await_lane(session)
    session.close()
    assert [message["params"]["n"] for message in listener.result()] == [0, 1, 2]


def test_listening_says_when_the_connection_was_lost(session: MCPSession) -> None:
    listener = Background(lambda: list(session.listen()))
    with pytest.raises(MCPConnectionError):
        session.send_request("die")
    assert isinstance(listener.error(), MCPConnectionError)
    with pytest.raises(MCPConnectionError):
        next(session.stream_response())


def test_what_nobody_listens_to_is_dropped_beyond_a_limit(session: MCPSession) -> None:
    for _ in range(3):
        session.send_request("notify", {"count": 500})
        await_lane(session)
    session.close()
    assert len(list(session.listen())) == BACKLOG_ITEMS
    assert session.dropped == 500


def test_params_that_are_no_dict_are_refused(session: MCPSession) -> None:
    for ask in (session.send_request, session.submit_request, session.send_notification):
        with pytest.raises(TypeError, match="params must be a dict"):
            ask("echo", [1])  # type: ignore[arg-type, operator]


def test_its_repr_says_how_it_is(session: MCPSession) -> None:
    assert "2025-11-25" in repr(session)
    session.close()
    assert "closed" in repr(session)


def test_a_protocol_version_that_nobody_knows_is_refused_before_anything_is_dialled() -> None:
    dialled: list[object] = []

    class Server:
        def serve(self, channel: object) -> None:
            dialled.append(channel)

    with pytest.raises(ValueError, match="protocol_version must be one of 2024-11-05"):
        MemoryTransport(Server()).create_session(T, protocol_version="2024-99-99")
    assert dialled == []
