"""Passport: the headers that an HTTP transport shows the server: the user's, and the credentials, if there are any.

They are shown to one origin only, and never in a text.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from typing import Any

from ..deadlines import Deadline
from ..exceptions import LocalProtocolError, MCPError
from ..protocol.headers import header_flaw
from ..protocol.redact import mask, names_a_secret

SHORT, LONG = 6, 16
"""Characters: a value shorter than the first would hide half of a text; a longer one than the second may be a key."""


class Passport:
    """The user's headers and credentials for one server.

    Locks: ``_refreshing``, held while new credentials are fetched, always acquired with the deadline.

    Args:
        headers: The user's headers.
        auth_header: The value of ``Authorization``.
        auth_provider: Has ``headers()``, and ``refresh()`` for when the server no longer accepts them.
        userinfo: User and password of the URL, if there were any.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        auth_header: str | None = None,
        auth_provider: Any = None,
        userinfo: tuple[str, str] | None = None,
    ) -> None:
        self._headers = dict(headers)
        if userinfo is not None:
            self._headers["Authorization"] = basic(*userinfo)
        if auth_header is not None:
            self._headers["Authorization"] = auth_header
        self._provider = auth_provider
        self._given: dict[str, str] = {}
        self._refreshing = threading.Lock()  # guards the fetching of new credentials, so that it is done once
        self._generation = 0

    def __repr__(self) -> str:
        return f"<Passport with {', '.join(self._headers) or 'no headers'}>"

    @property
    def generation(self) -> int:
        """How often the credentials were renewed."""
        return self._generation

    def headers(self) -> dict[str, str]:
        """Return the headers for one request.

        Raises:
            LocalProtocolError: The auth provider failed, or gave a header that cannot be sent.
        """
        if self._provider is None:
            return dict(self._headers)
        try:
            given = checked_headers("auth_provider", self._provider.headers())
        except MCPError:
            raise
        except Exception as error:  # it is the user's, and may raise anything
            raise _failed("headers()", error) from error
        self._given = given
        return {**self._headers, **given}

    def renew(self, generation: int, deadline: Deadline) -> bool:
        """Fetch new credentials after those of this generation were refused; False: there are none.

        Of many who were refused at once, one does so.

        Raises:
            LocalProtocolError: The auth provider failed.
        """
        refresh = getattr(self._provider, "refresh", None)
        if refresh is None or not self._refreshing.acquire(timeout=deadline.remaining):
            return False
        try:
            if self._generation != generation:
                return True
            renewed = bool(refresh())
            self._generation += renewed
            return renewed
        except MCPError:
            raise
        except Exception as error:
            raise _failed("refresh()", error) from error
        finally:
            self._refreshing.release()

    def hidden(self, text: str) -> str:
        """Return a text without the values of headers that usually hold secrets, or are long enough to be one."""
        shown = {**self._headers, **self._given}
        secrets = [value for name, value in shown.items() if names_a_secret(name) or len(value) >= LONG]
        parts = {part for value in secrets for part in (value, value.rpartition(" ")[2]) if len(part) >= SHORT}
        return mask(text, parts)

    def forked(self) -> None:
        """In a forked child: the lock may be held by a thread that stayed behind."""
        self._refreshing = threading.Lock()  # guards as before


def basic(user: str, password: str) -> str:
    """Return a user and a password as they stand in a header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def request_headers(passport: Passport, accept: str) -> dict[str, str]:
    """Return the headers of a request, but for those about its body and its message; raises as Passport.headers."""
    return {**passport.headers(), "Accept": accept, "Accept-Encoding": "identity"}


def _failed(what: str, error: Exception) -> LocalProtocolError:
    return LocalProtocolError(
        f"auth_provider: {what} failed with {type(error).__name__}", details={"phase": "auth"}, may_have_run=False
    )


def checked_headers(name: str, headers: Any) -> dict[str, str]:
    """Return headers that can be sent.

    Raises:
        TypeError: They are no mapping of str to str.
        ValueError: One cannot be sent; its value is not shown.
    """
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise TypeError(f"{name} must be a mapping of str to str, not {type(headers).__name__}")
    for key, value in headers.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"{name} must map str to str; {key!r} maps to {type(value).__name__}")
        flaw = header_flaw(key, value)
        if flaw:
            raise ValueError(f"{name}: {flaw}")
    return dict(headers)


def checked_auth(value: object) -> str | None:
    """Return ``auth_header``, checked."""
    if value is not None:
        checked_headers("auth_header", {"Authorization": value})
    return value  # type: ignore[return-value]  # checked_headers has looked


def checked_provider(value: Any) -> Any:
    """Return ``auth_provider``, checked."""
    if value is not None and not callable(getattr(value, "headers", None)):
        raise TypeError(f"auth_provider must have a method headers(), which {type(value).__name__} has not")
    return value
