"""The soak itself: twenty seconds of it, and that it fails where it should."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from soak.soak import BAR_OVERRUN, BAR_SLOPE, SLOPE_MINUTES, Figures, Report, Witness, slope

HERE = Path(__file__).resolve().parent
TRANSPORTS = (
    *("stdio", "stdio, stateless", "stdio, restarting", "http, stateless", "http, handshake", "sse"),
    *("websocket", "websocket, stateless", "memory", "manager"),
)
LOOSE = "3"
"""Seconds of overrun: whatever else this machine does, a call that hangs is later than that."""


def run(*words: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(HERE / "soak.py"), *words], capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_twenty_seconds_of_it_pass_and_every_transport_was_used() -> None:
    """I1, I2, I3, I7, I16, I20"""
    code, said = run("--seconds", "20", "--threads", "32", "--seed", "1", "--bar", LOOSE)
    assert code == 0, said
    table = {line[:22].strip(): line[22:].split() for line in said.splitlines() if line[:22].strip() in TRANSPORTS}
    assert set(table) == set(TRANSPORTS), said
    for name, (good, timeouts, *_) in table.items():
        assert int(good) > 20, (name, said)
        assert int(timeouts) > 0, (name, said)
    assert said.rstrip().endswith("passed")


class Quiet(Witness):
    """One that notes nothing, and is no process."""

    def __init__(self, *stalls: tuple[float, float]) -> None:
        self.stalls = list(stalls)


def report(seconds: float = 60.0, *stalls: tuple[float, float], growth: float = 0.0, **about: Any) -> Report:
    """Return the report of a soak in which all was well, but for what is said."""
    storm = {"alive": True, "adds_up": True, "raised": 3, "caught": 3, "worst": 0.0}
    memory = [(float(at), 100.0 + growth * at / 3600) for at in range(int(seconds))]
    known: dict[str, Any] = {"leaks": [], "storm": storm, "unended": [], "processor": 1.0, "pauses": [], "began": 0.0}
    return Report(Figures(), Quiet(*stalls), seconds, memory, at_rest=memory, **{**known, **about})


def test_a_soak_in_which_all_was_well_passes() -> None:
    assert report().failures() == []
    assert report(growth=1000.0).failures() == []  # of a minute nothing can be said
    assert "left behind       0" in report().table()


SWALLOWED = {"alive": True, "adds_up": True, "raised": 3, "caught": 2, "worst": 0.0}
BAD: dict[str, tuple[Report, str]] = {
    "a leak": (report(leaks=["thread mcp-x"]), "left behind: thread mcp-x"),
    "a thread that hangs": (report(unended=["soak-3"]), "a thread did not end: soak-3"),
    "growth": (report(SLOPE_MINUTES * 60, growth=2 * BAR_SLOPE), "memory grew by 2.00 MB an hour"),
    "a swallowed Ctrl-C": (report(storm=SWALLOWED), "storm"),
    "a storm that crashed": (report(storm={"failed": "Traceback"}), "Traceback"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_misses_the_bar_is_said(what: str) -> None:
    bad, said = BAD[what]
    [failure] = bad.failures()
    assert said in failure


def test_an_overrun_is_one_unless_the_machine_stood_still_meanwhile() -> None:
    late = (BAR_OVERRUN + 0.1, 50.0, "stdio", "echo: timeout, 0.2 s")
    alone, excused = report(), report(60.0, (49.0, 50.2))
    for each in (alone, excused):
        each.figures.late.append(late)
    [failure] = alone.failures()
    assert failure.startswith("0.350 s late (as it came 0.350) at 50.0 s: stdio, echo")
    assert excused.failures() == []
    assert "as it came 350 ms" in excused.table()


class Closed:
    """A client that was closed, and its counters."""

    def __init__(self, **counters: int) -> None:
        known = {"sent": 5, "ok": 3, "error": 1, "timeout": 1, "cancelled": 0, "pending": 0}
        self.counters = Counter({**known, **counters})


@pytest.mark.parametrize("spoilt", [{"sent": 6}, {"pending": 1}, {"ok": 4}])
def test_counters_that_do_not_add_up_are_said(spoilt: dict[str, int]) -> None:
    fine, bad = report(), report()
    fine.figures.account("stdio", Closed())  # type: ignore[arg-type]
    bad.figures.account("stdio", Closed(**spoilt))  # type: ignore[arg-type]
    assert fine.failures() == []
    [failure] = bad.failures()
    assert "the counters do not add up" in failure


def test_a_callback_that_did_not_come_is_said() -> None:
    bad = report()
    bad.figures.futures += 1
    assert bad.failures() == ["1 futures, and 0 callbacks"]


def test_the_slope_is_that_of_a_line() -> None:
    assert slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == pytest.approx(2.0)
    assert slope([(1.0, 7.0)]) == 0.0
