"""Client.from_config: what each kind of entry means, and what is said of one that makes no sense."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mcp_sync import (
    Client,
    DockerTransport,
    SSETransport,
    StdioTransport,
    StreamableHTTPTransport,
    WebSocketTransport,
)
from mcp_sync.client import config

PARTNER = {"command": sys.executable, "args": ["-m", "mcp_sync.testing.partner"]}


def one(entry: Any, **more: Any) -> dict[str, Any]:
    return {"mcpServers": {"it": entry}, **more}


def transport(entry: Any, **keywords: Any) -> Any:
    return Client.from_config(one(entry), "it", **keywords).transport


def refused(entry: Any, words: str, **keywords: Any) -> None:
    with pytest.raises(ValueError, match=words):
        Client.from_config(one(entry), "it", **keywords)


# -- kinds of entries --------------------------------------------------------------------------------------------------


def test_a_command_is_started_with_its_arguments_variables_and_folder(tmp_path: Path) -> None:
    made = transport({"command": "uvx", "args": ["server", "--port", 8080], "env": {"A": "b", "N": 3, "T": True}})
    assert isinstance(made, StdioTransport)
    assert made.command == ["uvx", "server", "--port", "8080"]
    assert made.env == {"A": "b", "N": "3", "T": "true"}
    assert transport({"type": "stdio", "command": "x", "cwd": str(tmp_path)}).cwd == str(tmp_path)


def test_a_client_made_of_a_file_calls_the_server(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps(one(PARTNER)))
    with Client.from_config(file, "it", timeout=10, environment_filter=["PATH", "PYTHONPATH"]) as client:
        assert client.request("echo", {"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"url": "https://host/mcp"}, StreamableHTTPTransport),
        ({"url": "https://host/mcp", "type": "http"}, StreamableHTTPTransport),
        ({"url": "https://host/mcp", "type": "streamable-http"}, StreamableHTTPTransport),
        ({"url": "https://host/mcp", "type": "streamableHttp"}, StreamableHTTPTransport),
        ({"httpUrl": "https://host/mcp"}, StreamableHTTPTransport),
        ({"serverUrl": "https://host/mcp"}, StreamableHTTPTransport),
        ({"url": "https://host/sse", "type": "sse"}, SSETransport),
        ({"url": "wss://host/ws"}, WebSocketTransport),
        ({"url": "wss://host/ws", "type": "websocket"}, WebSocketTransport),
    ],
)
def test_a_url_is_reached_by_its_type_or_what_it_turns_out_to_speak(entry: dict[str, Any], kind: type) -> None:
    assert isinstance(transport(entry), kind)


def test_headers_are_sent_with_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "canary")
    made = transport({"url": "https://host/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}})
    assert made._passport.headers()["Authorization"] == "Bearer canary"
    made = transport({"url": "https://host/mcp", "headers": {"A": "1", "B": "2"}}, headers={"B": "3"})
    headers = made._passport.headers()
    assert (headers["A"], headers["B"]) == ("1", "3")


def test_a_container_is_described_by_its_image() -> None:
    made = transport(
        {
            "image": "mcp/fetch",
            "command": "serve",
            "args": ["--fast"],
            "env": {"A": "b"},
            "volumes": ["/srv:/data:ro"],
            "ports": ["8080:80"],
            "memory_limit_mb": 256,
        }
    )
    assert isinstance(made, DockerTransport)
    assert (made.image, made.command, made.env) == ("mcp/fetch", ["serve", "--fast"], {"A": "b"})
    assert (made.volumes, made.ports) == (["/srv:/data:ro"], ["8080:80"])


def test_a_docker_command_stays_the_command_it_is() -> None:
    made = transport({"command": "docker", "args": ["run", "-i", "--rm", "mcp/fetch"]})
    assert isinstance(made, StdioTransport)
    assert made.command == ["docker", "run", "-i", "--rm", "mcp/fetch"]


def test_vs_code_files_are_read_alike_settings_too() -> None:
    servers = {"it": {"type": "stdio", "command": "node", "args": ["s.js"]}}
    for whole in ({"servers": servers, "inputs": []}, {"mcp": {"servers": servers}}):
        assert Client.from_config(whole, "it").transport.command == ["node", "s.js"]


def test_an_env_file_is_read_and_env_wins(tmp_path: Path) -> None:
    (tmp_path / "my.env").write_text("# mine\nexport A=1\nB='two words'\n\nC=\"c\"\nD=x=y\n")
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps(one({"command": "x", "envFile": "my.env", "env": {"A": "2", "Z": None}})))
    made: Any = Client.from_config(file, "it").transport
    assert made.env == {"A": "2", "B": "two words", "C": "c", "D": "x=y"}
    (tmp_path / "my.env").write_text("A=1\nwhat\n")
    with pytest.raises(ValueError, match=r"server 'it': envFile .*line 2: NAME=value"):
        Client.from_config(file, "it")


def test_keywords_win_and_variables_are_put_together() -> None:
    made = transport({"command": "x", "env": {"A": "1", "B": "2"}}, env={"B": "3"}, timeout=7, max_message_size=5000)
    assert made.env == {"A": "1", "B": "3"}
    client = Client.from_config(one({"command": "x"}), "it", timeout=7)
    assert client.timeout == 7
    with pytest.raises(TypeError, match="did you mean 'max_message_size'"):
        transport({"command": "x"}, max_mesage_size=5000)


# -- variables ---------------------------------------------------------------------------------------------------------


def test_variables_are_those_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET", "one")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    means = {
        "${SET}": "one",
        "a${SET}b${env:SET}": "aonebone",
        "${UNSET:-two}": "two",
        "${EMPTY:-three}": "three",
        "${EMPTY}": "",
        "${UNSET:-}": "",
        "$SET": "$SET",
        "${SET:-x}": "one",
    }
    made = transport({"command": "x", "args": list(means)})
    assert made.command[1:] == list(means.values())


def test_a_default_may_hold_colons_and_slashes() -> None:
    assert transport({"url": "${NOT_THERE:-https://host:8443/mcp?a=b}"}).url == "https://host:8443/mcp?a=b"


def test_what_a_variable_holds_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "${B}")
    monkeypatch.setenv("B", "canary")
    assert transport({"command": "x", "args": ["${A}"]}).command == ["x", "${B}"]


def test_a_tilde_begins_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    made = transport({"command": "~/bin/server", "args": ["~", "~/x", "a~", "~b"], "cwd": "~/w", "env": {"A": "~/y"}})
    assert made.command == ["/home/me/bin/server", "/home/me", "/home/me/x", "a~", "~b"]
    assert (made.cwd, made.env) == ("/home/me/w", {"A": "~/y"})
    assert transport({"image": "x", "volumes": ["~/d:/data"]}).volumes == ["/home/me/d:/data"]
    assert transport({"command": "${userHome}/x"}).command == ["/home/me/x"]


def test_folders_are_those_of_the_file(tmp_path: Path) -> None:
    folder = tmp_path / ".vscode"
    folder.mkdir()
    file = folder / "mcp.json"
    file.write_text(json.dumps({"servers": {"it": {"command": "${workspaceFolder}/x", "cwd": "work"}}}))
    made: Any = Client.from_config(file, "it").transport
    assert made.command == [str(tmp_path / "x")]
    assert made.cwd == str(folder / "work")


def test_a_missing_variable_is_named_with_its_field_and_disables_that_server_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("API_KEY", raising=False)
    whole = {
        "mcpServers": {
            "bad": {"command": "x", "env": {"KEY": "${API_KEY}"}},
            "worse": {"url": "https://h/", "headers": {"Authorization": "Bearer ${env:API_KEY}"}},
            "odd": {"command": ["x", "${API_KEY}"]},
            "good": {"command": "y"},
        }
    }
    for name, place in (("bad", r"env\.KEY"), ("worse", r"headers\.Authorization"), ("odd", r"command\[1\]")):
        with pytest.raises(ValueError, match=rf"server '{name}': {place} wants the environment variable API_KEY"):
            Client.from_config(whole, name)
    assert Client.from_config(whole, "good").transport.command == ["y"]


@pytest.mark.parametrize("said", ["command:x", "1A", "A B", "env:", "", "A:+b", "config:x"])
def test_what_is_no_variable_is_refused(said: str) -> None:
    refused({"command": "x", "args": [f"${{{said}}}"]}, r"args\[0\] holds .*none of")


def test_inputs_are_given_or_have_a_default_and_are_asked_for_by_name() -> None:
    whole = one(
        {"command": "x", "env": {"KEY": "${input:key}", "REGION": "${input:region}"}},
        inputs=[
            {"id": "key", "type": "promptString", "description": "Your API key", "password": True},
            {"id": "region", "type": "pickString", "default": "eu"},
        ],
    )
    client = Client.from_config(whole, "it", inputs={"key": "canary"})
    assert client.transport.env == {"KEY": "canary", "REGION": "eu"}
    with pytest.raises(ValueError, match=r"env\.KEY wants the input 'key' \(Your API key\).*inputs="):
        Client.from_config(whole, "it")


# -- what makes no sense -----------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "none of command, url and image"),
    "a list": ([], "must be an object, not a list"),
    "disabled": ({"command": "x", "disabled": True}, "is disabled"),
    "two places": ({"command": "x", "url": "https://h/"}, "has url and command"),
    "two more": ({"image": "x", "url": "https://h/"}, "has url and image"),
    "args of text": ({"command": "x", "args": "a b"}, "args must be a list of strings, not a string"),
    "args of lists": ({"command": "x", "args": [["a"]]}, r"args\[0\] must be a string, not a list"),
    "env of a list": ({"command": "x", "env": ["A=b"]}, "env must be an object.*not a list"),
    "env of objects": ({"command": "x", "env": {"A": {}}}, r"env\.A must be a string, not an object"),
    "headers of numbers": ({"url": "https://h/", "headers": {"A": 1}}, r"headers\.A must be a string, not a number"),
    "a type of a command": ({"command": "x", "type": "sse"}, "type must be stdio here, not 'sse'"),
    "a type of a URL": ({"url": "https://h/", "type": "grpc"}, "type must be http, .*not 'grpc'"),
    "no type": ({"url": "https://h/", "type": None}, "type must be http"),
    "a URL of a container": ({"url": "docker://x"}, "write 'image'"),
    "no such file": ({"command": "x", "envFile": "/no/such.env"}, "envFile .* cannot be read"),
}


@pytest.mark.parametrize(("entry", "words"), WRONG.values(), ids=WRONG)
def test_an_entry_that_makes_no_sense_is_refused_with_its_name_and_field(entry: Any, words: str) -> None:
    refused(entry, f"server 'it'.*{words}")


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    whole = {"mcpServers": {"files": PARTNER, "fetch": PARTNER}}
    with pytest.raises(ValueError, match="no server 'mail'; it has fetch, files"):
        Client.from_config(whole, "mail")
    with pytest.raises(ValueError, match="no server 'file'; did you mean 'files'"):
        Client.from_config(whole, "file")
    with pytest.raises(ValueError, match="it has none"):
        Client.from_config({"servers": {}}, "it")


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "no JSON": (
        b'{\n  "mcpServers": {\n    "it": {"command" "x"}\n  }\n}',
        r"mcp\.json, line 3, column 22: Expecting ':'",
    ),
    "after a comment": (b'{\n  /* one\n  two */ "a": }', "line 3, column 15"),
    "cut off": (b'{"mcpServers": {', "line 1, column 17"),
    "an open comment": (b"{ /* ", "line 1, column 3"),
    "an open string": (b'{"a": "b\n}', "line 1"),
    "empty": (b"", "line 1, column 1"),
    "a list": (b"[]", "must hold a JSON object, not a list"),
    "no servers": (b'{"a": 1}', "neither 'mcpServers' nor 'servers'"),
    "servers of a list": (b'{"mcpServers": []}', "mcpServers must be an object.*not a list"),
    "not UTF-8": (b'{"a": "\xff"}', "no text in UTF-8"),
    "too deep": (b"[" * 200_000, "nested too deeply"),
}


@pytest.mark.parametrize(("text", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_cannot_be_read_is_refused_with_the_line(text: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_bytes(text)
    with pytest.raises(ValueError, match=words):
        Client.from_config(file, "it")


def test_comments_trailing_commas_and_a_byte_order_mark_are_no_trouble(tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    args = '["//no", "/*", ",]", "\\"//",]'
    text = f'\ufeff{{ // mine\n "servers": {{ /* all\n of them */ "it": {{"command": "x", "args": {args},}},\n}},}}'
    file.write_text(text, "utf-8")
    made: Any = Client.from_config(str(file), "it").transport
    assert made.command == ["x", "//no", "/*", ",]", '"//']


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no-such"):
        Client.from_config("~/no-such.json", "it")
    with pytest.raises(TypeError, match="a path or a dict, not int"):
        Client.from_config(5, "it")  # type: ignore[arg-type]


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """I12"""
    monkeypatch.setenv("TOKEN", "canary")
    entry: Mapping[str, Any] = {"command": "x", "env": {"API_KEY": "${TOKEN}"}, "args": [3.5, {}]}
    with pytest.raises(ValueError) as found:
        Client.from_config(one(entry), "it", inputs={"a": "canary"})
    assert "canary" not in repr(found.value)
    assert "canary" not in repr(config._Entry("f", "n", {}, Path(), {"a": "canary"}, {}))
    assert "canary" not in repr(Client.from_config(one({"command": "x", "env": {"API_KEY": "${TOKEN}"}}), "it"))
