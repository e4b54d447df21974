"""What is done thousands of times leaves nothing behind: connections over every transport, and signals for a minute.

Over stdio: tests/faults/test_slow.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from soak.churn import MAKERS
from soak.soak import BAR_OVERRUN, Site, slope

HERE = Path(__file__).resolve().parent
CYCLES = 2000
KILOBYTES = 1.0
"""By so much memory may grow per cycle."""


def child(script: str, *words: str, seconds: float) -> dict[str, Any]:
    command = [sys.executable, str(HERE / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def churned(kind: str, cycles: int) -> dict[str, Any]:
    if kind == "memory":
        return child("churn.py", kind, "", str(cycles), seconds=500)
    site = Site(kind)
    site.start()
    try:
        site.await_it()
        return child("churn.py", kind, site.url, str(cycles), seconds=500)
    finally:
        site.kill()


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", MAKERS)
def test_2000_connections_leave_nothing_behind(kind: str) -> None:
    """I7, I8: descriptors and threads +0; less than a kilobyte each."""
    found = churned(kind, CYCLES)
    assert found["after"] == found["before"]
    assert slope(found["points"]) < KILOBYTES, found["points"]


@pytest.mark.parametrize("kind", MAKERS)
def test_some_connections_leave_no_descriptor_and_no_thread(kind: str) -> None:
    """I7: the same in short; of memory that is too little to say anything."""
    found = churned(kind, 60)
    assert found["after"] == found["before"]


def weather(seconds: float, seed: int) -> None:
    found = child("storm.py", str(seconds), str(seed), seconds=seconds + 120)
    assert found["raised"] == found["caught"] > 0, found
    assert found["alive"], found
    assert found["adds_up"], found
    assert not any(found.get(name) for name in ("wrong", "harmed", "overran")), found
    assert found["worst"] < BAR_OVERRUN + 1.0, found
    assert min(found[f"beside-{number}"] for number in range(3)) > 10, found


def test_a_storm_of_signals_for_three_seconds() -> None:
    """I2, I16: every five milliseconds; every other is a Ctrl-C that may come anywhere."""
    weather(3.0, 1)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_storm_of_signals_for_a_minute() -> None:
    """I2, I16"""
    weather(60.0, 2)
