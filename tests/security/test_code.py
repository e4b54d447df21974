"""The code as bandit sees it, and what may not stand in it at all.

What bandit finds and we have looked at is listed in REVIEWED, each with its reason; anything else, or anything in the
list that is no longer found, fails.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mcp_sync"

REVIEWED: dict[tuple[str, str], str] = {
    ("B105", "transports/contained.py"): "the name of a label; the token itself is of secrets.token_hex",
    ("B110", "credentials.py"): "raised below, so that nothing that knows the key hangs on the error",
    ("B110", "transports/exchanges.py"): "closing what is broken already; nobody can be told",
    ("B311", "manage/checks.py"): "when a health check is made; nobody gains by guessing it",
    ("B311", "manage/links.py"): "how long a pause is; likewise",
    ("B404", "transports/process.py"): "starting servers is what it is for; never through a shell",
    ("B404", "transports/stdio.py"): "for its types only",
    ("B506", "server/skills.py"): "a loader of ours, derived from SafeLoader",
    ("B603", "transports/process.py"): "the command is the user's own, as a list; no shell",
}
SKIPPED = "B101"
"""Asserts: they tell mypy and readers what holds anyhow; the test below says that nothing hangs on them."""


def test_bandit_finds_nothing_that_nobody_has_looked_at() -> None:
    pytest.importorskip("bandit", reason="bandit is not installed")
    where = ["-x", str(PACKAGE / "testing")]  # test suites: they assert, and roll dice
    command = [sys.executable, "-m", "bandit", "-q", "-r", str(PACKAGE), "-f", "json", "-s", SKIPPED, *where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    report = json.loads(done.stdout)
    assert not report["errors"]
    found = {(one["test_id"], str(Path(one["filename"]).relative_to(PACKAGE))): one for one in report["results"]}
    assert {key: one["issue_text"] for key, one in found.items() if key not in REVIEWED} == {}
    assert {key for key in REVIEWED if key not in found} == set()


# -- what bandit does not see, or sees and cannot judge ----------------------------------------------------------------


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Yield every module of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text("utf-8"))


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield every call in the package: where, what is called, and the call."""
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield name, ast.unparse(node.func), node


FORBIDDEN = {
    "eval",
    "exec",
    "compile",
    "os.system",
    "os.popen",
    "pickle.loads",
    "pickle.load",
    "marshal.loads",
    "shelve.open",
    "yaml.unsafe_load",
    "yaml.full_load",
    "tempfile.mktemp",
    "ssl._create_unverified_context",
    "ssl.wrap_socket",
    "subprocess.getoutput",
    "hashlib.md5",
    "hashlib.sha1",
    "random.seed",
}


def test_nothing_dangerous_is_called() -> None:
    found = [(name, called, ast.unparse(call)) for name, called, call in calls() if called in FORBIDDEN]
    assert [one for one in found if "usedforsecurity=False" not in one[2]] == []


def test_nothing_is_started_through_a_shell() -> None:
    """I17"""
    shells = [name for name, _, call in calls() for keyword in call.keywords if keyword.arg == "shell"]
    assert shells == []
    assert {name for name, called, _ in calls() if called.endswith("Popen")} == {"transports/process.py"}


def test_no_assert_decides_who_may_do_what() -> None:
    """`python -O` leaves them out: none is in a module that lets people in, checks what they say, or hides secrets."""
    guards = {
        *("credentials.py", "protocol/redact.py", "protocol/origins.py", "protocol/hosts.py", "protocol/admission.py"),
        *("server/gate.py", "server/security.py", "server/sealing.py", "server/allowances.py", "server/uris.py"),
        *("server/sessions.py", "server/stores.py", "transports/passport.py", "transports/confining.py"),
    }
    found = Counter(name for name, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Assert))
    assert {name: found[name] for name in guards if found[name]} == {}
    assert {name for name, _ in trees()} >= guards


def test_what_is_secret_is_compared_in_constant_time() -> None:
    """By hmac.compare_digest, where a signature or a token is checked."""
    compared = Counter(name for name, called, _ in calls() if called == "hmac.compare_digest")
    assert set(compared) == {"credentials.py", "server/sealing.py"}


def test_what_must_not_be_guessed_comes_from_secrets() -> None:
    """Session ids, task ids, questions, tokens of containers."""
    made = {name for name, called, _ in calls() if called.startswith(("secrets.", "os.urandom"))}
    assert made >= {
        *("server/sessions.py", "server/legacy.py", "server/tasks.py", "server/sealing.py", "server/context.py"),
        "transports/docker.py",
    }
    dice = {name for name, called, _ in calls() if called.startswith("random.") and not name.startswith("testing/")}
    assert dice <= {"manage/checks.py", "manage/links.py", "manage/retry.py", "policies.py"}


def test_certificates_are_checked_unless_somebody_says_otherwise() -> None:
    """No context is made that checks nothing, but where verify_ssl=False asks for it."""
    unchecked = {
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "CERT_NONE"
    }
    assert unchecked <= {"transports/secure.py"}
