"""TransportSecurity: URLs of others, looked at before anybody goes there; safe TLS; logs without secrets.

::

    url = TransportSecurity.validate_url(given)                      # or ValueError, with the reason
    transport = HttpTransport(url, ssl_context=TransportSecurity.create_secure_ssl_context())
    handler.addFilter(RedactingFilter())

The rules for addresses and names are in ``protocol/addresses.py``, what a URL is in ``protocol/origins.py``.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import socket
import ssl
from collections.abc import Iterable

from ..deadlines import Deadline, as_timeout
from ..engine import interrupts
from ..engine.dispatch import start_thread
from ..exceptions import MCPConnectionError, MCPTimeoutError
from ..policies import flag
from ..protocol.addresses import LOOPBACK, PRIVATE, danger_of_address, danger_of_name, disguise_of
from ..protocol.origins import Origin, check_url, origin_of, without_userinfo
from ..protocol.redact import MASK, mask, names_a_secret, redact_url

SCHEMES = ("https", "http", "wss", "ws")
LOOK_UP_SECONDS = 5.0
"""How long looking up a name may take unless told otherwise."""
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those that keep their secrets when a key is stolen later; all of TLS 1.3 do."""


class TransportSecurity:
    """What to look at before a connection is made. Nothing here has a state; call the functions on the class.

    Threads: ``mcp-look-up``, where names are looked up; it outlives its caller when the resolver hangs.
    """

    @staticmethod
    def validate_url(
        url: str,
        *,
        allow_private: bool = False,
        allow_loopback: bool = False,
        resolve: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Return a URL that may be asked, in its usual form; for URLs that somebody else gave.

        Refused are: schemes but https and wss (http and ws, too, for this machine, where it is allowed); a user name or
        a password; hosts in this machine, in private networks, link-local ones, and those where clouds tell
        credentials (169.254.169.254 and its like, in every case); the same as IPv4 in IPv6; addresses as one number, in
        octal or hexadecimal, or with parts left out; backslashes, blanks and control characters; names that mix scripts
        or are spelt with letters that look like others. A name without an address is judged by itself: ``localhost``,
        ``router``, ``printer.local``.

        What a name leads to is looked up only if asked for. Then each of its addresses has to pass. It is not enough
        against an attacker who owns the name: at the next look-up, by the connection, it may lead elsewhere (DNS
        rebinding). Only a proxy or a firewall that sees the connection itself ends that.

        Args:
            url: The URL.
            allow_private: Whether hosts in private networks may be asked, and names without a dot.
            allow_loopback: Whether this machine may be, and without TLS.
            resolve: Whether to look up the addresses of a name.
            timeout: Seconds for that; None means 5.

        Returns:
            The URL: scheme and host in lower case and ASCII, without a dot at the end of the host, the usual port, and
            the fragment; with a path.

        Raises:
            TypeError: It is not a str.
            ValueError: It must not be asked; the text says why, and shows nothing secret.
            MCPConnectionError: Its name is not known.
            MCPTimeoutError: Looking it up took too long.
        """
        private, loopback = flag("allow_private", allow_private), flag("allow_loopback", allow_loopback)
        text = check_url(url, SCHEMES)
        bare, user, password = without_userinfo(text)
        origin = origin_of(bare)
        _refuse(origin, "has a user name or a password" if user is not None or password is not None else "")
        danger, why = _danger_of(origin.host)
        if not (danger == LOOPBACK and loopback):
            _refuse(origin, why if danger and not (danger == PRIVATE and private) else "")
            _refuse(origin, f"is not encrypted: {origin.scheme}://" if origin.scheme in ("http", "ws") else "")
        _refuse(origin, disguise_of(origin.host))
        if flag("resolve", resolve) and not _is_address(origin.host):
            patience = Deadline(as_timeout(timeout, default=LOOK_UP_SECONDS))
            for address in _addresses_of(origin, patience):
                danger, why = danger_of_address(address)
                allowed = (danger == PRIVATE and private) or (danger == LOOPBACK and loopback)
                _refuse(origin, f"leads to {address}, which {why}" if danger and not allowed else "")
        return str(origin) + _place_in(bare)

    @staticmethod
    def create_secure_ssl_context(
        cafile: str | os.PathLike[str] | None = None, *, system_authorities: bool = False
    ) -> ssl.SSLContext:
        """Return a TLS context for clients: TLS 1.2 or later, with ciphers that keep their secrets, and no compression.

        The certificate is checked, and that it is the host's. No environment variable changes anything, nor has the
        session's keys written down.

        Args:
            cafile: A file or a folder with the authorities to trust; None are those that certifi ships.
            system_authorities: Whether to trust, besides, what this machine trusts.

        Raises:
            FileNotFoundError: There is no such file.
            ssl.SSLError: There are no certificates in it.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks certificate and host
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.verify_flags |= ssl.VERIFY_X509_TRUSTED_FIRST
        path = shipped_authorities() if cafile is None else os.fspath(cafile)
        folder = os.path.isdir(path)
        context.load_verify_locations(cafile=None if folder else path, capath=path if folder else None)
        if flag("system_authorities", system_authorities):
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context


def shipped_authorities() -> str:
    """Return the file with the authorities that certifi ships."""
    import certifi

    return certifi.where()


# -- URLs -------------------------------------------------------------------------------------------------------------


def _refuse(origin: Origin, why: str) -> None:
    if why:
        raise ValueError(f"{origin} must not be asked: it {why}")


def _danger_of(host: str) -> tuple[str, str]:
    return danger_of_address(host) if _is_address(host) else danger_of_name(host)


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _place_in(url: str) -> str:
    """Return path and query."""
    rest = url.partition("://")[2]
    found = re.search(r"[/?]", rest)
    place = rest[found.start() :] if found is not None else ""
    return place if place.startswith("/") else f"/{place}"


def _addresses_of(origin: Origin, patience: Deadline) -> list[str]:
    found: list[list[str] | OSError] = []
    done = interrupts.Event()

    def ask() -> None:
        try:
            infos = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
            found.append(sorted({str(info[4][0]).partition("%")[0] for info in infos}))
        except (OSError, UnicodeError) as error:
            found.append(error if isinstance(error, OSError) else OSError(str(error)))
        done.set()

    start_thread("mcp-look-up", ask)
    if not done.wait(patience.remaining):
        raise MCPTimeoutError(f"looking up {origin.host} took longer than {patience.limit:g} s", may_have_run=False)
    answer = found[0]
    if isinstance(answer, OSError):
        raise MCPConnectionError(f"the host {origin.host} is not known: {answer.strerror}", may_have_run=False)
    return answer


# -- logs -------------------------------------------------------------------------------------------------------------

# Each begins at the beginning of a word only, and can match in one way only, or a long line would take quadratic time.
_HEADER = re.compile(
    r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|mcp[-_]session[-_]id)(['\"]?\s{0,5}[:=]\s{0,5})"
    r"('[^'\r\n]*'|\"[^\"\r\n]*\"|[^\r\n]+)"
)
_SCHEME = re.compile(r"(?i)\b(bearer|basic|digest|negotiate)\s{1,5}[A-Za-z0-9._~+/=-]{6,}")
_NAMED = re.compile(
    r"(?<![A-Za-z0-9_.-])(?:(?P<option>--[A-Za-z0-9_.-]+)['\"]?,?\s{1,5}(?!['\"]?--)"
    r"|(?P<name>[A-Za-z0-9_.-]+)['\"]?\s{0,5}[:=]>?\s{0,5})"
)
_VALUE = re.compile(r"'[^'\r\n]*'|\"(?:[^\"\\\r\n]|\\.)*\"|[^\s,;&'\"}\])]+")
_ISSUED = re.compile(  # by model providers, code forges, clouds and package registries, which want them to be found
    r"(?<![A-Za-z0-9])(?:sk-[\w-]{20,}|gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_\w{20,}|glpat-[\w-]{20,}"
    r"|xox[abeoprs]-[\w-]{10,}|A(?:KIA|SIA)[A-Z0-9]{16}|AIza[\w-]{30,}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{30,})"
)
_JWT = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*")


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without what usually is a secret in it.

    That is: user names, passwords, queries and fragments of URLs; values of headers that prove who asks; what follows
    ``Bearer`` and its like; values of names that usually hold secrets (``token=...``, ``"password": "..."``, ``--token
    ...``); JSON Web Tokens, and keys that are known by how they begin (``sk-...``, ``ghp_...``); and these secrets.

    Args:
        text: The text.
        secrets: What must not be seen, wherever it stands.
    """
    text = redact_url(mask(text, secrets))
    text = _HEADER.sub(lambda found: f"{found[1]}{found[2]}{_masked(found[3])}", text)
    text = _SCHEME.sub(rf"\1 {MASK}", text)
    return _ISSUED.sub(MASK, _JWT.sub(MASK, _without_values(text)))


def _without_values(text: str) -> str:
    """Return a text without the values of names that usually hold secrets."""
    shown: list[str] = []
    at = looked = 0
    while named := _NAMED.search(text, looked):
        looked = named.end()
        value = _VALUE.match(text, looked) if names_a_secret(named["option"] or named["name"]) else None
        if value is not None and not value[0].startswith("//"):
            shown += [text[at:looked], _masked(value[0])]
            at = looked = value.end()
    return "".join([*shown, text[at:]])


def _masked(value: str) -> str:
    quote = value[0] if value[0] in "'\"" and len(value) > 1 and value[-1] == value[0] else ""
    return f"{quote}{MASK}{quote}"


class RedactingFilter(logging.Filter):
    """A filter of logging that leaves out what usually is a secret; it lets every record pass.

    Add it to handlers: a filter of a logger sees only what is logged there, not what its children log. The text of the
    record, its exception and its stack are looked at, once; its arguments are gone afterwards.

    Args:
        secrets: What must not be seen, wherever it stands; beside what ``redact_text`` finds by itself.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        if isinstance(secrets, str):
            raise TypeError("secrets must be a list of str, not a str")
        self._secrets = tuple(secrets)
        self._redact = functools.partial(redact_text, secrets=self._secrets)

    def __repr__(self) -> str:
        return f"<RedactingFilter of {len(self._secrets)} secrets>"

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True; the record is without secrets."""
        try:
            text = record.getMessage()
        except Exception:  # arguments that do not fit: logging would print them all to stderr
            text = f"{record.msg} (with arguments that do not fit)"
        record.msg, record.args = self._redact(text), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text, record.exc_info = self._redact(record.exc_text), None
        if record.stack_info:
            record.stack_info = self._redact(record.stack_info)
        return True
