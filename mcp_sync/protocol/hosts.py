"""Hosts: under which names a server lets itself be reached, and which pages may talk to it. Pure.

A page that somebody else wrote can make a browser talk to a server on the user's own machine: directly, which the
Origin header gives away, or by giving its own name the server's address (DNS rebinding), which the Host header gives
away. Both headers are read here strictly, once, and what could be read in two ways is refused.

Source: basic/transports/streamable-http, security; RFC 9110, 7.2, RFC 9112, 3.2 (Host); RFC 6454, 6.2, 7 (Origin).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .admission import Refusal, shown
from .messages import INVALID_REQUEST
from .origins import PORTS, Origin, is_loopback, origin_of

_AUTHORITY = re.compile(r"[!-~]+")
_UNFIT = re.compile(r"[/?#@\\,%*]")
_WEB = re.compile(r"(https?)://(.+)", re.I)
_OTHER = re.compile(r"([a-z][a-z0-9+.-]*)://([!-~]+)", re.I)
_PORT = re.compile(r":[0-9]+\Z")
_LOCAL = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[1-9][0-9]{0,3}|:[1-5][0-9]{4})?")


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody may come from, or what he may call us.

    Attributes:
        scheme: Of a page; empty for a host, and for any.
        host: In lower case and ASCII; empty for any.
        port: None for any.
        below: Whether it is the names below the host that are meant, not the host itself.
    """

    scheme: str = ""
    host: str = ""
    port: int | None = None
    below: bool = False

    def holds(self, host: str, ports: Sequence[int], scheme: str = "") -> bool:
        """Tell whether a host is meant, at one of these ports, for a page of this scheme."""
        named = host.endswith(f".{self.host}") if self.below else self.host in ("", host)
        return named and self.scheme in ("", scheme) and (self.port is None or self.port in ports)


ANYWHERE = Place()


@dataclass(frozen=True, slots=True)
class Doors:
    """Whom a server lets in.

    Attributes:
        hosts: The names it may be called by, besides those of the loopback interface.
        origins: The pages that may talk to it, besides its own.
        everywhere: Whether names are looked at even if the other side is not on this machine.
    """

    hosts: tuple[Place, ...] = ()
    origins: tuple[Place, ...] = ()
    everywhere: bool = False


# -- what people write ------------------------------------------------------------------------------------------------


def host_place(entry: str) -> Place:
    """Return what an entry of a list of hosts means.

    ``example.com`` and ``example.com:*`` are that name at any port, ``example.com:8443`` at that port,
    ``*.example.com`` all names below it, but not itself; ``*`` is everything.

    Raises:
        ValueError: It means nothing; the text says what to write.
    """
    if entry == "*":
        return ANYWHERE
    if "://" in entry:
        raise ValueError("is an origin, not a host: write 'example.com' or 'example.com:8443'")
    try:
        return _place("", entry)
    except ValueError:
        raise ValueError(
            "is no host: write 'example.com', 'example.com:8443', 'example.com:*', '*.example.com', '[::1]' or '*'"
        ) from None


def origin_place(entry: str) -> Place:
    """Return what an entry of a list of origins means.

    ``https://example.com`` is pages from there at the usual port, ``https://example.com:8443`` at that port,
    ``https://example.com:*`` at any, ``https://*.example.com`` from all names below; ``*`` is everything. Of schemes
    that are not the web's (``vscode-webview://id``, ``chrome-extension://id``) the rest is text, or ``*``.

    Raises:
        ValueError: It means nothing; the text says what to write.
    """
    if entry == "*":
        return ANYWHERE
    if entry.lower() == "null":
        raise ValueError("is what any page can make itself: write '*' if that is what is meant")
    if web := _WEB.fullmatch(entry):
        return _web_place(web[1].lower(), web[2])
    other = _opaque(entry)
    if other is None or other.scheme in PORTS:
        raise ValueError("is no origin: write 'https://example.com', with its scheme, or '*'")
    return Place(other.scheme) if other.host == "*" else other


def _web_place(scheme: str, rest: str) -> Place:
    if rest.endswith("/") and "/" not in rest[:-1]:
        raise ValueError(f"has a path, which no origin has: write '{scheme}://{shown(rest[:-1])}'")
    try:
        place = _place(scheme, rest)
    except ValueError:
        raise ValueError(
            "is no origin: write 'https://example.com', 'https://example.com:8443', 'https://*.example.com' or '*'"
        ) from None
    usual = None if rest.endswith(":*") else PORTS[scheme]
    return Place(scheme, place.host, place.port or usual, place.below)


def _place(scheme: str, entry: str) -> Place:
    below = entry.startswith("*.")
    text = entry.removeprefix("*.").removesuffix(":*")
    if _UNFIT.search(text):
        raise ValueError(text)
    found = origin_of(f"{scheme or 'http'}://{text}")
    if below and (":" in found.host or found.host.rpartition(".")[2].isdigit()):
        raise ValueError(text)  # there are no names below an address
    return Place(scheme, found.host, found.port if _PORT.search(text) else None, below)


def _opaque(text: str) -> Place | None:
    found = _OTHER.fullmatch(text)
    if found is None or re.search(r"[/?#@\\,]", found[2]):
        return None
    return Place(found[1].lower(), found[2].lower())


# -- what a request says ----------------------------------------------------------------------------------------------


def host_and_origin_flaw(host: str | None, origin: str | None, peer: str | None, doors: Doors) -> Refusal | None:
    """Return why nobody may come in like this, or None; never raises.

    The Host must make sense, always. Where the other side is on this machine, or the doors look everywhere, it must be
    a name of the loopback interface or one of the allowed. An Origin, if there is one, must be allowed, or the server's
    own (the same host and port; the scheme may be another before a proxy that does the TLS), or both must be names of
    the loopback interface.

    Args:
        host: The Host header, or None; several joined by a comma are no host.
        origin: The Origin header, or None.
        peer: The address of the other side; what is no IP address (a UNIX socket has none) counts as this machine.
        doors: Whom the server lets in.
    """
    if origin is None and host is not None and _LOCAL.fullmatch(host):
        return None  # so it would be found below, too, but these are most of all requests
    own = _read_host(host)
    if host is None or own is None:
        what = "must have one Host header" if host is None else f"cannot have the Host '{shown(host)}'"
        return Refusal(400, INVALID_REQUEST, f"the request {what}")
    if (doors.everywhere or not _is_far(peer)) and not _host_allowed(own, host, doors.hosts):
        text = f"Host '{shown(host)}' is not allowed here; to allow it, pass allowed_hosts=[...] to the server"
        return Refusal(421, INVALID_REQUEST, text)
    if origin is not None and not _origin_allowed(origin, own, host, doors.origins):
        text = f"Origin '{shown(origin)}' is not allowed here; to allow it, pass allowed_origins=[...] to the server"
        return Refusal(403, INVALID_REQUEST, text)
    return None


def _read_host(host: str | None, scheme: str = "http") -> Origin | None:
    if host is None or not _AUTHORITY.fullmatch(host) or _UNFIT.search(host):
        return None
    try:
        return origin_of(f"{scheme}://{host}")
    except ValueError:
        return None


def _host_allowed(own: Origin, host: str, places: Sequence[Place]) -> bool:
    if is_loopback(own.host):
        return True
    ports = (own.port,) if _PORT.search(host) else (80, 443)  # who writes none means that of a scheme we do not see
    return any(place.holds(own.host, ports) for place in places)


def _origin_allowed(origin: str, own: Origin, host: str, places: Sequence[Place]) -> bool:
    if ANYWHERE in places:
        return True
    web = _WEB.fullmatch(origin)
    theirs = _read_host(web[2], web[1]) if web else None
    if theirs is None:
        other = None if web else _opaque(origin)
        return other is not None and any(place.holds(other.host, (), other.scheme) for place in places)
    if theirs == _read_host(host, theirs.scheme) or (is_loopback(theirs.host) and is_loopback(own.host)):
        return True
    return any(place.holds(theirs.host, (theirs.port,), theirs.scheme) for place in places)


def _is_far(peer: str | None) -> bool:
    """Tell whether an address is certainly that of another machine."""
    if not peer or is_loopback(peer):
        return False
    from ipaddress import ip_address  # takes milliseconds to import, and loopback servers never need it

    try:
        ip_address(peer)
    except ValueError:
        return False
    return True
