"""Fuzz targets: texts that somebody else wrote: headers, URLs, and what must not be read in them.

What is made of a header is a total function: it says what the header means or that it means nothing, and nothing else.
Two URLs have one origin only if whoever connects would go to the same place.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus, urlsplit

from fuzz.provider import Provider
from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from mcp_sync.protocol import addresses, headers, origins, redact
from mcp_sync.protocol.admission import Admitted, Refusal, accepts, admit_post, method_refusal, shown
from mcp_sync.protocol.eras import CAPABILITIES_KEY, VERSION_KEY
from mcp_sync.protocol.hosts import Doors, host_and_origin_flaw, host_place, origin_place
from mcp_sync.protocol.messages import Message, Request, encode

NOW = 1_700_000_000.0
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "x-mcp-header": "A"},
        "b": {"type": "integer", "x-mcp-header": "B"},
        "c": {"type": "object", "properties": {"d": {"type": "boolean", "x-mcp-header": "D"}}},
    },
}
METHODS = ("tools/call", "prompts/get", "resources/read", "tools/list", "tasks/get", "x", "initialize")

# -- HTTP -------------------------------------------------------------------------------------------------------------


def response_heads(data: bytes) -> None:
    """What a server's headers mean is told for every text: type, time to wait, session, where else to go, extension."""
    feed = Provider(data)
    what, value = feed.below(6), feed.latin()
    if what == 0:
        kind = headers.media_type(value)
        assert kind == kind.lower() == kind.strip(" \t")
        assert ";" not in kind
    elif what == 1:
        wait = headers.retry_after(value, NOW)
        assert wait is None or 0 <= wait <= headers.MAX_RETRY_SECONDS, wait
        if re.fullmatch("[0-9]{1,4}", value):
            assert wait == int(value)
    elif what == 2:
        plain = value.isascii() and 0 < len(value) <= headers.MAX_SESSION_ID and not re.search(r"[^!-~]", value)
        flaw = headers.session_id_flaw(value)
        assert (flaw is None) == plain
        assert flaw is None or len(value) < 8 or value not in flaw, "a session id is as good as a password"
    elif what == 3:
        _location(value, feed.latin())
    elif what == 4:
        _wrapped(feed.text())
    else:
        _header_of_a_user(value, feed.latin())


def _location(base: str, reference: str) -> None:
    base = f"https://home.example/{base}"
    try:
        target = origins.resolve(base, reference)
    except ValueError:
        return
    if origins.allowed(target, base):
        _dials(target, origins.Origin("https", "home.example", 443))
    else:
        assert "//" in reference, (base, reference, target)


def _wrapped(text: str) -> None:
    try:
        value = headers.encode_value(text)
    except ValueError:
        assert re.search("[\ud800-\udfff]", text)
        return
    assert re.fullmatch(r"[!-~]?|[!-~][ -~]*[!-~]", value), value
    assert headers.decode_value(value) == text
    try:
        headers.decode_value(text)
    except ValueError as flaw:
        said = str(flaw)
        assert len(text) < 20 or text not in said


def _header_of_a_user(name: str, value: str) -> None:
    flaw = headers.header_flaw(name, value)
    if flaw is None:
        assert re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name)
        assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value)
        value.encode("latin-1")
    else:
        assert len(value) < 20 or value not in flaw


def request_heads(data: bytes) -> None:
    """What a client's headers and body mean is decided, without an exception; and what we would send is admitted."""
    feed = Provider(data)
    what = feed.below(4)
    if what == 0:
        _post(feed)
    elif what == 1:
        _own_post(feed)
    elif what == 2:
        host, origin, peer = feed.latin(), feed.latin(), feed.latin()
        found = host_and_origin_flaw(host, origin, peer, _doors(feed))
        assert found is None or (found.status in (400, 403, 421) and _is_harmless(found))
        if found is None and "evil" in origin and "evil" not in host:
            assert not origins.is_loopback(origin) or "localhost" in origin
    else:
        _other_methods(feed)


def _post(feed: Provider) -> None:
    names = ("content-type", "accept", "mcp-protocol-version", "mcp-method", "mcp-name", "mcp-param-a", "origin")
    usual = {"content-type": "application/json", "accept": "*/*", "mcp-protocol-version": "2026-07-28"}
    given = {feed.pick(names): feed.latin() for _ in range(feed.below(6))}
    found = admit_post({**usual, **given}, feed.rest(), known=METHODS.__contains__, param_names=_names_of)
    assert isinstance(found, (Admitted, Refusal))
    assert isinstance(found, Admitted) or _is_harmless(found)


def _names_of(tool: str) -> headers.ParamNames | None:
    return headers.annotated(SCHEMA) if tool == "t" else None


def _is_harmless(refusal: Refusal) -> bool:
    """Tell whether a refusal says nothing but plain text, not too much, and can be sent."""
    encode(refusal.as_failure())
    plain = refusal.message.isascii() and refusal.message.isprintable() and len(refusal.message) < 1000
    return plain and 400 <= refusal.status < 500


def _own_post(feed: Provider) -> None:
    """The headers with which our client would send a request are those that our server demands."""
    method, name = feed.pick(METHODS), feed.text()
    arguments: dict[str, Any] = {"a": feed.text(), "c": {"d": feed.flag()}}
    arguments["b"] = feed.pick((1, -1, 0, 42.0, 2**53 - 1, 1.5, None, [], "1", True))
    meta = {VERSION_KEY: "2026-07-28", CAPABILITIES_KEY: {}}
    named = dict.fromkeys(("name", "uri", "taskId"), name)
    request = Request(1, method, {**named, "arguments": arguments, "_meta": meta})
    if not _is_sayable(request):
        return
    try:
        own = {**headers.routing_headers(request), **headers.mirrored(headers.annotated(SCHEMA), arguments)}
    except ValueError:
        assert isinstance(arguments["b"], int)
        assert abs(arguments["b"]) > headers.MAX_INTEGER
        return
    sent = {key.lower(): value for key, value in own.items()}
    assert all(value.isascii() and value.isprintable() for value in sent.values()), sent
    assert headers.routing_flaw(request, sent) is None
    assert headers.params_flaw(headers.annotated(SCHEMA), arguments, sent) is None
    usual = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    found = admit_post({**usual, **sent}, encode(request), known=METHODS.__contains__, param_names=_names_of)
    assert isinstance(found, Admitted), found


def _is_sayable(message: Message) -> bool:
    try:
        json.dumps(message.as_dict(), ensure_ascii=False).encode()  # type: ignore[union-attr]
    except UnicodeEncodeError:
        return False
    return True


def _doors(feed: Provider) -> Doors:
    hosts, places = [], []
    for read, found in ((host_place, hosts), (origin_place, places)):
        try:
            found.append(read(feed.text()))
        except ValueError:
            pass
    return Doors(tuple(hosts), tuple(places), everywhere=feed.flag())


def _other_methods(feed: Provider) -> None:
    method, version, accept = feed.pick(("GET", "DELETE", "POST", feed.latin())), feed.latin(), feed.latin()
    found = method_refusal(method, {"mcp-protocol-version": version, "accept": accept})
    assert found is None or _is_harmless(found)
    assert accepts(accept, "text/event-stream") in (True, False)
    assert re.fullmatch(r"[ -~]{0,80}", shown(version))


# -- URLs -------------------------------------------------------------------------------------------------------------

SCHEMES = ("http", "https", "ws", "wss", "HTTP", "httpS", "ftp", "")
GLUE = ("://", ":/", ":", "//", ":///", ":\\\\", "")
USERS = ("", "me@", "me:pw@", "home.example@", "home.example:443@", "a@b@", "%40@", "home.example%2f@", "me\\@", "#@")
NAMES = (
    *("home.example", "HOME.example", "home.example.", "home\u3002example", "h\u043eme.example", "home%2eexample"),
    *("xn--bcher-kva.example", "bücher.example", "BÜCHER.example", "faß.example", "fass.example", "home.example\uff38"),
    *("0x7f.1", "2130706433", "[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::1%25lo]", "localhost"),
    *("127.0.0.1", "127.1", "\uff11\uff12\uff17.0.0.1", "localhost.", "evil.example", "a.home.example", ""),
    *("home.example\\.evil.example", "home.example\t", "ho\u00adme.example", "[v1.x]", "a_b.example", "-a.example"),
)
PORTS = ("", ":443", ":80", ":0443", ":", ":8443", ":65536", ":0", ":x", ":443@", ":\uff14", ":-1")
ENDS = ("", "/", "/mcp", "?a=b", "#x", "\\x", "/..//evil.example/", "/@evil.example", ":80", "//x", ";x", "/%2e", " ")


def url_origins(data: bytes) -> None:
    """Who connects to a URL by the libraries that we use goes to the origin that we have read in it, or nowhere."""
    feed = Provider(data)
    one, other = _url(feed), _url(feed)
    first, second = _origin(one), _origin(other)
    assert origins.same_origin(one, other) == (first is not None and first == second)
    assert origins.allowed(one, other) == origins.same_origin(one, other)
    for url, origin in ((one, first), (other, second)):
        if origin is not None:
            _dials(url, origin)
            assert _origin(str(origin)) == origin
            _put_together(url, origin, feed.text())
    assert origins.is_loopback(one) in (True, False)
    _check(one)


def _url(feed: Provider) -> str:
    if feed.flag():
        return feed.text()
    parts = (SCHEMES, GLUE, USERS, NAMES, PORTS, ENDS)
    return "".join(feed.pick(choices) if feed.byte() != ord("?") else feed.text() for choices in parts)


def _origin(url: str) -> origins.Origin | None:
    try:
        return origins.origin_of(url)
    except ValueError as flaw:
        str(flaw).encode("utf-8", "replace")
        return None


def _dials(url: str, origin: origins.Origin) -> None:
    """Check that the libraries go to this origin; they may also refuse."""
    bare = origins.without_userinfo(url)[0]
    for address in (url, bare):
        try:
            found, parts = parse_url(address), urlsplit(address)
        except (LocationParseError, ValueError):
            continue
        assert _place(found.scheme, found.host, found.port) == origin, (address, found, origin)
        assert _place(parts.scheme, parts.hostname, parts.port) == origin, (address, parts, origin)
    assert "@" not in urlsplit(bare).netloc


def _place(scheme: str | None, host: str | None, port: int | None) -> origins.Origin:
    name = (host or "").strip("[]").lower().removesuffix(".")
    if ":" in name:
        from ipaddress import IPv6Address

        name = IPv6Address(name).compressed
    elif not name.isascii():
        name = name.encode("idna").decode().removesuffix(".")
    return origins.Origin(scheme or "", name, port or origins.PORTS[scheme or ""])


def _put_together(url: str, origin: origins.Origin, text: str) -> None:
    bare, user, password = origins.without_userinfo(url)
    assert origins.origin_of(bare) == origin
    assert (user is None) == ("@" not in re.split("[/?#]", url.partition("://")[2])[0])
    assert password is None or user is not None
    for target, may_leave in ((_joined, False), (origins.resolve, True)):
        try:
            found = target(url, text)
        except ValueError:
            continue
        _dials(found, origins.origin_of(found))
        assert may_leave and "//" in text or origins.origin_of(found) == origin, (url, text, found)


def _joined(url: str, path: str) -> str:
    return origins.join_url(url, path)


def _check(url: str) -> None:
    try:
        text = origins.check_url(url, ("https", "http"))
    except ValueError as flaw:
        said = str(flaw)
        assert "pw@" not in said, said
        return
    origin = origins.origin_of(text)
    assert origin.scheme in ("http", "https")
    assert isinstance(addresses.disguise_of(origin.host), str)
    assert len(addresses.danger_of_name(origin.host)) == 2
    try:
        addresses.danger_of_address(origin.host)
    except ValueError:
        assert not re.fullmatch(r"[0-9.]+", origin.host)


# -- secrets ----------------------------------------------------------------------------------------------------------


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


ENCODINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "percent": lambda text: quote(text, safe=""),
    "percent, some": quote,
    "percent, in lower case": lambda text: re.sub("%..", lambda one: one[0].lower(), quote(text, safe="")),
    "percent, all": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "percent, twice": lambda text: quote(quote(text, safe=""), safe=""),
    "of a form": quote_plus,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, beyond ASCII": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON, slashes": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text))[3:-3],
    "Python": lambda text: repr(text)[1:-1],
    "bytes of Python": lambda text: repr(text.encode())[2:-1],
    "base64": _base64,
    "base64, unpadded": lambda text: _base64(text).rstrip("="),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 behind a user": lambda text: _base64(f"user:{text}"),
    "base64 within something": lambda text: _base64(f"xy{text}z"),
    "hexadecimal": lambda text: text.encode().hex(),
    "HTML": html.escape,
}
"""The twenty ways in which a secret is written most often; ``split`` is a matter of whoever cuts the text."""

CANARY = "c4n@ry/+\"ü&%"
OPTIONS = ("--token", "--api-key", "--password", "-p-secret", "--client-secret", "--auth", "--ca-passphrase")
JOINTS = ("=", ":", ": ", "=Bearer ", " = ", "\":\"")
PLACES = (
    "https://user:{}@host/path",
    "https://{}@host",
    "https://host/path?key={}",
    "https://host/?a=b&{}",
    "wss://host/x#{}",
    "see redis://:{}@host:1/0 and http://other/",
)


def redactor(data: bytes) -> None:
    """No canary survives where it is a secret, in whichever of twenty encodings it stands there."""
    feed = Provider(data)
    what, encoded = feed.below(3), feed.pick(list(ENCODINGS.values()))(CANARY)
    around = feed.text()
    if what == 0:
        _in_a_command(feed, encoded)
    elif what == 1:
        _in_a_url(feed, encoded, around)
    else:
        secrets = [CANARY, *([around] if feed.flag() else [])]
        shown_text = redact.mask(f"{feed.text()}{encoded}{feed.text()}", secrets)
        _gone(encoded, shown_text)
        assert not any(secret in shown_text for secret in secrets if secret and "*" not in secret)
    assert redact.names_a_secret(around) in (True, False)


def _gone(encoded: str, text: str) -> None:
    assert encoded not in text, (encoded, text)
    assert CANARY not in text, text


def _in_a_command(feed: Provider, encoded: str) -> None:
    option = feed.pick(OPTIONS)
    secret = encoded if not encoded.startswith("--") else encoded[2:]
    words = [option, secret] if feed.flag() else [f"{option}{feed.pick(JOINTS)}{secret}"]
    argv = ["srv", *words, feed.text()]
    _gone(secret, " ".join(redact.redact_command(argv)[: 1 + len(words)]))


def _in_a_url(feed: Provider, encoded: str, around: str) -> None:
    place = feed.pick(PLACES)
    secret = re.sub(r"[\s/?#]", "", encoded) if "@host" in place else re.sub(r"[\s#]", "", encoded)
    _gone(secret, redact.redact_url(place.format(secret)))
    before, after = re.sub(r"\S*$", "", around), feed.text()
    shown_text = redact.redact_url(f"{before}{place.format(secret)} {after}")
    assert secret not in after and secret not in before and secret not in shown_text or secret in before + after
