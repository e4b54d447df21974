"""Questions: what the methods of a Client were given, checked, and made into requests.

A wrong type is told at once, by name, before anything is sent or even dialled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ..engine.caller import Question

OnProgress: TypeAlias = Callable[[float, "float | None", "str | None"], Any]


def any_question(method: object, params: object, on_progress: OnProgress | None) -> Question[Any]:
    """Return a request with these params."""
    if not isinstance(method, str) or not method:
        raise TypeError(f"method must be a str such as 'tools/list', not {method!r}")
    if params is not None and type(params) is not dict and not isinstance(params, Mapping):
        raise TypeError(f"params must be a dict, not {type(params).__name__} ({params!r})")
    if on_progress is not None and not callable(on_progress):
        raise TypeError(f"on_progress must be a function, not {type(on_progress).__name__}")
    return Question(method, params, on_progress)


def tool_question(
    name: object, arguments: object, on_progress: OnProgress | None, meta: Mapping[str, Any] | None
) -> Question[Any]:
    """Return a call of a tool."""
    if type(name) is str and type(arguments) is dict and not meta and on_progress is None:  # by far the most frequent
        return Question("tools/call", {"name": name, "arguments": dict(arguments)})
    params: dict[str, Any] = {"name": checked_name(name), "arguments": dict(checked_arguments(arguments))}
    if meta:
        params["_meta"] = dict(checked_dict("meta", meta))
    return any_question("tools/call", params, on_progress)


def checked_name(name: object) -> str:
    """Return a name that is one."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__} ({name!r})")
    return name


def checked_arguments(arguments: object) -> Mapping[str, Any]:
    """Return the arguments of a tool or a prompt; None means that there are none."""
    if arguments is None:
        return {}
    if type(arguments) is not dict and not isinstance(arguments, Mapping):
        raise TypeError(
            f"arguments must be a dict of values by name, not {type(arguments).__name__} ({arguments!r})"
        )
    return arguments


def checked_dict(name: str, value: object) -> Mapping[str, Any]:
    """Return the value of the parameter ``name``, which has to be a dict."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, not {type(value).__name__} ({value!r})")
    return value


def checked_uri(uri: object) -> str:
    """Return a URI as a str."""
    if isinstance(uri, str):
        return uri
    if type(uri).__name__.endswith("Url"):  # as results hold them: pydantic's, which we do not import here
        return str(uri)
    raise TypeError(f"uri must be a str, not {type(uri).__name__} ({uri!r})")


def checked_info(info: object) -> Mapping[str, Any]:
    """Return what to say of the application, with the name and version of this package where nothing is said."""
    if info is None:
        from .. import __version__

        return {"name": "mcp-sync", "version": __version__}
    if not isinstance(info, Mapping) or not isinstance(info.get("name"), str):
        raise TypeError(f"client_info must be a dict with 'name' and 'version', not {info!r}")
    return {"version": "", **info}
