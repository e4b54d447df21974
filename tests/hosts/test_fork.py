"""After a fork the child has a connection of its own or a clear error, and the parent notices nothing."""

from __future__ import annotations

import http.client
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hosts import install
from hosts.nursery import CLIENT, SESSION, Ended, Script, Scripts, Servers, until

CHILD = """
import traceback, warnings
faulthandler.cancel_dump_traceback_later()  # its thread would be missed at the end of a forked child
signal.alarm(20)
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # since 3.12
def fork(work):
    "Do the work in a child, which has ten seconds; returns its process number."
    pid = os.fork()
    if pid: return pid
    signal.alarm(10)
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
def child(work):
    assert ended_well(fork(work))
def ended_well(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
def refused(work):
    began = time.monotonic()
    try: work()
    except ForkedClientError as error: assert error.may_have_run is False or not error.details, error.may_have_run
    else: raise AssertionError("no error")
    assert time.monotonic() - began < 0.5
"""


def assert_ended_well(ended: Ended, servers: Servers, started: int) -> None:
    __tracebackhide__ = True
    assert ended.code == 0, ended.stderr
    assert ended.stderr == ""
    assert servers.started == started
    assert servers.gone(0.5)


# -- sessions and transports ------------------------------------------------------------------------------------------


def test_a_session_of_the_parent_raises_at_once_and_the_parents_goes_on(
    python: str, scripts: Scripts, servers: Servers
) -> None:
    text = """
from mcp_sync import ForkedClientError
def work():
    refused(lambda: tool("add", a=1, b=1))
    refused(lambda: session.submit_request("tools/list"))
    refused(lambda: session.send_notification("notifications/initialized"))
    refused(lambda: list(session.send_streaming_request("tools/list")))
    session.close()
    other = transport.create_session()  # the recipe is as good as ever
    assert other.send_request("tools/list")["tools"]
    other.close()
server = tool("whoami")
for _ in range(3): child(work)
assert tool("whoami") == server
"""
    assert_ended_well(scripts.run(SESSION + CHILD + text, servers.command(), python), servers, 4)


def test_a_connected_transport_of_the_parent_raises_at_once(python: str, scripts: Scripts, servers: Servers) -> None:
    text = """
from mcp_sync import ForkedClientError, StdioTransport
transport = StdioTransport(COMMAND).connect()
def ask(id):
    transport.send_message({"jsonrpc": "2.0", "id": id, "method": "server/discover"})
def work():
    refused(lambda: ask(1))
    refused(transport.receive_message)
    assert not transport.connected
    transport.connect()
    ask(7)
    assert transport.receive_message()["id"] == 7
    transport.disconnect()
child(work)
ask(2)
assert transport.receive_message()["id"] == 2
"""
    assert_ended_well(scripts.run(CHILD + text, servers.command(), python), servers, 2)


def test_calls_in_flight_are_the_parents_and_end_there(python: str, scripts: Scripts, servers: Servers) -> None:
    text = """
from mcp_sync import ForkedClientError
answers = []
thread = threading.Thread(target=lambda: answers.append(tool("slow", seconds=0.4)))
thread.start()
future = session.submit_request("tools/call", {"name": "slow", "arguments": {"seconds": 0.4}})
while session.counters["pending"] < 2: time.sleep(0.001)
def work():
    refused(lambda: future.result(5))
    assert not future.cancel()
child(work)
thread.join()
assert answers == ["slept"]
assert future.result(5)["content"]
"""
    assert_ended_well(scripts.run(SESSION + CHILD + text, servers.command(), python), servers, 1)


@pytest.mark.parametrize("leaving", ["os._exit(0)", "sys.exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_however_the_child_ends_the_parents_connection_is_unharmed(
    leaving: str, python: str, scripts: Scripts, servers: Servers
) -> None:
    text = f"""
pid = os.fork()
if not pid:
    {leaving}
os.waitpid(pid, 0)
assert tool("add", a=2, b=2) == "4"
"""
    assert_ended_well(scripts.run(SESSION + CHILD + text, servers.command(), python), servers, 1)


def test_a_child_that_lives_on_keeps_no_server_of_the_parent_alive(
    python: str, scripts: Scripts, servers: Servers
) -> None:
    text = "pid = fork(lambda: signal.pause())\nsession.close()\nsay('closed')\nsignal.pause()"
    script = scripts.start(SESSION + CHILD + text, servers.command("linger=0"), python)
    script.wait_for("closed")
    assert servers.gone(0.5)
    assert servers.farewells() == 1, "its stdin has ended, though the child was forked while it was open"


# -- clients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaving", ["client.close()", "pass", "sys.exit()"])
def test_a_client_dials_anew_in_the_child(leaving: str, scripts: Scripts, servers: Servers) -> None:
    text = f"""
server = client.call_tool("whoami").text
pid = os.fork()
if not pid:
    own = json.loads(client.call_tool("whoami").text)
    assert own["parent"] == os.getpid(), own
    assert client.list_tools()[0].name == "add"
    {leaving}
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert client.call_tool("whoami").text == server
client.close()
"""
    assert_ended_well(scripts.run(CLIENT + CHILD + text, servers.command()), servers, 2)


def test_a_closed_client_is_closed_in_the_child_too(scripts: Scripts, servers: Servers) -> None:
    text = """
client.close()
def work():
    try: client.ping()
    except MCPError as error: assert "closed" in str(error)
    else: raise AssertionError("no error")
child(work)
"""
    assert_ended_well(scripts.run(CLIENT + CHILD + text, servers.command()), servers, 1)


def test_a_child_of_a_child_has_a_connection_of_its_own_too(scripts: Scripts, servers: Servers) -> None:
    text = """
def work():
    assert client.call_tool("add", {"a": 1, "b": 1}).text == "2"
    if generations.pop(): child(work)
    assert client.call_tool("add", {"a": 2, "b": 2}).text == "4"
generations = [False, True]
child(work)
assert client.call_tool("add", {"a": 3, "b": 3}).text == "6"
"""
    assert_ended_well(scripts.run(CLIENT + CHILD + text, servers.command()), servers, 3)


def test_forks_under_load_cost_neither_side_an_answer(scripts: Scripts, servers: Servers) -> None:
    text = """
answers, over = [], threading.Event()
def load(n):
    while not over.is_set():
        assert client.call_tool("add", {"a": n, "b": 1}).text == str(n + 1)
        assert client.submit_tool("add", {"a": n, "b": 2}).result(10).text == str(n + 2)
        client.call_tool("notify", {"n": 3}, on_progress=lambda *_: None)
    answers.append(n)
threads = [threading.Thread(target=load, args=(n,)) for n in range(3)]
for thread in threads: thread.start()
def work():
    assert client.call_tool("add", {"a": 20, "b": 3}).text == "23"
    assert client.submit_tool("add", {"a": 20, "b": 4}).result(10).text == "24"
    client.close()
for _ in range(15):
    child(work)
over.set()
for thread in threads: thread.join()
assert sorted(answers) == [0, 1, 2]
client.close()
"""
    assert_ended_well(scripts.run(CLIENT + CHILD + text, servers.command()), servers, 16)


def test_forks_under_load_leave_no_lock_of_a_session_held(python: str, scripts: Scripts, servers: Servers) -> None:
    text = """
from mcp_sync import ForkedClientError
sys.setswitchinterval(1e-6)
over = threading.Event()
def load():
    while not over.is_set():
        future = session.submit_request("tools/call", {"name": "notify", "arguments": {"n": 20}})
        future.add_done_callback(lambda future: None)
        future.result(10)
threads = [threading.Thread(target=load) for _ in range(4)]
for thread in threads: thread.start()
def work():
    refused(lambda: tool("add", a=1, b=1))
    called = threading.Event()
    future.add_done_callback(lambda future: called.set())
    assert called.wait(5)
    future.exception(5)
    session.close()
    transport.close()
for _ in range(100):
    future = session.submit_request("tools/call", {"name": "slow", "arguments": {"seconds": 0.001}})
    child(work)
over.set()
for thread in threads: thread.join()
session.close()
"""
    assert_ended_well(scripts.run(SESSION + CHILD + text, servers.command(), python), servers, 1)


def test_forks_while_another_thread_connects_hang_nobody(scripts: Scripts, servers: Servers) -> None:
    text = """
over, made = threading.Event(), []
def connect():
    while not over.is_set():
        with Client(COMMAND) as other: made.append(other.call_tool("add", {"a": 1, "b": 1}).text)
thread = threading.Thread(target=connect)
thread.start()
def work():
    assert client.call_tool("add", {"a": 20, "b": 3}).text == "23"
    client.close()
for _ in range(15):
    child(work)
over.set()
thread.join()
assert set(made) == {"2"}
client.close()
"""
    ended = scripts.run(CLIENT + CHILD + text, servers.command())
    assert ended.code == 0, ended.stderr
    assert ended.stderr == ""
    assert servers.gone(0.5)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works_with_a_client_that_is_a_global(method: str, scripts: Scripts, servers: Servers) -> None:
    text = """
import multiprocessing
from mcp_sync import Client
client = Client(COMMAND)
def add(n):
    return int(client.call_tool("add", {"a": n, "b": n}).text), os.getpid()
if __name__ == "__main__":
    assert add(1)[0] == 2
    with multiprocessing.get_context("METHOD").Pool(2) as pool:
        answers = pool.map(add, range(20), chunksize=1)
        pool.close()
        pool.join()
    assert [answer for answer, _ in answers] == list(range(0, 40, 2))
    assert os.getpid() not in {pid for _, pid in answers}
    assert add(3)[0] == 6
    client.close()
"""
    ended = scripts.run(text.replace("METHOD", method), servers.command())
    assert ended.code == 0, ended.stderr
    assert ended.stderr == ""
    assert 2 <= servers.started <= 3
    assert servers.gone()


# -- gunicorn ---------------------------------------------------------------------------------------------------------

APP = """
import json, os
from mcp_sync import Client

client = Client(json.loads(os.environ["COMMAND"]), timeout=10)
before_the_fork = json.loads(client.call_tool("whoami").text)["parent"]

def application(environ, start_response):
    n = int(environ["PATH_INFO"][1:])
    total = client.call_tool("add", {"a": n, "b": 1}).text
    server = json.loads(client.call_tool("whoami").text)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{total} {os.getpid()} {server['parent']} {server['pid']} {before_the_fork}".encode()]
"""


@pytest.fixture
def gunicorn(tmp_path: Path, scripts: Scripts, servers: Servers) -> tuple[Script, int]:
    """Four workers that were forked from a master which has used the client already; and their port."""
    python = install.demand()
    (tmp_path / "app.py").write_text(APP)
    text = f"""
os.environ["COMMAND"] = sys.argv[1]
os.execv({python!r}, [{python!r}, "-m", "gunicorn", "--workers=4", "--threads=4", "--preload", "--bind=127.0.0.1:0",
    "--graceful-timeout=5", "--chdir", {str(tmp_path)!r}, "app:application"])
"""
    script = scripts.start(text, servers.command(), python)
    assert until(lambda: script.stderr.count("Booting worker") == 4, 15), script.stderr
    listening = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", script.stderr)
    assert listening, script.stderr
    return script, int(listening[1])


def _get(port: int, n: int) -> list[int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", f"/{n}")
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
        return [int(word) for word in body.split()]
    finally:
        connection.close()


def test_gunicorn_with_four_forked_workers_serves_from_one_client_of_a_module(
    gunicorn: tuple[Script, int], servers: Servers
) -> None:
    master, port = gunicorn
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: _get(port, n), range(200)))
    server_of: dict[int, int] = {}
    for n, (total, worker, parent, server, before) in enumerate(answers):
        assert total == n + 1
        assert parent == worker, "each worker has a server of its own"
        assert server_of.setdefault(worker, server) == server, "and only one"
        assert before == master.process.pid
    assert len(server_of) > 1
    assert servers.started == 1 + len(server_of)

    master.signal(signal.SIGTERM)
    ended = master.end()
    assert ended.code == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert servers.gone()


def test_a_gunicorn_worker_that_is_killed_is_replaced_and_the_others_go_on(
    gunicorn: tuple[Script, int], servers: Servers
) -> None:
    master, port = gunicorn
    victim = _get(port, 1)[1]
    os.kill(victim, signal.SIGKILL)
    assert until(lambda: master.stderr.count("Booting worker") == 5, 15), master.stderr
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: _get(port, n), range(50)))
    assert [answer[0] for answer in answers] == list(range(1, 51))
    assert victim not in {answer[1] for answer in answers}

    master.signal(signal.SIGTERM)
    assert master.end().code == 0
    assert servers.gone()
