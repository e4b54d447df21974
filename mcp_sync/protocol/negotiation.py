"""How two sides find the version they both speak: a generator that yields questions and is sent the answers.

The driver (engine/connect.py) sends each Ask and hands back the result as a dict, or the error as an exception object:
a JSONRPCError, an MCPTimeoutError where the question's patience ran out, a RemoteProtocolError where the answer could
not be read, an HTTPStatusError with a status that says "what do you mean?". Any other failure is no verdict on the era
and never gets here.

Source: basic/versioning (compatibility matrix), basic/lifecycle (handshake era), server/discover.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..exceptions import JSONRPCError, MCPConnectionError, MCPError, MCPTimeoutError, RemoteProtocolError
from .eras import HANDSHAKE_VERSIONS, SERVER_INFO_KEY, STATELESS_VERSIONS, VERSIONS, Era, Handshake, Identity, Stateless
from .messages import HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION

PROBE_SHARE = 1 / 3
PROBE_SECONDS = 5.0
"""A probe may take this share of the time to connect, and no longer than so many seconds."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question of the negotiation. ``probe``: silence is an answer too."""

    method: str
    params: dict[str, Any]
    probe: bool = False


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a negotiation came to."""

    era: Era
    server_info: Mapping[str, Any] = field(default_factory=dict)
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    instructions: str | None = None

    @property
    def greeting(self) -> str | None:
        """The notification that has to be sent first, if any."""
        return "notifications/initialized" if isinstance(self.era, Handshake) else None


Answer: TypeAlias = "dict[str, Any] | MCPError"
Negotiation: TypeAlias = "Generator[Ask, Answer, Agreement]"


def negotiate(identity: Identity, version: str | None = None, expected: str | None = None) -> Negotiation:
    """Find the version that both sides speak.

    Args:
        identity: What we say of ourselves.
        version: The one to ask for; None tries the newest first and falls back.
        expected: The one that the server spoke the last time: what it does not know need not be tried.

    Raises:
        RemoteProtocolError: There is no version in common, or the answer makes no sense.
        MCPConnectionError: The server refused.
    """
    if version in HANDSHAKE_VERSIONS:
        return (yield from _initialize(identity, str(version)))
    if version is None and expected in HANDSHAKE_VERSIONS:
        try:
            return (yield from _initialize(identity, HANDSHAKE_VERSIONS[-1], probe_again=True))
        except MCPError:
            pass  # it is another server by now
    return (yield from _probe(identity, version or STATELESS_VERSIONS[-1], only=version is not None))


def _probe(identity: Identity, version: str, only: bool, again: bool = True) -> Negotiation:
    era = Stateless(identity, version)
    answer = yield Ask("server/discover", era.dress(None) or {}, probe=True)
    if isinstance(answer, dict):
        offered = answer.get("supportedVersions")
        if isinstance(offered, list) and version in offered:
            return _discovered(era, answer)
        named = _strings(offered)
    else:
        named = _named_versions(answer)
        if isinstance(answer, JSONRPCError) and answer.code in (HEADER_MISMATCH, MISSING_CAPABILITY):
            raise _refused("server/discover", answer) from answer
    mutual = [v for v in STATELESS_VERSIONS if v in named]
    if mutual and again:
        return (yield from _probe(identity, mutual[-1], only, again=False))
    cause = answer if isinstance(answer, MCPError) else None
    if named and not set(named) & set(HANDSHAKE_VERSIONS):  # it is of this era, and initialize would only hide why
        raise (_refused("server/discover", cause) if mutual and cause else _no_common_version(named)) from cause
    if only:
        if isinstance(answer, MCPTimeoutError):
            raise answer
        raise _not_stateless(version, answer) from cause
    return (yield from _initialize(identity, HANDSHAKE_VERSIONS[-1], probe_again=again))


def _initialize(identity: Identity, version: str, probe_again: bool = False, again: bool = True) -> Negotiation:
    params = {
        "protocolVersion": version,
        "capabilities": dict(identity.capabilities),
        "clientInfo": dict(identity.info),
    }
    answer = yield Ask("initialize", params)
    if isinstance(answer, dict):
        return _initialized(answer)
    if not isinstance(answer, JSONRPCError):
        raise answer
    named = _named_versions(answer)
    mutual = [v for v in STATELESS_VERSIONS if v in named]
    older = [v for v in HANDSHAKE_VERSIONS if v in named and v != version]
    if mutual and probe_again:  # the probe was late, and the server took it for the beginning
        return (yield from _probe(identity, mutual[-1], only=True, again=False))
    if older and again:
        return (yield from _initialize(identity, older[-1], again=False))
    if named and not set(named) & set(VERSIONS):
        raise _no_common_version(named) from answer
    raise _refused("initialize", answer) from answer


def _discovered(era: Stateless, answer: dict[str, Any]) -> Agreement:
    info = _mapping(answer.get("_meta")).get(SERVER_INFO_KEY, answer.get("serverInfo"))
    return Agreement(era, _mapping(info), _mapping(answer.get("capabilities")), _text(answer.get("instructions")))


def _initialized(answer: dict[str, Any]) -> Agreement:
    version = answer.get("protocolVersion")
    if version not in HANDSHAKE_VERSIONS:
        raise _no_common_version([version] if isinstance(version, str) else [], version)
    return Agreement(
        Handshake(version),
        _mapping(answer.get("serverInfo")),
        _mapping(answer.get("capabilities")),
        _text(answer.get("instructions")),
    )


def _named_versions(answer: Answer) -> list[str]:
    """Return the versions that an error names as supported (basic/versioning; lifecycle's example error)."""
    if isinstance(answer, JSONRPCError) and answer.code in (UNSUPPORTED_VERSION, -32602):
        return _strings(_mapping(answer.data).get("supported"))
    return []


def _no_common_version(named: list[str], got: object = None) -> RemoteProtocolError:
    theirs = ", ".join(named) if named else repr(got)
    return RemoteProtocolError(
        f"no protocol version in common: the server speaks {theirs}, this client speaks {', '.join(VERSIONS)}; "
        "a newer mcp_sync or another version of the server may help",
        details={"server_versions": named, "client_versions": list(VERSIONS), "phase": "connect"},
        may_have_run=False,
    )


def _not_stateless(version: str, answer: Answer) -> RemoteProtocolError:
    text = str(answer) if isinstance(answer, MCPError) else "its answer to server/discover does not offer it"
    return RemoteProtocolError(
        f"the server does not speak {version}: {text}; leave protocol_version out to use what it speaks",
        details={"phase": "connect"},
        may_have_run=False,
    )


def _refused(method: str, answer: MCPError) -> MCPConnectionError:
    return MCPConnectionError(
        f"the server refused {method}: {answer}",
        details={"phase": "connect", "code": getattr(answer, "code", None), "method": method},
        may_have_run=False,
    )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
