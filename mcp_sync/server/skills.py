"""Skills: folders with instructions for models, offered as resources that a client can list, check and read.

The extension ``io.modelcontextprotocol/skills`` of the stateless era. A skill is a folder with a SKILL.md, which begins
with its name and description as YAML; all its files are resources below ``skill://<name>/``. They are read when they
are added: what is listed, with its digest, is what is served.

Source: SEP-2640.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from ..exceptions import JSONRPCError, LocalProtocolError
from ..protocol.eras import META
from ..protocol.messages import INVALID_PARAMS, encode
from .calls import Call

if TYPE_CHECKING:
    from .app import Server

NAME = META + "skills"
MANIFEST = "SKILL.md"
FOLDER_TYPE = "inode/directory"
MAX_BYTES = 16 << 20
"""Of one skill; what is larger is no instruction."""
_SKILL_NAME = re.compile(r"[a-z0-9](?:-?[a-z0-9])*")
_FRONTMATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Skill:
    """One skill.

    Attributes:
        name: Its name, which is that of its folder.
        frontmatter: What its SKILL.md begins with.
        files: What its files hold, by path.
    """

    name: str
    frontmatter: Mapping[str, Any]
    files: Mapping[str, bytes]

    @property
    def uri(self) -> str:
        """The URI of its folder."""
        return f"skill://{self.name}"

    def uri_of(self, path: str) -> str:
        """Return the URI of one of its files."""
        return f"{self.uri}/{quote(path)}"

    def entry(self) -> dict[str, Any]:
        """Return what ``skills/list`` says of it."""
        resources = [
            {"uri": self.uri_of(path), "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
            for path, data in self.files.items()
        ]
        return {"uri": self.uri_of(MANIFEST), "frontmatter": dict(self.frontmatter), "resources": resources}


class Skills:
    """The skills of a server. It is an Extension.

    Args:
        server: The server.
    """

    name = NAME

    def __init__(self, server: Server) -> None:
        self._server = server
        self._skills: dict[str, Skill] = {}
        self.settings: Mapping[str, Any] = {"directoryRead": True}
        self.methods: Mapping[str, Callable[[Call], dict[str, Any]]] = {
            "skills/list": self._list,
            "skills/get": self._get,
            "resources/directory/read": self._read_folder,
        }

    def add(self, folder: Path) -> None:
        """Add the skills in a folder; or the folder, if it is one itself.

        Raises:
            ValueError: There is none, or one is not valid; the text names the file.
        """
        folders = [folder] if (folder / MANIFEST).is_file() else sorted(folder.iterdir()) if folder.is_dir() else []
        skills = [read_skill(one) for one in folders if (one / MANIFEST).is_file()]
        if not skills:
            raise ValueError(f"{folder}: there is no folder with a {MANIFEST}")
        for skill in skills:
            if skill.name in self._skills:
                raise ValueError(f"{folder}: there is a skill {skill.name!r} already")
        for skill in skills:
            self._skills = {**self._skills, skill.name: skill}
            self._offer(skill)

    def _offer(self, skill: Skill) -> None:
        for path, data in skill.files.items():
            own = {"name": f"{skill.name}/{path}"}
            if path == MANIFEST:
                own = {"name": str(skill.frontmatter["name"]), "description": str(skill.frontmatter["description"])}
            kind = _kind_of(path)
            content = _as_told(data) if kind is None or kind.startswith("text/") else data
            self._server.add_resource(skill.uri_of(path), content, mime_type=kind, size=len(data), **own)

    def _list(self, call: Call) -> dict[str, Any]:
        if call.params.get("cursor") is not None:
            raise JSONRPCError(INVALID_PARAMS, "params.cursor is none of ours")
        return {"skills": [skill.entry() for skill in self._skills.values()], **self._server.caching}

    def _get(self, call: Call) -> dict[str, Any]:
        uri = call.params.get("uri")
        for skill in self._skills.values():
            if uri == skill.uri_of(MANIFEST):
                return {"skill": skill.entry(), **self._server.caching}
        raise JSONRPCError(INVALID_PARAMS, f"there is no skill {uri!r:.200}", {"uri": uri})

    def _read_folder(self, call: Call) -> dict[str, Any]:
        uri = call.params.get("uri")
        if call.params.get("cursor") is not None:
            raise JSONRPCError(INVALID_PARAMS, "params.cursor is none of ours")
        for skill in self._skills.values():
            if isinstance(uri, str) and (uri == skill.uri or uri.startswith(f"{skill.uri}/")):
                children = list(_children(skill, uri.rstrip("/")))
                if children:
                    return {"resources": children, **self._server.caching}
        raise JSONRPCError(INVALID_PARAMS, f"{uri!r:.200} is no directory", {"uri": uri})


def _children(skill: Skill, folder: str) -> Iterator[dict[str, Any]]:
    seen = set()
    for path, data in skill.files.items():
        uri = skill.uri_of(path)
        if not uri.startswith(f"{folder}/"):
            continue
        first, slash, _ = uri[len(folder) + 1 :].partition("/")
        if first in seen:
            continue
        seen.add(first)
        child: dict[str, Any] = {"uri": f"{folder}/{first}", "name": unquote(first)}
        if slash:
            yield {**child, "mimeType": FOLDER_TYPE}
        else:
            kind = _kind_of(path)
            yield {**child, **({"mimeType": kind} if kind else {}), "size": len(data)}


def _kind_of(path: str) -> str | None:
    return "text/markdown" if path.endswith(".md") else mimetypes.guess_type(path)[0]


def _as_told(data: bytes) -> str | bytes:
    """Return text where it is some; what is none stays what it is, or it would not have the digest that is listed."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def read_skill(folder: Path) -> Skill:
    """Return the skill in a folder.

    Raises:
        ValueError: It is not valid; the text names the file.
    """
    files = dict(_files(folder))
    if MANIFEST not in files:
        raise ValueError(f"{folder / MANIFEST} leads out of its folder")
    frontmatter = _frontmatter(folder / MANIFEST, files[MANIFEST])
    name = frontmatter.get("name")
    if not isinstance(name, str) or not _SKILL_NAME.fullmatch(name) or len(name) > 64:
        raise ValueError(f"{folder / MANIFEST}: name must be of a-z, 0-9 and single hyphens, not {name!r:.80}")
    if name != folder.resolve().name:
        raise ValueError(f"{folder / MANIFEST}: its name is {name!r}, and that of its folder {folder.resolve().name!r}")
    if not isinstance(frontmatter.get("description"), str) or not frontmatter["description"].strip():
        raise ValueError(f"{folder / MANIFEST}: there is no description")
    return Skill(name, frontmatter, files)


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a skill, first the SKILL.md; nothing that is hidden, and nothing outside of the folder."""
    home, total = folder.resolve(), 0
    found = sorted(path for path in home.rglob("*") if path.is_file())
    for path in sorted(found, key=lambda one: one != home / MANIFEST):
        inside = path.relative_to(home)
        if any(part.startswith(".") for part in inside.parts) or not path.resolve().is_relative_to(home):
            continue
        data = path.read_bytes()
        total += len(data)
        if total > MAX_BYTES:
            raise ValueError(f"{folder}: a skill may have {MAX_BYTES} bytes in all")
        yield inside.as_posix(), data


def _frontmatter(path: Path, data: bytes) -> dict[str, Any]:
    text = _as_told(data)
    found = _FRONTMATTER.match(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"{path}: it does not begin with YAML between two lines of ---")
    try:
        import yaml
    except ImportError as error:
        text = "skills need PyYAML: pip install 'mcp-sync-transports[server]'"
        raise ImportError(text, name="yaml") from error
    try:
        content = yaml.load(found[1], Loader=_plain_loader(yaml))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path}: what stands between the --- is no mapping")
    try:
        encode(content)
    except LocalProtocolError as flaw:
        raise ValueError(f"{path}: what stands between the --- is more than JSON can say: {flaw}") from None
    return content


def _plain_loader(yaml: Any) -> Any:
    """Return a safe loader that leaves dates as text, for JSON has none."""

    class PlainLoader(yaml.SafeLoader):  # type: ignore[misc]  # yaml is imported late
        """Loads what JSON can say."""

    PlainLoader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return PlainLoader
