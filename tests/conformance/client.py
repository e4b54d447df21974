"""The client that the official conformance suite puts to the test: one scenario, and it ends.

The suite says by the environment which scenario, and by the last argument where its server is. Each scenario does what
an application would do, with the public methods of Client and nothing else; it says what is wrong by its exit status.

Environment: MCP_CONFORMANCE_SCENARIO, MCP_CONFORMANCE_PROTOCOL_VERSION, MCP_CONFORMANCE_CONTEXT: the suite's.
MCP_SYNC_FIND_VERSION=1 leaves it to the client to find out the version.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_sync import Client

WATCHDOG_SECONDS = 45.0
"""How long it may take: a suite starts 48 of its kind at once."""
TIMEOUT = 40.0

Scenario = Callable[[Callable[..., "Client"]], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(*names: str) -> Callable[[Scenario], Scenario]:
    """Say which scenarios a function plays; it is given what makes a client."""

    def remember(play: Scenario) -> Scenario:
        SCENARIOS.update(dict.fromkeys(names, play))
        return play

    return remember


@scenario("initialize", "json-schema-ref-no-deref")
def connect_and_list(connect: Callable[..., Client]) -> None:
    with connect() as client:
        client.list_tools()


@scenario("tools_call")
def call_a_tool(connect: Callable[..., Client]) -> None:
    with connect() as client:
        assert [tool.name for tool in client.list_tools()] == ["add_numbers"]
        assert client.call_tool("add_numbers", {"a": 5, "b": 3}).text == "The sum of 5 and 3 is 8"


@scenario("elicitation-sep1034-client-defaults")
def accept_the_defaults(connect: Callable[..., Client]) -> None:
    with connect(elicitation=lambda params: {}) as client:
        result = client.call_tool("test_client_elicitation_defaults").raise_for_error()
        assert "John Doe" in result.text, result.text


@scenario("sse-retry")
def wait_for_the_rest_of_a_stream(connect: Callable[..., Client]) -> None:
    with connect() as client:
        client.list_tools()
        assert client.call_tool("test_reconnection").text == "Reconnection test completed successfully"


@scenario("request-metadata")
def offer_everything(connect: Callable[..., Client]) -> None:
    with connect(sampling=str, elicitation=lambda params: {}, roots=[]) as client:
        client.list_tools()
        client.call_tool("any")


@scenario("http-standard-headers")
def use_every_method(connect: Callable[..., Client]) -> None:
    with connect() as client:
        for tool in client.list_tools():
            client.call_tool(tool.name)
        for resource in client.list_resources():
            client.read_resource(resource.uri)
        for prompt in client.list_prompts():
            client.get_prompt(prompt.name)
        client.ping()


@scenario("http-custom-headers")
def call_as_told(connect: Callable[..., Client]) -> None:
    context = json.loads(os.environ["MCP_CONFORMANCE_CONTEXT"])
    with connect() as client:
        client.list_tools()
        for call in context["toolCalls"]:
            client.call_tool(call["name"], call["arguments"]).raise_for_error()


@scenario("http-invalid-tool-headers")
def call_all_that_is_listed(connect: Callable[..., Client]) -> None:
    with connect() as client:
        tools = client.list_tools()
        assert [tool.name for tool in tools] == ["valid_tool"], tools
        client.call_tool("valid_tool", {"region": "us-west1"}).raise_for_error()


@scenario("sep-2322-client-request-state")
def answer_what_tools_want_to_know(connect: Callable[..., Client]) -> None:
    clients: list[Client] = []

    def confirm(params: Any) -> dict[str, Any]:
        clients[0].call_tool("test_mrtr_unrelated")  # in between, as any other thread might
        return {"confirmed": True}

    with connect(elicitation=confirm) as client:
        clients.append(client)
        client.list_tools()
        assert client.call_tool("test_mrtr_echo_state").text == "echo-state-ok"
        assert client.call_tool("test_mrtr_no_state").text == "no-state-ok"
        assert client.call_tool("test_mrtr_unrelated").text == "unrelated-ok"
        assert client.call_tool("test_mrtr_no_result_type").text == "no-result-type-test-ok"


@scenario("json-schema-2020-12-preservation")
def give_a_schema_back(connect: Callable[..., Client]) -> None:
    with connect() as client:
        tools = {tool.name: tool for tool in client.list_tools()}
        schema = tools["json_schema_2020_12_tool"].input_schema
        client.call_tool("json_schema_echo", {"schema": schema}).raise_for_error()


# -- skills -----------------------------------------------------------------------------------------------------------


@scenario("sep-2640-client-no-prefetch")
def list_skills_and_load_none(connect: Callable[..., Client]) -> None:
    with connect() as client:
        names = [skill["frontmatter"]["name"] for skill in client.request("skills/list")["skills"]]
        assert names == ["pdf-processing"], names
        client.list_resources()


@scenario("sep-2640-client-verify-digest", "sep-2640-client-verify-size", "sep-2640-client-verify-frontmatter")
def refuse_a_skill_that_is_not_what_was_listed(connect: Callable[..., Client]) -> None:
    with connect() as client:
        (skill,) = client.request("skills/list")["skills"]
        try:
            load(client, skill)
        except TamperedError as refused:
            print("refused:", refused)
        else:
            raise AssertionError("a skill was loaded that is not what was listed")


class TamperedError(Exception):
    """A file of a skill is not what was listed."""


def load(client: Client, skill: dict[str, Any]) -> dict[str, bytes]:
    """Return the files of a skill by URI; each is verified before the next is asked for."""
    files = {}
    for listed in skill["resources"]:
        uri = listed["uri"]
        (content,) = client.read_resource(uri).contents
        data = content.text.encode()
        if len(data) != listed["size"]:
            raise TamperedError(f"{uri} has {len(data)} bytes, not {listed['size']}")
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if digest != listed["digest"]:
            raise TamperedError(f"{uri} has the digest {digest}, not {listed['digest']}")
        if uri == skill["uri"] and frontmatter(content.text) != skill["frontmatter"]:
            raise TamperedError(f"{uri} has the frontmatter {frontmatter(content.text)}, not {skill['frontmatter']}")
        files[uri] = data
    return files


def frontmatter(text: str) -> dict[str, str]:
    """Return the members of a file's frontmatter, as far as they are plain texts; there is no YAML at hand."""
    begin, *lines = text.splitlines()
    if begin != "---" or "---" not in lines:
        return {}
    members = (line.partition(": ") for line in lines[: lines.index("---")])
    return {name: value.strip() for name, _, value in members}


# -- the beginning ----------------------------------------------------------------------------------------------------


def main() -> None:
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True)
    name, url = os.environ["MCP_CONFORMANCE_SCENARIO"], sys.argv[-1]
    if name not in SCENARIOS:
        sys.exit(f"no idea how to play {name}")
    version = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
    if os.environ.get("MCP_SYNC_FIND_VERSION"):
        version = None

    def connect(**options: Any) -> Client:
        from mcp_sync import Client  # late: not for scenarios that are not played

        return Client(url, timeout=TIMEOUT, protocol_version=version, **options)

    SCENARIOS[name](connect)
    print("played", name)


if __name__ == "__main__":
    main()
