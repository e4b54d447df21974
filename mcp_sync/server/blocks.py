"""Blocks of content as the wire has them: text, images, audio, embedded resources, links to resources.

Source: server/tools (tool results), server/prompts (data types), schema (ContentBlock, ResourceContents).
"""

from __future__ import annotations

import mimetypes
import os
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ..models import BaseModel, ValidationError, dump, types

PathLike: TypeAlias = "str | os.PathLike[str]"

_BY_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"GIF8", 0, "image/gif"),
    (b"WEBP", 8, "image/webp"),
    (b"BM", 0, "image/bmp"),
    (b"II*\0", 0, "image/tiff"),
    (b"MM\0*", 0, "image/tiff"),
    (b"ftypavif", 4, "image/avif"),
    (b"WAVE", 8, "audio/wav"),
    (b"ID3", 0, "audio/mpeg"),
    (b"\xff\xfb", 0, "audio/mpeg"),
    (b"\xff\xf3", 0, "audio/mpeg"),
    (b"\xff\xf2", 0, "audio/mpeg"),
    (b"OggS", 0, "audio/ogg"),
    (b"fLaC", 0, "audio/flac"),
    (b"ftypM4A", 4, "audio/mp4"),
    (b"\xff\xf1", 0, "audio/aac"),
)
_BY_SUFFIX = {  # what the machine's own tables say differs
    ".aac": "audio/aac",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".csv": "text/csv",
    ".flac": "audio/flac",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".m4a": "audio/mp4",
    ".md": "text/markdown",
    ".mp3": "audio/mpeg",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".txt": "text/plain",
    ".wav": "audio/wav",
    ".webp": "image/webp",
}
_TEXTS = ("json", "xml", "javascript", "yaml", "toml")


class UnfitResult(ValueError):
    """A function returned what cannot be sent, or what its output schema does not allow. The text is for anybody."""


class Content(ABC):
    """What becomes a block of content."""

    @abstractmethod
    def block(self) -> dict[str, Any]:
        """Return the block.

        Raises:
            OSError: It is in a file that cannot be read.
        """

    @abstractmethod
    def contents(self, uri: str) -> dict[str, Any]:
        """Return it as the contents of a resource of this URI; raises as ``block``."""


class Media(Content):
    """Bytes of a kind, or a file with such.

    Args:
        data: The bytes.
        path: Or a file, which is read when it is sent.
        mime_type: What they are; None finds out, by their beginning or the name of the file.

    Raises:
        TypeError: Not one of ``data`` and ``path``, or of another type.
        ValueError: The type of ``data`` is not known, or ``mime_type`` is of another kind.
    """

    kind: str

    def __init__(
        self, data: bytes | None = None, path: PathLike | None = None, *, mime_type: str | None = None
    ) -> None:
        self._data = _exactly_one(type(self).__name__, data=data, path=path)
        if mime_type is not None and not mime_type.startswith(f"{self.kind}/"):
            raise ValueError(f"mime_type of {type(self).__name__} must begin with {self.kind}/, not {mime_type!r:.80}")
        self._mime_type = mime_type
        if isinstance(self._data, bytes):
            self._type_of(self._data)

    def _type_of(self, data: bytes) -> str:
        suffix = self._data.suffix.lower() if isinstance(self._data, Path) else ""
        found = self._mime_type or _by_magic(data, self.kind) or _BY_SUFFIX.get(suffix, "")
        if not found.startswith(f"{self.kind}/"):
            raise ValueError(f"nothing tells the type of this {self.kind}; say it: mime_type={self.kind + '/...'!r}")
        return found

    def _read(self) -> tuple[str, str]:
        """Return the type and the bytes, as base64."""
        data = self._data.read_bytes() if isinstance(self._data, Path) else self._data
        return self._type_of(data), b64encode(data).decode("ascii")

    def block(self) -> dict[str, Any]:
        """Return the block; see the parent."""
        mime_type, data = self._read()
        return {"type": self.kind, "data": data, "mimeType": mime_type}

    def contents(self, uri: str) -> dict[str, Any]:
        """Return it as the contents of a resource; see the parent."""
        mime_type, data = self._read()
        return {"uri": uri, "mimeType": mime_type, "blob": data}

    def __repr__(self) -> str:
        data = self._data
        return f"<{type(self).__name__} {data if isinstance(data, Path) else f'of {len(data)} bytes'}>"


class Image(Media):
    """An image: its bytes, or a file with such; ``Media`` has the arguments."""

    kind = "image"


class Audio(Media):
    """A sound: its bytes, or a file with such; ``Media`` has the arguments."""

    kind = "audio"


class File(Content):
    """A resource that is sent along, with a URI of its own.

    Args:
        uri: Its URI; None for that of ``path``, which tells where the file is.
        text: What is in it, as text.
        data: Or as bytes.
        path: Or a file, which is read when it is sent.
        mime_type: What it is; None finds out, by the name.

    Raises:
        TypeError: Not one of ``text``, ``data`` and ``path``, or of another type; or no ``uri``.
    """

    def __init__(
        self,
        uri: str | None = None,
        *,
        text: str | None = None,
        data: bytes | None = None,
        path: PathLike | None = None,
        mime_type: str | None = None,
    ) -> None:
        self._data = _exactly_one("File", text=text, data=data, path=path)
        if uri is None and not isinstance(self._data, Path):
            raise TypeError("File needs a uri, unless it has a path")
        self._uri = self._data.absolute().as_uri() if uri is None and isinstance(self._data, Path) else str(uri)
        name = self._data.name if isinstance(self._data, Path) else self._uri
        self._mime_type = mime_type or _by_name(name)

    def block(self) -> dict[str, Any]:
        """Return the block; see the parent."""
        return {"type": "resource", "resource": self.contents(self._uri)}

    def contents(self, uri: str) -> dict[str, Any]:
        """Return it as the contents of a resource; its own URI goes before the one it is read by."""
        data = self._data.read_bytes() if isinstance(self._data, Path) else self._data
        text = _as_text(data, self._mime_type) if isinstance(self._data, Path) else data
        if isinstance(text, str):
            return {"uri": self._uri, "mimeType": self._mime_type or "text/plain", "text": text}
        return {"uri": self._uri, "mimeType": self._mime_type or "application/octet-stream", "blob": base64(text)}

    def __repr__(self) -> str:
        return f"<File {self._uri}>"


def _exactly_one(owner: str, **given: Any) -> Any:
    """Return the one argument that is there, checked; a path as a Path."""
    there = [name for name, value in given.items() if value is not None]
    if len(there) != 1:
        raise TypeError(f"{owner} takes exactly one of {' and '.join(given)}, not {' and '.join(there) or 'none'}")
    name, value = there[0], given[there[0]]
    if name == "path" and isinstance(value, (str, os.PathLike)):
        return Path(value)
    if name == "data" and isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if name == "text" and isinstance(value, str):
        return value
    kind = {"data": "bytes", "text": "a str"}.get(name, "a path")
    raise TypeError(f"{name} of {owner} must be {kind}, not {type(value).__name__}")


def _by_magic(data: bytes, kind: str) -> str | None:
    for magic, at, mime_type in _BY_MAGIC:
        if data.startswith(magic, at) and mime_type.startswith(kind):
            return mime_type
    return "image/svg+xml" if kind == "image" and b"<svg" in data[:1024] else None


def _by_name(name: str) -> str | None:
    return _BY_SUFFIX.get(os.path.splitext(name)[1].lower()) or mimetypes.guess_type(name)[0]


def _as_text(data: bytes, mime_type: str | None) -> str | bytes:
    """Return the bytes of a file as text, if they are text."""
    if mime_type and not mime_type.startswith("text/") and not mime_type.endswith(_TEXTS):
        return data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def base64(data: bytes) -> str:
    """Return bytes as the wire has them."""
    return b64encode(data).decode("ascii")


# -- anything as a block ----------------------------------------------------------------------------------------------

MODELS: tuple[type[BaseModel], ...] = (
    types.TextContent,
    types.ImageContent,
    types.AudioContent,
    types.ResourceLink,
    types.EmbeddedResource,
)
CONTENTS = (types.TextResourceContents, types.BlobResourceContents)
_BY_TYPE = {model.model_fields["type"].default: model for model in MODELS}


def text_block(text: str) -> dict[str, Any]:
    """Return a text as a block; what is no character (file names may have such) is spelt out."""
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return {"type": "text", "text": str.__str__(text)}  # also of an enum whose members are texts


def as_block(value: Any) -> dict[str, Any] | None:
    """Return what is content as a block, anything else as None.

    Content is: Image, Audio, File; the models of ``mcp_types`` for content, and for the contents of resources; a dict
    that has all that a block has to have.
    """
    if isinstance(value, Content):
        return value.block()
    if isinstance(value, MODELS):
        return dump(value)
    if isinstance(value, CONTENTS):
        return {"type": "resource", "resource": dump(value)}
    return _dict_block(value) if isinstance(value, Mapping) else None


def _dict_block(value: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = value.get("type")
    model = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    if model is None:
        return None
    try:
        model.model_validate(dict(value), strict=True)
    except ValidationError:
        return None
    return dict(value)
