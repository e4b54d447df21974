"""Ctrl-C ends whatever waits, at once, and leaves it usable or closed; other signals disturb nothing."""

from __future__ import annotations

import os
import signal

import pytest

from hosts.nursery import SESSION, Script, Scripts, Servers, until

AT_ONCE = 1.0
"""FAULTS.md, I16, wants 0.2 s; the rest is for a busy machine."""

WATCH = """
import sys
waits = {"wait", "sleep", "_sleep", "fetch", "take", "_await_room", "join", "_wait_for_tstate_lock"}
def watch(pending=0):
    "Say so when the main thread waits in one of these functions, and so many calls are pending."
    begun, seen = threading.Event(), 0
    def look():
        begun.wait()
        steady = 0
        while steady < 5:
            frame = sys._current_frames()[threading.main_thread().ident]
            waiting = frame.f_code.co_name in waits and (not pending or session.counters["pending"] >= pending)
            steady = steady + 1 if waiting else 0
            time.sleep(0.002)
        say("waiting")
    threading.Thread(target=look).start()
    begun.set()
def interrupted():
    say("interrupted", time.monotonic())
def all_threads_end():
    deadline = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < deadline: time.sleep(0.01)
    assert threading.active_count() == 1, threading.enumerate()
"""


def interrupt(script: Script) -> None:
    """Press Ctrl-C, and see that it is noticed at once."""
    __tracebackhide__ = True
    moment = script.signal(signal.SIGINT)
    assert float(script.wait_for("interrupted")) - moment < AT_ONCE


def assert_ended_well(script: Script, servers: Servers) -> None:
    __tracebackhide__ = True
    ended = script.end()
    assert ended.code == 0, ended.stderr
    assert ended.stderr == ""
    assert servers.gone(0.5)


# -- one Ctrl-C -------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_call_at_once_and_the_session_is_usable(python: str, scripts: Scripts, servers: Servers) -> None:
    text = """
watch()
try: tool("hang")
except KeyboardInterrupt: interrupted()
assert session.counters["pending"] == 0
assert tool("add", a=20, b=3) == "23"
session.close()
all_threads_end()
"""
    script = scripts.start(SESSION + WATCH + text, servers.command(), python)
    script.wait_for("waiting")
    interrupt(script)
    assert_ended_well(script, servers)


def test_ctrl_c_tells_the_server_that_nobody_waits_any_more(scripts: Scripts, servers: Servers, tmp_path) -> None:
    text = """
watch()
try: tool("slow", seconds=0.5)
except KeyboardInterrupt: interrupted()
assert tool("slow", seconds=0.6) == "slept"
assert session.counters["cancelled"] == 1
assert session.counters["dropped_late"] == 1
"""
    script = scripts.start(SESSION + WATCH + text, servers.command())
    script.wait_for("waiting")
    interrupt(script)
    assert_ended_well(script, servers)


@pytest.mark.parametrize("waiting", ["future.result()", "concurrent.futures.wait([future])", "next(session.listen())"])
def test_ctrl_c_ends_every_way_to_wait(waiting: str, python: str, scripts: Scripts, servers: Servers) -> None:
    text = f"""
import concurrent.futures
future = session.submit_request("tools/call", {{"name": "hang"}})
watch()
try: {waiting}
except KeyboardInterrupt: interrupted()
assert future.cancel()
assert tool("add", a=20, b=3) == "23"
"""
    script = scripts.start(SESSION + WATCH + text, servers.command(), python)
    script.wait_for("waiting")
    interrupt(script)
    assert_ended_well(script, servers)


def test_ctrl_c_ends_receiving_a_message(python: str, scripts: Scripts, servers: Servers) -> None:
    text = """
from mcp_sync import StdioTransport
with StdioTransport(COMMAND) as transport:
    watch()
    try: transport.receive_message()
    except KeyboardInterrupt: interrupted()
    transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "server/discover"})
    assert transport.receive_message()["id"] == 1
"""
    script = scripts.start(WATCH + text, servers.command(), python)
    script.wait_for("waiting")
    interrupt(script)
    assert_ended_well(script, servers)


def test_ctrl_c_ends_a_write_to_a_server_that_reads_nothing(python: str, scripts: Scripts, servers: Servers) -> None:
    text = """
tool("hold")
big = "x" * 1_000_000
watch()
try: tool("add", a=big, b=big)
except KeyboardInterrupt: interrupted()
try: tool("add", timeout=0.3, a=1, b=1)  # behind the rest of the big one, which nobody reads
except MCPError as error: say(type(error).__name__)
session.close(0.5)
all_threads_end()
"""
    script = scripts.start(SESSION + WATCH + text, servers.command(), python)
    script.wait_for("waiting")
    interrupt(script)
    assert_ended_well(script, servers)
    assert script.lines[-1] == "MCPTimeoutError"


@pytest.mark.parametrize("manners", [("late=0.6",), ("late=0.6", "deaf")], ids=" ".join)
def test_ctrl_c_ends_connecting_at_once_and_leaves_nothing(
    manners: tuple[str, ...], python: str, scripts: Scripts, servers: Servers
) -> None:
    text = """
from mcp_sync import StdioTransport
transport = StdioTransport(COMMAND)
try: transport.create_session()
except KeyboardInterrupt: interrupted()
all_threads_end()
say("clean")
signal.pause()
"""
    script = scripts.start(WATCH + text, servers.command(*manners), python)
    assert until(servers.alive), script.stderr
    interrupt(script)
    script.wait_for("clean")
    assert servers.gone(), "the script goes on, but not its server"


def test_a_client_whose_connecting_was_interrupted_connects_when_asked_again(
    scripts: Scripts, servers: Servers
) -> None:
    text = """
from mcp_sync import Client
client = Client(COMMAND)
try: client.connect()
except KeyboardInterrupt: interrupted()
assert not client.connected
assert client.call_tool("add", {"a": 20, "b": 3}).text == "23"
client.close()
all_threads_end()
"""
    script = scripts.start(WATCH + text, servers.command("late=0.6"))
    assert until(servers.alive), script.stderr
    interrupt(script)
    assert_ended_well(script, servers)
    assert servers.started == 2


def test_ctrl_c_ends_closing_at_once_and_closing_again_finishes_it(
    python: str, scripts: Scripts, servers: Servers
) -> None:
    text = """
watch()
try: session.close()
except KeyboardInterrupt: interrupted()
try: tool("add", a=1, b=1)
except MCPError as error: assert error.may_have_run is False
session.close()
all_threads_end()
say("clean")
signal.pause()
"""
    script = scripts.start(SESSION + WATCH + text, servers.command("linger=1"), python)
    script.wait_for("waiting")
    interrupt(script)
    script.wait_for("clean")
    assert servers.gone(0.5)
    assert servers.farewells() == 1


def test_ctrl_c_in_the_main_thread_costs_other_threads_nothing(python: str, scripts: Scripts, servers: Servers) -> None:
    text = """
answers = []
def work(n):
    answers.append(tool("slow", seconds=0.5))
    answers.append(tool("add", a=n, b=n))
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
watch(5)
try: tool("hang")
except KeyboardInterrupt: interrupted()
for thread in threads: thread.join()
assert sorted(answers) == ["0", "2", "4", "6"] + ["slept"] * 4, answers
"""
    script = scripts.start(SESSION + WATCH + text, servers.command(), python)
    script.wait_for("waiting")
    interrupt(script)
    assert_ended_well(script, servers)


def test_ctrl_c_that_nobody_catches_ends_the_script_as_it_should(
    python: str, scripts: Scripts, servers: Servers
) -> None:
    script = scripts.start(f"{SESSION}{WATCH}watch()\ntool('hang')", servers.command(), python)
    script.wait_for("waiting")
    script.signal(signal.SIGINT)
    ended = script.end()
    assert ended.code == -signal.SIGINT
    assert ended.stderr.endswith("KeyboardInterrupt\n")
    assert ended.stderr.count("Traceback") == 1
    assert servers.gone(0.5)


def test_a_terminals_ctrl_c_reaches_the_script_and_not_its_server(scripts: Scripts, servers: Servers) -> None:
    text = """
server = json.loads(tool("whoami"))
assert server["parent"] == os.getpid()
assert server["session"] == server["pid"] != os.getsid(0)
watch()
try: tool("hang")
except KeyboardInterrupt: interrupted()
assert json.loads(tool("whoami")) == server
"""
    script = scripts.start(SESSION + WATCH + text, servers.command())
    script.wait_for("waiting")
    os.killpg(script.process.pid, signal.SIGINT)  # as a terminal does: to the whole process group
    script.wait_for("interrupted")
    assert_ended_well(script, servers)


# -- storms -----------------------------------------------------------------------------------------------------------


def test_a_storm_of_signals_with_a_handler_disturbs_nothing(python: str, scripts: Scripts, servers: Servers) -> None:
    text = """
heard = [0]
def hear(*_): heard[0] += 1
signal.signal(signal.SIGALRM, hear)
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
for n in range(200):
    assert tool("add", a=n, b=1) == str(n + 1)
    assert tool("slow", seconds=0.001) == "slept"
assert tool("add", a="x" * 3_000_000, b="y").endswith("xy")
for _ in range(3): StdioTransport(COMMAND).create_session().close()
session.close()
signal.setitimer(signal.ITIMER_REAL, 0)
assert heard[0] > 50, heard
"""
    script = scripts.start(SESSION + text, servers.command(), python)
    assert_ended_well(script, servers)


STORM = """
import random, sys
from mcp_sync import MCPConnectionError
def where_nobody_can_catch_it(found):
    "In a weakref's callback, say: Python prints it, and goes on."
    if not issubclass(found.exc_type, KeyboardInterrupt): sys.__unraisablehook__(found)
sys.unraisablehook = where_nobody_can_catch_it
dice = random.Random(7)
armed = False
def raise_it(*_):
    if armed: raise KeyboardInterrupt
signal.signal(signal.SIGALRM, raise_it)
def interrupted(work, longest):
    "Whether the work was interrupted, at some random moment."
    global armed
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.00001, longest))
        work()
        return False
    except KeyboardInterrupt:
        return True
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_a_session_interrupted_hundreds_of_times_is_usable_or_closed(
    python: str, scripts: Scripts, servers: Servers
) -> None:
    text = """
interruptions = closings = slowest = 0
for n in range(600):
    def work():
        for _ in range(500): tool("add", a=n, b=1)
    try:
        interruptions += interrupted(work, 0.004)
    except MCPConnectionError:
        pass
    began = time.monotonic()
    try:
        assert tool("add", 3, a=n, b=2) == str(n + 2)
    except MCPConnectionError:
        closings += 1
        session.close()
        session = transport.create_session()
    slowest = max(slowest, time.monotonic() - began)
counters = session.counters
assert counters["sent"] == sum(counters[key] for key in ("ok", "error", "timeout", "cancelled", "pending")), counters
session.close()
say("storm", interruptions, closings, slowest, counters["pending"])
"""
    script = scripts.start(SESSION + STORM + text, servers.command(), python)
    assert_ended_well(script, servers)
    interruptions, closings, slowest, pending = map(float, script.said("storm")[0].split())
    assert interruptions > 300
    assert closings < 10
    assert slowest < AT_ONCE


def test_connecting_interrupted_many_times_leaves_nothing_behind(
    python: str, scripts: Scripts, servers: Servers
) -> None:
    text = """
from mcp_sync import StdioTransport
transport = StdioTransport(COMMAND)
def children():
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    except ChildProcessError:
        return False
def threads():
    "Those that run; one that Ctrl-C kept from starting is listed for ever."
    return [thread for thread in threading.enumerate() if thread.is_alive()]
def settled():
    return len(threads()) == 1 and not children()
transport.create_session().close()
descriptors = len(os.listdir("/dev/fd"))
interruptions = 0
for n in range(60):
    interruptions += interrupted(lambda: transport.create_session().close(), 0.04)
import gc
gc.collect()
deadline = time.monotonic() + 5
while not settled() and time.monotonic() < deadline: time.sleep(0.01)
assert len(threads()) == 1, threads()
assert not children(), os.popen(f"ps --ppid {os.getpid()} -o pid,stat,args").read()
assert len(os.listdir("/dev/fd")) == descriptors, os.listdir("/dev/fd")
say("storm", interruptions)
"""
    script = scripts.start(STORM + text, servers.command(), python)
    assert_ended_well(script, servers)
    assert int(script.said("storm")[0]) > 15


def test_models_whose_import_was_interrupted_can_be_imported_again(scripts: Scripts, servers: Servers) -> None:
    text = """
from mcp_sync import Client
client = Client(COMMAND)
for n in range(40):
    if not interrupted(client.connect, 0.25): client.close(); client = Client(COMMAND)
assert client.call_tool("add", {"a": 20, "b": 3}).text == "23"
client.close()
"""
    script = scripts.start(STORM + text, servers.command())
    assert_ended_well(script, servers)
