"""Whatever is wrong with what is registered is said there and then, with the name of the function (issue 6)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field

from mcp_sync.server import Context, Server


def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


def nothing() -> str:
    return ""


async def waiting(city: str) -> str:
    return city


def generating(count: int) -> Iterator[int]:
    yield count


def many(*cities: str) -> str:
    return "".join(cities)


def unknown(city: Ghost) -> str:  # type: ignore[name-defined]  # noqa: F821
    return str(city)


def socket_of(city: Context | object, plug: memoryview) -> str:
    return ""


def badly_mirrored(city: Annotated[float, Field(json_schema_extra={"x-mcp-header": "City"})]) -> str:
    return ""


def unspeakably_mirrored(city: Annotated[str, Field(json_schema_extra={"x-mcp-header": "a b"})]) -> str:
    return ""


def twice_mirrored(
    city: Annotated[str, Field(json_schema_extra={"x-mcp-header": "City"})],
    town: Annotated[str, Field(json_schema_extra={"x-mcp-header": "city"})],
) -> str:
    return ""


class Station:
    def weather(self, city: str) -> str:
        return city


def keyword(value: str, *, known: dict[str, str]) -> list[str]:
    return []


def three(value: str, known: dict[str, str], more: int) -> list[str]:
    return []


ADD: dict[str, tuple[Callable[[Server], object], type[Exception], list[str]]] = {
    # -- tools
    "a lambda": (lambda s: s.add_tool(lambda city: city), ValueError, ["<lambda>", "no name"]),
    "a coroutine function": (lambda s: s.add_tool(waiting), TypeError, ["waiting", "async", "event loop"]),
    "a generator": (lambda s: s.add_tool(generating), TypeError, ["generating", "generator"]),
    "*args": (lambda s: s.add_tool(many), TypeError, ["many", "cities"]),
    "an annotation that means nothing": (lambda s: s.add_tool(unknown), TypeError, ["unknown", "city", "Ghost"]),
    "a type without a schema": (lambda s: s.add_tool(socket_of), TypeError, ["socket_of", "plug"]),
    "a method of nobody": (lambda s: s.add_tool(Station.weather), TypeError, ["Station.weather", "object"]),
    "what is no function": (lambda s: s.add_tool("weather", "w"), TypeError, ["'w'", "must be a function"]),  # type: ignore[arg-type]
    "an empty name": (lambda s: s.add_tool(weather, ""), ValueError, ["weather", "1 to 128"]),
    "a name with a space": (lambda s: s.add_tool(weather, "the weather"), ValueError, ["weather", "the weather"]),
    "a name with a newline": (lambda s: s.add_tool(weather, "w\n"), ValueError, ["weather", "1 to 128"]),
    "a name of 129 letters": (lambda s: s.add_tool(weather, "w" * 129), ValueError, ["weather", "1 to 128"]),
    "a name that is no text": (lambda s: s.add_tool(weather, 5), TypeError, ["weather", "str"]),  # type: ignore[arg-type]
    "a name of JSON-RPC's": (lambda s: s.add_tool(weather, "rpc.w"), ValueError, ["weather", "rpc.", "reserved"]),
    "a name of the protocol's": (lambda s: s.add_tool(weather, "mcp.w"), ValueError, ["weather", "mcp.", "reserved"]),
    "a name like that of an extension": (
        lambda s: s.add_tool(weather, "io.modelcontextprotocol.w"),
        ValueError,
        ["weather", "with io.modelcontextprotocol are reserved"],
    ),
    "a header for a number": (lambda s: s.add_tool(badly_mirrored), ValueError, ["badly_mirrored", "number"]),
    "a header that is no name": (lambda s: s.add_tool(unspeakably_mirrored), ValueError, ["unspeakably_mirrored"]),
    "one header for two": (lambda s: s.add_tool(twice_mirrored), ValueError, ["twice_mirrored"]),
    "a task mode": (lambda s: s.add_tool(weather, task="always"), ValueError, ["weather", "'optional'", "'always'"]),  # type: ignore[arg-type]
    "a schema of no object": (
        lambda s: s.add_tool(weather, input_schema={"type": "string"}),
        TypeError,
        ["weather", "input_schema"],
    ),
    "structured output of no type": (
        lambda s: s.add_tool(lambda: None, "w", structured_output=True),
        TypeError,
        ["'w'", "structured_output"],
    ),
    "a tool without parentheses": (lambda s: s.tool(weather), TypeError, ["@server.tool()", "weather"]),  # type: ignore[arg-type]
    # -- resources
    "no URI": (lambda s: s.add_resource("weather", nothing), ValueError, ["nothing", "scheme"]),
    "a URI that is no text": (lambda s: s.add_resource(5, nothing), TypeError, ["uri", "int"]),  # type: ignore[arg-type]
    "a template without a scheme": (lambda s: s.add_resource("{city}", weather), ValueError, ["weather", "scheme"]),
    "a resource of a lambda": (lambda s: s.add_resource("a://b", lambda: ""), ValueError, ["<lambda>", "no name"]),
    "what nothing fills": (lambda s: s.add_resource("a://b", weather), ValueError, ["weather", "city"]),
    "a place without a parameter": (
        lambda s: s.add_resource("a://{city}/{day}", weather),
        ValueError,
        ["weather", "'day'"],
    ),
    "an optional place": (lambda s: s.add_resource("a://{?city}", weather), ValueError, ["weather", "'city'"]),
    "half a brace": (lambda s: s.add_resource("a://{city", weather), ValueError, ["weather", "brace"]),
    "a place twice": (lambda s: s.add_resource("a://{city}/{city}", weather), ValueError, ["weather", "twice"]),
    "two places side by side": (
        lambda s: s.add_resource("a://{city}{town}", weather),
        ValueError,
        ["weather", "nothing tells where"],
    ),
    "a template of a text": (lambda s: s.add_resource("a://{city}", "sunny"), TypeError, ["a://{city}", "function"]),
    "an async resource": (lambda s: s.add_resource("a://{city}", waiting), TypeError, ["waiting", "async"]),
    "a resource without parentheses": (lambda s: s.resource(nothing), TypeError, ["@server.resource()", "nothing"]),  # type: ignore[arg-type]
    # -- prompts
    "a prompt of a lambda": (lambda s: s.add_prompt(lambda: ""), ValueError, ["<lambda>", "no name"]),
    "an async prompt": (lambda s: s.add_prompt(waiting), TypeError, ["waiting", "async"]),
    "a prompt with an empty name": (lambda s: s.add_prompt(weather, ""), TypeError, ["weather", "not empty"]),
    "a prompt with no text for a name": (lambda s: s.add_prompt(weather, 5), TypeError, ["weather", "str"]),  # type: ignore[arg-type]
    "a prompt without parentheses": (lambda s: s.prompt(weather), TypeError, ["@server.prompt()", "weather"]),  # type: ignore[arg-type]
    # -- completions
    "an async completion": (lambda s: s.completion("p", "a")(waiting), TypeError, ["waiting", "async"]),
    "a completion of nothing": (lambda s: s.completion("p", "a")(nothing), TypeError, ["nothing", "the text"]),
    "a completion of three": (lambda s: s.completion("p", "a")(three), TypeError, ["three", "the text"]),
    "a completion by keyword": (lambda s: s.completion("p", "a")(keyword), TypeError, ["keyword", "the text"]),
    "a completion that is none": (lambda s: s.completion("p", "a")("no"), TypeError, ["function", "str"]),  # type: ignore[type-var]
}


@pytest.mark.parametrize("wrong", ADD)
def test_what_cannot_be_offered_is_refused_with_the_name_of_the_function(wrong: str) -> None:
    server = Server("s")
    add, kind, said = ADD[wrong]
    with pytest.raises(kind) as refusal:
        add(server)
    assert [word for word in said if word not in str(refusal.value)] == [], str(refusal.value)
    assert [len(server.tools), len(server.resources), len(server.templates), len(server.prompts)] == [0, 0, 0, 0]
    assert server.answerer.capabilities(stateless=True) == {"logging": {}}  # nothing is declared that is not there


def test_the_name_of_something_twice_is_refused_and_the_first_stays() -> None:
    server = Server("s")

    def other(city: str) -> str:
        return "rain"

    def other_config() -> str:
        return "rain"

    server.add_tool(weather)
    server.add_prompt(weather)
    server.add_resource("a://b", nothing)
    server.add_resource("a://{city}", weather)
    server.completion("weather", "city")(lambda value: [value])
    for add, kind in [
        (lambda: server.add_tool(other, "weather"), "tool"),
        (lambda: server.add_prompt(other, "weather"), "prompt"),
        (lambda: server.add_resource("a://b", other_config), "resource"),
        (lambda: server.add_resource("a://{city}", other), "resource template"),
        (lambda: server.completion("weather", "city")(other_config), "is completed"),
    ]:
        with pytest.raises(ValueError, match="already") as refusal:
            add()
        assert "other" in str(refusal.value)
        assert kind in str(refusal.value)
    assert [tool.definition["description"] for tool in server.tools] == ["Tell the weather."]


def test_what_was_removed_can_be_offered_again_and_what_is_not_there_cannot_be_removed() -> None:
    server = Server("s")
    for add, remove in [
        (lambda: server.add_tool(weather), lambda: server.remove_tool("weather")),
        (lambda: server.add_prompt(weather), lambda: server.remove_prompt("weather")),
        (lambda: server.add_resource("a://b", "text"), lambda: server.remove_resource("a://b")),
        (lambda: server.add_resource("a://{city}", weather), lambda: server.remove_resource("a://{city}")),
    ]:
        add()
        remove()
        with pytest.raises(KeyError, match="there is no"):
            remove()
        add()


def test_a_decorated_function_is_still_the_function() -> None:
    server = Server("s")
    assert server.tool()(weather) is weather
    assert server.tool("by.another-name_1")(weather) is weather
    assert server.resource("a://{city}")(weather) is weather
    assert server.prompt("p")(weather) is weather
    assert server.completion("p", "city")(nothing := lambda value: []) is nothing
    assert [tool.name for tool in server.tools] == ["weather", "by.another-name_1"]


def test_a_partial_and_an_object_that_can_be_called_have_names_too() -> None:
    class Forecast:
        """Look into the future."""

        def __call__(self, days: int) -> str:
            return "rain"

    server = Server("s")
    server.add_tool(functools.partial(weather, city="Kyiv"))
    server.add_tool(Forecast())
    assert [tool.name for tool in server.tools] == ["weather", "Forecast"]
    with pytest.raises(ValueError, match=r"weather.*already"):
        server.add_tool(functools.partial(weather))


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"name": ""}, ValueError, "name"),
        ({"name": None}, TypeError, "name"),
        ({"page_size": 0}, ValueError, "page_size"),
        ({"page_size": "5"}, TypeError, "page_size"),
        ({"page_size": True}, TypeError, "page_size"),
        ({"cache_ttl_ms": -1}, ValueError, "cache_ttl_ms"),
        ({"cache_scope": "everybody"}, ValueError, "private, public"),
        ({"max_concurrent_requests": 0}, ValueError, "max_concurrent_requests"),
        ({"max_concurrent_requests": None}, TypeError, "max_concurrent_requests"),
        ({"max_message_size": 10}, ValueError, "max_message_size"),
        ({"secret_key": ""}, ValueError, "secret_key"),
        ({"secret_key": 5}, TypeError, "secret_key"),
    ],
)
def test_an_option_of_a_server_that_makes_no_sense_is_refused(
    options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        Server(**{"name": "s", **options})


def test_an_extension_is_there_once() -> None:
    server = Server("s")
    tasks = server.use_tasks()
    assert server.use_tasks() is tasks
    with pytest.raises(ValueError, match="there already"):
        server.use(tasks)
