"""Headers: what both ends of Streamable HTTP must agree on about them: names, values, and what mirrors the body. Pure.

In the stateless era a request's headers repeat a part of its body, so that whoever stands between the two ends can
route it unread: the version, the method, the name of what is asked for, and those arguments of a tool that its schema
marks with ``x-mcp-header``. In the handshake era a body is not mirrored, and a schema may say what it likes. Whatever
depends on a method's name is told here, so that a binding never looks at one.

Source: basic/transports/streamable-http (request metadata, value encoding), server/tools (x-mcp-header), SEP-2243;
RFC 9110 (5.5 and 5.6.2: values and tokens, 5.6.7: dates, 10.2.3: Retry-After).
"""

from __future__ import annotations

import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from ..exceptions import LocalProtocolError
from .eras import VERSION_KEY
from .messages import MAX_DEPTH, Message, Notification, Request
from .session import LISTEN

PROTOCOL_VERSION = "MCP-Protocol-Version"
SESSION_ID = "Mcp-Session-Id"
METHOD = "Mcp-Method"
NAME = "Mcp-Name"
PARAM_PREFIX = "Mcp-Param-"
LAST_EVENT_ID = "Last-Event-ID"

ANNOTATION = "x-mcp-header"
"""What marks a property of a tool's inputSchema: its value names the header, without PARAM_PREFIX."""

MAX_SESSION_ID = 4096
MAX_INTEGER = 2**53 - 1
"""What every implementation can count to (server/tools: the safe range of JavaScript)."""
MAX_RETRY_SECONDS = 86400.0
"""Nobody is kept waiting longer than a day by a Retry-After."""

ParamNames: TypeAlias = "dict[tuple[str, ...], str]"
"""Path of property names in the arguments -> name of the header, without PARAM_PREFIX."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


# -- values -----------------------------------------------------------------------------------------------------------

_PREFIX, _SUFFIX = "=?base64?", "?="
_PLAIN = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")


def encode_value(text: str) -> str:
    """Return the text as a header can carry it: as it is, or in base64 where it would not arrive unharmed.

    Wrapped are control characters (a tab is one), what is not ASCII, a blank at either end, and what itself looks
    wrapped. Source: basic/transports/streamable-http, value encoding.

    Raises:
        ValueError: The text holds a lone surrogate, which is no character.
    """
    if _PLAIN.fullmatch(text) and not (text.startswith(_PREFIX) and text.endswith(_SUFFIX)):
        return str.__str__(text)  # an Enum's own str() would tell its name
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it holds a lone surrogate, which no header can carry") from None
    return f"{_PREFIX}{b2a_base64(raw, newline=False).decode('ascii')}{_SUFFIX}"


def decode_value(text: str) -> str:
    """Return the text that a header's value stands for; a value that is not wrapped stands for itself.

    Raises:
        ValueError: It is wrapped, but holds no canonical base64 of UTF-8. The text never shows the value.
    """
    if len(text) < len(_PREFIX + _SUFFIX) or not (text.startswith(_PREFIX) and text.endswith(_SUFFIX)):
        return text
    try:
        wrapped = text[len(_PREFIX) : -len(_SUFFIX)].encode("ascii")
        raw = a2b_base64(wrapped)
        if b2a_base64(raw, newline=False) == wrapped:
            return raw.decode("utf-8")
    except ValueError:  # binascii.Error and UnicodeError are some
        pass
    raise ValueError("a header's base64 is not the canonical one of UTF-8 text")


def header_flaw(name: object, value: object) -> str | None:
    """Return what is wrong with a header that a user wants sent, or None. The text never shows the value.

    What an HTTP library would refuse itself is refused here first: its error would show the value.
    """
    if not isinstance(name, str) or not isinstance(value, str):
        return f"a header is a str and a str, not {type(name).__name__} and {type(value).__name__}"
    if not _TOKEN.fullmatch(name):
        return "the header's name is empty or holds a character that is not allowed there (RFC 9110, 5.6.2)"
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]", value):
        return f"the value of the header {name!r:.80} holds a line break or another control character"
    if value != value.strip(" \t"):
        return f"the value of the header {name!r:.80} begins or ends with a blank"
    if re.search(r"[^\x00-\xff]", value):
        return f"the value of the header {name!r:.80} holds a character that is not in latin-1"
    return None


# -- what a message says by its method --------------------------------------------------------------------------------

_NAMED_BY = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}


def declared_version(message: Message) -> str | None:
    """Return the protocol version that a message of the stateless era names, None for every other message."""
    params = message.params if isinstance(message, (Request, Notification)) else None
    meta = params.get("_meta") if params else None
    version = meta.get(VERSION_KEY) if isinstance(meta, Mapping) else None
    return version if isinstance(version, str) else None


def routing_headers(message: Message) -> dict[str, str]:
    """Return the headers that mirror what every message has; nothing for a message of the handshake era.

    A name that the params do not have, or not as text, is left out: the server says best what is missing.
    Source: basic/transports/streamable-http, request metadata; ext-tasks (``Mcp-Name`` is the task's id).

    Raises:
        ValueError: A part of it holds a lone surrogate.
    """
    version = declared_version(message)
    if version is None or not isinstance(message, (Request, Notification)):
        return {}
    headers = {PROTOCOL_VERSION: encode_value(version), METHOD: encode_value(message.method)}
    key = _NAMED_BY.get(message.method)
    name = (message.params or {}).get(key) if key else None
    if isinstance(name, str):
        headers[NAME] = encode_value(name)
    return headers


def assigns_session(message: Message) -> bool:
    """Tell whether the reply to this may assign a session: it is ``initialize``, before which there is none."""
    return isinstance(message, Request) and message.method == "initialize"


def stays_open(message: Message) -> bool:
    """Tell whether the reply to this is a stream that lasts until somebody ends it."""
    return isinstance(message, Request) and message.method == LISTEN


def version_of(request: Request, result: Mapping[str, Any]) -> str | None:
    """Return the version that the reply to ``initialize`` settles, None for every other reply."""
    version = result.get("protocolVersion") if assigns_session(request) else None
    return version if isinstance(version, str) else None


# -- the arguments of tools -------------------------------------------------------------------------------------------

_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"})
_SCHEMAS = frozenset(
    {
        *("items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"),
        *("additionalProperties", "unevaluatedProperties", "propertyNames"),
        *("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "contentSchema"),
    }
)
"""With _MAPS, all the keywords that hold schemas: those of 2020-12 and what the drafts before it had. No others are
entered: ``default``, ``examples``, ``enum`` and ``const`` hold data, and a ``$ref`` is text."""


def annotated(schema: object) -> ParamNames:
    """Return the arguments that a tool's inputSchema wants mirrored.

    Source: server/tools, x-mcp-header: wherever in the schema one is not valid, the tool is not.

    Args:
        schema: The inputSchema, as it came. No reference in it is followed.

    Raises:
        ValueError: An annotation is not valid; the text says which and why.
    """
    found: ParamNames = {}
    owners: dict[str, str] = {}
    for path, position in _positions(schema):
        if ANNOTATION in position:
            where = _where(path)
            if not path:
                raise ValueError(f"{ANNOTATION} at {where}, where no chain of properties leads")
            name = _annotation(position, where)
            if name.lower() in owners:
                raise ValueError(f"{ANNOTATION} {name!r:.80} of {where} is also that of {owners[name.lower()]}")
            owners[name.lower()] = where
            found[path] = name
    return found


def _annotation(position: dict[str, Any], where: str) -> str:
    name, kind = position[ANNOTATION], position.get("type")
    if not isinstance(name, str):  # not shown: a number may have more digits than Python prints
        raise ValueError(f"{ANNOTATION} of {where} is not text")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{ANNOTATION} {name!r:.80} of {where} cannot be part of a header's name")
    if not isinstance(kind, str):
        raise ValueError(f"{ANNOTATION} of {where}, which does not have exactly one type")
    if kind not in ("string", "integer", "boolean"):
        raise ValueError(f"{ANNOTATION} of {where}, whose type {kind!r:.80} is not string, integer or boolean")
    return name


def _where(path: tuple[str, ...] | None) -> str:
    if path is None:
        return "a place inside the schema"
    return f"the property {'.'.join(map(str, path))!r:.80}" if path else "the root of the schema"


def _positions(schema: object) -> Iterator[tuple[tuple[str, ...] | None, dict[str, Any]]]:
    """Yield every schema in the schema, with the path of properties that leads there; None: something else leads."""
    waiting: list[tuple[tuple[str, ...] | None, object, int]] = [((), schema, 0)]
    while waiting:
        path, position, depth = waiting.pop()
        if not isinstance(position, dict):
            continue
        if depth > MAX_DEPTH:
            raise ValueError(f"the schema is nested more than {MAX_DEPTH} levels deep, or holds itself")
        yield path, position
        waiting += [(way, below, depth + 1) for way, below in _below(path, position)]


def _below(path: tuple[str, ...] | None, position: dict[str, Any]) -> Iterator[tuple[tuple[str, ...] | None, object]]:
    for keyword, value in position.items():
        if keyword in _MAPS and isinstance(value, dict):
            chained = path if keyword == "properties" else None
            for name, below in value.items():
                yield None if chained is None else (*chained, name), below
        elif keyword in _SCHEMAS:
            for below in value if isinstance(value, list) else [value]:
                yield None, below


def mirrored(names: Mapping[tuple[str, ...], str], arguments: object) -> dict[str, str]:
    """Return the headers that mirror a tool's arguments.

    The value decides how it is sent, not its schema, for it is the value that the server compares: text as it is,
    integers in decimal (42.0 is one), booleans as ``true`` and ``false``. Nothing is sent for null, for what is not
    there, and for what no annotated property may hold: objects, arrays, fractions.

    Args:
        names: What ``annotated`` returned.
        arguments: The arguments of the call.

    Raises:
        ValueError: An integer is beyond 2**53 - 1, or text holds a lone surrogate.
    """
    headers = {}
    for path, name in names.items():
        try:
            text = _as_text(_at(path, arguments))
            if text is not None:
                headers[PARAM_PREFIX + name] = encode_value(text)
        except ValueError as error:
            raise ValueError(f"the argument {'.'.join(path)!r:.80}: {error}") from None
    return headers


def _at(path: tuple[str, ...], arguments: object) -> object:
    for name in path:
        arguments = arguments.get(name) if isinstance(arguments, Mapping) else None
    return arguments


def _as_text(value: object) -> str | None:
    if isinstance(value, bool):  # before int, which it is, too
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        return None
    if abs(value) > MAX_INTEGER:
        raise ValueError("it is an integer beyond 2**53 - 1, which cannot be sent in a header")
    return str(int(value))


# -- what a server compares -------------------------------------------------------------------------------------------

_DECIMAL = re.compile(r"-?[0-9]+(?:\.0+)?")  # not 0*[1-9]...: that takes quadratic time


def routing_flaw(request: Request, headers: Mapping[str, str]) -> str | None:
    """Return what is wrong with the headers that mirror what every request has, or None. The text shows no value.

    A name that the params do not have, or not as text, is not looked for: whoever answers says best what is missing.
    The id of a task need not be mirrored, for fastmcp's client does not; where it is, it has to be right.
    Source: basic/transports/streamable-http, server validation; values are case-sensitive, blanks around them are not
    part of them. Headers that were repeated arrive joined by a comma, and so are no match.

    Args:
        request: A request of the stateless era.
        headers: Those of its HTTP request, names in lower case.
    """
    flaw = _mirror_flaw(METHOD, request.method, "its method", headers)
    key = _NAMED_BY.get(request.method)
    name = (request.params or {}).get(key) if key else None
    if flaw or not isinstance(name, str) or (key == "taskId" and NAME.lower() not in headers):
        return flaw
    return _mirror_flaw(NAME, name, f"params.{key}", headers)


def _mirror_flaw(name: str, expected: str, where: str, headers: Mapping[str, str]) -> str | None:
    try:
        text = _received(name, headers)
    except ValueError as error:
        return str(error)
    if text is None:
        return f"the header {name} is missing; the body has {where}"
    return None if text == expected else f"the header {name} does not say what the body has as {where}"


def params_flaw(names: Mapping[tuple[str, ...], str], arguments: object, headers: Mapping[str, str]) -> str | None:
    """Return what is wrong with the headers that mirror a tool's arguments, or None. The text shows no value.

    Both have to be there and to agree, or neither (server/tools, x-mcp-header). Null is not there. An integer is
    compared as a number, ``42.0`` is 42. For what no annotated property may hold (objects, arrays, fractions) no
    header is needed, but one that is there has to agree: somebody may have gone by it.

    Args:
        names: What ``annotated`` returned.
        arguments: The arguments of the call.
        headers: Those of the HTTP request, names in lower case.
    """
    for path, name in names.items():
        flaw = _param_flaw(PARAM_PREFIX + name, ".".join(path), _at(path, arguments), headers)
        if flaw:
            return flaw
    return None


def _param_flaw(name: str, argument: str, value: object, headers: Mapping[str, str]) -> str | None:
    try:
        text = _received(name, headers)
    except ValueError as error:
        return str(error)
    if text is None:
        needed = isinstance(value, (str, int)) or (isinstance(value, float) and value.is_integer())
        return f"the header {name:.80} is missing; the body has the argument {argument!r:.80}" if needed else None
    if value is None:
        return f"there is a header {name:.80}, but the body has no argument {argument!r:.80}"
    if not _agrees(text, value):
        return f"the header {name:.80} does not say what the body has as the argument {argument!r:.80}"
    return None


def _received(name: str, headers: Mapping[str, str]) -> str | None:
    """Return what a header stands for, None where it is not there.

    Raises:
        ValueError: It is malformed. The text names it, and does not show the value.
    """
    key = name.lower()
    spellings = (key, key.replace("_", "-"))  # to CGI and WSGI these are one, and nobody can tell any more
    value = next((headers[one] for one in spellings if one in headers), None)
    if value is None:
        return None
    text = value.strip(" \t")
    if not _PLAIN.fullmatch(text):
        raise ValueError(f"the header {name:.80} holds a character that has to be wrapped in base64")
    try:
        return decode_value(text)
    except ValueError:
        raise ValueError(f"the header {name:.80} looks wrapped, but is no canonical base64 of UTF-8 text") from None


def _agrees(text: str, value: object) -> bool:
    if isinstance(value, bool):  # before int, which it is, too
        return text == ("true" if value else "false")
    if isinstance(value, str):
        return text == value
    if isinstance(value, float) and not value.is_integer():
        return text == repr(value)
    return isinstance(value, (int, float)) and _same_integer(text, int(value))


def _same_integer(text: str, value: int) -> bool:
    if not _DECIMAL.fullmatch(text):
        return False
    digits = text.lstrip("-").partition(".")[0].lstrip("0") or "0"
    try:
        return digits == str(abs(value)) and (value == 0 or text.startswith("-") == (value < 0))
    except ValueError:  # more digits than Python prints
        return False


# -- what a client knows of a server's tools --------------------------------------------------------------------------


class _Listing:
    """What one listing of the tools has taught so far: what to mirror of each, or why it is not to be used."""

    __slots__ = ("earlier", "tools")

    def __init__(self, earlier: dict[str, ParamNames | str]) -> None:
        self.tools: dict[str, ParamNames | str] = {}
        self.earlier = earlier

    def lesson(self, name: str) -> ParamNames | str:
        """Return what is known of a tool; until the listing is complete, the one before counts for the rest."""
        known = self.tools.get(name)
        return self.earlier.get(name, {}) if known is None else known


class Mirror:
    """What a client knows of the tools of one server, and so with which headers to call them.

    It learns from the replies to ``tools/list`` of the stateless era, and outlives connections. The first page of a
    list begins a new listing, the last one ends what the listing before had taught. A tool of which nothing is known
    is called without headers of its own (SEP-2243).

    Locks: none. A new listing replaces the old one as a whole and a page adds to a dict in one step, so that no page
    is lost when threads list at once.
    """

    def __init__(self) -> None:
        self._listing = _Listing({})

    def learn(self, request: Request, result: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Take in the reply to a request, whatever it was.

        Args:
            request: What was sent.
            result: What came back.

        Returns:
            The result without the tools that must not be used, the same dict where there are none; and for each of
            those its name, and the reason to log. A tool without a name is dropped as ``""``.
        """
        tools = result.get("tools")
        if request.method != "tools/list" or declared_version(request) is None or not isinstance(tools, list):
            return result, []
        lessons = [_lesson(tool) for tool in tools]
        named = {_name_of(tool): lesson for tool, lesson in zip(tools, lessons, strict=True)}
        self._remember(request, named, complete=result.get("nextCursor") is None)
        dropped = [(_name_of(tool), why) for tool, why in zip(tools, lessons, strict=True) if isinstance(why, str)]
        if not dropped:
            return result, []
        kept = [tool for tool, lesson in zip(tools, lessons, strict=True) if not isinstance(lesson, str)]
        return {**result, "tools": kept}, dropped

    def _remember(self, request: Request, lessons: dict[str, ParamNames | str], complete: bool) -> None:
        listing = self._listing
        if (request.params or {}).get("cursor") is None:
            listing = self._listing = _Listing(listing.tools)
        listing.tools.update(lessons)
        if complete:
            listing.earlier = {}

    def headers(self, message: Message) -> dict[str, str]:
        """Return all the headers that mirror a message; nothing for a message of the handshake era.

        Raises:
            LocalProtocolError: The tool's schema marks its arguments in a way that is not valid, or a value cannot be
                sent in a header; nothing was sent.
        """
        try:
            headers = routing_headers(message)
            if headers and isinstance(message, Request) and message.method == "tools/call":
                headers |= self._of_arguments(message.params or {})
        except ValueError as error:
            method = getattr(message, "method", None)
            raise LocalProtocolError(f"{method}: {error}", details={"method": method}, may_have_run=False) from None
        return headers

    def _of_arguments(self, params: dict[str, Any]) -> dict[str, str]:
        name = params.get("name")
        lesson = self._listing.lesson(name) if isinstance(name, str) else {}
        if isinstance(lesson, str):
            raise ValueError(f"the tool {name!r:.80} cannot be called over HTTP, its schema is not valid: {lesson}")
        return mirrored(lesson, params.get("arguments"))


def _name_of(tool: object) -> str:
    name = tool.get("name") if isinstance(tool, dict) else None
    return name if isinstance(name, str) else ""


def _lesson(tool: object) -> ParamNames | str:
    try:
        return annotated(tool.get("inputSchema")) if isinstance(tool, dict) else {}
    except ValueError as reason:
        return str(reason)


# -- what replies say -------------------------------------------------------------------------------------------------


def session_id_flaw(value: str) -> str | None:
    """Return what is wrong with a session id, or None. The text never shows it: it is as good as a password.

    Source: basic/transports (2025-11-25), session management: visible ASCII only.
    """
    if not value:
        return "the session id is empty"
    if len(value) > MAX_SESSION_ID:
        return f"the session id has {len(value)} characters, more than {MAX_SESSION_ID}"
    if not re.fullmatch(r"[!-~]+", value):
        return "the session id holds a character that is not visible ASCII"
    return None


def media_type(value: str | None) -> str:
    """Return a Content-Type in lower case without its parameters; empty where there is none. Never raises."""
    return (value or "").partition(";")[0].strip(" \t").lower()


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES = [
    rf"[a-z]{{3}}, (?P<day>[0-9]{{2}}) (?P<month>[a-z]{{3}}) (?P<year>[0-9]{{4}}) {_TIME} gmt",
    rf"[a-z]{{6,9}}, (?P<day>[0-9]{{2}})-(?P<month>[a-z]{{3}})-(?P<year>[0-9]{{2}}) {_TIME} gmt",
    rf"[a-z]{{3}} (?P<month>[a-z]{{3}}) (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
]
"""The three forms of RFC 9110, 5.6.7, in lower case: today's, that of RFC 850, that of C's asctime."""


def retry_after(value: str | None, now: float) -> float | None:
    """Return how many seconds a Retry-After asks us to wait, at most a day; None where it makes no sense.

    Never raises. A date in the past is 0 seconds.

    Args:
        value: The header's value, a number of seconds or an HTTP date; or None.
        now: The time in seconds since 1970.
    """
    text = (value or "").strip(" \t").lower()
    if re.fullmatch(r"[0-9]+", text):
        return min(float(text), MAX_RETRY_SECONDS)  # float: of too many digits it makes infinity, int an error
    for form in _DATES:
        if found := re.fullmatch(form, text):
            when = _as_seconds(found)
            return None if when is None else min(max(0.0, when - now), MAX_RETRY_SECONDS)
    return None


def _as_seconds(found: re.Match[str]) -> float | None:
    from datetime import datetime, timezone  # takes a millisecond, and few servers are ever that busy

    month, year = found["month"], int(found["year"])
    if month not in _MONTHS:
        return None
    if len(found["year"]) == 2:  # RFC 850 has two digits; what would be far in the future is past
        year += 2000 if year < 70 else 1900
    clock = int(found["hour"]), int(found["minute"]), min(int(found["second"]), 59)  # 60 is a leap second
    try:
        return datetime(year, _MONTHS.index(month) + 1, int(found["day"]), *clock, tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None
