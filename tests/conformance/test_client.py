"""The official conformance suite, client leg: every scenario but those of OAuth, over Streamable HTTP.

Each is run by itself, for the suite starts all of its clients at once, and the client finds out the version, as that of
an application does. That it does as well when it is told the version, and all at once (the requirement sets and
``--suite all`` as they come), is for ``make test-all``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from conformance import client

from peers import install

pytestmark = pytest.mark.interop

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 55.0

HANDSHAKE = ["initialize", "tools_call"]
LAST_HANDSHAKE = [
    *HANDSHAKE,
    *("elicitation-sep1034-client-defaults", "sse-retry", "json-schema-2020-12-preservation"),
]
STATELESS = [
    *("tools_call", "request-metadata", "sep-2322-client-request-state", "http-standard-headers"),
    *("http-custom-headers", "http-invalid-tool-headers", "json-schema-ref-no-deref"),
    "json-schema-2020-12-preservation",
]
SKILLS = [
    *("sep-2640-client-no-prefetch", "sep-2640-client-verify-digest"),
    *("sep-2640-client-verify-size", "sep-2640-client-verify-frontmatter"),
]
WIRES = {"2025-06-18": HANDSHAKE, "2025-11-25": LAST_HANDSHAKE, "2026-07-28": STATELESS, "extension": SKILLS}
NEVER_SENT = {"ClientMcpMethodHeader_initialize", "ClientMcpMethodHeader_notifications_initialized"}
SKIPPED = {"http-standard-headers": NEVER_SENT}
"""The checks that a scenario skips: the stateless era has no such requests."""


def suite(*args: str, find_version: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the suite. Its --command goes through a shell, which so may have blanks in its paths."""
    try:
        command = [*install.conformance(), *args]
    except install.InstallError as error:
        pytest.fail(str(error), pytrace=False)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NODE_", "MCP_"))}
    env |= {"PYTHONPATH": str(ROOT), "CLIENT_PYTHON": sys.executable, "CLIENT_SCRIPT": client.__file__}
    env |= {"MCP_SYNC_FIND_VERSION": "1"} if find_version else {}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=env, stdin=subprocess.DEVNULL)


def run(folder: Path, *args: str, find_version: bool = False) -> dict[str, Path]:
    """Run the client leg, and return where the results of each scenario are."""
    command = '"$CLIENT_PYTHON" "$CLIENT_SCRIPT"'
    options = ["--command", command, "--output-dir", str(folder), "--timeout", "50000"]
    done = suite("client", *options, *args, find_version=find_version)
    found = {_scenario_of(path.parent, folder): path.parent for path in folder.glob("**/checks.json")}
    assert found, done.stdout + done.stderr
    return found


def _scenario_of(results: Path, folder: Path) -> str:
    return re.sub(r"-\d{4}-\d\d-\d\dT[\d-]+Z$", "", results.relative_to(folder).as_posix())


def problems(name: str, results: Path) -> list[str]:
    """What is wrong: any failure or warning, nothing that was really tried, or a client that gave up."""
    checks: list[dict[str, Any]] = json.loads((results / "checks.json").read_text())
    by_status: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for check in checks:
        by_status[check["status"]].append(check)
    found = [
        f"{status} {check['id']}: {check.get('errorMessage') or check['description']}"
        for status in ("FAILURE", "WARNING")
        for check in by_status[status]
    ]
    if all(check["id"] == "wire-schema-valid" for check in by_status["SUCCESS"]):
        found.append("nothing succeeded")
    skipped = {check["name"] for check in by_status["SKIPPED"]}
    if skipped != SKIPPED.get(name, set()):
        found.append(f"skipped {skipped}")
    said = (results / "stdout.txt").read_text()
    if not said.endswith(f"played {name}\n"):
        found.append(f"the client said {said!r} and {(results / 'stderr.txt').read_text()}")
    return found


def judge(name: str, results: Path) -> None:
    __tracebackhide__ = True
    if found := problems(name, results):
        pytest.fail("\n".join(found), pytrace=False)


# -- one by one -------------------------------------------------------------------------------------------------------


RUNS = [(wire, name) for wire, names in WIRES.items() for name in names]


def version(wire: str) -> list[str]:
    """What tells the suite which wire to speak; an extension has no choice."""
    return [] if wire == "extension" else ["--spec-version", wire]


@pytest.mark.parametrize(("wire", "name"), RUNS)
def test_the_client_conforms(wire: str, name: str, tmp_path: Path) -> None:
    judge(name, run(tmp_path, "--scenario", name, *version(wire), find_version=True)[name])


@pytest.mark.slow
@pytest.mark.parametrize(("wire", "name"), RUNS)
def test_the_client_conforms_when_it_is_told_the_version(wire: str, name: str, tmp_path: Path) -> None:
    judge(name, run(tmp_path, "--scenario", name, *version(wire))[name])


# -- that nothing is left out -----------------------------------------------------------------------------------------


def test_these_are_all_scenarios_of_the_suite_but_those_of_oauth() -> None:
    section = suite("list").stdout.partition("Client scenarios")[2].partition("Authorization server")[0]
    listed = {
        (version, name)
        for name, versions in re.findall(r"^  - (\S+) \[(.*)\]$", section, re.MULTILINE)
        for version in versions.split(",")
        if not name.startswith("auth/")
    }
    assert listed == {(wire, name) for wire, names in WIRES.items() for name in names}


@pytest.mark.parametrize(("revision", "names"), [("2025-11-25", LAST_HANDSHAKE), ("2026-07-28", STATELESS)])
def test_these_are_all_that_a_revision_requires_but_those_of_oauth(revision: str, names: list[str]) -> None:
    said = suite("list", "--requirements", revision).stdout.partition("Client scenarios")[2]
    required, _, unscored = said.partition("Run and reported")
    listed = re.findall(r"^  - (\S+)$", required, re.MULTILINE)
    listed += re.findall(r"^    - (\S+) \[client\]$", unscored, re.MULTILINE)
    assert {name for name in listed if not name.startswith("auth/")} == set(names)


# -- the judge --------------------------------------------------------------------------------------------------------


def results(folder: Path, *checks: tuple[str, str], said: str = "played x\n") -> Path:
    named = [{"id": name, "name": name, "status": status, "description": "d"} for name, status in checks]
    (folder / "checks.json").write_text(json.dumps(named))
    (folder / "stdout.txt").write_text(said)
    (folder / "stderr.txt").write_text("Traceback")
    return folder


def test_a_good_result_is_found_good(tmp_path: Path) -> None:
    checks = [("a", "SUCCESS"), ("b", "INFO"), ("wire-schema-valid", "SUCCESS")]
    assert problems("x", results(tmp_path, *checks)) == []


@pytest.mark.parametrize(
    ("checks", "said", "problem"),
    [
        ([("a", "SUCCESS"), ("b", "FAILURE")], "played x\n", "FAILURE b"),
        ([("a", "SUCCESS"), ("b", "WARNING")], "played x\n", "WARNING b"),
        ([("a", "SUCCESS"), ("b", "SKIPPED")], "played x\n", "skipped {'b'}"),
        ([("wire-schema-valid", "SUCCESS"), ("b", "INFO")], "played x\n", "nothing succeeded"),
        ([], "played x\n", "nothing succeeded"),
        ([("a", "SUCCESS")], "", "Traceback"),
    ],
)
def test_a_bad_result_is_found_bad(checks: list[tuple[str, str]], said: str, problem: str, tmp_path: Path) -> None:
    (found,) = problems("x", results(tmp_path, *checks, said=said))
    assert problem in found


def test_a_client_that_does_nothing_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "idle.py").write_text("print('played initialize')")
    monkeypatch.setattr(client, "__file__", str(tmp_path / "idle.py"))
    found = problems("initialize", run(tmp_path, "--scenario", "initialize")["initialize"])
    assert found == ["nothing succeeded"]


class Reader:
    """As much of a client as it takes to read a skill."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def read_resource(self, uri: str) -> Any:
        content = type("Content", (), {"text": self.files[uri]})
        return type("Result", (), {"contents": [content]})


def test_a_skill_that_is_what_was_listed_is_loaded() -> None:
    files = {"skill://a/SKILL.md": "---\nname: a\ndescription: b: c\n---\n\nBody.\n", "skill://a/more": "ü"}
    hashes = {
        "skill://a/SKILL.md": ("9bf706dd8cc21f52a08d95f8d09cd3bf87caf24098255f2a0ee26fa1f7f641bf", 41),
        "skill://a/more": ("607474ca475a9724d7360aba71a56d5df77e61350e3f724cfa1f46e857e2d85f", 2),
    }
    listed = [{"uri": uri, "digest": f"sha256:{digest}", "size": size} for uri, (digest, size) in hashes.items()]
    skill = {"uri": "skill://a/SKILL.md", "frontmatter": {"name": "a", "description": "b: c"}, "resources": listed}
    assert client.load(Reader(files), skill) == {uri: text.encode() for uri, text in files.items()}


# -- all at once, as the suite does it --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "names"),
    [
        (("--suite", "all"), {name for names in WIRES.values() for name in names}),
        (("--requirements", "2025-11-25"), set(LAST_HANDSHAKE)),
        (("--requirements", "2026-07-28"), set(STATELESS)),
    ],
    ids=["suite-all", "2025-11-25", "2026-07-28"],
)
@pytest.mark.parametrize("find_version", [False, True], ids=["told", "found"])
def test_the_client_conforms_with_all_scenarios_at_once(
    args: tuple[str, str], names: set[str], find_version: bool, tmp_path: Path
) -> None:
    found = run(tmp_path, *args, find_version=find_version)
    assert {name for name in found if not name.startswith("auth/")} == names
    wrong = {name: flaws for name in names if (flaws := problems(name, found[name]))}
    assert wrong == {}
