"""What the benchmark of servers wants beside tests/peers and tests/hosts: wrk, and peers whose uvicorn is tuned.

Run it with any Python >= 3.10; a second run does nothing until tuned.txt changes::

    python tests/benchmarks/install.py

apt-get brings wrk where it may.
"""

import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

from peers import install as peers  # noqa: E402  # a folder beside ours, not a package that is installed

VENV = os.path.join(peers.VENVS, "tuned")
REQUIREMENTS = os.path.join(HERE, "tuned.txt")
PYTHON = peers.python_in(VENV)
_STAMP = os.path.join(VENV, "stamp")


def is_installed() -> bool:
    """Whether the environment exists and matches its requirement file."""
    try:
        return _text(_STAMP) == _text(REQUIREMENTS) and os.path.exists(PYTHON)
    except OSError:
        return False


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


def install_tuned() -> None:
    """Make the environment, unless it is there."""
    if not is_installed():
        peers.make_venv("tuned", VENV, REQUIREMENTS)
        shutil.copy(REQUIREMENTS, _STAMP)  # last, so that a broken install has none


def install_wrk() -> None:
    """Have apt-get bring it, unless it is there."""
    if shutil.which("wrk") is not None:
        return
    apt_get = shutil.which("apt-get")
    if apt_get is None or os.geteuid() != 0:
        raise peers.InstallError("wrk is not there. Install it (on Debian and Ubuntu: apt-get install wrk).")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "wrk"]):
        subprocess.run([apt_get, *command], env=environ, check=True)


if __name__ == "__main__":
    try:
        install_wrk()
        install_tuned()
    except (peers.InstallError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))
