"""Origin: which URLs belong together, so that what is meant for one server never goes to another. Pure.

A URL is read here once, strictly, and what two readers could take for two different servers is refused: backslashes,
blanks and control characters, addresses in octal or with parts left out, names that IDNA 2003 and 2008 spell
differently. No error shows user names, passwords, queries or fragments.

Source: RFC 3986 (5.2: references, appendix B: parts); RFC 6454, section 4 (origins); RFC 6761, 6.3 (localhost).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .redact import MASK

PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
"""The schemes we know, each with the port that need not be written."""

_BLANKS = " \t\r\n"
_UNFIT = re.compile(r"[\x00-\x20\x7f-\xa0\\\s\ud800-\udfff]")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")
_REFERENCE = re.compile(r"(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(\?[^#]*)?(#.*)?")
_PLACE = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]*))?")
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_BYTE}(?:\.{_BYTE}){{3}}")
_HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MAX_HOST = 253  # RFC 1035, 2.3.4


@dataclass(frozen=True, slots=True)
class Origin:
    """One server, as far as a URL tells: equal origins share credentials, others share nothing.

    Attributes:
        scheme: http, https, ws or wss.
        host: In lower case; a name in its ASCII form without the dot at the end, an IPv6 address without brackets.
        port: The port, written in the URL or not.
    """

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == PORTS[self.scheme] else f":{self.port}")


def origin_of(url: str) -> Origin:
    """Return the origin of a URL.

    Raises:
        ValueError: It is no URL of a scheme we know, or it could be read in two ways.
    """
    return _origin(_read(url))


def same_origin(a: str, b: str) -> bool:
    """Tell whether two URLs have one origin; False where one of them is no URL. Never raises."""
    try:
        return origin_of(a) == origin_of(b)
    except (TypeError, ValueError):
        return False


def allowed(url: str, home: str, extra: Sequence[str] = ()) -> bool:
    """Tell whether what is meant for ``home`` may go to a URL: its origin is that of home or of one of the others."""
    return any(same_origin(url, one) for one in (home, *extra))


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine; False where that is not certain. Never raises.

    Args:
        host: A name or an address, with or without brackets. Short and octal addresses are not certain.
    """
    name = host.lower().removesuffix(".")
    if _HOST_NAME.fullmatch(name):
        return name == "localhost" or name.endswith(".localhost") or _is_loopback_v4(name)
    try:
        address = _ipv6(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return address == "::1" or _is_loopback_v4(_mapped(address))


def _is_loopback_v4(address: str) -> bool:
    return address.startswith("127.") and _IPV4.fullmatch(address) is not None


# -- checking what people write ---------------------------------------------------------------------------------------


def check_url(url: object, schemes: Sequence[str], name: str = "url") -> str:
    """Return a URL that a user gave, without blanks around it.

    Args:
        url: What was given.
        schemes: The schemes that make sense here, the usual one first.
        name: What the argument is called; errors begin with it.

    Raises:
        TypeError: It is not a str.
        ValueError: It is no URL, or not one of these schemes; the text says what to write instead.
    """
    if not isinstance(url, str):
        raise TypeError(f"{name} must be a str such as '{schemes[0]}://host/mcp', not {type(url).__name__}")
    text = url.strip(_BLANKS)
    scheme = text.partition("://")[0].lower() if _URL.fullmatch(text) else None
    if scheme is None and not _UNFIT.search(text):
        hint = f"; did you mean {_shown(_guess(text, schemes))}?" if text else ""
        raise ValueError(f"{name} {_shown(text)} does not begin with {_listed(schemes)}{hint}")
    if scheme is not None and scheme not in schemes:
        hint = f"; did you mean {_shown(_twin(text, schemes))}?" if scheme in PORTS else ""
        raise ValueError(f"{name} {_shown(text)} must begin with {_listed(schemes)}{hint}")
    _read(text, name)
    return text


def _listed(schemes: Sequence[str]) -> str:
    return " or ".join(f"{scheme}://" for scheme in schemes)


def _guess(text: str, schemes: Sequence[str]) -> str:
    rest = re.sub(r"^(?:https?|wss?):", "", text, flags=re.I).lstrip("/")
    place = _PLACE.match(re.split(r"[/?#]", rest, maxsplit=1)[0])
    port = 80 if place and is_loopback(place[1]) else 443  # nobody encrypts to himself
    scheme = next((one for one in schemes if PORTS.get(one) == port), schemes[0])
    return f"{scheme}://{rest}"


def _twin(text: str, schemes: Sequence[str]) -> str:
    """Return a URL with the scheme among these that has the port, and the secrecy, of its own."""
    scheme, _, rest = text.partition("://")
    return f"{next((one for one in schemes if PORTS.get(one) == PORTS[scheme.lower()]), schemes[0])}://{rest}"


def _shown(url: str) -> str:
    """Return what of a URL may be read in an error, be it a URL or not: nothing that could be a secret."""
    head = re.split(r"[?#]", url, maxsplit=1)[0]
    if "@" in url:  # in what cannot be read nobody knows where a password ends
        scheme = url.partition("://")[0].lower()
        return repr(f"{scheme}://{MASK}" if scheme in PORTS else MASK)
    return repr(head if len(head) <= 200 else f"{head[:200]}...")


# -- taking URLs apart, and putting them together ---------------------------------------------------------------------


class _Parts(NamedTuple):
    scheme: str
    authority: str
    path: str  # empty, or with its slash
    query: str  # empty, or with its question mark
    fragment: str  # empty, or with its number sign

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}{self.query}{self.fragment}"


def without_userinfo(url: str) -> tuple[str, str | None, str | None]:
    """Return a URL as it may be sent and shown, and who it says is asking.

    Returns:
        The URL without user name, password and fragment; the user name and the password, percent-decoded, each None
        where there is none.

    Raises:
        ValueError: It is no URL.
    """
    parts = _read(url)
    userinfo, at, place = parts.authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    bare = str(parts._replace(authority=place, fragment=""))
    return bare, _decoded(user) if at else None, _decoded(password) if colon else None


def _decoded(text: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote  # takes milliseconds to import, and is rarely needed

    return unquote(text)


def join_url(base_url: str, endpoint_path: str) -> str:
    """Return the URL of an endpoint below a base, ``http://h/a`` and ``/mcp`` give ``http://h/a/mcp``.

    Unlike a reference, the path is added whether it begins with a slash or not, and cannot lead to another server.
    The base's query stays, at the end.

    Args:
        base_url: The base; it is the answer where the path is empty.
        endpoint_path: The path, which may have a query.

    Raises:
        ValueError: The base is no URL, or the path is none.
    """
    base = _read(base_url, "base_url")
    if not endpoint_path:
        return base_url
    if _UNFIT.search(endpoint_path) or "#" in endpoint_path or _URL.match(endpoint_path):
        raise ValueError(f"endpoint_path must be a path such as '/mcp', not {_shown(endpoint_path)}")
    path, _, query = endpoint_path.partition("?")
    queries = "&".join(filter(None, [query, base.query[1:]]))
    path = base.path.rstrip("/") + "/" + path.lstrip("/") if path else base.path
    return str(base._replace(path=path, query=f"?{queries}" if queries else "", fragment=""))


def resolve(url: str, reference: str) -> str:
    """Return the URL that a reference found at a URL means (RFC 3986, 5.2), such as a Location or an endpoint event.

    It may mean another server: ask ``allowed``. It may hold a user name: send it ``without_userinfo``.

    Raises:
        ValueError: One of the two makes no sense, or they lead to a scheme we do not know.
    """
    base = _read(url)
    text = reference.strip(_BLANKS)
    found = _REFERENCE.fullmatch(text)
    if found is None or _UNFIT.search(text):
        raise ValueError(f"the reference {_shown(text)} {_UNFIT_TEXT}")
    scheme, authority, path, query, fragment = found.groups()
    if scheme is not None:
        target = text  # with all its parts, or not a URL of ours
    elif authority is not None:
        target = f"{base.scheme}:{text}"
    else:
        kept = base.query if not path and query is None else query or ""
        target = str(base._replace(path=_merged(base.path, path), query=kept, fragment=fragment or ""))
    parts = _read(target, "the reference's target")
    return str(parts._replace(path=_without_dots(parts.path)))


def _merged(base: str, path: str) -> str:
    if not path:
        return base
    return path if path.startswith("/") else f"{base.rpartition('/')[0]}/{path}"


def _without_dots(path: str) -> str:
    if not path:
        return ""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


# -- reading ----------------------------------------------------------------------------------------------------------

_UNFIT_TEXT = "holds a blank, a control character or a backslash, which have to be percent-encoded"


def _read(url: str, name: str = "the URL") -> _Parts:
    """Return the parts of a URL that has an origin.

    Raises:
        ValueError: It has none; the text begins with the name, and shows nothing secret.
    """
    try:
        parts = _parts(url)
        _origin(parts)
    except ValueError as flaw:
        raise ValueError(f"{name} {_shown(url)} {flaw}") from None
    return parts


def _parts(url: str) -> _Parts:
    if _UNFIT.search(url):
        raise ValueError(_UNFIT_TEXT)
    found = _URL.fullmatch(url)
    if found is None or found[1].lower() not in PORTS:
        raise ValueError(f"does not begin with {_listed(tuple(PORTS))}")
    scheme, authority, path, query, fragment = found.groups("")
    return _Parts(scheme, authority, path, query, fragment)


def _origin(parts: _Parts) -> Origin:
    scheme = parts.scheme.lower()
    found = _PLACE.fullmatch(parts.authority.rpartition("@")[2])
    if found is None:
        raise ValueError("has a port that is no number, or an IPv6 address without brackets around it")
    return Origin(scheme, _host(found[1]), _port(found[2] or "") or PORTS[scheme])


def _port(digits: str) -> int | None:
    if not digits:
        return None
    port = int(digits) if len(digits) <= 5 else 0
    if not 1 <= port <= 65535:
        raise ValueError("has a port that is not between 1 and 65535")
    return port


def _host(text: str) -> str:
    if text.startswith("["):
        return _ipv6(text[1:-1])
    if len(text) > _MAX_HOST + 1:  # no shorter in ASCII, and IDNA takes its time
        raise ValueError(f"has a host of more than {_MAX_HOST} characters")
    name = ".".join(map(_label, text.split("."))).removesuffix(".")
    if not name:
        raise ValueError("has no host")
    if len(name) > _MAX_HOST or not _HOST_NAME.fullmatch(name):
        raise ValueError("has a host that is no name: letters, digits, hyphens, and dots between")
    if _NUMBER.fullmatch(name.rpartition(".")[2]) and not _IPV4.fullmatch(name):
        raise ValueError("has a host that ends in a number, but is no IPv4 address of four decimal numbers")
    return name


def _ipv6(text: str) -> str:
    from ipaddress import IPv6Address  # takes milliseconds to import, and is rarely needed

    if "%" in text:
        raise ValueError("has an IPv6 address with a zone, which means something on one machine only")
    try:
        return IPv6Address(text).compressed
    except ValueError:
        raise ValueError("has a host that is no IPv6 address") from None


def _mapped(address: str) -> str:
    from ipaddress import IPv6Address

    return str(IPv6Address(address).ipv4_mapped)


def _label(label: str) -> str:
    """Return one part of a host's name in lower case and ASCII.

    Python knows IDNA 2003, HTTP libraries follow 2008, and the two send some names to different servers (the sharp s,
    the final sigma). So only what comes back unchanged is taken; whoever means another writes it in ASCII.
    """
    if label.isascii():
        return label.lower()
    from unicodedata import normalize

    text = normalize("NFC", label.lower())
    try:
        encoded = text.encode("idna")
        if encoded.decode("idna") == text:
            return encoded.decode("ascii")
    except UnicodeError:
        pass
    raise ValueError("has a host that can be read as two different names; write it in its ASCII form, xn--...")
