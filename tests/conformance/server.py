"""The server under test of the official conformance suite: every fixture that its scenarios ask for.

`server.py 3001` serves them at http://localhost:3001/mcp by ``server.run("http")``; `server.py 3001 waitress` or
`server.py 3001 gunicorn` has another host for the same WSGI application.

The names, texts and schemas are those of the suite (docs of each scenario: `conformance list`, and its source).
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mcp_sync import JSONRPCError, ToolError
from mcp_sync.server import Audio, Context, Elicit, File, Image, Roots, Sample, Server, UserMessage

HERE = Path(__file__).resolve().parent
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
)
WAV = b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data\x02\0\0\0\x80\x80"
THREADS = 16
TICK = 0.05  # seconds between two messages, as the suite wants it
INTERNAL_ERROR = -32603

server = Server("conformance", version="1.0.0", cache_ttl_ms=1000)


def form(**properties: Any) -> dict[str, Any]:
    """Return the schema of a form all of whose fields are required."""
    return {"type": "object", "properties": properties, "required": list(properties)}


NAME, OK = form(name={"type": "string"}), form(ok={"type": "boolean"})
CONFIRM = form(confirm={"type": "boolean"})


# -- tools: content ---------------------------------------------------------------------------------------------------


@server.tool()
def test_simple_text() -> str:
    """Return a text."""
    return "This is a simple text response for testing."


@server.tool()
def test_image_content() -> Image:
    """Return an image."""
    return Image(PNG)


@server.tool()
def test_audio_content() -> Audio:
    """Return a sound."""
    return Audio(WAV)


@server.tool()
def test_embedded_resource() -> File:
    """Return a resource."""
    return File("test://embedded-resource", text="This is an embedded resource content.")


@server.tool()
def test_multiple_content_types() -> list[str | Image | File]:
    """Return a text, an image and a resource."""
    resource = File("test://mixed-content-resource", text='{"test": "data"}', mime_type="application/json")
    return ["Multiple content types test:", Image(PNG), resource]


@server.tool()
def test_error_handling() -> str:
    """Fail."""
    raise ToolError("This tool intentionally returns an error for testing")


@server.tool()
def test_x_mcp_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Take an argument that travels in a header as well."""
    return f"in {region}"


SCHEMA_2020_12: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


@server.tool(input_schema=SCHEMA_2020_12)
def json_schema_2020_12_tool(**arguments: Any) -> str:
    """Tool with JSON Schema 2020-12 features."""
    return f"{len(arguments)} arguments"


# -- tools: while they run --------------------------------------------------------------------------------------------


@server.tool()
def test_tool_with_logging(context: Context) -> str:
    """Log three times."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        context.info(message)
        context.wait(TICK)
    return "Logged three times."


@server.tool()
def test_logging_tool(context: Context) -> str:
    """Log, for whoever wants it."""
    context.info("Somebody wants to know")
    return "Logged."


@server.tool()
def test_tool_with_progress(context: Context) -> str:
    """Report progress three times."""
    for done in (0, 50, 100):
        context.progress(done, 100, f"Completed step {done} of 100")
        context.wait(TICK)
    return "Done."


@server.tool()
def test_reconnection(context: Context) -> str:
    """Close the stream of the response; the result is for whoever asks for the rest."""
    context.close_stream(retry=TICK)
    context.wait(2 * TICK)
    return "Reconnection test completed."


@server.tool()
def test_trigger_tool_change() -> str:
    """Change the list of tools."""

    def test_short_lived() -> str:
        """Be there for a moment."""
        return "here"

    server.add_tool(test_short_lived)
    server.remove_tool("test_short_lived")
    return "Changed."


@server.tool()
def test_trigger_prompt_change() -> str:
    """Change the list of prompts."""

    def test_short_lived() -> str:
        """Be there for a moment."""
        return "here"

    server.add_prompt(test_short_lived)
    server.remove_prompt("test_short_lived")
    return "Changed."


# -- tools: questions -------------------------------------------------------------------------------------------------


@server.tool()
def test_sampling(prompt: str, context: Context) -> str:
    """Ask the model of the client."""
    return f"LLM response: {context.sample(prompt, max_tokens=100).text}"


@server.tool()
def test_missing_capability(context: Context) -> str:
    """Need the model of a client, which has not declared that it has one."""
    return context.sample("Anybody there?", max_tokens=10).text


@server.tool()
def test_elicitation(message: str, context: Context) -> str:
    """Ask the user."""
    username = {"type": "string", "description": "User's response"}
    email = {"type": "string", "description": "User's email address"}
    answer = context.elicit(message, form(username=username, email=email))
    return f"User response: {answer.action}, {dict(answer.content or {})}"


@server.tool()
def test_streaming_elicitation(context: Context) -> str:
    """Ask the user, never by a request of its own in the stateless era."""
    return context.elicit("Go on?", OK).action


@server.tool()
def test_elicitation_sep1034_defaults(context: Context) -> str:
    """Ask the user, with something filled in."""
    properties = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    answer = context.elicit("Who are you?", {"type": "object", "properties": properties})
    return f"Elicitation completed: action={answer.action}, content={dict(answer.content or {})}"


@server.tool()
def test_elicitation_sep1330_enums(context: Context) -> str:
    """Ask the user to choose, in all five ways."""
    plain = ["option1", "option2", "option3"]
    titled = [{"const": f"value{n}", "title": f"{name} Option"} for n, name in enumerate(("First", "Second"), 1)]
    names = ["Option One", "Option Two", "Option Three"]
    properties = {
        "untitledSingle": {"type": "string", "enum": plain},
        "titledSingle": {"type": "string", "oneOf": titled},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": names},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
        "titledMulti": {"type": "array", "items": {"anyOf": titled}},
    }
    answer = context.elicit("What do you choose?", {"type": "object", "properties": properties})
    return f"Elicitation completed: action={answer.action}, content={dict(answer.content or {})}"


# -- tools: several rounds --------------------------------------------------------------------------------------------


@server.tool()
def test_input_required_result_elicitation(context: Context) -> str:
    """Ask for a name."""
    answer = context.elicit("What is your name?", NAME, key="user_name")
    return f"Hello, {(answer.content or {}).get('name', 'stranger')}!"


@server.tool()
def test_input_required_result_sampling(context: Context) -> str:
    """Ask the model."""
    return context.sample("What is the capital of France?", max_tokens=100, key="capital_question").text


@server.tool()
def test_input_required_result_list_roots(context: Context) -> str:
    """Ask for the roots."""
    return ", ".join(str(root.uri) for root in context.roots(key="client_roots"))


@server.tool()
def test_input_required_result_request_state(context: Context) -> str:
    """Remember something while the user is asked."""
    return remembered(context)


@server.tool()
def test_input_required_result_tampered_state(context: Context) -> str:
    """Remember something that nobody may change."""
    return remembered(context)


def remembered(context: Context) -> str:
    secret = context.state.setdefault("secret", "sesame")
    answer = context.elicit("Please confirm", OK, key="confirm")
    return f"state-ok {answer.action}" if secret == "sesame" else "state lost"


@server.tool()
def test_input_required_result_multiple_inputs(context: Context) -> str:
    """Ask three things at once."""
    context.state["asked"] = 3
    answers = context.ask(
        user_name=Elicit("What is your name?", NAME),
        greeting=Sample("Generate a greeting", max_tokens=50),
        client_roots=Roots(),
    )
    return f"{len(answers)} answers, {answers['greeting'].text}"


@server.tool()
def test_input_required_result_multi_round(context: Context) -> str:
    """Ask one thing after the other."""
    context.state["round"] = 1
    name = (context.elicit("Step 1: What is your name?", NAME, key="step1").content or {}).get("name")
    context.state["name"] = name
    colour = form(color={"type": "string"})
    answer = context.elicit("Step 2: What is your favorite color?", colour, key="step2")
    return f"{context.state['name']} likes {(answer.content or {}).get('color')}"


@server.tool()
def test_input_required_result_capabilities(context: Context) -> str:
    """Ask only what this client can be asked."""
    possible = {"elicitation": Elicit("Your name?", NAME), "sampling": Sample("Hello?", max_tokens=50)}
    questions = {name: question for name, question in possible.items() if name in context.client_capabilities}
    return f"{len(context.ask(**questions))} answers"


# -- tools: tasks -----------------------------------------------------------------------------------------------------


@server.tool()
def greet(name: str) -> str:
    """Greet at once."""
    return f"Hello, {name}!"


@server.tool(task="optional")
def slow_compute(seconds: float, context: Context, label: str = "") -> str:
    """Take a while."""
    context.wait(seconds)
    context.check()
    return f"{label}: computed for {seconds} seconds"


@server.tool(task="required")
def failing_job(context: Context) -> str:
    """Fail, after a while."""
    context.wait(TICK)
    raise ToolError("This job always fails")


@server.tool(task="optional")
def protocol_error_job() -> str:
    """Fail with an error of the protocol."""
    raise JSONRPCError(INTERNAL_ERROR, "This job breaks")


@server.tool(task="optional")
def confirm_delete(filename: str, context: Context) -> str:
    """Ask before it is too late."""
    answer = context.elicit(f"Delete {filename}?", CONFIRM)
    return f"Deleted {filename}" if answer.action == "accept" else f"Kept {filename}"


@server.tool(task="optional")
def multi_input(context: Context) -> str:
    """Ask two things at once."""
    answers = context.ask(name=Elicit("Your name?", NAME), confirm=Elicit("Sure?", CONFIRM))
    return f"{len(answers)} answers"


@server.tool()
def test_tool_with_task(context: Context) -> str:
    """Ask, and go on in the background."""
    answer = context.elicit("What is your name?", NAME, key="user_name")
    name = (answer.content or {}).get("name")
    done: str = context.as_task(lambda context: f"Hello, {name}, from the background")
    return done


# -- resources --------------------------------------------------------------------------------------------------------


@server.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    """An image."""
    return PNG


@server.resource("test://watched-resource", mime_type="text/plain")
def watched_resource() -> str:
    """Something to subscribe to."""
    return "Watched resource content."


@server.resource("test://template/{id}/data", mime_type="application/json")
def template(id: str) -> dict[str, Any]:
    """Data by its id."""
    return {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}


server.add_skills(HERE / "skills")


# -- prompts ----------------------------------------------------------------------------------------------------------


@server.prompt()
def test_simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


@server.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt with arguments.

    Args:
        arg1: The first.
        arg2: The second.
    """
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@server.prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    """A prompt with a resource.

    Args:
        resourceUri: Which.
    """
    resource = File(resourceUri, text="Embedded resource content for testing.")
    return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]


@server.prompt()
def test_prompt_with_image() -> list[UserMessage]:
    """A prompt with an image."""
    return [UserMessage(Image(PNG)), UserMessage("Please analyze the image above.")]


@server.prompt()
def test_input_required_result_prompt(context: Context) -> str:
    """A prompt that asks the user first."""
    schema = form(context={"type": "string"})
    answer = context.elicit("What context should the prompt use?", schema, key="user_context")
    return f"In the context of {(answer.content or {}).get('context')}"


@server.completion("test_prompt_with_arguments", "arg1")
def complete_arg1(value: str) -> list[str]:
    return [f"{value}{end}" for end in ("ing", "ed", "s")]


# -- hosts ------------------------------------------------------------------------------------------------------------


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """What other hosts serve: the server at /mcp, and nothing else."""
    head, _, rest = environ.get("PATH_INFO", "").lstrip("/").partition("/")
    if head != "mcp":
        start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "0")])
        return [b""]
    moved = {"SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + "/mcp", "PATH_INFO": f"/{rest}" if rest else ""}
    return mcp({**environ, **moved}, start_response)


mcp = server.wsgi_app()


def main(port: str, host: str = "http") -> None:
    if host == "http":
        server.run("http", host="127.0.0.1", port=int(port))
    elif host == "waitress":
        import waitress

        waitress.serve(application, host="127.0.0.1", port=int(port), threads=THREADS)
    elif host == "gunicorn":
        # Its two seconds are shorter than the four for which the suite's client takes a connection to be good.
        how = ["--worker-class", "gthread", "--threads", str(THREADS), "--keep-alive", "30", "--no-control-socket"]
        where = ["--bind", f"127.0.0.1:{port}", "--chdir", str(HERE), "server:application"]
        os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *how, *where])
    else:
        raise SystemExit(f"the host is http, waitress or gunicorn, not {host}")


if __name__ == "__main__":
    main(*sys.argv[1:])
