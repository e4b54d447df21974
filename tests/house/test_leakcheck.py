"""The check that guards all other tests finds what it is there to find."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from house import leakcheck

TESTS = Path(__file__).parent.parent
SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]  # ends when its stdin does

LEAKY_SUITE = """
import os
import subprocess
import sys
import threading

import pytest

kept = []

def test_clean():
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    os.close(os.open(os.devnull, os.O_RDONLY))

def test_thread():
    thread = threading.Thread(target=threading.Event().wait, name="left-alone", daemon=True)
    thread.start()

def test_child():
    kept.append(subprocess.Popen([sys.executable, "-c", ""]))

def test_descriptor():
    os.open(os.devnull, os.O_RDONLY)

def test_exception():
    thread = threading.Thread(target=int, args=["not a number"], name="unlucky")
    thread.start()
    thread.join()

@pytest.mark.leaks("to show that a reason is accepted")
def test_excused():
    os.open(os.devnull, os.O_RDONLY)

@pytest.mark.leaks
def test_without_a_reason():
    pass
"""


@pytest.fixture
def before() -> leakcheck.Snapshot:
    return leakcheck.take()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE) as process:
        yield process


def test_a_clean_moment_has_no_leaks_and_costs_no_wait(before: leakcheck.Snapshot) -> None:
    started = time.monotonic()
    assert leakcheck.leaks_since(before, patience=60) == []
    assert time.monotonic() - started < 1


def test_a_thread_is_found(before: leakcheck.Snapshot) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="survivor")
    thread.start()
    assert leakcheck.leaks_since(before, patience=0) == ["thread survivor"]
    end.set()
    thread.join()
    assert leakcheck.leaks_since(before) == []


def test_a_thread_that_is_ending_gets_its_time(before: leakcheck.Snapshot) -> None:
    thread = threading.Timer(0.05, int)
    thread.start()
    assert leakcheck.leaks_since(before, patience=30) == []


@pytest.mark.parametrize("name", ["mcp-deadlines", "pytest_timeout tests/test_x.py::test_y"])
def test_a_thread_that_belongs_to_the_process_is_no_leak(before: leakcheck.Snapshot, name: str) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name=name)
    thread.start()
    assert leakcheck.leaks_since(before, patience=0) == []
    end.set()
    thread.join()


@pytest.mark.parametrize("name", ["mcp-deadlines-2", "mcp-stdio-1-reader", "my pytest_timeout"])
def test_a_thread_with_a_similar_name_is_a_leak(before: leakcheck.Snapshot, name: str) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name=name)
    thread.start()
    assert leakcheck.leaks_since(before, patience=0) == [f"thread {name}"]
    end.set()
    thread.join()


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="children are found in /proc")
class TestWhereProcIs:
    def test_a_running_child_is_found(self, before: leakcheck.Snapshot, child: subprocess.Popen[bytes]) -> None:
        [leak] = [line for line in leakcheck.leaks_since(before, patience=0) if line.startswith("child")]
        assert leak.startswith(f"child process {child.pid}: ")
        assert "sys.stdin.read()" in leak

    def test_a_child_that_nobody_waited_for_is_found(self, before: leakcheck.Snapshot) -> None:
        process = subprocess.Popen([sys.executable, "-c", ""])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
        assert leakcheck.leaks_since(before, patience=0) == [
            f"child process {process.pid}: ended, but nobody waited for it"
        ]
        process.wait()
        assert leakcheck.leaks_since(before, patience=0) == []

    def test_a_child_from_before_is_no_leak(self, child: subprocess.Popen[bytes]) -> None:
        assert leakcheck.leaks_since(leakcheck.take(), patience=0) == []

    def test_a_descriptor_is_found_with_its_target(self, before: leakcheck.Snapshot) -> None:
        number = os.open(os.devnull, os.O_RDONLY)
        assert leakcheck.leaks_since(before, patience=0) == [f"descriptor {number} -> {os.devnull}"]
        os.close(number)
        assert leakcheck.leaks_since(before, patience=0) == []

    def test_a_number_that_is_used_again_is_found(self) -> None:
        number = os.open(os.devnull, os.O_RDONLY)
        before = leakcheck.take()
        os.close(number)
        again = os.open(os.sep, os.O_RDONLY)
        assert again == number
        assert leakcheck.leaks_since(before, patience=0) == [f"descriptor {number} -> {os.sep}"]
        os.close(again)

    def test_a_descriptor_in_a_reference_cycle_is_collected_first(self, before: leakcheck.Snapshot) -> None:
        gc.collect()
        gc.disable()
        cycle = [_Holder()]
        cycle.append(cycle)  # type: ignore[arg-type]
        del cycle
        assert leakcheck.leaks_since(before, patience=0) == []
        gc.enable()


class _Holder:
    """Closes its descriptor when it is collected, silently, unlike a socket."""

    def __init__(self) -> None:
        self.number = os.open(os.devnull, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.number)


def test_an_exception_in_a_thread_is_found_with_its_traceback() -> None:
    with leakcheck.uncaught_in_threads() as found:
        thread = threading.Thread(target=int, args=["not a number"], name="unlucky")
        thread.start()
        thread.join()
    [report] = found
    assert report.startswith("exception in thread unlucky:\nTraceback")
    assert "ValueError: invalid literal" in report


def test_a_thread_that_exits_politely_is_no_exception() -> None:
    with leakcheck.uncaught_in_threads() as found:
        thread = threading.Thread(target=sys.exit, args=[1])
        thread.start()
        thread.join()
    assert found == []


def test_the_hook_is_put_back() -> None:
    previous = threading.excepthook
    with leakcheck.uncaught_in_threads():
        assert threading.excepthook is not previous
    assert threading.excepthook is previous


def test_the_fixture_fails_each_test_that_leaks(pytester: pytest.Pytester) -> None:
    result = _run(pytester, LEAKY_SUITE)
    result.assert_outcomes(passed=6, errors=5)  # one never starts: its marker has no reason
    for leak in ["thread left-alone", "child process *", "descriptor * -> /dev/null", "exception in thread unlucky:*"]:
        result.stdout.fnmatch_lines(["*left behind:", f"*{leak}"])
    result.stdout.fnmatch_lines(["leaks wants a reason: *"])
    for name in ["test_clean", "test_excused"]:
        result.stdout.no_fnmatch_line(f"ERROR *{name}*")


def _run(pytester: pytest.Pytester, suite: str) -> pytest.RunResult:
    """Run a suite in a child, under the conftest of this house, with less patience."""
    hurry = "\nleakcheck.PATIENCE = 0.05\n"
    pytester.makeconftest((TESTS / "conftest.py").read_text("utf-8") + hurry)
    pytester.makeini(f"[pytest]\npythonpath = {TESTS}\nmarkers =\n    leaks(reason): excused\n")
    pytester.makepyfile(suite)
    return pytester.runpytest_subprocess()
