"""Make an image of this very Python and one server script, with nothing pulled: for the demo of containers.

It holds the interpreter, the shared libraries that ``ldd`` names, and all files that the script's imports load. Yours
will rather begin with ``FROM python:3-slim``; any image will do that runs a server on its stdin and stdout.
"""

import io
import json
import pathlib
import re
import subprocess
import sys
import tarfile

import docker

import mcp_sync

REPOSITORY, TAG = "mcp-sync-demo", "weather"
IMAGE = f"{REPOSITORY}:{TAG}"
COMMAND = ["/usr/bin/python", "-I", "-S", "/srv/run.py"]

# What the script imports, when it is imported and when a client connects.
LIST_FILES = """
import json, os, sys
sys.path.insert(0, {folder!r})
import {module} as script
import encodings.idna
from mcp_sync import Client
with Client(script.server) as client:
    client.call_tool("get_weather", {{"city": "Lisbon"}})
import mcp_sync.server.stdio, mcp_sync.server.running
files = {{getattr(module, "__file__", None) for module in list(sys.modules.values())}}
print(json.dumps({{"files": sorted(filter(None, files)), "program": os.path.realpath(sys.executable)}}))
"""
RUN = """
import sys
sys.path[:0] = {path!r}
exec(compile(open({script!r}).read(), {script!r}, "exec"))
"""


def make(script: pathlib.Path) -> str:
    """Put the image into the engine; return its name."""
    code = LIST_FILES.format(folder=str(script.parent), module=script.stem)
    found = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as image:
        image.add(found["program"], COMMAND[0][1:], filter=of_root)
        for file in {*found["files"], *libraries([found["program"], *found["files"]]), str(script.resolve())}:
            image.add(pathlib.Path(file).resolve(), file[1:], filter=of_root)
        ours = str(pathlib.Path(mcp_sync.__file__).resolve().parents[1])
        text = RUN.format(path=[ours, *filter(None, sys.path)], script=str(script.resolve())).encode()
        entry = tarfile.TarInfo("srv/run.py")
        entry.size = len(text)
        image.addfile(entry, io.BytesIO(text))
    engine = docker.from_env()
    try:
        engine.api.import_image_from_data(buffer.getvalue(), repository=REPOSITORY, tag=TAG)
    finally:
        engine.close()
    return IMAGE


def libraries(binaries: list[str]) -> list[str]:
    native = [binary for binary in binaries if not binary.endswith((".py", ".pyc"))]
    said = subprocess.run(["ldd", *native], stdout=subprocess.PIPE, text=True, check=False).stdout
    return re.findall(r"(/\S+) \(0x", said)


def of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.mode |= 0o444
    return entry


def engine_is_there() -> bool:
    try:
        engine = docker.from_env(timeout=5)
        engine.ping()
        engine.close()
    except docker.errors.DockerException:
        return False
    return True
