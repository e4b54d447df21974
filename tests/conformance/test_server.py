"""The official conformance suite, server leg: every scenario that it has, and what each revision requires.

Under each of the hosts that the README names. The suite asks one scenario after the other.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peers import install
from peers.running import Command, Running, running

pytestmark = pytest.mark.interop

ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("server.py")
PATIENCE = 55.0

HOSTS = ("http", "waitress", "gunicorn")
RUNS = {
    "suite-all": ("--suite", "all"),
    "2025-11-25": ("--requirements", "2025-11-25"),
    "2026-07-28": ("--requirements", "2026-07-28"),
}
NEVER_RUN = {"tasks-status-notifications"}
"""The suite itself always skips it."""
SKIPPED: dict[str, set[str]] = {}
"""The checks that a scenario skips."""


def suite(*args: str) -> subprocess.CompletedProcess[str]:
    try:
        command = [*install.conformance(), *args]
    except install.InstallError as error:
        pytest.fail(str(error), pytrace=False)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NODE_", "MCP_"))}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=env, stdin=subprocess.DEVNULL)


def run(url: str, folder: Path, *args: str) -> dict[str, list[dict[str, Any]]]:
    """Run the server leg, and return the checks of each scenario."""
    done = suite("server", "--url", url, "--output-dir", str(folder), *args)
    found = {_scenario_of(path.parent): json.loads(path.read_text()) for path in folder.glob("*/checks.json")}
    assert found, done.stdout + done.stderr
    return found


def _scenario_of(results: Path) -> str:
    return re.sub(r"^server-(.*?)-\d{4}-\d\d-\d\dT[\d-]+Z$", r"\1", results.name)


def problems(name: str, checks: list[dict[str, Any]]) -> list[str]:
    """What is wrong: any failure or warning, what was skipped, or that nothing was really tried."""
    by_status: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for check in checks:
        by_status[check["status"]].append(check)
    found = [
        f"{name}: {status} {check['id']}: {check.get('errorMessage') or check['description']}"
        for status in ("FAILURE", "WARNING")
        for check in by_status[status]
    ]
    if all(check["id"] == "wire-schema-valid" for check in by_status["SUCCESS"]) and name not in NEVER_RUN:
        found.append(f"{name}: nothing succeeded")
    skipped = {check["id"] for check in by_status["SKIPPED"]}
    if skipped != SKIPPED.get(name, set()) and name not in NEVER_RUN:
        found.append(f"{name}: skipped {sorted(skipped)}")
    return found


def all_problems(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    return [flaw for name, checks in sorted(results.items()) for flaw in problems(name, checks)]


def under(host: str) -> Command:
    """What starts the server under a host."""
    return lambda port: [sys.executable, str(SERVER), str(port), host]


@pytest.fixture(scope="module", params=HOSTS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp(request.param)
    with running(under(request.param), folder, {"PYTHONPATH": str(ROOT)}) as started:
        yield started


def url_of(server: Running) -> str:
    """Where it is, by the only name that the suite takes for this machine's own."""
    return f"http://localhost:{server.port}/mcp"


def judge(server: Running, folder: Path, args: tuple[str, ...], expected: set[str]) -> None:
    __tracebackhide__ = True
    results = run(url_of(server), folder, *args)
    found = all_problems(results)
    if missing := expected ^ set(results):
        found.append(f"not the scenarios that were to be run: {sorted(missing)}")
    if found:
        pytest.fail("\n".join([*found, "the server said:", *server.output[-40:]]), pytrace=False)


# -- the gate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNS)
def test_the_server_conforms(name: str, server: Running, tmp_path: Path) -> None:
    judge(server, tmp_path, RUNS[name], scenarios(name))


@pytest.mark.slow
@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"])
def test_the_server_conforms_to_every_version(version: str, server: Running, tmp_path: Path) -> None:
    judge(server, tmp_path, ("--suite", "all", "--spec-version", version), scenarios("suite-all", version))


def scenarios(name: str, version: str | None = None) -> set[str]:
    """The names of the scenarios of a run."""
    if name == "suite-all":
        listed = suite("list").stdout.partition("Client scenarios")[0]
        found = re.findall(r"^  - (\S+) \[(.*)\]$", listed, re.MULTILINE)
        return {scenario for scenario, versions in found if version is None or version in versions.split(",")}
    said, _, unscored = suite("list", "--requirements", name).stdout.partition("Run and reported")
    required = re.findall(r"^  - (\S+)$", said.partition("Client scenarios")[0], re.MULTILINE)
    return {*required, *re.findall(r"^    - (\S+) \[server\]$", unscored, re.MULTILINE)}


# -- that nothing is left out -----------------------------------------------------------------------------------------


def test_the_suite_has_as_many_scenarios_as_it_had_when_the_fixtures_were_written() -> None:
    assert {name: len(scenarios(name)) for name in RUNS} == {"suite-all": 65, "2025-11-25": 33, "2026-07-28": 50}


def test_a_server_that_is_not_there_passes_nothing(tmp_path: Path) -> None:
    results = run("http://localhost:9/mcp", tmp_path, "--suite", "all")
    assert {name for name, checks in results.items() if not problems(name, checks)} == NEVER_RUN


# -- the judge --------------------------------------------------------------------------------------------------------


def checks(*given: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"id": name, "name": name, "status": status, "description": "d"} for name, status in given]


def test_a_good_result_is_found_good() -> None:
    assert problems("x", checks(("a", "SUCCESS"), ("b", "INFO"), ("wire-schema-valid", "SUCCESS"))) == []


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([("a", "SUCCESS"), ("b", "FAILURE")], "x: FAILURE b: d"),
        ([("a", "SUCCESS"), ("b", "WARNING")], "x: WARNING b: d"),
        ([("a", "SUCCESS"), ("b", "SKIPPED")], "x: skipped ['b']"),
        ([("wire-schema-valid", "SUCCESS"), ("b", "INFO")], "x: nothing succeeded"),
        ([], "x: nothing succeeded"),
    ],
)
def test_a_bad_result_is_found_bad(given: list[tuple[str, str]], problem: str) -> None:
    assert problems("x", checks(*given)) == [problem]
