"""Policies: what a transport may be told, as a few frozen numbers; each field knows the keyword users give it.

A constructor takes keywords (``max_message_size=...``) and turns them, once, at the door, into policies. Below the
door nobody sees a keyword. ``gather`` refuses a misspelt or foreign one by name, and checks every value.
"""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, TypeVar, cast

from .deadlines import LONGEST_TIMEOUT
from .exceptions import MCPError

P = TypeVar("P")
C = TypeVar("C", bound=type)

Check = Callable[[str, Any], Any]


def knob(name: str, default: Any, check: Check) -> Any:
    """Return a dataclass field that users set by the keyword ``name``; ``check(name, value)`` returns what to keep."""
    return field(default=default, metadata={"knob": name, "check": check})


def whole(minimum: int) -> Check:
    """Check for a whole number from a minimum on."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number, not {type(value).__name__} ({value!r})")
        if value < minimum:
            raise ValueError(f"{name} must be {minimum} or more, not {value}")
        return value

    return check


def within(least: int, most: int) -> Check:
    """Check for a whole number between two others."""

    def check(name: str, value: Any) -> int:
        found: int = whole(least)(name, value)
        if found > most:
            raise ValueError(f"{name} must be {most} or less, not {found}")
        return found

    return check


def optional(check: Check) -> Check:
    """Check for None, or else by another check."""
    return lambda name, value: None if value is None else check(name, value)


def seconds(name: str, value: Any) -> float:
    """Check for a number of seconds, from 0 to LONGEST_TIMEOUT."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__} ({value!r})")
    if not 0 <= value <= LONGEST_TIMEOUT:
        raise ValueError(f"{name} must be a number of seconds from 0 to {LONGEST_TIMEOUT:g}, not {value!r:.80}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Check for True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {type(value).__name__} ({value!r})")
    return value


def names(name: str, value: Any) -> tuple[str, ...] | None:
    """Check for a collection of names, or None."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of names, not {type(value).__name__} ({value!r})")
    found = tuple(value)
    if not all(isinstance(item, str) for item in found):
        raise TypeError(f"{name} must hold only str, not {found!r}")
    return tuple(encodable(name, item) for item in found)


def variables(name: str, value: Any) -> dict[str, str]:
    """Check for environment variables: a mapping of str to str."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of str to str, not {type(value).__name__}")
    for key, item in value.items():
        if not isinstance(key, str) or not isinstance(item, str):
            raise TypeError(f"{name} must map str to str; {key!r} maps to {type(item).__name__}")
        if not key or "=" in key or "\0" in key + item:
            raise ValueError(f"{name}: {key!r} cannot be set in an environment")
        encodable(name, key)
        encodable(f"{name}: the value of {key!r}", item)
    return dict(value)


def encodable(name: str, text: str) -> str:
    """Check for a text that can be handed to the operating system; it is not shown, for it may be a secret."""
    if "\0" in text:
        raise ValueError(f"{name} must not hold a NUL character")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        character = text[error.start : error.end]
        raise ValueError(f"{name} must not hold {character!a}, which cannot be encoded in {error.encoding}") from None
    return text


def number(least: float, most: float) -> Check:
    """Check for a number between two others."""

    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, not {type(value).__name__} ({value!r})")
        if not least <= value <= most:
            raise ValueError(f"{name} must be a number from {least:g} to {most:g}, not {value!r:.80}")
        return float(value)

    return check


def statuses(name: str, value: Any) -> tuple[int, ...]:
    """Check for a collection of HTTP statuses."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of HTTP statuses, not {type(value).__name__} ({value!r})")
    return tuple(within(100, 599)(name, item) for item in value)


def error_types(name: str, value: Any) -> tuple[type[MCPError], ...]:
    """Check for a collection of types of errors, all of them ours."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of subclasses of MCPError, not {type(value).__name__} ({value!r})")
    found = tuple(value)
    for item in found:
        if not (isinstance(item, type) and issubclass(item, MCPError)):
            raise TypeError(f"{name} must hold only subclasses of MCPError, not {item!r}")
    return found


def existing_paths(name: str, value: Any) -> tuple[str, ...] | None:
    """Check for a collection of paths that exist; a relative one, or ``~``, is this process's. Or None."""
    if value is None:
        return None
    if isinstance(value, (str, bytes, os.PathLike)) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of paths, not {type(value).__name__} ({value!r})")
    return tuple(_path_that_exists(name, item) for item in value)


def _path_that_exists(name: str, value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must hold only paths, not {type(value).__name__} ({value!r})")
    path = encodable(name, os.fsdecode(value))
    if not path:
        raise ValueError(f"{name} must not hold an empty path")
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(path):
        raise ValueError(f"{name}: there is no {path!r}")
    return path


def one_of(name: str, value: str | None, known: Sequence[str]) -> str | None:
    """Return the value of the parameter ``name``, which has to be one of a few, or None."""
    if value is not None and value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
    return value


@dataclass(frozen=True)
class Limits:
    """How much may be said, and may wait.

    Attributes:
        message_size: Bytes of one message, either way.
        pending: Messages that wait to be received one by one, before reading pauses.
        backlog: Notifications and progress reports that wait for callbacks, before new ones are dropped.
        callbacks: Requests of the server that are answered at once, before new ones are refused.
    """

    message_size: int = knob("max_message_size", 16 << 20, whole(1024))
    pending: int = knob("max_pending_messages", 1000, whole(1))
    backlog: int = knob("max_backlog", 1000, whole(1))
    callbacks: int = knob("max_concurrent_callbacks", 16, whole(1))


@dataclass(frozen=True)
class Shutdown:
    """How a child process is ended.

    Attributes:
        seconds: For all of it: closing its stdin, then SIGTERM, then SIGKILL.
        tree: Whether its process group goes too, or only the process itself.
    """

    seconds: float = knob("shutdown_timeout", 5.0, seconds)
    tree: bool = knob("kill_tree", True, flag)


@dataclass(frozen=True)
class Grace:
    """How a container is ended.

    Attributes:
        seconds: For all of it: closing its stdin, then its stop signal, then SIGKILL.
    """

    seconds: float = knob("shutdown_timeout", 5.0, seconds)


@dataclass(frozen=True)
class Restart:
    """How a server that has ended by itself is started again, by the next call.

    Attributes:
        attempts: How often in a row; one that has run for a minute starts a new row. 0 never.
        delay: Seconds between two starts of a row, at least; doubles with each, up to 30. The first is at once.
    """

    attempts: int = knob("max_restarts", 0, whole(0))
    delay: float = knob("restart_delay", 1.0, seconds)


@dataclass(frozen=True)
class Monitoring:
    """What a child process, and all that it starts, may use; a server that uses more is ended.

    Attributes:
        on: Whether it is watched; None: if it has a limit.
        memory: MiB of resident memory, of all its processes together; None: no limit.
        processor: Percent of one processor, of all its processes together, on average over some seconds; None: no
            limit.
    """

    on: bool | None = knob("enable_process_monitoring", None, optional(flag))
    memory: float | None = knob("memory_limit_mb", None, optional(number(1, 1e9)))
    processor: float | None = knob("cpu_limit_percent", None, optional(number(1, 1e6)))

    @property
    def wanted(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.on) or self.memory is not None or self.processor is not None


@dataclass(frozen=True)
class Confinement:
    """Which files a child process, and all that it starts, can reach.

    Attributes:
        on: Whether the kernel keeps it from all others.
        paths: What it may read, write and execute, with all that is beneath; beside that only the system's programs and
            libraries, and our interpreter's, may be read and executed. None: no more than those.
    """

    on: bool = knob("restrict_filesystem", False, flag)
    paths: tuple[str, ...] | None = knob("allowed_paths", None, existing_paths)


@dataclass(frozen=True)
class Replies:
    """How replies are read over HTTP.

    Attributes:
        size: Bytes of one reply, decompressed, and of one event; None means ``max_message_size``.
        piece: Bytes of the largest single read.
        threshold: Bytes from which on observers are told how much of a reply has come (``on_streaming_progress``).
        buffer: The socket's receive buffer in bytes; None leaves it to the system.
        check_type: Whether a reply of another content type than the protocol's is refused, or read as JSON.
    """

    size: int | None = knob("max_response_size", None, optional(whole(1024)))
    piece: int = knob("chunk_size", 1 << 16, whole(1))
    threshold: int = knob("streaming_threshold", 1 << 20, whole(0))
    buffer: int | None = knob("buffer_size", None, optional(whole(1024)))
    check_type: bool = knob("validate_content_type", True, flag)


@dataclass(frozen=True)
class Connections:
    """How many connections there are over HTTP, and what they are like.

    Attributes:
        patience: Seconds that connecting may take, TLS included; None means the whole timeout.
        kept: Idle connections that are kept for the next request.
        most: Requests under way at once; who comes later waits for one to end.
        idle: Seconds after which an idle connection is not used again: many servers close theirs after 5.
        nodelay: Whether small segments are sent at once (TCP_NODELAY).
        keepalive: Whether the system looks after connections on which nothing happens (SO_KEEPALIVE).
        at_once: Whether requests that nobody waits for are under way at once, or one after the other.
        in_flight: How many of them.
    """

    patience: float | None = knob("connection_timeout", None, optional(seconds))
    kept: int = knob("connection_pool_size", 32, whole(1))
    most: int = knob("max_connections_per_host", 256, whole(1))
    idle: float = knob("keep_alive_timeout", 4.0, seconds)
    nodelay: bool = knob("tcp_nodelay", True, flag)
    keepalive: bool = knob("tcp_keepalive", True, flag)
    at_once: bool = knob("enable_request_pipelining", True, flag)
    in_flight: int = knob("max_pipeline_size", 16, whole(1))


@dataclass(frozen=True)
class Trust:
    """Which other places an HTTP transport may turn to.

    Attributes:
        environment: Whether ``http_proxy``, ``no_proxy``, ``REQUESTS_CA_BUNDLE`` ... are looked at, once, when
            connecting. A loopback address is never reached through a proxy, and ``~/.netrc`` is never read.
        check_origin: Whether an endpoint that the server names, or where a redirect leads, has to be on the server's
            own origin, or an allowed one.
        origins: Further origins; no credentials, session or cookies are sent there.
        redirects: How many redirects (307 and 308, which keep the method) are followed.
    """

    environment: bool = knob("trust_env", True, flag)
    check_origin: bool = knob("validate_origin", True, flag)
    origins: tuple[str, ...] = knob("allowed_origins", (), names)
    redirects: int = knob("max_redirects", 5, whole(0))


@dataclass(frozen=True)
class Detours(Trust):
    """Which other places a WebSocket transport may turn to: a redirect that answers the upgrade may name them.

    Attributes:
        environment: Whether ``https_proxy``, ``no_proxy`` ... are looked at, once, when connecting. A loopback address
            is never reached through a proxy.
        check_origin: Whether a redirect has to lead to the server's own origin, or an allowed one.
        origins: Further origins that it may lead to; no credentials are sent there.
        redirects: How many redirects are followed.
    """

    environment: bool = knob("trust_env", False, flag)


@dataclass(frozen=True)
class SocketBuffers:
    """How much a socket holds for us; None leaves it to the system, which fits it to the connection.

    Attributes:
        send: Bytes that were written and are not yet with the other side.
        receive: Bytes that have come and were not read yet.
    """

    send: int | None = knob("send_buffer_size", None, optional(whole(1024)))
    receive: int | None = knob("receive_buffer_size", None, optional(whole(1024)))


@dataclass(frozen=True)
class Keepalive:
    """How it is found out that the other end of a silent connection is no longer there.

    Attributes:
        interval: Seconds of silence after which it is asked (a ping); None: it is never asked.
        timeout: Seconds of silence after that, and the connection counts as lost; None: it never does.
    """

    interval: float | None = knob("ping_interval", 20.0, optional(number(0.01, LONGEST_TIMEOUT)))
    timeout: float | None = knob("ping_timeout", 20.0, optional(number(0.01, LONGEST_TIMEOUT)))


@dataclass(frozen=True)
class Sessions:
    """What becomes of the sessions that an HTTP server of the handshake era keeps.

    Attributes:
        on: Whether we have any: the id that the server gives is sent with each request. Without, it is never sent, for
            servers that do not insist on it.
        patience: Seconds without a call after which a session is ended, and the next call begins a new one; None: it
            is kept until we close.
        most: How many conversations of one transport have one at once; None: any number.
        interval: Seconds between two looks for those without a call.
    """

    on: bool = knob("session_management", True, flag)
    patience: float | None = knob("session_timeout", None, optional(number(0.01, LONGEST_TIMEOUT)))
    most: int | None = knob("max_sessions", None, optional(whole(1)))
    interval: float = knob("session_cleanup_interval", 30.0, number(0.01, LONGEST_TIMEOUT))


@dataclass(frozen=True)
class Packing:
    """Whether what is sent is compressed.

    Over HTTP those are the requests; replies may be, always: gzip, deflate, and what else is installed. Over WebSocket
    it is offered to the server for both directions (permessage-deflate), and done where the server agrees.

    Attributes:
        on: Whether requests are sent as gzip, which not every server takes; or compression is offered.
        threshold: Bytes from which on they are.
        level: 1 (fast) to 9 (small).
    """

    on: bool = knob("enable_compression", False, flag)
    threshold: int = knob("compression_threshold", 1024, whole(0))
    level: int = knob("compression_level", 6, within(1, 9))


@dataclass(frozen=True)
class Reconnect:
    """How a connection that was lost is made again, by the next call.

    Attributes:
        interval: Seconds between two attempts; doubles with each, up to 30.
        attempts: How many in a row; 0 never reconnects.
    """

    interval: float = knob("reconnect_interval", 1.0, seconds)
    attempts: int = knob("max_reconnects", 5, whole(0))


@dataclass(frozen=True)
class Heartbeat:
    """How long a stream of events may be silent.

    Attributes:
        seconds: After so many the connection counts as lost; None: silence means nothing.
    """

    seconds: float | None = knob("heartbeat_interval", None, optional(number(0.01, LONGEST_TIMEOUT)))


@dataclass(frozen=True)
class Surroundings:
    """What a child process sees of our environment.

    Attributes:
        passed: Names of variables that are passed on; None for the safe ones of ``transports.stdio``.
        added: Variables that are set; their values are nobody's to read, so the repr leaves them out.
    """

    passed: tuple[str, ...] | None = knob("environment_filter", None, names)
    added: Mapping[str, str] = field(
        default_factory=dict, repr=False, metadata={"knob": "environment_additions", "check": variables}
    )


@dataclass(frozen=True)
class Retry:
    """How a call that failed is repeated, where that is safe (``manage.retry``).

    Attributes:
        repeats: How often, after the first attempt; 0 never.
        delay: Seconds before the first repeat.
        growth: How many times longer each further delay is.
        longest: Seconds that no delay exceeds, unless the server asks for more (``Retry-After``).
        jitter: The share of a delay that is left to chance, so that many clients do not come back at the same moment.
        statuses: The HTTP statuses that are worth a repeat.
        errors: Further types of errors that are; whether it is safe is asked all the same.
    """

    repeats: int = knob("max_retries", 0, whole(0))
    delay: float = knob("retry_delay", 0.5, seconds)
    growth: float = knob("retry_backoff_multiplier", 2.0, number(1, 1000))
    longest: float = knob("max_retry_delay", 30.0, seconds)
    jitter: float = knob("retry_jitter", 0.1, number(0, 1))
    statuses: tuple[int, ...] = knob("retry_on_status_codes", (429, 502, 503, 504), statuses)
    errors: tuple[type[MCPError], ...] = knob("retry_on_exceptions", (), error_types)


@dataclass(frozen=True)
class Breaker:
    """When a server that fails is left alone (``manage.breaker``).

    Attributes:
        on: Whether it ever is.
        threshold: After how many failures in a row.
        timeout: For how many seconds; then one call may try.
    """

    on: bool = knob("circuit_breaker_enabled", False, flag)
    threshold: int = knob("circuit_breaker_threshold", 5, whole(1))
    timeout: float = knob("circuit_breaker_timeout", 30.0, seconds)


class Policies:
    """The policies of one transport, one of each kind, found by their type."""

    def __init__(self, parts: Iterable[Any]) -> None:
        self._parts = {type(part): part for part in parts}

    def __getitem__(self, kind: type[P]) -> P:
        return cast("P", self._parts[kind])

    def __repr__(self) -> str:
        return f"Policies({list(self._parts.values())!r})"


def gather(
    owner: type[Any], kinds: Iterable[type[Any]], given: Iterable[Any] | None, knobs: Mapping[str, Any]
) -> Policies:
    """Make the policies of a transport from the ones given whole and from single keywords, which win.

    Args:
        owner: The transport, for messages.
        kinds: The kinds of policies that mean something to it.
        given: Policies handed over whole.
        knobs: Keywords.

    Raises:
        TypeError: A keyword or a policy means nothing here, or a value has the wrong type.
        ValueError: A value is out of range.
    """
    chosen = {kind: kind() for kind in kinds}
    for policy in given or ():
        if type(policy) not in chosen:
            raise TypeError(f"{owner.__name__} has no use for the policy {policy!r}")
        chosen[type(policy)] = policy
    by_keyword = {part.metadata["knob"]: (kind, part) for kind in chosen for part in fields(kind)}
    changes: dict[type[Any], dict[str, Any]] = {}
    for keyword, value in knobs.items():
        if keyword not in by_keyword:
            known = {*by_keyword, *inspect.signature(owner).parameters} - {"knobs"}
            raise TypeError(unexpected_keyword(owner.__name__, keyword, known))
        kind, part = by_keyword[keyword]
        changes.setdefault(kind, {})[part.name] = value
    return Policies(_checked(replace(policy, **changes.get(kind, {}))) for kind, policy in chosen.items())


def _checked(policy: Any) -> Any:
    def checked(part: Field[Any]) -> Any:
        return part.metadata["check"](part.metadata["knob"], getattr(policy, part.name))

    return replace(policy, **{part.name: checked(part) for part in fields(policy)})


def unexpected_keyword(owner: str, keyword: str, known: Iterable[str]) -> str:
    """Return the message about a keyword that means nothing here, with the one that may have been meant."""
    every = sorted(known)
    close = difflib.get_close_matches(keyword, every, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; it takes {', '.join(every)}"
    return f"{owner}() got an unexpected keyword argument {keyword!r}{hint}"


def with_knobs(
    *kinds: type[Any], passed_on_to: type[Any] | None = None, without: Sequence[str] = ()
) -> Callable[[C], C]:
    """Decorate a class whose constructor ends in ``**knobs``: its signature then lists every keyword.

    Args:
        kinds: The policies whose keywords it takes.
        passed_on_to: A parent whose own keywords it takes as well.
        without: All but these.
    """

    def decorate(cls: C) -> C:
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]  # decorates classes, no instances
        own = [p for name, p in signature.parameters.items() if name != "self" and p.kind is not p.VAR_KEYWORD]
        whole = inspect.signature(passed_on_to.__init__).parameters if passed_on_to is not None else {}
        known = {parameter.name for parameter in own} | {*without}
        passed = [p for p in whole.values() if p.kind is p.KEYWORD_ONLY and p.name not in known]
        extra = [_parameter(part) for kind in kinds for part in fields(kind)]
        cls.__signature__ = signature.replace(parameters=[*own, *passed, *extra])  # type: ignore[attr-defined]
        return cls

    return decorate


def _parameter(part: Field[Any]) -> inspect.Parameter:
    default = part.default_factory() if callable(part.default_factory) else part.default
    return inspect.Parameter(
        part.metadata["knob"], inspect.Parameter.KEYWORD_ONLY, default=default, annotation=part.type
    )
