"""Tasks: calls that go on in the background: the answer is a task, which the client asks about until it is done.

The extension ``io.modelcontextprotocol/tasks`` of the stateless era. What is known of a task is in a store, which
processes may share; it runs in the process that started it.

Source: ext-tasks specification (SEP-2663).
"""

from __future__ import annotations

import contextvars
import itertools
import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.dispatch import Crew
from ..engine.lifetimes import tell_of_forks
from ..exceptions import JSONRPCError, MCPTimeoutError
from ..protocol.eras import TASKS_EXTENSION
from ..protocol.messages import INTERNAL_ERROR, INVALID_PARAMS, MISSING_CAPABILITY
from .calls import Asker, Call, Link, TaskStarted, Wire, Withdrawn
from .hub import Notice
from .stores import MemorySessionStore, SessionStore

if TYPE_CHECKING:
    from .app import Server
    from .context import Context

log = logging.getLogger("mcp_sync")

KIND = "task"
TERMINAL = frozenset({"completed", "failed", "cancelled"})
TTL_SECONDS = 3600.0
POLL_SECONDS = 0.5
MAX_TASKS = 10_000
MAX_TASKS_PER_PRINCIPAL = 1000
MAX_RUNNING = 64
SLICE_SECONDS = 1.0
"""How often a task that waits for its client looks into the store, in case that a notice was lost."""
_PRIVATE = frozenset({"principal", "answers", "asked"})
"""What a record has that no client is told."""


class _TaskLink(Link):
    """The way back from a task: there is no stream; questions wait until the client asks how it goes."""

    asks = True
    background = True

    def __init__(self, tasks: Tasks, task_id: str) -> None:
        super().__init__()
        self._tasks = tasks
        self._task_id = task_id
        self.news = interrupts.Event()

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Keep what progress says in words as the state of the task; there is nowhere to send it to."""
        message = params.get("message")
        if method == "notifications/progress" and isinstance(message, str):
            self._tasks.change(self._task_id, {"statusMessage": message})

    def ask(self, questions: Mapping[str, Wire], deadline: Deadline) -> dict[str, dict[str, Any]]:
        """Ask the client when it asks how the task goes; it answers by ``tasks/update``."""
        return self._tasks.ask(self._task_id, self, questions, deadline)


class Tasks:
    """What runs in the background for a server. It is an Extension, and a Listener of its Hub.

    Threads: ``mcp-task-<number>``, one for each task that runs.
    Locks: ``_lock``, held for a few instructions.

    Args:
        server: The server.
        ttl: Seconds for which a task is kept after it was last asked about.
        poll_interval: Seconds after which a client should ask again.
        max_tasks: How many may be kept, those that are over included.
        max_tasks_per_principal: How many of one client that has a name.
        max_running: How many may run at once in this process.
    """

    name = TASKS_EXTENSION

    def __init__(
        self,
        server: Server,
        *,
        ttl: float = TTL_SECONDS,
        poll_interval: float = POLL_SECONDS,
        max_tasks: int = MAX_TASKS,
        max_tasks_per_principal: int = MAX_TASKS_PER_PRINCIPAL,
        max_running: int = MAX_RUNNING,
    ) -> None:
        self._server = server
        self._ttl = ttl
        self._poll_interval = poll_interval
        self._max_tasks = max_tasks
        self._max_tasks_per_principal = max_tasks_per_principal
        self._crew = Crew("mcp-task", max_running)
        self._own = MemorySessionStore()
        self._lock = threading.Lock()  # guards _links
        self._links: dict[str, _TaskLink] = {}
        self.settings: Mapping[str, Any] = {}
        self.methods = {"tasks/get": self._get, "tasks/update": self._update, "tasks/cancel": self._cancel}
        tell_of_forks(self)

    def forked(self) -> None:
        """In a forked child: what runs, runs in the parent."""
        self._lock = threading.Lock()  # guards as before
        self._links = {}
        self._crew.forked()

    def close(self, deadline: Deadline) -> None:
        """Tell all tasks that run to stop, and wait for them."""
        with self._lock:
            links = list(self._links.values())
        for link in links:
            link.withdrawn.set()
            link.news.set()
        self._crew.close(deadline)
        self._crew.forked()

    @property
    def store(self) -> SessionStore:
        """Where tasks are kept."""
        return self._server.store or self._own

    def known_to(self, asker: Asker) -> bool:
        """Whether a client knows what a task is."""
        extensions = asker.capabilities.get("extensions")
        return asker.stateless and isinstance(extensions, Mapping) and isinstance(extensions.get(self.name), Mapping)

    # -- running ------------------------------------------------------------------------------------------------------

    def start(self, call: Call, run: Callable[[Context], dict[str, Any]]) -> TaskStarted:
        """Begin a task.

        Args:
            call: What asked for it.
            run: Returns the result of the call.

        Raises:
            JSONRPCError: There are too many.
        """
        self._server.hub.follow(self)
        task_id = secrets.token_urlsafe(24)
        now = _now()
        value = {
            "taskId": task_id,
            "status": "working",
            "createdAt": now,
            "lastUpdatedAt": now,
            "ttlMs": round(self._ttl * 1000),
            "pollIntervalMs": round(self._poll_interval * 1000),
            "principal": call.asker.principal,
            "answers": {},
            "asked": [],
        }
        owner = call.asker.principal or ""
        caps = {"most": self._max_tasks, "most_per_owner": self._max_tasks_per_principal}
        if not self.store.create(KIND, task_id, value, self._ttl, owner=owner, **caps):
            raise JSONRPCError(INTERNAL_ERROR, "there are too many tasks; try again later")
        link = _TaskLink(self, task_id)
        with self._lock:
            self._links[task_id] = link
        variables = contextvars.copy_context()
        if not self._crew.start(lambda: variables.run(self._run, task_id, call, link, run)):
            self._unlink(task_id)
            self.store.drop(KIND, task_id)
            raise JSONRPCError(INTERNAL_ERROR, "too many tasks run already; try again later")
        return TaskStarted({"resultType": "task", **_public(value)})

    def _run(self, task_id: str, call: Call, link: _TaskLink, run: Callable[[Context], dict[str, Any]]) -> None:
        from .context import Context

        context = Context(self._server, Call(call.request, call.asker, link), {}, {})
        try:
            with call.around() if call.around is not None else nullcontext():
                self._end(task_id, self._outcome(lambda: run(context)))
        finally:
            self._unlink(task_id)

    def _unlink(self, task_id: str) -> None:
        with self._lock:
            self._links.pop(task_id, None)

    def _end(self, task_id: str, outcome: Mapping[str, Any]) -> None:
        """Note how a task ended; if that cannot be kept, that it failed: else it would be at work for ever."""
        try:
            self.change(task_id, outcome)
        except Exception:
            log.exception("the outcome of a task cannot be kept")
            self.change(task_id, _FAILED)

    def _outcome(self, run: Callable[[], dict[str, Any]]) -> Mapping[str, Any]:
        try:
            return {"status": "completed", "result": run()}
        except JSONRPCError as error:
            return {"status": "failed", "error": _as_dict(error)}
        except Withdrawn:
            return {"status": "cancelled"}
        except BaseException:  # sys.exit() too; and InputRequired, for a task can ask
            log.exception("a task failed")
            return _FAILED

    def change(self, task_id: str, changes: Mapping[str, Any]) -> None:
        """Change what is known of a task, unless it is over, and tell who listens."""
        over = {"inputRequests": None} if changes.get("status") in TERMINAL else {}
        self._update_and_tell(task_id, lambda value: {**value, **over, **changes})

    def _update_and_tell(
        self, task_id: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]
    ) -> dict[str, Any] | None:
        """Change a task, unless it is over, and tell of it if it was; returns what is known of it now."""
        made: list[dict[str, Any] | None] = [None]

        def changed(value: dict[str, Any]) -> dict[str, Any] | None:
            new = change(value) if value["status"] not in TERMINAL else None
            made[0] = None if new is None else {**new, "lastUpdatedAt": _now()}
            return made[0]

        value = self.store.update(KIND, task_id, changed)
        if value is not None and made[0] is not None:
            self._tell(value)
        return value

    def _tell(self, value: Mapping[str, Any]) -> None:
        self._server.hub.publish(Notice("task", value["taskId"], _public(value)))

    # -- asking -------------------------------------------------------------------------------------------------------

    def ask(
        self, task_id: str, link: _TaskLink, questions: Mapping[str, Wire], deadline: Deadline
    ) -> dict[str, dict[str, Any]]:
        """Put questions where ``tasks/get`` finds them, and wait for the answers; raises as Link.ask."""
        keys = self._put(task_id, questions)
        while True:
            link.news.clear()
            value = self.store.load(KIND, task_id)
            if value is None or value["status"] in TERMINAL or link.withdrawn.is_set():
                raise Withdrawn
            if all(name in value["answers"] for name in keys.values()):
                self._settle(task_id, keys)
                return {key: value["answers"][name] for key, name in keys.items()}
            if deadline.expired:
                self._settle(task_id, keys)
                raise MCPTimeoutError(f"the client has not answered within {deadline.limit:g} s")
            link.news.wait(min(SLICE_SECONDS, deadline.remaining))

    def _put(self, task_id: str, questions: Mapping[str, Wire]) -> dict[str, str]:
        keys: dict[str, str] = {}

        def asked(value: dict[str, Any]) -> dict[str, Any]:
            keys.clear()
            keys.update(_unused(questions, set(value["asked"])))
            new = {keys[key]: dict(one) for key, one in questions.items()}
            requests = {**(value.get("inputRequests") or {}), **new}
            names = [*value["asked"], *keys.values()]
            return {**value, "status": "input_required", "inputRequests": requests, "asked": names}

        value = self._update_and_tell(task_id, asked)
        if value is None or value["status"] in TERMINAL:
            raise Withdrawn
        return keys

    def _settle(self, task_id: str, keys: Mapping[str, str]) -> None:
        """Ask these questions no more."""

        def settled(value: dict[str, Any]) -> dict[str, Any]:
            left = {name: one for name, one in (value.get("inputRequests") or {}).items() if name not in keys.values()}
            return {**value, "inputRequests": left or None, "status": "input_required" if left else "working"}

        self._update_and_tell(task_id, settled)

    # -- methods ------------------------------------------------------------------------------------------------------

    def _found(self, call: Call) -> dict[str, Any]:
        if not self.known_to(call.asker):
            data: dict[str, Any] = {"requiredCapabilities": {"extensions": {self.name: {}}}}
            raise JSONRPCError(MISSING_CAPABILITY, "the client has not declared that it knows tasks", data)
        task_id = call.params.get("taskId")
        value = self.store.load(KIND, task_id) if isinstance(task_id, str) and task_id else None
        if value is None or value["principal"] != call.asker.principal:
            raise JSONRPCError(INVALID_PARAMS, "there is no such task", {"taskId": task_id})
        return value

    def _get(self, call: Call) -> dict[str, Any]:
        return _public(self._found(call))

    def _update(self, call: Call) -> dict[str, Any]:
        found = self._found(call)
        responses = call.params.get("inputResponses")
        if not isinstance(responses, Mapping) or not all(isinstance(one, Mapping) for one in responses.values()):
            raise JSONRPCError(INVALID_PARAMS, "params.inputResponses must be an object of objects")

        def answered(value: dict[str, Any]) -> dict[str, Any] | None:
            asked = value.get("inputRequests") or {}
            new = {key: one for key, one in responses.items() if key in asked and key not in value["answers"]}
            return {**value, "answers": {**value["answers"], **new}} if new else None

        self._update_and_tell(found["taskId"], answered)
        return {}

    def _cancel(self, call: Call) -> dict[str, Any]:
        self.change(self._found(call)["taskId"], {"status": "cancelled"})
        return {}

    # -- notices ------------------------------------------------------------------------------------------------------

    def heard_of(self, wanted: Any, asker: Asker) -> tuple[str, ...]:
        """Return those tasks that a client may hear of, out of those that it wants to.

        Raises:
            ValueError: They are no ids of tasks.
        """
        ids = wanted.get("taskIds") if isinstance(wanted, Mapping) else None
        if ids is None or not self.known_to(asker):
            return ()
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise ValueError("params.notifications.taskIds must be an array of strings")
        found = {one: self.store.load(KIND, one) for one in ids if one}
        return tuple(one for one, value in found.items() if value and value["principal"] == asker.principal)

    @property
    def over(self) -> bool:
        """Return False: it hears of everything."""
        return False

    def tell(self, notice: Notice) -> None:
        """Hear of a task that was cancelled or answered, perhaps in another process."""
        with self._lock:
            link = self._links.get(notice.uri) if notice.what == "task" else None
        if link is not None:
            if notice.body.get("status") == "cancelled":
                link.withdrawn.set()
            link.news.set()


def _public(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a client is told of a task; a question that it has answered is none, though nobody has read it."""
    known = {key: one for key, one in value.items() if key not in _PRIVATE and one is not None}
    if "inputRequests" in known:
        left = {key: one for key, one in known.pop("inputRequests").items() if key not in value["answers"]}
        return {**known, "inputRequests": left} if left else {**known, "status": "working"}
    return known


def _unused(keys: Iterable[str], used: set[str]) -> dict[str, str]:
    """Return a name for each key that was not used before, nor for another: that key, if it is one."""
    names: dict[str, str] = {}
    for key in keys:
        candidates = itertools.chain([key], (f"{key}-{number}" for number in itertools.count(2)))
        names[key] = next(one for one in candidates if one not in used)
        used.add(names[key])
    return names


def _as_dict(error: JSONRPCError) -> dict[str, Any]:
    known = {"code": error.code, "message": error.message}
    return known if error.data is None else {**known, "data": error.data}


_FAILED: Mapping[str, Any] = {"status": "failed", "error": _as_dict(JSONRPCError(INTERNAL_ERROR, "internal error"))}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
