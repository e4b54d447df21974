"""Server: tools, resources and prompts made of functions, and the ways to offer them.

::

    from mcp_sync.server import Server

    server = Server("weather-service")

    @server.tool()
    def get_weather(city: str) -> str:
        \"\"\"Get the weather for a city.\"\"\"
        return f"It's sunny in {city} today!"

    server.run("stdio")

A Server holds no connection and starts no thread until it is run, mounted and called, or connected to; so it can be a
module's global, also where processes are forked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..deadlines import Deadline
from ..engine.channel import Channel
from ..engine.lifetimes import close_at_exit, tell_of_forks
from ..exceptions import JSONRPCError
from ..policies import Limits
from ..protocol.eras import TASKS_EXTENSION
from ..protocol.headers import ParamNames
from ..protocol.messages import INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_CAPABILITY, Request
from .answering import Answerer
from .calls import Asker, Call
from .conversation import Conversation
from .extensions import Extension
from .hub import PROMPTS, RESOURCES, TOOLS, Hub, Interest, Notice, interest_of
from .offers import (
    Completion,
    Prompt,
    Resource,
    Shelf,
    Template,
    Tool,
    make_completion,
    make_prompt,
    make_resource,
    make_template,
    make_tool,
    named,
)
from .sealing import Seal
from .uris import is_template

if TYPE_CHECKING:
    from .stores import SessionStore
    from .tasks import Tasks
    from .wsgi import WsgiApp

F = TypeVar("F", bound="Callable[..., Any]")

CLOSE_SECONDS = 5.0
MAX_REQUESTS = 64
SCOPES = ("private", "public")


class Server:
    """An MCP server.

    Threads: each connection has those of its Peer. ``run`` blocks until the server ends.
    Locks: ``_lock``, held for a few instructions.

    Args:
        name: What the server is called.
        version: Its version; clients show it.
        title: Its name for people.
        instructions: How a model should use it.
        website_url: Where people find out more.
        icons: As the protocol's Icon objects.
        page_size: How many offers one page of a list has; None: all of them.
        cache_ttl_ms: Milliseconds for which a client may keep lists and resources (stateless era).
        cache_scope: ``private``, or ``public`` where every client is told the same.
        mask_error_details: Whether a client is told only that a tool failed; else also the text of its exception.
        secret_key: What signs the state of multi-round requests; all processes that serve the same clients need the
            same. None takes the environment variable MCP_SYNC_SECRET_KEY, else a random one.
        max_concurrent_requests: How many requests of one connection are answered at once; more are refused.
        max_message_size: Bytes of one message, either way.

    Attributes:
        tools: The tools.
        resources: The resources.
        templates: The templates of resources.
        prompts: The prompts.
        completions: What completes arguments, by prompt or template and argument.
        extensions: The extensions of the protocol.
        tasks: What runs in the background; None until a tool may.
        store: What the processes of the application share; None: nothing.
        hub: Who hears of changes.
        answerer: What says to each method.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "0.0.0",
        title: str | None = None,
        instructions: str | None = None,
        website_url: str | None = None,
        icons: Sequence[Mapping[str, Any]] | None = None,
        page_size: int | None = None,
        cache_ttl_ms: int = 0,
        cache_scope: str = "private",
        mask_error_details: bool = False,
        secret_key: str | bytes | None = None,
        max_concurrent_requests: int = MAX_REQUESTS,
        max_message_size: int = Limits().message_size,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        if not name:
            raise ValueError("name must not be empty")
        if cache_scope not in SCOPES:
            raise ValueError(f"cache_scope must be one of {', '.join(SCOPES)}, not {cache_scope!r}")
        self.name = name
        optional = {"title": title, "websiteUrl": website_url, "icons": None if icons is None else list(icons)}
        given = {key: value for key, value in optional.items() if value is not None}
        self.info: dict[str, Any] = {"name": name, "version": version, **given}
        self.instructions = instructions
        self.page_size = _whole("page_size", page_size, 1)
        self.caching = {"ttlMs": _whole("cache_ttl_ms", cache_ttl_ms, 0), "cacheScope": cache_scope}
        self.mask_error_details = mask_error_details
        self.limits = Limits(
            message_size=_whole("max_message_size", max_message_size, 1024) or 1024,
            callbacks=_whole("max_concurrent_requests", max_concurrent_requests, 1) or 1,
        )
        self.tools: Shelf[Tool] = Shelf("tool")
        self.resources: Shelf[Resource] = Shelf("resource")
        self.templates: Shelf[Template] = Shelf("resource template")
        self.prompts: Shelf[Prompt] = Shelf("prompt")
        self.completions: dict[tuple[str, str], Completion] = {}
        self.extensions: tuple[Extension, ...] = ()
        self.tasks: Tasks | None = None
        self.store: SessionStore | None = None
        self.hub = Hub()
        self._seal = Seal(secret_key)
        self.answerer = Answerer(self)
        self._lock = threading.Lock()  # guards _conversations, and tasks while they are made
        self._conversations: dict[Conversation, Callable[[], None]] = {}
        tell_of_forks(self)

    def __repr__(self) -> str:
        return f"<Server {self.name} with {len(self.tools)} tools>"

    # -- what it offers -----------------------------------------------------------------------------------------------

    def tool(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """Decorate a function that models may call.

        Args:
            name: What the tool is called; None takes the function's name.
            **options: As ``add_tool``.
        """
        return self._decorator("tool", name, lambda function: self.add_tool(function, name, **options))

    def add_tool(
        self,
        function: Callable[..., Any],
        name: str | None = None,
        *,
        title: str | None = None,
        description: str | None = None,
        annotations: Any = None,
        icons: Any = None,
        meta: Mapping[str, Any] | None = None,
        input_schema: Mapping[str, Any] | None = None,
        output_schema: Mapping[str, Any] | None = None,
        structured_output: bool | None = None,
        task: str | None = None,
    ) -> Tool:
        """Offer a function as a tool. What it returns becomes content, and structured content where it has a type.

        Args:
            function: Takes what the schema says; a parameter annotated with Context is given one.
            name: What the tool is called; None takes the function's name.
            title: Its name for people.
            description: What it does; None takes the docstring.
            annotations: As ToolAnnotations: ``{"readOnlyHint": True}``.
            icons: As the protocol's Icon objects.
            meta: What else a list should say of it (``_meta``).
            input_schema: A JSON Schema of its arguments; None makes one of the function's type hints.
            output_schema: A JSON Schema of its structured content; None makes one of the return type.
            structured_output: Whether there is structured content; None: where the return type has a structure.
            task: ``optional``: it runs in the background for clients that know tasks; ``required``: for others not
                at all. None: never.

        Raises:
            TypeError: The function has no schema.
            ValueError: There is a tool of that name already, or the name is not valid.
        """
        tool = make_tool(
            function,
            name,
            title=title,
            description=description,
            annotations=annotations,
            icons=icons,
            meta=meta,
            input_schema=input_schema,
            output_schema=output_schema,
            structured_output=structured_output,
            task=task,
        )
        self.tools.add(tool.name, tool, function)
        if task is not None:
            self.use_tasks()
        self.hub.publish(Notice(TOOLS))
        return tool

    def remove_tool(self, name: str) -> None:
        """Offer a tool no more.

        Raises:
            KeyError: There is none of that name.
        """
        self.tools.remove(name)
        self.hub.publish(Notice(TOOLS))

    def resource(self, uri: str, **options: Any) -> Callable[[F], F]:
        """Decorate a function that reads a resource, or with places in the URI all resources of that form.

        Args:
            uri: ``config://app``, or a template: ``users://{id}``, ``file:///{+path}``, ``logs://{day}{?level}``.
            **options: As ``add_resource``.
        """
        return self._decorator("resource", uri, lambda function: self.add_resource(uri, function, **options))

    def add_resource(self, uri: str, content: Any, **options: Any) -> None:
        """Offer a resource.

        Args:
            uri: Its URI, or a template.
            content: A function that returns the content, given what fills the places of the template; or for one
                resource the content itself: text, bytes, or what JSON can say.
            **options: ``name``, ``title``, ``description``, ``mime_type``, ``size``, ``annotations``, ``icons``,
                ``meta``.

        Raises:
            TypeError: The function has no schema.
            ValueError: The URI is none, is taken, or does not fit the function.
        """
        if not isinstance(uri, str):
            raise TypeError(f"uri must be a str, not {type(uri).__name__}")
        if is_template(uri):
            template = make_template(uri, content, **options)
            self.templates.add(uri, template, content)
        else:
            if not callable(content):
                options.setdefault("name", uri)
            resource = make_resource(uri, content if callable(content) else lambda: content, **options)
            self.resources.add(uri, resource, content)
        self.hub.publish(Notice(RESOURCES))

    def remove_resource(self, uri: str) -> None:
        """Offer a resource, or a template, no more.

        Raises:
            KeyError: There is none of that URI.
        """
        if is_template(uri):
            self.templates.remove(uri)
        else:
            self.resources.remove(uri)
        self.hub.publish(Notice(RESOURCES))

    def prompt(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """Decorate a function that makes a prompt of its arguments.

        Args:
            name: What the prompt is called; None takes the function's name.
            **options: As ``add_prompt``.
        """
        return self._decorator("prompt", name, lambda function: self.add_prompt(function, name, **options))

    def add_prompt(self, function: Callable[..., Any], name: str | None = None, **options: Any) -> None:
        """Offer a prompt.

        Args:
            function: Returns a text, or messages.
            name: What the prompt is called; None takes the function's name.
            **options: ``title``, ``description``, ``icons``, ``meta``.

        Raises:
            TypeError: The function has no schema.
            ValueError: There is a prompt of that name already.
        """
        prompt = make_prompt(function, name, **options)
        self.prompts.add(prompt.name, prompt, function)
        self.hub.publish(Notice(PROMPTS))

    def remove_prompt(self, name: str) -> None:
        """Offer a prompt no more.

        Raises:
            KeyError: There is none of that name.
        """
        self.prompts.remove(name)
        self.hub.publish(Notice(PROMPTS))

    def completion(self, target: str, argument: str) -> Callable[[F], F]:
        """Decorate a function that completes an argument: ``def cities(value: str) -> list[str]``.

        Args:
            target: The name of a prompt, or a template of resources.
            argument: The argument of it. A second parameter of the function is given those that are known already.
        """

        def decorate(function: F) -> F:
            if (target, argument) in self.completions:
                raise ValueError(f"{named(function)}: {argument!r} of {target!r} is completed already")
            self.completions[target, argument] = make_completion(function)
            return function

        return decorate

    def _decorator(self, what: str, argument: object, add: Callable[[Any], object]) -> Callable[[F], F]:
        if callable(argument):
            raise TypeError(f"write @server.{what}() with parentheses, above {named(argument)}")

        def decorate(function: F) -> F:
            add(function)
            return function

        return decorate

    # -- extensions ---------------------------------------------------------------------------------------------------

    def use(self, extension: Extension) -> None:
        """Offer an extension of the protocol (stateless era).

        Raises:
            ValueError: It is there already.
        """
        if any(one.name == extension.name for one in self.extensions):
            raise ValueError(f"the extension {extension.name} is there already")
        self.extensions = (*self.extensions, extension)

    def use_tasks(self, **options: Any) -> Tasks:
        """Let tools run in the background (extension io.modelcontextprotocol/tasks); happens by itself for ``task=``.

        Args:
            **options: As ``mcp_sync.server.tasks.Tasks``.
        """
        from .tasks import Tasks

        with self._lock:
            if self.tasks is None:
                self.tasks = Tasks(self, **options)
                self.use(self.tasks)
            return self.tasks

    def add_skills(self, folder: str | Path) -> None:
        """Offer the skills in a folder, one folder with a SKILL.md each (extension io.modelcontextprotocol/skills).

        Args:
            folder: The folder that holds them.

        Raises:
            ValueError: A SKILL.md is not valid.
        """
        from .skills import Skills

        found = next((one for one in self.extensions if isinstance(one, Skills)), None)
        if found is None:
            found = Skills(self)
            self.use(found)
        found.add(Path(folder))

    def task_needed(self, asker: Asker) -> JSONRPCError:
        """Return the error for a client that does not know tasks, and calls what runs only as one."""
        text = "this tool runs only as a task, which the client does not know"
        if not asker.stateless:
            return JSONRPCError(INVALID_PARAMS, text)
        return JSONRPCError(MISSING_CAPABILITY, text, {"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}})

    # -- telling of changes -------------------------------------------------------------------------------------------

    def resource_updated(self, uri: str) -> None:
        """Tell all who subscribed to a resource, or to one that it is part of, that it has changed."""
        self.hub.publish(Notice("resource", uri))

    def tools_changed(self) -> None:
        """Tell all clients that the list of tools has changed; adding and removing tells by itself."""
        self.hub.publish(Notice(TOOLS))

    def prompts_changed(self) -> None:
        """Tell all clients that the list of prompts has changed; adding and removing tells by itself."""
        self.hub.publish(Notice(PROMPTS))

    def resources_changed(self) -> None:
        """Tell all clients that the list of resources has changed; adding and removing tells by itself."""
        self.hub.publish(Notice(RESOURCES))

    # -- for the bindings ---------------------------------------------------------------------------------------------

    def answer(self, call: Call) -> dict[str, Any]:
        """Return the result of a request.

        Raises:
            JSONRPCError: There is none.
            Withdrawn: Nobody wants it any more.
        """
        return self.answerer.answer(call)

    def mirrors_of(self, tool: str) -> ParamNames | None:
        """Return the arguments of a tool that travel in headers as well; None: there is no such tool."""
        found = self.tools.get(tool)
        return None if found is None else found.mirrors

    def checked_uri(self, params: Mapping[str, Any]) -> str:
        """Return the URI of a ``resources/subscribe``.

        Raises:
            JSONRPCError: There is none, or there are no resources.
        """
        uri = params.get("uri")
        if "resources" not in self.answerer.capabilities(stateless=False):
            raise JSONRPCError(METHOD_NOT_FOUND, "there are no resources")
        if not isinstance(uri, str):
            raise JSONRPCError(INVALID_PARAMS, "params.uri must be a string")
        return uri

    def interest(self, request: Request, asker: Asker) -> Interest:
        """Return what a ``subscriptions/listen`` may hear of.

        Raises:
            JSONRPCError: Its params are not valid.
        """
        wanted = (request.params or {}).get("notifications")
        offered = [name for name in (TOOLS, PROMPTS, RESOURCES) if name in self.answerer.capabilities(stateless=True)]
        try:
            interest = interest_of(request.id, wanted, offered)
            tasks = self.tasks.heard_of(wanted, asker) if self.tasks is not None else ()
            return replace(interest, tasks=frozenset(tasks))
        except ValueError as flaw:
            raise JSONRPCError(INVALID_PARAMS, str(flaw)) from None

    # -- connections --------------------------------------------------------------------------------------------------

    def serve(self, channel: Channel) -> Conversation:
        """Answer whoever is at the other end of a channel, which is not started yet; returns at once."""
        conversation = Conversation(self, channel, self.limits)
        with self._lock:
            self._conversations[conversation] = close_at_exit(_Ending(conversation))
        try:
            conversation.start()
        except BaseException:
            conversation.close(Deadline(0.0))
            raise
        return conversation

    def forget(self, conversation: Conversation) -> None:
        """Take note that a conversation is over."""
        with self._lock:
            done = self._conversations.pop(conversation, None)
        if done is not None:
            done()

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """End all conversations, and all tasks that run here. The server can be used again.

        Args:
            timeout: Seconds for all of it.
        """
        deadline = Deadline(timeout)
        with self._lock:
            conversations = list(self._conversations)
        for conversation in conversations:
            conversation.say_goodbye(deadline)
        for conversation in conversations:
            conversation.hang_up(deadline)
        for conversation in conversations:
            conversation.close(deadline)
        if self.tasks is not None:
            self.tasks.close(deadline)

    def forked(self) -> None:
        """In a forked child: the conversations are the parent's."""
        self._lock = threading.Lock()  # guards as before
        self._conversations = {}
        self.hub.forked()
        for shelf in (self.tools, self.resources, self.templates, self.prompts):
            shelf.forked()

    # -- ways to run --------------------------------------------------------------------------------------------------

    def run(self, transport: str = "stdio", **options: Any) -> None:
        """Serve on the calling thread, until the client goes (stdio), Ctrl-C, or for ever.

        Ctrl-C closes everything; then ``http``, ``sse`` and ``websocket`` return, as web servers do, and ``stdio``
        raises KeyboardInterrupt. SIGTERM is left to the program.

        Args:
            transport: ``stdio``; ``http``: Streamable HTTP; ``sse``: the older HTTP+SSE; ``websocket``.
            **options: For ``http`` and ``sse``: as ``mcp_sync.server.hosting.HttpHost`` (``host``, ``port``,
                ``threads``) and ``wsgi_app``. For ``websocket``: as ``mcp_sync.server.websocket.WebSocketHost``.

        Raises:
            ImportError: The extra ``[server]`` is not installed, for all but stdio.
            OSError: The port is taken.
        """
        from .running import run

        run(self, transport, options)

    def share(
        self, secret_key: str | bytes | None, store: SessionStore, relay: Callable[[Notice], None]
    ) -> None:
        """Let other processes of the same application take part: in sealed state, in tasks, in notices.

        Args:
            secret_key: What signs state; None takes the store's, where none was given before.
            store: Where sessions and tasks are kept.
            relay: Tells all processes of a notice.
        """
        if secret_key is not None:
            self._seal = Seal(secret_key)
        if store.shared:
            self.hub.relay = relay
            self.store = store

    @property
    def seal(self) -> Seal:
        """What signs state: by the key that was given, or else the store's, if there is one that processes share."""
        if self._seal.is_random and self.store is not None and (shared := self.store.secret("state")) is not None:
            self._seal = Seal(shared)
        return self._seal

    def wsgi_app(self, **options: Any) -> WsgiApp:
        """Return a WSGI application that speaks Streamable HTTP, both eras at the path where it is mounted.

        Args:
            **options: As ``mcp_sync.server.wsgi.WsgiApp``.
        """
        from .wsgi import WsgiApp

        return WsgiApp(self, **options)


class _Ending:
    """A conversation that is still there when the interpreter exits."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    @property
    def over(self) -> bool:
        return self._conversation.over

    def hang_up(self, deadline: Deadline) -> None:
        self._conversation.hang_up(deadline)

    def close(self, deadline: Deadline) -> None:
        self._conversation.close(deadline)


def _whole(name: str, value: object, least: int) -> Any:
    if value is None and name == "page_size":
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value
