"""The ledger finds a call that outlives its deadline, and counters that do not add up."""

from __future__ import annotations

import pytest

from house import ledger
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.caller import Question
from mcp_sync.engine.peer import Peer
from mcp_sync.exceptions import MCPTimeoutError
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
