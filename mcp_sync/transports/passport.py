"""Passport: the headers that an HTTP transport shows the server: the user's, and the credentials, if there are any.

They are shown to one origin only, and never in a text.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote, unquote_plus, urlsplit

from ..deadlines import Deadline
from ..engine import interrupts
from ..engine.dispatch import start_thread
from ..exceptions import LocalProtocolError, MCPConnectionError, MCPError, MCPTimeoutError
from ..protocol.headers import header_flaw
from ..protocol.redact import mask, names_a_secret

SHORT, LONG = 6, 16
"""Characters: a value shorter than the first would hide half of a text; a longer one than the second may be a key."""
REMEMBERED = 64
"""How many of the headers that an auth provider gave are kept, to be masked; it may give others each time."""
RENEWAL_SECONDS = 30.0
"""How long new credentials are waited for, where nothing else says it."""

E = TypeVar("E", bound=MCPError)
Interruptible: TypeAlias = "Callable[[Callable[[], object]], AbstractContextManager[None]]"


class Passport:
    """The user's headers and credentials for one server.

    Threads: ``headers()`` of the provider is called on the thread of each request, for which another thread would
    cost more than most providers do: nothing bounds it, so it must not wait for anybody. ``refresh()`` may; it is
    called on ``mcp-refresh``, one at a time, which outlives those who wait for it when it hangs.
    Locks: ``_refreshing``, held for a few instructions.

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
        self._password = "" if userinfo is None else userinfo[1]
        if userinfo is not None:
            self._headers["Authorization"] = basic(*userinfo)
        if auth_header is not None:
            self._headers["Authorization"] = auth_header
        self._provider = auth_provider
        self._given: deque[dict[str, str]] = deque(maxlen=REMEMBERED)
        self._refreshing = threading.Lock()  # guards _renewal and what is in it, _generation
        self._renewal: _Renewal | None = None
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
        if not self._given or self._given[-1] != given:
            self._given.append(given)
        return {**self._headers, **given}

    def renew(
        self,
        generation: int,
        deadline: Deadline | None,
        interruptible: Interruptible = lambda interrupt: nullcontext(),
    ) -> bool:
        """Fetch new credentials after those of this generation were refused; False: there are none.

        Of many who were refused at once, one does so, and all get what comes of it.

        Args:
            generation: Of the credentials that were refused.
            deadline: How long to wait; None as long as is usual.
            interruptible: Is given what makes the wait end at once, and is entered meanwhile.

        Raises:
            LocalProtocolError: The auth provider failed.
            MCPTimeoutError: It takes longer.
            MCPConnectionError: The wait was interrupted, or there can be no more threads.
        """
        refresh = getattr(self._provider, "refresh", None)
        if refresh is None:
            return False
        deadline = deadline or Deadline(RENEWAL_SECONDS)
        done = interrupts.Event()
        with self._refreshing:
            if self._generation != generation:
                return True
            renewal = self._renewal = self._renewal or self._begun(refresh)
            renewal.waiting.add(done)
        try:
            with interruptible(done.set):
                in_time = done.wait(deadline.remaining)
        finally:
            with self._refreshing:
                renewal.waiting.discard(done)
        return renewal.result(in_time)

    def _begun(self, refresh: Callable[[], object]) -> _Renewal:
        renewal = _Renewal()
        try:
            start_thread("mcp-refresh", self._fetch, refresh, renewal)
        except RuntimeError as error:
            text = f"no more threads can be started, and nobody would fetch new credentials ({error})"
            raise MCPConnectionError(text, details={"phase": "auth"}, may_have_run=False) from error
        return renewal

    def _fetch(self, refresh: Callable[[], object], renewal: _Renewal) -> None:
        outcome: bool | MCPError
        try:
            outcome = bool(refresh())
        except MCPError as error:
            outcome = error
        except BaseException as error:  # it is the user's, and may raise anything
            outcome = _failed("refresh()", error)
            outcome.__cause__ = error
        with self._refreshing:
            if self._renewal is renewal:
                self._renewal = None
            self._generation += outcome is True
            renewal.outcome = outcome
            for done in renewal.waiting:
                done.set()

    @property
    def secrets(self) -> set[str]:
        """What must not be read in a text: values of headers that usually hold secrets, or may be one; a password."""
        shown = [self._headers, *self._given.copy()]
        values = {v for headers in shown for name, v in headers.items() if names_a_secret(name) or len(v) >= LONG}
        return forms({*values, self._password})

    def forked(self) -> None:
        """In a forked child: the lock may be held by a thread that stayed behind, as did the one that refreshes."""
        self._refreshing = threading.Lock()  # guards as before
        self._renewal = None


class _Renewal:
    """New credentials that are being fetched.

    Attributes:
        waiting: What is set when they have come, for each who waits.
        outcome: Whether there are some, or why not; None as long as they have not come.
    """

    def __init__(self) -> None:
        self.waiting: set[interrupts.Event] = set()
        self.outcome: bool | MCPError | None = None

    def result(self, in_time: bool) -> bool:
        """Return, or raise, what came of it."""
        outcome = self.outcome
        if isinstance(outcome, MCPError):
            raise outcome.about("", may_have_run=outcome.may_have_run)  # each who waited gets one of its own
        if outcome is not None:
            return outcome
        if not in_time:
            text = "auth_provider: refresh() takes too long"
            raise MCPTimeoutError(text, details={"phase": "auth"}, may_have_run=False)
        raise MCPConnectionError("nobody waits for new credentials any more", may_have_run=False)


# -- what must not be read in a text ----------------------------------------------------------------------------------


def forms(secrets: Iterable[str]) -> set[str]:
    """Return secrets in every form in which a server may repeat them; what is too short to be masked is left out."""
    found = set(secrets)
    for value in tuple(found):
        kind, _, rest = value.rpartition(" ")
        found |= {rest, unquote(value), unquote_plus(value)}
        found |= {pair.strip().partition("=")[2] for pair in value.split(";")}  # of cookies
        if kind.lower() == "basic":
            found |= _in_clear(rest)
    return {part for part in found if len(part) >= SHORT}


def _in_clear(credentials: str) -> set[str]:
    try:
        whole = base64.b64decode(credentials, validate=True)
    except (binascii.Error, ValueError):
        return set()
    texts = {whole.decode("utf-8", "replace"), whole.decode("latin-1")}
    return texts | {text.partition(":")[2] for text in texts}


def secrets_in_query(url: str) -> set[str]:
    """Return the query of a URL, and the values in it."""
    try:
        query = urlsplit(url).query
    except ValueError:
        return set()
    return {query, *(pair.partition("=")[2] or pair for pair in query.split("&"))}


def hide(error: E, secrets: Iterable[str]) -> E:
    """Return an error without these secrets in its text and its details."""
    secrets = set(secrets)
    if error.args and isinstance(error.args[0], str):
        error.args = (mask(error.args[0], secrets), *error.args[1:])
    error.details = {k: mask(v, secrets) if isinstance(v, str) else v for k, v in error.details.items()}
    return error


def masked(raw: bytes, secrets: Iterable[str]) -> bytes:
    """Return what the other side said without these secrets."""
    return mask(raw.decode("utf-8", "replace"), secrets).encode("utf-8", "replace")


def basic(user: str, password: str) -> str:
    """Return a user and a password as they stand in a header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")


def request_headers(passport: Passport, accept: str) -> dict[str, str]:
    """Return the headers of a request, but for those about its body and its message; raises as Passport.headers."""
    return {**passport.headers(), "Accept": accept, "Accept-Encoding": "identity"}


def _failed(what: str, error: BaseException) -> LocalProtocolError:
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
