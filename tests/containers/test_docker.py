"""Servers in real containers, of a real engine: what they may, how they end, and that nothing is left of them."""

from __future__ import annotations

import gc
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import docker
import pytest
from containers.engines import Dockerd, api
from containers.images import COMMAND, IMAGE
from containers.tools import PATIENCE, container_of, exists, ours, session, transport, until

from house import leakcheck
from mcp_sync import Client, DockerTransport, MCPConnectionError, MCPError, MCPTimeoutError
from mcp_sync.deadlines import Deadline
from mcp_sync.testing import in_threads
from mcp_sync.transports import owners


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# -- calls -------------------------------------------------------------------------------------------------------------


def test_a_client_calls_a_server_in_a_container() -> None:
    with Client(transport()) as client:
        assert client.request("echo", {"text": "größe", "n": [1, None]}) == {"text": "größe", "n": [1, None]}
        assert client.server_info.name == "partner"
        assert len(ours(**{owners.PID: str(os.getpid())})) == 1


def test_a_url_is_enough() -> None:
    command = quote(shlex.join(COMMAND))
    url = f"docker://{IMAGE}?env=A=b%20c+d&network=none&memory_limit_mb=64&command={command}"
    with Client(url, env={"E": "f"}, user="65534") as client:
        environment = client.request("environment")
        assert (environment["A"], environment["E"]) == ("b c+d", "f")
        assert client.request("status")["Uid"].split()[0] == "65534"


def test_a_megabyte_goes_there_and_back_while_stderr_is_flooded() -> None:
    """B19"""
    lines: list[str] = []
    with session(stderr=lines.append) as made:
        assert made.send_request("chatter", {"count": 20_000}) == {}
        text = "x" * 1_000_000
        assert made.send_request("echo", {"text": text}) == {"text": text}
        until(lambda: len(lines) >= 20_000)
        assert lines[19_999].startswith("chatter 19999 ")
        assert made._caller.explain()["stdout"] == ["no message"]


def test_eight_threads_may_call_one_container() -> None:
    with session() as made:
        answers = in_threads(8, lambda n: [made.send_request("echo", {"n": n, "i": i}) for i in range(50)])
        assert answers == [[{"n": n, "i": i} for i in range(50)] for n in range(8)]


# -- what it sees ------------------------------------------------------------------------------------------------------


def test_the_environment_is_what_was_given_and_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """I17"""
    monkeypatch.setenv("CANARY", "ours")
    with session(env={"A": "b=c d", "EMPTY": ""}) as made:
        environment = made.send_request("environment", {})
        assert (environment["A"], environment["EMPTY"]) == ("b=c d", "")
        assert "CANARY" not in environment


def test_volumes_may_be_read_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    tmp_path.chmod(0o777)
    with session(volumes=[f"{tmp_path}:/data:ro", f"{tmp_path}:/free"], cap_add=["DAC_OVERRIDE"]) as made:
        assert made.send_request("read", {"path": "/data/file"}) == {"text": "mine"}
        assert made.send_request("write", {"path": "/data/new", "text": "x"}) == {"error": "Read-only file system"}
        assert made.send_request("write", {"path": "/free/new", "text": "x"}) == {}
    assert (tmp_path / "new").read_text() == "x"


def test_it_has_no_network_or_the_engines_or_one_that_was_made() -> None:
    with session() as made:
        assert made.send_request("interfaces", {}) == {"names": ["lo"]}
    with session(network=None) as made:
        assert "eth0" in made.send_request("interfaces", {})["names"]
    with api() as client:
        network = client.create_network("mcp-sync-test")["Id"]
        try:
            with session(network="mcp-sync-test", hostname="first") as made:
                made.send_request("listen", {"port": 7000})
                with session(network="mcp-sync-test") as other:
                    assert other.send_request("reach", {"host": "first", "port": 7000}) == {}
                    assert "error" in other.send_request("reach", {"host": "first", "port": 7001})
        finally:
            client.remove_network(network)


def test_a_port_is_reached_on_the_host() -> None:
    port = free_port()
    with session(ports=[f"127.0.0.1:{port}:7000"]) as made:
        made.send_request("listen", {"port": 7000})
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            assert connection.recv(10) == b"hello"
        with pytest.raises(MCPConnectionError, match="has that port"):
            transport(ports=[f"127.0.0.1:{port}:7000"]).create_session()


def test_it_has_no_capabilities_and_gains_none_and_an_init_looks_after_it() -> None:
    with session() as made:
        status = made.send_request("status", {})
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert "init" in status["init"]
        with api() as client:
            about = client.inspect_container(container_of(made))
            assert about["HostConfig"]["LogConfig"]["Type"] == "none"
            assert about["LogPath"] == ""


def test_the_number_of_its_processes_is_limited() -> None:
    with session(pids_limit=20) as made:
        assert 5 < made.send_request("fork", {"most": 100})["count"] < 20


def test_the_sdks_keywords_are_passed_on() -> None:
    with session(tmpfs={"/scratch": "size=1m"}, read_only=True, working_dir="/tmp", hostname="me") as made:
        assert made.send_request("write", {"path": "/data/x", "text": "x"}) == {"error": "Read-only file system"}
        assert made.send_request("write", {"path": "/scratch/x", "text": "x"}) == {}
        assert made.send_request("environment", {})["HOSTNAME"] == "me"


# -- how it ends -------------------------------------------------------------------------------------------------------


def test_out_of_memory_is_told() -> None:
    with session(memory_limit_mb=48) as made:
        with pytest.raises(MCPConnectionError, match="ran out of memory.*memory_limit_mb is 48") as found:
            made.send_request("allocate", {"mb": 200})
        assert found.value.details["out_of_memory"] is True
        assert found.value.details["exit_status"] == 137
        assert found.value.details["stderr"] == ["about to allocate"]


def test_a_container_that_somebody_kills_or_removes_is_missed_at_once() -> None:
    with session() as made, api() as client:
        client.kill(container_of(made))
        began = time.monotonic()
        with pytest.raises(MCPConnectionError, match=r"exit status 137 \(killed by SIGKILL\)") as found:
            made.send_request("echo", {})
        assert time.monotonic() - began < 2
        assert found.value.details["out_of_memory"] is False
    with session() as made, api() as client:
        client.remove_container(container_of(made), force=True)
        with pytest.raises(MCPConnectionError, match="removed by somebody else|137"):
            made.send_request("echo", {})


def test_a_server_that_exits_at_once_is_told_with_its_last_words() -> None:
    """B17: all it said, though it had ended before we could have attached."""
    for _ in range(3):
        with pytest.raises(MCPConnectionError, match=r"ended with exit status 3; .*no such setting") as found:
            transport("exit", "3", "no such setting").create_session()
        assert found.value.details["exit_status"] == 3
        assert found.value.details["stderr"] == ["no such setting"]
        assert found.value.may_have_run is False


def test_an_image_that_is_no_server_and_a_program_that_is_not_there_are_told() -> None:
    made = DockerTransport(IMAGE, [COMMAND[0], "-S", "-c", "print('hello world')"], network="none", timeout=PATIENCE)
    with pytest.raises(MCPConnectionError, match="exit status 0; it printed what is no message: hello world"):
        made.create_session()
    with pytest.raises(MCPConnectionError, match="/no/such.*the image has no such program|no such file"):
        DockerTransport(IMAGE, ["/no/such"], network="none", init=False, timeout=PATIENCE).create_session()


def test_an_image_that_is_not_there_is_told_with_what_to_do() -> None:
    words = "no image 'no/such:image'.*docker pull no/such:image.*pull='missing'"
    with pytest.raises(MCPConnectionError, match=words):
        DockerTransport("no/such:image", timeout=PATIENCE).create_session()


def test_a_network_that_is_not_there_is_told_and_nothing_is_left() -> None:
    with pytest.raises(MCPConnectionError, match="no-such-network"):
        transport(network="no-such-network").create_session()


def test_a_silent_server_is_given_up_at_the_deadline_and_removed() -> None:
    began = time.monotonic()
    with pytest.raises(MCPTimeoutError):
        transport("silent", timeout=1.5).create_session()
    assert time.monotonic() - began < 3.5


@pytest.mark.parametrize("seconds", [1.0, 0.05])
def test_a_server_that_will_not_go_is_killed_in_time(seconds: float) -> None:
    """I7: the stop signal first, SIGKILL then."""
    with session(shutdown_timeout=seconds) as made:
        made.send_request("stubborn", {})
        container = container_of(made)
        began = time.monotonic()
        made.close()
        assert time.monotonic() - began < seconds + 1.5
        assert not exists(container)


def test_a_healthy_server_goes_fast_and_with_status_0() -> None:
    made = transport()
    ended: list[dict[str, Any]] = []
    made.on_process_event(lambda name, data: ended.append(data) if name == "process_ended" else None)
    talk = made.create_session()
    container = container_of(talk)
    began = time.monotonic()
    talk.close()
    assert time.monotonic() - began < 1.5
    until(lambda: ended)
    assert (ended[0]["status"], ended[0]["container"]) == (0, container)


def test_a_paused_container_times_out_and_is_removed_all_the_same() -> None:
    with session(shutdown_timeout=1.0) as made, api() as client:
        client.pause(container_of(made))
        with pytest.raises(MCPTimeoutError):
            made.send_request("echo", {}, timeout=0.3)
        made.close()


def test_its_anonymous_volumes_go_with_it() -> None:
    with api() as client:
        before = {volume["Name"] for volume in client.volumes()["Volumes"] or []}
        with session(mounts=[docker.types.Mount("/scratch", None)], cap_add=["DAC_OVERRIDE"]) as made:
            assert made.send_request("write", {"path": "/scratch/x", "text": "x"}) == {}
        assert {volume["Name"] for volume in client.volumes()["Volumes"] or []} == before


def test_a_server_is_restarted_by_the_next_call() -> None:
    with session(max_restarts=1, restart_delay=0.1) as made:
        with pytest.raises(MCPConnectionError, match="exit status 3"):
            made.send_request("die", {})
        assert made.send_request("echo", {"a": 1}) == {"a": 1}
        with pytest.raises(MCPConnectionError):
            made.send_request("die", {})
        with pytest.raises(MCPConnectionError, match="max_restarts"):
            made.send_request("echo", {})


def test_a_forgotten_client_leaves_no_container() -> None:
    clients = [Client(transport()).connect()]
    with pytest.warns(ResourceWarning, match="never closed"):
        clients.clear()
    gc.collect()
    until(lambda: not ours(**{owners.PID: str(os.getpid())}))


# -- engines -----------------------------------------------------------------------------------------------------------


def test_a_client_of_the_users_is_taken_and_not_closed() -> None:
    client = docker.DockerClient(base_url=os.environ.get("DOCKER_HOST"), version="auto")
    try:
        with session(client=client) as made:
            assert made.send_request("echo", {}) == {}
        assert client.ping()
    finally:
        client.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_engine_that_may_not_be_used_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp_sync.transports import dockerd

    with api() as client:
        path = client._custom_adapter.socket_path
    if Path(path).stat().st_mode & 0o006:
        pytest.skip("everybody may use this engine")
    monkeypatch.setenv("DOCKER_CONFIG", "/nonexistent")
    reading, writing = os.pipe()
    child = os.fork()  # a new interpreter might not be allowed to read its own files
    if not child:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            dockerd.Engine().connect(Deadline(5))
        except BaseException as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading) as said:
        words = said.read()
    assert "this user may not use unix://" in words
    assert "'docker'" in words


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("dockerd") is None, reason="only root can start an engine")
def test_an_engine_that_stops_in_the_middle_of_a_call_ends_it_and_what_it_left_is_swept() -> None:
    from containers import images

    with Dockerd() as engine, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine.host)
        images.build()
        recipe = transport(shutdown_timeout=0.5)
        talk = recipe.create_session()
        held: list[BaseException] = []

        def hold() -> None:
            try:
                talk.send_request("hold", {})
            except MCPError as error:
                held.append(error)

        holder = threading.Thread(target=hold)
        holder.start()
        until(lambda: talk.send_request("count", {}).get("hold"))
        engine.stop()
        holder.join(PATIENCE)
        assert isinstance(held[0], MCPConnectionError)
        talk.close()
        with pytest.raises(MCPConnectionError, match="no engine listens at"):
            recipe.create_session()
        engine.start()
        recipe.create_session().close()
        assert ours(**{owners.PID: str(os.getpid())}) == []


# -- the interpreter's end ---------------------------------------------------------------------------------------------

PROGRAM = f"""
import sys, time
from mcp_sync import DockerTransport
session = DockerTransport({IMAGE!r}, {COMMAND!r}, network="none").create_session()
print(session._caller.explain()["container"], flush=True)
"""


def start(then: str) -> tuple[subprocess.Popen[str], str]:
    """Start a program that has a container, and then does this; return both."""
    child = subprocess.Popen([sys.executable, "-c", PROGRAM + then], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    container = child.stdout.readline().strip()
    assert re.fullmatch("[0-9a-f]{64}", container)
    return child, container


@pytest.mark.parametrize("then", ["", "session.send_request('stubborn', {})"], ids=["polite", "stubborn"])
def test_the_interpreters_exit_removes_the_container(then: str) -> None:
    """I15"""
    child, container = start(f"{then}\nsys.stdout.close()")
    assert child.stdout is not None
    child.stdout.read()  # until it is about to exit
    began = time.monotonic()
    assert child.wait(PATIENCE) == 0
    child.stdout.close()
    until(lambda: not exists(container), patience=3)
    assert time.monotonic() - began < 2.5


def test_what_an_interpreter_that_was_killed_left_is_swept_and_living_siblings_are_left_alone() -> None:
    sibling, living = start("time.sleep(600)")
    child, container = start("time.sleep(600)")
    try:
        child.kill()
        child.wait()
        assert exists(container)
        with session() as made:
            assert made.send_request("echo", {}) == {}
            assert not exists(container)
            assert exists(living)
    finally:
        for one in (child, sibling):
            one.terminate()
            one.wait()
            if one.stdout is not None:
                one.stdout.close()
        with api() as client:
            client.remove_container(living, force=True)


def test_a_forked_child_leaves_the_container_alone() -> None:
    """I14"""
    with session() as made:
        child = os.fork()
        if not child:
            os._exit(0 if _is_forked_away(made) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert made.send_request("echo", {"a": 1}) == {"a": 1}


def _is_forked_away(made: Any) -> bool:
    try:
        made.send_request("echo", {}, timeout=1)
    except MCPConnectionError as error:
        made.close()
        return type(error).__name__ == "ForkedClientError"
    except BaseException:
        pass
    return False


# -- traps (FAULTS.md, section 3) --------------------------------------------------------------------------------------


def test_the_attached_connection_is_what_the_sdk_calls_it_and_does_not_block() -> None:
    """B16: read-only, without a timeout, unless one takes what is inside."""
    with api() as client:
        container = client.create_container(IMAGE, COMMAND, stdin_open=True, network_disabled=True)["Id"]
        try:
            hijacked = client.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            assert isinstance(hijacked._sock, socket.socket)
            assert callable(hijacked._response.close)
            assert callable(hijacked._response.raw._fp.fp.peek)
            raw = hijacked._sock
            raw.shutdown(socket.SHUT_RDWR)
            hijacked._response.close()
            raw.close()
        finally:
            client.remove_container(container, force=True)
    channel = transport().dial(Deadline(PATIENCE))
    assert channel._pipe._attachment._sock.gettimeout() == 0.0  # type: ignore[attr-defined]
    channel.close(Deadline(PATIENCE))


def test_what_is_said_first_is_never_lost() -> None:
    """B17: attached before it is started; the other way round 14 of 15 lost it."""
    words = '{"jsonrpc": "2.0", "method": "hello"}'
    command = [COMMAND[0], "-I", "-S", "-c", f"print({words!r}, flush=True); input()"]
    for _ in range(8):
        with DockerTransport(IMAGE, command, network="none", timeout=PATIENCE) as connected:
            assert connected.receive_message()["method"] == "hello"


def cycles(count: int) -> None:
    """Connect and close; no descriptor, thread or container may be left of it."""
    with session() as made:
        made.send_request("echo", {})
    before = leakcheck.take()
    for number in range(count):
        if number % 5 == 4:
            with pytest.raises(MCPConnectionError):
                transport("exit", "1").create_session()
            continue
        with session() as made:
            made.send_request("echo", {})
    assert leakcheck.leaks_since(before) == []
    assert ours(**{owners.PID: str(os.getpid())}) == []


def test_twenty_cycles_leave_nothing() -> None:
    """B18: shut down, close the response, close the socket; else 19 descriptors were left by 10."""
    cycles(20)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_hundred_cycles_leave_nothing() -> None:
    """B18"""
    cycles(500)


def test_a_terminal_is_refused() -> None:
    """B19"""
    with pytest.raises(ValueError, match="tty=True is not possible.*no frames"):
        transport(tty=True)


def test_a_container_that_was_never_started_is_removed_as_well() -> None:
    """B19: the engine's own way of removing does not cover those."""
    with pytest.raises(MCPConnectionError):
        DockerTransport(IMAGE, ["/no/such"], network="none", init=False, timeout=PATIENCE).connect()
    assert ours(**{owners.PID: str(os.getpid())}) == []


def test_ctrl_c_while_it_starts_leaves_nothing() -> None:
    """I16"""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for delay in (0.005, 0.03, 0.08, 0.15):
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            try:
                with pytest.raises(KeyboardInterrupt):
                    transport("silent").create_session()
            finally:
                timer.join()
            until(lambda: not ours(**{owners.PID: str(os.getpid())}))
    finally:
        signal.signal(signal.SIGINT, before)
