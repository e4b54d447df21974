"""What tests/peers/install.py promises: pinned, without a registry's name, done once, and said clearly when missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from servers.others import command_of

from peers import install

FOLDER = Path(install.__file__).parent


def test_everything_is_pinned_and_no_registry_is_named() -> None:
    for file in FOLDER.glob("*.txt"):
        assert re.fullmatch(r"[\w.-]+==[\w.]+\n", file.read_text()), file.name
    package = json.loads((FOLDER / "node" / "package.json").read_text())
    lock = json.loads((FOLDER / "node" / "package-lock.json").read_text())["packages"]
    assert lock[""]["dependencies"] == package["dependencies"]
    for name, version in package["dependencies"].items():
        assert lock[f"node_modules/{name}"]["version"] == version
    assert all("integrity" in entry and "resolved" not in entry for name, entry in lock.items() if name)


@pytest.mark.interop
def test_a_second_run_does_nothing() -> None:
    for name in install.NAMES:
        install.demand(name)
    done = subprocess.run(
        [sys.executable, install.__file__], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert not any(install.install(name) for name in install.NAMES)


@pytest.mark.parametrize("server", ["fastmcp", "memory"])
def test_a_test_whose_server_is_missing_fails_and_says_what_to_run(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "VENVS", str(tmp_path))
    peer = "node" if server == "memory" else server
    with pytest.raises(pytest.fail.Exception, match=f"run: .* tests/peers/install.py {peer}$"):
        command_of(server)


def test_an_environment_made_of_something_else_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "VENVS", str(tmp_path))
    (tmp_path / "node").mkdir()
    stamp = tmp_path / "node" / "stamp"
    stamp.write_text(f"{install._hash_of('node')}\n{sys.executable}")
    assert install.is_installed("node")
    stamp.write_text(f"0000\n{sys.executable}")
    assert not install.is_installed("node")
    stamp.write_text(f"{install._hash_of('node')}\n{tmp_path / 'gone'}")  # where Node.js was
    assert not install.is_installed("node")


def test_where_there_is_no_node_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, command: list[str], *more: str) -> str:
        raise install.InstallError("no network")

    monkeypatch.setattr(install, "VENVS", str(tmp_path))
    monkeypatch.setattr(install.shutil, "which", lambda program: None)
    monkeypatch.setattr(install, "_run", fail)
    with pytest.raises(install.InstallError, match=r"no Node\.js .*apt-get install nodejs npm.*no network"):
        install.install("node")
    assert not install.is_installed("node")
