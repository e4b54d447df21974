"""Client: a server's tools, resources and prompts as plain blocking methods."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Any

from ..deadlines import Deadline, as_timeout
from ..engine.caller import Caller, CallFuture, Question
from ..engine.connect import Introduction, closing_time
from ..engine.dispatch import uninterrupted
from ..engine.interrupts import let_go
from ..engine.lifetimes import close_when_forgotten, tell_of_forks
from ..engine.peer import Peer
from ..exceptions import JSONRPCError, LocalProtocolError, MCPConnectionError, MCPTimeoutError
from ..policies import flag, one_of
from ..protocol.eras import LOG_LEVELS, VERSIONS, Identity, Stateless
from ..protocol.negotiation import Agreement
from ..transports.transport import CLOSE_SECONDS
from .asking import Asker
from .cache import AnswerCache
from .callbacks import Callbacks, Elicitation, OnLog, OnNotification, Roots, Sampling
from .config import choose, merged
from .questions import (
    OnProgress,
    any_question,
    checked_arguments,
    checked_dict,
    checked_info,
    checked_name,
    checked_uri,
    tool_question,
)
from .schemas import ToolIndex
from .subscriptions import News, Subscription, make_filter, subscribe
from .targets import transport_to
from .tasks import Task, created, declared
from .watching import Watching

if TYPE_CHECKING:
    import mcp_types as types
    from typing_extensions import Self

    from .answers import ToolResult

log = logging.getLogger("mcp_sync")


class Client:
    """A server's tools, resources and prompts as plain blocking methods. All may be called from any thread.

    It connects on entry of a ``with`` statement, on ``connect()``, or on first use, and closes on exit or ``close()``.
    After a fork it connects anew in the child. A closed client stays closed.

    Threads: those of the connection; callbacks run on a lane (log, notifications, progress: one at a time, in order)
    and on request threads (sampling, elicitation, roots: at once). Every method blocks at most its timeout.
    Locks: ``_lock``, held for a few instructions; ``_connecting``, held while connecting, acquired with the deadline.

    Args:
        target: A URL (``https://host/mcp``, ``docker://image?env=NAME=value``), a command as a list
            (``["python", "server.py"]``), the path of a server script (``.py``, ``.js``), a transport, an object that
            passes messages (``mcp_sync.transports.objects``), or one with ``serve(channel)``.
        timeout: Seconds that any call may take unless told otherwise; None means the transport's, 30 by default.
        sampling: Answers ``sampling/createMessage``: given its params as a model, returns the text, or a
            CreateMessageResult.
        elicitation: Answers ``elicitation/create``: given its params as a model, returns the content as a dict, or an
            ElicitResult, or None to decline. For a URL, only ``{"action": "accept"}`` accepts.
        roots: The directories the server may work in: paths or ``file://`` URIs, or a function that returns them.
        on_log: Is given each log message as a LoggingMessageNotificationParams.
        on_notification: Is given each notification as ``mcp_sync.Notification(method, params)``.
        log_level: The level from which log messages are wanted; None leaves it to the server where it has a default,
            and else means all where there is an ``on_log``.
        protocol_version: The protocol version to ask for; None finds the newest that both sides speak.
        client_info: What to say of the application: ``{"name": ..., "version": ...}``.
        enable_response_caching: Whether lists and resources are kept as long as the server allows (``ttlMs``).
        **knobs: Keywords of the transport, where the target is a URL, a command or a path: ``headers``, ``env`` ...

    Raises:
        TypeError: The target or a keyword makes no sense; the text says what would.
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        target: Any,
        *,
        timeout: float | None = None,
        sampling: Sampling | None = None,
        elicitation: Elicitation | None = None,
        roots: Roots | None = None,
        on_log: OnLog | None = None,
        on_notification: OnNotification | None = None,
        log_level: str | None = None,
        protocol_version: str | None = None,
        client_info: Mapping[str, Any] | None = None,
        enable_response_caching: bool = True,
        **knobs: Any,
    ) -> None:
        self.transport = transport_to(target, knobs, signature(Client).parameters.keys() - {"target", "knobs"})
        self.timeout = as_timeout(timeout, default=self.transport.timeout)
        self._callbacks = Callbacks(sampling, elicitation, roots, on_log, on_notification)
        self._identity = Identity(checked_info(client_info), self._callbacks.capabilities)
        self._version = one_of("protocol_version", protocol_version, VERSIONS)
        self._level = one_of("log_level", log_level, LOG_LEVELS)
        self._caching = flag("enable_response_caching", enable_response_caching)
        self._revive()

    @classmethod
    def from_config(
        cls,
        source: str | os.PathLike[str] | Mapping[str, Any],
        name: str,
        *,
        inputs: Mapping[str, str] | None = None,
        **keywords: Any,
    ) -> Self:
        """Return a client of a server that a configuration file names (``mcp_sync.client.config``).

        Args:
            source: The path of a file with ``mcpServers`` or VS Code's ``servers``, or what it would hold.
            name: The server's name in it.
            inputs: Values for ``${input:id}``.
            **keywords: Those of Client and of the transport; they win over what the file says.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read, it has no such server, or the entry makes no sense; the text names the field.
            TypeError: A keyword makes no sense.
        """
        choice, said = choose(source, name, inputs or {})
        return cls(choice, **merged(said, keywords))

    def _revive(self) -> None:
        """Be as new: at first, and in a forked child, where locks may be held by nobody."""
        self._lock = threading.Lock()  # guards _asker, _opening, _closed, _closed_properly, _watched
        self._connecting = threading.RLock()  # guards the making of a connection, so that there is one
        self._asker: Asker | None = None
        self._opening: Peer | None = None
        self._closed = False
        self._closed_properly: Callable[[], None] = lambda: None
        self._watched: dict[str, tuple[Asker, News]] = {}
        self._tools = ToolIndex()
        self._callbacks.listen(self._tools.overhear)
        self._cache = AnswerCache() if self._caching else None
        if self._cache is not None:
            self._callbacks.listen(self._cache.overhear)
        tell_of_forks(self)

    def forked(self) -> None:
        """In a forked child: forget the parent's connection; the next call makes one of our own."""
        closed = self._closed
        self._callbacks.forked()
        self._revive()
        self._closed = closed

    def __repr__(self) -> str:
        asker = self._asker
        state = "closed" if self._closed else repr(asker.caller) if asker else "not connected"
        return f"<Client {self.transport.name}: {state}>"

    # -- connecting ---------------------------------------------------------------------------------------------------

    def connect(self, timeout: float | None = None) -> Self:
        """Connect, unless connected already, and return the client itself.

        Args:
            timeout: Seconds for all of it; None means the client's own.

        Raises:
            MCPConnectionError: The server cannot be reached, ended, or refused; or the client is closed.
            MCPTimeoutError: Not within the timeout.
            RemoteProtocolError: There is no protocol version in common.
        """
        self._connected(self._deadline(timeout), again=True)
        return self

    def close(self, timeout: float | None = None) -> None:
        """End the connection, every call in flight, and what is behind it. Idempotent, from any thread.

        Args:
            timeout: Seconds; None means 5.
        """
        deadline = Deadline(as_timeout(timeout, default=CLOSE_SECONDS))
        with self._lock:
            self._closed = True
            peers = [self._opening, self._asker.caller if self._asker else None]
        for peer in peers:
            if peer is not None:
                peer.close(deadline)
        self._closed_properly()

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        asker = self._asker
        return asker is not None and not asker.caller.over

    def _connected(self, deadline: Deadline, again: bool = False) -> Asker:
        asker = self._asker
        if asker is not None and not self._closed and (not again or not asker.caller.over):
            return asker  # one that is over says itself why
        try:
            return self._connect(deadline)
        except BaseException:
            let_go(self._connecting)
            raise

    def _connect(self, deadline: Deadline) -> Asker:
        if not self._connecting.acquire(timeout=deadline.remaining):
            raise MCPTimeoutError("another thread is still connecting", may_have_run=False)
        try:
            if self._closed:
                raise self._closed_error()
            if self._asker is None or self._asker.caller.over:
                return self._open(deadline)
            return self._asker
        finally:
            self._connecting.release()

    def _open(self, deadline: Deadline) -> Asker:
        introduction = Introduction(
            self._identity,
            self._version,
            self._callbacks,
            meanwhile=_import_models,
            opened=self._note_opening,
            renewed=_weakly(self._tell_again),
        )
        try:
            caller = self.transport.converse(introduction, deadline)
            try:
                return self._take_up(caller, deadline)
            except BaseException as error:
                caller.close(Deadline(closing_time(error)))
                raise
        finally:
            with self._lock:
                self._opening = None

    def _take_up(self, caller: Caller, deadline: Deadline) -> Asker:
        """Make a new connection the one that everybody uses."""
        before, asker = self._asker, Asker(caller, self._callbacks, self._cache)
        if before is not None:
            before.caller.close(deadline.sooner(CLOSE_SECONDS))  # it is over; this waits for its threads
        self._forget_answers()
        self._settle_log_level(asker, deadline)
        self._watch_again(asker, deadline)
        with self._lock:
            if self._closed:
                raise self._closed_error()
            self._asker = asker
            self._closed_properly()
            self._closed_properly = close_when_forgotten(self, caller, f"<Client {self.transport.name}>")
        return asker

    def _forget_answers(self) -> None:
        self._tools.forget()
        if self._cache is not None:
            self._cache.forget()

    def _tell_again(self, deadline: Deadline) -> None:
        """Tell the server what it has forgotten, after its connection, or its session, was renewed."""
        asker = self._asker
        if asker is None:
            return
        self._forget_answers()
        self._settle_log_level(asker, deadline)
        asker.watching = Watching()
        self._watch_again(asker, deadline, anew=True)

    def _note_opening(self, peer: Peer) -> None:
        with self._lock:
            self._opening = peer
            closed = self._closed
        if closed:
            raise self._closed_error()

    def _closed_error(self) -> MCPConnectionError:
        name = self.transport.name
        text = f"the client of {name} is closed; make a new Client"
        return MCPConnectionError(text, details={"phase": "closed"}, may_have_run=False)

    def _settle_log_level(self, asker: Asker, deadline: Deadline) -> None:
        level = self._level or ("debug" if self._callbacks.wants_log else None)
        if level is None:
            return
        if isinstance(asker.caller.agreement.era, Stateless):
            _ask_for_level(asker.caller, level)
        elif self._level and "logging" in asker.caller.agreement.capabilities:
            asker.caller.call(Question("logging/setLevel", {"level": level}), deadline)

    # -- what the server says of itself -------------------------------------------------------------------------------

    @property
    def protocol_version(self) -> str:
        """The protocol version that was agreed."""
        return self._agreement.era.version

    @property
    def server_info(self) -> types.Implementation:
        """What the server says of itself; for people only."""
        from . import answers

        info = {"name": "", "version": "", **self._agreement.server_info}
        return answers.parse(answers.types.Implementation, info, "server_info")

    @property
    def server_capabilities(self) -> types.ServerCapabilities:
        """What the server offers."""
        from . import answers

        return answers.parse(answers.types.ServerCapabilities, self._agreement.capabilities, "server_capabilities")

    @property
    def instructions(self) -> str | None:
        """What the server says about its use."""
        return self._agreement.instructions

    @property
    def counters(self) -> dict[str, int]:
        """What has happened on this connection; ``sent == ok + error + timeout + cancelled + pending``."""
        return (self._asker or self._connected(self._deadline(None))).caller.counters

    @property
    def _agreement(self) -> Agreement:
        return (self._asker or self._connected(self._deadline(None))).caller.agreement

    # -- tools --------------------------------------------------------------------------------------------------------

    def list_tools(self, timeout: float | None = None) -> list[types.Tool]:
        """Return all tools, from every page.

        Args:
            timeout: Seconds for all pages; None means the client's own. So for every method here.

        Raises:
            JSONRPCError: The server answered with an error.
            MCPTimeoutError: Not within the timeout.
            MCPConnectionError: The connection is over.
            ProtocolError: One side said something that the protocol forbids.
        """
        from . import answers

        deadline = self._deadline(timeout)
        found = self._tools.tools(self._connected(deadline), deadline)
        return [answers.parse(answers.types.Tool, tool, "tools/list") for tool in found]

    def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        on_progress: OnProgress | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> ToolResult:
        """Call a tool and return its result, whether it reports failure or not.

        Args:
            name: The tool.
            arguments: Its arguments by name.
            timeout: Seconds; None means the client's own.
            on_progress: Is called with (progress, total, message), before this method returns.
            meta: Further members of the request's ``_meta``.

        Raises:
            JSONRPCError: The server refused the call.
            MCPTimeoutError: No result within the timeout; the server has been told to stop.
            MCPConnectionError: The connection is over; ``may_have_run`` tells whether a repeat is safe.
            ProtocolError: One side said something that the protocol forbids.
        """
        question = tool_question(name, arguments, on_progress, meta)
        deadline = self._deadline(timeout)
        asker = self._connected(deadline)
        return self._tool_result(asker, name, asker.ask(question, deadline), deadline)

    def submit_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        on_progress: OnProgress | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> CallFuture[ToolResult]:
        """Call a tool and return at once: a ``concurrent.futures.Future`` of the result.

        Cancelling it cancels the call on the server. Arguments are those of ``call_tool``.

        Raises:
            MCPConnectionError: There is no connection.
        """
        question = tool_question(name, arguments, on_progress, meta)
        deadline = self._deadline(timeout)
        asker = self._connected(deadline)

        def convert(raw: dict[str, Any], patience: Deadline) -> ToolResult:
            return self._tool_result(asker, name, raw, deadline.sooner(patience.remaining))

        return asker.submit(replace(question, convert=convert), deadline)

    # -- resources ----------------------------------------------------------------------------------------------------

    def list_resources(self, timeout: float | None = None) -> list[types.Resource]:
        """Return all resources, from every page; raises as ``list_tools``."""
        from . import answers

        found = self._pages("resources/list", "resources", timeout)
        return [answers.parse(answers.types.Resource, item, "resources/list") for item in found]

    def list_resource_templates(self, timeout: float | None = None) -> list[types.ResourceTemplate]:
        """Return all resource templates, from every page; raises as ``list_tools``."""
        from . import answers

        found = self._pages("resources/templates/list", "resourceTemplates", timeout)
        return [answers.parse(answers.types.ResourceTemplate, item, "resources/templates/list") for item in found]

    def read_resource(self, uri: str, timeout: float | None = None) -> types.ReadResourceResult:
        """Return what is in a resource: ``.contents``, each with ``text`` or ``blob``; raises as ``call_tool``."""
        from . import answers

        raw = self.request("resources/read", {"uri": checked_uri(uri)}, timeout)
        return answers.parse(answers.types.ReadResourceResult, raw, "resources/read")

    def subscribe(self, uri: str, timeout: float | None = None) -> None:
        """Have the server tell ``on_notification`` when a resource changes; raises as ``call_tool``.

        It goes on after a lost connection once there is another.
        """
        uri = checked_uri(uri)
        deadline = self._deadline(timeout)
        self._watch(self._connected(deadline), uri, deadline)

    def _watch(self, asker: Asker, uri: str, deadline: Deadline, anew: bool = False) -> None:
        before = self._watched.get(uri)
        if before is not None and before[0] is asker and not anew:
            return
        news = News(make_filter({}, [uri]), kept=0)  # nothing is kept: on_notification tells
        news.open(asker, self._callbacks, deadline)
        with self._lock:
            self._watched[uri] = asker, news

    def _watch_again(self, asker: Asker, deadline: Deadline, anew: bool = False) -> None:
        """Subscribe on a new connection to what was subscribed to on the one before (basic/transports/stdio)."""
        for uri in list(self._watched):
            try:
                self._watch(asker, uri, deadline, anew)
            except JSONRPCError as refused:
                log.warning("%s can no longer be subscribed to: %s", uri, refused)

    def unsubscribe(self, uri: str, timeout: float | None = None) -> None:
        """Have the server no longer tell of changes of a resource; raises as ``call_tool``."""
        uri = checked_uri(uri)
        deadline = self._deadline(timeout)
        asker = self._connected(deadline)
        with self._lock:
            _, news = self._watched.pop(uri, (None, None))
        if news is not None:
            news.end_on_server(deadline)
        elif asker.caller.agreement.era.server_asks:  # subscribed to by other means, perhaps
            asker.ask(Question("resources/unsubscribe", {"uri": uri}), deadline)

    def listen(
        self,
        *,
        tools_list_changed: bool = False,
        prompts_list_changed: bool = False,
        resources_list_changed: bool = False,
        resource_subscriptions: Sequence[str] = (),
        timeout: float | None = None,
    ) -> Subscription:
        """Return a Subscription, to be iterated, of changes on the server; raises as ``call_tool``.

        Args:
            tools_list_changed: Tools come and go.
            prompts_list_changed: Prompts come and go.
            resources_list_changed: Resources come and go.
            resource_subscriptions: URIs of resources whose changes matter.
            timeout: Seconds until the server has acknowledged it.
        """
        wanted = make_filter(
            {
                "tools_list_changed": tools_list_changed,
                "prompts_list_changed": prompts_list_changed,
                "resources_list_changed": resources_list_changed,
            },
            resource_subscriptions,
        )
        deadline = self._deadline(timeout)
        return subscribe(wanted, self._connected(deadline), self._callbacks, deadline)

    # -- prompts ------------------------------------------------------------------------------------------------------

    def list_prompts(self, timeout: float | None = None) -> list[types.Prompt]:
        """Return all prompts, from every page; raises as ``list_tools``."""
        from . import answers

        found = self._pages("prompts/list", "prompts", timeout)
        return [answers.parse(answers.types.Prompt, item, "prompts/list") for item in found]

    def get_prompt(
        self, name: str, arguments: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> types.GetPromptResult:
        """Return a prompt filled in: ``.messages``; raises as ``call_tool``."""
        from . import answers

        params: dict[str, Any] = {"name": checked_name(name)}
        if arguments is not None:
            params["arguments"] = dict(checked_arguments(arguments))
        raw = self.request("prompts/get", params, timeout)
        return answers.parse(answers.types.GetPromptResult, raw, "prompts/get")

    def complete(
        self,
        ref: Mapping[str, Any] | types.PromptReference | types.ResourceTemplateReference,
        argument: Mapping[str, str],
        context_arguments: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> types.CompleteResult:
        """Return suggestions for the value of an argument: ``.completion.values``; raises as ``call_tool``.

        Args:
            ref: ``{"type": "ref/prompt", "name": ...}`` or ``{"type": "ref/resource", "uri": ...}``, or a model.
            argument: ``{"name": ..., "value": ...}``, the value as far as it has come.
            context_arguments: Values of other arguments, chosen already.
            timeout: Seconds; None means the client's own.
        """
        from . import answers

        argument = dict(checked_dict("argument", argument))
        params: dict[str, Any] = {"ref": answers.dump(ref, "ref"), "argument": argument}
        if context_arguments is not None:
            params["context"] = {"arguments": dict(checked_dict("context_arguments", context_arguments))}
        raw = self.request("completion/complete", params, timeout)
        return answers.parse(answers.types.CompleteResult, raw, "completion/complete")

    # -- tasks --------------------------------------------------------------------------------------------------------

    def start_task(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        ttl: int | None = None,
        timeout: float | None = None,
    ) -> Task | ToolResult:
        """Call a tool as a task: the server works on it while nobody waits.

        In the stateless era the server decides whether it makes a task of the call; where it answers at once, that
        answer is returned.

        Args:
            name: The tool.
            arguments: Its arguments by name.
            ttl: Milliseconds to keep the result (2025-11-25 only).
            timeout: Seconds until the task has begun.

        Raises:
            LocalProtocolError: The agreed protocol version has no tasks.
            MCPError: As ``call_tool``.
        """
        question = tool_question(name, arguments, None, None)
        deadline = self._deadline(timeout)
        asker = self._connected(deadline)
        params = dict(question.params or {})
        if asker.caller.agreement.era.server_asks:
            _check_tasks(asker)
            params["task"] = {} if ttl is None else {"ttl": ttl}
        raw = asker.ask(replace(question, params=declared(asker, params)), deadline)
        state = created(raw)
        return self._tool_result(asker, name, raw, deadline) if state is None else self._task(asker, name, state)

    def get_task(self, task_id: str, timeout: float | None = None) -> Task:
        """Return a task that was started before, perhaps by another process; raises as ``call_tool``."""
        if not isinstance(task_id, str):
            raise TypeError(f"task_id must be a str, not {type(task_id).__name__} ({task_id!r})")
        deadline = self._deadline(timeout)
        return self._task(self._connected(deadline), "", {"taskId": task_id}).refresh(_left(deadline))

    def list_tasks(self, timeout: float | None = None) -> list[Task]:
        """Return all tasks that the server knows (2025-11-25 only); raises as ``list_tools``."""
        deadline = self._deadline(timeout)
        asker = self._connected(deadline)
        _check_tasks(asker)
        return [self._task(asker, "", state) for state in asker.pages("tasks/list", "tasks", deadline)]

    def _task(self, asker: Asker, tool: str, state: dict[str, Any]) -> Task:
        def finish(raw: dict[str, Any], deadline: Deadline) -> ToolResult:
            return self._tool_result(asker, tool, raw, deadline)

        return Task(asker, finish, self.timeout, state)

    # -- anything -----------------------------------------------------------------------------------------------------

    def ping(self, timeout: float | None = None) -> None:
        """Make sure that the server answers; raises as ``call_tool``.

        The stateless era has no ping; there it is ``server/discover``.
        """
        deadline = self._deadline(timeout)
        asker = self._connected(deadline)
        asker.ask(Question("ping" if asker.caller.agreement.era.server_asks else "server/discover"), deadline)

    def set_logging_level(self, level: str, timeout: float | None = None) -> None:
        """Have the server send log messages from a level on; raises as ``call_tool``.

        Args:
            level: ``debug``, ``info``, ``notice``, ``warning``, ``error``, ``critical``, ``alert`` or ``emergency``.
            timeout: Seconds; None means the client's own.
        """
        if one_of("level", level, LOG_LEVELS) is None:
            raise ValueError(f"level must be one of {', '.join(LOG_LEVELS)}, not None")
        deadline = self._deadline(timeout)
        asker = self._connected(deadline)
        self._level = level
        if isinstance(asker.caller.agreement.era, Stateless):
            _ask_for_level(asker.caller, level)  # it goes with every request from now on
        else:
            asker.ask(Question("logging/setLevel", {"level": level}), deadline)

    def send_roots_list_changed(self, timeout: float | None = None) -> None:
        """Tell the server that the roots have changed; in the stateless era it asks anyway.

        Raises:
            MCPConnectionError: The connection is over.
        """
        deadline = self._deadline(timeout)
        asker = self._connected(deadline)
        if asker.caller.agreement.era.server_asks:
            asker.caller.notify("notifications/roots/list_changed", None, deadline)

    def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> dict[str, Any]:
        """Send any request and return the result as a plain dict; raises as ``call_tool``."""
        question = any_question(method, params, on_progress)
        deadline = self._deadline(timeout)
        return self._connected(deadline).ask(question, deadline)

    def submit(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> CallFuture[dict[str, Any]]:
        """Send any request and return a ``concurrent.futures.Future`` of the result as a plain dict."""
        question = any_question(method, params, on_progress)
        deadline = self._deadline(timeout)
        return self._connected(deadline).submit(question, deadline)

    def notify(self, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None) -> None:
        """Send any notification.

        Raises:
            MCPConnectionError: The connection is over.
            MCPTimeoutError: The server did not read it within the timeout.
        """
        question = any_question(method, params, None)
        deadline = self._deadline(timeout)
        self._connected(deadline).caller.notify(question.method, question.params, deadline)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(as_timeout(timeout, default=self.timeout))

    def _pages(self, method: str, key: str, timeout: float | None) -> list[dict[str, Any]]:
        deadline = self._deadline(timeout)
        return list(self._connected(deadline).pages(method, key, deadline))

    def _tool_result(self, asker: Asker, name: str, raw: dict[str, Any], deadline: Deadline) -> ToolResult:
        state = created(raw)
        if state is not None:
            return self._task(asker, name, state).result(_left(deadline))
        schema = None
        if "structuredContent" in raw and not raw.get("isError"):
            schema = self._tools.output_schema(asker, name, deadline)
        result: ToolResult = _answers().tool_result(raw, name, schema)
        return result


@functools.cache
def _answers() -> Any:
    """Return the module of the typed answers, which takes its time to be imported, once."""
    from . import answers

    return answers


def _left(deadline: Deadline) -> float:
    """Return what is left of a deadline, as a timeout."""
    return max(deadline.remaining, 0.001)


def _ask_for_level(caller: Caller, level: str) -> None:
    era = caller.agreement.era
    assert isinstance(era, Stateless)
    caller.dress(era.at_level(level))


def _weakly(method: Callable[[Deadline], object]) -> Callable[[Deadline], object]:
    """Return a bound method that does not keep its object."""
    known = weakref.WeakMethod(method)

    def call(deadline: Deadline) -> None:
        alive = known()
        if alive is not None:
            alive(deadline)

    return call


def _check_tasks(asker: Asker) -> None:
    agreement = asker.caller.agreement
    if agreement.era.version != "2025-11-25" or "tasks" not in agreement.capabilities:
        raise LocalProtocolError(
            f"the server offers no tasks (protocol version {agreement.era.version}); use call_tool or submit_tool",
            may_have_run=False,
        )


def _import_models() -> None:
    # Ctrl-C in the middle of pydantic comes out as something else.
    if f"{__package__}.answers" not in sys.modules:
        uninterrupted("mcp-models", lambda: importlib.import_module(".answers", __package__), lambda _: None)
