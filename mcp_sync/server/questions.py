"""What a server may ask a client while it answers: Elicit, Sample, Roots; and what it gets.

In the handshake era each becomes a request to the client, in the stateless era a part of an ``input_required`` result.

Source: client/{elicitation,sampling,roots}, basic/patterns/mrtr.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ACTIONS = ("accept", "decline", "cancel")


@dataclass(frozen=True)
class ElicitResult:
    """What the user said.

    Attributes:
        action: ``accept``, ``decline`` or ``cancel``.
        content: The values of the form, where it was accepted.
        data: The same as an object of the type that was asked for; the values where a schema was.
    """

    action: str
    content: Mapping[str, Any] | None = None
    data: Any = None

    @property
    def accepted(self) -> bool:
        """Whether the user filled in the form."""
        return self.action == "accept"


@dataclass(frozen=True)
class SampleResult:
    """What the model said.

    Attributes:
        content: The block of content, or several, as the wire has them.
        role: Normally ``assistant``.
        model: The name of the model.
        stop_reason: Why it stopped, where it is known.
    """

    content: Any
    role: str = "assistant"
    model: str = ""
    stop_reason: str | None = None

    @property
    def text(self) -> str:
        """All text, joined by newlines."""
        blocks = self.content if isinstance(self.content, list) else [self.content]
        return "\n".join(block["text"] for block in blocks if block.get("type") == "text")


@dataclass(frozen=True)
class Root:
    """A place in the client's file system that is there to be worked on."""

    uri: str
    name: str | None = None


class ClientQuestion(ABC):
    """A question to the client.

    Attributes:
        method: The method of the request.
    """

    method: str

    @property
    @abstractmethod
    def needs(self) -> dict[str, Any]:
        """The capability that the client must have declared, as ClientCapabilities."""

    @property
    @abstractmethod
    def params(self) -> dict[str, Any]:
        """The params of the request."""

    @abstractmethod
    def answer(self, raw: Mapping[str, Any]) -> Any:
        """Return the client's result as an object.

        Raises:
            ValueError: It is not what this may be answered with.
        """

    def allowed_by(self, capabilities: Mapping[str, Any]) -> bool:
        """Whether the client has declared what this needs."""
        return all(
            isinstance(declared := capabilities.get(name), Mapping) and all(part in declared for part in parts)
            for name, parts in self.needs.items()
        )


@dataclass(frozen=True)
class Elicit(ClientQuestion):
    """A form for the user.

    Args:
        message: What it is about.
        schema: A flat JSON Schema of an object; or a dataclass, TypedDict or pydantic model that makes one.
        url: Instead of a form: a page for the user to visit, outside of the client.
        elicitation_id: What the visit is known by, before 2026-07-28.
    """

    message: str
    schema: Any = field(default_factory=lambda: {"type": "object", "properties": {}})
    url: str | None = None
    elicitation_id: str | None = None

    method = "elicitation/create"

    @property
    def needs(self) -> dict[str, Any]:
        """Elicitation, by form or by URL."""
        return {"elicitation": {"form": {}} if self.url is None else {"url": {}}}

    def allowed_by(self, capabilities: Mapping[str, Any]) -> bool:
        """Whether the client does it; an empty declaration means forms (client/elicitation)."""
        declared = capabilities.get("elicitation")
        if not isinstance(declared, Mapping):
            return False
        return "url" in declared if self.url is not None else "form" in declared or "url" not in declared

    @property
    def params(self) -> dict[str, Any]:
        """The params of the request."""
        if self.url is not None:
            known = {"elicitationId": self.elicitation_id} if self.elicitation_id else {}
            return {"mode": "url", "message": self.message, "url": self.url, **known}
        return {"mode": "form", "message": self.message, "requestedSchema": self._form()}

    def _form(self) -> dict[str, Any]:
        if isinstance(self.schema, Mapping):
            return dict(self.schema)
        from .forms import form_schema

        return form_schema(self.schema)

    def answer(self, raw: Mapping[str, Any]) -> ElicitResult:
        """Return what the user said."""
        action, content = raw.get("action"), raw.get("content")
        if action not in ACTIONS:
            raise ValueError(f"action is {action!r:.80}, not one of {', '.join(ACTIONS)}")
        if content is not None and not isinstance(content, Mapping):
            raise ValueError("content is not an object")
        if action != "accept" or self.url is not None:
            return ElicitResult(action)
        return ElicitResult(action, content or {}, self._typed(content or {}))

    def _typed(self, content: Mapping[str, Any]) -> Any:
        if isinstance(self.schema, Mapping):
            missing = [name for name in self.schema.get("required", ()) if name not in content]
            if missing:
                raise ValueError(f"content lacks {', '.join(map(str, missing))}")
            return dict(content)
        from .forms import as_type

        return as_type(self.schema, content)


@dataclass(frozen=True)
class Sample(ClientQuestion):
    """A question to the client's model.

    Args:
        messages: A text of the user; or messages as the wire has them, or pairs of role and text.
        max_tokens: How long the answer may be.
        system_prompt: What the model should be told first.
        temperature: How much chance there is.
        stop_sequences: What ends the answer.
        model_preferences: As ModelPreferences.
        include_context: ``none``, ``thisServer`` or ``allServers``.
        tools: Tools that the model may use; the client has to declare ``sampling.tools``.
        tool_choice: As ToolChoice.
        metadata: For the provider.
    """

    messages: Any
    max_tokens: int = 1024
    system_prompt: str | None = None
    temperature: float | None = None
    stop_sequences: Sequence[str] | None = None
    model_preferences: Mapping[str, Any] | None = None
    include_context: str | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None

    method = "sampling/createMessage"

    @property
    def needs(self) -> dict[str, Any]:
        """Sampling, with tools where there are such."""
        return {"sampling": {"tools": {}} if self.tools else {}}

    @property
    def params(self) -> dict[str, Any]:
        """The params of the request."""
        optional = {
            "systemPrompt": self.system_prompt,
            "temperature": self.temperature,
            "stopSequences": None if self.stop_sequences is None else list(self.stop_sequences),
            "modelPreferences": self.model_preferences,
            "includeContext": self.include_context,
            "tools": None if self.tools is None else [dict(tool) for tool in self.tools],
            "toolChoice": self.tool_choice,
            "metadata": self.metadata,
        }
        given = {key: value for key, value in optional.items() if value is not None}
        return {"messages": _messages(self.messages), "maxTokens": self.max_tokens, **given}

    def answer(self, raw: Mapping[str, Any]) -> SampleResult:
        """Return what the model said."""
        content: Any = raw.get("content")
        blocks: list[Any] = content if isinstance(content, list) else [content]
        if not all(isinstance(block, dict) and isinstance(block.get("type"), str) for block in blocks):
            raise ValueError("content is no block of content")
        if any(block["type"] == "text" and not isinstance(block.get("text"), str) for block in blocks):
            raise ValueError("a block of text has no text")
        role, model, stop = raw.get("role"), raw.get("model"), raw.get("stopReason")
        if not isinstance(role, str) or not isinstance(model, str):
            raise ValueError("role or model is missing")
        return SampleResult(content, role, model, stop if isinstance(stop, str) else None)


def _messages(messages: Any) -> list[dict[str, Any]]:
    if isinstance(messages, str):
        return [{"role": "user", "content": {"type": "text", "text": messages}}]
    return [_message(message) for message in messages]


def _message(message: Any) -> dict[str, Any]:
    if isinstance(message, str):
        return {"role": "user", "content": {"type": "text", "text": message}}
    if isinstance(message, Mapping):
        return dict(message)
    role, content = message
    return {"role": role, "content": {"type": "text", "text": content} if isinstance(content, str) else content}


@dataclass(frozen=True)
class Roots(ClientQuestion):
    """A question for the places that the client offers to be worked on."""

    method = "roots/list"

    @property
    def needs(self) -> dict[str, Any]:
        """Roots."""
        return {"roots": {}}

    @property
    def params(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def answer(self, raw: Mapping[str, Any]) -> list[Root]:
        """Return the roots."""
        roots = raw.get("roots")
        if not isinstance(roots, list) or not all(isinstance(root, Mapping) for root in roots):
            raise ValueError("roots is not an array of objects")
        if not all(isinstance(root.get("uri"), str) for root in roots):
            raise ValueError("a root has no uri")
        return [Root(root["uri"], root.get("name")) for root in roots]
