"""An engine that errs, hangs or lies at each call of a container's life (FAULTS.md, 5.4). The engine is a fake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from containers.fake import FakeEngine, FrameWire
from faults import http_tls

from mcp_sync import DockerTransport, MCPConnectionError, MCPError, MCPTimeoutError
from mcp_sync.testing import in_threads
from mcp_sync.transports import owners

PATIENCE = 20.0
T = 0.4
NOISE = float(os.environ.get("MCP_SYNC_TEST_MS", "750")) / 1000
TESTS = Path(__file__).resolve().parents[1]
BEFORE = ("version", "list", "create", "attach", "start")
"""The calls by which a container comes to be."""


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the SDK from reading somebody's configuration."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def engine(monkeypatch: pytest.MonkeyPatch, *args: Any, **faults: Any) -> Iterator[FakeEngine]:
    """Give a fake engine, in DOCKER_HOST."""
    with FakeEngine(*args, **faults) as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        yield fake


def transport(**knobs: Any) -> DockerTransport:
    return DockerTransport("some/image:1", ["serve"], **{"timeout": PATIENCE, **knobs})


def fails(kind: type[MCPError], within: float, **knobs: Any) -> MCPError:
    """Return the error by which a session cannot begin, within that time."""
    made = transport(**knobs)
    began = time.monotonic()
    with pytest.raises(kind) as found:
        made.create_session()
    assert time.monotonic() - began < within + NOISE
    return found.value


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.01)


# -- the good life -----------------------------------------------------------------------------------------------------


def test_the_order_of_a_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """B17: attached before it is started; removed in the end."""
    with engine(monkeypatch) as fake:
        session = transport().create_session()
        assert session.send_request("echo", {"a": 1}) == {"a": 1}
        assert fake.steps() == ["version", "list", "create", "attach", "start"]
        session.close()
        assert fake.steps()[5:] == ["remove"]
        assert fake.containers == {}


def test_what_is_asked_for_is_safe_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """B19: and no log is written."""
    with engine(monkeypatch) as fake:
        transport().create_session().close()
        asked = fake.requests[0]
        host = asked["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges"]
        assert host["PidsLimit"] == 512
        assert host["Init"] is True
        assert host["LogConfig"] == {"Type": "none", "Config": {}}
        assert "NetworkMode" not in host or host["NetworkMode"] in ("", "default")
        assert (asked["Tty"], asked["OpenStdin"], asked["StdinOnce"]) == (False, True, True)
        assert asked["Cmd"] == ["serve"]
        labels = asked["Labels"]
        assert labels[owners.PID] == str(os.getpid())
        assert labels[owners.BEGAN] == owners.began(os.getpid())
        assert {owners.HOST, owners.BOOT, owners.SPACE} <= labels.keys()


def test_keywords_reach_the_engine_as_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(monkeypatch) as fake:
        transport(
            env={"A": "b"},
            volumes=["/srv:/data:ro", "~/x:/x"],
            ports=["8080:80", "127.0.0.1:9000:90/udp"],
            network="mine",
            memory_limit_mb=64,
            cpu_limit_percent=150,
            user="1000",
            cap_add=["NET_RAW"],
            cap_drop=[],
            labels={"mine": "yes"},
            name="me",
            tty=False,
            working_dir="/work",
        ).create_session().close()
        asked, host = fake.requests[0], fake.requests[0]["HostConfig"]
        assert asked["Env"] == ["A=b"]
        assert host["Binds"] == ["/srv:/data:ro", f"{Path.home()}/x:/x"]
        assert host["PortBindings"] == {
            "80/tcp": [{"HostIp": "", "HostPort": "8080"}],
            "90/udp": [{"HostIp": "127.0.0.1", "HostPort": "9000"}],
        }
        assert asked["ExposedPorts"] == {"80/tcp": {}, "90/udp": {}}
        assert host["NetworkMode"] == "mine"
        assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (64 << 20, 64 << 20, 1_500_000_000)
        assert (asked["User"], asked["WorkingDir"]) == ("1000", "/work")
        assert (host["CapAdd"], host.get("CapDrop", [])) == (["NET_RAW"], [])
        assert asked["Labels"]["mine"] == "yes"
        assert fake.log[2] == ("create", "me")


def test_no_network_is_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(monkeypatch) as fake:
        transport(network="none").create_session().close()
        assert fake.requests[0]["NetworkDisabled"] is True
        assert fake.requests[0]["HostConfig"]["NetworkMode"] == "none"


def test_an_image_is_pulled_only_if_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = (404, {"message": "No such image: some/image:1"})
    with engine(monkeypatch, create=missing) as fake:
        error = fails(MCPConnectionError, 2)
        assert "there is no image 'some/image:1'" in str(error)
        assert "pull='missing'" in str(error)
        assert "pull" not in fake.steps()
        error = fails(MCPConnectionError, 2, pull="missing")
        assert fake.steps()[-3:] == ["create", "pull", "create"]
    with engine(monkeypatch) as fake:
        transport(pull="missing").create_session().close()
        assert "pull" not in fake.steps()
        transport(pull="always").create_session().close()
        assert fake.steps().count("pull") == 1
    with engine(monkeypatch, create=missing, pull=(200, {"error": "manifest unknown"})):
        error = fails(MCPConnectionError, 2, pull="missing")
        assert "did not pull some/image:1: manifest unknown" in str(error)
    with engine(monkeypatch, create=missing, pull="hang"):
        assert "pull some/image:1 within" in str(fails(MCPTimeoutError, T, pull="missing", timeout=T))


# -- errors at each call -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [500, 403, "close", "cut", "junk", "odd"])
@pytest.mark.parametrize("step", BEFORE)
def test_an_error_at_any_call_is_told_at_once_and_every_create_has_its_delete(
    step: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine(monkeypatch, **{step: fault}) as fake:
        if step == "list" or (step == "start" and fault == "odd"):  # what is left is none of this connection's business
            transport().create_session().close()
        else:
            error = fails(MCPError, 2.0 if step != "create" else 5.0)
            assert error.may_have_run is False
            assert isinstance(error, (MCPConnectionError, MCPTimeoutError)), repr(error)
            if fault in (500, 403):
                assert f"the fake says {fault}" in str(error)
                assert error.details["status"] == fault
        until(lambda: fake.containers == {})
        made = fake.steps().count("create")
        if made and not (step == "create" and fault == 403):
            until(lambda: fake.steps().count("remove") >= 1)


@pytest.mark.parametrize("fault", ["hang", "drip"])
@pytest.mark.parametrize("step", BEFORE)
def test_an_engine_that_does_not_answer_is_given_up_at_the_deadline(
    step: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1: an answer that drips is none."""
    with engine(monkeypatch, **{step: fault}) as fake:
        if step == "list":
            began = time.monotonic()
            transport(timeout=4 * T).create_session().close()
            assert time.monotonic() - began < 4 * T + NOISE
        else:
            error = fails(MCPTimeoutError, T, timeout=T)
            assert fake.host in str(error)
            assert error.may_have_run is False
        if step in ("attach", "start"):
            until(lambda: fake.steps().count("remove") >= 1)
        if step == "create":  # it may be there by now, and we were not told its number
            name = next(about for found, about in fake.log if found == "create")
            until(lambda: ("remove", name) in fake.log)
        until(lambda: fake.containers == {})


@pytest.mark.parametrize("fault", ["after close", "after hang", "after cut"])
def test_what_was_created_though_we_were_not_told_is_removed(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(monkeypatch, create=fault) as fake:
        fails(MCPError, T, timeout=T)
        until(lambda: fake.containers == {} and fake.created)


def test_what_was_created_under_the_users_own_name_is_found_by_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(monkeypatch, create="after close") as fake:
        fails(MCPError, 1, name="mine")
        until(lambda: fake.steps().count("list") > 1)
        assert ("remove", "mine") not in fake.log  # it might be somebody else's


def test_a_name_that_is_taken_is_told_and_nobodys_container_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = (409, {"message": 'The container name "/mine" is already in use by container "abc".'})
    with engine(monkeypatch, create=taken) as fake:
        error = fails(MCPConnectionError, 1, name="mine")
        assert "is already in use" in str(error)
        assert "remove" not in fake.steps()


@pytest.mark.parametrize("fault", [500, "close", "hang", "drip", "junk", "odd"])
def test_closing_ends_in_time_even_if_the_engine_does_not_remove(
    fault: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """I7"""
    with engine(monkeypatch, remove=fault):
        session = transport(shutdown_timeout=0.5).create_session()
        began = time.monotonic()
        session.close(2.0)
        assert time.monotonic() - began < 2.0 + NOISE
    if fault not in ("odd", "drip"):  # which look like answers
        until(lambda: any("was not removed" in record.message for record in caplog.records))


@pytest.mark.parametrize("fault", [500, 404, "close", "hang", "drip", "junk", "odd"])
def test_when_nobody_knows_how_it_ended_the_calls_end_all_the_same(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(monkeypatch, inspect=fault) as fake:
        session = transport(shutdown_timeout=0.5).create_session()
        began = time.monotonic()
        with pytest.raises(MCPConnectionError) as found:
            session.send_request("die", {})
        assert time.monotonic() - began < 1.0 + NOISE
        words = "removed by somebody else" if fault == 404 else "is out of reach"
        assert words in str(found.value)
        session.close()
        until(lambda: fake.containers == {})


def test_an_exit_code_and_running_out_of_memory_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(monkeypatch) as fake:
        fake.state = {"Running": False, "ExitCode": 137, "OOMKilled": True}
        made = transport(memory_limit_mb=64)
        events: list[tuple[str, dict[str, Any]]] = []
        made.on_process_event(lambda name, data: events.append((name, data)))
        kinds: list[str] = []
        made.on_error(lambda kind, data: kinds.append(kind))
        session = made.create_session()
        with pytest.raises(MCPConnectionError, match=r"ran out of memory.*137.*memory_limit_mb is 64") as found:
            session.send_request("die", {})
        assert found.value.details["exit_status"] == 137
        assert found.value.details["out_of_memory"] is True
        session.close()
    until(lambda: "process_ended" in [name for name, _ in events])
    told = dict(events)["resource_limit_exceeded"]
    assert (told["resource"], told["limit"], told["value"]) == ("memory_mb", 64, 64)
    assert kinds == ["connection_lost"]


# -- what comes over the attached connection ---------------------------------------------------------------------------


def test_a_terminal_is_known_for_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """B19"""

    def serve(wire: FrameWire) -> None:
        wire._connection.sendall(b'{"jsonrpc": "2.0", "method": "news"}\r\n')
        wire.read()
        wire.read()

    with engine(monkeypatch, serve):
        error = fails(MCPConnectionError, 2)
        assert "tty" in str(error)


def test_what_comes_together_with_the_head_of_the_reply_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Eager(FakeEngine):
        def _attach(self, connection: Any, about: str, body: bytes) -> bool:
            news = b'{"jsonrpc": "2.0", "method": "news"}\n'
            frame = b"\x01\0\0\0" + len(news).to_bytes(4, "big") + news
            connection.sendall(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n" + frame)
            self._serve(FrameWire(connection))
            return False

    with Eager() as fake:
        monkeypatch.setenv("DOCKER_HOST", fake.host)
        with transport() as connected:
            assert connected.receive_message(PATIENCE)["method"] == "news"


def test_both_outputs_are_put_apart_and_a_line_may_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """B19"""
    answer = json.dumps({"jsonrpc": "2.0", "method": "news", "params": {"text": "x" * 200_000}}).encode() + b"\n"

    def serve(wire: FrameWire) -> None:
        for start in range(0, len(answer), 4800):
            wire.frame(2, b"noise %d\n" % start)
            wire.frame(1, answer[start : start + 4800])
        wire.frame(3, b"the engine's own words\n")
        wire.read()

    lines: list[str] = []
    with engine(monkeypatch, serve), transport(stderr=lines.append) as connected:
        assert connected.receive_message(PATIENCE)["params"]["text"] == "x" * 200_000
        until(lambda: "the engine's own words" in lines)
        assert lines[0] == "noise 0"
        assert len(lines) == 43


# -- where the engine is -----------------------------------------------------------------------------------------------


def test_an_engine_that_is_not_running_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    error = fails(MCPConnectionError, 2)
    assert "no engine listens at" in str(error)
    assert "start it, or set DOCKER_HOST" in str(error)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert "no engine listens at tcp://127.0.0.1:1" in str(fails(MCPConnectionError, 2))


def test_an_engine_reached_by_ssh_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "ssh://me@example.org")
    error = fails(MCPConnectionError, 2)
    assert "ssh" in str(error)
    assert "ssh -NL" in str(error)


@pytest.mark.parametrize("host", ["nonsense://x", "tcp://", "fd://3", "tcp://host:99999999"])
def test_an_address_that_is_none_is_an_error_of_ours(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    assert "Docker engine" in str(fails(MCPConnectionError, 2))


def test_an_engine_that_accepts_nobody_is_given_up_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import socket

    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
            fails(MCPTimeoutError, T, timeout=T)


def tls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say in the environment that engines are to be reached over TLS, and whom to trust."""
    for name, text in (("ca", http_tls.AUTHORITY), ("cert", http_tls.HERE), ("key", http_tls.HERE_KEY)):
        (folder / f"{name}.pem").write_text(text)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(folder))


@pytest.mark.parametrize("secured", [False, True], ids=["TCP", "TLS"])
def test_an_engine_elsewhere_is_spoken_to_both_ways_at_once(
    secured: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if secured:
        tls(tmp_path, monkeypatch)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with engine(monkeypatch, tcp=http_tls.server_context() if secured else True) as fake:
        session = transport(max_message_size=1 << 22, shutdown_timeout=0.5).create_session()
        text = "x" * 2_000_000

        def ask(number: int) -> bool:
            return all(session.send_request("echo", {"n": n, "t": text[: 1 << n]})["n"] == n for n in range(21))

        assert in_threads(4, ask) == [True] * 4
        session.close()
        assert fake.containers == {}


def test_closing_over_tls_begins_with_the_stop_signal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tls(tmp_path, monkeypatch)
    with engine(monkeypatch, tcp=http_tls.server_context()) as fake:
        fake.state = {"Running": True, "ExitCode": 0}
        session = transport(shutdown_timeout=0.5).create_session()
        began = time.monotonic()
        session.close()
        assert time.monotonic() - began < 0.5 + NOISE
        assert fake.steps()[-3:] == ["inspect", "kill", "remove"]


def test_an_engine_whose_certificate_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tls(tmp_path, monkeypatch)
    with engine(monkeypatch, tcp=http_tls.server_context("expired")):
        assert "certificate" in str(fails(MCPConnectionError, 2)).lower()


def fill(connected: DockerTransport) -> float:
    """Send until that times out; return how long that took."""
    message = {"jsonrpc": "2.0", "method": "words", "params": {"text": "x" * 200_000}}
    for _ in range(100):
        began = time.monotonic()
        try:
            connected.send_message(message, timeout=T)
        except MCPTimeoutError:
            return time.monotonic() - began
    raise AssertionError("20 MB were sent to somebody who does not read")


def test_deaf_servers_over_tls_are_given_up_at_the_deadline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tls(tmp_path, monkeypatch)
    over = threading.Event()
    with engine(monkeypatch, lambda wire: over.wait(PATIENCE), tcp=http_tls.server_context()):
        connected = transport(shutdown_timeout=0.2).connect()
        assert fill(connected) < T + NOISE
        connected.disconnect()
        over.set()


def test_a_client_of_the_users_is_not_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import docker

    with FakeEngine() as fake:
        client = docker.DockerClient(base_url=fake.host, version="1.41")
        session = transport(client=client).create_session()
        assert session.send_request("echo", {}) == {}
        session.close()
        assert fake.containers == {}
        assert client.version()["ApiVersion"] == "1.41"
        client.close()


# -- interrupts, exits, forks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", BEFORE)
def test_ctrl_c_at_any_call_comes_out_at_once_and_leaves_nothing(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """I16"""
    monkeypatch.setattr(signal, "getsignal", signal.getsignal)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with engine(monkeypatch, **{step: "after hang" if step == "create" else "hang"}) as fake:
            interrupted: list[float] = []

            def interrupt() -> None:
                fake.stuck.wait(PATIENCE)
                interrupted.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)

            interrupter = threading.Thread(target=interrupt)
            interrupter.start()
            with pytest.raises(KeyboardInterrupt):
                transport().create_session()
            assert time.monotonic() - interrupted[0] < 0.2 + NOISE
            interrupter.join()
            until(lambda: fake.containers == {})
            if step in ("create", "attach", "start"):
                until(lambda: "remove" in fake.steps())
    finally:
        signal.signal(signal.SIGINT, before)


EXITS = {
    "connected": "transport.connect()",
    "talking": "session = transport.create_session()",
    "connecting": "threading.Thread(target=transport.connect, daemon=True).start(); time.sleep(0.5)",
    "interrupted": "signal.setitimer(signal.ITIMER_REAL, 0.5); transport.connect()",
}


@pytest.mark.parametrize("how", EXITS)
def test_the_interpreters_exit_leaves_no_container(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """I15: in the middle of connecting, too."""
    faults = {"start": "hang"} if how in ("connecting", "interrupted") else {}
    with engine(monkeypatch, **faults) as fake:
        program = (
            "import signal, threading, time\n"
            "from mcp_sync import DockerTransport\n"
            "def interrupt(*_): raise KeyboardInterrupt\n"
            "signal.signal(signal.SIGALRM, interrupt)\n"
            "transport = DockerTransport('x', timeout=60)\n"
            f"{EXITS[how]}\n"
        )
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
        assert "Fatal" not in done.stderr
        if how != "interrupted":
            assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < 5
        until(lambda: fake.containers == {})
        assert fake.created


def test_a_forked_child_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """I14"""
    with engine(monkeypatch) as fake:
        session = transport().create_session()
        child = os.fork()
        if not child:
            try:
                session.close()
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert "remove" not in fake.steps()
        assert session.send_request("echo", {"a": 1}) == {"a": 1}
        session.close()
        assert fake.containers == {}


# -- restarts ----------------------------------------------------------------------------------------------------------


def test_a_server_that_ended_is_started_again_by_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    made = transport(max_restarts=2, restart_delay=0.05)
    events: list[tuple[str, dict[str, Any]]] = []
    made.on_process_event(lambda name, data: events.append((name, data)))
    with engine(monkeypatch) as fake:
        session = made.create_session()
        for _ in range(2):
            with pytest.raises(MCPConnectionError, match="ended with exit status 0"):
                session.send_request("die", {})
            assert session.send_request("echo", {"a": 1}) == {"a": 1}
        with pytest.raises(MCPConnectionError):
            session.send_request("die", {})
        with pytest.raises(MCPConnectionError, match="max_restarts is 2"):
            session.send_request("echo", {})
        session.close()
        until(lambda: fake.containers == {})
        assert len(fake.created) == 3
    until(lambda: [name for name, _ in events].count("process_ended") == 3)
    assert [data["attempt"] for name, data in events if name == "process_restart"] == [1, 2]


def test_without_restarts_the_end_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(monkeypatch) as fake:
        session = transport().create_session()
        for _ in range(2):
            with pytest.raises(MCPConnectionError):
                session.send_request("die", {})
        session.close()
        assert len(fake.created) == 1


# -- what dead processes left ------------------------------------------------------------------------------------------


def test_what_dead_owners_left_is_removed_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    us = owners.ourselves()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = {
        "dead": {owners.PID: str(dead.pid), owners.BEGAN: "1"},
        "number used again": {owners.BEGAN: "1"},
        "older boot": {owners.BOOT: "another"},
        "ours": {},
        "other host": {owners.HOST: "another", owners.PID: str(dead.pid)},
        "other namespace": {owners.SPACE: "pid:[1]", owners.PID: str(dead.pid)},
        "no number": {owners.PID: "x"},
    }
    with engine(monkeypatch) as fake:
        fake.listed = [{"Id": name, "Labels": {**us.labels(), **labels}} for name, labels in left.items()]
        fake.listed.append({"Id": "incomplete", "Labels": {owners.HOST: us.host}})
        fake.listed.append({"Id": "bare", "Labels": None})
        transport().create_session().close()
        removed = [about for step, about in fake.log if step == "remove"]
        assert removed[:-1] == ["dead", "number%20used%20again", "older%20boot"][: len(removed) - 1]
        assert len(removed) == (4 if "/" in us.host else 3)


def test_what_could_not_be_removed_is_removed_by_the_next_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(monkeypatch, remove=500) as fake:
        made = transport(shutdown_timeout=0.3)
        made.create_session().close()
        until(lambda: "remove" in fake.steps())
        fake.faults.clear()
        made.create_session().close()
        until(lambda: fake.containers == {})
        assert len(fake.created) == 2


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """I12"""

    def serve(wire: FrameWire) -> None:
        wire.frame(2, b"my key is canary-1234\n")
        wire.frame(1, b"canary-1234\n")

    caplog.set_level("DEBUG", "mcp_sync")
    env = {"API_KEY": "canary-1234"}
    with engine(monkeypatch, serve):
        error = fails(MCPConnectionError, 2, env=env)
        assert "***" in str(error)
        assert "canary" not in str(error)
        assert "canary" not in repr(error.details)
    with engine(monkeypatch, create=(500, {"message": "bad API_KEY=canary-1234"})):
        assert "canary" not in str(fails(MCPConnectionError, 8, env=env))
    assert "canary" not in repr(transport(env=env))
    assert "canary" not in caplog.text
