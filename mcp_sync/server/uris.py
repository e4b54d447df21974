"""URIs of resources with places to fill in (RFC 6570): ``users://{id}/posts{?page,size}``, ``file:///{+path}``.

``{name}`` is one segment; ``{+name}`` or ``{name*}`` may hold slashes; ``{?a,b}`` are parts of the query, which may be
missing. Values are percent-decoded. What would lead out of a folder (a segment ``..``, or a slash at the beginning, but
for ``file://{+path}``) or holds a NUL is no match: most templates name files, and most functions do not look
(server/resources: URIs have to be validated).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote

_PLACE = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_URI = 8192


class UriTemplate:
    """A template of URIs.

    Args:
        text: The template.

    Raises:
        ValueError: It is none that is understood here; the text says why.

    Attributes:
        names: What there is to fill in, in order.
        optional: Those that may be missing.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: list[str] = []
        self.optional: list[str] = []
        self._rooted: str | None = None
        self._wide = False
        self._blurred = False
        pattern, at = "", 0
        for place in _PLACE.finditer(text):
            between = text[at : place.start()]
            self._blurred = self._blurred and "/" not in between
            pattern += re.escape(between) + self._place(place[1], text[place.end() : place.end() + 1])
            if between.endswith("://") and not place[1].startswith("?"):
                self._rooted = self.names[-1]
            at = place.end()
        rest = text[at:]
        if "{" in rest or "}" in rest:
            raise ValueError(f"{text!r:.100}: a brace without its other half")
        if self.optional and rest:
            raise ValueError(f"{text!r:.100}: nothing may follow the query")
        self._pattern = re.compile(pattern + re.escape(rest))

    def _place(self, inside: str, following: str) -> str:
        if inside.startswith("?"):
            for name in inside[1:].split(","):
                self.optional.append(self._named(name))
            return ""
        wide = inside.startswith("+") or inside.endswith("*")
        name = self._named(inside.removeprefix("+").removesuffix("*"))
        if self.optional:
            raise ValueError(f"{self.text!r:.100}: {{{name}}} stands behind the query")
        if following == "{" and not self.text.partition(f"{{{inside}}}")[2].startswith("{?"):
            raise ValueError(f"{self.text!r:.100}: nothing tells where {{{name}}} ends")
        if self._blurred:  # there would be many ways to match, and all of them would be tried
            raise ValueError(f"{self.text!r:.100}: behind what may hold slashes, one has to stand before {{{name}}}")
        if not wide:  # a segment ends where what follows begins: one way to match, and no time lost on others
            return f"(?P<{name}>[^/?#{re.escape(following.strip('{'))}]+)"
        if self._wide:
            raise ValueError(f"{self.text!r:.100}: only one place may hold slashes")
        self._wide = self._blurred = True
        return f"(?P<{name}>[^?#]+)"

    def _named(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{self.text!r:.100}: {{{name}}} is no name of a parameter")
        if name in self.names:
            raise ValueError(f"{self.text!r:.100}: {{{name}}} is there twice")
        self.names.append(name)
        return name

    def match(self, uri: str) -> dict[str, str] | None:
        """Return what fills the places of this URI, or None: it is not one of these."""
        if len(uri) > MAX_URI:
            return None
        path, mark, query = uri.partition("?") if self.optional else (uri, "", "")
        found = self._pattern.fullmatch(path)
        if found is None:
            return None
        values = {name: unquote(value) for name, value in found.groupdict().items()}
        if mark:
            values |= {name: value for name, value in parse_qsl(query, keep_blank_values=True) if name in self.optional}
        return values if self._is_harmless(values) else None

    def _is_harmless(self, values: Mapping[str, str]) -> bool:
        strange = any("\0" in value or ".." in re.split(r"[/\\]", value) for value in values.values())
        return not strange and not any(
            value.startswith(("/", "\\")) for name, value in values.items() if name != self._rooted
        )


def is_template(uri: str) -> bool:
    """Tell whether a URI has places to fill in."""
    return "{" in uri
