"""Credentials: how a client proves who it is, and how a server checks it; one class for both ends.

A client asks ``headers()`` before each request, and after a 401 calls ``refresh()`` once and tries again. A server asks
``authenticate(headers)`` and gets the name of the client, or None for "missing or wrong", never the reason: what an
attacker learns from it is nothing. Secrets are compared in constant time, and no repr or error shows one.

Locks: none, so everything here can be pickled. What changes is one attribute that is replaced whole; two threads
that refresh at once both do the work, and the last to finish wins.
"""

from __future__ import annotations

import hmac
import math
import re
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Protocol, TypeGuard

from .policies import seconds

ALGORITHMS = (
    *("HS256", "HS384", "HS512"),
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"),
)
"""What a JWT may be signed with: by one secret at both ends, or by a private key on the client."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_LATEST_DATE = 1e12
# We check these, by our own clock and more strictly: in PyJWT an infinite exp overflows.
_UNCHECKED = {f"verify_{name}": False for name in ("exp", "nbf", "iat", "iss", "sub")}


class AuthProvider(Protocol):
    """What a client's ``auth_provider=`` has to be; both methods may be called from many threads at once."""

    def headers(self) -> Mapping[str, str]:
        """Return the headers that prove who we are, for the next request."""

    def refresh(self) -> bool | None:
        """Get new credentials, for the server refused these; only True says that a second try makes sense."""


class Authenticator(Protocol):
    """What a server asks who a client is; called from many threads at once.

    It may have an attribute ``challenge``: what a refusal says in ``WWW-Authenticate``; else that is ``Bearer``.
    """

    def authenticate(self, headers: Mapping[str, str]) -> str | None:
        """Return the name of the client that these headers prove, or None."""


class BearerTokenAuth:
    """A token in ``Authorization: Bearer`` (RFC 6750).

    Args:
        token: The token; or a function that returns the current one; or, for a server, ``{client: token}``. A client
            keeps what the function returned until ``refresh()``; a server calls it for each request.
        principal: The name that a server gives to whoever has the token; a mapping brings its own names.
    """

    challenge = "Bearer"

    def __init__(self, token: str | Callable[[], str] | Mapping[str, str], *, principal: str = "bearer") -> None:
        self._principal = _name("principal", principal)
        self._source: Callable[[], str] | None = None
        self._tokens: Mapping[str, str] = {}  # replaced whole
        if isinstance(token, (str, Mapping)):
            self._tokens = _by_client("token", token, principal)
        elif callable(token):
            self._source = token
        else:
            raise TypeError(f"token must be a str, a function or a mapping of str to str, not {type(token).__name__}")

    def headers(self) -> Mapping[str, str]:
        """Return the Authorization header.

        Raises:
            TypeError: There are the tokens of several clients, or the function returned no str.
            ValueError: The function returned what no header can hold.
        """
        if self._source and not self._tokens:
            self.refresh()
        return {"Authorization": f"Bearer {_the_only(self._tokens, 'token')}"}

    def refresh(self) -> bool:
        """Call the function again; False where there is none. What it raises is raised here, and the old token stays.

        Raises:
            TypeError: The function returned no str.
            ValueError: The function returned what no header can hold.
        """
        if not self._source:
            return False
        self._tokens = self._asked(self._source)
        return True  # even for an equal token: another thread may just have brought what this one lacks

    def authenticate(self, headers: Mapping[str, str]) -> str | None:
        """Return the name of the client whose token this is, or None.

        Raises:
            TypeError: The function returned no str.
            ValueError: The function returned what no header can hold.
        """
        presented = _bearer(headers)
        if presented is None:
            return None
        return _recognised(presented, self._asked(self._source) if self._source else self._tokens)

    def _asked(self, source: Callable[[], str]) -> dict[str, str]:
        return {self._principal: _text("what the function for the token returns", source())}

    def __repr__(self) -> str:
        return f"<BearerTokenAuth of {'a function' if self._source else _count(self._tokens)}>"


class APIKeyAuth:
    """A key in a header of its own.

    Args:
        keys: The key; or, for a server, ``{client: key}``.
        header: The name of the header.
        principal: The name that a server gives to whoever has the key; a mapping brings its own names.
    """

    def __init__(self, keys: str | Mapping[str, str], header: str = "X-API-Key", *, principal: str = "api-key") -> None:
        if not isinstance(keys, (str, Mapping)):
            raise TypeError(f"keys must be a str or a mapping of str to str, not {type(keys).__name__}")
        if not isinstance(header, str):
            raise TypeError(f"header must be a str, not {type(header).__name__}")
        if not _HEADER_NAME.fullmatch(header):
            raise ValueError("header must be the name of a header, such as X-API-Key")
        self._keys = _by_client("keys", keys, _name("principal", principal))
        self._header = header
        self.challenge = f'ApiKey header="{header}"'  # there has to be one (RFC 9110, 15.5.2)

    def headers(self) -> Mapping[str, str]:
        """Return the header with the key.

        Raises:
            TypeError: There are the keys of several clients.
        """
        return {self._header: _the_only(self._keys, "key")}

    def refresh(self) -> bool:
        """Return False: there is no other key."""
        return False

    def authenticate(self, headers: Mapping[str, str]) -> str | None:
        """Return the name of the client whose key this is, or None."""
        presented = _header(headers, self._header)
        return None if presented is None else _recognised(presented, self._keys)

    def __repr__(self) -> str:
        return f"<APIKeyAuth {self._header} of {_count(self._keys)}>"


class JWTAuth:
    """A signed token that soon expires (RFC 7519), in ``Authorization: Bearer``. It needs the extra ``[jwt]``.

    Args:
        secret: For HS256 and its like the secret of both ends; of at least 32 bytes, or PyJWT warns. For all others
            a PEM: the private key on a client, the public key on a server.
        algorithm: One of ALGORITHMS; a server accepts this one alone, whatever a token says.
        issuer: What a client claims as ``iss``; a server refuses any other. None: not claimed, not checked.
        audience: What a client claims as ``aud``; a server refuses a token for any other. None: not claimed, and a
            server refuses a token that names any, for it is meant for somebody else.
        subject: Who the client is: its claim ``sub``, and thus its name on the server.
        lifetime: Seconds from signing to expiry; a client signs anew when a tenth of them is left.
        leeway: Seconds by which a server's clock may differ.
        clock: Seconds since 1970; tests hand in their own.

    Raises:
        ImportError: PyJWT is missing, or for all but HS256 and its like, cryptography; it names the extra.
    """

    challenge = "Bearer"

    def __init__(
        self,
        secret: str | bytes,
        algorithm: str = "HS256",
        *,
        issuer: str | None = None,
        audience: str | None = None,
        subject: str = "mcp-client",
        lifetime: float = 300.0,
        leeway: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(secret, (str, bytes)):
            raise TypeError(f"secret must be str or bytes, not {type(secret).__name__}")
        if not secret.strip():
            raise ValueError("secret must not be empty")
        if not isinstance(algorithm, str):
            raise TypeError(f"algorithm must be a str, not {type(algorithm).__name__}")
        if algorithm not in ALGORITHMS:  # not shown: it may be the secret, in the wrong place
            raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}")
        if not callable(clock):
            raise TypeError(f"clock must be a function, not {type(clock).__name__}")
        self._secret = secret
        self._algorithm = algorithm
        self._issuer = None if issuer is None else _name("issuer", issuer)
        self._audience = None if audience is None else _name("audience", audience)
        self._subject = _name("subject", subject)
        self._lifetime = seconds("lifetime", lifetime)
        if not self._lifetime:
            raise ValueError("lifetime must be above 0")
        self._leeway = seconds("leeway", leeway)
        self._clock = clock
        self._signed: tuple[float, float, str] | None = None  # valid from, to be replaced at, token; replaced whole
        self._prepare_keys()

    def _prepare_keys(self) -> None:
        self._jwt = _pyjwt().PyJWT()
        self._signing, self._verifying = _keys(self._secret, self._algorithm)

    def __getstate__(self) -> dict[str, Any]:
        made_anew = {"_jwt", "_signing", "_verifying"}
        return {name: value for name, value in self.__dict__.items() if name not in made_anew}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare_keys()

    def headers(self) -> Mapping[str, str]:
        """Return the Authorization header, with the last token until shortly before it expires, then with a new one.

        Raises:
            TypeError: There is only a public key.
        """
        signed = self._signed
        if signed is None or not signed[0] <= self._clock() < signed[1]:  # also where the clock was set back
            signed = self._sign()
        return {"Authorization": f"Bearer {signed[2]}"}

    def refresh(self) -> bool:
        """Sign a new token.

        Raises:
            TypeError: There is only a public key.
        """
        self._sign()
        return True

    def _sign(self) -> tuple[float, float, str]:
        if self._signing is None:
            raise TypeError("this JWTAuth has a public key, which is for a server; a client signs with the private key")
        now = self._clock()
        claims = {
            "sub": self._subject,
            "iat": math.floor(now),
            "exp": math.ceil(now + self._lifetime),
            **({} if self._issuer is None else {"iss": self._issuer}),
            **({} if self._audience is None else {"aud": self._audience}),
        }
        token = str(self._jwt.encode(claims, self._signing, algorithm=self._algorithm))
        self._signed = signed = (now, now + 0.9 * self._lifetime, token)
        return signed

    def authenticate(self, headers: Mapping[str, str]) -> str | None:
        """Return the subject of the token, or None unless its signature, times, issuer and audience are right."""
        token = _bearer(headers)
        claims = None if token is None else self._proven(token)
        if claims is None or not self._is_current(claims):
            return None
        if self._issuer is not None and claims.get("iss") != self._issuer:
            return None
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject or _CONTROL.search(subject):
            return None
        return subject

    def _proven(self, token: str) -> dict[str, Any] | None:
        try:
            found = self._jwt.decode_complete(
                token, self._verifying, algorithms=[self._algorithm], audience=self._audience, options=_UNCHECKED
            )
        except Exception:  # the key is fine, __init__ saw to that: whatever ails this token, it proves nothing
            return None
        if "crit" in found["header"]:  # it asks for extensions, and we have none (RFC 7515, section 4.1.11)
            return None
        claims: dict[str, Any] = found["payload"]
        return claims

    def _is_current(self, claims: Mapping[str, Any]) -> bool:
        start, end, now = claims.get("nbf", 0), claims.get("exp"), self._clock()
        return _is_date(start) and _is_date(end) and start - self._leeway <= now < end + self._leeway

    def __repr__(self) -> str:
        return f"<JWTAuth {self._algorithm} sub={self._subject!r} iss={self._issuer!r} aud={self._audience!r}>"


def _text(name: str, value: object) -> str:
    """Check for a text that a header can hold; it is not shown, for it is a secret."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"{name} must not be empty")
    if _CONTROL.search(value):
        raise ValueError(f"{name} must not hold a control character; is there a line break at its end?")
    if value != value.strip():
        raise ValueError(f"{name} must not begin or end with a space")
    if max(value) > "\xff":
        raise ValueError(f"{name} must hold only characters of ISO 8859-1, as all headers do")
    return value


def _name(name: str, value: object) -> str:
    """Check for a name; it is not shown, for it may be a secret in the wrong place."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value.strip() or _CONTROL.search(value):
        raise ValueError(f"{name} must not be empty, and not hold control characters")
    return value


def _by_client(name: str, given: str | Mapping[str, str], principal: str) -> dict[str, str]:
    """Return the secrets by client, checked; messages show neither side, for they may have been mixed up."""
    if isinstance(given, str):
        return {principal: _text(name, given)}
    secrets = {
        _name(f"{name}: each client", client): _text(f"{name}: each value", secret) for client, secret in given.items()
    }
    if not secrets:
        raise ValueError(f"{name} must not be empty")
    if len(set(secrets.values())) < len(secrets):
        raise ValueError(f"{name}: two clients have the same value, so nobody could tell who is who")
    return secrets


def _the_only(secrets: Mapping[str, str], kind: str) -> str:
    if len(secrets) != 1:
        raise TypeError(f"a client needs exactly one {kind}, and here are those of {len(secrets)} clients")
    return next(iter(secrets.values()))


def _recognised(presented: str, secrets: Mapping[str, str]) -> str | None:
    """Return whose secret this is; the time it takes tells nothing, so all of them are compared."""
    sought, found = _bytes(presented), None
    for client, secret in secrets.items():
        if hmac.compare_digest(sought, _bytes(secret)):
            found = client
    return found


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # any str has its own bytes


def _header(headers: Mapping[str, str], name: str) -> str | None:
    """Return the value of a header, or None where it is missing, or there twice."""
    sought = name.lower()
    values = [value for key, value in headers.items() if key.lower() == sought]
    return values[0].strip(" \t") if len(values) == 1 else None


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = (_header(headers, "Authorization") or "").partition(" ")
    return token.lstrip(" ") or None if scheme.lower() == "bearer" else None


def _count(secrets: Mapping[str, str]) -> str:
    return "1 client" if len(secrets) == 1 else f"{len(secrets)} clients"


def _is_date(value: object) -> TypeGuard[float]:
    """Tell whether a claim is a time; not NaN, and not so large that sums overflow."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LATEST_DATE


def _keys(secret: str | bytes, algorithm: str) -> tuple[Any, Any]:
    """Return what signs, None where there is only a public key, and what verifies; made once, for parsing is slow."""
    jwt = _pyjwt()
    try:
        method = jwt.get_algorithm_by_name(algorithm)
        key = method.prepare_key(secret)
        public = key.public_key() if hasattr(key, "public_key") else key
        method.verify(b"", public, b"")  # before 2.11, PyJWT prepares keys of the wrong family, too
        return (None if hasattr(key, "verify") else key), public
    except NotImplementedError as error:
        raise _missing(f"JWTAuth with {algorithm} needs cryptography") from error
    except Exception:
        pass  # raised below and not from here, so that nothing that knows the key hangs on the error
    raise ValueError(f"secret is no key for {algorithm}")


def _pyjwt() -> ModuleType:
    try:
        import jwt
    except ImportError as error:
        raise _missing("JWTAuth needs PyJWT") from error
    return jwt


def _missing(what: str) -> ImportError:
    return ImportError(f"{what}: pip install 'mcp-sync-transports[jwt]'", name="jwt")
