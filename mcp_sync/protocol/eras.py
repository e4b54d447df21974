"""Era: how one protocol version dresses what we send, and what it permits. Pure.

Two kinds are on the wire. In the *handshake* era (2024-11-05 to 2025-11-25) a connection begins with ``initialize``
and remembers what was agreed; either side may ask. In the *stateless* era (2026-07-28) every request carries what the
server needs to know in ``params._meta``, and only the client asks.

Source: basic/versioning, basic/lifecycle, basic/index (request metadata).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
STATELESS_VERSIONS = ("2026-07-28",)
VERSIONS = HANDSHAKE_VERSIONS + STATELESS_VERSIONS
"""Oldest first. Versions are names in a list: compare by place, never as text."""

META = "io.modelcontextprotocol/"
VERSION_KEY = META + "protocolVersion"
INFO_KEY = META + "clientInfo"
CAPABILITIES_KEY = META + "clientCapabilities"
LOG_LEVEL_KEY = META + "logLevel"
SERVER_INFO_KEY = META + "serverInfo"
SUBSCRIPTION_KEY = META + "subscriptionId"
TASKS_EXTENSION = META + "tasks"

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
"""The beginning of a subscription; it is no news."""

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a client says of itself.

    Attributes:
        info: ``name`` and ``version``, and what else an Implementation may hold.
        capabilities: What the server may ask of it.
    """

    info: Mapping[str, Any] = field(default_factory=lambda: {"name": "mcp-sync", "version": "0"})
    capabilities: Mapping[str, Any] = field(default_factory=dict)


class Era(ABC):
    """One protocol version at work on one connection.

    Attributes:
        version: The protocol version, one of VERSIONS.
        batches: Whether messages may arrive in an array.
        server_asks: Whether the server may send requests.
    """

    version: str
    batches: bool
    server_asks: bool

    @abstractmethod
    def dress(self, params: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return a request's params as this era wants them sent."""

    @abstractmethod
    def flaw_of(self, result: Mapping[str, Any]) -> str | None:
        """Return what this era forbids about a result, or None."""


@dataclass(frozen=True)
class Opening(Era):
    """Before a version is agreed: what is said is said as it stands."""

    version: str = ""
    batches: bool = False
    server_asks: bool = True

    def dress(self, params: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return the params as they are."""
        return None if params is None else dict(params)

    def flaw_of(self, result: Mapping[str, Any]) -> str | None:
        """Return None: negotiation looks for itself."""
        return None


@dataclass(frozen=True)
class Handshake(Era):
    """2024-11-05 to 2025-11-25: the connection knows who is talking."""

    version: str
    server_asks: bool = True

    @property
    def batches(self) -> bool:  # type: ignore[override]
        """Only 2025-03-26 has batches (its basic/index); 2025-06-18 removed them."""
        return self.version == "2025-03-26"

    def dress(self, params: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return the params as they are."""
        return None if params is None else dict(params)

    def flaw_of(self, result: Mapping[str, Any]) -> str | None:
        """Return None: results of this era carry no type."""
        return None


@dataclass(frozen=True)
class Stateless(Era):
    """2026-07-28: every request says for itself who asks, and what it can do.

    Attributes:
        log_level: The level to ask for with every request; None asks for no log messages.
    """

    identity: Identity
    version: str = STATELESS_VERSIONS[-1]
    log_level: str | None = None
    batches: bool = False
    server_asks: bool = False

    def dress(self, params: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return the params with the request metadata; what the caller put there itself stays."""
        meta: dict[str, Any] = {
            VERSION_KEY: self.version,
            INFO_KEY: dict(self.identity.info),
            CAPABILITIES_KEY: {**self.identity.capabilities, **self._roots()},
        }
        if self.log_level:
            meta[LOG_LEVEL_KEY] = self.log_level
        given = (params or {}).get("_meta") or {}
        return {**(params or {}), "_meta": {**meta, **given}}

    def _roots(self) -> dict[str, Any]:
        # client/roots: the stateless era has no notice of changed roots to announce
        return {"roots": {}} if "roots" in self.identity.capabilities else {}

    def flaw_of(self, result: Mapping[str, Any]) -> str | None:
        """Return a complaint about an unknown ``resultType``: such a result is invalid (basic/index)."""
        kind = result.get("resultType", "complete")
        return None if kind in ("complete", "input_required", "task") else f"resultType is {kind!r:.80}"

    def at_level(self, level: str | None) -> Stateless:
        """Return this era asking for log messages from a level on."""
        return replace(self, log_level=level)
