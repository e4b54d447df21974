"""Security of the HTTP bindings: which Host and which Origin a request may have. On by default for this machine.

::

    server.wsgi_app(security=TransportSecuritySettings(allowed_hosts=["mcp.example.com"]))

Source: basic/transports/streamable-http, security; ``protocol/hosts.py`` has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..policies import flag, optional
from ..protocol.admission import Refusal
from ..protocol.hosts import Doors, Place, host_and_origin_flaw, host_place, origin_place


@dataclass(frozen=True)
class TransportSecuritySettings:
    """Which requests are let in by their Host and Origin; everything else is a matter of authentication.

    Whoever is refused reads the name of the list to extend: 421 for a Host, 403 for an Origin, 400 for a Host that is
    missing or makes no sense.

    Attributes:
        enable_dns_rebinding_protection: None looks at the Host of requests that come from this machine itself: it must
            be ``localhost``, an address of the loopback interface, or in ``allowed_hosts``. A page that attacks a local
            server comes that way; and so does all that a proxy on this machine brings, whose public name therefore
            belongs into ``allowed_hosts``. True looks at the Host of all requests: for servers in a private network or
            a container, where DNS rebinding reaches, too. An Origin is looked at in both cases. False looks at nothing.
        allowed_hosts: Names under which the server may be called: ``example.com`` (at any port, as is
            ``example.com:*``), ``example.com:8443``, ``*.example.com`` (all names below, not itself), ``*``.
        allowed_origins: Pages that may call it, besides its own (those with the same host and port) and, where the
            Host is one of the loopback interface, those of all servers there: ``https://app.example.com``,
            ``https://app.example.com:8443``, ``https://app.example.com:*``, ``https://*.example.com``,
            ``vscode-webview://*``, and ``*`` for everybody. ``null``, which any page can pretend, is in ``*`` alone.

    Raises:
        TypeError: Something is of the wrong type; a str in place of a list is.
        ValueError: An entry means nothing; the text names it, and says what to write.
    """

    enable_dns_rebinding_protection: bool | None = None
    allowed_hosts: Sequence[str] = ()
    allowed_origins: Sequence[str] = ()
    _doors: Doors = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        optional(flag)("enable_dns_rebinding_protection", self.enable_dns_rebinding_protection)
        hosts = _entries("allowed_hosts", "example.com", self.allowed_hosts)
        origins = _entries("allowed_origins", "https://example.com", self.allowed_origins)
        doors = Doors(
            _places("allowed_hosts", hosts, host_place),
            _places("allowed_origins", origins, origin_place),
            everywhere=self.enable_dns_rebinding_protection is True,
        )
        for name, value in (("allowed_hosts", hosts), ("allowed_origins", origins), ("_doors", doors)):
            object.__setattr__(self, name, value)  # the dataclass is frozen

    def check(self, environ: Mapping[str, Any]) -> Refusal | None:
        """Return why a request is refused, or None.

        Args:
            environ: The WSGI environment. Only what the connection and the request say counts, no ``X-Forwarded-*``.
        """
        if self.enable_dns_rebinding_protection is False:
            return None
        host, origin, peer = (_text(environ, name) for name in ("HTTP_HOST", "HTTP_ORIGIN", "REMOTE_ADDR"))
        return host_and_origin_flaw(host, origin, peer, self._doors)


def _text(environ: Mapping[str, Any], name: str) -> str | None:
    value = environ.get(name)
    return value.strip(" \t") if isinstance(value, str) else None


def _entries(name: str, example: str, given: object) -> tuple[str, ...]:
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list such as [{example!r}], not {type(given).__name__}")
    found = tuple(given)
    for entry in found:
        if not isinstance(entry, str):
            raise TypeError(f"{name} must hold str such as {example!r}, not {type(entry).__name__} ({entry!r:.80})")
    return found


def _places(name: str, entries: tuple[str, ...], read: Callable[[str], Place]) -> tuple[Place, ...]:
    found = []
    for entry in entries:
        try:
            found.append(read(entry))
        except ValueError as flaw:
            raise ValueError(f"{name}: {entry!r:.80} {flaw}") from None
    return tuple(found)
