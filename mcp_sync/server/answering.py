"""Answering: what a server says to each method, in both eras; whatever binding brought the request.

Source: server/{tools,resources,prompts,discover}, server/utilities/{completion,logging,pagination,caching},
basic/patterns/mrtr, basic/index (errors).
"""

from __future__ import annotations

import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from ..exceptions import JSONRPCError, MCPError, ToolError
from ..protocol.eras import (
    CAPABILITIES_KEY,
    HANDSHAKE_VERSIONS,
    INFO_KEY,
    LOG_LEVEL_KEY,
    LOG_LEVELS,
    SERVER_INFO_KEY,
    STATELESS_VERSIONS,
    VERSION_KEY,
)
from ..protocol.messages import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, UNSUPPORTED_VERSION, Request
from ..protocol.redact import redact_url
from .calls import Asker, Call, InputRequired, TaskStarted
from .content import prompt_result, resource_contents, tool_result
from .context import Context
from .offers import Template, Tool
from .schema import InvalidArguments
from .sealing import digest

if TYPE_CHECKING:
    from .app import Server

log = logging.getLogger("mcp_sync")

Answer: TypeAlias = "Callable[[Call], dict[str, Any]]"

RESOURCE_NOT_FOUND = -32002
"""Of the handshake era alone (server/resources, error handling)."""
MAX_COMPLETIONS = 100


class Answerer:
    """The methods of a server.

    Args:
        server: Whose.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        both: dict[str, tuple[str, Answer]] = {
            "tools/list": ("tools", self._list_tools),
            "tools/call": ("tools", self._call_tool),
            "resources/list": ("resources", self._list_resources),
            "resources/templates/list": ("resources", self._list_templates),
            "resources/read": ("resources", self._read_resource),
            "prompts/list": ("prompts", self._list_prompts),
            "prompts/get": ("prompts", self._get_prompt),
            "completion/complete": ("completions", self._complete),
        }
        self._handshake = {**both, "ping": ("", _nothing)}
        self._stateless = {**both, "server/discover": ("", self._discover)}

    def offers(self, method: str, stateless: bool) -> bool:
        """Whether there is an answer to this method in an era; bindings have some of their own."""
        if stateless and any(method in extension.methods for extension in self._server.extensions):
            return True
        known = (self._stateless if stateless else self._handshake).get(method)
        return known is not None and (not known[0] or known[0] in self.capabilities(stateless))

    def capabilities(self, stateless: bool) -> dict[str, Any]:
        """Return what the server can do, as ServerCapabilities."""
        server = self._server
        found: dict[str, Any] = {}
        if server.tools.ever:
            found["tools"] = {"listChanged": True}
        if server.resources.ever or server.templates.ever:
            found["resources"] = {"subscribe": True, "listChanged": True}
        if server.prompts.ever:
            found["prompts"] = {"listChanged": True}
        if server.completions:
            found["completions"] = {}
        found["logging"] = {}
        extensions = {one.name: dict(one.settings) for one in server.extensions} if stateless else {}
        return {**found, "extensions": extensions} if extensions else found

    def answer(self, call: Call) -> dict[str, Any]:
        """Return the result of a request.

        Raises:
            JSONRPCError: There is none.
        """
        method, stateless = call.request.method, call.asker.stateless
        if not self.offers(method, stateless):
            raise JSONRPCError(METHOD_NOT_FOUND, f"{method:.80} is not offered")
        if stateless:
            for extension in self._server.extensions:
                if method in extension.methods:
                    return self._complete_result(extension.methods[method](call))
            return self._complete_result(self._stateless[method][1](call))
        return self._handshake[method][1](call)

    def _complete_result(self, result: dict[str, Any]) -> dict[str, Any]:
        meta = result.get("_meta") or {}
        return {"resultType": "complete", **result, "_meta": {SERVER_INFO_KEY: self._server.info, **meta}}

    # -- greeting -----------------------------------------------------------------------------------------------------

    def initialized(self, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the version to be spoken and the answer to ``initialize``.

        Raises:
            JSONRPCError: The params are not those of an ``initialize``.
        """
        wanted = params.get("protocolVersion")
        if not isinstance(wanted, str):
            supported = {"supported": list(HANDSHAKE_VERSIONS)}
            raise JSONRPCError(INVALID_PARAMS, "initialize: params.protocolVersion must be a string", supported)
        for name in ("capabilities", "clientInfo"):
            if not isinstance(params.get(name, {}), Mapping):
                raise JSONRPCError(INVALID_PARAMS, f"initialize: params.{name} must be an object")
        version = wanted if wanted in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1]
        result = {
            "protocolVersion": version,
            "capabilities": self.capabilities(stateless=False),
            "serverInfo": dict(self._server.info),
        }
        if self._server.instructions:
            result["instructions"] = self._server.instructions
        return version, result

    def _discover(self, call: Call) -> dict[str, Any]:
        found: dict[str, Any] = {
            "supportedVersions": list(STATELESS_VERSIONS),
            "capabilities": self.capabilities(stateless=True),
        }
        if self._server.instructions:
            found["instructions"] = self._server.instructions
        return {**found, **self._server.caching}

    # -- lists --------------------------------------------------------------------------------------------------------

    def _list_tools(self, call: Call) -> dict[str, Any]:
        return self._page(call, "tools", (tool.definition for tool in self._server.tools))

    def _list_resources(self, call: Call) -> dict[str, Any]:
        return self._page(call, "resources", (one.definition for one in self._server.resources))

    def _list_templates(self, call: Call) -> dict[str, Any]:
        return self._page(call, "resourceTemplates", (one.definition for one in self._server.templates))

    def _list_prompts(self, call: Call) -> dict[str, Any]:
        return self._page(call, "prompts", (prompt.definition for prompt in self._server.prompts))

    def _page(self, call: Call, name: str, offers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        every = list(offers)
        start = _offset(call.params.get("cursor"))
        size = self._server.page_size or len(every)
        page: dict[str, Any] = {name: every[start : start + size]}
        if start + size < len(every):
            page["nextCursor"] = urlsafe_b64encode(b"%d" % (start + size)).decode()
        return {**page, **self._server.caching} if call.asker.stateless else page

    # -- tools --------------------------------------------------------------------------------------------------------

    def _call_tool(self, call: Call) -> dict[str, Any]:
        tool = self._server.tools.get(call.params.get("name"))
        if tool is None:
            raise JSONRPCError(INVALID_PARAMS, f"there is no tool {call.params.get('name')!r:.150}")
        arguments = call.params.get("arguments")
        if arguments is not None and not isinstance(arguments, Mapping):
            raise JSONRPCError(INVALID_PARAMS, "params.arguments must be an object")
        if tool.task is not None and (result := self._as_task(tool, arguments or {}, call)) is not None:
            return result
        return self._in_rounds(call, lambda context: self.run_tool(tool, arguments or {}, context))

    def _as_task(self, tool: Tool, arguments: Mapping[str, Any], call: Call) -> dict[str, Any] | None:
        tasks = self._server.use_tasks()
        if not tasks.known_to(call.asker):
            if tool.task == "required":
                raise self._server.task_needed(call.asker)
            return None
        return tasks.start(call, lambda context: self.run_tool(tool, arguments, context)).result

    def run_tool(self, tool: Tool, arguments: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Call a tool; whatever goes wrong in it becomes a result (server/tools, error handling).

        Raises:
            JSONRPCError: The tool raised it.
        """
        try:
            bound = tool.signature.bind(arguments)
        except InvalidArguments as flaw:
            return _tool_error(str(flaw))
        context.outcome = partial(self._outcome, tool)
        return self._outcome(tool, context, lambda: tool.signature.call(bound, context))

    def _outcome(self, tool: Tool, context: Context, run: Callable[[], Any]) -> dict[str, Any]:
        try:
            value = run()
            return value.result if isinstance(value, TaskStarted) else tool_result(value, tool.signature)
        except ToolError as error:
            return _tool_error(str(error.args[0]) if error.args else "")
        except Exception as error:
            if _is_the_answer(error):
                raise
            log.exception("the tool %r failed", tool.name)
            return _tool_error(self._told(tool, error))

    def _told(self, tool: Tool, error: Exception) -> str:
        if self._server.mask_error_details:
            return f"the tool {tool.name!r} failed"
        text = str(error.args[0]) if isinstance(error, MCPError) and error.args else str(error)
        return text or type(error).__name__

    # -- several rounds -----------------------------------------------------------------------------------------------

    def _in_rounds(self, call: Call, run: Callable[[Context], dict[str, Any]]) -> dict[str, Any]:
        """Run a function that may have to ask the client, which then comes back with the answers."""
        state, answers = self._carried(call) if call.asker.stateless else ({}, {})
        context = Context(self._server, call, state, answers)
        try:
            return run(context)
        except InputRequired as wanted:
            return self._question(call, context, wanted)

    def _carried(self, call: Call) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Return the state of earlier rounds, and all answers so far."""
        given = call.params.get("inputResponses", {})
        if not isinstance(given, Mapping):
            raise JSONRPCError(INVALID_PARAMS, "params.inputResponses must be an object")
        if "requestState" not in call.params:
            return {}, given
        try:
            carried = self._server.seal.open(call.params["requestState"], self._bound(call))
        except ValueError:
            reason = {"reason": "invalid_request_state"}
            raise JSONRPCError(INVALID_PARAMS, "invalid or expired requestState", reason) from None
        return carried["state"], {**carried["answers"], **given}

    def _question(self, call: Call, context: Context, wanted: InputRequired) -> dict[str, Any]:
        result: dict[str, Any] = {"resultType": "input_required", "inputRequests": dict(wanted.requests)}
        if context.asked or context.state:
            carried = {"state": context.state, "answers": context.asked}
            result["requestState"] = self._server.seal.close(carried, self._bound(call))
        return result

    def _bound(self, call: Call) -> str:
        """Return what a state is good for: this server, this method, this thing, these arguments, this principal."""
        params = {key: call.params.get(key) for key in ("name", "uri", "arguments")}
        return digest([self._server.name, call.request.method, params, call.asker.principal])

    # -- resources ----------------------------------------------------------------------------------------------------

    def _read_resource(self, call: Call) -> dict[str, Any]:
        uri = call.params.get("uri")
        if not isinstance(uri, str):
            raise JSONRPCError(INVALID_PARAMS, "params.uri must be a string")
        result = self._in_rounds(call, lambda context: {"contents": self.contents(uri, context)})
        if not call.asker.stateless or "contents" not in result:
            return result
        fresh = {"ttlMs": 0} if call.params.get("inputResponses") else {}  # what was answered is for this once
        return {**self._server.caching, **fresh, **result}

    def contents(self, uri: str, context: Context) -> list[dict[str, Any]]:
        """Return the contents of a resource.

        Raises:
            JSONRPCError: There is no such resource, or it cannot be read.
        """
        resource = self._server.resources.get(uri)
        if resource is not None:
            return self._read(uri, resource.mime_type, lambda: resource.read(context))
        for template in self._server.templates:
            values = template.template.match(uri)
            if values is not None:
                return self._read_filled(uri, template, values, context)
        raise self.not_found(uri, context)

    def _read_filled(
        self, uri: str, template: Template, values: Mapping[str, str], context: Context
    ) -> list[dict[str, Any]]:
        try:
            bound = template.signature.bind(values)
        except InvalidArguments as flaw:
            raise JSONRPCError(INVALID_PARAMS, f"{uri:.200}: {flaw}", {"uri": uri}) from None
        return self._read(uri, template.mime_type, lambda: template.signature.call(bound, context))

    def not_found(self, uri: str, context: Context) -> JSONRPCError:
        """Return the error for a resource that does not exist; its code depends on the era."""
        stateless = context.protocol_version in STATELESS_VERSIONS
        code = INVALID_PARAMS if stateless else RESOURCE_NOT_FOUND
        return JSONRPCError(code, f"there is no resource {uri!r:.200}", {"uri": uri})

    def _read(self, uri: str, mime_type: str | None, read: Callable[[], Any]) -> list[dict[str, Any]]:
        try:
            return resource_contents(read(), uri, mime_type)
        except Exception as error:
            if _is_the_answer(error):
                raise
            log.exception("the resource %r cannot be read", redact_url(uri))
            raise JSONRPCError(INTERNAL_ERROR, f"the resource {uri!r:.200} cannot be read", {"uri": uri}) from error

    # -- prompts and completion ---------------------------------------------------------------------------------------

    def _get_prompt(self, call: Call) -> dict[str, Any]:
        prompt = self._server.prompts.get(call.params.get("name"))
        if prompt is None:
            raise JSONRPCError(INVALID_PARAMS, f"there is no prompt {call.params.get('name')!r:.150}")
        arguments = call.params.get("arguments")
        if arguments is not None and not isinstance(arguments, Mapping):
            raise JSONRPCError(INVALID_PARAMS, "params.arguments must be an object")
        try:
            bound = prompt.signature.bind(arguments or {})
        except InvalidArguments as flaw:
            raise JSONRPCError(INVALID_PARAMS, str(flaw)) from None

        def run(context: Context) -> dict[str, Any]:
            try:
                return prompt_result(prompt.signature.call(bound, context), prompt.definition.get("description"))
            except Exception as error:
                if _is_the_answer(error):
                    raise
                log.exception("the prompt %r failed", prompt.name)
                raise JSONRPCError(INTERNAL_ERROR, f"the prompt {prompt.name!r:.150} failed") from error

        return self._in_rounds(call, run)

    def _complete(self, call: Call) -> dict[str, Any]:
        reference, argument = call.params.get("ref"), call.params.get("argument")
        if not isinstance(reference, Mapping) or not isinstance(argument, Mapping):
            raise JSONRPCError(INVALID_PARAMS, "params.ref and params.argument must be objects")
        name, value = argument.get("name"), argument.get("value")
        if not isinstance(name, str) or not isinstance(value, str):
            raise JSONRPCError(INVALID_PARAMS, "params.argument.name and params.argument.value must be strings")
        target = self._completed(reference)
        context = call.params.get("context") or {}
        known = context.get("arguments") if isinstance(context, Mapping) else None
        function = self._server.completions.get((target, name))
        values = function(value, known if isinstance(known, Mapping) else {}) if function else []
        found = {"values": values[:MAX_COMPLETIONS], "total": len(values), "hasMore": len(values) > MAX_COMPLETIONS}
        return {"completion": found}

    def _completed(self, reference: Mapping[str, Any]) -> str:
        """Return the name of the prompt, or the template, whose argument is to be completed."""
        kind = reference.get("type")
        if kind == "ref/prompt" and (prompt := self._server.prompts.get(reference.get("name"))):
            return prompt.name
        uri = reference.get("uri")
        known = self._server.templates.get(uri) or self._server.resources.get(uri)
        if kind == "ref/resource" and known is not None:
            return str(uri)
        raise JSONRPCError(INVALID_PARAMS, "params.ref is neither a prompt nor a resource template of this server")


def stateless_asker(
    request: Request, headers: Mapping[str, str] | None = None, principal: str | None = None
) -> Asker:
    """Return who asks, as a request of the stateless era says itself (basic/index, request metadata).

    Raises:
        JSONRPCError: What has to be said is missing, or the version is none of ours.
    """
    meta = (request.params or {}).get("_meta")
    meta = meta if isinstance(meta, Mapping) else {}
    version, capabilities = meta.get(VERSION_KEY), meta.get(CAPABILITIES_KEY)
    if not isinstance(version, str):
        raise JSONRPCError(INVALID_PARAMS, f"params._meta lacks {VERSION_KEY}, a string")
    if version not in STATELESS_VERSIONS:
        data = {"supported": list(STATELESS_VERSIONS), "requested": version}
        raise JSONRPCError(UNSUPPORTED_VERSION, "unsupported protocol version", data)
    if not isinstance(capabilities, Mapping):
        raise JSONRPCError(INVALID_PARAMS, f"params._meta lacks {CAPABILITIES_KEY}, an object")
    level = meta.get(LOG_LEVEL_KEY)
    if level is not None and level not in LOG_LEVELS:
        raise JSONRPCError(INVALID_PARAMS, f"{LOG_LEVEL_KEY} must be one of {', '.join(LOG_LEVELS)}")
    info = meta.get(INFO_KEY)
    return Asker(
        version,
        True,
        info if isinstance(info, Mapping) else {},
        capabilities,
        headers or {},
        principal,
        log_level=level,
    )


def checked_level(params: Mapping[str, Any]) -> str:
    """Return the level of a ``logging/setLevel``.

    Raises:
        JSONRPCError: It is none.
    """
    level = params.get("level")
    if level not in LOG_LEVELS:
        raise JSONRPCError(INVALID_PARAMS, f"params.level must be one of {', '.join(LOG_LEVELS)}")
    return str(level)


def _is_the_answer(error: Exception) -> bool:
    """Whether a function raised an error to be answered as it is: one that came from another server has a method."""
    return isinstance(error, JSONRPCError) and error.method is None


def _nothing(call: Call) -> dict[str, Any]:
    return {}


def _tool_error(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": True}


def _offset(cursor: object) -> int:
    if cursor is None:
        return 0
    try:
        found = urlsafe_b64decode(str(cursor).encode("ascii"))
        if isinstance(cursor, str) and found.isdigit() and len(found) < 10:
            return int(found)
    except ValueError:  # binascii.Error and UnicodeError are some
        pass
    raise JSONRPCError(INVALID_PARAMS, "params.cursor is none of ours")
