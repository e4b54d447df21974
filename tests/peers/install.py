"""Virtual environments with the official MCP SDKs, for the peer servers.

Run it with any Python >= 3.10::

    python tests/peers/install.py          # both environments
    python tests/peers/install.py sdk1     # only one

A second run does nothing until the requirement file changes.
"""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
VENVS = os.path.join(HERE, ".venvs")
NAMES = ("sdk2", "sdk1")


class InstallError(Exception):
    """A command that builds an environment failed; the message has its output."""


def python_of(name: str) -> str:
    """Path of the interpreter of the environment `name` (it may not be installed yet)."""
    if name not in NAMES:
        raise ValueError(f"unknown peer {name!r}, expected one of {', '.join(NAMES)}")
    parts = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return os.path.join(VENVS, name, *parts)


def is_installed(name: str) -> bool:
    """Whether the environment `name` exists and matches its requirement file."""
    try:
        with open(_stamp_of(name)) as file:
            return file.read() == _hash_of(name) and os.path.exists(python_of(name))
    except OSError:
        return False


def install(name: str) -> bool:
    """Make the environment `name`; False if there was nothing to do."""
    if is_installed(name):
        return False
    _run(name, [sys.executable, "-m", "venv", "--clear", os.path.join(VENVS, name)])
    _run(name, [python_of(name), "-m", "pip", "install", "--quiet", "--no-input", "-r", _requirements_of(name)])
    with open(_stamp_of(name), "w") as file:  # last, so that a broken install has none
        file.write(_hash_of(name))
    return True


def _requirements_of(name: str) -> str:
    return os.path.join(HERE, name + ".txt")


def _stamp_of(name: str) -> str:
    return os.path.join(VENVS, name, "stamp")


def _hash_of(name: str) -> str:
    with open(_requirements_of(name), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _run(name: str, command: list[str]) -> None:
    elsewhere = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET")  # would put the packages, or find them, there
    env = {key: value for key, value in os.environ.items() if key not in elsewhere}
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if done.returncode:
        output = done.stdout.decode("utf-8", "replace").strip()
        raise InstallError(f"{name}: `{' '.join(command)}` exited with {done.returncode}:\n{output}")


def main(names: list[str]) -> int:
    for name in names:
        python_of(name)  # reject an unknown name before any work
    failed = 0
    with ThreadPoolExecutor(len(NAMES)) as pool:
        for future in [pool.submit(install, name) for name in names or NAMES]:
            try:
                future.result()
            except InstallError as error:
                print(error, file=sys.stderr)
                failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
