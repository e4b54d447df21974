"""Pairs of events over real pipes, each in both orders: who comes first decides, and nobody else waits for it.

What tests/faults/test_interleavings.py orders inside the process (reply, timeout, close, death, cancel, write), this
file orders on the wire: whatever thread reads, each answer is for its caller, in time, and once. So it holds for a
reader thread as for callers who take turns at reading.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import pytest
from concurrency.wires import Wire, news, reply, result_of, wired
from faults.tools import PATIENCE, T, command, host, manner, until, within

from mcp_sync import Client, MCPConnectionError, MCPSession, MCPTimeoutError, StdioTransport
from mcp_sync.testing import in_threads
from mcp_sync.testing.tools import Background

BOTH = pytest.mark.parametrize("first", [True, False], ids=["as named", "the other way round"])
SOON = 0.25
"""What needs no more than a message may take so long, and noise."""


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def calling(session: MCPSession, method: str, timeout: float = PATIENCE, **params: Any) -> Background:
    """Call on a thread of its own; its result is what the server has put in."""
    return Background(lambda: result_of(session.send_request(method, params, timeout)))


def works(session: MCPSession, wire: Wire, mark: str = "works") -> None:
    """Check that the next call is fine, and answered at once."""
    later = calling(session, mark)
    request = wire.asked(mark)
    with within(SOON):
        wire.answer(request, fine=mark)
        assert later.result() == {"fine": mark}


# -- two about one call ------------------------------------------------------------------------------------------------


@BOTH
def test_reply_and_cancel(first: bool) -> None:
    """I2: of a future; on the wire, the later of the two says nothing."""
    with wired() as (session, wire):
        future = session.submit_request("work", {}, PATIENCE)
        request = wire.asked("work")
        if first:
            wire.answer(request, x=1)
            until(future.done)
            assert not future.cancel()
            assert result_of(future.result(0)) == {"x": 1}
        else:
            assert future.cancel()
            wire.answer(request, x=1)
            until(lambda: session.counters["dropped_late"] == 1)
            with pytest.raises(CancelledError):
                future.result(0)
        works(session, wire)


@BOTH
def test_reply_and_timeout(first: bool) -> None:
    """I1, I2, I3: of a caller that reads, or waits, until its deadline."""
    with wired() as (session, wire):
        later = calling(session, "work", T)
        request = wire.asked("work")
        if first:
            wire.answer(request, x=1)
            assert later.result() == {"x": 1}
        else:
            with within(T):
                assert isinstance(later.error(), MCPTimeoutError)
            assert wire.asked("notifications/cancelled")["params"]["requestId"] == request["id"]
            wire.answer(request, x=1)
            until(lambda: session.counters["dropped_late"] == 1)
        works(session, wire)


@BOTH
def test_timeout_and_close(first: bool) -> None:
    """I1, I2, I7: the call ends at the first of the two, and close() does not wait for the other."""
    with wired() as (session, wire):
        later = calling(session, "work", 0.05 if first else PATIENCE)
        wire.asked("work")
        if first:
            assert isinstance(later.error(), MCPTimeoutError)
        with within(0.5):
            session.close()
        if not first:
            with within(SOON):
                assert "closed" in str(later.error())
        assert session.counters["timeout"] == first


@BOTH
def test_timeout_and_death(first: bool) -> None:
    """I1, I2, I6"""
    with wired() as (session, wire):
        later = calling(session, "work", 0.05 if first else PATIENCE)
        wire.asked("work")
        if first:
            assert isinstance(later.error(), MCPTimeoutError)
        wire.die()
        with within(1.0):
            error = later.error()
        assert isinstance(error, MCPTimeoutError if first else MCPConnectionError)


@BOTH
def test_reply_and_death(first: bool) -> None:
    """I2: in one piece; the answer before the end counts, and nothing comes after an end."""
    with wired() as (session, wire):
        done, lost = calling(session, "done"), calling(session, "lost")
        answered, other = wire.asked("done"), wire.asked("lost")
        if first:
            wire.answer(answered, x=1)
        wire.die()
        with within(1.0):
            assert isinstance(lost.error(), MCPConnectionError)
            assert isinstance(done.error(), type(None) if first else MCPConnectionError)
        assert other["id"] != answered["id"]


@BOTH
def test_two_replies_of_one_id(first: bool) -> None:
    """I2, I3: the first counts, in one piece as in two; the second is nobody's, whatever it says."""
    with wired() as (session, wire):
        answers = [{"x": 1}, {"x": 2}]
        expected, other = answers if first else answers[::-1]
        for apart in (False, True):
            count = 1 + apart
            later = calling(session, "work")
            request = wire.asked("work", count)
            if apart:
                wire.answer(request, **expected)
                wire.answer(request, **other)
            else:
                wire.say(reply(request, **expected), reply(request, **other))
            assert later.result() == expected
            until(lambda count=count: session.counters["dropped_late"] == count)  # type: ignore[misc]
        works(session, wire)


def test_two_replies_of_one_id_while_another_waits() -> None:
    """I3: the second must not be taken for that of the next call."""
    with wired() as (session, wire):
        for n in range(1, 30):
            one, two = calling(session, "one"), calling(session, "two")
            first, second = wire.asked("one", n), wire.asked("two", n)
            wire.say(reply(first, n=n), reply(first, n=-n), reply(second, m=n), reply(first, n=-n))
            assert (one.result(), two.result()) == ({"n": n}, {"m": n})
        until(lambda: session.counters["dropped_late"] == 2 * 29)


# -- connecting and closing --------------------------------------------------------------------------------------------


@contextmanager
def client_of(wire: Wire, **knobs: Any) -> Iterator[Client]:
    client = Client(StdioTransport(wire.command), timeout=PATIENCE, **knobs)
    try:
        yield client
    finally:
        client.close()
        wire.close()


@BOTH
def test_connect_and_close(first: bool) -> None:
    """I7: close() during connect ends it at once; connect() after close() begins nothing."""
    wire = Wire()
    with client_of(wire) as client:
        if not first:
            client.close()
            with within(SOON), pytest.raises(MCPConnectionError, match="closed"):
                client.connect()
            return
        wire.deaf()  # the server never answers server/discover
        connecting = Background(client.connect)
        until(lambda: wire._stdin >= 0)
        with within(0.5):
            client.close()
            assert isinstance(connecting.error(), MCPConnectionError)
        with pytest.raises(MCPConnectionError, match="closed"):
            client.call_tool("work")
        wire.hear()


def test_connect_and_close_at_every_moment() -> None:
    """I2, I7: without an order: whoever closes meanwhile leaves nothing behind."""
    for n in range(12):
        wire = Wire()
        with client_of(wire) as client:
            connecting = Background(client.connect)
            threading.Event().wait(n * 0.006)
            with within(1.0):
                client.close()
            assert isinstance(connecting.error(), (MCPConnectionError, type(None)))
            assert not client.connected


class Wires(StdioTransport):
    """A transport whose every dialling has a wire of its own; a gate may hold it."""

    def __init__(self) -> None:
        super().__init__("unused", timeout=PATIENCE)
        self.wires: list[Wire] = []
        self.gate = threading.Event()
        self.gate.set()
        self.dialling = threading.Event()

    def dial(self, deadline: Any) -> Any:
        self.dialling.set()
        assert self.gate.wait(PATIENCE)
        self.wires.append(Wire())
        self.command = self.wires[-1].command
        return super().dial(deadline)


@contextmanager
def broken() -> Iterator[tuple[Client, Wires]]:
    """Give a client whose connection was lost."""
    transport = Wires()
    client = Client(transport, timeout=PATIENCE).connect()
    try:
        transport.wires[0].die()
        until(lambda: not client.connected)
        transport.dialling.clear()
        yield client, transport
    finally:
        transport.gate.set()
        client.close()
        for wire in transport.wires:
            wire.close()


@BOTH
def test_reconnect_and_call(first: bool) -> None:
    """I1, I2: a call on a lost connection fails at once, also while somebody connects again; then all is well."""
    with broken() as (client, transport):
        transport.gate.clear()
        if first:
            connecting = Background(client.connect)
            assert transport.dialling.wait(PATIENCE)
        with within(SOON), pytest.raises(MCPConnectionError) as found:
            client.request("work")
        assert found.value.may_have_run is False
        if not first:
            connecting = Background(client.connect)
        transport.gate.set()
        connecting.result()
        later = Background(lambda: client.request("work"))
        transport.wires[-1].answer(transport.wires[-1].asked("work"), x=1)
        assert result_of(later.result()) == {"x": 1}
        assert len(transport.wires) == 2


def test_reconnect_and_reconnect() -> None:
    """I2: eight threads connect again: it is dialled once, and all of them have it."""
    with broken() as (client, transport):
        in_threads(8, lambda _: client.connect())
        assert len(transport.wires) == 2
        assert client.connected


@BOTH
def test_submit_and_close(first: bool) -> None:
    """I2: what was submitted ends with the close; what comes after it is never sent."""
    with wired() as (session, wire):
        if first:
            future = session.submit_request("work")
            wire.asked("work")
        with within(0.5):
            session.close()
        if first:
            assert isinstance(future.exception(0), MCPConnectionError)
        else:
            with pytest.raises(MCPConnectionError, match="closed"):
                session.submit_request("work")
            assert not [each for each in wire.written if each["method"] == "work"]


def test_submit_and_close_at_once() -> None:
    """I2, I20: every future there is comes to an end, and exactly once."""
    for _ in range(10):
        with wired() as (session, wire):
            ended: list[Any] = []
            futures: list[Any] = []

            def work(
                number: int,
                session: MCPSession = session,
                ended: list[Any] = ended,
                futures: list[Any] = futures,
            ) -> None:
                if number == 0:
                    session.close()
                    return
                try:
                    for _ in range(20):
                        future = session.submit_request("work")
                        future.add_done_callback(ended.append)
                        futures.append(future)
                except MCPConnectionError:
                    pass

            in_threads(4, work)
            session.close()
            assert all(future.done() for future in futures)
            until(lambda ended=ended, futures=futures: len(ended) == len(futures))  # type: ignore[misc]
            assert len({id(future) for future in ended}) == len(futures)


# -- who reads, and who comes next -------------------------------------------------------------------------------------


@BOTH
def test_the_reader_leaves_and_the_next_one_times_out(first: bool) -> None:
    """I1, I2: A has its answer before, or after B's time is over; C and D must still be answered at once."""
    with wired() as (session, wire):
        one = calling(session, "one")
        asked = wire.asked("one")
        two = calling(session, "two", 0.15)
        wire.asked("two")
        three = calling(session, "three")
        wire.asked("three")
        four = session.submit_request("four", {}, PATIENCE)
        wire.asked("four")
        if first:
            wire.answer(asked, n=1)
            assert one.result() == {"n": 1}
        with within(0.15):
            assert isinstance(two.error(), MCPTimeoutError)
        with within(SOON):
            wire.answer(wire.asked("three"), n=3)
            assert three.result() == {"n": 3}
        if not first:
            with within(SOON):
                wire.answer(asked, n=1)
                assert one.result() == {"n": 1}
        with within(SOON):
            wire.answer(wire.asked("four"), n=4)
            assert result_of(four.result(PATIENCE)) == {"n": 4}


def test_the_reader_leaves_in_the_very_moment_in_which_the_next_one_times_out() -> None:
    """I1, I2: many times, a little earlier and a little later; a third caller is never forgotten."""
    dice = random.Random(7)
    with wired() as (session, wire):
        for n in range(1, 60):
            one = calling(session, "one")
            asked = wire.asked("one", n)
            two = calling(session, "two", 0.02)
            wire.asked("two", n)
            three = calling(session, "three")
            other = wire.asked("three", n)
            threading.Event().wait(dice.uniform(0.01, 0.03))
            wire.answer(asked, n=n)
            with within(SOON):
                wire.answer(other, m=n)
                assert three.result() == {"m": n}
            assert one.result() == {"n": n}
            assert isinstance(two.error(), MCPTimeoutError)


@BOTH
def test_the_reader_leaves_and_the_next_ones_reply_comes(first: bool) -> None:
    """I2: in one piece with the reader's own, before or behind it, or just after."""
    with wired() as (session, wire):
        for n, apart in enumerate([False, True] * 20, 1):
            one = calling(session, "one")
            mine = wire.asked("one", n)
            two = calling(session, "two")
            theirs = wire.asked("two", n)
            pair = [reply(mine, n=n), reply(theirs, m=n)]
            ordered = pair if first else pair[::-1]
            with within(SOON):
                if apart:
                    wire.say(ordered[0])
                    wire.say(ordered[1])
                else:
                    wire.say(*ordered)
                assert (one.result(), two.result()) == ({"n": n}, {"m": n})


@BOTH
def test_the_reader_leaves_and_only_a_future_is_left(first: bool) -> None:
    """I2: nobody waits in a call: somebody has to read all the same, for a future and for what is said unasked."""
    with wired() as (session, wire):
        later = calling(session, "call")
        asked = wire.asked("call")
        future = session.submit_request("future", {}, PATIENCE)
        other = wire.asked("future")
        if first:
            wire.answer(asked, n=1)
            assert later.result() == {"n": 1}
        with within(SOON):
            wire.answer(other, m=1)
            assert result_of(future.result(PATIENCE)) == {"m": 1}
        if not first:
            wire.answer(asked, n=1)
            assert later.result() == {"n": 1}
        listening = session.listen()
        with within(SOON):
            wire.say(news(1))
            assert _number(next(listening)) == 1


def test_a_future_that_comes_while_another_reads_is_resolved_though_the_reader_goes() -> None:
    """I2: submit during a call; the call leaves by its deadline; the answer comes after."""
    with wired() as (session, wire):
        later = calling(session, "call", 0.1)
        wire.asked("call")
        future = session.submit_request("future", {}, PATIENCE)
        other = wire.asked("future")
        assert isinstance(later.error(), MCPTimeoutError)
        with within(SOON):
            wire.answer(other, m=1)
            assert result_of(future.result(PATIENCE)) == {"m": 1}


def _number(message: dict[str, Any]) -> int:
    return int(message["params"]["data"]["n"])


@BOTH
def test_half_a_reply_and_the_readers_timeout(first: bool) -> None:
    """I3, I4: the reader leaves in the middle of a line; whoever reads next goes on there."""
    with wired() as (session, wire):
        two = calling(session, "two") if first else None
        if first:
            wire.asked("two")
        one = calling(session, "one", 0.15)
        wire.asked("one")
        if not first:
            two = calling(session, "two")
            wire.asked("two")
        line = json.dumps({"jsonrpc": "2.0", **reply(wire.asked("two"), x="y" * 100)}).encode() + b"\n"
        wire.put(line[:60])
        assert isinstance(one.error(), MCPTimeoutError)
        assert two is not None
        with within(SOON):
            wire.put(line[60:])
            assert two.result() == {"x": "y" * 100}


# -- floods ------------------------------------------------------------------------------------------------------------


@BOTH
def test_flood_and_reply(first: bool) -> None:
    """I4, I13: the answer is not kept by 3,000 notifications before or behind it, in one stream of bytes."""
    with wired() as (session, wire):
        later = calling(session, "work")
        request = wire.asked("work")
        flood = [news(n) for n in range(3000)]
        answer = [reply(request, x=1)]
        saying = Background(lambda: wire.say(*(flood + answer if first else answer + flood)))
        with within(1.5):
            assert later.result() == {"x": 1}
            saying.result()
        heard = list(itertools.islice(map(_number, session.listen()), 500))
        assert heard == list(range(500))
        works(session, wire)


@BOTH
def test_flood_while_the_callback_is_busy_and_reply(first: bool) -> None:
    """I4, I13: a handler that does not return holds up other handlers, and no answer."""
    busy, seen = threading.Event(), list[int]()
    wire = Wire()

    def take(notification: Any) -> None:
        assert busy.wait(PATIENCE)
        seen.append(notification.params["data"]["n"])

    with client_of(wire, on_notification=take) as client:
        client.connect()
        later = Background(lambda: client.request("work"))
        request = wire.asked("work")
        flood = [news(n) for n in range(500)]
        answer = [reply(request, x=1)]
        with within(1.0):
            wire.say(*(flood + answer if first else answer + flood))
            assert result_of(later.result()) == {"x": 1}
        assert seen == []
        busy.set()
        until(lambda: len(seen) == 500)
        assert seen == list(range(500))


@BOTH
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside another call"])
def test_a_large_write_and_a_flood_from_the_server(first: bool, alone: bool) -> None:
    """I1, I4: the server writes megabytes before it reads on: somebody must read meanwhile, or both wait for ever."""
    with wired() as (session, wire):
        beside = None if alone else calling(session, "beside")
        if not alone:
            wire.asked("beside")
        flood = [news(n, 2000) for n in range(600)]
        wire.deaf()
        if first:
            later = calling(session, "work", x="y" * 2_000_000)
            threading.Event().wait(0.02)  # until the pipe is full
            saying = Background(lambda: wire.say(*flood))
        else:
            saying = Background(lambda: wire.say(*flood))
            threading.Event().wait(0.02)
            later = calling(session, "work", x="y" * 2_000_000)
        with within(2.0):
            saying.result()  # the flood is read by somebody, though nobody reads ours
        wire.hear()
        with within(2.0):
            wire.answer(wire.asked("work"), x=1)
            assert later.result() == {"x": 1}
        if beside is not None:
            wire.answer(wire.asked("beside"), b=1)
            assert beside.result() == {"b": 1}


def test_a_large_write_to_a_deaf_server_beside_a_small_call() -> None:
    """I1, I4: the large one ends at its own deadline, the small one is answered: it was sent before."""
    with wired() as (session, wire):
        small = calling(session, "small")
        request = wire.asked("small")
        wire.deaf()
        with within(T):
            large = calling(session, "large", T, x="y" * 4_000_000)
            threading.Event().wait(0.02)
            with within(SOON):
                wire.answer(request, n=1)
                assert small.result() == {"n": 1}
            assert isinstance(large.error(), MCPTimeoutError)


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


class Interrupt(KeyboardInterrupt):
    """A Ctrl-C of our own; if it escaped, the whole run would end, so it is only sent to a call that must wait."""


@contextmanager
def interrupting() -> Iterator[Callable[[], None]]:
    """Give what interrupts the main thread, as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise Interrupt

    main = threading.main_thread().ident
    assert main is not None
    before = signal.signal(signal.SIGUSR2, interrupt)
    try:
        yield lambda: signal.pthread_kill(main, signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)


@BOTH
def test_ctrl_c_in_the_caller_that_may_read_and_the_reply_of_another(first: bool) -> None:
    """I2, I4, I16: the interrupted one may have read the other's answer, or half of it: it must not be lost."""
    with interrupting() as interrupt, wired() as (session, wire):
        for n in range(1, 40):
            moments: list[float] = []

            def script(n: int = n, moments: list[float] = moments) -> None:
                wire.asked("main", n)
                request = wire.asked("other", n)
                line = json.dumps({"jsonrpc": "2.0", **reply(request, n=n)}).encode() + b"\n"
                if first:  # the reply, and at once the interrupt
                    wire.put(line[: 20 * (n % 3)])
                    wire.put(line[20 * (n % 3) :])
                moments.append(time.monotonic())
                interrupt()
                if not first:
                    wire.put(line)

            other = calling(session, "other")
            wire.asked("other", n)
            scripted = Background(script)
            with pytest.raises(Interrupt):
                session.send_request("main", {}, PATIENCE)
            assert time.monotonic() - moments[0] < 0.2 + 0.4
            scripted.result()
            with within(SOON):
                assert other.result() == {"n": n}
        works(session, wire)
        assert session.counters["cancelled"] == 39


def test_ctrl_c_in_the_caller_that_may_read_and_its_own_reply() -> None:
    """I2, I16: in a program of its own, where it may hit anything; the call has its answer, or is interrupted."""
    host(
        """
        import random
        class Interrupt(KeyboardInterrupt): pass
        dice, armed, counts = random.Random(3), [False], {"answered": 0, "interrupted": 0, "raised": 0}
        def hear(*_):
            if armed[0]:
                armed[0] = False
                counts["raised"] += 1
                raise Interrupt
        signal.signal(signal.SIGALRM, hear)
        session = StdioTransport(COMMAND, timeout=20).create_session()
        others, over = [0, 0], threading.Event()
        def beside(number):
            while not over.is_set():
                mark = f"{number}.{others[number]}"
                assert tool(session, "echo", timeout=5.0, mark=mark) == {"mark": mark}
                others[number] += 1
        threads = [threading.Thread(target=beside, args=(number,)) for number in range(2)]
        for thread in threads: thread.start()
        n = 0
        while n < 400 or counts["interrupted"] < 20:
            n += 1
            try:
                try:
                    armed[0] = True
                    signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.00005, 0.002))
                    assert tool(session, "echo", timeout=5.0, n=n) == {"n": n}
                    counts["answered"] += 1
                finally:
                    armed[0] = False
            except Interrupt:
                counts["interrupted"] += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        before = list(others)
        assert tool(session, "echo", timeout=5.0, a=1) == {"a": 1}
        limit = time.monotonic() + 10
        while any(now <= then for now, then in zip(others, before)): assert time.monotonic() < limit; time.sleep(0.001)
        over.set()
        for thread in threads: thread.join(5.0); assert not thread.is_alive()
        assert counts["raised"] == counts["interrupted"], counts
        counters, ends = session.counters, ("ok", "error", "timeout", "cancelled", "pending")
        assert counters["sent"] == sum(counters[key] for key in ends), counters
        assert counters["timeout"] == 0, counters
        assert counters["error"] + counters["cancelled"] <= counts["interrupted"], (counters, counts)
        session.close()
        """
    )


# -- fork --------------------------------------------------------------------------------------------------------------

FORKING = """
from mcp_sync import ForkedClientError
session = StdioTransport(COMMAND, timeout=20).create_session()
def child():
    code = 1
    try:
        began = time.monotonic()
        for ask in (lambda: tool(session, "echo"), lambda: session.submit_request("tools/list")):
            try: ask()
            except ForkedClientError as error: assert error.may_have_run is False
            else: raise AssertionError("no ForkedClientError")
        session.close()
        assert time.monotonic() - began < 0.5
        code = 0
    finally:
        os._exit(code)
def forked():
    pid = os.fork()
    if pid == 0: child()
    return pid
def ended(pid): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
answers = []
def call(n): answers.append(tool(session, "late", n=n))
"""
FORKS = {
    # Many threads wait, and one of them may be reading, when the process is forked.
    "call, then fork": """
threads = [threading.Thread(target=call, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
while session.counters["pending"] < 4: time.sleep(0.001)
pid = forked()
assert ended(pid) == 0
for thread in threads: thread.join()
""",
    "fork, then call": """
pid = forked()
for n in range(4): call(n)
assert ended(pid) == 0
""",
    # The lock of whoever writes is held when the process is forked.
    "write, then fork": """
threads = [threading.Thread(target=call, args=("y" * 3_000_000,)) for n in range(4)]
for thread in threads: thread.start()
time.sleep(0.01)
pid = forked()
assert ended(pid) == 0
for thread in threads: thread.join()
""",
}


@pytest.mark.parametrize("order", FORKS)
def test_fork_and_call(order: str) -> None:
    """I14: the child says so at once, whatever the threads were at that stayed behind; the parent has its answers."""
    late = manner("answer", seconds=0.2)
    host(
        FORKING + FORKS[order] + "\nassert len(answers) == 4, answers\n"
        "assert tool(session, 'echo', a=1) == {'a': 1}\nsession.close()\n",
        *command(late=late),
    )


# -- without any order -------------------------------------------------------------------------------------------------


def whirl(seed: int, rounds: int) -> None:
    """Callers of all kinds, and a server that answers in any order and in any pieces; each gets its own, in time."""
    with wired() as (session, wire):
        over = threading.Event()
        dice = random.Random(seed)

        def serve() -> None:
            done = 1  # server/discover
            waiting: list[dict[str, Any]] = []
            while not over.is_set() or waiting:
                new = wire.written[done:]
                done += len(new)
                waiting += [each for each in new if each["method"] == "work"]
                dice.shuffle(waiting)
                count = dice.randint(1, 4)
                batch, waiting = waiting[:count], waiting[count:]
                said = [reply(each, n=each["params"]["n"]) for each in batch]
                said += [said[0]] if said and dice.random() < 0.1 else []
                said += [news(0)] if dice.random() < 0.1 else []
                data = b"".join(json.dumps({"jsonrpc": "2.0", **each}).encode() + b"\n" for each in said)
                cut = dice.randrange(len(data) + 1)
                wire.put(data[:cut])
                wire.put(data[cut:])
                if not batch:
                    threading.Event().wait(0.0005)

        serving = Background(serve)

        def work(number: int) -> None:
            own = random.Random(f"{seed}.{number}")
            for n in range(rounds):
                mark, way = number * 10_000 + n, own.random()
                began = time.monotonic()
                try:
                    if way < 0.6:
                        answer = session.send_request("work", {"n": mark}, 5.0)
                    elif way < 0.7:
                        answer = session.send_request("work", {"n": mark}, 0.001)
                    else:
                        future = session.submit_request("work", {"n": mark}, 5.0)
                        if way < 0.8:
                            future.cancel()
                        answer = future.result(PATIENCE)
                    assert answer["n"] == mark
                except MCPTimeoutError:
                    assert 0.6 <= way < 0.7, "a call with time enough was not answered"
                except CancelledError:
                    assert 0.7 <= way < 0.8
                assert time.monotonic() - began < 4.0

        in_threads(6, work, 60.0)
        over.set()
        serving.result()
        works(session, wire)


def test_all_kinds_of_callers_and_a_server_that_answers_in_any_order() -> None:
    """I1, I2, I3, I20"""
    whirl(seed=1, rounds=60)


@pytest.mark.parametrize("seed", range(2, 22))
def test_the_same_twenty_times(seed: int) -> None:
    """I1, I2, I3, I20"""
    whirl(seed, rounds=150)


def test_the_wire_is_what_it_says() -> None:
    """The tools of this file: what is put arrives, and a deaf wire reads nothing."""
    with wired() as (session, wire):
        wire.deaf()
        later = calling(session, "work")
        later.thread.join(0.05)
        held = [each["method"] for each in wire.written].count("work")
        wire.hear()
        wire.answer(wire.asked("work"), x=1)
        assert later.result() == {"x": 1}
        assert held <= 1
