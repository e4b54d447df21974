"""The demo's last part: our server in a container, made of this very interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import docker
import pytest
from containers.engines import api

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def no_image_left() -> None:
    """The image that the demo makes is not there before, and will not be after."""
    yield  # type: ignore[misc]
    with api() as client:
        try:
            client.remove_image("mcp-sync-demo:weather", force=True)
        except docker.errors.ImageNotFound:
            pass


def test_the_demo_runs_our_server_in_a_container(engine: None) -> None:
    command = [sys.executable, str(EXAMPLES / "quickstart.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stderr
    assert "Docker, 2026-07-28: Lisbon is sunny, 21 degrees" in done.stdout.splitlines()
