"""What must not be read in a log, a repr or an exception: secrets in commands, URLs and text. Pure."""

from __future__ import annotations

import json
import re
from binascii import b2a_base64
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import lru_cache

MASK = "***"

_NAMES = (
    "pass(?:word|wd|phrase)?|pwd|secret|token|bearer|jwt|cookie|api[-_]?key|access[-_]?key|credential|auth|private"
)
_CUT = "..."
_TELLING = 8
"""Characters: a shorter beginning of a secret tells little, and may be chance."""
_SECRET_NAME = re.compile(_NAMES, re.I)
# Bounded, and a URL known by its "://", or a long word would take quadratic time.
_ASSIGNED = re.compile(rf"((?:{_NAMES})[\w.-]{{0,200}}[\"']?\s{{0,20}}[=:]).+", re.I | re.S)
_URL_PARTS = re.compile(
    r"(?P<scheme>(?<=[a-z0-9+.-])://)(?:[^/?#\s]*@)?(?P<rest>[^\s?#]*)(?P<query>\?[^\s#]*)?(?P<fragment>#\S*)?", re.I
)

_PASSWORD = re.compile(r"(?<=[a-z0-9+.-])://[^/?#\s:@]{0,200}:([^/?#\s@]{1,1000})@", re.I)
_SHORT = 6
"""Characters. What is shorter is masked as it is: in hexadecimal or base64 it would stand in many a harmless text."""
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]+")
_FOR_URLS = str.maketrans("+/", "-_")


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
    """Return what is secret in variables, longest first, short ones left out.

    It is the values of those that usually hold secrets, the lines of such a value, which are often written by
    themselves, and the passwords of all URLs.
    """
    values = [value for name, value in variables.items() if names_a_secret(name)]
    passwords = {found[1] for value in variables.values() for found in _PASSWORD.finditer(value)}
    found = {*values, *passwords, *(line for value in values for line in value.splitlines())}
    return sorted((one for one in found if len(one) >= _SHORT), key=len, reverse=True)


def mask(text: str, secrets: Iterable[str]) -> str:
    """Return the text without any of the secrets, in whichever of the usual encodings they stand there.

    Where the text was cut, the beginning of one at its end goes, too.
    """
    found = {spelling for secret in secrets if secret for spelling in _spellings(secret)}
    spellings = sorted(found, key=len, reverse=True)  # or the rest of a longer one would stay
    for spelling in spellings:
        text = text.replace(spelling, MASK)
    for spelling in spellings:
        text = _without_beginning(text, spelling)
    return text


def _without_beginning(text: str, secret: str) -> str:
    if len(secret) < _TELLING:
        return text
    end = len(text) - len(_CUT) if text.endswith(_CUT) else len(text)
    at = text.find(secret[:_TELLING], max(0, end - len(secret)), end)
    while at >= 0 and not secret.startswith(text[at:end]):
        at = text.find(secret[:_TELLING], at + 1, end)
    return text if at < 0 else f"{text[:at]}{MASK}{text[end:]}"


@lru_cache(maxsize=128)  # every line of a server's stderr is looked at
def _spellings(secret: str) -> Set[str]:
    """Return how a secret may be written: in URLs, in JSON, by Python's repr, in HTML, in base64 and hexadecimal."""
    if len(secret) < _SHORT:
        return {secret}
    raw = secret.encode("utf-8", "surrogatepass")
    spellings = {secret, raw.hex(), raw.hex().upper(), *_in_base64(raw)}
    return spellings if _PLAIN.fullmatch(secret) else spellings | _escaped(secret, raw)


def _escaped(secret: str, raw: bytes) -> set[str]:
    """Return how a secret is written where not all of its characters may stand."""
    from html import escape  # both take milliseconds to import, and are rarely needed
    from urllib.parse import quote, quote_from_bytes, quote_plus

    percent = quote_from_bytes(raw, safe="")
    urls = {percent, quote_from_bytes(raw), quote_plus(raw), quote(percent, safe="")}
    urls |= {re.sub("%..", lambda byte: byte[0].lower(), url) for url in urls}
    in_json = {json.dumps(secret, ensure_ascii=ensure_ascii)[1:-1] for ensure_ascii in (True, False)}
    in_json |= {json.dumps(text)[1:-1] for text in in_json}
    in_json |= {text.replace("/", "\\/") for text in in_json}
    others = {repr(secret)[1:-1], repr(raw)[2:-1], escape(secret), "".join(f"%{byte:02X}" for byte in raw)}
    return urls | in_json | others


def _in_base64(raw: bytes) -> set[str]:
    """Return what stands for the bytes in base64, whatever stands before and behind them."""
    found = set()
    for before in range(3):
        text = b2a_base64(bytes(before) + raw, newline=False).decode("ascii")
        found.add(text[-(-before * 4 // 3) : (before + len(raw)) * 4 // 3])  # characters that are theirs alone
    return found | {text.translate(_FOR_URLS) for text in found}
