"""Secure: TLS contexts, what users may say about them, and what went wrong on the way to a server, in words."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Sequence
from typing import Any

from ..exceptions import MCPConnectionError, MCPError, RemoteProtocolError

_contexts: dict[tuple[Any, ...], ssl.SSLContext] = {}
"""The shared TLS contexts: making one costs 15 ms and a megabyte."""


def tls_context(verify: bool | str, cert: str | tuple[str, str] | None) -> ssl.SSLContext:
    """Return a TLS context, the same for the same files.

    Args:
        verify: Whether to check the server's certificate; or the file or folder with the authorities to trust.
        cert: Our own certificate: a file with it and its key, or both files.
    """
    key = (verify, cert)
    known = _contexts.get(key)
    if known is None:
        known = _contexts[key] = _new_context(verify, cert)
    return known


def _new_context(verify: bool | str, cert: str | tuple[str, str] | None) -> ssl.SSLContext:
    from ..manage.security import shipped_authorities  # takes milliseconds to import

    if isinstance(verify, str):
        folder = os.path.isdir(verify)
        context = ssl.create_default_context(cafile=None if folder else verify, capath=verify if folder else None)
    else:
        context = ssl.create_default_context(cafile=shipped_authorities())
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
    return context


# -- what users hand over ---------------------------------------------------------------------------------------------


def authorities(value: object) -> bool | str:
    """Return ``verify_ssl``, checked: True, False, or the path of the authorities to trust."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"verify_ssl must be True, False or a path, not {type(value).__name__} ({value!r})")
    return _there("verify_ssl", value)


def checked_context(value: object) -> ssl.SSLContext | None:
    """Return ``ssl_context``, checked."""
    if value is not None and not isinstance(value, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {type(value).__name__}")
    return value


def certificate(value: object) -> str | tuple[str, str] | None:
    """Return ``cert``, checked: a file, or a certificate and its key."""
    if value is None:
        return None
    if isinstance(value, (str, os.PathLike)):
        return _there("cert", value)
    if not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError("cert must be a file, or a pair of files: certificate and key")
    return _there("cert", value[0]), _there("cert", value[1])


def _there(name: str, path: str | os.PathLike[str]) -> str:
    if not os.path.exists(path):
        raise FileNotFoundError(f"{name}: there is no file or folder {os.fspath(path)!r}")
    return str(os.fspath(path))


# -- what went wrong --------------------------------------------------------------------------------------------------


NO_FILES = ("NO_CERTIFICATE_OR_CRL_FOUND", "KEY_VALUES_MISMATCH", "PEM_LIB", "NO_START_LINE", "BAD_BASE64_DECODE")
"""Why OpenSSL does not take a file."""


def in_words(root: BaseException, shown: str) -> tuple[type[MCPError], str]:
    """Return the type and the text of the error for what went wrong on the way to a server, and what to try."""
    name = type(root).__name__
    if isinstance(root, socket.gaierror):
        return MCPConnectionError, f"the host of {shown} is not known ({root.strerror}); is there a typing error?"
    if isinstance(root, ConnectionRefusedError):
        return MCPConnectionError, f"nobody listens at {shown}; is the server running, and the port right?"
    if isinstance(root, ssl.SSLError):
        return MCPConnectionError, _of_tls(root, shown)
    if name in ("LineTooLong", "HTTPException") or "headers" in str(root)[:60]:
        return RemoteProtocolError, f"the head of the reply from {shown} is too long"
    if name in _BY_NAME:
        return MCPConnectionError, _BY_NAME[name].format(shown=shown, name=name)
    if isinstance(root, OSError) and root.strerror:
        return MCPConnectionError, f"the connection to {shown} failed: {root.strerror}"
    return MCPConnectionError, f"the connection to {shown} broke ({name})"


_UNSENT = "the request to {shown} cannot be sent ({name})"
_BY_NAME = {
    "RemoteDisconnected": "{shown} closed the connection without a reply",
    "BadStatusLine": "what {shown} said is no HTTP ({name}); does the server speak https?",
    "BadHeader": _UNSENT,
    "BadFraming": "the chunks of the reply from {shown} are none",
    "InvalidHeader": _UNSENT,
    "InvalidURL": _UNSENT,
    "LocationParseError": _UNSENT,
    "UnicodeError": _UNSENT,
    "UnicodeEncodeError": _UNSENT,
    "InvalidSchema": "{shown} cannot be reached through the proxy that the environment names: of what kind is it?",
}


def _of_tls(error: ssl.SSLError, shown: str) -> str:
    name = type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {shown} cannot be trusted ({error.verify_message or name}); see verify_ssl"
    if error.reason in NO_FILES:
        return f"what verify_ssl or cert name are no certificates and keys ({error.reason})"
    return f"TLS with {shown} failed: {error.reason or name}; does the server speak https?"
