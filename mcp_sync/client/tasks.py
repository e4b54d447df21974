"""Task: a tool call that the server works on while nobody waits, in the way of either era.

Source: basic/utilities/tasks (2025-11-25); the extension ``io.modelcontextprotocol/tasks`` (2026-07-28).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline, as_timeout
from ..engine import interrupts
from ..engine.caller import Question
from ..exceptions import JSONRPCError, MCPError, MCPTimeoutError, RemoteProtocolError
from ..protocol.eras import CAPABILITIES_KEY, TASKS_EXTENSION, Stateless
from ..protocol.rounds import Gather, is_requests
from .asking import Asker

if TYPE_CHECKING:
    from .answers import ToolResult

TERMINAL = frozenset({"completed", "failed", "cancelled"})
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.1, 5.0


class Task:
    """A tool call that the server works on. All methods may be called from any thread.

    Locks: ``_lock``, held for a few instructions.

    Attributes:
        task_id: The server's name for it; with ``client.get_task`` it can be found again later.
        state: What the server said last, as on the wire: ``status``, ``statusMessage``, ``pollInterval`` ...
    """

    def __init__(
        self,
        asker: Asker,
        finish: Callable[[dict[str, Any], Deadline], ToolResult],
        timeout: float,
        state: dict[str, Any],
    ) -> None:
        if not isinstance(state.get("taskId"), str):
            raise RemoteProtocolError("the server made a task without a taskId", details={"state": state})
        self.task_id: str = state["taskId"]
        self.state = state
        self._asker = asker
        self._finish = finish
        self._timeout = timeout
        self._lock = threading.Lock()  # guards _answered
        self._answered: set[str] = set()

    def __repr__(self) -> str:
        return f"<Task {self.task_id} {self.status}>"

    @property
    def status(self) -> str:
        """``working``, ``input_required``, ``completed``, ``failed`` or ``cancelled``, as known so far."""
        return str(self.state.get("status"))

    @property
    def done(self) -> bool:
        """Whether it is over, as known so far."""
        return self.status in TERMINAL

    def refresh(self, timeout: float | None = None) -> Task:
        """Ask the server how it stands, and return the task itself.

        Raises:
            JSONRPCError: The server does not know it any more.
        """
        self.state = self._ask("tasks/get", self._deadline(timeout))
        return self

    def cancel(self, timeout: float | None = None) -> None:
        """Ask the server to stop; it may take a while, and need not obey.

        Raises:
            JSONRPCError: The task is over, or unknown.
        """
        answer = self._ask("tasks/cancel", self._deadline(timeout))
        if "status" in answer:
            self.state = answer

    def result(self, timeout: float | None = None) -> ToolResult:
        """Wait for the result, answering what the server asks meanwhile.

        Args:
            timeout: Seconds; None means the client's own.

        Raises:
            MCPTimeoutError: It is not done within the timeout; the task goes on.
            JSONRPCError: It failed.
            MCPError: It was cancelled.
        """
        deadline = self._deadline(timeout)
        if self._asker.caller.agreement.era.server_asks:
            raw = self._ask("tasks/result", deadline)  # blocks on the server's side
            self.state = {**self.state, "status": "failed" if raw.get("isError") else "completed"}
            return self._finish(raw, deadline)
        return self._finish(self._poll(deadline), deadline)

    def _poll(self, deadline: Deadline) -> dict[str, Any]:
        pause = FIRST_POLL_SECONDS
        while not self.done:
            if self.status == "input_required":
                self._give_input(deadline)
            wanted = self.state.get("pollIntervalMs")
            seconds = wanted / 1000 if isinstance(wanted, (int, float)) and wanted > 0 else pause
            interrupts.Event().wait(min(seconds, deadline.remaining))
            if deadline.expired:
                raise self._still_going(deadline)
            pause = min(pause * 2, LONGEST_POLL_SECONDS)
            try:
                self.state = self._ask("tasks/get", deadline)
            except MCPTimeoutError as late:
                raise self._still_going(deadline) from late
        return self._outcome()

    def _still_going(self, deadline: Deadline) -> MCPTimeoutError:
        return MCPTimeoutError(
            f"task {self.task_id} is still {self.status} (limit {deadline.limit:g} s); it goes on",
            details={"task": self.task_id, "limit": deadline.limit, "elapsed": round(deadline.elapsed, 3)},
        )

    def _give_input(self, deadline: Deadline) -> None:
        """Answer what the server asks; each key once, for it may be listed until the answer has sunk in."""
        asked = self.state.get("inputRequests") or {}
        if not is_requests(asked):
            raise RemoteProtocolError(f"tasks/get: inputRequests of task {self.task_id} is not an object of requests")
        with self._lock:
            new = {key: request for key, request in asked.items() if key not in self._answered}
            self._answered |= set(new)
        if not new:
            return
        try:
            responses = self._asker.reply(Gather(new), deadline)
        except BaseException:
            with self._lock:
                self._answered -= set(new)  # nothing was sent: whoever waits next may try again
            raise
        self._ask("tasks/update", deadline, {"inputResponses": responses})

    def _outcome(self) -> dict[str, Any]:
        result, error = self.state.get("result"), self.state.get("error")
        if self.status == "completed" and isinstance(result, dict):
            return result
        if self.status == "failed" and isinstance(error, dict) and type(error.get("code")) is int:
            raise JSONRPCError(error["code"], str(error.get("message")), error.get("data"), method="tools/call")
        details = {"task": self.task_id, "state": self.state}
        if self.status == "cancelled":
            why = f": {self.state['statusMessage']}" if self.state.get("statusMessage") else ""
            raise MCPError(f"task {self.task_id} was cancelled{why}", details=details)
        raise RemoteProtocolError(
            f"tasks/get: task {self.task_id} has {self.status}, but neither a result nor an error came with it",
            details=details,
            may_have_run=True,
        )

    def _ask(self, method: str, deadline: Deadline, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        params = {"taskId": self.task_id, **(more or {})}
        return self._asker.caller.call(Question(method, declared(self._asker, params)), deadline)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(as_timeout(timeout, default=self._timeout))


def declared(asker: Asker, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the params with the tasks extension declared, where the era wants it declared with each request."""
    era = asker.caller.agreement.era
    if not isinstance(era, Stateless):
        return params
    offered = (era.dress(None) or {})["_meta"][CAPABILITIES_KEY]
    extensions = {**offered.get("extensions", {}), TASKS_EXTENSION: {}}
    meta = {**(params.get("_meta") or {}), CAPABILITIES_KEY: {**offered, "extensions": extensions}}
    return {**params, "_meta": meta}


def created(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state of the task that a result announces, or None: it is a result like any other."""
    if raw.get("resultType") == "task":
        return dict(raw)
    task = raw.get("task")
    return dict(task) if isinstance(task, dict) and "content" not in raw else None
