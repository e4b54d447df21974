"""Admission: what a server of Streamable HTTP decides about a request before any code of the application runs. Pure.

A request is Admitted or gets a Refusal, whatever its headers and its bytes are; nothing here raises. The order of the
checks is part of the protocol, because the first that fails is the one that the client reads:

1. the form: Content-Type (415), JSON (400, -32700), JSON-RPC (400, -32600), Accept (406)
2. the era: by ``MCP-Protocol-Version`` alone, as the official server does it; without that header, or with a version
   of it, the handshake era. A body that says another version than the header is refused (400, -32020), and so are
   batches where there are none, and answers where nobody asked (400, -32600)
3. stateless requests: the version (400, -32022), the method (404, -32601), ``_meta`` (400, -32602), and last what
   headers mirror (400, -32020): of a method that does not exist nobody knows the headers

What needs a session (is there one, what was agreed with it) is not decided here.

Accept is read as RFC 9110 says: a request without it takes everything, ranges and weights count. Who accepts only one
of the two types is refused, as by the official servers, for nobody knows before an answer is there which of the two it
will be. It is not looked at where there is no answer: notifications, and answers to questions of the server.

Source: basic/transports (2025-11-25, 2025-03-26 for batches), basic/transports/streamable-http and basic/versioning
(2026-07-28), basic/index (request metadata, errors); RFC 9110 (8.3: Content-Type, 12.5.1: Accept, 15.5.6: Allow).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .eras import (
    CAPABILITIES_KEY,
    HANDSHAKE_VERSIONS,
    LOG_LEVEL_KEY,
    LOG_LEVELS,
    STATELESS_VERSIONS,
    VERSION_KEY,
)
from .headers import PROTOCOL_VERSION, ParamNames, assigns_session, media_type, params_flaw, routing_flaw
from .messages import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    Batch,
    Failure,
    Malformed,
    Message,
    Notification,
    Request,
    RequestId,
    decode,
)
from .serving import envelope_of

JSON = "application/json"
EVENTS = "text/event-stream"

ASSUMED_VERSION = "2025-03-26"
"""Of a request without the header, where no session says better (basic/transports, protocol version header)."""
BATCH_VERSION = "2025-03-26"

_VERSION = PROTOCOL_VERSION.lower()
_METHODS = ("GET", "POST", "DELETE")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served, as HTTP and as JSON-RPC say it.

    Attributes:
        status: The HTTP status.
        code: The JSON-RPC error code.
        message: What is wrong, for people; nothing of our inside, and of the request at most 80 plain characters.
        data: What programs can read of it, or None.
        request_id: The id of the request, where that is known.
        headers: More headers for the response, names and values.
    """

    status: int
    code: int
    message: str
    data: Any = None
    request_id: RequestId | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def as_failure(self) -> Failure:
        """Return the JSON-RPC error for the response's body."""
        return Failure(self.request_id, self.code, self.message, self.data)


class _Offers(NamedTuple):
    """What ``admit_post`` is told of the server."""

    known: Callable[[str], bool]
    param_names: Callable[[str], ParamNames | None]
    supported: Sequence[str]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A message that may be served.

    Attributes:
        message: A Request, a Notification or an answer; in 2025-03-26 perhaps a Batch, which may hold Malformed.
        version: What the header says; ASSUMED_VERSION where there is none: a session knows better then.
        stateless: Whether the version is one of the stateless era.
    """

    message: Message
    version: str
    stateless: bool


def shown(text: str, limit: int = 80) -> str:
    """Return of somebody's text what may be repeated to him: plain ASCII, of a limited length in characters."""
    plain = re.sub(r"[^ -~]", "?", text[: limit + 1])
    return plain if len(plain) <= limit else f"{plain[: limit - 3]}..."


# -- the form ---------------------------------------------------------------------------------------------------------


def admit_post(
    headers: Mapping[str, str],
    body: bytes,
    *,
    known: Callable[[str], bool],
    param_names: Callable[[str], ParamNames | None],
    supported: Sequence[str] = STATELESS_VERSIONS,
) -> Admitted | Refusal:
    """Decide about a POST; never raises but what the functions it is given raise.

    Args:
        headers: Those of the request, names in lower case; repeated ones joined by commas.
        body: The whole body; its size is the caller's to limit.
        known: Whether a method is offered in the stateless era.
        param_names: What ``headers.annotated`` says of the tool with a name; None where there is no such tool.
        supported: The versions to name where one is not supported: the same that ``server/discover`` names.
    """
    if refusal := _content_type_refusal(headers):
        return refusal
    message = decode(body)
    if isinstance(message, Malformed):
        return _unreadable(message)
    if refusal := _accept_refusal(message, headers):
        return refusal
    version = _version_header(headers)
    if version is not None and "," in version:
        return _repeated(version, _id_of(message))
    if version is None or version in HANDSHAKE_VERSIONS:
        return _admit_handshake(message, version, supported)
    return _admit_stateless(message, version, headers, _Offers(known, param_names, supported))


def _content_type_refusal(headers: Mapping[str, str]) -> Refusal | None:
    value = headers.get("content-type")
    if media_type(value) == JSON and _charset(value or "") in ("", "utf-8", "utf8"):
        return None
    return Refusal(415, INVALID_REQUEST, "Content-Type must be application/json, in UTF-8")


def _charset(content_type: str) -> str:
    found = re.search(r";[ \t]*charset=([^;]*)", content_type, re.I)
    return found[1].strip(" \t").strip('"').lower() if found else ""


_ORDINARY = re.compile(
    r"invalid UTF-8 at byte \d+|a lone surrogate, .*|invalid JSON: (?:.*: line \d+ column \d+ \(char \d+\)"
    r"|it begins with a byte order mark .*|nested more than \d+ levels deep|-?\w+ is not JSON)"
)


def _unreadable(message: Malformed) -> Refusal:
    if message.parsed:
        return Refusal(400, INVALID_REQUEST, f"Invalid request: {shown(message.reason, 200)}", request_id=message.asks)
    # What Python says of its own limits (the digits of a number, the depth of its stack) is nobody's business.
    reason = message.reason if _ORDINARY.fullmatch(message.reason) else "the body cannot be read as JSON"
    return Refusal(400, PARSE_ERROR, f"Parse error: {shown(reason, 200)}")


def _accept_refusal(message: Message, headers: Mapping[str, str]) -> Refusal | None:
    value = headers.get("accept")
    if not _asks(message) or (accepts(value, JSON) and accepts(value, EVENTS)):
        return None
    return Refusal(406, INVALID_REQUEST, f"Accept must list both {JSON} and {EVENTS}", request_id=_id_of(message))


def _asks(message: Message) -> bool:
    if isinstance(message, Batch):
        return any(isinstance(one, (Request, Malformed)) for one in message.messages)
    return isinstance(message, Request)


def _id_of(message: Message) -> RequestId | None:
    return message.id if isinstance(message, Request) else None


def accepts(value: str | None, media: str) -> bool:
    """Tell whether an Accept header allows a media type (RFC 9110, 12.5.1); never raises.

    The range that says it most exactly decides. A missing or empty header allows everything; weights that make no
    sense count as 1, parameters of a range do not count.

    Args:
        value: The header's value, or None.
        media: A type without parameters, in lower case.
    """
    if not value or not value.strip(" \t"):
        return True
    ranges = (media, f"{media.partition('/')[0]}/*", "*/*")
    best, allowed = len(ranges), False
    for item in value.split(","):
        name, _, parameters = item.partition(";")
        name = name.strip(" \t").lower()
        if name in ranges[:best]:
            best = ranges.index(name)
            allowed = not re.search(r"(?:^|;)[ \t]*q=0(?:\.0*)?[ \t]*(?:;|$)", parameters, re.I)
    return allowed


# -- the era ----------------------------------------------------------------------------------------------------------


def _version_header(headers: Mapping[str, str]) -> str | None:
    value = headers.get(_VERSION)
    return None if value is None else value.strip(" \t")


def _repeated(version: str, request_id: RequestId | None) -> Refusal:
    """Refuse what came twice; a client of the handshake era would take the other code for a server without it."""
    handshake = all(one.strip(" \t") in HANDSHAKE_VERSIONS for one in version.split(","))
    text = f"the header {PROTOCOL_VERSION} is there more than once"
    return Refusal(400, INVALID_REQUEST if handshake else HEADER_MISMATCH, text, request_id=request_id)


def _declared(message: Message) -> object:
    """Return the version that a body of the stateless era names, whatever it is; None where it names none."""
    envelope = envelope_of(message.params) if isinstance(message, (Request, Notification)) else None
    return envelope[VERSION_KEY] if envelope else None


def _admit_handshake(message: Message, version: str | None, supported: Sequence[str]) -> Admitted | Refusal:
    if isinstance(message, Batch) and (flaw := _batch_flaw(message, version or ASSUMED_VERSION)):
        return Refusal(400, INVALID_REQUEST, flaw)
    for one in message.messages if isinstance(message, Batch) else (message,):
        if refusal := _envelope_refusal(one, version, supported):
            return refusal
    return Admitted(message, version or ASSUMED_VERSION, stateless=False)


def _batch_flaw(batch: Batch, version: str) -> str | None:
    if version != BATCH_VERSION:
        return f"a body is one JSON-RPC message in {version}, no array"
    if any(assigns_session(message) for message in batch.messages):
        return "initialize cannot be part of a batch"
    return None


def _envelope_refusal(message: Message, version: str | None, supported: Sequence[str]) -> Refusal | None:
    """Refuse what brings the metadata of the stateless era without its header: two readers would see two eras.

    ``initialize`` says itself what it is, whatever else it brings.
    """
    declared = _declared(message)
    if declared is None or assigns_session(message):
        return None
    if declared == version:  # a version of the handshake era cannot be spoken without a handshake
        return _unsupported(str(version), supported, _id_of(message))
    flaw = f"does not say what the body has as {VERSION_KEY}"
    if version is None:
        flaw = f"is missing; the body has {VERSION_KEY}"
    return Refusal(400, HEADER_MISMATCH, f"the header {PROTOCOL_VERSION} {flaw}", request_id=_id_of(message))


def _unsupported(version: str, supported: Sequence[str], request_id: RequestId | None) -> Refusal:
    data = {"supported": list(supported), "requested": shown(version)}
    return Refusal(400, UNSUPPORTED_VERSION, "Unsupported protocol version", data, request_id)


# -- the stateless era ------------------------------------------------------------------------------------------------


def _admit_stateless(message: Message, version: str, headers: Mapping[str, str], offers: _Offers) -> Admitted | Refusal:
    if not isinstance(message, (Request, Notification)):
        what = "no array" if isinstance(message, Batch) else "no answer: this server does not ask"
        return Refusal(400, INVALID_REQUEST, f"the body must be one JSON-RPC request or notification, {what}")
    if refusal := _version_refusal(message, version, offers.supported):
        return refusal
    # No notification of a client is defined here, nor what headers it would have: it is taken, and that is all.
    if isinstance(message, Request) and (refusal := _request_refusal(message, headers, offers)):
        return refusal
    return Admitted(message, version, stateless=True)


def _version_refusal(message: Message, version: str, supported: Sequence[str]) -> Refusal | None:
    declared = _declared(message)
    if isinstance(declared, str) and declared != version:
        text = f"the header {PROTOCOL_VERSION} does not say what the body has as {VERSION_KEY}"
        return Refusal(400, HEADER_MISMATCH, text, request_id=_id_of(message))
    if version not in STATELESS_VERSIONS:
        return _unsupported(version, supported, _id_of(message))
    return None


def _request_refusal(request: Request, headers: Mapping[str, str], offers: _Offers) -> Refusal | None:
    if not offers.known(request.method):
        return Refusal(404, METHOD_NOT_FOUND, _unknown(request.method), request_id=request.id)
    if flaw := _meta_flaw(request.params or {}):
        return Refusal(400, INVALID_PARAMS, flaw, request_id=request.id)
    if flaw := routing_flaw(request, headers) or _arguments_flaw(request, headers, offers):
        return Refusal(400, HEADER_MISMATCH, flaw, request_id=request.id)
    return None


def _unknown(method: str) -> str:
    if method == "initialize":  # basic/versioning: who cannot go forward is told where to go back to
        known = ", ".join(HANDSHAKE_VERSIONS)
        return f"Method not found: initialize; send it without {PROTOCOL_VERSION} to agree on one of {known}"
    return f"Method not found: {shown(method)}"


def _meta_flaw(params: Mapping[str, Any]) -> str | None:
    meta = params.get("_meta")
    if not isinstance(meta, Mapping):
        return f"params._meta must be an object with {VERSION_KEY} and {CAPABILITIES_KEY}"
    missing = [key for key in (VERSION_KEY, CAPABILITIES_KEY) if key not in meta]
    if missing:
        return f"params._meta lacks {' and '.join(missing)}"
    if not isinstance(meta[VERSION_KEY], str):
        return f"params._meta: {VERSION_KEY} must be a string"
    if not isinstance(meta[CAPABILITIES_KEY], Mapping):
        return f"params._meta: {CAPABILITIES_KEY} must be an object"
    level = meta.get(LOG_LEVEL_KEY)
    if level is not None and level not in LOG_LEVELS:
        return f"params._meta: {LOG_LEVEL_KEY} must be one of {', '.join(LOG_LEVELS)}"
    return None  # what the client says of its identity is for display only, be it there or not


def _arguments_flaw(request: Request, headers: Mapping[str, str], offers: _Offers) -> str | None:
    params = request.params or {}
    name = params.get("name")
    if request.method != "tools/call" or not isinstance(name, str):
        return None
    return params_flaw(offers.param_names(name) or {}, params.get("arguments"), headers)


# -- what else is asked of the door -----------------------------------------------------------------------------------


def method_refusal(method: str, headers: Mapping[str, str]) -> Refusal | None:
    """Return why a request with this HTTP method is refused, or None.

    The stateless era has POST only, and no session to listen to or to end. What a POST brings is for ``admit_post``.

    Args:
        method: The HTTP method as it came; methods are case-sensitive.
        headers: Those of the request, names in lower case.
    """
    version = _version_header(headers)
    allowed = ("POST",) if version in STATELESS_VERSIONS else _METHODS
    if method not in allowed:
        text = f"the method {shown(method)} is not allowed here"
        return Refusal(405, INVALID_REQUEST, text, headers=(("Allow", ", ".join(allowed)),))
    if method == "POST":
        return None
    if version is not None and version not in HANDSHAKE_VERSIONS:
        return _repeated(version, None) if "," in version else _unsupported(version, STATELESS_VERSIONS, None)
    if method == "GET" and not accepts(headers.get("accept"), EVENTS):
        return Refusal(406, INVALID_REQUEST, f"Accept must list {EVENTS}")
    return None


_STATUSES = {
    METHOD_NOT_FOUND: 404,
    **dict.fromkeys((PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS), 400),
    **dict.fromkeys((HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION), 400),
}


def http_status_of(code: int, stateless: bool) -> int:
    """Return the HTTP status of a response whose JSON body is a JSON-RPC error; of what is on a stream there is none.

    Args:
        code: The code of the error.
        stateless: The era of the request. In the handshake era every request that was taken is answered with 200.
    """
    return _STATUSES.get(code, 200) if stateless else 200


def missing_capability(required: Mapping[str, Any], request_id: RequestId | None = None) -> Refusal:
    """Return the refusal of a request whose client has not declared what is required.

    Args:
        required: ClientCapabilities, such as ``{"sampling": {}}``; ``lacking`` says which.
        request_id: The id of the request; who raises ``as_failure().as_error()`` need not know it.
    """
    text = f"the client has not declared what this needs: {shown(', '.join(map(str, required)))}"
    return Refusal(400, MISSING_CAPABILITY, text, {"requiredCapabilities": dict(required)}, request_id)


def lacking(required: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the required capabilities that a client has not declared; empty where all is there.

    ``elicitation: {}`` is the same as ``elicitation: {"form": {}}`` (client/elicitation).

    Args:
        required: ClientCapabilities that are needed.
        declared: ClientCapabilities as they came, of any shape inside.
    """
    found = {}
    for name, needed in required.items():
        theirs = declared.get(name)
        if theirs is None or theirs is False:
            found[name] = needed
        elif isinstance(needed, Mapping):
            inner = theirs if isinstance(theirs, Mapping) else {}
            rest = lacking(needed, {"form": {}} if name == "elicitation" and not inner else inner)
            if rest:
                found[name] = rest
    return found
