"""The environment of the host tests: gunicorn, Flask, Django, a Jupyter kernel, and what the library needs.

Run it with any Python >= 3.10; a second run does nothing until requirements.txt changes::

    python tests/hosts/install.py
"""

import hashlib
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))  # as pytest does

from peers import install as peers  # noqa: E402

VENV = os.path.join(HERE, ".venvs", "hosts")
REQUIREMENTS = os.path.join(HERE, "requirements.txt")
PYTHON = peers.python_in(VENV)
_STAMP = os.path.join(VENV, "stamp")


def is_installed() -> bool:
    """Whether the environment exists and matches its requirement file."""
    try:
        with open(_STAMP) as file:
            return file.read() == _hash() and os.path.exists(PYTHON)
    except OSError:
        return False


def install() -> None:
    """Make the environment, unless it is there."""
    if is_installed():
        return
    peers.make_venv("hosts", VENV, REQUIREMENTS)
    with open(_STAMP, "w") as file:  # last, so that a broken install has none
        file.write(_hash())


def demand() -> str:
    """Return the path of its Python; raises with advice if it is not installed."""
    if not is_installed():
        raise peers.InstallError(f"gunicorn and its like are not installed; run: {sys.executable} {__file__}")
    return PYTHON


def _hash() -> str:
    with open(REQUIREMENTS, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


if __name__ == "__main__":
    try:
        install()
    except peers.InstallError as error:
        sys.exit(str(error))
