"""Connections that are kept: closed between two calls, shared by many callers, held up by one."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from faults.http_server import Exchange, late, silent
from faults.http_tools import NOW, T, closes, resets, serving, tells
from faults.tools import ERAS, PATIENCE, tool, until, within, works

from mcp_sync import MCPConnectionError, MCPError, MCPTimeoutError, TooManyRequests
from mcp_sync.testing import in_threads


@ERAS
def test_connections_that_the_server_closes_between_two_calls_cost_nothing(era: str) -> None:
    """I10: the next call takes a new one, and runs once."""
    with serving(era) as (client, server):
        for number in range(20):
            assert tool(client, "work", NOW, n=number) == {"n": number}
            until(lambda: not server.busy)
            server.hang_up()
        assert [request.arguments["n"] for request in server.calls("work")] == list(range(20))


def answers_and_closes(exchange: Exchange) -> None:
    exchange.send(exchange.plain)
    exchange.close()


def answers_and_resets(exchange: Exchange) -> None:
    exchange.send(exchange.plain)
    exchange.pause(0.005)  # or the reset overtakes the answer
    exchange.reset()


@ERAS
@pytest.mark.parametrize("how", [answers_and_closes, answers_and_resets])
def test_a_server_that_closes_after_each_answer_without_saying_so_is_fine(era: str, how: object) -> None:
    """I10: as fast as can be, so that the end comes while the next request is on its way.

    A request that may have been read is not sent again, so the call may fail; it never runs twice.
    """
    with serving(era, on={"work": how}) as (client, server):
        outcomes: Counter[str] = Counter()
        for number in range(100):
            try:
                assert tool(client, "work", NOW, n=number) == {"n": number}
                outcomes["ok"] += 1
            except MCPConnectionError as error:
                outcomes[f"failed, {error.may_have_run}"] += 1
        ran = Counter(request.arguments["n"] for request in server.calls("work"))
        assert set(ran.values()) == {1}
        assert len(ran) >= outcomes["ok"]
        assert outcomes["ok"] >= 50, outcomes
        until(lambda: not server.busy)
        works(client)


@ERAS
@pytest.mark.parametrize("how", [closes, resets])
def test_a_kept_connection_that_ends_once_the_request_was_read_is_no_stale_one(era: str, how: object) -> None:
    """I10: the tool may have run, so it is not run again."""
    with serving(era, on={"work": [None, how]}) as (client, server):
        assert tool(client, "work", n=1) == {"n": 1}
        with within(NOW), pytest.raises(MCPConnectionError) as found:
            client.call_tool("work", {"n": 2})
        assert found.value.may_have_run is None
        tells(found.value, server)
        assert [request.arguments["n"] for request in server.calls("work")] == [1, 2]
        works(client)


@ERAS
def test_64_callers_at_once_get_their_own_answers(era: str) -> None:
    """I2, I3, I20, B8: more than a pool of ten connections."""
    callers, calls = 64, 5
    with serving(era, on={"work": late(0.02)}) as (client, server):

        def call(caller: int) -> None:
            for number in range(calls):
                assert tool(client, "work", caller=caller, number=number) == {"caller": caller, "number": number}

        with within(5.0):
            in_threads(callers, call, PATIENCE)
        ran = Counter((request.arguments["caller"], request.arguments["number"]) for request in server.calls("work"))
        assert len(ran) == callers * calls
        assert set(ran.values()) == {1}
        ids = [request.id for request in server.posts() if request.id is not None]
        assert len(ids) == len(set(map(repr, ids)))
        works(client)


@ERAS
def test_64_callers_are_not_held_up_by_calls_that_are_never_answered(era: str) -> None:
    """I1, I4: ten silent calls, and everybody else goes on; each of the ten times out on time."""
    with serving(era, on={"dead": silent}) as (client, _):

        def call(caller: int) -> None:
            if caller < 10:
                with within(T * 2), pytest.raises(MCPTimeoutError):
                    client.call_tool("dead", timeout=T * 2)
                return
            assert tool(client, "work", PATIENCE, caller=caller) == {"caller": caller}

        in_threads(64, call, PATIENCE)
        works(client)


@ERAS
def test_one_post_that_is_never_answered_delays_no_other(era: str) -> None:
    """I4: neither blocking calls nor submitted ones."""
    with serving(era, on={"dead": silent}) as (client, server):
        thread = threading.Thread(target=expect_timeout, args=(client,))
        thread.start()
        until(lambda: server.calls("dead"))
        for number in range(20):
            with within(0.1):
                assert tool(client, "work", NOW, n=number) == {"n": number}
            assert client.submit_tool("work", {"n": number}).result(NOW).text
        thread.join(PATIENCE)
        works(client)


def expect_timeout(client: object) -> None:
    with within(T * 2), pytest.raises(MCPTimeoutError):
        client.call_tool("dead", timeout=T * 2)  # type: ignore[attr-defined]



def call_in_time(client: object) -> None:
    try:
        client.call_tool("work", timeout=T)  # type: ignore[attr-defined]
    except (MCPTimeoutError, TooManyRequests):
        pass



@ERAS
def test_a_client_that_rests_holds_no_more_connections_than_it_needed_and_close_ends_them(era: str) -> None:
    """I7, I9"""
    with serving(era, on={"work": late(0.05)}) as (client, server):
        in_threads(20, lambda number: tool(client, "work", n=number), PATIENCE)
        assert server.connected <= 22
        heard = len(server.requests)
        time.sleep(0.3)
        assert len(server.requests) == heard
        with within(0.5):
            client.close()
        until(lambda: server.connected == 0, 2.0)


@ERAS
def test_connections_that_end_while_many_call_harm_only_those_on_them(era: str) -> None:
    """I2, I4, I10, I20: the server closes everything again and again; each call runs at most once."""
    with serving(era, on={"work": late(0.005)}) as (client, server):
        over = threading.Event()
        outcomes: Counter[str] = Counter()

        def call(caller: int) -> None:
            if caller == 0:
                for _ in range(20):
                    time.sleep(0.02)
                    server.hang_up(idle_only=False)
                over.set()
                return
            number = 0
            while not over.is_set():
                number += 1
                try:
                    assert tool(client, "work", PATIENCE, caller=caller, number=number)["number"] == number
                    outcomes["ok"] += 1
                except MCPConnectionError as error:
                    outcomes[f"failed, {error.may_have_run}"] += 1

        in_threads(9, call, PATIENCE)
        ran = Counter((request.arguments["caller"], request.arguments["number"]) for request in server.calls("work"))
        assert set(ran.values()) == {1}
        assert outcomes["ok"] > 20
        assert not outcomes["failed, True"], outcomes
        server.hang_up()
        works(client)


def test_a_call_that_fails_gives_its_connection_back_or_closes_it() -> None:
    """I7, I8: a hundred failures of each kind leave no connection open."""
    with serving(on={"dead": silent, "gone": closes}) as (client, server):
        for _ in range(20):
            with pytest.raises(MCPError):
                client.call_tool("dead", timeout=0.02)
            with pytest.raises(MCPError):
                client.call_tool("gone")
        works(client)
        until(lambda: server.connected <= 2, 3.0)
