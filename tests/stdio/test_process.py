"""The stdio binding itself: children that behave, that misbehave, and that must not survive.

The fault programs are small and written here; each gets only what it needs to go wrong in one way.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mcp_sync import (
    LocalProtocolError,
    MCPConnectionError,
    MCPSession,
    MCPTimeoutError,
    MessageTooLarge,
    RemoteProtocolError,
    StdioTransport,
)
from mcp_sync.observe import Event, Ignored, ProcessEnded, ProcessStarted, Unreadable
from mcp_sync.testing import in_threads
from mcp_sync.transports import outlet, process

ROOT = Path(__file__).parents[2]
T = 10.0
SLACK = 0.5  # seconds by which a bound may be missed on a loaded machine

# What every fault program begins with: a server of the handshake era, one line at a time.
SERVER = """
import json, os, signal, subprocess, sys, time

def say(text):
    data = memoryview(text.encode() if isinstance(text, str) else text)
    while data:
        data = data[os.write(1, data):]

def answer(id_, result):
    say(json.dumps({"jsonrpc": "2.0", "id": id_, "result": result}) + "\\n")

def greet():
    while True:
        message = json.loads(sys.stdin.readline())
        if message["method"] == "initialize":
            answer(message["id"], {"protocolVersion": "2025-11-25", "capabilities": {},
                                   "serverInfo": {"name": "fault", "version": "1"}})
        elif message["method"] == "notifications/initialized":
            return
        else:
            say(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "no"}}) + "\\n")

def ask():
    line = sys.stdin.readline()
    return json.loads(line) if line else sys.exit(0)

def serve(**methods):
    while True:
        message = ask()
        if "id" in message:
            methods.get(message["method"], lambda m: answer(m["id"], m.get("params") or {}))(message)
"""


def server(program: str, **knobs: Any) -> StdioTransport:
    """Return a transport to a fault program."""
    knobs.setdefault("timeout", T)
    return StdioTransport([sys.executable, "-c", SERVER + dedent(program)], **knobs)


@contextmanager
def talking(program: str, **knobs: Any) -> Iterator[MCPSession]:
    """Give a session with a fault program."""
    session = server(program, **knobs).create_session()
    try:
        yield session
    finally:
        session.close()


def failing(*command: str, **knobs: Any) -> MCPConnectionError:
    """Return the error of a command that cannot be talked to."""
    with pytest.raises(MCPConnectionError) as found:
        StdioTransport(list(command), timeout=T, **knobs).create_session().close()
    return found.value


# -- it does not start -----------------------------------------------------------------------------------------------


def test_a_program_that_is_not_there_is_named() -> None:
    error = failing("no-such-program-anywhere", "--port", "1")
    assert "no-such-program-anywhere" in str(error)
    assert "PATH" in str(error)
    assert error.details["errno"] == 2
    assert error.may_have_run is False
    assert isinstance(error.__cause__, FileNotFoundError)


def test_a_whole_command_line_in_one_word_is_recognised() -> None:
    assert "list" in str(failing("python server.py --verbose"))


def test_a_file_that_may_not_be_executed_is_named(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text("print('hello')")
    if os.access(script, os.X_OK):
        pytest.skip("this file system lets everything be executed")
    assert "chmod +x" in str(failing(str(script)))


def test_a_directory_is_no_program(tmp_path: Path) -> None:
    assert "is a directory" in str(failing(str(tmp_path)))


def test_a_script_without_its_interpreter_is_named(tmp_path: Path) -> None:
    script = tmp_path / "server"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert "interpreter" in str(failing(str(script)))


def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    script = tmp_path / "server"
    script.write_text("hello")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert "#!" in str(failing(str(script)))


def test_a_working_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    error = failing(sys.executable, "-c", "", cwd=tmp_path / "nowhere")
    assert "nowhere" in str(error)
    assert "directory" in str(error)


def test_without_descriptors_nothing_is_started_and_nothing_left() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with talking("greet(); serve()") as session:  # whatever is loaded late has been loaded
        session.send_request("echo")
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    free = [number for number in range(soft) if number not in used]
    errors = []
    for room in range(12):  # each descriptor in turn is the one too many
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[room], hard))
        try:
            server("greet(); serve()").create_session().close()
        except MCPConnectionError as error:
            errors.append(error)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(errors) >= 6
    assert all("too many open files" in str(error) and error.may_have_run is False for error in errors)


@pytest.mark.parametrize("bad", ["\ud800", "a\0b"])
@pytest.mark.parametrize(
    ("parameter", "give"),
    [
        ("command", lambda bad: StdioTransport([bad])),
        ("args", lambda bad: StdioTransport("server", [bad])),
        ("env", lambda bad: StdioTransport("server", env={"A": bad})),
        ("env", lambda bad: StdioTransport("server", env={bad: "a"})),
        ("environment_additions", lambda bad: StdioTransport("server", environment_additions={"A": bad})),
        ("environment_filter", lambda bad: StdioTransport("server", environment_filter=[bad])),
        ("cwd", lambda bad: StdioTransport("server", cwd=bad)),
        ("cwd", lambda bad: StdioTransport("server", working_directory=Path(bad))),
    ],
)
def test_what_the_system_cannot_be_told_is_refused_by_the_name_of_the_parameter(
    parameter: str, give: Callable[[str], object], bad: str
) -> None:
    with pytest.raises(ValueError, match=parameter) as found:
        give(bad)
    assert type(found.value) is ValueError
    str(found.value).encode()


def test_a_name_of_a_file_that_is_no_utf_8_may_be_given() -> None:
    odd = os.fsdecode(b"caf\xe9")
    assert StdioTransport([odd], env={"A": odd}, cwd=odd).command == [odd]


# -- it ends ---------------------------------------------------------------------------------------------------------


def test_a_program_that_exits_at_once_is_told_of_with_its_status_and_last_words() -> None:
    began = time.monotonic()
    error = failing(sys.executable, "-c", "import sys; sys.exit('no database configured')")
    assert time.monotonic() - began < 2
    assert "exit status 1" in str(error)
    assert "no database configured" in str(error)
    assert error.details["exit_status"] == 1
    assert error.details["stderr"] == ["no database configured"]
    assert error.may_have_run is False


def test_a_program_that_prints_its_help_and_exits_is_shown() -> None:
    error = failing(sys.executable, "-c", "print('usage: server [--port PORT]')")
    assert "exit status 0" in str(error)
    assert "usage: server" in str(error)


def test_a_program_that_says_nothing_times_out_with_what_is_known() -> None:
    began = time.monotonic()
    program = "import sys, time; print('still loading', file=sys.stderr, flush=True); time.sleep(60)"
    with pytest.raises(MCPTimeoutError) as found:
        StdioTransport([sys.executable, "-c", program], timeout=0.6).create_session()
    assert time.monotonic() - began < 0.6 + SLACK
    assert found.value.details["stderr"] == ["still loading"]


@pytest.mark.parametrize(
    ("end", "says", "status"),
    [
        ("os._exit(0)", "exit status 0", 0),
        ("os._exit(3)", "exit status 3", 3),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL", -9),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV", -11),
    ],
)
def test_death_in_the_middle_of_a_call_is_told_with_its_cause(end: str, says: str, status: int) -> None:
    program = f"greet(); ask(); os.write(2, b'oh no\\n'); {end}"
    with talking(program) as session:
        began = time.monotonic()
        with pytest.raises(MCPConnectionError) as found:
            session.send_request("work")
        assert time.monotonic() - began < 0.5 + SLACK
        error = found.value
        assert says in str(error)
        assert "oh no" in str(error)
        assert error.details["exit_status"] == status
        assert error.details["stderr"] == ["oh no"]
        assert error.details["method"] == "work"
        assert error.may_have_run is None
        with pytest.raises(MCPConnectionError, match=says) as found:
            session.send_request("more")
        assert found.value.may_have_run is False


def test_a_server_that_closes_its_stdout_but_lives_on_is_told_of() -> None:
    with talking("greet(); ask(); os.close(1); time.sleep(60)", shutdown_timeout=0.3) as session:
        began = time.monotonic()
        with pytest.raises(MCPConnectionError, match="closed its stdout"):
            session.send_request("work")
        assert time.monotonic() - began < 0.5 + SLACK


def test_a_whole_answer_without_its_newline_counts_and_half_of_one_does_not() -> None:
    whole = """
        greet(); m = ask()
        say('{"jsonrpc": "2.0", "id": %d, "result": {"last": true}}' % m["id"]); os._exit(0)
        """
    with talking(whole) as session:
        assert session.send_request("work") == {"last": True}
        with pytest.raises(MCPConnectionError):
            session.send_request("more")
    half = """
        greet(); m = ask()
        say('{"jsonrpc": "2.0", "id": %d, "result": {"last": tr' % m["id"]); os._exit(4)
        """
    with talking(half) as session, pytest.raises(MCPConnectionError, match="exit status 4"):
        session.send_request("work")


def test_what_was_answered_before_death_has_been_answered() -> None:
    program = """
        greet(); asked = [ask() for _ in range(50)]
        for m in asked: answer(m["id"], {"x": "y" * 5000})
        os._exit(0)
        """
    with talking(program) as session:
        futures = [session.submit_request("work") for _ in range(50)]
        assert [len(future.result(T)["x"]) for future in futures] == [5000] * 50


@pytest.mark.parametrize("chatter", ["time.sleep(60)", "while True: os.write(1, b'noise ' * 1000 + b'\\n')"])
def test_a_grandchild_that_holds_the_pipes_does_not_hide_its_parents_death(chatter: str) -> None:
    program = f"""
        greet(); ask()
        child = subprocess.Popen([sys.executable, "-c", {f"import os, time; {chatter}"!r}]
                                 if "while" not in {chatter!r} else
                                 [sys.executable, "-c", {f"import os{chr(10)}{chatter}"!r}])
        os._exit(5)
        """
    with talking(program) as session:
        began = time.monotonic()
        with pytest.raises(MCPConnectionError, match="exit status 5"):
            session.send_request("work")
        assert time.monotonic() - began < 0.5 + SLACK


# -- it prints what it should not -------------------------------------------------------------------------------------

NOISE = {
    "words": b"Server listening on stdio\n",
    "a blank line": b"\n  \n\r\n",
    "bad UTF-8": b"\xff\xfe caf\xe9\n",
    "half an object": b'{"jsonrpc": "2.0", "resu\n',
    "a JSON string": b'"ready"\n',
    "a log line in JSON": b'{"level": "info", "id": 17, "message": "started"}\n',
    "a stack of brackets": 'b"[" * 50_000 + b"\\n"',
    "a long line": 'b"x" * 1_000_000 + b"\\n"',
    "a terminal's colours": b"\x1b[32mINFO\x1b[0m ready\n",
    "NUL bytes": b"\0" * 100 + b"\n",
    "NaN": b"NaN\n",
}


@pytest.mark.parametrize("noise", NOISE)
def test_noise_on_stdout_is_skipped(noise: str) -> None:
    program = f"""
        noise = {NOISE[noise]}
        say(noise); greet(); say(noise)
        serve(echo=lambda m: (say(noise), answer(m["id"], {{"ok": True}}), say(noise)))
        """
    with talking(program) as session:
        for _ in range(3):
            assert session.send_request("echo") == {"ok": True}


def test_noise_is_told_to_observers_and_shown_in_errors() -> None:
    transport = server("say('Welcome!\\n'); greet(); ask(); os._exit(1)")
    events: queue.Queue[Event] = queue.Queue()
    transport.observe(events.put)
    with transport.create_session() as session, pytest.raises(MCPConnectionError, match="Welcome!"):
        session.send_request("work")
    seen = [events.get(timeout=T)]
    while not isinstance(seen[-1], Unreadable):
        seen.append(events.get(timeout=T))
    assert seen[-1].raw == b"Welcome!"
    assert isinstance(seen[0], ProcessStarted)


MALFORMED = {
    "no JSON": '{"jsonrpc": "2.0", "id": %d, "result": {]}',
    "cut": '{"jsonrpc": "2.0", "id": %d, "result": {"a": ',
    "NaN": '{"jsonrpc": "2.0", "id": %d, "result": {"a": NaN}}',
    "a lone surrogate": '{"jsonrpc": "2.0", "id": %d, "result": {"a": "\\ud800"}}',
    "no version": '{"id": %d, "result": {}}',
    "version 1.0": '{"jsonrpc": "1.0", "id": %d, "result": {}}',
    "a list as result": '{"jsonrpc": "2.0", "id": %d, "result": []}',
    "null as result": '{"jsonrpc": "2.0", "id": %d, "result": null}',
    "both": '{"jsonrpc": "2.0", "id": %d, "result": {}, "error": {"code": 1, "message": "x"}}',
    "neither": '{"jsonrpc": "2.0", "id": %d}',
    "a text as error": '{"jsonrpc": "2.0", "id": %d, "error": "no"}',
    "a code in words": '{"jsonrpc": "2.0", "id": %d, "error": {"code": "E1", "message": "x"}}',
    "too deep": '{"jsonrpc": "2.0", "id": %d, "result": {"a": ' + "[" * 500 + "]" * 500 + "}}",
}


@pytest.mark.parametrize("malformed", MALFORMED)
def test_a_malformed_answer_fails_its_call_at_once_and_no_other(malformed: str) -> None:
    program = f"""
        greet()
        serve(bad=lambda m: say({MALFORMED[malformed]!r} % m["id"] + "\\n"))
        """
    with talking(program) as session:
        began = time.monotonic()
        with pytest.raises(RemoteProtocolError):
            session.send_request("bad")
        assert time.monotonic() - began < 0.1 + SLACK
        assert session.send_request("echo", {"a": 1}) == {"a": 1}


def test_an_answer_over_the_limit_fails_its_call_and_the_connection_lives() -> None:
    program = "greet(); serve(large=lambda m: answer(m['id'], {'x': 'y' * 300_000}))"
    with talking(program, max_message_size=100_000) as session:
        with pytest.raises(MessageTooLarge, match="100000") as found:
            session.send_request("large")
        assert found.value.may_have_run is True
        assert session.send_request("echo", {"a": 1}) == {"a": 1}


def test_a_line_without_end_ends_the_connection() -> None:
    program = """
        greet(); m = ask()
        say('{"jsonrpc": "2.0", "id": %d, "result": {"x": "' % m["id"])
        while True: say(b"x" * 65536)
        """
    with talking(program, max_message_size=100_000, shutdown_timeout=0.3) as session:
        other = session.submit_request("other")
        with pytest.raises((MessageTooLarge, MCPConnectionError), match="100000|without end"):
            session.send_request("work")
        error = other.exception(T)
        assert isinstance(error, (MessageTooLarge, MCPConnectionError))
        with pytest.raises((MessageTooLarge, MCPConnectionError), match="without end"):
            list(session.listen())


# -- it does not read --------------------------------------------------------------------------------------------------


def test_a_server_that_does_not_read_makes_calls_time_out_and_can_be_closed() -> None:
    with talking("greet(); time.sleep(60)", shutdown_timeout=0.5) as session:
        began = time.monotonic()
        with pytest.raises(MCPTimeoutError) as found:
            session.send_request("work", {"x": "y" * 1_000_000}, timeout=0.3)
        assert time.monotonic() - began < 0.3 + SLACK
        assert found.value.may_have_run is None
        assert "bytes written" in str(found.value)
        began = time.monotonic()
        with pytest.raises(MCPTimeoutError) as found:
            session.send_request("work", timeout=0.2)
        assert time.monotonic() - began < 0.2 + SLACK
        assert found.value.may_have_run is False  # of this one nothing was written
        future = session.submit_request("work", timeout=0.2)
        assert isinstance(future.exception(T), MCPTimeoutError)
        began = time.monotonic()
        session.close()
        assert time.monotonic() - began < 0.5 + SLACK
        count = session.counters
        assert count["timeout"] == 3
        assert count["sent"] == count["ok"] + count["error"] + count["timeout"] + count["cancelled"]


def test_a_message_that_was_cut_by_a_timeout_is_finished_before_the_next() -> None:
    program = """
        greet()
        time.sleep(0.6)
        serve(work=lambda m: None, echo=lambda m: answer(m["id"], {"length": len(json.dumps(m.get("params")))}))
        """
    with talking(program) as session:
        with pytest.raises(MCPTimeoutError):
            session.send_request("work", {"x": "y" * 500_000}, timeout=0.2)
        assert session.send_request("echo", {"a": 1}) == {"length": 8}


def test_a_slow_call_and_a_deaf_moment_do_not_harm_the_calls_of_other_threads() -> None:
    program = "greet(); serve(slow=lambda m: None)"
    with talking(program) as session:
        slow = session.submit_request("slow")
        assert in_threads(8, lambda n: session.send_request("echo", {"n": n})) == [{"n": n} for n in range(8)]
        assert slow.cancel()


# -- stderr ------------------------------------------------------------------------------------------------------------


def test_a_flood_on_stderr_does_not_block_the_server() -> None:
    program = """
        greet(); m = ask()
        for _ in range(800): os.write(2, b"x" * 65535 + b"\\n")
        os.write(2, b"done\\n")
        answer(m["id"], {}); serve()
        """
    with talking(program) as session:
        assert session.send_request("work", timeout=30) == {}
        with pytest.raises(MCPTimeoutError) as found:
            server("time.sleep(9)", timeout=0.1).create_session()
        assert "stderr" in found.value.details


def test_stderr_goes_line_by_line_to_a_function() -> None:
    lines: queue.Queue[str] = queue.Queue()
    program = "greet(); os.write(2, 'eins\\nzw'.encode()); os.write(2, 'ei \\u00fc\\n'.encode()); serve()"
    with talking(program, stderr=lines.put) as session:
        session.send_request("echo")
        assert [lines.get(timeout=T), lines.get(timeout=T)] == ["eins", "zwei ü"]


def test_the_last_words_on_stderr_get_through_though_they_have_no_newline() -> None:
    lines: queue.Queue[str] = queue.Queue()
    with talking("greet(); ask(); os.write(2, b'Traceback: the end'); os._exit(1)", stderr=lines.put) as session:
        with pytest.raises(MCPConnectionError, match="the end"):
            session.send_request("work")
        assert lines.get(timeout=T) == "Traceback: the end"


def test_stderr_goes_to_a_logger(caplog: pytest.LogCaptureFixture) -> None:
    program = "greet(); os.write(2, b'100% sure\\n'); serve()"
    with caplog.at_level(logging.INFO, "server"), talking(program, stderr=logging.getLogger("server")) as session:
        session.send_request("echo")
        patience = time.monotonic() + T
        while "100% sure" not in caplog.text:
            assert time.monotonic() < patience
            session.send_request("echo")


def test_stderr_goes_to_a_file_object() -> None:
    class File:
        def write(self, text: str) -> None:
            written.put(text)

    written: queue.Queue[str] = queue.Queue()
    with talking("greet(); os.write(2, b'hello\\n'); serve()", stderr=File()):
        assert written.get(timeout=T) == "hello\n"


def test_a_stderr_function_that_hangs_or_raises_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()

    def hang(line: str) -> None:
        release.wait(T)
        raise ZeroDivisionError(line)

    program = "greet(); os.write(2, b'x\\n' * 100_000); serve()"
    with caplog.at_level(logging.CRITICAL, "mcp_sync"), talking(program, stderr=hang) as session:
        assert session.send_request("echo") == {}
        release.set()


def test_a_log_of_fifty_thousand_lines_loses_none(tmp_path: Path) -> None:
    program = """
        greet(); m = ask()
        os.write(2, b"first\\n")
        data = memoryview(b"".join(b"line %d\\n" % n for n in range(50_000)))
        while data: data = data[os.write(2, data[:700]):]  # many small reads
        answer(m["id"], {}); serve()
        """
    with open(tmp_path / "log", "w") as file, talking(program, stderr=file) as session:
        session.send_request("work", timeout=30)
        session.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines == ["first", *(f"line {n}" for n in range(50_000))]


def test_lines_of_stderr_that_a_slow_function_misses_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "WAITING_BYTES", 100_000)
    release, taken, events = threading.Event(), queue.Queue[str](), queue.Queue[Event]()

    def slow(line: str) -> None:
        release.wait(T)
        taken.put(line)

    program = """
        greet(); m = ask()
        for n in range(20): os.write(2, b"x" * 19_999 + b"\\n")
        answer(m["id"], {}); ask(); os._exit(3)
        """
    transport = server(program, stderr=slow)
    transport.observe(events.put)
    with transport.create_session() as session:
        session.send_request("work")
        with pytest.raises(MCPConnectionError) as found:
            session.send_request("die")
        dropped = found.value.details["stderr_dropped"]
        assert 10 <= dropped < 20
        release.set()
        while not isinstance(event := events.get(timeout=T), Ignored):
            pass
        assert event.why.startswith(f"{dropped} lines of stderr")
    assert taken.qsize() + dropped == 20


def test_lines_of_stderr_that_are_left_when_the_time_to_close_is_over_are_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    program = "greet(); m = ask(); os.write(2, b'x\\n' * 1000); answer(m['id'], {}); serve()"
    session = server(program, stderr=lambda line: time.sleep(0.01)).create_session()
    session.send_request("work")
    began = time.monotonic()
    session.close()
    assert time.monotonic() - began < 1.0 + SLACK
    assert "lines of stderr were dropped" in caplog.text


def test_a_line_of_stderr_without_end_is_given_once_and_cut() -> None:
    lines: queue.Queue[str] = queue.Queue()
    program = "greet(); data = b'x' * 300_000 + b'\\nend\\n'\nwhile data: data = data[os.write(2, data):]\nserve()"
    with talking(program, stderr=lines.put):
        assert lines.get(timeout=T) == "x" * 65536
        assert lines.get(timeout=T) == "end"


def test_what_cannot_take_stderr_is_refused() -> None:
    with pytest.raises(TypeError, match="stderr"):
        StdioTransport("server", stderr=42)


# -- nobody receives ---------------------------------------------------------------------------------------------------

NEWS = '{"jsonrpc": "2.0", "method": "notifications/news", "params": {"n": %d}}\n'
TALKER = f"""
for n in range(300): say({NEWS!r} % n)
data = b"x" * 200_000 + b"\\n"
while data: data = data[os.write(2, data):]
os.write(2, b"written\\n")
"""


@contextmanager
def paused(program: str, **knobs: Any) -> Iterator[tuple[StdioTransport, queue.Queue[str]]]:
    """Give a connected transport whose reading pauses, for nobody receives, and its stderr."""
    lines: queue.Queue[str] = queue.Queue()
    with server(program, stderr=lines.put, max_pending_messages=100, **knobs) as transport:
        yield transport, lines


def number_of(message: dict[str, Any]) -> int:
    found: int = message["params"]["n"]
    return found


def wait_for(line: str, lines: queue.Queue[str]) -> None:
    while lines.get(timeout=T) != line:
        pass


def test_stderr_is_drained_while_nobody_receives() -> None:
    with paused(TALKER + "serve()") as (transport, lines):
        wait_for("written", lines)
        assert [number_of(transport.receive_message()) for _ in range(300)] == list(range(300))
        transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"a": 1}})
        assert transport.receive_message()["result"] == {"a": 1}


@pytest.mark.parametrize("pidfds", [True, False])
def test_the_end_of_the_process_is_noticed_while_nobody_receives(pidfds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not pidfds:
        monkeypatch.setattr(process, "_open_pidfd", lambda pid: -1)
    with paused(TALKER + "os._exit(5)") as (transport, lines):
        wait_for("written", lines)
        patience = time.monotonic() + T
        while transport.connected:
            assert time.monotonic() < patience
            time.sleep(0.01)
        assert [number_of(transport.receive_message()) for _ in range(300)] == list(range(300))
        with pytest.raises(MCPConnectionError, match="exit status 5"):
            transport.receive_message()


FLOOD = f"os.write(2, b'written\\n')\nfor n in range(20_000): say({NEWS!r} % n)\nos.write(2, b'all said\\n')\n"


def test_what_nobody_receives_stays_in_the_pipe_and_waiting_costs_nothing() -> None:
    with paused(FLOOD + "serve()") as (transport, lines):
        wait_for("written", lines)
        time.sleep(0.3)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.1
        assert lines.empty()  # it waits for room on stdout
        assert [number_of(transport.receive_message()) for _ in range(20_000)] == list(range(20_000))
        wait_for("all said", lines)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.1  # nor does it once it is over


def test_a_process_that_waits_for_room_on_stdout_may_finish_when_it_is_ended() -> None:
    lines: queue.Queue[str] = queue.Queue()
    with server(FLOOD + "serve()", stderr=lines.put, max_pending_messages=100) as transport:
        wait_for("written", lines)
        time.sleep(0.3)
        transport.disconnect()
        wait_for("all said", lines)


# -- what the child sees -----------------------------------------------------------------------------------------------

SEES = """
greet()
serve(environ=lambda m: answer(m["id"], dict(os.environ)), cwd=lambda m: answer(m["id"], {"cwd": os.getcwd()}),
      fds=lambda m: answer(m["id"], {"fds": sorted(int(n) for n in os.listdir("/proc/self/fd"))}),
      session=lambda m: answer(m["id"], {"sid": os.getsid(0), "pid": os.getpid()}),
      argv=lambda m: answer(m["id"], {"argv": sys.argv}))
"""


def test_the_child_gets_safe_variables_and_those_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_TEST_TOKEN", "sesame-sesame")
    monkeypatch.setenv("LANG", "C.UTF-8")
    with talking(SEES, env={"COLOUR": "red"}, environment_additions={"SHAPE": "round", "COLOUR": "blue"}) as session:
        seen = session.send_request("environ")
    assert "MCP_TEST_TOKEN" not in seen
    assert (seen["LANG"], seen["SHAPE"]) == ("C.UTF-8", "round")
    assert seen["COLOUR"] == "red"  # env wins
    assert seen["PATH"] == os.environ["PATH"]


def test_a_filter_names_the_variables_that_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_TEST_TOKEN", "sesame-sesame")
    with talking(SEES, environment_filter=["MCP_TEST_TOKEN", "MCP_TEST_NO_SUCH"]) as session:
        seen = session.send_request("environ")
    assert seen["MCP_TEST_TOKEN"] == "sesame-sesame"
    assert "HOME" not in seen
    assert "MCP_TEST_NO_SUCH" not in seen


def test_the_child_starts_in_the_directory_it_is_told(tmp_path: Path) -> None:
    for knobs in ({"cwd": tmp_path}, {"working_directory": str(tmp_path)}):
        with talking(SEES, **knobs) as session:
            assert session.send_request("cwd") == {"cwd": str(tmp_path.resolve())}
    with pytest.raises(TypeError, match="not both"):
        StdioTransport("server", cwd=tmp_path, working_directory=tmp_path)


def test_the_child_inherits_no_descriptor_and_has_a_session_of_its_own() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)  # even such a one
    try:
        with talking(SEES) as first, talking(SEES) as second:
            for session in (first, second):
                fds = session.send_request("fds")["fds"]
                assert len(fds) == 4  # three, and the one that listed the folder
                assert fds[:3] == [0, 1, 2]
                own = session.send_request("session")
                assert own["sid"] == own["pid"]
    finally:
        os.close(reading)
        os.close(writing)


def test_no_shell_looks_at_the_words() -> None:
    words = ["$HOME", "a b", "*", "; touch x", "'", '"', "\\", "ü"]
    transport = StdioTransport(sys.executable, ["-c", SERVER + SEES, *words], timeout=T)
    with transport.create_session() as session:
        assert session.send_request("argv")["argv"][1:] == words


@pytest.mark.parametrize(
    ("command", "args", "kind"),
    [
        ("", (), ValueError),
        ([], (), TypeError),
        (42, (), TypeError),
        ("python", "server.py", TypeError),
        (["python", 3], (), TypeError),
        ("py\0thon", (), ValueError),
    ],
)
def test_what_is_no_command_is_refused(command: Any, args: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="command|args"):
        StdioTransport(command, args)


def test_secrets_are_masked_wherever_they_turn_up() -> None:
    secret = "hunter2-hunter2"
    program = """
        secret = os.environ["API_TOKEN"]
        say(f"my token is {secret}\\n")
        os.write(2, f"cannot log in with {secret}\\n".encode() * 500)
        os._exit(1)
        """
    transport = server(program, env={"API_TOKEN": secret})
    events: queue.Queue[Event] = queue.Queue()
    transport.observe(events.put)
    with pytest.raises(MCPConnectionError, match=r"\*\*\*") as found:
        transport.create_session()
    seen = f"{found.value} {found.value.details} {found.value!r} {transport!r} {list(events.queue)}"
    assert "my token is ***" in str(list(events.queue))
    assert "hunter2" not in seen


def test_a_secret_in_the_command_is_not_shown() -> None:
    transport = StdioTransport(["no-such-server", "--api-key", "hunter2-hunter2", "--url=http://me:hunter2@host/"])
    assert "hunter2" not in repr(transport)
    with pytest.raises(MCPConnectionError) as found:
        transport.connect()
    assert "hunter2" not in str(found.value) + str(found.value.details)


# -- it must not survive -----------------------------------------------------------------------------------------------


def pid_of(session: MCPSession) -> int:
    return int(session.send_request("pid")["pid"])


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


PID = "pid=lambda m: answer(m['id'], {'pid': os.getpid()})"
STUBBORN = {
    "polite": f"greet(); serve({PID})",
    "ignores the end of stdin": """
        greet()
        def pid(m):
            answer(m["id"], {"pid": os.getpid()})
            while True: time.sleep(60)
        serve(pid=pid)
        """,
    "immune to SIGTERM": """
        signal.signal(signal.SIGTERM, signal.SIG_IGN); greet(); m = ask()
        answer(m["id"], {"pid": os.getpid()})
        while True: time.sleep(60)
        """,
    "stopped": """
        greet(); m = ask()
        answer(m["id"], {"pid": os.getpid()})
        os.kill(os.getpid(), signal.SIGSTOP); time.sleep(60)
        """,
    "busy": """
        signal.signal(signal.SIGTERM, signal.SIG_IGN); greet(); m = ask()
        answer(m["id"], {"pid": os.getpid()})
        while True: pass
        """,
    "flooding": """
        signal.signal(signal.SIGTERM, signal.SIG_IGN); greet(); m = ask()
        answer(m["id"], {"pid": os.getpid()})
        while True: say(b'{"jsonrpc": "2.0", "method": "flood"}\\n'); os.write(2, b"x" * 1000)
        """,
}


@pytest.mark.parametrize("manner", STUBBORN)
@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_after_close_the_server_is_dead(manner: str, seconds: float) -> None:
    transport = server(STUBBORN[manner], shutdown_timeout=seconds)
    events: queue.Queue[Event] = queue.Queue()
    transport.observe(lambda event: events.put(event) if isinstance(event, ProcessEnded) else None)
    session = transport.create_session()
    pid = pid_of(session)
    began = time.monotonic()
    session.close()
    assert time.monotonic() - began < seconds + SLACK
    assert not is_alive(pid)
    with pytest.raises(ChildProcessError):  # no zombie either
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)


@pytest.mark.parametrize("manner", STUBBORN)
def test_where_there_is_no_waitid_the_server_is_dead_all_the_same(
    manner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "waitid")  # as on macOS before Python 3.13
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    with server(STUBBORN[manner], shutdown_timeout=0.5) as transport:
        session = transport.create_session()
        pid = pid_of(session)
        session.close()
    assert not is_alive(pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_where_there_is_no_waitid_the_exit_status_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "waitid")
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    for end, status in (("os._exit(7)", 7), ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL)):
        with pytest.raises(MCPConnectionError) as found:
            server(end).create_session()
        assert found.value.details["exit_status"] == status


def test_a_polite_server_may_finish_what_it_does() -> None:
    program = f"""
        greet()
        try: serve({PID})
        finally: os.write(2, b"saved\\n")
        """
    lines: queue.Queue[str] = queue.Queue()
    with talking(program, stderr=lines.put) as session:
        pid = pid_of(session)
    assert not is_alive(pid)
    assert lines.get(timeout=T) == "saved"


def test_grandchildren_go_too_unless_they_are_to_stay() -> None:
    program = """
        greet(); m = ask()
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        answer(m["id"], {"pid": child.pid}); serve()
        """
    with talking(program) as session:
        grandchild = pid_of(session)
        assert is_alive(grandchild)
    patience = time.monotonic() + T
    while is_alive(grandchild):  # killed; whoever adopted it has to notice
        assert time.monotonic() < patience
    with talking(program, kill_tree=False) as session:
        grandchild = pid_of(session)
    assert is_alive(grandchild)
    os.kill(grandchild, signal.SIGKILL)


def test_the_end_of_the_process_is_told_to_observers() -> None:
    transport = server("greet(); ask(); os._exit(6)")
    events: queue.Queue[Event] = queue.Queue()
    transport.observe(events.put)
    session = transport.create_session()
    with pytest.raises(MCPConnectionError):
        session.send_request("work")
    while not isinstance(event := events.get(timeout=T), ProcessEnded):
        pass
    assert event.status == 6
    session.close()


def test_where_somebody_else_collects_children_the_status_is_unknown_and_never_0() -> None:
    script = f"""
        import signal, sys
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        from mcp_sync import MCPConnectionError, StdioTransport
        try:
            StdioTransport([sys.executable, "-c", "import sys; sys.exit(3)"], timeout={T}).create_session()
        except MCPConnectionError as error:
            assert error.details["exit_status"] is None, error.details
            assert "unknown" in str(error), error
            print("unknown")
        """
    assert run(script) == "unknown"


def run(script: str, timeout: float = 30.0) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", dedent(script)], capture_output=True, text=True, timeout=timeout, env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


# -- close(), in every state -------------------------------------------------------------------------------------------


def test_it_may_be_closed_while_it_connects() -> None:
    transport = server("time.sleep(60)", shutdown_timeout=0.3).connect()
    errors: queue.Queue[BaseException] = queue.Queue()

    def connect(number: int) -> None:
        if number:
            while not transport._line or not transport._line.claimed:
                pass
            transport.disconnect()
            return
        try:
            transport.create_session()
        except MCPConnectionError as error:
            errors.put(error)

    began = time.monotonic()
    in_threads(2, connect)
    assert "closed" in str(errors.get(timeout=T))
    assert time.monotonic() - began < 0.3 + 1.0


def test_it_may_be_closed_while_a_call_writes() -> None:
    session = server("greet(); time.sleep(60)", shutdown_timeout=0.3).create_session()
    errors: queue.Queue[BaseException] = queue.Queue()

    def call(number: int) -> None:
        if number == 3:
            while session.counters["pending"] < 3:
                pass
            session.close()
            return
        try:
            session.send_request("work", {"x": "y" * 1_000_000})
        except MCPConnectionError as error:
            errors.put(error)

    began = time.monotonic()
    in_threads(4, call)
    assert [type(errors.get(timeout=T)) for _ in range(3)] == [MCPConnectionError] * 3
    assert time.monotonic() - began < 0.3 + 1.0


def test_it_may_be_closed_after_death_and_many_times() -> None:
    session = server("greet(); ask(); os._exit(0)").create_session()
    with pytest.raises(MCPConnectionError):
        session.send_request("work")
    in_threads(8, lambda _: session.close())
    session.close()


def test_a_close_with_little_time_kills_at_once() -> None:
    session = server(STUBBORN["immune to SIGTERM"]).create_session()
    pid = pid_of(session)
    began = time.monotonic()
    session.close(timeout=0.3)
    assert time.monotonic() - began < 0.3 + SLACK
    assert not is_alive(pid)


def test_a_thousand_descriptors_are_no_limit() -> None:
    files = [open(os.devnull) for _ in range(1100)] if resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1200 else []  # noqa: SIM115
    try:
        with talking("greet(); serve()") as session:
            assert session.send_request("echo") == {}
    finally:
        for file in files:
            file.close()


# -- where pidfds are missing ------------------------------------------------------------------------------------------


def test_without_pidfds_everything_works_a_little_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_open_pidfd", lambda pid: -1)
    with talking("greet(); serve(die=lambda m: os._exit(7))") as session:
        assert session.send_request("echo", {"a": 1}) == {"a": 1}
        with pytest.raises(MCPConnectionError, match="exit status 7"):
            session.send_request("die")


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------

INTERRUPTED = f"""
import signal, sys, threading, time
from mcp_sync import MCPError, StdioTransport
SERVER = {SERVER!r}
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored where a shell started us in the background

def talk(program, **knobs):
    return StdioTransport([sys.executable, "-c", SERVER + program], timeout=20, **knobs)

def interrupted(work, after=0.3):
    main = threading.main_thread().ident
    threading.Timer(after, signal.pthread_kill, (main, signal.SIGINT)).start()
    began = time.monotonic()
    try:
        work()
    except KeyboardInterrupt:
        assert time.monotonic() - began < after + 0.5, time.monotonic() - began
        return
    raise AssertionError("not interrupted")
"""


def test_ctrl_c_in_a_call_raises_and_the_session_is_usable() -> None:
    script = """
        session = talk("greet(); serve(hold=lambda m: None)").create_session()
        for _ in range(3):
            interrupted(lambda: session.send_request("hold"))
            assert session.send_request("echo", {"a": 1}) == {"a": 1}
        future = session.submit_request("hold")
        interrupted(lambda: future.result())
        assert session.counters["cancelled"] == 3
        session.close()
        print("fine")
        """
    assert run(INTERRUPTED + dedent(script)) == "fine"


def test_ctrl_c_while_writing_leaves_no_torn_message() -> None:
    script = """
        session = talk("greet(); time.sleep(1.0); serve(work=lambda m: None)").create_session()
        interrupted(lambda: session.send_request("work", {"x": "y" * 1_000_000}))
        assert session.send_request("echo", {"a": 1}) == {"a": 1}
        session.close()
        print("fine")
        """
    assert run(INTERRUPTED + dedent(script)) == "fine"


def test_ctrl_c_while_connecting_and_receiving_leaves_nothing_behind() -> None:
    script = """
        import os
        transport = talk("time.sleep(60)", shutdown_timeout=0.3)
        interrupted(transport.create_session)
        transport.connect()
        interrupted(lambda: transport.receive_message())
        transport.disconnect()
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            print("fine")
        """
    assert run(INTERRUPTED + dedent(script)) == "fine"


def test_ctrl_c_of_the_terminal_does_not_reach_the_server() -> None:
    program = "greet(); serve(group=lambda m: answer(m['id'], {'group': os.getpgid(0), 'pid': os.getpid()}))"
    with talking(program) as session:
        own = session.send_request("group")
        assert own["group"] == own["pid"] != os.getpgid(0)


# -- odds and ends -----------------------------------------------------------------------------------------------------


def test_what_json_cannot_say_is_refused_and_nothing_is_written() -> None:
    with talking("greet(); serve(count=lambda m: answer(m['id'], {'id': m['id']}))") as session:
        with pytest.raises(LocalProtocolError, match=r"params\.a"):
            session.send_request("echo", {"a": object()})
        assert session.send_request("echo", {"a": 1}) == {"a": 1}


def test_lines_may_end_in_carriage_returns_and_hold_odd_separators() -> None:
    program = """
        greet()
        def odd(m):
            result = {"jsonrpc": "2.0", "id": m["id"], "result": {"x": "a\\u2028b\\u0085c"}}
            say("  " + json.dumps(result, ensure_ascii=False) + " \\r\\n")
        serve(odd=odd)
        """
    with talking(program) as session:
        assert session.send_request("odd") == {"x": "a\u2028b\x85c"}


def test_an_answer_may_come_in_the_smallest_pieces() -> None:
    program = """
        greet(); m = ask()
        result = {"jsonrpc": "2.0", "id": m["id"], "result": {"x": "grüße"}}
        for byte in json.dumps(result, ensure_ascii=False).encode(): say(bytes([byte]))
        say("\\n"); serve()
        """
    with talking(program) as session:
        assert session.send_request("work") == {"x": "grüße"}


def test_ten_megabytes_go_there_and_back() -> None:
    with talking("greet(); serve()") as session:
        text = "x" * 10_000_000
        assert session.send_request("echo", {"x": text}, timeout=30)["x"] == text
    assert json.dumps(text)
