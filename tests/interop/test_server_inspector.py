"""Our server and the command line of the official inspector, which connects anew for every question."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from peers import install
from peers.running import Running, running

pytestmark = pytest.mark.interop

ROOT = Path(__file__).resolve().parents[2]
SERVED = Path(__file__).with_name("served.py")
SKILLS = ROOT / "tests" / "conformance" / "skills"
ENV = {"PYTHONPATH": str(ROOT), "PEER_SKILLS": str(SKILLS), "PYTHONUNBUFFERED": "1"}
PATIENCE = 50.0
VERSIONS = {"modern": "2026-07-28", "legacy": "2025-11-25"}
TOOL_FAILED = 5
"""The exit status of the inspector where a result says isError."""


@dataclass
class Inspector:
    """The inspector, and the server that it is to look at."""

    era: str
    binding: str
    server: Running | None
    home: Path

    @property
    def target(self) -> list[str]:
        if self.server is None:
            return [sys.executable, str(SERVED), "stdio"]
        return [f"{self.server.origin}/{'mcp' if self.binding == 'http' else 'sse'}"]

    def run(self, method: str, *options: str) -> subprocess.CompletedProcess[str]:
        try:
            command = install.inspector()
        except install.InstallError as error:
            pytest.fail(str(error), pytrace=False)
        how = ["--transport", self.binding, "--protocol-era", self.era, "--format", "json", "--quiet"]
        if self.server is None:
            how += [word for name, value in ENV.items() for word in ("-e", f"{name}={value}")]  # what the child has
        keys = ("PATH", "LANG", "TMPDIR")
        env = {name: os.environ[name] for name in keys if name in os.environ} | ENV | {"HOME": str(self.home)}
        return subprocess.run(
            [*command, *self.target, "--method", method, *how, *options],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def ask(self, method: str, *options: str) -> dict[str, Any]:
        """Return the result of a method."""
        done = self.run(method, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        result: dict[str, Any] = json.loads(done.stdout)["result"]
        return result


WAYS = [("modern", "http"), ("modern", "stdio"), ("legacy", "http"), ("legacy", "stdio"), ("legacy", "sse")]


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def inspector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inspector]:
    era, binding = request.param
    home = tmp_path_factory.mktemp("home")
    if binding == "stdio":
        yield Inspector(era, binding, None, home)
        return
    command = [sys.executable, str(SERVED), binding]
    with running(lambda port: [*command, str(port)], tmp_path_factory.mktemp("served"), ENV) as server:
        yield Inspector(era, binding, server, home)


def test_both_say_who_they_are_and_agree(inspector: Inspector) -> None:
    greeting = inspector.ask("initialize")
    assert greeting["protocolVersion"] == VERSIONS[inspector.era]
    assert greeting["serverInfo"] == {"name": "interop", "version": "1.0"}
    assert greeting["instructions"] == "For the clients of others."


def test_the_schemas_of_the_tools_are_good_for_every_model(inspector: Inspector) -> None:
    listed = inspector.ask("tools/list", "--strict")  # exits with 6 if one is not
    assert {"add", "forecast", "region"} <= {tool["name"] for tool in listed["tools"]}


def test_a_tool_is_called(inspector: Inspector) -> None:
    result = inspector.ask("tools/call", "--tool-name", "add", "--tool-arg", "a=1", "b=2")
    assert result["structuredContent"] == {"result": 3}
    assert result["content"] == [{"type": "text", "text": "3"}]


@pytest.mark.slow
def test_a_tool_that_fails_is_told_from_one_that_works(inspector: Inspector) -> None:
    done = inspector.run("tools/call", "--tool-name", "fail", "--tool-arg", "message=no luck")
    assert done.returncode == TOOL_FAILED
    assert json.loads(done.stdout)["result"]["content"] == [{"type": "text", "text": "no luck"}]


@pytest.mark.slow
def test_resources_and_prompts_are_read(inspector: Inspector) -> None:
    read = inspector.ask("resources/read", "--uri", "greeting://Ada")
    assert read["contents"][0]["text"] == "Hello, Ada!"
    templates = inspector.ask("resources/templates/list")
    assert [one["uriTemplate"] for one in templates["resourceTemplates"]] == ["greeting://{name}"]
    prompt = inspector.ask("prompts/get", "--prompt-name", "greet", "--prompt-args", "name=Ada")
    assert prompt["messages"][0]["content"]["text"] == "Say hello to Ada."


@pytest.mark.slow
def test_the_level_of_the_log_is_set_where_there_is_one(inspector: Inspector) -> None:
    done = inspector.run("logging/setLevel", "--log-level", "debug")
    assert (done.returncode == 0) is (inspector.era == "legacy"), done.stdout + done.stderr


def test_the_skills_are_what_they_say(inspector: Inspector) -> None:
    done = inspector.run("skills/list", "--verify")  # exits with 7 if a digest, a size or a name is wrong
    assert (done.returncode == 0) is (inspector.era == "modern"), done.stdout + done.stderr  # the old era has none
    assert ("meeting-notes" in done.stdout) is (inspector.era == "modern")
