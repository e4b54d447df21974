"""The ledger finds a call that outlives its deadline, and counters that do not add up."""

from __future__ import annotations

import weakref

import pytest

from house import ledger
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Question
from mcp_sync.engine.peer import Peer
from mcp_sync.exceptions import MCPTimeoutError
from mcp_sync.manage.reconnect import Reconnecting
from mcp_sync.policies import Limits
from mcp_sync.testing.tools import Collector
from mcp_sync.transports.memory import memory_pair


def ask_in_vain(spoil: int = 0, grace: float = ledger.GRACE_SECONDS) -> list[str]:
    ours, theirs = memory_pair()
    peer, other = Peer(ours, None, Limits()), Collector()
    theirs.start(other)
    ours.start(peer)
    try:
        with ledger.watched_peers(grace) as flaws:
            with pytest.raises(MCPTimeoutError):
                peer.call(Question("never"), Deadline(0.01))
            peer._session.counters.sent += spoil
    finally:
        peer._session.counters.sent -= spoil  # the ledger of this very test looks, too
        peer.close(Deadline(5))
        theirs.close(Deadline(5))
    return flaws


def test_a_call_that_ends_in_time_and_is_accounted_for_is_fine() -> None:
    assert ask_in_vain() == []


def test_a_call_that_outlives_its_deadline_is_found() -> None:
    (flaw,) = ask_in_vain(grace=-1.0)
    assert "never outlived its deadline of 0.01 s" in flaw


def test_counters_that_do_not_add_up_are_found() -> None:
    (flaw,) = ask_in_vain(spoil=1)
    assert "do not add up" in flaw


class Stuck:
    """What a Peer's ``submit`` returns when nobody keeps its deadline."""

    def __init__(self) -> None:
        self.ended = False

    def done(self) -> bool:
        return self.ended


def test_a_future_that_is_pending_after_its_deadline_is_found() -> None:
    stuck = Stuck()
    promise = ledger._broken(weakref.ref(stuck), "never", Deadline(0.0), 0.02)  # type: ignore[arg-type]
    assert promise is not None
    assert "the future of never is pending" in promise
    assert ledger._broken(weakref.ref(stuck), "never", Deadline(60.0), 0.02) is None  # type: ignore[arg-type]
    stuck.ended = True
    assert ledger._broken(weakref.ref(stuck), "never", Deadline(0.0), 0.02) is None  # type: ignore[arg-type]


def test_whatever_stands_around_a_peer_is_watched_too() -> None:
    names = {kind.__name__ for kind in ledger._callers()}
    assert {"Peer", Reconnecting.__name__} <= names
    original = Peer.submit
    with ledger.watched_peers():
        assert Peer.submit is not original
    assert Peer.submit is original
