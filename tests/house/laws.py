"""The laws of the house, each a pure function: the root of a checkout in, the violations out.

A violation is one line that begins with the place (`mcp_sync/engine/peer.py:12`) and ends with the reason.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from house.source import PACKAGE, Import, Module, modules

Law = Callable[[Path], "list[str]"]

GROUND = {"exceptions", "deadlines", "policies", "observe", "credentials", "models", "validation"}
FLOORS = {"protocol", "engine", "manage", "transports", "server", "client"}
# What each room may see besides itself and the ground.
MAY_IMPORT: dict[str, set[str]] = {
    "protocol": set(),
    "engine": {"protocol"},
    "manage": {"engine", "protocol"},
    "transports": {"manage", "engine", "protocol"},
    "server": {"engine", "protocol"},
    "client": {"transports", "manage", "engine", "protocol"},
    "gateway": FLOORS,
    "cli": FLOORS | {"gateway"},  # it starts gateways; no gateway ever needs a command line
    "__main__": {"cli"},
    "testing": FLOORS | {"gateway", "cli"},
    **{name: set() for name in GROUND},
}
# Values of mcp_sync/__init__.py that are literals: asking for them hides no arrow.
PLAIN_VALUES = {"__version__"}

# Of each family one module of ours may import. Everything else third-party is a family of its own.
FAMILIES = {"referencing": "jsonschema", "pydantic": "mcp_types", "pydantic_core": "mcp_types"}

THREAD_STARTERS = {
    "threading.Thread",
    "threading.Timer",
    "_thread.start_new_thread",
    "concurrent.futures.ThreadPoolExecutor",
    "concurrent.futures.thread.ThreadPoolExecutor",
    "multiprocessing.pool.ThreadPool",
    # These start a thread for every connection, without a name and without a limit.
    "http.server.ThreadingHTTPServer",
    "socketserver.ThreadingMixIn",
    "socketserver.ThreadingTCPServer",
    "socketserver.ThreadingUnixStreamServer",
}
LOCK_NAMES = ("Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore")
LOCKS = {f"{home}.{name}" for home in ("threading", "multiprocessing") for name in LOCK_NAMES}
LOCKS |= {"_thread.allocate_lock", "_thread.LockType", "mcp_sync.engine.interrupts.Condition"}
INTERRUPTIBLE = {f"threading.{name}" for name in ("Event", "Condition", "Semaphore", "BoundedSemaphore", "Barrier")}
INTERRUPTIBLE |= {f"queue.{name}" for name in ("Queue", "LifoQueue", "PriorityQueue")}
# They are made of those, or are what those are replaced by.
INTERRUPTS = "mcp_sync/engine/interrupts.py"
# All of these wait under the lock of the one buffer there is. What reads raw bytes, os.read(os.dup(0), n), does not.
BUFFERED_STDIN = {"sys.stdin", "sys.__stdin__", "fileinput.input", "fileinput.FileInput"}
OPENERS = {"open", "io.open", "os.fdopen"}
# A program of its own: no thread but the main one reads there, and it leaves by os._exit.
STDIN_READERS = {"mcp_sync/testing/partner.py"}
EVENT_LOOPS = {"asyncio", "anyio", "trio", "curio", "uvloop", "gevent", "eventlet"}

IMPURE = {
    *("threading", "_thread", "concurrent", "multiprocessing", "queue", "sched", "signal"),
    *("time", "random", "secrets", "uuid", "logging"),
    *("os", "io.open", "pathlib", "shutil", "tempfile", "subprocess", "select", "selectors"),
    *("socket", "socketserver", "ssl", "http.client", "http.server", "urllib.request"),
    *("requests", "urllib3", "sseclient", "websocket", "docker", "psutil", "redis", "opentelemetry"),
}
IMPURE_CALLS = {"open", "print", "input", "io.open"}
IMPURE_CALLS |= {f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")} | {"datetime.date.today"}

GUARDS = re.compile(r"#\s*guards\s+\S")
EMPTY_NAME = re.compile(r"^_*Base(?![a-z])|(Util|Utils|Helper|Helpers|Impl)$")


def arrows(root: Path) -> list[str]:
    """Who may import whom: downwards only, siblings never see each other."""
    found = []
    for module in modules(root):
        if module.room and module.room not in MAY_IMPORT:
            found.append(f"{module.at(1)}: {module.room} is no room of the house")
        elif module.room:
            found += [problem for one in module.imports if (problem := _arrow_problem(module, one))]
    return found


def _arrow_problem(module: Module, one: Import) -> str | None:
    top, *path = one.target.split(".")
    if top != PACKAGE or path[:1] == [module.room]:
        return None
    target = path[0] if path else ""
    if target in MAY_IMPORT.get(module.room, set()) | GROUND | PLAIN_VALUES:
        return None
    if target in MAY_IMPORT:
        return f"{module.at(one.line)}: {module.room} must not import {target} ({one.target})"
    if module.room == "testing":
        return None
    return f"{module.at(one.line)}: {module.room} goes through the front door ({one.target}), which hides the arrow"


def threads_have_one_home(root: Path) -> list[str]:
    """Exactly one module starts threads."""
    places = {module.file: list(_thread_starts(module)) for module in modules(root)}
    homes = {file: starts for file, starts in places.items() if starts}
    if len(homes) <= 1:
        return []
    return [f"{start}, and {len(homes)} modules start threads" for starts in homes.values() for start in starts]


def _thread_starts(module: Module) -> Iterator[str]:
    for call in module.calls:
        if (meaning := module.meaning(call.func)) in THREAD_STARTERS:
            yield f"{module.at(call.lineno)}: {meaning} is called"
    for one in module.classes:
        if starters := {module.meaning(parent) for parent in one.bases} & THREAD_STARTERS:
            yield f"{module.at(one.lineno)}: {one.name} inherits {starters.pop()}"


def locks_say_what_they_guard(root: Path) -> list[str]:
    """Every line that makes a lock has a comment `# guards ...`, there or directly above."""
    return [
        f"{module.at(line)}: a lock without a comment `# guards ...`"
        for module in modules(root)
        for line, _ in _made(module, LOCKS)
        if not any(GUARDS.search(comment) for comment in _comments_of(module, line))
    ]


def nothing_stays_locked(root: Path) -> list[str]:
    """Nobody waits for what Ctrl-C may leave locked, where engine/interrupts.py has the same; but in testing/."""
    return [
        f"{module.at(line)}: {meaning}; engine/interrupts.py has one that Ctrl-C cannot leave locked"
        for module in modules(root)
        if module.file != INTERRUPTS and not _in_testing(module.file)
        for line, meaning in _made(module, INTERRUPTIBLE)
    ]


def _made(module: Module, wanted: set[str]) -> Iterator[tuple[int, str]]:
    """Return where something is made, there or by field(default_factory=...), and what it is."""
    for call in module.calls:
        for what in [call.func, *(keyword.value for keyword in call.keywords if keyword.arg == "default_factory")]:
            if (meaning := module.meaning(what)) in wanted:
                yield what.lineno, meaning


def _comments_of(module: Module, line: int) -> Iterator[str]:
    """The comment on a line and the block of comments that ends directly above it."""
    yield module.comments.get(line, "")
    lines = module.text.splitlines()
    above = line - 1
    while above >= 1 and lines[above - 1].lstrip().startswith("#"):
        yield module.comments.get(above, "")
        above -= 1


def stdin_is_read_raw(root: Path) -> list[str]:
    """Nobody reads stdin through a buffer: a daemon thread that waits there makes the interpreter abort (B28)."""
    return [
        problem for module in modules(root) if module.file not in STDIN_READERS for problem in _buffered_stdin(module)
    ]


def _buffered_stdin(module: Module) -> Iterator[str]:
    for one in module.imports:
        if one.target in BUFFERED_STDIN and not one.typing_only:
            yield f"{module.at(one.line)}: {one.target} is imported"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and (meaning := module.meaning(node)) in BUFFERED_STDIN:
            yield f"{module.at(node.lineno)}: {meaning} is used"
    for call in module.calls:
        meaning = module.meaning(call.func)
        if meaning == "input" or (meaning in OPENERS and call.args and _is_stdin(module, call.args[0])):
            yield f"{module.at(call.lineno)}: {meaning}() reads stdin through a buffer"


def _is_stdin(module: Module, what: ast.expr) -> bool:
    """Whether it is 0 or os.dup(0)."""
    if isinstance(what, ast.Call) and module.meaning(what.func) == "os.dup" and what.args:
        what = what.args[0]
    return isinstance(what, ast.Constant) and what.value == 0


def no_event_loop(root: Path) -> list[str]:
    """No event loop, not even for an annotation."""
    return [
        f"{module.at(one.line)}: {one.top} is imported"
        for module in modules(root)
        for one in module.imports
        if one.top in EVENT_LOOPS
    ]


def libraries_have_one_home(root: Path) -> list[str]:
    """Each third-party library is imported in one module; pytest in testing/ alone. Annotations do not count."""
    homes: dict[str, dict[str, str]] = defaultdict(dict)
    for module in modules(root):
        for one in module.imports:
            if one.is_third_party and not one.typing_only:
                homes[FAMILIES.get(one.top, one.top)][module.file] = module.at(one.line)
    pytest_homes = homes.pop("pytest", {})
    found = [f"{place}: pytest belongs to testing/" for file, place in pytest_homes.items() if not _in_testing(file)]
    for library, places in homes.items():
        if len(places) > 1:
            found += [f"{place}: {library} is imported in {len(places)} modules" for place in places.values()]
    return found


def _in_testing(file: str) -> bool:
    return file.startswith((f"{PACKAGE}/testing/", f"{PACKAGE}/testing.py"))


def protocol_is_pure(root: Path) -> list[str]:
    """protocol/ does no I/O, knows no threads, no clock, no chance and no log."""
    found = []
    for module in modules(root):
        if module.room == "protocol":
            found += [f"{module.at(one.line)}: {one.target} is not pure" for one in module.imports if _is_impure(one)]
            found += [
                f"{module.at(call.lineno)}: {module.meaning(call.func)}() is not pure"
                for call in module.calls
                if module.meaning(call.func) in IMPURE_CALLS
            ]
    return found


def _is_impure(one: Import) -> bool:
    parts = one.target.split(".")
    return any(".".join(parts[:length]) in IMPURE for length in range(1, len(parts) + 1))


# Runs in a fresh interpreter. What the interpreter itself brought (site, .pth files) was there before us.
_FIRST_IMPORT = """
import json, sys, threading
before = set(sys.modules)
sys.path.insert(0, sys.argv[1])
import mcp_sync
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
known = sys.stdlib_module_names | {"mcp_sync"}
others = sorted(name for name in loaded - known if not name.startswith("_sysconfigdata"))
threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
print(json.dumps({"file": mcp_sync.__file__ or "", "others": others, "threads": threads}))
"""


def the_import_is_light(root: Path) -> list[str]:
    """`import mcp_sync` loads no third-party module and starts no thread."""
    file = f"{PACKAGE}/__init__.py:1"
    command = [sys.executable, "-c", _FIRST_IMPORT, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=root)
    if done.returncode:
        return [f"{file}: import {PACKAGE} fails: {done.stderr.strip()}"]
    seen = json.loads(done.stdout.splitlines()[-1])
    if Path(seen["file"]).resolve() != (root / PACKAGE / "__init__.py").resolve():
        return [f"{file}: another {PACKAGE} was imported, {seen['file'] or 'one without __init__.py'}"]
    found = [f"{file}: import {PACKAGE} loads {name}" for name in seen["others"]]
    return found + [f"{file}: import {PACKAGE} starts the thread {name}" for name in seen["threads"]]


def names_say_something(root: Path) -> list[str]:
    """No class is called Base*, *Util, *Helper or *Impl."""
    return [
        f"{module.at(one.lineno)}: the class name {one.name} says nothing"
        for module in modules(root)
        for one in module.classes
        if EMPTY_NAME.search(one.name)
    ]


def modules_have_docstrings(root: Path) -> list[str]:
    """Every module says in a docstring what it is."""
    return [f"{module.at(1)}: no docstring" for module in modules(root) if not ast.get_docstring(module.tree)]


LAWS: list[Law] = [
    arrows,
    threads_have_one_home,
    locks_say_what_they_guard,
    nothing_stays_locked,
    stdin_is_read_raw,
    no_event_loop,
    libraries_have_one_home,
    protocol_is_pure,
    the_import_is_light,
    names_say_something,
    modules_have_docstrings,
]
