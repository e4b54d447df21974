"""Every seeded bug can still be seeded, and run.py tells a kill from everything that is none."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mutants import noting
from mutants.cage import OVER
from mutants.run import Note, hunt, judged
from mutants.seeded import MUTANTS, Mutant, mutated

ROOT = Path(__file__).parents[2]
SLOW = {"slow", "skip", "xfail"}


def test_there_are_at_least_25_and_no_two_of_one_name() -> None:
    assert len(MUTANTS) >= 25
    assert max(Counter(mutant.name for mutant in MUTANTS).values()) == 1
    assert max(Counter((mutant.file, mutant.old, mutant.new) for mutant in MUTANTS).values()) == 1


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_can_be_put_into_the_library_of_today(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text("utf-8")
    assert mutant.file.startswith("mcp_sync/")
    assert mutated(mutant, text) != text


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_has_tests_that_exist_and_are_run_by_make_test(mutant: Mutant) -> None:
    assert mutant.tests
    for test in mutant.tests:
        path, name = test.split("::")
        functions = {
            node.name: {mark for decorator in node.decorator_list for mark in SLOW if mark in ast.unparse(decorator)}
            for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        }
        assert name in functions, f"{test} does not exist"
        assert not functions[name], f"{test} is not run by make test"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [("absent", "", ValueError), ("here", "", ValueError), ("only", "(", SyntaxError)],
    ids=["not there", "there twice", "no Python"],
)
def test_a_bug_that_cannot_be_seeded_is_an_error(old: str, new: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        mutated(Mutant("x", "", "x.py", old, new, ()), "here, here, only\n")


def note(what: str, text: str = "") -> Note:
    return {"what": what, "test": "a.py::test_b", "text": text}


BEGIN, END, PASSED = note("begin"), note("end"), note("passed")
RUNS: dict[str, tuple[list[Note], int, str]] = {
    "a test fails": ([BEGIN, note("call", "assert 1 == 2"), END], 1, "killed"),
    "something is left behind": ([BEGIN, PASSED, note("teardown", "left behind"), END], 1, "killed"),
    "a test hangs": ([BEGIN, PASSED, END, BEGIN], 1, "killed"),
    "all pass": ([BEGIN, PASSED, END], 0, "survived"),
    "all are skipped": ([BEGIN, note("skipped", "no kernel"), END], 0, "skipped"),
    "nothing is collected": ([], 5, "broken"),
    "the copy is not what is imported": ([], 4, "broken"),
    "a test cannot be collected": ([note("collect", "SyntaxError")], 2, "broken"),
    "a fixture fails": ([BEGIN, note("setup", "no server"), END], 1, "broken"),
    "a name is missing": ([BEGIN, note("call", "NameError: name 'x' is not defined"), END], 1, "broken"),
    "an import fails": ([BEGIN, note("call", "ImportError: cannot import name 'x'"), END], 1, "broken"),
    "it takes too long in all": ([BEGIN, PASSED, END], OVER, "broken"),
    "pytest itself fails": ([BEGIN, PASSED, END], 3, "broken"),
}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_is_judged_by_what_became_of_its_tests(run: str) -> None:
    notes, status, verdict = RUNS[run]
    assert judged(notes, status).verdict == verdict


CUTTING = ("tests/protocol/test_framing.py::test_what_is_flushed_is_gone",)
HUNTS = {
    "survived": (
        "        self.skipped = 0\n        self._head",
        "        self.skipped = 0  # nothing else\n        self._head",
    ),
    "killed": ("        rest = bytes(self._rest)\n        self._reset()\n", "        rest = bytes(self._rest)\n"),
    "broken": ("        rest = bytes(self._rest)\n        self._reset()\n", "        rest = bytes(rest_)\n"),
}


@pytest.mark.parametrize("verdict", HUNTS)
def test_a_bug_is_hunted_in_a_copy(verdict: str, tmp_path: Path) -> None:
    old, new = HUNTS[verdict]
    found = hunt(Mutant("x", "", "mcp_sync/protocol/framing.py", old, new, CUTTING), tmp_path)
    assert found.verdict == verdict, found


def test_a_library_that_is_not_the_copy_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(noting.HOME, str(ROOT))
    noting.pytest_configure()
    monkeypatch.setenv(noting.HOME, str(tmp_path))
    with pytest.raises(pytest.UsageError, match="not from the copy"):
        noting.pytest_configure()


LEAVER = """
import os, subprocess, sys
left = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
print(left.pid, flush=True)
os._exit(3)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives orphans to whoever asks for them")
def test_what_a_run_leaves_behind_is_ended_and_its_exit_status_kept() -> None:
    command = [sys.executable, str(Path(__file__).parent / "cage.py")]
    done = subprocess.run([*command, "20", sys.executable, "-c", LEAVER], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 3
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
    done = subprocess.run([*command, "1", sys.executable, "-c", "import time; time.sleep(60)"])
    assert done.returncode == OVER
