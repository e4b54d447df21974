"""Two promises that only many threads can break: one probe at a time (I19), and one answer for each request (I18)."""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from faults.tools import PATIENCE, host

from mcp_sync import CircuitOpen
from mcp_sync.deadlines import Deadline
from mcp_sync.manage.breaker import GRACE_SECONDS, Circuit, Passage
from mcp_sync.protocol.messages import Failure, Result
from mcp_sync.server import Server
from mcp_sync.testing import in_threads
from mcp_sync.testing.tools import Collector
from mcp_sync.transports.memory import memory_pair


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# -- one probe, and a history that some order explains -----------------------------------------------------------------


@dataclass
class Act:
    """Something that a thread did to a circuit, when, and what came of it."""

    number: int
    began: int
    ended: int
    alive: bool | None = None
    passage: int | None = None  # by which it leaves: the number of the act of entering
    result: Any = None


class History:
    """Acts of several threads on one circuit, whose clock stands."""

    def __init__(self, threshold: int) -> None:
        self.now = 100.0
        self.circuit = Circuit(threshold, 5.0, lambda: self.now)
        self.acts: list[Act] = []
        self._passages: dict[int, Passage] = {}
        self._lock = threading.Lock()  # guards the ticks, and acts
        self._ticks = 0

    def enter(self) -> int | None:
        """Enter; returns by what to leave."""
        began = self._tick()
        passage = entered(self.circuit)
        with self._lock:
            number = len(self.acts)
            self._ticks += 1
            self.acts.append(Act(number, began, self._ticks, result=shown(passage)))
        if passage is None:
            return None
        self._passages[number] = passage
        return number

    def leave(self, number: int, alive: bool | None) -> None:
        """Leave."""
        began = self._tick()
        state = self.circuit.leave(self._passages[number], alive)
        with self._lock:
            self._ticks += 1
            self.acts.append(Act(len(self.acts), began, self._ticks, alive, number, state))

    def _tick(self) -> int:
        with self._lock:
            self._ticks += 1
            return self._ticks

    def explained(self, threshold: int) -> bool:
        """Whether some order of the acts, in which none comes before one that had ended when it began, explains all."""
        return self._explain(threshold, [])

    def _explain(self, threshold: int, order: list[Act]) -> bool:
        rest = [act for act in self.acts if act not in order]
        if not rest:
            return True
        first_end = min(act.ended for act in rest)
        for act in rest:
            longer = [*order, act]
            if act.began < first_end and self._fits(threshold, longer) and self._explain(threshold, longer):
                return True
        return False

    def _fits(self, threshold: int, order: list[Act]) -> bool:
        """Whether one thread that did this, one after the other, would have seen the last of them, too."""
        circuit, passages = Circuit(threshold, 5.0, lambda: self.now), dict[int, Passage]()
        for act in order:
            if act.passage is None:
                passage = entered(circuit)
                seen: Any = shown(passage)
                if passage is not None:
                    passages[act.number] = passage
            elif act.passage not in passages:
                return False
            else:
                seen = circuit.leave(passages[act.passage], act.alive)
        return bool(seen == order[-1].result)


def entered(circuit: Circuit) -> Passage | None:
    try:
        return circuit.enter(1.0)
    except CircuitOpen:
        return None


def shown(passage: Passage | None) -> Any:
    return None if passage is None else (passage.period, passage.change)


@pytest.mark.parametrize("threshold", [1, 2])
def test_what_threads_see_of_a_circuit_is_what_one_after_the_other_would_see(threshold: int) -> None:
    """I19: linearizable, by search, over a hundred histories of three threads."""
    changed = 0
    for seed in range(100):
        history = History(threshold)

        def act(number: int, history: History = history, seed: int = seed) -> None:
            dice = random.Random(f"{seed}.{number}")
            for _ in range(2):
                entrance = history.enter()
                if entrance is not None:
                    history.leave(entrance, dice.choice([False, False, True, None]))

        in_threads(3, act)
        assert history.explained(threshold), history.acts
        changed += any(one.result == "open" for one in history.acts)
    assert changed > 20, "hardly any circuit opened"


def test_a_history_that_no_order_explains_is_found() -> None:
    """I19: the search is not satisfied with everything: a failure that opened nothing, and a second probe."""
    for result in (None, "closed"):
        history = History(1)
        entrance = history.enter()
        assert entrance is not None
        history.leave(entrance, False)
        assert history.explained(1)
        history.acts[-1].result = result
        assert not history.explained(1)


def test_of_many_that_come_at_once_to_a_half_open_circuit_one_may_try() -> None:
    """I19: again and again; also when the probe never comes back: then the next may after its deadline."""
    now = [100.0]
    circuit = Circuit(1, 5.0, lambda: now[0])
    circuit.leave(circuit.enter(1.0), False)
    for round_ in range(50):
        now[0] += 5.0 if round_ % 3 != 2 else 1.0 + GRACE_SECONDS
        passages = [passage for passage in in_threads(8, lambda _: entered(circuit)) if passage is not None]
        assert len(passages) == 1
        if round_ % 3 != 1:
            circuit.leave(passages[0], False if round_ % 3 == 2 else None)
            if round_ % 3 == 0:
                assert len([one for one in in_threads(8, lambda _: entered(circuit)) if one is not None]) == 1
                now[0] += 1.0 + GRACE_SECONDS


# -- one answer for each request ---------------------------------------------------------------------------------------


QUESTIONS: list[tuple[str, Any]] = [
    ("tools/call", {"name": "same", "arguments": {"n": 1}}),
    ("tools/call", {"name": "nothing"}),
    ("tools/call", 5),
    ("tools/list", {"cursor": "?"}),
    ("ping", {}),
    ("what/ever", {}),
]


def test_a_server_asked_by_many_threads_at_once_gives_each_request_one_answer() -> None:
    """I18: calls, unknown methods, calls that fail, duplicates of an id in use, cancellations, noise; over one pipe."""
    server = Server("busy")
    server.add_tool(lambda n: n, "same", description="")
    ours, theirs = memory_pair()
    heard = Collector()
    server.serve(theirs)
    ours.start(heard)
    limit = Deadline(PATIENCE)
    info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    ours.send({"jsonrpc": "2.0", "id": "begin", "method": "initialize", "params": info}, limit)
    heard.answer("begin")
    ours.send({"jsonrpc": "2.0", "method": "notifications/initialized"}, limit)
    asked: set[str] = set()
    withdrawn: set[str] = set()

    def ask(number: int) -> None:
        dice = random.Random(number)
        for n in range(40):
            mark = f"{number}.{n}"
            method, params = dice.choice(QUESTIONS)
            ours.send({"jsonrpc": "2.0", "id": mark, "method": method, "params": params}, limit)
            asked.add(mark)
            if dice.random() < 0.3:
                ours.send({"jsonrpc": "2.0", "id": "never asked", "result": {}}, limit)
                ours.send({"what": "is this"}, limit)
            if dice.random() < 0.2:
                withdrawn.add(mark)
                ours.send(
                    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": mark}}, limit
                )

    in_threads(6, ask, 60.0)
    counts: Counter[Any] = Counter()
    while asked - withdrawn - set(counts):
        counts[_id_of(heard.next())] += 1
    ours.send({"jsonrpc": "2.0", "id": "last", "method": "ping"}, limit)
    while not counts["last"]:
        counts[_id_of(heard.next())] += 1
    server.close()
    ours.close(limit)
    heard.end()
    assert {mark: counts[mark] for mark in asked - withdrawn if counts[mark] != 1} == {}
    assert {mark: counts[mark] for mark in withdrawn if counts[mark] > 1} == {}
    assert len(withdrawn) > 10


def _id_of(message: Any) -> Any:
    assert isinstance(message, (Result, Failure))
    return message.id


PRINTING = """
from mcp_sync.server import Server
server = Server("printing")
@server.tool()
def talk(n: int) -> int:
    print("to stdout", n)
    os.write(1, b"straight to descriptor 1\\n")
    sys.stdout.write("half a line")
    return n
reader, writer = os.pipe()
os.dup2(reader, 0)
out_reader, out_writer = os.pipe()
saved = os.dup(1)
os.dup2(out_writer, 1)
os.close(out_writer)
def client():
    info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    said = [{"id": "begin", "method": "initialize", "params": info}, {"method": "notifications/initialized"}]
    said += [{"id": n, "method": "tools/call", "params": {"name": "talk", "arguments": {"n": n}}} for n in range(30)]
    lines = [json.dumps({"jsonrpc": "2.0", **each}).encode() for each in said]
    lines[5:5] = [b"not json", b"[]", b"{}", b"\\xff\\xfe"]
    os.write(writer, b"\\n".join(lines) + b"\\n")
    found = b""
    while found.count(b"\\n") < 31 + 4: found += os.read(out_reader, 65536)
    os.close(writer)
    answers = [json.loads(line) for line in found.splitlines()]
    ids = [each["id"] for each in answers if each["id"] is not None]
    assert sorted(map(str, ids)) == sorted(map(str, ["begin", *range(30)])), ids
    assert all("result" in each for each in answers if each["id"] is not None)
    os.write(saved, b"fine\\n")
threading.Thread(target=client, daemon=True).start()
server.run("stdio")
"""


def test_what_tools_print_is_no_part_of_the_protocol() -> None:
    """I18: thirty calls at once that print, lines that are none between them: each gets its answer, and only that."""
    assert host(PRINTING, "-", stderr=None)[-1] == "fine"
