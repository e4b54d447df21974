"""A confined server reaches what it is allowed, by the kernel's hand: proved by one that tries to reach the rest."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stdio.programs import T, server

from mcp_sync import MCPConnectionError, MCPSession, StdioTransport
from mcp_sync.policies import Confinement
from mcp_sync.testing import in_threads
from mcp_sync.transports import confining, landlock

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or landlock.abi() < landlock.NEEDED, reason="the kernel has no Landlock, or too little"
)

# Each attempt is a line of Python with `inside` and `outside`, two directories; it answers by the name of the error.
TRIES = """
import ctypes, shutil, socket

def attempt(id_, params):
    answer(id_, {"error": tried(params["code"], params["names"])})

def tried(code, names):
    try:
        exec(code, globals(), dict(names))
    except Exception as error:
        return type(error).__name__ + ": " + str(error)
    return None

def by_grandchild(id_, params):
    program = "import json, os, sys, shutil, ctypes, subprocess\\nexec(sys.argv[1], globals(), json.loads(sys.argv[2]))"
    words = [sys.executable, "-I", "-S", "-c", program, params["code"], json.dumps(params["names"])]
    done = subprocess.run(words, stdin=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    answer(id_, {"error": done.stderr.strip().splitlines()[-1] if done.returncode else None})

def descriptors(id_, params):
    found = []
    for number in range(3, 200):
        try:
            os.fstat(number)
        except OSError:
            continue
        if not os.readlink(f"/proc/self/fd/{number}").startswith("/memfd:libffi"):  # which ctypes has opened itself
            found.append(number)
    answer(id_, {"found": found})
"""

# What it must not do outside, and may inside: {place} is where.
DEEDS = {
    "read a file": "open({place} + '/file').read()",
    "write a file": "open({place} + '/file', 'w')",
    "append to a file": "open({place} + '/file', 'a')",
    "make a file": "open({place} + '/new', 'x')",
    "list": "os.listdir({place})",
    "make a directory": "os.mkdir({place} + '/directory')",
    "remove a directory": "os.rmdir({place} + '/empty')",
    "remove a file": "os.unlink({place} + '/spare')",
    "rename": "os.rename({place} + '/spare', {place} + '/other')",
    "link": "os.link({place} + '/file', {place} + '/link')",
    "make a symbolic link": "os.symlink({place} + '/file', {place} + '/symlink')",
    "make a fifo": "os.mkfifo({place} + '/fifo')",
    "truncate": "os.truncate({place} + '/file', 0)",
    "execute": "subprocess.run([{place} + '/program'], stdin=0, check=True, stdout=2)",
}
ONLY_OUTSIDE = {
    "move out": "os.rename(inside + '/file', outside + '/moved')",
    "move in": "os.rename(outside + '/file', inside + '/moved')",
    "link in": "os.link(outside + '/file', inside + '/linked')",
    "link out": "os.link(inside + '/file', outside + '/linked')",
    "follow a symbolic link": "open(inside + '/way_out').read()",
    "go up": "open(inside + '/../outside/file').read()",
    "go there": "os.chdir(outside); open('file').read()",
    "open by a path descriptor": "open('/proc/self/fd/%d' % os.open(outside + '/file', os.O_PATH)).read()",
    "read /etc": "open('/etc/passwd').read()",
    "read /proc": "open('/proc/self/environ').read()",
    "read what its parent has": "open('/proc/%d/environ' % os.getppid()).read()",
    "write to the system": "open('/usr/lib/mcp-sync-test', 'x')",
    "write to a device": "open('/dev/null', 'w')",
    "write to the interpreter": "open(prefix + '/mcp-sync-test', 'x')",
    "mount": "assert not libc.mount(b'none', inside.encode(), b'tmpfs', 0, None), os.strerror(ctypes.get_errno())",
    "make a device": "os.mknod(inside + '/disk', 0o60600, os.makedev(254, 0))",
}
ONLY_OUTSIDE["mount"] = "libc = ctypes.CDLL(None, use_errno=True); " + ONLY_OUTSIDE["mount"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("inside", "outside"):
        directory = tmp_path / name
        (directory / "empty").mkdir(parents=True)
        (directory / "file").write_text("text")
        (directory / "spare").write_text("spare")
        shutil.copy("/bin/true", directory / "program")
    (tmp_path / "inside" / "way_out").symlink_to(tmp_path / "outside" / "file")
    return tmp_path


@pytest.fixture
def confined(place: Path) -> Iterator[MCPSession]:
    session = server(TRIES, restrict_filesystem=True, allowed_paths=[place / "inside"]).create_session()
    yield session
    session.close()


def attempt(session: MCPSession, place: Path, code: str, by: str = "attempt") -> str | None:
    names = {"inside": str(place / "inside"), "outside": str(place / "outside"), "prefix": sys.base_prefix}
    found: str | None = session.send_request(by, {"code": code, "names": names})["error"]
    return found


def snapshot(directory: Path) -> dict[str, str | None]:
    return {
        path.name: path.read_text() if path.is_file() and path.name != "program" else None
        for path in directory.iterdir()
    }


# -- what it may, and may not ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["attempt", "by_grandchild"])
def test_outside_nothing_can_be_done(confined: MCPSession, place: Path, by: str) -> None:
    before = snapshot(place / "outside")
    deeds = {name: deed.format(place="outside") for name, deed in DEEDS.items()}
    for name, code in {**deeds, **ONLY_OUTSIDE}.items():
        error = attempt(confined, place, code, by)
        assert error is not None, name
        assert any(word in error for word in ("Permission", "Operation not permitted", "cross-device")), (name, error)
    assert snapshot(place / "outside") == before
    assert (place / "inside" / "file").read_text() == "text"


@pytest.mark.parametrize("by", ["attempt", "by_grandchild"])
@pytest.mark.parametrize("name", DEEDS)
def test_inside_everything_can_be_done(confined: MCPSession, place: Path, name: str, by: str) -> None:
    assert attempt(confined, place, DEEDS[name].format(place="inside"), by) is None


def test_without_confinement_all_of_that_is_possible(place: Path) -> None:
    session = server(TRIES).create_session()
    try:
        for name, deed in DEEDS.items():
            (place / "outside" / "spare").touch()
            assert attempt(session, place, deed.format(place="outside")) is None, name
    finally:
        session.close()


def test_a_file_is_moved_from_one_allowed_directory_to_another(place: Path) -> None:
    allowed = [str(place / "inside"), str(place / "outside")]
    session = server(TRIES, restrict_filesystem=True, allowed_paths=allowed).create_session()
    try:
        for name in ("move out", "link in", "follow a symbolic link"):
            (place / "inside" / "file").write_text("text")
            (place / "outside" / "file").write_text("text")
            assert attempt(session, place, ONLY_OUTSIDE[name]) is None, name
    finally:
        session.close()


def test_one_file_alone_is_allowed_and_its_neighbours_are_not(place: Path) -> None:
    paths = [place / "outside" / "file", "/dev/null"]
    session = server(TRIES, restrict_filesystem=True, allowed_paths=paths).create_session()
    try:
        for code in ("open(outside + '/file', 'a').write('x')", "open('/dev/null', 'w').write('x')"):
            assert attempt(session, place, code) is None
        for code in ("open(outside + '/spare')", "os.listdir(outside)", "os.unlink(outside + '/file')"):
            assert "Permission" in str(attempt(session, place, code))
    finally:
        session.close()


def test_the_interpreter_and_the_system_can_be_read_and_executed(confined: MCPSession, place: Path) -> None:
    for code in (
        "import argparse, decimal, sqlite3, ssl",
        "os.listdir('/usr/lib')",
        "open('/dev/urandom', 'rb').read(4)",
        "subprocess.run(['/bin/sh', '-c', 'true'], stdin=0, stdout=2, check=True)",
        "subprocess.run([sys.executable, '-c', 'import json'], stdin=0, stdout=2, check=True)",
    ):
        assert attempt(confined, place, code) is None, code


def test_no_descriptor_is_inherited(place: Path) -> None:
    secret = os.open(place / "outside" / "file", os.O_RDWR)
    os.set_inheritable(secret, True)
    directory = os.open(place / "outside", os.O_RDONLY)
    os.set_inheritable(directory, True)
    session = server(TRIES, restrict_filesystem=True, allowed_paths=[]).create_session()
    try:
        assert session.send_request("descriptors") == {"found": []}
    finally:
        session.close()
        os.close(secret)
        os.close(directory)


def test_a_restarted_one_is_confined_as_well(place: Path) -> None:
    knobs: dict[str, Any] = {"max_restarts": 1, "restart_delay": 0}
    session = server(TRIES, restrict_filesystem=True, allowed_paths=[place / "inside"], **knobs).create_session()
    try:
        with pytest.raises(MCPConnectionError):
            session.send_request("die")
        assert "Permission" in str(attempt(session, place, "open(outside + '/file')"))
        assert attempt(session, place, "open(inside + '/file')") is None
    finally:
        session.close()


# -- only the child --------------------------------------------------------------------------------------------------


def test_we_are_as_free_as_before_and_so_is_every_thread_of_ours(place: Path) -> None:
    def begin(number: int) -> None:
        session = server(TRIES, restrict_filesystem=True, allowed_paths=[place / "inside"]).create_session()
        try:
            assert "Permission" in str(attempt(session, place, "open(outside + '/file')"))
            answered = threading.Event()
            future = session.submit_request("echo", {})
            future.add_done_callback(lambda done: (place / "outside" / f"lane-{number}").touch() or answered.set())
            assert answered.wait(T)  # on a thread of the connection's
            (place / "outside" / f"mine-{number}").touch()
        finally:
            session.close()

    in_threads(4, begin)
    begin(4)
    assert len(list((place / "outside").glob("*-*"))) == 10
    assert subprocess.run(["/bin/cat", str(place / "outside" / "file")], capture_output=True).stdout == b"text"
    status = Path("/proc/thread-self/status").read_text()
    assert "NoNewPrivs:\t0" in status


def test_the_collector_pauses_meanwhile_and_is_as_it_was_afterwards() -> None:
    seen: list[bool] = []
    for enabled in (True, False, True):
        (gc.enable if enabled else gc.disable)()
        confining.confined(lambda: seen.append(gc.isenabled()), Confinement(True, ()), "calc")
        assert gc.isenabled() is enabled
    assert seen == [False, False, False]


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("abi", "words"), [(0, "has no Landlock"), (1, "ABI 1"), (2, "ABI 2")])
def test_a_kernel_that_cannot_is_named_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, place: Path, abi: int, words: str
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: abi)
    transport = StdioTransport(
        ["/bin/touch", str(place / "inside" / "started")], restrict_filesystem=True, allowed_paths=[place / "inside"]
    )
    with pytest.raises(MCPConnectionError, match=words) as found:
        transport.connect()
    assert os.uname().release in str(found.value)
    assert found.value.details["landlock_abi"] == abi
    assert found.value.may_have_run is False
    assert not (place / "inside" / "started").exists()


def test_another_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confining.sys, "platform", "darwin")
    with pytest.raises(MCPConnectionError, match="Linux's"):
        confining.confined(lambda: pytest.fail("it was done"), Confinement(True, ()), "calc")


@pytest.mark.parametrize("call", [landlock.CREATE_RULESET, landlock.ADD_RULE, landlock.RESTRICT_SELF])
def test_a_system_call_that_fails_starts_nothing(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    original = landlock._call

    def fail(number: int, *arguments: Any) -> int:
        if number == call and arguments[-1] != landlock.VERSION_FLAG:
            raise PermissionError(1, "Operation not permitted")
        return original(number, *arguments)

    monkeypatch.setattr(landlock, "_call", fail)
    with pytest.raises(MCPConnectionError, match="Operation not permitted"):
        confining.confined(lambda: pytest.fail("it was done"), Confinement(True, ("/tmp",)), "calc")


@pytest.mark.parametrize("known", [3, 4, 5])
def test_older_kernels_are_asked_only_for_what_they_know(
    monkeypatch: pytest.MonkeyPatch, place: Path, known: int
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: known)
    session = server(TRIES, restrict_filesystem=True, allowed_paths=[place / "inside"]).create_session()
    try:
        for name, deed in DEEDS.items():
            assert "Permission" in str(attempt(session, place, deed.format(place="outside"))), name
    finally:
        session.close()


def test_a_program_outside_is_told_from_one_that_may_not_be_executed(place: Path) -> None:
    program = str(place / "outside" / "program")
    with pytest.raises(MCPConnectionError, match="beneath one of allowed_paths") as found:
        StdioTransport(program, restrict_filesystem=True, allowed_paths=[place / "inside"]).connect()
    assert program in str(found.value)
    with pytest.raises(MCPConnectionError, match="no program"):
        StdioTransport("no-such-program-anywhere", restrict_filesystem=True).connect()


def test_an_allowed_path_that_is_not_there_is_named_at_once(place: Path) -> None:
    with pytest.raises(ValueError, match=r"allowed_paths: there is no .*/nowhere"):
        StdioTransport("server", restrict_filesystem=True, allowed_paths=[place / "nowhere"])
    transport = StdioTransport("server", restrict_filesystem=True, allowed_paths=[place / "inside"])
    shutil.rmtree(place / "inside")
    with pytest.raises(MCPConnectionError, match=r"the allowed path .*/inside"):
        transport.connect()


def test_relative_paths_are_ours(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    transport = server(TRIES, restrict_filesystem=True, allowed_paths=["inside"])
    monkeypatch.chdir("/")
    session = transport.create_session()
    try:
        assert attempt(session, place, "open(inside + '/file')") is None
    finally:
        session.close()


@pytest.mark.parametrize(
    ("knobs", "problem", "words"),
    [
        ({"allowed_paths": ["/tmp"]}, ValueError, "without restrict_filesystem=True"),
        ({"allowed_paths": []}, ValueError, "without restrict_filesystem=True"),
        ({"allowed_paths": ["/tmp"], "restrict_filesystem": False}, ValueError, "without restrict_filesystem=True"),
        ({"allowed_paths": "/tmp", "restrict_filesystem": True}, TypeError, "list of paths"),
        ({"allowed_paths": [7], "restrict_filesystem": True}, TypeError, "only paths"),
        ({"allowed_paths": [""], "restrict_filesystem": True}, ValueError, "empty"),
        ({"allowed_paths": ["a\0b"], "restrict_filesystem": True}, ValueError, "NUL"),
        ({"restrict_filesystem": "yes"}, TypeError, "True or False"),
    ],
)
def test_bad_values_are_refused(knobs: dict[str, Any], problem: type[Exception], words: str) -> None:
    with pytest.raises(problem, match=words):
        StdioTransport("server", **knobs)
