"""The examples that are servers, each started as its docstring says, and called by our own client."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from hosts import install
from mcp_sync import AuthError, Client, JSONRPCError
from peers.running import Running, running

pytestmark = pytest.mark.interop

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
WAIT = 15.0
ERAS = ["2026-07-28", "2025-11-25"]
READER = {"Authorization": "Basic " + b64encode(b"reader:reader").decode()}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    with ExitStack() as stack:

        def started(command: Callable[[int], list[str]], **env: str) -> Running:
            known = {"PYTHONPATH": str(ROOT), "BOOKS_DATABASE": str(tmp_path / "books.sqlite3"), **env}
            return stack.enter_context(running(command, tmp_path / "example", known))

        yield started


def gunicorn(application: str, *options: str) -> Callable[[int], list[str]]:
    own = ["--threads=16", "--graceful-timeout=2", f"--chdir={EXAMPLES}", *options]
    return lambda port: [install.demand(), "-m", "gunicorn", *own, f"--bind=127.0.0.1:{port}", application]


def flask(port: int) -> list[str]:
    app = ["--app", str(EXAMPLES / "flask_app.py")]
    return [install.demand(), "-m", "flask", *app, "run", "--no-reload", f"--port={port}"]


def django(port: int) -> list[str]:
    return [install.demand(), str(EXAMPLES / "django_app.py"), "runserver", f"127.0.0.1:{port}"]


def client_of(server: Running, version: str, **options: Any) -> Client:
    return Client(server.url, protocol_version=version, timeout=WAIT, **options)


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize("command", [flask, gunicorn("flask_app:app")], ids=["flask", "gunicorn"])
def test_a_flask_application_is_a_server_as_well(start: Callable[..., Running], command: Any, version: str) -> None:
    server = start(command)
    with client_of(server, version) as client:
        assert client.call_tool("add_note", {"text": "Buy tea"}).data == 1
        posted = requests.post(f"{server.origin}/notes", json={"text": "Drink tea"}, timeout=WAIT)
        assert posted.json() == {"number": 2}
        assert client.call_tool("search_notes", {"word": "TEA"}).data == ["Buy tea", "Drink tea"]
        assert client.read_resource("notes://all").contents[0].text == '["Buy tea", "Drink tea"]'
    assert requests.get(f"{server.origin}/notes", timeout=WAIT).json() == ["Buy tea", "Drink tea"]


def test_the_flask_application_wants_its_token(start: Callable[..., Running]) -> None:
    server = start(flask, NOTES_TOKEN="a-secret-of-many-letters")
    with pytest.raises(AuthError), client_of(server, ERAS[0]):
        pass
    with client_of(server, ERAS[0], auth_header="Bearer a-secret-of-many-letters") as client:
        assert client.call_tool("search_notes", {"word": "tea"}).data == []


def set_up(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "BOOKS_DATABASE": str(tmp_path / "books.sqlite3")}
    subprocess.run([install.demand(), str(EXAMPLES / "django_app.py"), "setup"], env=env, check=True, timeout=60)


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize(
    "command", [django, gunicorn("django_app:application", "--workers=2")], ids=["django", "gunicorn"]
)
def test_a_django_site_offers_its_models_to_its_users(
    start: Callable[..., Running], tmp_path: Path, command: Any, version: str
) -> None:
    set_up(tmp_path)
    server = start(command)
    with pytest.raises(AuthError), client_of(server, version):
        pass
    said: list[str] = []
    options = {"headers": READER, "log_level": "info", "on_log": lambda message: said.append(message.data)}
    with client_of(server, version, **options) as client:
        books = client.call_tool("find_books", {"author": "austen", "since": 1816}).data
        assert books == [{"title": "Persuasion", "author": "Jane Austen", "year": 1817}]
        assert client.call_tool("add_book", {"title": "Ulysses", "author": "James Joyce", "year": 1922}).data == 4
        assert "George Eliot" in client.read_resource("books://Middlemarch").contents[0].text
        with pytest.raises(JSONRPCError):
            client.read_resource("books://Nothing")
    remembered = version > "2026" or command is django  # two processes without a shared place have no sessions
    assert said[:1] == (["user 1 found 1 books"] if remembered else [])
    listed = requests.get(f"{server.origin}/books", timeout=WAIT).json()["books"]
    assert "Ulysses" in [book["title"] for book in listed]


def test_the_demo_runs_over_every_transport() -> None:
    command = [sys.executable, str(EXAMPLES / "quickstart.py")]
    env = {**os.environ, "DOCKER_HOST": "unix:///nowhere"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"^(\w+), (\S+): Lisbon is sunny, 21 degrees$", done.stdout, re.MULTILINE)
    assert shown == [
        ("stdio", "2026-07-28"),
        ("stdio", "2025-11-25"),
        ("http", "2026-07-28"),
        ("sse", "2025-11-25"),
        ("websocket", "2026-07-28"),
    ]
    assert "greet: Hello Ada!" in done.stdout
    assert "Docker: no engine is here" in done.stdout
