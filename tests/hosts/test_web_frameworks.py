"""In front of an MCP server over HTTP: the Flask and the Django example, under gunicorn and under their own servers."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product, starmap
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from hosts import install
from hosts.nursery import ROOT, Script, Scripts, until
from peers.running import Fleet, Running, running, script

pytestmark = pytest.mark.interop

EXAMPLES = ROOT / "examples"
APPLICATIONS = {"flask": "app", "django": "application"}
HOSTS = ("gunicorn", "preload", "development")
PEERS = ("sdk2", "sdk1")
TIMEOUT = 3.0
"""Of the applications' calls."""
AT_ONCE = 1.0
CALLERS, REQUESTS = 16, 64
WORKERS = 4

USED_BEFORE_THE_FORK = """
import sys
sys.path.insert(0, {folder!r})
import {module} as example
assert example.client.call_tool("add", {{"a": 1, "b": 2}}).data == 3
application = example.{application}
"""


@dataclass(frozen=True)
class Setting:
    """Who serves the application, and which MCP server it talks to.

    In front of sdk2 the client is stateless; in front of sdk1 it has a session, and a thread that listens.
    """

    framework: str
    host: str
    peer: str

    def __str__(self) -> str:
        return f"{self.framework}-{self.host}-{self.peer}"

    def command(self, folder: Path) -> list[str]:
        python = install.demand()
        module = f"{self.framework}_client"
        if self.host != "development":
            prefork = [f"--workers={WORKERS}", "--threads=4", "--bind=127.0.0.1:0", "--graceful-timeout=5"]
            place, target = EXAMPLES, f"{module}:{APPLICATIONS[self.framework]}"
            if self.host == "preload":
                names = {"module": module, "application": APPLICATIONS[self.framework]}
                (folder / "used.py").write_text(USED_BEFORE_THE_FORK.format(folder=str(EXAMPLES), **names))
                prefork.append("--preload")
                place, target = folder, "used:application"
            return [python, "-m", "gunicorn", *prefork, f"--chdir={place}", target]
        if self.framework == "flask":
            return [python, "-m", "flask", "--app", str(EXAMPLES / "flask_client.py"), "run", "--no-reload", "--port=0"]
        return [python, str(EXAMPLES / "django_client.py"), "runserver", "--noreload", "127.0.0.1:0"]


def settings(always: str) -> list[Any]:
    """All settings; those that are not named are slow."""
    every = {str(one): one for one in starmap(Setting, product(APPLICATIONS, HOSTS, PEERS))}
    named = set(always.split())
    assert named <= every.keys()
    return [pytest.param(one, id=name, marks=() if name in named else pytest.mark.slow) for name, one in every.items()]


@dataclass
class Site:
    """An application that is running."""

    script: Script
    port: int

    def ask(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON of the reply."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
            is_json = response.headers.get_content_type() == "application/json"
            return response.status, json.loads(body) if is_json else {}
        finally:
            connection.close()

    def call(self, tool: str, **arguments: object) -> tuple[int, dict[str, Any]]:
        return self.ask("POST", f"/tools/{tool}?{urlencode(arguments)}")

    def add(self, numbers: range) -> list[tuple[int, dict[str, Any]]]:
        """Have every number increased by one, all at once."""
        with ThreadPoolExecutor(CALLERS) as pool:
            return list(pool.map(lambda n: self.call("add", a=n, b=1), numbers))

    def status_and_seconds(self, tool: str, **arguments: object) -> tuple[int, float]:
        began = time.monotonic()
        status, _ = self.call(tool, **arguments)
        return status, time.monotonic() - began

    def end(self, number: int) -> int:
        """Send a signal; returns the exit status, when nothing of it is left."""
        self.script.signal(number)
        ended = self.script.end(10)
        assert "Traceback" not in ended.stderr, ended.stderr
        assert until(lambda: not _exists(self.script.process.pid), AT_ONCE), "some of its processes are left"
        return ended.code


def sums(numbers: range) -> list[tuple[int, dict[str, Any]]]:
    return [(200, {"text": str(n + 1), "data": n + 1}) for n in numbers]


def start(setting: Setting, url: str, scripts: Scripts, folder: Path) -> Site:
    command = setting.command(folder)
    env = {"MCP_URL": url, "MCP_TIMEOUT": str(TIMEOUT), "NO_COLOR": "1"}
    site = scripts.start(f"os.execv({command[0]!r}, {command!r})", [], env=env)
    found: list[re.Match[str]] = []

    def is_up() -> bool:
        said = site.stderr + "\n".join(site.lines)
        found[:] = re.finditer(r"http://127\.0\.0\.1:(\d+)", said)
        return bool(found) and (setting.host == "development" or said.count("Booting worker") == WORKERS)

    assert until(is_up, 20), site.stderr
    return Site(site, int(found[0][1]))


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    ships = Fleet(tmp_path_factory.mktemp("fleet"))
    yield ships
    ships.end()


@pytest.fixture(scope="module")
def peers(fleet: Fleet) -> dict[str, Running]:
    """The MCP servers, which no test may harm."""
    return {peer: fleet.server(peer) for peer in PEERS}


# -- all is well ------------------------------------------------------------------------------------------------------

EACH_HOST = """
    flask-gunicorn-sdk1 flask-preload-sdk2 flask-development-sdk1
    django-gunicorn-sdk2 django-preload-sdk1 django-development-sdk2
"""


@pytest.mark.parametrize("setting", settings(EACH_HOST))
def test_concurrent_requests_get_the_right_answers_and_sigterm_ends_it_all(
    setting: Setting, peers: dict[str, Running], scripts: Scripts, tmp_path: Path
) -> None:
    site = start(setting, peers[setting.peer].url, scripts, tmp_path)
    status, tools = site.ask("GET", "/tools")
    assert (status, tools["add"]) == (200, "Add two integers.")
    assert site.add(range(REQUESTS)) == sums(range(REQUESTS))
    # The development servers do not look out for it.
    assert site.end(signal.SIGTERM) == (-signal.SIGTERM if setting.host == "development" else 0)


# -- the MCP server goes away -----------------------------------------------------------------------------------------


@contextmanager
def stopped(server: Running) -> Iterator[None]:
    os.killpg(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(server.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("setting", settings("flask-preload-sdk1 django-development-sdk2"))
def test_without_the_mcp_server_there_is_502_or_504_in_time_and_with_a_new_one_all_is_well(
    setting: Setting, scripts: Scripts, tmp_path: Path
) -> None:
    with running(script(setting.peer), tmp_path / "first") as server:
        site = start(setting, server.url, scripts, tmp_path)
        assert site.add(range(CALLERS)) == sums(range(CALLERS))
        with stopped(server):
            status, seconds = site.status_and_seconds("add", a=1, b=2)
        assert status == 504
        assert TIMEOUT - 0.1 < seconds < TIMEOUT + AT_ONCE
        # Now and then a server of SDK 1 loses its session when it wakes up to a request that was given up.
        assert until(lambda: site.add(range(CALLERS)) == sums(range(CALLERS)))

        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(site.call, "slow", seconds=20)
            assert server.journal() == "started slow"
            killed = time.monotonic()
            server.kill()
            assert under_way.result(20)[0] == 502
            assert time.monotonic() - killed < AT_ONCE

    with ThreadPoolExecutor(2 * WORKERS) as pool:
        for status, seconds in pool.map(lambda n: site.status_and_seconds("add", a=n, b=2), range(2 * WORKERS)):
            assert status == 502
            assert seconds < TIMEOUT

    with running(script(setting.peer), tmp_path / "second", port=server.port):
        assert site.add(range(REQUESTS)) == sums(range(REQUESTS))
        assert site.end(signal.SIGINT) == 0


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", settings("flask-development-sdk2 django-development-sdk1"))
def test_errors_are_statuses(setting: Setting, peers: dict[str, Running], scripts: Scripts, tmp_path: Path) -> None:
    site = start(setting, peers[setting.peer].url, scripts, tmp_path)
    status, answer = site.call("fail", message="not today")
    assert status == 422
    assert "not today" in answer["error"]
    assert site.call("add", a=1)[0] == 422
    assert site.call("no-such-tool")[0] in (400, 422)
    assert site.call("echo", text="words")[1]["data"] == "words"
    assert site.call("echo", text='"1"')[1]["data"] == "1"
    assert site.ask("GET", "/tools/add")[0] == 405
    assert site.ask("GET", "/")[0] == 404


KINDS = {
    'ToolError("no")': 422,
    'JSONRPCError(-32602, "wrong arguments")': 400,
    'JSONRPCError(-32603, "broken")': 502,
    'MCPTimeoutError("late")': 504,
    'MCPConnectionError("gone")': 502,
    'ServerError("broken", 500)': 502,
    'AuthError("who are you?", 401)': 502,
    'RateLimited("slow down", 429)': 503,
    'CircuitOpen("open", 3.0)': 503,
    'TooManyRequests("a thousand")': 503,
    'RemoteProtocolError("what?")': 502,
    'LocalProtocolError("not so")': 500,
}


@pytest.mark.parametrize("framework", APPLICATIONS)
def test_each_kind_of_error_has_its_status(framework: str, scripts: Scripts) -> None:
    text = f"""
    sys.path.insert(0, {str(EXAMPLES)!r})
    import {framework}_client as example
    from mcp_sync import *
    for error in ({", ".join(KINDS)}): say(example.status_of(error))
    """
    ended = scripts.start(text, [], install.demand()).end()
    assert ended.code == 0, ended.stderr
    assert [int(line) for line in ended.lines] == list(KINDS.values())
