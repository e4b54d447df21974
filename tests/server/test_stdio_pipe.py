"""A server over its own stdin and stdout: the pipe, the descriptors, and how its process ends.

The second half starts real processes, each a few lines on top of ``stdio_programs``.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hosts.nursery import interpreter, until
from mcp_sync.deadlines import Deadline
from mcp_sync.engine.channel import Channel
from mcp_sync.exceptions import MCPConnectionError, MCPTimeoutError
from mcp_sync.policies import Limits
from mcp_sync.protocol.framing import LineSplitter
from mcp_sync.protocol.messages import Batch, Failure, Malformed, Message, Notification, Request, Result, decode
from mcp_sync.server import stdio
from mcp_sync.server.stdio import Debts, StdioChannel, StdioPipe
from mcp_sync.testing import ChannelContract, Collector
from mcp_sync.testing.tools import Background

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
T = 10.0
SLACK = 1.0
END_SECONDS = 2.0
"""From the end of stdin to the end of the process (FAULTS.md, 5.6)."""
VERSIONS = ("3.10", pytest.param("3.11", marks=pytest.mark.slow), pytest.param("3.12", marks=pytest.mark.slow), "3.13")


# -- the pipe ---------------------------------------------------------------------------------------------------------


def pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (reads, writes) of the server and of the client."""
    (server_reads, client_writes), (client_reads, server_writes) = os.pipe(), os.pipe()
    return (server_reads, server_writes), (client_reads, client_writes)


def sockets() -> tuple[tuple[int, int], tuple[int, int]]:
    ours, theirs = (end.detach() for end in socket.socketpair())
    return (ours, os.dup(ours)), (theirs, os.dup(theirs))


def two_sockets() -> tuple[tuple[int, int], tuple[int, int]]:
    """Do as Node does: a socket for each direction."""
    (one, other), (third, fourth) = socket.socketpair(), socket.socketpair()
    return (one.detach(), fourth.detach()), (third.detach(), other.detach())


class Ends:
    """The server's channel, and the client's descriptors."""

    def __init__(self, make: Callable[[], tuple[tuple[int, int], tuple[int, int]]], limit: int = 1 << 16) -> None:
        (reads, writes), (self.reads, self.writes) = make()
        self.flags = [fcntl.fcntl(one, fcntl.F_GETFL) for one in (reads, writes)]
        self.shared = (os.dup(reads), os.dup(writes))  # as the client, or a shell, may keep them
        self.pipe = StdioPipe(reads, writes, limit)
        self.channel = StdioChannel(self.pipe, Limits(message_size=limit))
        os.close(reads)
        os.close(writes)

    def let_go(self) -> None:
        """Close what else there is of the server's descriptors."""
        for one in self.shared:
            os.close(one)
        self.shared = ()

    def hang_up(self) -> None:
        """Close the client's side."""
        for one in {self.reads, self.writes} - {-1}:
            os.close(one)
        self.reads = self.writes = -1

    def hang_up_stdin(self) -> None:
        """Close only what the client writes to."""
        os.close(self.writes)
        self.writes = -1

    def close(self) -> None:
        self.channel.close(Deadline(T))
        self.channel.lane.close(Deadline(T))
        self.channel.events.close(Deadline(T))
        self.let_go()
        self.hang_up()

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.writes, data) :]

    def drain(self) -> bytes:
        """Read what is there."""
        found = b""
        while select.select([self.reads], [], [], 0.1)[0]:
            found += os.read(self.reads, 1 << 20)
        return found


KINDS = {"pipes": pipes, "a socket": sockets, "two sockets": two_sockets}


@pytest.fixture(params=[*KINDS, "pipes that cannot be opened anew"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param not in KINDS:
        monkeypatch.setattr(stdio, "_opened_anew", lambda descriptor: -1)
        return pipes
    return KINDS[request.param]


@contextmanager
def ends_of(make: Any, **knobs: Any) -> Iterator[tuple[Ends, Collector]]:
    ends, sink = Ends(make, **knobs), Collector()
    try:
        ends.channel.start(sink)
        yield ends, sink
    finally:
        ends.close()


class DescriptorWire:
    """The partner's end: the client's."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._lines = LineSplitter(1 << 30)
        self._come: list[bytes] = []
        self._closed = False

    def read(self) -> bytes | None:
        while not self._come:
            try:
                chunk = os.read(self._ends.reads, 65536)
            except ConnectionResetError:  # not all we wrote was read
                return None
            if not chunk:
                return None
            self._come = [line for line in self._lines.feed(chunk) if isinstance(line, bytes)]
        return self._come.pop(0)

    def write(self, data: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self._ends.write(data + b"\n")

    def idle(self) -> None:
        gone = select.poll()
        gone.register(self._ends.reads, 0)
        gone.poll(T * 3000)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._ends.hang_up()

    die = close


class StdioContract(ChannelContract):
    bounded = False  # who does not read loses the connection; that is tested below

    def connect(self) -> Channel:
        ends = Ends(self.kind, self.message_size)
        ends.let_go()
        self.run_partner(DescriptorWire(ends))
        return ends.channel

    def kind(self) -> Any:
        raise NotImplementedError


class TestOverPipes(StdioContract):
    kind = staticmethod(pipes)


class TestOverASocket(StdioContract):
    kind = staticmethod(sockets)


class TestOverPipesThatCannotBeOpenedAnew(StdioContract):
    kind = staticmethod(pipes)

    @pytest.fixture(autouse=True)
    def _never_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stdio, "_opened_anew", lambda descriptor: -1)


def test_a_client_that_does_not_read_costs_a_sender_no_more_than_its_deadline(kind: Any) -> None:
    with ends_of(kind, limit=16 << 20) as (ends, sink):
        began = time.monotonic()
        with pytest.raises(MCPTimeoutError, match=r"\d+ of 8000\d\d\d bytes") as found:
            ends.channel.send(Notification("words", {"text": "x" * 8_000_000}), Deadline(0.3))
        assert 0.25 < time.monotonic() - began < 0.3 + SLACK
        assert found.value.may_have_run is None
        assert "reads no more" in str(sink.end())


def test_a_client_that_reads_slowly_gets_its_message_however_long_that_takes(kind: Any) -> None:
    with ends_of(kind, limit=16 << 20) as (ends, sink):
        began = time.monotonic()
        sending = Background(lambda: ends.channel.send(Notification("words", {"text": "x" * 2_000_000}), Deadline(0.5)))
        come = b""
        while not come.endswith(b"\n"):
            until(lambda: False, 0.02)
            come += os.read(ends.reads, 65536)
        sending.result()
        assert len(come) > 2_000_000
        assert time.monotonic() - began > 0.5
        assert not sink.ended


def test_after_half_a_message_nothing_else_is_written(kind: Any) -> None:
    with ends_of(kind, limit=16 << 20) as (ends, sink):
        with pytest.raises(MCPTimeoutError):
            ends.channel.send(Notification("words", {"text": "x" * 8_000_000}), Deadline(0.1))
        with pytest.raises(MCPConnectionError, match="reads no more") as found:
            ends.channel.send(Notification("more"), Deadline(T))
        assert found.value.may_have_run is False
        sink.end()
        assert b"more" not in ends.drain()


def test_a_message_of_which_nothing_could_be_written_does_no_harm(kind: Any) -> None:
    with ends_of(kind) as (ends, _):
        theirs = ends.shared[1]
        os.set_blocking(theirs, False)
        filled = 0
        with suppress(BlockingIOError):
            while True:
                filled += os.write(theirs, b"#" * 4096)
        os.set_blocking(theirs, True)
        with pytest.raises(MCPTimeoutError) as found:
            ends.channel.send(Notification("words"), Deadline(0.2))
        assert found.value.may_have_run is False
        assert ends.drain() == b"#" * filled
        ends.channel.send(Notification("words"), Deadline(T))
        assert decode(ends.drain()) == Notification("words")


def test_a_sender_waits_for_another_one_no_longer_than_its_own_deadline(kind: Any) -> None:
    with ends_of(kind, limit=16 << 20) as (ends, _):
        patient = Background(lambda: ends.channel.send(Notification("words", {"text": "x" * 8_000_000}), Deadline(T)))
        assert select.select([ends.reads], [], [], T)[0]
        began = time.monotonic()
        with pytest.raises(MCPTimeoutError) as found:
            ends.channel.send(Notification("words"), Deadline(0.2))
        assert found.value.may_have_run is False
        assert time.monotonic() - began < 0.2 + SLACK
        began = time.monotonic()
        ends.channel.close(Deadline(T))
        assert isinstance(patient.error(), MCPConnectionError)
        assert time.monotonic() - began < SLACK


def test_a_client_that_closed_our_stdout_ends_the_conversation_with_the_next_word(kind: Any) -> None:
    if kind is sockets:
        pytest.skip("its one socket is closed both ways")
    with ends_of(kind) as (ends, sink):
        os.close(ends.reads)
        ends.reads = -1
        with pytest.raises(MCPConnectionError, match="stdout"):
            ends.channel.send(Notification("words"), Deadline(T))
        assert "stdout cannot be written to" in str(sink.end())


def test_whether_others_wait_is_not_changed(kind: Any) -> None:
    with ends_of(kind, limit=16 << 20) as (ends, sink):
        reader = Background(lambda: os.read(ends.reads, 1) and ends.drain())
        ends.channel.send(Notification("words", {"text": "x" * 3_000_000}), Deadline(T))
        ends.write(b'{"jsonrpc":"2.0","method":"words"}\n')
        sink.next()
        assert len(reader.result()) > 3_000_000
        assert [fcntl.fcntl(one, fcntl.F_GETFL) for one in ends.shared] == ends.flags


def test_a_default_timeout_of_sockets_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    made = two_sockets()
    socket.setdefaulttimeout(0.05)
    try:
        ends = Ends(lambda: made)
    finally:
        socket.setdefaulttimeout(None)
    assert [fcntl.fcntl(one, fcntl.F_GETFL) for one in ends.shared] == ends.flags
    ends.channel.start(Collector())
    ends.channel.send(Notification("words"), Deadline(T))
    assert decode(ends.drain()) == Notification("words")
    ends.close()


def test_descriptors_that_do_not_wait_already_will_do(kind: Any) -> None:
    def never_waiting() -> Any:
        made = kind()
        for one in made[0]:
            os.set_blocking(one, False)
        return made

    with ends_of(never_waiting, limit=16 << 20) as (ends, sink):
        reader = Background(lambda: os.read(ends.reads, 1) and ends.drain())
        ends.channel.send(Notification("words", {"text": "x" * 3_000_000}), Deadline(T))
        assert len(reader.result()) > 3_000_000
        ends.write(b'{"jsonrpc":"2.0","method":"words"}\n')
        assert sink.next() == Notification("words")


def test_a_file_is_written_to_where_it_is(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb", buffering=0) as file, open(os.devnull, "rb") as nothing:
        file.write(b"before\n")
        pipe = StdioPipe(nothing.fileno(), file.fileno(), 1000)
        pipe.write(b"one", Deadline(T))
        pipe.write(b"x" * 10_000, Deadline(T))
        pipe.end_writing()
        pipe.finish()
        file.write(b"after\n")
    assert (tmp_path / "out").read_bytes() == b"before\none\n" + b"x" * 10_000 + b"\nafter\n"


def test_only_a_newline_ends_a_message(kind: Any) -> None:
    with ends_of(kind) as (ends, sink):
        ends.write('\r\n\n  \n{"jsonrpc":"2.0","method":"a\u2028\u2029\x85b"}\r\n'.encode())
        assert sink.next() == Notification("a\u2028\u2029\x85b")


def test_a_message_in_single_bytes_arrives(kind: Any) -> None:
    with ends_of(kind) as (ends, sink):
        for byte in '{"jsonrpc":"2.0","method":"grüße"}\n'.encode():
            os.write(ends.writes, bytes([byte]))
        assert sink.next() == Notification("grüße")


def test_a_line_over_the_limit_is_known_at_once_and_skipped_however_long(kind: Any) -> None:
    with ends_of(kind, limit=2048) as (ends, sink):
        ends.write(b'{"jsonrpc":"2.0","id":7,"method":"big","params":{"text":"' + b"x" * 4000)
        flawed = sink.next()
        assert isinstance(flawed, Malformed)
        assert (flawed.asks, flawed.too_large) == (7, 2048)
        for _ in range(50):
            ends.write(b"x" * 100_000)
        ends.write(b'"}}\n{"jsonrpc":"2.0","method":"next"}\n')
        assert sink.next() == Notification("next")


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (b'{"jsonrpc":"2.0","method":"last"}', [Notification("last")]),
        (b'{"jsonrpc":"2.0","method":"last"}  ', [Notification("last")]),
        (b"", []),
        (b"  \r", []),
    ],
)
def test_a_last_message_without_a_newline_arrives(kind: Any, rest: bytes, expected: list[Message]) -> None:
    with ends_of(kind) as (ends, sink):
        ends.write(b'{"jsonrpc":"2.0","method":"first"}\n' + rest)
        if kind is sockets:
            ends.hang_up()
        else:
            ends.hang_up_stdin()
        assert "closed our stdin" in str(sink.end())
        assert [sink.next() for _ in range(1 + len(expected))] == [Notification("first"), *expected]


def test_half_a_message_at_the_end_is_one_that_cannot_be_read(kind: Any) -> None:
    with ends_of(kind) as (ends, sink):
        ends.write(b'{"jsonrpc":"2.0","id":1,"meth')
        ends.hang_up()
        assert isinstance(sink.next(), Malformed)
        sink.end()


def test_a_pipe_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    for source, target in ((-1, writes), (reads, -1)):
        with pytest.raises(OSError, match="descriptor"):
            StdioPipe(source, target, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe", lambda: os.dup(-1))
        with pytest.raises(OSError, match="descriptor"):
            StdioPipe(reads, writes, 1000)
    os.close(reads)
    os.close(writes)


def test_in_a_forked_child_only_its_copies_are_closed_and_only_once() -> None:
    ends = Ends(pipes)
    ends.pipe.disown()
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(10)]  # these have the numbers now
    ends.pipe.disown()
    ends.pipe.finish()
    assert all(os.fstat(other) for other in others)
    for other in others:
        os.close(other)
    ends.let_go()
    ends.hang_up()


# -- what is owed -----------------------------------------------------------------------------------------------------


def owing(*messages: Message) -> Debts:
    debts = Debts()
    for message in messages:
        debts.received(message)
    return debts


LISTEN = Request(9, "subscriptions/listen", {})
CANCEL = Notification("notifications/cancelled", {"requestId": 1})

SETTLED = {
    "nothing was said": (),
    "what wants no answer": (Notification("a"), Result(1, {}), Failure(1, 1, ""), Malformed("", answers=1)),
    "a subscription": (LISTEN,),
    "what was cancelled": (Request(1, "a"), CANCEL),
    "a cancel of nothing": (CANCEL, Notification("notifications/cancelled", {"requestId": [1]})),
}


@pytest.mark.parametrize("messages", SETTLED.values(), ids=SETTLED)
def test_nobody_waits_for_answers_that_are_not_owed(messages: tuple[Message, ...]) -> None:
    assert owing(*messages).settle(0)


ANSWERS = {
    "a request": ([Request(1, "a")], [Result(1, {})]),
    "a request that is refused": ([Request("a", "a")], [Failure("a", -1, "no")]),
    "a request that is answered by a dict": ([Request(1, "a")], [{"jsonrpc": "2.0", "id": 1, "result": {}}]),
    "what cannot be read": ([Malformed("")], [Failure(None, -1, "what")]),
    "a request that cannot be read": ([Malformed("", asks=4)], [Failure(4, -1, "what")]),
    "a batch": ([Batch((Request(1, "a"), Notification("b"), Request(2, "c")))], [Result(1, {}), Result(2, {})]),
    "an id that is used twice": ([Request(1, "a"), Request(1, "b")], [Failure(None, -1, "used"), Result(1, {})]),
    "two that cannot be read": ([Malformed(""), Malformed("")], [Failure(None, -1, "a"), Failure(None, -1, "b")]),
}


@pytest.mark.parametrize(("asked", "answers"), ANSWERS.values(), ids=ANSWERS)
def test_all_that_is_owed_is_waited_for_and_no_more(asked: list[Message], answers: list[Any]) -> None:
    debts = owing(*asked)
    waiting = Background(lambda: debts.settle(T))
    assert not debts.answering(Notification("words"))
    assert not debts.answering({"jsonrpc": "2.0", "id": 1, "method": "of ours"})
    for answer in answers:
        assert debts.answering(answer)
        assert not debts.settle(0)
        debts.answered()
    assert waiting.result() is True


def test_an_id_may_be_used_again_when_its_answer_is_on_its_way() -> None:
    debts = owing(Request(1, "a"))
    debts.answering(Result(1, {}))
    debts.received(Request(1, "b"))  # the client has the answer already
    debts.answered()
    assert not debts.settle(0)
    debts.answering(Result(1, {}))
    debts.answered()
    assert debts.settle(0)


def test_whoever_hangs_up_waits_for_no_answers() -> None:
    debts = owing(Request(1, "a"))
    waiting = Background(lambda: debts.settle(T))
    debts.forgive()
    assert waiting.result() is True


# -- processes --------------------------------------------------------------------------------------------------------


class Program:
    """A server that is running; its stderr goes to a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        self.rest = b""
        self._ids = iter(range(1, 1 << 30))

    @property
    def stderr(self) -> str:
        return self._log.read_text()

    def tell(self, **message: Any) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        while data:
            data = data[self.process.stdin.write(data) :]

    def begin(self, method: str, **params: Any) -> int:
        number = next(self._ids)
        self.tell(id=number, method=method, params=params)
        return number

    def ask(self, method: str, **params: Any) -> Any:
        number = self.begin(method, **params)
        answer = self.next()
        assert answer["id"] == number, answer
        return answer["result"]

    def next(self, seconds: float = T) -> dict[str, Any]:
        """Return the next message."""
        line = self.line(seconds)
        assert line is not None, f"it said nothing more, but on stderr: {self.stderr}"
        return json.loads(line)

    def line(self, seconds: float = T) -> bytes | None:
        """Return the next line of its stdout; None is the end."""
        assert self.process.stdout is not None
        deadline = Deadline(seconds)
        while b"\n" not in self.rest:
            assert select.select([self.process.stdout], [], [], deadline.remaining)[0], f"no answer; {self.stderr}"
            chunk = os.read(self.process.stdout.fileno(), 1 << 20)
            if not chunk:
                assert not self.rest, "half a line at the end"
                return None
            self.rest += chunk
        line, _, self.rest = self.rest.partition(b"\n")
        return line

    def settle(self) -> None:
        """Wait until its main thread waits."""
        pid, looks = self.process.pid, 0

        def waits() -> bool:
            nonlocal looks
            state = Path(f"/proc/{pid}/task/{pid}/wchan").read_text()
            looks = looks + 1 if state.startswith("futex") else 0
            return looks > 10

        assert until(waits), "its main thread does not wait"

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def end(self, code: int = 0, seconds: float = END_SECONDS) -> float:
        """Wait for its end; return how long that took. It may say nothing more, and must not complain."""
        __tracebackhide__ = True
        began = time.monotonic()
        try:
            found = self.process.wait(T)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it does not end: {self.stderr}")
        took = time.monotonic() - began
        stderr = self.stderr
        assert found == code, stderr[-5000:]
        assert "Traceback" not in stderr
        assert "Fatal" not in stderr
        assert took < seconds + SLACK
        return took


class Programs:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Program] = []

    def start(self, text: str = "run()", python: str = sys.executable, **options: Any) -> Program:
        """Start a program of a few lines; the rest comes from ``stdio_programs``."""
        return self.launch([python, "-c", f"from stdio_programs import *\n{text}"], **options)

    def launch(self, command: list[str], **options: Any) -> Program:
        log = self._folder / f"{len(self._running)}.stderr"
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment(), **options}
        with log.open("ab") as stderr:
            process = subprocess.Popen(command, bufsize=0, **{"stderr": stderr, **options})
        self._running.append(Program(process, log))
        return self._running[-1]

    def end(self) -> None:
        for program in self._running:
            with suppress(ProcessLookupError):
                program.process.kill()
            program.process.wait()
            for stream in (program.process.stdin, program.process.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()


def environment() -> dict[str, str]:
    """Ours, without what changes how Python buffers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    return {**kept, "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE)))}


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    made = Programs(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest) -> str:
    found = interpreter(request.param)
    if found is None:
        pytest.skip(f"there is no CPython {request.param} here")
    return found


# -- descriptors ------------------------------------------------------------------------------------------------------

WAYS_TO_SHOUT = ["by print", "by descriptor", "by a child", "by a shell", "by C", "by the first stdout"]


@pytest.mark.parametrize("arguments", [["-m", "stdio_programs"], ["-c", "import stdio_programs as s; s.run()"]])
def test_whatever_is_printed_goes_to_stderr(programs: Programs, arguments: list[str]) -> None:
    program = programs.launch([sys.executable, *arguments])
    assert program.ask("echo", text="grüße") == {"text": "grüße"}
    assert program.ask("shout") == {}
    assert program.ask("echo", a=1) == {"a": 1}
    program.close_stdin()
    assert program.line() is None
    program.end()
    assert program.stderr.splitlines()[:-1] == WAYS_TO_SHOUT


def test_what_is_printed_can_be_read_while_the_server_runs(programs: Programs) -> None:
    program = programs.start("METHODS['echo'] = lambda channel, params: print('at once') or {}\nrun()")
    program.ask("echo")
    assert program.stderr == "at once\n"


def test_what_was_printed_before_and_not_yet_written_goes_to_stderr_too(programs: Programs) -> None:
    program = programs.start("print('before')\nrun()\nprint('after')")
    assert program.ask("echo", a=1) == {"a": 1}
    assert program.stderr == "before\n"
    program.close_stdin()
    assert program.line() == b"after"  # stdout is everybody's again
    program.end()


def test_nor_does_it_come_to_the_client_by_way_of_the_first_stdout(programs: Programs) -> None:
    program = programs.start("sys.stdout.write('before')\nsys.stdout = None\nrun()")
    assert program.ask("echo", a=1) == {"a": 1}
    program.close_stdin()
    assert program.line() is None
    program.end()
    assert program.stderr.startswith("before")


def test_child_processes_get_neither_stdin_nor_stdout(programs: Programs) -> None:
    program = programs.start()
    found = program.ask("spawn")["descriptors"]
    assert found.pop("0") == "/dev/null"
    assert found.pop("1").startswith("pipe:")  # its own
    assert found.pop("2").endswith(".stderr")
    assert all(target.startswith("/proc/") for target in found.values()), found
    ours = program.ask("descriptors")
    assert ours["stdin"] == ""
    assert ours["descriptors"]["0"] == "/dev/null"
    assert ours["descriptors"]["1"] == ours["descriptors"]["2"]


def test_a_forked_child_keeps_nothing_of_the_conversation(programs: Programs) -> None:
    program = programs.start()
    assert program.process.stdout is not None
    ours = os.readlink(f"/proc/self/fd/{program.process.stdout.fileno()}")
    found = program.ask("fork", seconds=5)["descriptors"]
    assert ours not in found.values()
    assert program.ask("echo", a=1) == {"a": 1}
    program.close_stdin()
    assert program.line(END_SECONDS + SLACK) is None  # the child, which lives, does not hold it open
    program.end()


@pytest.mark.parametrize(
    "before",
    [
        "os.close(2)",
        "sys.stderr = None; os.close(2)",
        "sys.stdout = None",
        "sys.stdout = sys.__stdout__ = None",
        "import io; sys.stdout = io.StringIO()",
        "sys.stdout = object()",
        "sys.stdout.detach()",
        "sys.stdin = None",
        "sys.stdin = object()",
    ],
)
def test_it_runs_whatever_became_of_the_streams(programs: Programs, before: str) -> None:
    program = programs.start(f"{before}\nrun()\nos._exit(0)")  # what it leaves is not for the interpreter to flush
    assert program.ask("echo", a=1) == {"a": 1}
    program.close_stdin()
    program.end()


@pytest.mark.parametrize(("number", "name"), [(0, "stdin"), (1, "stdout")])
def test_without_stdin_or_stdout_it_says_so(programs: Programs, number: int, name: str) -> None:
    shell = f'exec "$0" "$@" {number}{"<" if number == 0 else ">"}&-'
    text = f"""
from mcp_sync import MCPConnectionError
try: run()
except MCPConnectionError as error: say(error)
try: os.fstat({number})
except OSError: say("is closed as before")
"""
    program = programs.launch(["sh", "-c", shell, sys.executable, "-c", f"from stdio_programs import *\n{text}"])
    program.end()
    assert f"{name} is closed" in program.stderr
    assert "is closed as before" in program.stderr


def test_a_process_serves_one_conversation_at_a_time(programs: Programs) -> None:
    text = """
from mcp_sync import MCPConnectionError
def again(channel, params):
    try: run()
    except MCPConnectionError as error: return {"error": str(error)}
METHODS["again"] = again
run()
run()  # stdin is at its end
say("twice")
"""
    program = programs.start(text)
    assert "being served" in program.ask("again")["error"]
    assert program.ask("echo", a=1) == {"a": 1}
    program.close_stdin()
    program.end()
    assert "twice" in program.stderr


def test_afterwards_all_is_as_it_was(programs: Programs) -> None:
    text = """
import stat
def look():
    lines = [(os.fstat(n).st_ino, os.get_inheritable(n), fcntl.fcntl(n, fcntl.F_GETFL)) for n in (0, 1, 2)]
    return lines, sorted(open_descriptors()), sys.stdout, sys.stdout.line_buffering, threading.active_count()
import fcntl
before = look()
run()
assert look() == before, (before, look())
try:
    run_stdio(lambda channel: 1 / 0)
except ZeroDivisionError:
    assert look() == before, (before, look())
    say("as before")
"""
    program = programs.start(text)
    assert program.ask("echo", a=1) == {"a": 1}
    program.close_stdin()
    program.end()
    assert "as before" in program.stderr


# -- what stdin and stdout are ----------------------------------------------------------------------------------------

ECHO = b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":1}}\n'
ECHOED = b'{"jsonrpc":"2.0","id":1,"result":{"a":1}}\n'


def test_stdin_and_stdout_may_be_files(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(ECHO)
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
        programs.start(stdin=source, stdout=target).end()
    assert (tmp_path / "out").read_bytes() == ECHOED


def test_stdin_may_be_dev_null(programs: Programs) -> None:
    program = programs.start(stdin=subprocess.DEVNULL)
    assert program.line() is None
    program.end()


def test_a_stdin_that_cannot_be_read_is_named(programs: Programs) -> None:
    with open(os.devnull, "wb") as only_written_to:
        program = programs.start(stdin=only_written_to)
    program.end()
    assert "stdin cannot be read (Bad file descriptor)" in program.stderr


def test_stdin_and_stdout_may_be_sockets(programs: Programs) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(T)
    with ours:
        with theirs:
            program = programs.start(stdin=theirs, stdout=theirs)
            flags = fcntl.fcntl(theirs, fcntl.F_GETFL)
            ours.sendall(ECHO)
            assert ours.recv(1000) == ECHOED
            assert fcntl.fcntl(theirs, fcntl.F_GETFL) == flags
        ours.sendall(ECHO)
        ours.shutdown(socket.SHUT_WR)  # nothing more from us, but we still hear
        assert ours.recv(1000) == ECHOED
        assert ours.recv(1000) == b""
        program.end()


def test_at_a_terminal_it_says_what_it_waits_for(programs: Programs) -> None:
    ours, theirs = os.openpty()
    mode = termios.tcgetattr(theirs)
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(theirs, termios.TCSANOW, mode)
    program = programs.start("logging.basicConfig(level='INFO')\nrun()", stdin=theirs, stdout=theirs)
    os.write(ours, ECHO)
    assert select.select([ours], [], [], T)[0]
    assert os.read(ours, 1000).replace(b"\r\n", b"\n") == ECHOED
    assert not fcntl.fcntl(theirs, fcntl.F_GETFL) & os.O_NONBLOCK
    assert "Ctrl-D ends it" in program.stderr
    os.write(ours, b"\x04")
    program.end()
    os.close(theirs)
    os.close(ours)


def test_a_terminal_that_is_hung_up_ends_it(programs: Programs) -> None:
    ours, theirs = os.openpty()
    program = programs.start(stdin=theirs)
    os.close(theirs)
    os.write(ours, ECHO)
    assert program.next()["id"] == 1
    os.close(ours)
    program.end()


def test_a_client_that_is_killed_takes_its_server_with_it(programs: Programs, tmp_path: Path) -> None:
    client = f"""
import subprocess, sys
server = subprocess.Popen([sys.executable, "-m", "stdio_programs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
server.stdin.write({ECHO!r})
server.stdin.flush()
server.stdout.readline()
print(server.pid, flush=True)
server.wait()
"""
    program = programs.launch([sys.executable, "-c", client])
    pid = program.line()
    assert pid is not None
    program.process.kill()
    assert until(lambda: _has_ended(int(pid)), END_SECONDS + SLACK)
    assert program.stderr == "closed stdio: the client closed our stdin\n"


def _has_ended(pid: int) -> bool:
    """Whether an orphan has; nobody may have waited for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# -- what is said -----------------------------------------------------------------------------------------------------


def test_what_is_no_message_is_answered_and_the_next_one_too(programs: Programs) -> None:
    program = programs.start()
    for line in (b"hello", b"{", b"[]", b"\xff\xfe", b'{"jsonrpc":"2.0","method":5}', b"null", b"\x00"):
        program.write(line + b"\n")
        assert program.next()["id"] is None
    assert program.ask("echo", a=1) == {"a": 1}


def test_a_line_over_the_limit_costs_no_memory(programs: Programs) -> None:
    program = programs.start("METHODS['memory'] = lambda *_: {'kib': memory()}\nrun(message_size=1 << 20)")
    before = program.ask("memory")["kib"]
    program.write(b'{"jsonrpc":"2.0","id":"big","method":"echo","params":{"text":"')
    for _ in range(100):
        program.write(b"x" * (1 << 20))
    program.write(b'"}}\n')
    assert program.next()["id"] == "big"
    assert program.ask("memory")["kib"] - before < 20_000


@pytest.mark.alone
def test_ten_megabytes_go_both_ways(programs: Programs) -> None:
    program = programs.start()
    began = time.monotonic()
    assert len(program.ask("big", size=10 << 20)["text"]) == 10 << 20
    sending = Background(lambda: program.tell(id="big", method="echo", params={"text": "y" * (10 << 20)}))
    answer = program.next()
    sending.result()
    assert len(answer["result"]["text"]) == 10 << 20
    assert time.monotonic() - began < 5
    program.close_stdin()
    program.end()


def test_large_messages_both_ways_at_once_do_not_block_each_other(programs: Programs) -> None:
    program = programs.start()
    sending = Background(lambda: [program.begin("echo", text="z" * 1_000_000) for _ in range(10)])
    answers = [program.next() for _ in range(10)]
    assert sorted(answer["id"] for answer in answers) == sending.result()


def test_a_client_that_never_reads_costs_no_memory_and_ends_the_conversation(programs: Programs) -> None:
    program = programs.start()
    for _ in range(8):
        program.begin("flood", size=1_000_000, seconds=0.5)
    assert until(lambda: program.stderr.count("flooded") == 8, T), program.stderr
    program.end()
    floods = [line.split() for line in program.stderr.splitlines() if line.startswith("flooded")]
    assert all(float(seconds) < 0.5 + SLACK for _, _, _, _, seconds, _ in floods)
    assert {kind for _, _, kind, _, _, _ in floods} <= {"MCPTimeoutError", "MCPConnectionError"}
    assert max(int(kib) for *_, kib in floods) < 100_000
    assert "the client reads no more" in program.stderr


# -- the end ----------------------------------------------------------------------------------------------------------

UNSTOPPABLE = {
    "in Python and C": ["sleep", "wait_in_c", "count_for_ever"],
    "in prints": ["print_for_ever", "log_for_ever"],
}


def test_it_ends_with_stdin_at_once(programs: Programs, python: str) -> None:
    program = programs.start(python=python)
    assert program.ask("echo", a=1) == {"a": 1}
    program.close_stdin()
    assert program.line() is None
    program.end(seconds=0.5)
    assert program.stderr == "closed stdio: the client closed our stdin\n"


@pytest.mark.alone
@pytest.mark.parametrize("tools", UNSTOPPABLE.values(), ids=UNSTOPPABLE)
def test_it_ends_with_stdin_whatever_still_runs(programs: Programs, python: str, tools: list[str]) -> None:
    text = "import atexit; atexit.register(say, 'at exit')\nrun()\nsay('after')"
    running = [programs.start(text, python) for _ in tools]
    for program, tool in zip(running, tools, strict=True):
        assert program.ask("echo", a=1) == {"a": 1}
        program.begin(tool, seconds=60)
        program.begin(tool, seconds=60)
    for program in running:
        program.close_stdin()
    words = ("closed stdio: the client closed our stdin", "after", "at exit")  # which a tool's line may stand before
    for program in running:
        program.end()
        assert program.line() is None
        assert [word for line in program.stderr.splitlines() for word in words if line.endswith(word)] == list(words)


def test_whoever_closes_stdin_still_gets_the_answers_that_come_soon(programs: Programs) -> None:
    program = programs.start()
    program.ask("echo")
    numbers = [program.begin("sleep", seconds=0.3), program.begin("big", size=1 << 20), program.begin("echo")]
    program.write(b"no message\n")
    program.close_stdin()
    answers = [program.next() for _ in range(4)]
    assert {answer["id"] for answer in answers} == {*numbers, None}
    assert program.line() is None
    program.end(seconds=0.8)


def test_the_last_message_is_answered_even_if_its_line_is_not_ended(programs: Programs) -> None:
    program = programs.start()
    program.write(ECHO[:-1])
    program.close_stdin()
    assert program.line() == ECHOED[:-1]
    program.end()


@pytest.mark.parametrize("busy", ["idle", "sleep", "print_for_ever"])
def test_sigterm_ends_it_as_it_does_any_process(programs: Programs, busy: str) -> None:
    program = programs.start()
    program.ask("echo")
    if busy != "idle":
        program.begin(busy, seconds=60)
    program.process.terminate()
    program.end(-signal.SIGTERM, seconds=0.2)


@pytest.mark.parametrize("busy", ["idle", "sleep", "count_for_ever"])
def test_ctrl_c_leaves_run_as_a_keyboard_interrupt_at_once(programs: Programs, python: str, busy: str) -> None:
    text = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
try: run()
except KeyboardInterrupt: say("interrupted", time.monotonic())
assert not any("reader" in thread.name for thread in threading.enumerate())
"""
    program = programs.start(text, python)
    program.ask("echo")
    if busy != "idle":
        program.begin(busy, seconds=60)
    program.settle()
    began = time.monotonic()
    program.process.send_signal(signal.SIGINT)
    program.end(seconds=0.5)
    said = next(line for line in program.stderr.splitlines() if line.startswith("interrupted"))
    assert float(said.split()[1]) - began < 0.2 + SLACK


@pytest.mark.parametrize("number", range(5))
def test_ctrl_c_in_the_moment_in_which_run_begins_to_wait_is_noticed_soon(
    programs: Programs, python: str, number: int
) -> None:
    text = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
try: run()
except KeyboardInterrupt: say("interrupted")
"""
    program = programs.start(text, python)
    program.ask("echo")
    program.process.send_signal(signal.SIGINT)
    program.end(seconds=stdio.LOOK_SECONDS + 0.5)
    assert "interrupted" in program.stderr


def test_ctrl_c_that_nobody_catches_ends_the_process_as_ctrl_c_does(programs: Programs) -> None:
    program = programs.start("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nrun()")
    program.ask("echo")
    program.process.send_signal(signal.SIGINT)
    assert program.process.wait(T) == -signal.SIGINT
    assert program.stderr.rstrip().endswith("KeyboardInterrupt")


def test_it_may_be_ended_from_within(programs: Programs) -> None:
    text = """
METHODS["stop"] = lambda channel, params: threading.Timer(0, channel.close, [Deadline(5)]).start() or {}
run()
print("after")
"""
    program = programs.start(text)
    program.begin("stop")
    while (line := program.line()) != b"after":
        assert line is not None
    program.end()


def test_it_may_run_in_a_thread_that_is_not_the_main_one(programs: Programs) -> None:
    program = programs.start("thread = threading.Thread(target=run)\nthread.start()\nthread.join()")
    assert program.ask("echo", a=1) == {"a": 1}
    program.close_stdin()
    program.end()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_hundred_servers_that_are_ended_at_random_end_well(programs: Programs) -> None:
    chance = random.Random(4711)
    for number in range(200):
        program = programs.start("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\nrun()")
        how = chance.choice(["stdin", "both", "term", "kill", "int"])
        for _ in range(chance.randrange(30)):
            program.begin(chance.choice(["echo", "big", "sleep"]), size=chance.choice([1, 1 << 20]), seconds=0.2)
        if how != "int":  # while os.system() runs Ctrl-C is ignored
            program.begin("shout")
        if chance.random() < 0.7 or how == "int":  # which may be ignored as long as the program is not running yet
            program.begin("echo")
            program.next()
        if chance.random() < 0.5:
            program.write(ECHO[: chance.randrange(len(ECHO))])
        until(lambda: False, chance.random() * 0.3)
        _end_somehow(program, how, number)


def _end_somehow(program: Program, how: str, number: int) -> None:
    assert program.process.stdout is not None
    signals = {"term": signal.SIGTERM, "kill": signal.SIGKILL, "int": signal.SIGINT}
    if how in signals:
        program.process.send_signal(signals[how])
    elif how == "both":
        program.process.stdout.close()
        program.close_stdin()
    else:
        program.close_stdin()
        rest = Background(program.process.stdout.read)
    code = program.process.wait(T)
    assert code in {"term": (-15,), "kill": (-9,), "int": (-2, 1)}.get(how, (0,)), (number, how, program.stderr)
    assert "Fatal" not in program.stderr
    if how == "stdin":
        lines = (program.rest + rest.result()).split(b"\n")
        assert all(json.loads(line) for line in lines[:-1]), (number, how)
    if how != "int":
        assert "Traceback" not in program.stderr, (number, how)
