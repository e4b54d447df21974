"""Engines that are restarted in the middle of a call, that run without root, or are reached through a context.

FAULTS.md, 5.4, P1, as far as tests/transports/test_docker_faults.py does not show it (TLS, ssh).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from containers.engines import START_SECONDS, Dockerd, answers
from containers.fake import FakeEngine
from containers.images import COMMAND, IMAGE, build
from containers.tools import PATIENCE, ours, transport, until
from faults.tools import within

from mcp_sync import Client, DockerTransport, MCPConnectionError
from mcp_sync.transports import owners

NOW = 1.0
STEPS = ["create", "attach", "start"]

# -- restarted ---------------------------------------------------------------------------------------------------------


def test_an_engine_that_is_restarted_in_a_call_ends_it_at_once_and_the_next_call_has_a_new_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """I4, I7, I10: nobody knows whether the call ran, so it is not made again; what was left is removed."""
    place = tmp_path / "s"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{place}")
    recipe = DockerTransport("some/image:1", ["serve"], max_restarts=1, restart_delay=0.01, shutdown_timeout=0.5)
    with closing(Client(recipe, timeout=PATIENCE)) as client:
        with FakeEngine() as before:
            place.symlink_to(before.host.removeprefix("unix://"))
            future = client.connect().submit("hold", {})
            left = dict(before.containers)
            assert len(left) == 1
        with within(NOW):
            error = future.exception(PATIENCE)
        assert isinstance(error, MCPConnectionError)
        assert error.may_have_run is None
        with FakeEngine() as after:
            after.containers.update(left)
            place.unlink()
            place.symlink_to(after.host.removeprefix("unix://"))
            with within(NOW):
                assert client.request("echo", {"a": 1}) == {"a": 1}
            assert [step for step in after.steps() if step in STEPS] == STEPS
            with within(NOW):
                client.close()
            until(lambda: after.containers == {})


# -- without root ------------------------------------------------------------------------------------------------------


class Rootless(Dockerd):
    """An engine whose root is nobody outside: 0 to 65535 in its user namespace are numbers that no user here has."""

    FIRST, COUNT = 1_000_000, 65536
    ETC = ("passwd", "group", "hosts", "resolv.conf")

    def start(self) -> None:
        """Start it in namespaces of its own, and wait until it answers."""
        etc = self.folder / "etc"
        etc.mkdir(exist_ok=True)
        for name in self.ETC:
            if Path("/etc", name).exists():
                shutil.copy(Path("/etc", name), etc)
        for one in (self.folder, etc, *etc.iterdir()):
            os.chown(one, self.FIRST, self.FIRST)
        self.folder.chmod(0o755)
        with (self.folder / "log").open("ab") as output:
            self.process = subprocess.Popen(self._command(), stdin=subprocess.PIPE, stdout=output, stderr=output)
        self._map()
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.host):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.skip(f"no rootless engine: {(self.folder / 'log').read_text(errors='replace')[-300:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it and all below it, as the first process of their namespace ends."""
        if self.process is not None:
            self.process.kill()  # unshare, which takes no other signal while it waits
            self.process.wait(30)
            self.process = None

    def _command(self) -> list[str]:
        engine = f"dockerd --rootless --host {self.host} --data-root {self.folder}/data --exec-root {self.folder}/exec"
        engine += f" --pidfile {self.folder}/pid --iptables=false --bridge=none --storage-driver vfs --group 0"
        mounts = f"mount -t tmpfs t /run && mount --bind {self.folder}/etc /etc && mount -t proc p /proc"
        number = str(self.FIRST)
        outside = ["setpriv", "--reuid", number, "--regid", number, "--clear-groups", "env", "HOME=/"]
        begin = 'read go && exec unshare --mount --pid --fork --kill-child sh -c "$0"'
        return [*outside, "unshare", "--user", "sh", "-c", begin, f"{mounts} && exec {engine}"]

    def _map(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        own = os.readlink("/proc/self/ns/user")
        until(lambda: os.readlink(f"/proc/{self.process.pid}/ns/user") != own)  # type: ignore[union-attr]
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{self.process.pid}/{kind}").write_text(f"0 {self.FIRST} {self.COUNT}\n")
        with self.process.stdin as stdin:
            stdin.write(b"go\n")


@pytest.fixture
def rootless(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rootless]:
    """A rootless engine with our image, in DOCKER_HOST."""
    missing = [name for name in ("dockerd", "unshare", "setpriv") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"only root can start an engine here; missing: {missing}")
    with Rootless() as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        build()
        yield engine


def test_an_engine_without_root_is_one_as_well(rootless: Rootless) -> None:
    """A server there is called, its end is told, it is started again, and nothing is left.

    The folders of our image are for whoever may pass by their modes, hence the capability; a pulled image needs none.
    """
    recipe = transport(cap_add=["DAC_OVERRIDE"], max_restarts=1, restart_delay=0.01)
    assert Path(f"/proc/{rootless.process.pid}").stat().st_uid == Rootless.FIRST  # type: ignore[union-attr]
    with Client(recipe, timeout=PATIENCE) as client:
        assert client.request("echo", {"text": "größe"}) == {"text": "größe"}
        with within(NOW * 2), pytest.raises(MCPConnectionError) as found:
            client.request("die", {})
        assert found.value.may_have_run is None
        assert client.request("echo", {"a": 1}) == {"a": 1}
        with within(NOW * 2):
            client.close()
    assert ours(**{owners.PID: str(os.getpid())}) == []


def test_an_engine_is_found_through_the_current_context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As ``docker context use rootless`` leaves it."""
    with FakeEngine() as fake:
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        (tmp_path / "config.json").write_text(json.dumps({"currentContext": "rootless"}))
        about = tmp_path / "contexts" / "meta" / hashlib.sha256(b"rootless").hexdigest()
        about.mkdir(parents=True)
        endpoint = {"Host": fake.host, "SkipTLSVerify": False}
        content = {"Name": "rootless", "Metadata": {}, "Endpoints": {"docker": endpoint}}
        (about / "meta.json").write_text(json.dumps(content))
        with within(NOW), Client(DockerTransport(IMAGE, COMMAND)) as client:
            assert client.request("echo", {"a": 1}) == {"a": 1}
        assert fake.steps()[-1] == "remove"
        monkeypatch.setenv("DOCKER_HOST", fake.host)  # for whoever looks what is left
