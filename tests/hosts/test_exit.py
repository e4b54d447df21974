"""A script that never closes anything ends as if it had: soon, with its own exit code, and nothing left behind."""

from __future__ import annotations

import signal
from textwrap import dedent

import pytest

from hosts.nursery import CLIENT, SESSION, Ended, Scripts, Servers, until

EXIT_SECONDS = 2.0
"""What FAULTS.md, I15, allows from the last line of a script to its end."""


def assert_ended_well(ended: Ended, servers: Servers, code: int = 0, stderr: str = "") -> None:
    __tracebackhide__ = True
    assert ended.code == code, ended.stderr
    assert ended.stderr == stderr
    assert ended.seconds < EXIT_SECONDS
    assert servers.started >= 1
    assert servers.gone(0.5), "the exit does not wait for its servers"


# -- however it ends --------------------------------------------------------------------------------------------------

WAYS_TO_HOLD = {
    "a session as a global": "",
    "a transport that is connected": "transport.connect()",
    "a session in a reference cycle": "session.me = session; transport.me = [transport, session]; del session",
    "a session that is used until the end": "assert tool('slow', seconds=0.1) == 'slept'",
    "two sessions": "other = StdioTransport(COMMAND).create_session()",
    "a future that is pending": "future = session.submit_request('tools/call', {'name': 'hang'})",
    "a server that has died": "try: tool('die')\nexcept MCPError: pass",
    "an exception in a done-callback": (
        "import logging; logging.disable()\n"
        "future = session.submit_request('ping' if session.protocol_version < '2026' else 'server/discover')\n"
        "future.add_done_callback(lambda future: 1 / 0)\n"
        "future.result(5)"
    ),
    "sys.exit in a thread": (
        "thread = threading.Thread(target=lambda: sys.exit(tool('add', a=3, b=4)))\nthread.start()\nthread.join()"
    ),
    "a call in flight in a daemon thread": (
        "threading.Thread(target=tool, args=('hang',), daemon=True).start()\n"
        "while not session.counters['pending']: time.sleep(0.001)"
    ),
    "a daemon thread that calls and calls": (
        "def poll():\n"
        "    while True: tool('add', a=1, b=1)\n"
        "threading.Thread(target=poll, daemon=True).start()\n"
        "while session.counters['ok'] < 20: time.sleep(0.001)"
    ),
    "a daemon thread that listens": (
        "def listen():\n"
        "    for message in session.listen(): pass\n"
        "    while True: tool('add', a=1, b=1)\n"
        "threading.Thread(target=listen, daemon=True).start()\n"
    ),
    "a signal handler of its own": "signal.signal(signal.SIGTERM, lambda *_: None)",
}


@pytest.mark.parametrize("holding", WAYS_TO_HOLD.values(), ids=WAYS_TO_HOLD)
def test_a_script_that_forgets_to_close_ends_and_its_server_with_it(
    holding: str, python: str, scripts: Scripts, servers: Servers
) -> None:
    ended = scripts.run(f"{SESSION}{holding}\nlast_line()", servers.command(), python)
    assert_ended_well(ended, servers)


@pytest.mark.parametrize(("how", "code"), [("sys.exit(7)", 7), ("sys.exit()", 0), ("raise SystemExit(3)", 3)])
def test_the_exit_code_is_the_scripts_own(
    how: str, code: int, python: str, scripts: Scripts, servers: Servers
) -> None:
    ended = scripts.run(f"{SESSION}last_line()\n{how}", servers.command(), python)
    assert_ended_well(ended, servers, code)


def test_an_uncaught_exception_shows_its_own_traceback_and_no_other(
    python: str, scripts: Scripts, servers: Servers
) -> None:
    ended = scripts.run(f"{SESSION}last_line()\nraise ValueError('mine')", servers.command(), python)
    assert ended.stderr.endswith("ValueError: mine\n")
    assert ended.stderr.count("Traceback") == 1
    assert_ended_well(ended, servers, 1, ended.stderr)


def test_a_failed_calls_traceback_is_the_only_one(python: str, scripts: Scripts, servers: Servers) -> None:
    ended = scripts.run(f"{SESSION}last_line()\ntool('die')", servers.command(), python)
    assert "MCPConnectionError: tools/call" in ended.stderr.splitlines()[-1]
    assert ended.stderr.count("Traceback") == 1
    assert_ended_well(ended, servers, 1, ended.stderr)


def test_a_server_deaf_to_everything_is_killed_at_exit(python: str, scripts: Scripts, servers: Servers) -> None:
    ended = scripts.run(f"{SESSION}last_line()", servers.command("deaf"), python)
    assert_ended_well(ended, servers)


def test_many_servers_deaf_to_everything_share_the_time(python: str, scripts: Scripts, servers: Servers) -> None:
    more = "sessions = [StdioTransport(COMMAND).create_session() for _ in range(7)]"
    ended = scripts.run(f"{SESSION}{more}\nlast_line()", servers.command("deaf"), python)
    assert_ended_well(ended, servers)
    assert servers.started == 8


def test_many_servers_that_end_by_themselves_have_the_time_to(python: str, scripts: Scripts, servers: Servers) -> None:
    more = "sessions = [StdioTransport(COMMAND).create_session() for _ in range(7)]"
    ended = scripts.run(f"{SESSION}{more}\nlast_line()", servers.command("linger=0.2"), python)
    assert_ended_well(ended, servers)
    assert servers.farewells() == 8


def test_a_thread_that_still_calls_is_waited_for_and_gets_its_answer(
    python: str, scripts: Scripts, servers: Servers
) -> None:
    text = """
    def work():
        for _ in range(3):
            assert tool("slow", seconds=0.2) == "slept"
        last_line()
    threading.Thread(target=work).start()
    """
    ended = scripts.run(SESSION + dedent(text), servers.command(), python)
    assert len(ended.lines) == 1
    assert_ended_well(ended, servers)


def test_an_atexit_function_can_still_call_and_close(python: str, scripts: Scripts, servers: Servers) -> None:
    text = """
    import atexit
    @atexit.register
    def goodbye():
        say("sum", tool("add", a=2, b=3))
        try:
            say("tool", session.submit_request("tools/list").result(5)["tools"][0]["name"])
        except MCPError as error:
            say(type(error).__name__)
        session.close()
    last_line()
    """
    ended = scripts.run(SESSION + dedent(text), servers.command(), python)
    assert ended.lines[-2] == "sum 5"
    assert ended.lines[-1] in ("tool add", "TooManyRequests")  # since 3.12, no thread starts so late
    assert_ended_well(ended, servers)


def test_messages_and_no_session_end_well_too(python: str, scripts: Scripts, servers: Servers) -> None:
    text = """
    from mcp_sync import StdioTransport
    transport = StdioTransport(COMMAND).connect()
    transport.send_message({"jsonrpc": "2.0", "id": 1, "method": "server/discover"})
    assert transport.receive_message()["id"] == 1
    threading.Thread(target=transport.receive_message, daemon=True).start()
    last_line()
    """
    assert_ended_well(scripts.run(text, servers.command(), python), servers)


def test_a_session_imports_no_third_party_library(python: str, scripts: Scripts, servers: Servers) -> None:
    text = "foreign = {'mcp_types', 'pydantic', 'jsonschema', 'anyio', 'asyncio'} & set(sys.modules)\nsay(foreign)"
    ended = scripts.run(f"{SESSION}{text}", servers.command(), python)
    assert ended.lines == ["set()"], ended.stderr


# -- its own stdin ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "code"), [("", 0), ("sys.exit(7)", 7)])
def test_a_script_whose_stdin_stays_open_ends_with_its_own_code(
    how: str, code: int, python: str, scripts: Scripts, servers: Servers
) -> None:
    """B28: a daemon thread that waits in sys.stdin's buffer would have the interpreter abort."""
    text = f"other = StdioTransport(COMMAND).connect()\nlast_line()\n{how}"
    script = scripts.start(SESSION + text, servers.command(), python, typed=b"")
    assert_ended_well(script.end(), servers, code)


@pytest.mark.parametrize(("how", "code"), [("", 0), ("sys.exit(7)", 7)])
def test_so_does_one_with_a_client(how: str, code: int, scripts: Scripts, servers: Servers) -> None:
    """B28"""
    script = scripts.start(f"{CLIENT}last_line()\n{how}", servers.command(), typed=b"")
    assert_ended_well(script.end(), servers, code)


def test_what_waits_on_a_scripts_stdin_is_its_own(python: str, scripts: Scripts, servers: Servers) -> None:
    """B28: nothing of ours reads it, and no server inherits it."""
    text = """
    import select
    assert tool("slow", seconds=0.1) == "slept"
    assert select.select([0], [], [], 0)[0], "somebody took it"
    say("typed", sys.stdin.readline().strip())
    last_line()
    """
    script = scripts.start(SESSION + dedent(text), servers.command(), python, typed=b"hello\n")
    assert_ended_well(script.end(), servers)
    assert script.said("typed") == ["hello"]


# -- no thread starts so late -----------------------------------------------------------------------------------------

REFUSED = """
import _thread
def refuse(*_, **__):
    say("refused")
    raise RuntimeError("can't create new thread at interpreter shutdown")
def shut_down(shut_down=threading._shutdown):
    threading.Thread.start = _thread.start_new_thread = refuse
    shut_down()
threading._shutdown = shut_down  # which the interpreter calls first of all; from then on 3.12.1 refuses by itself
"""
THREADS = pytest.mark.parametrize(
    "threads",
    [pytest.param(REFUSED, id="no new threads"), pytest.param("", id="threads as they are", marks=pytest.mark.slow)],
)

LATE = """
import atexit, gc
def call():
    assert tool("add", a=2, b=3) == "5"
def connect():
    try: transport.late = StdioTransport(COMMAND, shutdown_timeout=0.2).create_session()
    except MCPError as error: say("refusal", error.may_have_run, error)
def forget():
    global session, transport
    del session, transport
    gc.collect()
def outlive(work):
    threading.main_thread().join()
    call()
    work()
"""
LATE_WORK = {
    "it closes": "atexit.register(session.close, 0.2)",
    "it calls": "atexit.register(call)",
    "it connects": "atexit.register(connect)",
    "it forgets": "atexit.register(forget)",
    "it has just forgotten": "forget()",
    "it has forgotten, and the end comes first": "sys.setswitchinterval(60)\nforget()",  # before any other thread runs
    "a thread outlives it and connects": "threading.Thread(target=outlive, args=(connect,)).start()",
    "a thread outlives it and forgets": "threading.Thread(target=outlive, args=(forget,)).start()",
}


@THREADS
def test_the_end_starts_no_thread(threads: str, python: str, scripts: Scripts, servers: Servers) -> None:
    """B29: these servers are deaf, so nothing but us ends them."""
    text = """
    other = StdioTransport(COMMAND).connect()
    future = session.submit_request("tools/call", {"name": "hang"})
    last_line()
    sys.exit(7)
    """
    ended = scripts.run(threads + SESSION + dedent(text), servers.command("deaf"), python)
    assert_ended_well(ended, servers, 7)
    assert servers.started == 2
    assert "refused" not in ended.lines


@THREADS
@pytest.mark.parametrize("work", LATE_WORK.values(), ids=LATE_WORK)
def test_what_a_script_does_at_its_end_leaves_no_server_either(
    work: str, threads: str, python: str, scripts: Scripts, servers: Servers
) -> None:
    """B29: what needs a new thread says so, and what a janitor cannot do any more is done all the same."""
    text = f"{threads}{SESSION}{LATE}last_line()\n{work}\nsys.exit(7)"
    script = scripts.start(text, servers.command("deaf"), python)
    assert_ended_well(script.end(), servers, 7)
    for refusal in script.said("refusal"):
        assert refusal.startswith("False cannot connect: no more threads can be started")


# -- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name)
def test_a_script_killed_by_a_signal_takes_its_server_with_it(
    number: signal.Signals, python: str, scripts: Scripts, servers: Servers
) -> None:
    script = scripts.start(f"{SESSION}say('ready')\ntool('hang')", servers.command(), python)
    script.wait_for("ready")
    script.signal(number)
    ended = script.end()
    assert (ended.code, ended.stderr) == (-number, "")
    assert servers.gone(), "the server's stdin has ended, so it should have"


def test_sigterm_made_an_exception_ends_even_a_deaf_server(python: str, scripts: Scripts, servers: Servers) -> None:
    text = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\nsay('ready')\ntool('hang')"
    script = scripts.start(SESSION + text, servers.command("deaf"), python)
    script.wait_for("ready")
    script.signal(signal.SIGTERM)
    ended = script.end()
    assert (ended.code, ended.stderr) == (9, "")
    assert servers.gone(0.5)


def test_a_deaf_server_outlives_a_client_that_sigterm_killed(scripts: Scripts, servers: Servers) -> None:
    # Not as we like it, but so it is: no code of ours runs any more (FAULTS.md, section 10). See the test above.
    script = scripts.start(f"{SESSION}say('ready')\ntool('hang')", servers.command("deaf"))
    script.wait_for("ready")
    script.signal(signal.SIGTERM)
    assert script.end().code == -signal.SIGTERM
    assert len(servers.alive()) == 1


# -- the client, with its models --------------------------------------------------------------------------------------

CLIENTS = {
    "a client as a global": "",
    "a client in a reference cycle": "client.me = client; del client",
    "a call in flight in a daemon thread": (
        "threading.Thread(target=client.call_tool, args=('hang',), daemon=True).start()\n"
        "while not client.counters['pending']: time.sleep(0.001)"
    ),
    "a future that is pending": "future = client.submit_tool('hang')",
    "a client that is connecting in a daemon thread": (
        "late = Client([*COMMAND, 'late=5', 'deaf'])\nthreading.Thread(target=late.connect, daemon=True).start()\n"
        "while not late._opening: time.sleep(0.001)"
    ),
}
CALLBACKS = {
    "a progress callback": "client.call_tool('notify', {'n': 3}, on_progress=lambda *_: 1 / 0)",
    "on_log": "Client(COMMAND, on_log=lambda *_: 1 / 0).call_tool('notify', {'n': 3})",
    "on_notification": "Client(COMMAND, on_notification=lambda *_: 1 / 0).call_tool('notify', {'n': 3})",
}


@pytest.mark.parametrize("holding", CLIENTS.values(), ids=CLIENTS)
def test_a_client_that_is_never_closed_ends_with_its_script(holding: str, scripts: Scripts, servers: Servers) -> None:
    ended = scripts.run(f"{CLIENT}{holding}\nlast_line()", servers.command())
    assert_ended_well(ended, servers)


@pytest.mark.parametrize("failing", CALLBACKS.values(), ids=CALLBACKS)
def test_an_exception_in_a_callback_changes_nothing_about_the_end(
    failing: str, scripts: Scripts, servers: Servers
) -> None:
    quiet = "import logging; logging.disable()\n"
    ended = scripts.run(f"{CLIENT}{quiet}other = {failing}\nlast_line()", servers.command())
    assert_ended_well(ended, servers)


def test_a_forgotten_client_takes_its_server_along_while_the_script_goes_on(scripts: Scripts, servers: Servers) -> None:
    script = scripts.start(f"{CLIENT}del client\nsay('forgotten')\nsys.stdin.read()\ntime.sleep(15)", servers.command())
    script.wait_for("forgotten")
    assert until(lambda: not servers.alive(), 3)
