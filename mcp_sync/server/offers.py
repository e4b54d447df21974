"""Offers: what a server has registered: tools, resources, templates of resources, prompts, completions.

Whatever is wrong with a function is said when it is registered, with its name.

Source: server/{tools,resources,prompts}, server/utilities/completion.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..protocol.headers import ParamNames, annotated
from .context import Context
from .schema import Signature
from .uris import UriTemplate

T = TypeVar("T")

TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
RESERVED = ("rpc.", "mcp.", "io.modelcontextprotocol")
"""Beginnings of names that belong to JSON-RPC and to the protocol."""
TASK_MODES = ("optional", "required")


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    Attributes:
        definition: What ``tools/list`` says of it.
        mirrors: The arguments that travel in headers as well.
        task: ``optional`` or ``required`` where it runs in the background, else None.
    """

    name: str
    signature: Signature
    definition: Mapping[str, Any]
    mirrors: ParamNames
    task: str | None = None


@dataclass(frozen=True)
class Resource:
    """Something with a URI that can be read.

    Attributes:
        definition: What ``resources/list`` says of it.
        read: Gives the content, with a Context.
        mime_type: What it is, where that is known.
    """

    uri: str
    definition: Mapping[str, Any]
    read: Callable[[Context], Any]
    mime_type: str | None


@dataclass(frozen=True)
class Template:
    """Many resources whose URIs have a form.

    Attributes:
        definition: What ``resources/templates/list`` says of it.
    """

    template: UriTemplate
    signature: Signature
    definition: Mapping[str, Any]
    mime_type: str | None


@dataclass(frozen=True)
class Prompt:
    """A text for a model, made of arguments.

    Attributes:
        definition: What ``prompts/list`` says of it.
    """

    name: str
    signature: Signature
    definition: Mapping[str, Any]


class Shelf(Generic[T]):
    """The offers of one kind, by name, in the order in which they were registered.

    Locks: ``_lock``, held for a few instructions.

    Attributes:
        ever: Whether there was ever one: what was once declared stays declared.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()  # guards _offers, ever
        self._offers: dict[str, T] = {}
        self.ever = False

    def forked(self) -> None:
        """In a forked child: have a lock that nobody holds."""
        self._lock = threading.Lock()  # guards as before

    def add(self, name: str, offer: T, function: object) -> None:
        """Add one.

        Raises:
            ValueError: There is one of that name.
        """
        with self._lock:
            if name in self._offers:
                raise ValueError(f"{named(function)}: there is a {self._what} {name!r} already")
            self._offers = {**self._offers, name: offer}  # replaced whole: who iterates is not disturbed
            self.ever = True

    def remove(self, name: str) -> T:
        """Take one away.

        Raises:
            KeyError: There is none of that name.
        """
        with self._lock:
            if name not in self._offers:
                raise KeyError(f"there is no {self._what} {name!r}")
            gone = self._offers[name]
            self._offers = {key: offer for key, offer in self._offers.items() if key != name}
            return gone

    def get(self, name: object) -> T | None:
        """Return the one of that name, or None."""
        return self._offers.get(name) if isinstance(name, str) else None

    def __iter__(self) -> Iterator[T]:
        return iter(self._offers.values())

    def __len__(self) -> int:
        return len(self._offers)


def named(function: object) -> str:
    """Return what to call a function in a message: its name, and where it is."""
    function = getattr(function, "func", function)  # a partial's
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', '')}.{name}".lstrip(".")


def plain(value: Any) -> Any:
    """Return a model of ``mcp_types`` as the wire has it; anything else as it is."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def definition(**parts: Any) -> dict[str, Any]:
    """Return what a list says of an offer: all that is known of it."""
    return {key: plain(value) for key, value in parts.items() if value is not None}


def check_name(name: object, function: object) -> str:
    """Return the name of a tool, if it may be one.

    Raises:
        TypeError: It is no text.
        ValueError: It is reserved, or holds what a name may not (server/tools, tool names).
    """
    if not isinstance(name, str):
        raise TypeError(f"{named(function)}: name must be a str, not {type(name).__name__}")
    if not TOOL_NAME.fullmatch(name):
        raise ValueError(f"{named(function)}: a tool's name has 1 to 128 of A-Z a-z 0-9 _ . -, not {name!r:.150}")
    for beginning in RESERVED:
        if name.startswith(beginning):
            raise ValueError(f"{named(function)}: tool names that begin with {beginning} are reserved, as in {name!r}")
    return name


def make_tool(
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
    """Return a function as a tool; ``Server.tool`` has the arguments.

    Raises:
        TypeError: The function has no schema, or an argument is none that is understood.
        ValueError: The name, a header annotation or the task mode is not valid.
    """
    name = check_name(_name_of(function) if name is None else name, function)
    if task is not None and task not in TASK_MODES:
        raise ValueError(f"{named(function)}: task must be {' or '.join(map(repr, TASK_MODES))}, not {task!r}")
    signature = Signature(
        function,
        what=f"tool {name!r} ({named(function)})",
        context=Context,
        input_schema=None if input_schema is None else dict(input_schema),
        output_schema=None if output_schema is None else dict(output_schema),
        structured_output=structured_output,
    )
    try:
        mirrors = annotated(signature.input_schema)
    except ValueError as flaw:
        raise ValueError(f"{named(function)}: {flaw}") from None
    listed = definition(
        name=name,
        title=title,
        description=signature.description if description is None else description,
        inputSchema=signature.input_schema,
        outputSchema=signature.output_schema,
        annotations=annotations,
        icons=icons,
        _meta=meta,
    )
    return Tool(name, signature, listed, mirrors, task)


def _name_of(function: object) -> str:
    name = getattr(getattr(function, "func", function), "__name__", None) or type(function).__name__
    if name == "<lambda>":
        raise ValueError(f"{named(function)}: a lambda has no name; give one: name=...")
    return str(name)


def make_template(
    uri: str,
    function: Callable[..., Any],
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    mime_type: str | None = None,
    annotations: Any = None,
    icons: Any = None,
    meta: Mapping[str, Any] | None = None,
) -> Template:
    """Return a function as the reader of all resources of a form; ``Server.resource`` has the arguments.

    Raises:
        TypeError: The function has no schema.
        ValueError: The template is not valid, or the function's parameters are not its places.
    """
    _check_scheme(uri, function)
    try:
        template = UriTemplate(uri)
    except ValueError as flaw:
        raise ValueError(f"{named(function)}: {flaw}") from None
    signature = Signature(function, what=f"resource {uri!r:.100} ({named(function)})", context=Context, texts=True)
    taken = {parameter.name for parameter in signature.parameters}
    required = {parameter.name for parameter in signature.parameters if parameter.required}
    if unknown := set(template.names) - taken:
        raise ValueError(f"{named(function)}: it has no parameter {sorted(unknown)[0]!r}, which {uri!r:.100} has")
    if missing := required - (set(template.names) - set(template.optional)):
        raise ValueError(f"{named(function)}: nothing in {uri!r:.100} fills its parameter {sorted(missing)[0]!r}")
    listed = definition(
        uriTemplate=uri,
        name=_name_of(function) if name is None else name,
        title=title,
        description=(signature.description or None) if description is None else description,
        mimeType=mime_type,
        annotations=annotations,
        icons=icons,
        _meta=meta,
    )
    return Template(template, signature, listed, mime_type)


def make_resource(
    uri: str,
    function: Callable[..., Any],
    *,
    name: str | None = None,
    title: str | None = None,
    description: str | None = None,
    mime_type: str | None = None,
    size: int | None = None,
    annotations: Any = None,
    icons: Any = None,
    meta: Mapping[str, Any] | None = None,
) -> Resource:
    """Return a function as the reader of one resource; ``Server.resource`` has the arguments.

    Raises:
        TypeError: The function has no schema.
        ValueError: The function has a parameter that nothing fills, or the URI is none.
    """
    _check_scheme(uri, function)
    signature = Signature(function, what=f"resource {uri!r:.100} ({named(function)})", context=Context, texts=True)
    if required := [parameter.name for parameter in signature.parameters if parameter.required]:
        raise ValueError(f"{named(function)}: nothing in {uri!r:.100} fills its parameter {required[0]!r}")
    listed = definition(
        uri=uri,
        name=_name_of(function) if name is None else name,
        title=title,
        description=(signature.description or None) if description is None else description,
        mimeType=mime_type,
        size=size,
        annotations=annotations,
        icons=icons,
        _meta=meta,
    )
    return Resource(uri, listed, lambda context: signature.call({}, context), mime_type)


def _check_scheme(uri: str, function: object) -> None:
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", uri):
        raise ValueError(f"{named(function)}: {uri!r:.100} is no URI: it has no scheme, such as config://")


def make_prompt(
    function: Callable[..., Any],
    name: str | None = None,
    *,
    title: str | None = None,
    description: str | None = None,
    icons: Any = None,
    meta: Mapping[str, Any] | None = None,
) -> Prompt:
    """Return a function as a prompt; ``Server.prompt`` has the arguments.

    Raises:
        TypeError: The function has no schema.
    """
    name = _checked_text(_name_of(function) if name is None else name, function)
    signature = Signature(function, what=f"prompt {name!r:.100} ({named(function)})", context=Context, texts=True)
    arguments = [
        definition(name=parameter.name, description=parameter.description or None, required=parameter.required)
        for parameter in signature.parameters
    ]
    listed = definition(
        name=name,
        title=title,
        description=(signature.description or None) if description is None else description,
        arguments=arguments,
        icons=icons,
        _meta=meta,
    )
    return Prompt(name, signature, listed)


def _checked_text(name: object, function: object) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"{named(function)}: name must be a str that is not empty, not {name!r:.80}")
    return name


@dataclass(frozen=True)
class Completion:
    """A function that completes what a user types.

    Attributes:
        function: Takes the text, and the arguments that are known already if it has a second parameter.
    """

    function: Callable[..., Any]
    takes_arguments: bool

    def __call__(self, value: str, arguments: Mapping[str, str]) -> list[str]:
        """Return what the text may become."""
        given = (value, arguments) if self.takes_arguments else (value,)
        return [str(one) for one in self.function(*given)]


def make_completion(function: Callable[..., Any]) -> Completion:
    """Return a function as a completion.

    Raises:
        TypeError: It cannot be called with a text, or with a text and the arguments that are known.
    """
    if not callable(function):
        raise TypeError(f"a completion must be a function, not {type(function).__name__} ({function!r:.100})")
    parameters = inspect.signature(function).parameters.values()
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{named(function)} is async, and there is no event loop here; write def instead of async def")
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    unfilled = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not 1 <= len(positional) <= 2 or unfilled:
        raise TypeError(f"{named(function)}: a completion takes the text, and perhaps the arguments that are known")
    return Completion(function, len(positional) == 2)
