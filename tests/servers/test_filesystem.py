"""The client over stdio against server-filesystem, whose directories come from its arguments or from our roots."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from servers.others import HANDSHAKES, Server

from mcp_sync import Client, MCPError, ToolError, ToolResult

pytestmark = pytest.mark.interop

TOOLS = {
    *("read_file", "read_text_file", "read_media_file", "read_multiple_files", "write_file", "edit_file"),
    *("create_directory", "list_directory", "list_directory_with_sizes", "directory_tree", "move_file"),
    *("search_files", "get_file_info", "list_allowed_directories"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory that the server may work in; it has a neighbour."""
    for name in ("allowed", "forbidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "forbidden" / "secret.txt").write_text("secret")
    return tmp_path / "allowed"


def call(client: Client, tool: str, **arguments: Any) -> ToolResult:
    return client.call_tool(tool, {name: _plain(value) for name, value in arguments.items()}).raise_for_error()


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


@pytest.mark.parametrize("version", [None, *HANDSHAKES])
def test_every_version_that_it_speaks_does(version: str | None, folder: Path) -> None:
    with Server("filesystem", folder).client(protocol_version=version) as client:
        assert client.protocol_version == (version or HANDSHAKES[-1])
        assert {tool.name for tool in client.list_tools()} == TOOLS
        assert call(client, "list_allowed_directories").text.splitlines()[1:] == [str(folder)]


def test_what_is_written_is_there_and_can_be_read(folder: Path) -> None:
    text = "first\nzwölf\u2028\U0001f600\nlast"
    path = folder / "notes.txt"
    with Server("filesystem", folder).client() as client:
        call(client, "write_file", path=path, content=text)
        assert path.read_text() == text
        whole = call(client, "read_text_file", path=path)
        assert (whole.text, whole.data) == (text, {"content": text})
        assert call(client, "read_file", path=path).text == text
        assert call(client, "read_text_file", path=path, head=1).text == "first"
        assert call(client, "read_text_file", path=path, tail=1).text == "last"
        size = dict(line.split(": ") for line in call(client, "get_file_info", path=path).text.splitlines())["size"]
        assert int(size) == len(text.encode())
        several = call(client, "read_multiple_files", paths=[str(path), str(folder / "none")])
        assert text in several.text
        assert "Error" in several.text


def test_a_file_of_a_megabyte_goes_there_and_back(folder: Path) -> None:
    text = "0123456789abcde\n" * (1 << 16)
    with Server("filesystem", folder).client() as client:
        call(client, "write_file", path=folder / "big.txt", content=text)
        assert call(client, "read_text_file", path=folder / "big.txt").data == {"content": text}


def test_files_are_edited_moved_and_read_as_media(folder: Path) -> None:
    (folder / "poem.txt").write_text("roses are red\nviolets are red\n")
    (folder / "dot.png").write_bytes(b"\x89PNG")
    (folder / "data.bin").write_bytes(b"\0\1\2")
    edits = [{"oldText": "violets are red", "newText": "violets are blue"}]
    with Server("filesystem", folder).client() as client:
        assert "+violets are blue" in call(client, "edit_file", path=folder / "poem.txt", edits=edits, dryRun=True).text
        assert "blue" not in (folder / "poem.txt").read_text()
        call(client, "edit_file", path=folder / "poem.txt", edits=edits)
        assert (folder / "poem.txt").read_text() == "roses are red\nviolets are blue\n"
        with pytest.raises(ToolError, match="edit"):
            call(client, "edit_file", path=folder / "poem.txt", edits=edits)
        call(client, "move_file", source=folder / "poem.txt", destination=folder / "verse.txt")
        assert sorted(path.name for path in folder.iterdir()) == ["data.bin", "dot.png", "verse.txt"]

        (picture,) = call(client, "read_media_file", path=folder / "dot.png").content
        assert (picture.type, picture.mime_type, base64.b64decode(picture.data)) == ("image", "image/png", b"\x89PNG")
        (binary,) = call(client, "read_media_file", path=folder / "data.bin").content
        assert (binary.type, base64.b64decode(binary.resource.blob)) == ("resource", b"\0\1\2")


def test_directories_are_made_listed_and_searched(folder: Path) -> None:
    with Server("filesystem", folder).client() as client:
        call(client, "create_directory", path=folder / "a" / "b")
        for name in ("one.txt", "a/two.txt", "a/b/three.md"):
            call(client, "write_file", path=folder / name, content=name)
        assert set(call(client, "list_directory", path=folder).text.splitlines()) == {"[DIR] a", "[FILE] one.txt"}
        assert "Total: 1 files, 1 directories" in call(client, "list_directory_with_sizes", path=folder).text
        tree = json.loads(call(client, "directory_tree", path=folder, excludePatterns=["*.txt"]).text)
        three = {"name": "three.md", "type": "file"}
        b = {"name": "b", "type": "directory", "children": [three]}
        assert {"name": "a", "type": "directory"}.items() <= tree[0].items()
        assert b in tree[0]["children"]
        found = call(client, "search_files", path=folder, pattern="**/*.txt", excludePatterns=["one.*"])
        assert found.text.splitlines() == [str(folder / "a" / "two.txt")]
        assert call(client, "search_files", path=folder, pattern="*.jpg").text == "No matches found"


def test_nothing_outside_is_touched(folder: Path) -> None:
    outside = folder.parent / "forbidden"
    (folder / "link").symlink_to(outside / "secret.txt")
    with Server("filesystem", folder).client() as client:
        for path in (outside / "secret.txt", folder / ".." / "forbidden" / "secret.txt", folder / "link"):
            with pytest.raises(ToolError, match=r"Access denied.*outside allowed directories"):
                call(client, "read_text_file", path=path)
        with pytest.raises(ToolError, match="Access denied"):
            call(client, "write_file", path=outside / "new.txt", content="x")
        with pytest.raises(ToolError, match="Access denied"):
            call(client, "list_directory", path=outside)
        with pytest.raises(ToolError, match="ENOENT"):
            call(client, "read_text_file", path=folder / "none.txt")
    assert [path.name for path in outside.iterdir()] == ["secret.txt"]


def test_our_roots_replace_its_directories_whenever_they_change(folder: Path) -> None:
    other = folder.parent / "forbidden"
    roots: list[Any] = [folder]
    server = Server("filesystem", folder.parent)
    with server.client(roots=lambda: roots) as client:
        server.stderr.line("Updated allowed directories from MCP roots: 1")
        assert call(client, "list_allowed_directories").text.splitlines()[1:] == [str(folder)]
        with pytest.raises(ToolError, match="Access denied"):
            call(client, "read_text_file", path=other / "secret.txt")

        roots[:] = [other.as_uri()]
        client.send_roots_list_changed()
        server.stderr.line("Updated allowed directories from MCP roots: 1")
        assert call(client, "read_text_file", path=other / "secret.txt").text == "secret"
        with pytest.raises(ToolError, match="Access denied"):
            call(client, "list_directory", path=folder)

        roots[:] = [folder, str(other), folder.parent / "none"]
        client.send_roots_list_changed()
        server.stderr.line("Updated allowed directories from MCP roots: 2")
        assert call(client, "list_allowed_directories").text.splitlines()[1:] == [str(folder), str(other)]


def test_a_server_without_arguments_lives_on_our_roots_alone(folder: Path) -> None:
    (folder / "hello.txt").write_text("hello")
    server = Server("filesystem")
    with server.client(roots=[folder]) as client:
        server.stderr.line("Updated allowed directories")
        assert call(client, "read_text_file", path=folder / "hello.txt").text == "hello"


def test_a_server_that_may_work_nowhere_refuses_every_path(folder: Path) -> None:
    with Server("filesystem").client() as client, pytest.raises(ToolError, match="Access denied"):
        call(client, "list_directory", path=folder)


def test_a_server_that_refuses_to_start_is_quoted(folder: Path) -> None:
    server = Server("filesystem", folder / "none")
    with pytest.raises(MCPError) as caught:
        server.client().connect()
    assert caught.value.details["exit_status"] == 1
    assert "Error: None of the specified directories are accessible" in caught.value.details["stderr"]
    assert caught.value.may_have_run is False
