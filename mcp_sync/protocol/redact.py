"""What must not be read in a log, a repr or an exception: secrets in commands, URLs and text. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

MASK = "***"

_NAMES = (
    "pass(?:word|wd|phrase)?|pwd|secret|token|bearer|jwt|cookie|api[-_]?key|access[-_]?key|credential|auth|private"
)
_SECRET_NAME = re.compile(_NAMES, re.I)
# Bounded, and a URL known by its "://", or a long word would take quadratic time.
_ASSIGNED = re.compile(rf"((?:{_NAMES})[\w.-]{{0,200}}[\"']?\s{{0,20}}[=:]).+", re.I | re.S)
_URL_PARTS = re.compile(
    r"(?P<scheme>(?<=[a-z0-9+.-])://)(?:[^/?#\s]*@)?(?P<rest>[^\s?#]*)(?P<query>\?[^\s#]*)?(?P<fragment>#\S*)?", re.I
)


def names_a_secret(name: str) -> bool:
    """Tell whether a variable or an option of this name usually holds a secret."""
    return bool(_SECRET_NAME.search(name))


def redact_url(text: str) -> str:
    """Return the text with user names, passwords, queries and fragments of URLs masked."""
    return _URL_PARTS.sub(_shown_url, text)


def _shown_url(found: re.Match[str]) -> str:
    query = f"?{MASK}" if found["query"] else ""
    fragment = f"#{MASK}" if found["fragment"] else ""
    return f"{found['scheme']}{found['rest']}{query}{fragment}"


def redact_command(argv: Sequence[str]) -> list[str]:
    """Return a command with the values of options that usually hold secrets masked.

    ``--token x``, ``--token=x``, ``--env=API_KEY=x``, ``--header "Authorization: x"``: what follows the name in the
    same word is masked to its end, and a word that only names a secret masks the next.
    """
    shown: list[str] = []
    masking = False
    for word in argv:
        if masking and not word.startswith("--"):
            shown.append(MASK)
            masking = False
            continue
        assigned = _ASSIGNED.search(word)
        masking = word.startswith("-") and not assigned and names_a_secret(word)
        shown.append(_ASSIGNED.sub(rf"\1{MASK}", redact_url(word)))
    return shown


def secrets_of(variables: Mapping[str, str]) -> list[str]:
    """Return the values of variables that usually hold secrets; longest first, short ones left out."""
    values = {value for name, value in variables.items() if names_a_secret(name) and len(value) >= 6}
    return sorted(values, key=len, reverse=True)


def mask(text: str, secrets: Iterable[str]) -> str:
    """Return the text without any of the secrets."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):  # or the rest of a longer one would stay
        text = text.replace(secret, MASK)
    return text
