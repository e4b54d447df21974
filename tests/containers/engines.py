"""A real Docker engine for the tests: the one that runs here, or one of our own that ends with them.

One of our own needs root. Where there is no program for it, and the system has apt-get, that installs it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import docker.errors
import pytest

START_SECONDS = 60.0
INSTALL_SECONDS = 600.0
API = "1.41"
"""Given, so that making a client asks nothing."""


@contextmanager
def api(host: str | None = None) -> Iterator[docker.APIClient]:
    """Give a client of the engine that leaves no connection behind."""
    client = docker.APIClient(base_url=host or os.environ.get("DOCKER_HOST"), version=API, timeout=30)
    try:
        yield client
    finally:
        client.close()


def answers(host: str | None) -> bool:
    """Whether an engine is there that answers us."""
    path = (host or "unix:///var/run/docker.sock").removeprefix("unix://")
    if path.startswith("/"):  # the SDK forgets to close a socket that finds nobody
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path):
                return False
    try:
        with api(host) as client:
            return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False


@contextmanager
def running() -> Iterator[str | None]:
    """Give the address of an engine, None for where they all are; without one, skip, or fail in CI."""
    host = os.environ.get("DOCKER_HOST")
    if answers(host):
        yield host
        return
    reason = _why_not()
    if reason is None:
        with Dockerd() as own:
            yield own.host
        return
    if os.environ.get("CI"):
        pytest.fail(f"no Docker engine: {reason}")
    pytest.skip(f"no Docker engine: {reason}")


def _why_not() -> str | None:
    """Return why we cannot start one ourselves, having installed it if need be."""
    if os.geteuid() != 0:
        return "none is running, and only root can start one"
    if shutil.which("dockerd") is None and shutil.which("apt-get") is not None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "timeout": INSTALL_SECONDS}
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=False, **quiet)  # type: ignore[call-overload]
        install = ["apt-get", "install", "-y", "-qq", "docker.io"]
        subprocess.run(install, check=False, env=environment, **quiet)  # type: ignore[call-overload]
    return None if shutil.which("dockerd") else "there is no dockerd"


class Dockerd:
    """An engine of our own, with all that it has in a folder that goes with it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mcpd-"))  # short: paths of sockets end at 107 bytes
        self.host = f"unix://{self.folder}/s"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = ["dockerd", "--host", self.host, "--data-root", str(self.folder / "data")]
        command += ["--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid")]
        log = self.folder / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.host):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"dockerd does not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it, and its containers."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
            self.process = None

    def __enter__(self) -> Dockerd:
        try:
            self.start()
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self._clear()

    def _clear(self) -> None:
        for mount in _mounts_below(self.folder):
            subprocess.run(["umount", "-l", mount], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.folder, ignore_errors=True)


def _mounts_below(folder: Path) -> list[str]:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    return sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True)
