"""Many calls at once: threads on one client, and futures in every way the standard library uses them."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, CancelledError, Future, as_completed, wait
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

import pytest
from client.scripted import HANDSHAKE, LATER, STATELESS, Asked, Scripted, object_of, structured, text, tool

from mcp_sync import Client, MCPTimeoutError

ERAS = pytest.mark.parametrize("era", [STATELESS, HANDSHAKE])


class Hoarder(Scripted):
    """Keeps calls until there are so many, and answers them in another order."""

    def __init__(self, count: int, era: str) -> None:
        super().__init__({"tools/call": self._keep}, era=era)
        self._count = count
        self._kept: list[Asked] = []

    def _keep(self, ask: Asked) -> Any:
        self._kept.append(ask)
        if len(self._kept) == self._count:
            random.Random(1).shuffle(self._kept)
            for kept in self._kept:
                kept.answer(text(str(kept.arguments["n"])))
        return LATER


@ERAS
def test_200_threads_share_one_client(era: str) -> None:
    server = Scripted({"tools/call": lambda ask: text(str(ask.arguments["n"]))}, era=era)
    wrong: list[Any] = []
    begin = threading.Barrier(200)

    def work(number: int) -> None:
        begin.wait(30)
        for turn in range(5):
            n = number * 1000 + turn
            if client.call_tool("t", {"n": n}).text != str(n):
                wrong.append(n)

    with Client(server) as client:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert client.counters["pending"] == 0
    assert wrong == []
    assert len(server.asked("tools/call")) == 1000
    assert len({ask.id for ask in server.asked("tools/call")}) == 1000


@ERAS
def test_200_threads_that_connect_by_their_first_call_dial_once_and_list_once(era: str) -> None:
    server = Scripted(
        {
            "tools/call": lambda ask: structured({"result": 3}),
            "tools/list": lambda ask: {"tools": [tool("t", object_of(result={}))]},
        },
        era=era,
    )
    begin = threading.Barrier(200)
    found: list[Any] = []
    client = Client(server)

    def work() -> None:
        begin.wait(30)
        found.append(client.call_tool("t").data)

    threads = [threading.Thread(target=work) for _ in range(200)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        client.close()
    assert found == [3] * 200
    assert server.dials == 1
    assert len(server.asked("tools/list")) == 1


@ERAS
def test_a_thousand_futures_in_flight_may_be_answered_in_any_order(era: str) -> None:
    with Client(Hoarder(1000, era)) as client:
        futures = {client.submit_tool("t", {"n": n}): str(n) for n in range(1000)}
        assert client.counters["pending"] in range(1001)
        found = {future: future.result().text for future in as_completed(futures, 30)}
        assert found == futures
        assert wait(futures, 10, ALL_COMPLETED).not_done == set()
        assert client.counters["pending"] == 0


def test_wait_returns_with_the_first_future_that_is_done() -> None:
    server = Scripted({"tools/call": lambda ask: text("quick") if ask.params["name"] == "quick" else LATER})
    with Client(server) as client:
        slow, quick = client.submit_tool("slow"), client.submit_tool("quick")
        done, not_done = wait([slow, quick], 10, FIRST_COMPLETED)
        assert (done, not_done) == ({quick}, {slow})
        with pytest.raises(FutureTimeout):
            slow.result(0.01)
        assert slow.cancel()


@ERAS
def test_a_done_callback_may_call_the_same_client(era: str) -> None:
    server = Scripted({"tools/call": lambda ask: text(ask.params["name"])}, era=era)
    found: list[str] = []
    over = threading.Event()

    def then(future: Future[Any]) -> None:
        found.append(future.result().text)
        found.append(client.call_tool("second", on_progress=lambda *report: None).text)
        found.append(client.submit_tool("third").result(10).text)
        over.set()

    with Client(server) as client:
        client.submit_tool("first").add_done_callback(then)
        assert over.wait(10)
    assert found == ["first", "second", "third"]


def test_a_done_callback_that_fails_hurts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    over = threading.Event()
    with Client(Scripted({"tools/call": lambda ask: text("ok")})) as client:
        future = client.submit_tool("t")
        future.add_done_callback(lambda future: 1 / 0)
        future.add_done_callback(lambda future: over.set())
        assert over.wait(10)
        assert client.call_tool("t").text == "ok"
    assert "a callback failed" in caplog.text


@ERAS
def test_cancelling_a_future_tells_who_waits_and_the_server(era: str) -> None:
    server = Scripted({"tools/call": lambda ask: LATER}, era=era)
    waited: list[Any] = []
    with Client(server) as client:
        future = client.submit_tool("t")
        (ask,) = server.asked("tools/call")
        waiter = threading.Thread(target=lambda: waited.append(wait([future], 30)))
        waiter.start()
        assert future.cancel()
        waiter.join(30)
        assert waited[0].done == {future}
        (notice,) = server.told("notifications/cancelled")
        assert (notice.params or {})["requestId"] == ask.id
        ask.answer(text("too late"))
        client.ping()
        assert client.counters["dropped_late"] == 1
        assert future.cancelled()
        assert future.cancel()  # as often as one likes
        with pytest.raises(CancelledError):
            future.result()


def test_a_future_that_is_done_cannot_be_cancelled() -> None:
    server = Scripted({"tools/call": lambda ask: text("ok")})
    with Client(server) as client:
        future = client.submit_tool("t")
        assert future.result(10).text == "ok"
        assert not future.cancel()
        assert not future.cancelled()
        assert future.result(0) is future.result(0)  # made into a model once
    assert server.heard("notifications/cancelled") == 0


@ERAS
def test_a_future_times_out_by_itself_though_nobody_waits(era: str) -> None:
    server = Scripted({"tools/call": lambda ask: LATER}, era=era)
    over = threading.Event()
    with Client(server) as client:
        future = client.submit_tool("t", timeout=0.2)
        future.add_done_callback(lambda future: over.set())
        assert over.wait(10)
        error = future.exception(0)
        assert isinstance(error, MCPTimeoutError)
        assert error.details["limit"] == 0.2
        assert error.details["method"] == "tools/call"
        (notice,) = server.told("notifications/cancelled")
        assert (notice.params or {})["requestId"] == server.asked("tools/call")[0].id


def test_any_method_can_be_submitted() -> None:
    server = Scripted({"custom/method": lambda ask: {"got": ask.params["x"]}})
    with Client(server) as client:
        assert client.submit("custom/method", {"x": 1}).result(10) == {"got": 1}
        assert client.request("custom/method", {"x": 2}) == {"got": 2}
        client.notify("custom/notice", {"y": 3})
        assert server.told("custom/notice")[0].params == {"y": 3}


def test_a_future_has_a_repr_that_tells_how_it_stands() -> None:
    server = Scripted({"tools/call": lambda ask: LATER}, era=HANDSHAKE)
    with Client(server) as client:
        future = client.submit_tool("t")
        assert "tools/call" in repr(future)
        assert "pending" in repr(future)
        future.cancel()
        assert "cancelled" in repr(future)


def test_a_call_that_nobody_answers_times_out_with_what_is_known() -> None:
    server = Scripted({"tools/call": lambda ask: LATER})
    with Client(server, timeout=0.2) as client:
        with pytest.raises(MCPTimeoutError, match=r"tools/call to memory.*limit 0\.2 s.*no answer") as caught:
            client.call_tool("t")
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.may_have_run is None
        assert {"elapsed": caught.value.details["elapsed"], "limit": 0.2, "phase": "wait"}.items() <= (
            caught.value.details.items()
        )
        assert client.call_tool.__self__.connected
