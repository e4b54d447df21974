"""The unit tests, each by eight threads at once (pytest-run-parallel): what is pure, or says it is for any thread, is.

What is not run like that: tests of hypothesis (an example is found by one thread), and those of WHOLE, which are about
what there is one of in a process.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
THREADS, TIMES = 8, 2
WHOLE = {
    "tests/ground/test_observe.py": "caplog: the log is one, and hears all eight",
    "tests/engine/test_dispatch.py": "threads are looked for by their names, and clocks are patched",
    "tests/engine/test_future.py": "the process's reaper is patched",
    "tests/engine/test_lifetimes.py": "forks, the collector, the exit",
    "tests/engine/test_outbox.py": "the constants of a module are patched",
}
"""Files that are about something of which a process has one, and what that is."""
MEASURING = ("memory", "takes_a_few_times")
"""In the names of tests that measure the memory of the process, which is that of all eight."""
PARTS = {
    "ground": ["tests/ground"],
    "protocol, a to g": sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/protocol/test_[a-g]*.py")),
    "protocol, h to z": sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/protocol/test_[h-z]*.py")),
    "engine": [f"tests/engine/test_{name}.py" for name in ("backlog", "channel", "connect")],
}

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]
needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("pytest_run_parallel") is None, reason="pytest-run-parallel is not installed"
)


@needs_plugin
@pytest.mark.parametrize("part", PARTS)
def test_the_unit_tests_pass_with_eight_threads_in_each(part: str) -> None:
    """I2, I4: no test of these has any state but its own, and neither has what it tests."""
    options = ["-p", "pytest_run_parallel.plugin"]
    options += ["-q", "-p", "no:cacheprovider", "-m", "not hypothesis and not slow and not alone", "-rfE", "--tb=short"]
    options += [f"--parallel-threads={THREADS}", f"--iterations={TIMES}", *(f"--ignore={path}" for path in WHOLE)]
    options += ["-k", " and ".join(f"not {word}" for word in MEASURING)]
    command = [sys.executable, "-m", "pytest", *options, *PARTS[part]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_what_is_not_run_in_parallel_exists() -> None:
    assert [path for path in WHOLE if not (ROOT / path).exists()] == []
