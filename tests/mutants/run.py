"""Puts each of the seeded bugs into a copy of the library, and runs the tests that have to find it.

::

    python tests/mutants/run.py [--only NAME ...] [--jobs N] [--keep]

First every test runs without a bug, and has to pass. Then each bug has to be *killed*: one of its tests fails, in its
own code or in what is checked after every test, or runs into its time limit. Anything else, a test that cannot be
collected, a name that does not exist, a text that is not there exactly once, is no kill but an error here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
if __name__ == "__main__":
    sys.path[:1] = [str(HERE.parent)]

from mutants.cage import OVER  # noqa: E402
from mutants.noting import HOME, NOTES  # noqa: E402
from mutants.seeded import MUTANTS, Mutant, mutated  # noqa: E402

TEST_SECONDS = 20
"""A test that takes longer with a bug than this has found it."""
RUN_SECONDS = 150
"""For all tests of one bug; the first that fails ends the run."""
INSTALLED = ("tests/peers/.venvs", "tests/hosts/.venvs")
"""What is installed once, and only read."""
NEEDED = ("mcp_sync", "tests", "examples", "setup.cfg", "setup.py", "README.rst", "Makefile")
BROKEN = ("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError")
"""Errors that say that the mutant is none: any test would find it."""


class Note(TypedDict):
    """What noting.py says of a test."""

    what: str
    test: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        verdict: ``killed``, ``survived``, ``skipped`` or ``broken``.
        why: By which test, or what is wrong.
        seconds: How long it took.
    """

    verdict: str
    why: str
    seconds: float = 0.0


def judged(notes: Sequence[Note], status: int) -> Outcome:
    """Return what the notes of a run, and its exit status, say of the bug."""
    for note in notes:
        if note["what"] == "collect":
            return Outcome("broken", f"cannot be collected: {note['test']}: {note['text'][-200:]}")
        if note["what"] in ("setup", "call", "teardown") and (error := _is_broken(note["text"])):
            return Outcome("broken", f"{error} in {note['test']}: {note['text'][:200]}")
        if note["what"] == "setup":
            return Outcome("broken", f"a fixture fails: {note['test']}: {note['text'][:200]}")
        if note["what"] in ("call", "teardown"):
            return Outcome("killed", note["test"])
    if status == OVER:
        return Outcome("broken", f"not over after {RUN_SECONDS} s")
    begun = [note["test"] for note in notes if note["what"] == "begin"]
    if status == 1 and begun and notes[-1]["what"] != "end":
        return Outcome("killed", f"{begun[-1]} (its time limit)")
    if status:
        return Outcome("broken", f"pytest ends with {status}")
    if not any(note["what"] == "passed" for note in notes):
        return Outcome("skipped", next((note["text"] for note in notes if note["what"] == "skipped"), "no test ran"))
    return Outcome("survived", f"{sum(note['what'] == 'passed' for note in notes)} tests pass")


def _is_broken(text: str) -> str | None:
    return next((name for name in BROKEN if text.startswith((name, f"E   {name}")) or f"\n{name}:" in text), None)


# -- one run -----------------------------------------------------------------------------------------------------------


def copied(source: Path, place: Path) -> Path:
    """Make a copy of a checkout, without what is installed in it."""

    def left_out(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name in (".venvs", "node_modules", ".hypothesis", "corpus")]

    for name in NEEDED:
        if (source / name).is_dir():
            shutil.copytree(source / name, place / name, ignore=left_out)
        else:
            shutil.copy2(source / name, place / name)
    for name in INSTALLED:
        if (ROOT / name).is_dir():
            (place / name).symlink_to(ROOT / name)
    return place


def plant(mutant: Mutant, place: Path) -> None:
    """Put the bug into the copy; raises ValueError where its text is not there exactly once."""
    path = place / mutant.file
    path.write_text(mutated(mutant, path.read_text("utf-8")), "utf-8")
    for stale in path.parent.glob(f"__pycache__/{path.stem}.*"):
        stale.unlink()


def run_tests(place: Path, tests: Iterable[str], *, stop: bool, seconds: int) -> tuple[list[Note], int]:
    """Run tests of a copy; return what was noted, and pytest's exit status."""
    notes = place / "notes.jsonl"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHONHOME"))}
    env |= {"PYTHONPATH": f"{place}{os.pathsep}{place / 'tests/mutants'}", HOME: str(place), NOTES: str(notes)}
    words = [sys.executable, str(HERE / "cage.py"), str(seconds), sys.executable, "-m", "pytest", "-q", "-rN"]
    words += ["-m", "not slow", "-p", "noting", "-p", "no:cacheprovider", "--tb=short"]
    words += [f"--timeout={TEST_SECONDS if stop else 3 * TEST_SECONDS}", *(["-x"] if stop else []), *tests]
    with open(place / "output.txt", "wb") as output:
        done = subprocess.run(words, cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    lines = notes.read_text("utf-8").splitlines() if notes.exists() else []
    return [json.loads(line) for line in lines], done.returncode


def hunt(mutant: Mutant, folder: Path, source: Path = ROOT) -> Outcome:
    """Put one bug into a copy, and run its tests."""
    began = time.monotonic()
    place = copied(source, folder / mutant.name)
    try:
        plant(mutant, place)
    except (ValueError, OSError) as error:
        return Outcome("broken", str(error))
    found = judged(*run_tests(place, mutant.tests, stop=True, seconds=RUN_SECONDS))
    return Outcome(found.verdict, found.why, time.monotonic() - began)


def unfit(mutants: Sequence[Mutant], folder: Path, source: Path, jobs: int) -> dict[str, str]:
    """Run all tests without a bug; return, by test, why it is not fit to find one."""
    files: dict[str, set[str]] = {}
    for mutant in mutants:
        for test in mutant.tests:
            files.setdefault(test.partition("::")[0], set()).add(test)
    groups = [sorted(files)[start::jobs] for start in range(min(jobs, len(files)))]

    def run(number: int) -> list[Note]:
        tests = sorted({test for file in groups[number] for test in files[file]})
        place = copied(source, folder / f"without-{number}")
        notes, status = run_tests(place, tests, stop=False, seconds=20 * RUN_SECONDS)
        if not any(note["what"] == "begin" for note in notes):
            raise SystemExit(f"pytest ends with {status}:\n{(place / 'output.txt').read_text('utf-8')[-2000:]}")
        return notes

    with ThreadPoolExecutor(jobs) as pool:
        notes = [note for found in pool.map(run, range(len(groups))) for note in found]
    every = {test for mutant in mutants for test in mutant.tests}
    return {test: why for test in every if (why := _flaw(test, notes))}


def _flaw(test: str, notes: Sequence[Note]) -> str | None:
    ours = [note for note in notes if note["test"] == test or note["test"].startswith(f"{test}[")]
    for note in ours:
        if note["what"] in ("setup", "call", "teardown"):
            return f"fails without a bug: {note['text'][:300]}"
    if not any(note["what"] == "passed" for note in ours):
        return next((note["text"] for note in ours if note["what"] == "skipped"), "did not run")
    return None


# -- all of them -------------------------------------------------------------------------------------------------------


def main() -> int:
    """Return 0 where every bug is killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[mutant.name for mutant in MUTANTS])
    parser.add_argument("--jobs", type=int, default=2, help="how many at once")
    parser.add_argument("--keep", action="store_true", help="keep the copies, and say where they are")
    given = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if not given.only or mutant.name in given.only]
    folder = Path(tempfile.mkdtemp(prefix="mcp-mutants-"))
    try:
        return _hunt_all(mutants, folder, max(1, given.jobs), given.keep)
    finally:
        if given.keep:
            print(f"the copies are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _hunt_all(mutants: Sequence[Mutant], folder: Path, jobs: int, keep: bool) -> int:
    began = time.monotonic()
    source = copied(ROOT, folder / "source")  # somebody may be working on the checkout: all runs see the same
    flaws = unfit(mutants, folder, source, jobs)
    for test, why in sorted(flaws.items()):
        print(f"not fit: {test}: {why}")
    print(f"without a bug: {time.monotonic() - began:.0f} s", flush=True)

    def run(mutant: Mutant) -> Outcome:
        bad = [test for test in mutant.tests if test in flaws]
        found = Outcome("broken", f"{bad[0]} is not fit") if bad else hunt(mutant, folder, source)
        if not keep:
            shutil.rmtree(folder / mutant.name, ignore_errors=True)
        return found

    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(jobs) as pool:
        for mutant, outcome in zip(mutants, pool.map(run, mutants), strict=True):
            outcomes.append(outcome)
            print(f"{outcome.verdict:9}{outcome.seconds:6.1f} s  {mutant.name:40} {outcome.why}", flush=True)
            if outcome.verdict != "killed":
                print(f"{'':19}{mutant.sentence}")
    killed = sum(outcome.verdict == "killed" for outcome in outcomes)
    print(f"{killed} of {len(mutants)} seeded bugs are killed, in {time.monotonic() - began:.0f} s")
    return 0 if killed == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
