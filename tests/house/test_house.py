"""The laws hold in mcp_sync, and each law finds a violation that is put into a small house of cards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from house import laws
from house.source import modules

ROOT = Path(__file__).parent.parent.parent
NAMES = [law.__name__ for law in laws.LAWS]

# One lawful module in most rooms. A lawful house may have all of this.
CLEAN = {
    "__init__": """
        '''The front door.'''
        __version__ = "1"
        def __getattr__(name):
            from mcp_sync.client import client
            return getattr(client, name)
        """,
    "exceptions": "'''The errors.'''",
    "deadlines": "'''Points in time.'''\nimport time\nfrom .exceptions import MCPError",
    "protocol/__init__": "'''Pure.'''",
    "protocol/messages": """
        '''Messages.'''
        import json
        from http import HTTPStatus
        from urllib.parse import urlsplit
        from datetime import datetime
        from mcp_sync.exceptions import MCPError
        when = datetime.fromtimestamp(0)
        """,
    "engine/__init__": "'''Threads.'''",
    "engine/peer": """
        '''The peer.'''
        import threading
        from mcp_sync.engine import interrupts
        from concurrent.futures import Future
        from dataclasses import dataclass, field
        from typing import TYPE_CHECKING
        from mcp_sync import deadlines
        from mcp_sync.protocol.messages import Message
        from ..protocol import messages
        from . import channel
        if TYPE_CHECKING:
            from typing_extensions import Unpack

        @dataclass
        class Peer:
            '''A peer.'''
            lock: threading.Lock = field(default_factory=threading.Lock)  # guards owed
            def __init__(self, thread: threading.Thread, baseline: "Baseline"):
                # guards owed and state; taken after the write lock,
                # see law 3
                self.more = interrupts.Condition()
                self.event = interrupts.Event()

        class Baseline(Future):
            '''Not a Base.'''
        """,
    "engine/interrupts": """
        '''What Ctrl-C cannot leave locked.'''
        import threading
        before = threading.Event()
        """,
    "engine/workers": """
        '''The one place that starts threads.'''
        from threading import Thread
        from concurrent.futures import ThreadPoolExecutor
        def start(work):
            return Thread(target=work), ThreadPoolExecutor(1)
        """,
    "transports/sse": "'''SSE.'''\nfrom mcp_sync.manage import retry\nfrom mcp_sync.engine import channel",
    "server/schema": "'''Schemas.'''\nimport jsonschema\nfrom referencing import Registry",
    "client/client": """
        '''The client.'''
        from typing import TYPE_CHECKING
        from mcp_sync import __version__
        from mcp_sync.transports import sse
        if TYPE_CHECKING:
            from mcp_types import Tool
        """,
    "client/answers": "'''Answers.'''\nimport mcp_types\nimport pydantic",
    "cli/main": "'''The command.'''\nfrom mcp_sync.gateway import gateway\nfrom mcp_sync.client import client",
    "testing/contracts": "'''Contracts.'''\nimport pytest\nimport mcp_sync\nfrom mcp_sync import Client",
    "testing/peers": "'''More.'''\nimport pytest\nfrom mcp_sync.server import app",
    "__main__": "'''python -m mcp_sync.'''\nfrom mcp_sync.cli import main",
}

Seed = Callable[[str, str], Path]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for name, text in CLEAN.items():
        put(tmp_path, name, text)
    return tmp_path


@pytest.fixture
def seed(house: Path) -> Seed:
    """Put one more module into the clean house."""
    return lambda name, text: put(house, name, text)


def put(root: Path, name: str, text: str) -> Path:
    path = root / "mcp_sync" / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text.strip("\n")) + "\n", "utf-8")
    return root


def test_there_is_something_to_look_at() -> None:
    assert modules(ROOT)


@pytest.mark.parametrize("law", laws.LAWS, ids=NAMES)
def test_mcp_sync_keeps_the_law(law: laws.Law) -> None:
    assert law(ROOT) == []


@pytest.mark.parametrize("law", laws.LAWS, ids=NAMES)
def test_a_clean_house_keeps_the_law(law: laws.Law, house: Path) -> None:
    assert law(house) == []


# Who may import whom.


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("protocol/eras", "import mcp_sync.engine.peer", "protocol must not import engine"),
        ("engine/caller", "from mcp_sync.manage.retry import Retrying", "engine must not import manage"),
        ("engine/caller", "from mcp_sync import transports", "engine must not import transports"),
        ("manage/retry", "from ..client import client", "manage must not import client"),
        ("manage/__init__", "from ..client import client", "manage must not import client"),
        ("server/app", "from mcp_sync.transports.http import HTTP", "server must not import transports"),
        ("client/cache", "from mcp_sync.server.app import Server", "client must not import server"),
        ("transports/docker", "from mcp_sync.client import client", "transports must not import client"),
        ("gateway/gateway", "from mcp_sync.cli import main", "gateway must not import cli"),
        ("cli/more", "from mcp_sync.testing import contracts", "cli must not import testing"),
        ("observe", "from mcp_sync.protocol import redact", "observe must not import protocol"),
        ("policies", "from .engine import caller", "policies must not import engine"),
        ("engine/lazy", "def late():\n    from mcp_sync.client import client", "engine must not import client"),
        ("engine/a", "import importlib\nimportlib.import_module('mcp_sync.client')", "engine must not import client"),
        (
            "engine/lazy",
            "from importlib import import_module\nimport_module('..client', __package__)",
            "engine must not import client",
        ),
        (
            "engine/typed",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mcp_sync.client import client",
            "engine must not import client",
        ),
    ],
)
def test_a_forbidden_import_is_found(seed: Seed, name: str, text: str, problem: str) -> None:
    [found] = laws.arrows(seed(name, text))
    assert found.startswith(f"mcp_sync/{name}.py:{len(text.splitlines())}: {problem}")


@pytest.mark.parametrize("text", ["import mcp_sync", "from mcp_sync import Client", "from .. import Client"])
def test_an_import_through_the_front_door_is_found(seed: Seed, text: str) -> None:
    [found] = laws.arrows(seed("engine/caller", text))
    assert "engine goes through the front door" in found


def test_a_module_in_no_room_is_found(seed: Seed) -> None:
    assert laws.arrows(seed("misc", "")) == ["mcp_sync/misc.py:1: misc is no room of the house"]


# Threads and locks.


@pytest.mark.parametrize(
    "text",
    [
        "import threading\nthreading.Thread(target=int)",
        "import threading as t\nt.Thread(target=int)",
        "from threading import Thread as Worker\nWorker(target=int)",
        "import threading\nclass Worker(threading.Thread): pass",
        "from threading import Timer\nTimer(1, int)",
        "import concurrent.futures\nconcurrent.futures.ThreadPoolExecutor()",
        "from concurrent import futures\nfutures.ThreadPoolExecutor()",
        "import _thread\n_thread.start_new_thread(int, ())",
        "from http.server import ThreadingHTTPServer\nclass Door(ThreadingHTTPServer): pass",
    ],
)
def test_a_second_module_that_starts_threads_is_found(seed: Seed, text: str) -> None:
    found = laws.threads_have_one_home(seed("transports/stdio", text))
    assert any(problem.startswith("mcp_sync/transports/stdio.py:2: ") for problem in found)
    assert any(problem.startswith("mcp_sync/engine/workers.py:") for problem in found)


@pytest.mark.parametrize(
    "text",
    [
        "import threading\nlock = threading.Lock()",
        "from threading import RLock\nlock = RLock()",
        "import threading\nmore = threading.Condition()  # guarded elsewhere",
        "import threading\nslots = threading.BoundedSemaphore(3)  # guards",
        "from mcp_sync.engine import interrupts\nchange = interrupts.Condition()",
        "from threading import Lock\nlock = field(default_factory=Lock)",
    ],
)
def test_a_lock_without_its_comment_is_found(seed: Seed, text: str) -> None:
    found = laws.locks_say_what_they_guard(seed("engine/seat", text))
    assert found == ["mcp_sync/engine/seat.py:2: a lock without a comment `# guards ...`"]


def test_a_comment_further_up_or_in_a_string_does_not_count_for_a_lock(seed: Seed) -> None:
    text = """
        import threading
        # guards the first

        first = threading.Lock()
        second = "# guards the third"
        third = threading.Lock()
        """
    assert len(laws.locks_say_what_they_guard(seed("engine/seat", text))) == 2


@pytest.mark.parametrize(
    "text",
    [
        "import threading\nover = threading.Event()",
        "from threading import Condition\nchange = Condition()  # guards nothing",
        "import queue\nwaiting = queue.Queue()",
        "from queue import LifoQueue as Stack\nwaiting = Stack()",
        "from threading import Event\nover: Event = field(default_factory=Event)",
    ],
)
def test_what_ctrl_c_may_leave_locked_is_found(seed: Seed, text: str) -> None:
    [found] = laws.nothing_stays_locked(seed("engine/seat", text))
    assert found.startswith("mcp_sync/engine/seat.py:2: ")


# stdin.


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nread = sys.stdin.buffer.readline",
        "import sys as host\nfor line in host.stdin: pass",
        "import sys\nsys.__stdin__.read()",
        "import fileinput\nlines = fileinput.input()",
        "#\nname = input()",
        "#\nlines = open(0, 'rb')",
        "import os\nlines = os.fdopen(os.dup(0), 'rb')",
        "#\nfrom sys import stdin as theirs",
    ],
)
def test_reading_stdin_through_a_buffer_is_found(seed: Seed, text: str) -> None:
    [found] = laws.stdin_is_read_raw(seed("transports/stdio", text))
    assert found.startswith("mcp_sync/transports/stdio.py:2: ")


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.read(os.dup(0), 65536)",
        "import os\nwith open('a') as lines: pass",
        "import subprocess\nsubprocess.Popen('a', stdin=subprocess.PIPE).stdin.close()",
    ],
)
def test_reading_stdin_raw_or_something_else_is_lawful(seed: Seed, text: str) -> None:
    assert laws.stdin_is_read_raw(seed("transports/stdio", text)) == []


# Libraries.


@pytest.mark.parametrize("library", ["asyncio", "anyio", "trio"])
@pytest.mark.parametrize(
    "text", ["import {}", "from {} import run", "def late():\n    import {}", "if TYPE_CHECKING:\n    import {}"]
)
def test_an_event_loop_is_found(seed: Seed, text: str, library: str) -> None:
    [found] = laws.no_event_loop(seed("client/late", text.format(library)))
    assert found.endswith(f"{library} is imported")


@pytest.mark.parametrize(
    ("text", "library"),
    [
        ("import mcp_types", "mcp_types"),
        ("from pydantic import BaseModel", "mcp_types"),
        ("def late():\n    from jsonschema.validators import validator_for", "jsonschema"),
        ("import importlib\nimportlib.import_module('referencing')", "jsonschema"),
        ("from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    import mcp_types", "mcp_types"),
    ],
)
def test_a_library_with_a_second_home_is_found(seed: Seed, text: str, library: str) -> None:
    found = laws.libraries_have_one_home(seed("manage/metrics", text))
    assert len(found) == 2
    assert all(problem.endswith(f"{library} is imported in 2 modules") for problem in found)
    assert any(problem.startswith("mcp_sync/manage/metrics.py:") for problem in found)


def test_pytest_outside_of_testing_is_found(seed: Seed) -> None:
    found = laws.libraries_have_one_home(seed("client/answers2", "import pytest"))
    assert found == ["mcp_sync/client/answers2.py:1: pytest belongs to testing/"]


@pytest.mark.parametrize(
    "module",
    ["threading", "time", "socket", "os", "os.path", "select", "subprocess", "logging", "queue", "random", "secrets"],
)
def test_an_impure_import_in_protocol_is_found(seed: Seed, module: str) -> None:
    [found] = laws.protocol_is_pure(seed("protocol/impure", f"import {module}"))
    assert found == f"mcp_sync/protocol/impure.py:1: {module} is not pure"


@pytest.mark.parametrize(
    "text",
    [
        "from time import monotonic",
        "from concurrent.futures import Future",
        "from http import client",
        "from urllib.request import urlopen",
        "text = open('a').read()",
        "import datetime; now = datetime.datetime.now()",
        "from datetime import datetime; now = datetime.now()",
    ],
)
def test_an_impure_act_in_protocol_is_found(seed: Seed, text: str) -> None:
    assert len(laws.protocol_is_pure(seed("protocol/impure", text))) == 1


# The first import.


def test_a_heavy_import_is_found(seed: Seed) -> None:
    root = seed("__init__", "'''Heavy.'''\nimport pytest")
    assert "mcp_sync/__init__.py:1: import mcp_sync loads pytest" in laws.the_import_is_light(root)


def test_a_thread_that_the_import_starts_is_found(seed: Seed) -> None:
    text = """
        import threading
        from mcp_sync import deadlines
        threading.Thread(target=threading.Event().wait, name="eager", daemon=True).start()
        """
    root = seed("__init__", text)
    put(root, "deadlines", "")
    assert laws.the_import_is_light(root) == ["mcp_sync/__init__.py:1: import mcp_sync starts the thread eager"]


def test_an_import_that_fails_is_found(seed: Seed) -> None:
    [found] = laws.the_import_is_light(seed("__init__", "1 / 0"))
    assert "ZeroDivisionError" in found


def test_a_missing_package_is_not_taken_from_elsewhere(tmp_path: Path) -> None:
    [found] = laws.the_import_is_light(tmp_path)
    assert "another mcp_sync was imported" in found or "No module named" in found


# Names and docstrings.


@pytest.mark.parametrize(
    "name", ["BaseChannel", "Base", "_BaseChannel", "URLUtil", "HTTPUtils", "RetryHelper", "PeerImpl", "_PeerImpl"]
)
def test_an_empty_class_name_is_found(seed: Seed, name: str) -> None:
    found = laws.names_say_something(seed("engine/names", f"def f():\n    class {name}: pass"))
    assert found == [f"mcp_sync/engine/names.py:2: the class name {name} says nothing"]


@pytest.mark.parametrize("text", ["", "import json", "# only a comment", "x = 1\n'''too late'''"])
def test_a_module_without_a_docstring_is_found(seed: Seed, text: str) -> None:
    [found] = laws.modules_have_docstrings(seed("engine/mute", text))
    assert found == "mcp_sync/engine/mute.py:1: no docstring"
