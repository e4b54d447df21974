"""What must not be read in a log, a repr or an exception: secrets in commands, URLs and text. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

MASK = "***"

_SECRET_NAME = re.compile(r"pass(word|wd|phrase)?|secret|token|api[-_]?key|access[-_]?key|credential|auth|private", re.I)
_URL_PARTS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?:[^/@\s]*@)?(?P<rest>[^\s?#]*)(?P<query>\?[^\s#]*)?", re.I)


def names_a_secret(name: str) -> bool:
    """Tell whether a variable or an option of this name usually holds a secret."""
    return bool(_SECRET_NAME.search(name))


def redact_url(text: str) -> str:
    """Return the text with user names, passwords and queries of URLs masked."""
    return _URL_PARTS.sub(
        lambda found: found["scheme"] + found["rest"] + (f"?{MASK}" if found["query"] else ""), text
    )


def redact_command(argv: Sequence[str]) -> list[str]:
    """Return a command with the values of options that usually hold secrets masked."""
    shown: list[str] = []
    masking = False
    for word in argv:
        if masking and not word.startswith("-"):
            shown.append(MASK)
            masking = False
            continue
        name, equals, _ = word.partition("=")
        masking = word.startswith("-") and not equals and names_a_secret(word)
        shown.append(f"{name}={MASK}" if equals and names_a_secret(name) else redact_url(word))
    return shown


def secrets_of(variables: Mapping[str, str]) -> list[str]:
    """Return the values of variables that usually hold secrets; longest first, short ones left out."""
    values = {value for name, value in variables.items() if names_a_secret(name) and len(value) >= 6}
    return sorted(values, key=len, reverse=True)


def mask(text: str, secrets: Iterable[str]) -> str:
    """Return the text without any of the secrets."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text
