"""The image of the tests, made of what is here: this interpreter, and what it needs to start. None can be pulled."""

from __future__ import annotations

import io
import json
import py_compile
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import docker
from containers.engines import api

import mcp_sync.testing.partner

IMAGE = "mcp-sync-test:python"
PYTHON = "/usr/bin/python"
COMMAND = [PYTHON, "-I", "-S", "-B", "-c", "import sys; sys.path.insert(0, '/srv'); import server"]
UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH
_HERE = Path(__file__).resolve().parent

# What the programs import, and all that comes with it.
_LIST_MODULES = """
import __future__, collections.abc, json, os, runpy, select, signal, socket, sys, threading, time, typing
import encodings.ascii, encodings.utf_8, encodings.latin_1, encodings.idna
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
stdlib = os.path.dirname(os.__file__)
print(json.dumps({"prefix": sys.base_prefix, "stdlib": stdlib, "files": sorted({f for f in files if f}),
    "program": os.path.realpath(sys.executable), "version": "python%d.%d" % sys.version_info[:2]}))
"""


def build() -> str:
    """Put the image into the engine; return its name."""
    with api() as client:
        client.import_image_from_data(_root(), repository="mcp-sync-test", tag="python")
    return IMAGE


def remove() -> None:
    """Take it out again."""
    with api() as client:
        try:
            client.remove_image(IMAGE, force=True)
        except docker.errors.APIError:
            pass  # the engine is on its way out


def _root() -> bytes:
    found = json.loads(subprocess.check_output([sys.executable, "-I", "-S", "-c", _LIST_MODULES]))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add_interpreter(tar, found)
        for path in (Path(mcp_sync.testing.partner.__file__), _HERE / "server.py"):
            _add_module(tar, path, f"srv/{path.name}")
        for folder in ("tmp", "data"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
    return buffer.getvalue()


def _add_interpreter(tar: tarfile.TarFile, found: dict[str, object]) -> None:
    program, stdlib, version = str(found["program"]), Path(str(found["stdlib"])), str(found["version"])
    tar.add(program, PYTHON[1:], filter=_roots)
    binaries = [program]
    for file in map(Path, found["files"]):  # type: ignore[call-overload]
        if file.suffix == ".so":
            binaries.append(str(file))
        _add_module(tar, file, f"usr/lib/{version}/{file.relative_to(stdlib)}")
    landmark = tarfile.TarInfo(f"usr/lib/{version}/lib-dynload")
    landmark.type, landmark.mode = tarfile.DIRTYPE, 0o755
    tar.addfile(landmark)
    for library in _libraries(binaries):
        tar.add(Path(library).resolve(), library[1:], filter=_roots)


def _add_module(tar: tarfile.TarFile, file: Path, name: str) -> None:
    """Add a module, compiled as well: a container that compiled them all would take twice the time to start."""
    tar.add(file, name, filter=_roots)
    if file.suffix == ".py":
        place = PurePosixPath(name)
        with tempfile.NamedTemporaryFile(suffix=".pyc") as compiled:
            py_compile.compile(str(file), compiled.name, invalidation_mode=UNCHECKED)
            inside = place.parent / "__pycache__" / f"{place.stem}.{sys.implementation.cache_tag}.pyc"
            tar.add(compiled.name, str(inside), filter=_roots)


def _libraries(binaries: list[str]) -> list[str]:
    said = subprocess.run(["ldd", *binaries], stdout=subprocess.PIPE, text=True, check=False).stdout
    return sorted(set(re.findall(r"(/\S+) \(0x", said)))


def _roots(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode |= 0o444
    return entry
