"""Configuration files: the servers that ``mcpServers`` and VS Code's ``servers`` name, as targets of a Client.

An entry is a command (``command``, ``args``, ``env``, ``cwd``, ``envFile``), a URL (``url``, ``type``, ``headers``) or
a container (``image``, ``command``, ``args``, ``env``, ``volumes``, ``ports``, ``network``, ``pull``,
``memory_limit_mb``, ``cpu_limit_percent``). ``{"command": "docker", "args": ["run", "-i", ...]}`` stays the command it
is: what its options mean is the command line's to know. Keys that belong to other hosts are left alone.

``${NAME}``, ``${NAME:-default}`` and ``${env:NAME}`` are our environment's, ``${input:id}`` comes from ``inputs``,
``${userHome}`` and ``${workspaceFolder}`` are folders; ``~`` begins a path in commands, arguments and folders. Only the
entry that is asked for is looked at, so a variable that is missing disables that server alone.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .targets import Choice

TABLES = ("mcpServers", "servers")
URLS = ("url", "serverUrl", "httpUrl")
KINDS = {
    "http": "http",
    "streamable-http": "streamable",
    "streamable_http": "streamable",
    "streamablehttp": "streamable",
    "sse": "sse",
    "ws": "http",
    "websocket": "http",
}
"""Types of an entry with a URL; ``http`` is one that finds out, as VS Code says."""

_TOKENS = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.S)
_COMMAS = re.compile(r'"(?:\\.|[^"\\\n])*"|,(?=\s*[}\]])')
_VARIABLE = re.compile(r"\$\{([^{}]*)\}")
_NAME = re.compile(r"(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.S)


def choose(
    source: str | os.PathLike[str] | Mapping[str, Any], name: str, inputs: Mapping[str, str]
) -> tuple[Choice, dict[str, Any]]:
    """Return what an entry means: a target of Client, and keywords for it.

    Args:
        source: The path of a file, or what one would hold.
        name: The server's name.
        inputs: Values for ``${input:id}``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, there is no such server in it, or the entry makes no sense.
        TypeError: The source is neither.
    """
    file, whole = _whole(source)
    servers = _servers(whole, file)
    if name not in servers:
        close = difflib.get_close_matches(str(name), servers, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(sorted(servers)) or 'none'}"
        raise ValueError(f"{file} has no server {name!r}{hint}")
    folder = Path(file).resolve().parent if not isinstance(source, Mapping) else Path.cwd()
    entry = _Entry(file, name, servers[name], folder, inputs, _asked(whole))
    return entry.choice()


def merged(entry: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of an entry and those of a caller, which win; variables and headers are put together."""
    both: dict[str, Any] = {**entry, **keywords}
    for name in ("env", "headers"):
        if isinstance(entry.get(name), Mapping) and isinstance(keywords.get(name), Mapping):
            both[name] = {**entry[name], **keywords[name]}
    return both


# -- the file ---------------------------------------------------------------------------------------------------------


def _whole(source: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(source, Mapping):
        return "the configuration", source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"from_config() wants a path or a dict, not {type(source).__name__} ({source!r})")
    path = Path(os.path.expanduser(os.fspath(source)))
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start})") from None
    return str(path), _parsed(text, str(path))


def _parsed(text: str, file: str) -> Mapping[str, Any]:
    """Return what JSON with comments and trailing commas says; lines keep their numbers."""
    plain = _COMMAS.sub(_without_comma, _TOKENS.sub(_without_comment, text))
    try:
        whole = json.loads(plain)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{file} is nested too deeply") from None
    if not isinstance(whole, dict):
        raise ValueError(f"{file} must hold a JSON object, not {_kind(whole)}")
    return whole


def _without_comment(found: re.Match[str]) -> str:
    text = found[0]
    return text if text.startswith('"') else re.sub(r"[^\n]", " ", text)


def _without_comma(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith('"') else " "


def _servers(whole: Mapping[str, Any], file: str) -> dict[str, Any]:
    inner = whole.get("mcp")  # VS Code's settings
    homes = [whole, inner] if isinstance(inner, Mapping) else [whole]
    tables = [(key, home[key]) for home in homes for key in TABLES if key in home]
    if not tables:
        raise ValueError(f"{file} has neither 'mcpServers' nor 'servers'")
    servers: dict[str, Any] = {}
    for key, table in tables:
        if not isinstance(table, Mapping):
            raise ValueError(f"{file}: {key} must be an object, name by name, not {_kind(table)}")
        servers = {**table, **servers}
    return servers


def _asked(whole: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return what the file wants to be asked for, by id (VS Code's ``inputs``)."""
    inner = whole.get("mcp")
    homes = [whole, inner] if isinstance(inner, Mapping) else [whole]
    items = [item for home in homes if isinstance(home.get("inputs"), Sequence) for item in home["inputs"]]
    return {str(item.get("id")): item for item in items if isinstance(item, Mapping)}


# -- one entry --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """One server of a file. Errors name the file, the server and the field, never a value of ours."""

    file: str
    name: str
    fields: Any
    folder: Path
    inputs: Mapping[str, str] = field(repr=False)
    asked: Mapping[str, Mapping[str, Any]] = field(repr=False)

    def choice(self) -> tuple[Choice, dict[str, Any]]:
        """Return what it means."""
        if not isinstance(self.fields, Mapping):
            raise self.flaw("", f"must be an object, not {_kind(self.fields)}")
        if self.fields.get("disabled") is True:
            raise self.flaw("", "is disabled there ('disabled': true)")
        urls = [key for key in URLS if key in self.fields]
        kinds = [*urls, *(key for key in ("image",) if key in self.fields)] or ["command"]
        if len(kinds) > 1 or (urls and "command" in self.fields):
            raise self.flaw("", f"has {' and '.join([*kinds, 'command'][:2])}; one of them says where the server is")
        if urls:
            return self._network(urls[0])
        return self._container() if "image" in self.fields else self._process()

    def _process(self) -> tuple[Choice, dict[str, Any]]:
        if "command" not in self.fields:
            raise self.flaw("", "has none of command, url and image")
        self._check_type("stdio")
        command = self._words("command")
        knobs: dict[str, Any] = {"env": self._environment()}
        if self.fields.get("cwd") is not None:
            knobs["cwd"] = str(self.folder / self._path("cwd", self.fields["cwd"]))
        return Choice("stdio", [*command, *self._words("args")]), knobs

    def _container(self) -> tuple[Choice, dict[str, Any]]:
        self._check_type("docker", "container", "stdio")
        command = [*self._words("command"), *self._words("args")]
        knobs: dict[str, Any] = {"env": self._environment()}
        if command:
            knobs["command"] = command
        for key in ("volumes", "ports"):
            if key in self.fields:
                knobs[key] = self._words(key)
        for key in ("network", "pull"):
            if key in self.fields:
                knobs[key] = self._text(key, self.fields[key])
        for key in ("memory_limit_mb", "cpu_limit_percent"):
            if key in self.fields:
                knobs[key] = self.fields[key]
        return Choice("docker", self._text("image", self.fields["image"])), knobs

    def _network(self, key: str) -> tuple[Choice, dict[str, Any]]:
        self._check_type(*KINDS)
        kind = KINDS[str(self.fields.get("type", "http")).lower()] if key != "httpUrl" else "streamable"
        url = self._text(key, self.fields[key])
        if url.lower().startswith("docker:"):
            raise self.flaw(key, "is no URL of a network; write 'image' for a container")
        headers = {name: self._text(f"headers.{name}", value) for name, value in self._table("headers")}
        return Choice(kind, url), {"headers": headers} if headers else {}

    def _check_type(self, *known: str) -> None:
        kind = self.fields.get("type", known[0])
        if not isinstance(kind, str) or kind.lower() not in known:
            raise self.flaw("type", f"must be {', '.join(known)} here, not {kind!r}")

    # -- fields -------------------------------------------------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        found = dict(self._env_file()) if self.fields.get("envFile") is not None else {}
        for name, value in self._table("env"):
            if value is not None:
                found[name] = self._text(f"env.{name}", _plain(value))
        return found

    def _env_file(self) -> Iterator[tuple[str, str]]:
        path = self.folder / self._path("envFile", self.fields["envFile"])
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise self.flaw("envFile", f"{str(path)!r} cannot be read ({error})") from None
        for number, line in enumerate(map(str.strip, lines), 1):
            name, equals, value = line.removeprefix("export ").partition("=")
            if not line or line.startswith("#"):
                continue
            if not equals:
                raise self.flaw("envFile", f"{str(path)!r}, line {number}: NAME=value is expected")
            value = value.strip()
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            yield name.strip(), value[1:-1] if quoted else value

    def _words(self, key: str) -> list[str]:
        value = self.fields.get(key)
        if value is None:
            return []
        if isinstance(value, str) and key != "args":
            return [self._path(key, value)]
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise self.flaw(key, f"must be a list of strings, not {_kind(value)}")
        return [self._path(f"{key}[{n}]", _plain(word)) for n, word in enumerate(value)]

    def _table(self, key: str) -> list[tuple[str, Any]]:
        value = self.fields.get(key)
        if value is None:
            return []
        if not isinstance(value, Mapping):
            raise self.flaw(key, f"must be an object, name by name, not {_kind(value)}")
        return list(value.items())

    def _path(self, key: str, value: Any) -> str:
        text = self._text(key, value)
        return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text

    def _text(self, key: str, value: Any) -> str:
        if not isinstance(value, str):
            raise self.flaw(key, f"must be a string, not {_kind(value)}")
        return _VARIABLE.sub(lambda found: self._value(key, found[1]), value)

    # -- variables ----------------------------------------------------------------------------------------------------

    def _value(self, key: str, said: str) -> str:
        known: dict[str, Callable[[], str]] = {
            "userHome": lambda: os.path.expanduser("~"),
            "workspaceFolder": self._workspace,
            "pathSeparator": lambda: os.sep,
            "/": lambda: os.sep,
        }
        if said in known:
            return known[said]()
        if said.startswith("input:"):
            return self._input(key, said.removeprefix("input:"))
        found = _NAME.fullmatch(said)
        if found is None:
            name = said.partition(":-")[0]  # what comes behind may be a secret
            raise self.flaw(key, f"holds ${{{name}}}, which is none of ${{NAME}}, ${{NAME:-default}}, ${{env:NAME}}")
        value, default = os.environ.get(found[1]), found[2]
        if default is not None and not value:
            return default
        if value is None:
            raise self.flaw(key, f"wants the environment variable {found[1]}, which is not set")
        return value

    def _workspace(self) -> str:
        return str(self.folder.parent if self.folder.name == ".vscode" else self.folder)

    def _input(self, key: str, id_: str) -> str:
        about = self.asked.get(id_, {})
        value = self.inputs.get(id_, about.get("default"))
        if isinstance(value, str):
            return value
        words = f" ({about['description']})" if isinstance(about.get("description"), str) else ""
        raise self.flaw(key, f"wants the input {id_!r}{words}; give it: inputs={{{id_!r}: '...'}}")

    def flaw(self, key: str, problem: str) -> ValueError:
        """Return the error about a field."""
        return ValueError(f"{self.file}: server {self.name!r}{f': {key}' if key else ''} {problem}")


def _plain(value: Any) -> Any:
    """Return a number or a truth value as people mean it where a string belongs."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
