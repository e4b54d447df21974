"""Where the Docker cases get an engine and an image: from the modules of tests/containers.

The image is the one of the Docker tests, and server.py goes in as an argument. An engine of our own runs for as long as
the benchmark, where root has the program for it; nothing is installed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SERVER = Path(__file__).resolve().parent / "server.py"


@contextmanager
def engine() -> Iterator[str]:
    """Have an engine with the image, in DOCKER_HOST; give the reason why there is none, or an empty str."""
    try:
        from containers import engines
    except ImportError as error:
        yield f"no Docker engine: {error}"
        return
    if engines.answers(os.environ.get("DOCKER_HOST")):
        with _image():
            yield ""
    elif os.geteuid() or not shutil.which("dockerd"):
        yield "no Docker engine answers, and there is none that could be started"
    else:
        with engines.Dockerd() as own:
            before = os.environ.get("DOCKER_HOST")
            os.environ["DOCKER_HOST"] = own.host
            try:
                with _image():
                    yield ""
            finally:
                os.environ.pop("DOCKER_HOST")
                if before is not None:
                    os.environ["DOCKER_HOST"] = before


@contextmanager
def _image() -> Iterator[None]:
    """Have the image; one that was there before stays."""
    from containers import engines, images

    with engines.api() as client:
        was_there = bool(client.images(images.IMAGE, quiet=True))
    images.build()
    try:
        yield
    finally:
        if not was_there:
            images.remove()


def server() -> dict[str, Any]:
    """Return what a contender needs to start server.py in a container."""
    from containers import images

    return {"image": images.IMAGE, "command": [images.PYTHON, "-I", "-S", "-B", "-c", SERVER.read_text("utf-8")]}
