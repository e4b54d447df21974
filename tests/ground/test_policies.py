"""Keywords become policies at the door, and whatever means nothing there is refused by name."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import pytest

from mcp_sync.policies import Limits, Policies, Shutdown, Surroundings, gather, unexpected_keyword, with_knobs

CANARY = "canary-7f3a"


@with_knobs(Limits)
class MemoryTransport:
    def __init__(self, server: object, **knobs: Any) -> None: ...


@with_knobs(Limits, Shutdown, Surroundings)
class StdioTransport:
    def __init__(self, command: str, *, name: str = "", **knobs: Any) -> None: ...


def stdio(given: list[Any] | None = None, **knobs: Any) -> Policies:
    return gather(StdioTransport, [Limits, Shutdown, Surroundings], given, knobs)


def test_without_keywords_every_policy_is_the_default() -> None:
    policies = stdio()
    assert (policies[Limits], policies[Shutdown], policies[Surroundings]) == (Limits(), Shutdown(), Surroundings())


def test_a_keyword_sets_the_field_that_knows_it() -> None:
    policies = stdio(max_message_size=2048, shutdown_timeout=1, kill_tree=False)
    assert policies[Limits] == Limits(message_size=2048)
    assert policies[Shutdown] == Shutdown(seconds=1.0, tree=False)


def test_a_keyword_wins_over_a_policy_given_whole_and_leaves_its_other_fields() -> None:
    policies = stdio([Limits(message_size=2048, backlog=5)], max_backlog=7)
    assert policies[Limits] == Limits(message_size=2048, backlog=7)


def test_defaults_pass_their_own_checks() -> None:
    assert stdio([Limits(), Shutdown(), Surroundings()])[Surroundings].added == {}


def test_a_misspelt_keyword_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(
        TypeError, match=r"^StdioTransport\(\) got .* 'max_mesage_size'; did you mean 'max_message_size'\?$"
    ):
        stdio(max_mesage_size=5000)


def test_a_keyword_like_no_other_is_refused_with_the_list_of_all() -> None:
    with pytest.raises(
        TypeError, match="'colour'; it takes command, environment_additions, environment_filter, kill_tree"
    ):
        stdio(colour="red")


def test_a_keyword_of_another_transport_is_refused() -> None:
    with pytest.raises(TypeError, match="MemoryTransport.. got an unexpected keyword argument 'kill_tree'"):
        gather(MemoryTransport, [Limits], None, {"kill_tree": True})


def test_the_known_keywords_may_be_any_iterable() -> None:
    assert unexpected_keyword("T", "zzz", iter(["b", "a"])).endswith("it takes a, b")


@pytest.mark.parametrize(
    "foreign", [Shutdown(), Limits, 5, {"max_backlog": 1}], ids=["policy", "class", "number", "dict"]
)
def test_what_is_no_policy_of_this_transport_is_refused(foreign: object) -> None:
    with pytest.raises(TypeError, match="MemoryTransport has no use for the policy"):
        gather(MemoryTransport, [Limits], [foreign], {})


WRONG = [
    ("max_message_size", 1023, ValueError, "must be 1024 or more, not 1023"),
    ("max_message_size", 4096.0, TypeError, "must be a whole number, not float"),
    ("max_message_size", True, TypeError, "must be a whole number, not bool"),
    ("max_message_size", None, TypeError, "must be a whole number, not NoneType"),
    ("max_pending_messages", 0, ValueError, "must be 1 or more, not 0"),
    ("max_concurrent_callbacks", -1, ValueError, "must be 1 or more, not -1"),
    ("shutdown_timeout", -0.1, ValueError, "must be a number of seconds from 0"),
    ("shutdown_timeout", math.nan, ValueError, "must be a number of seconds from 0"),
    ("shutdown_timeout", math.inf, ValueError, "must be a number of seconds from 0"),
    ("shutdown_timeout", 10**400, ValueError, "must be a number of seconds from 0"),
    ("shutdown_timeout", "5", TypeError, "must be a number of seconds, not str"),
    ("shutdown_timeout", False, TypeError, "must be a number of seconds, not bool"),
    ("kill_tree", 1, TypeError, "must be True or False, not int"),
    ("environment_filter", "PATH", TypeError, "must be a list of names, not str"),
    ("environment_filter", 5, TypeError, "must be a list of names, not int"),
    ("environment_filter", ["PATH", 5], TypeError, "must hold only str"),
    ("environment_filter", b"PATH", TypeError, "must hold only str"),
    ("environment_additions", ["A=1"], TypeError, "must be a mapping of str to str, not list"),
    ("environment_additions", {"A": 1}, TypeError, "must map str to str; 'A' maps to int"),
    ("environment_additions", {1: "A"}, TypeError, "must map str to str; 1 maps to str"),
    ("environment_additions", {"": "x"}, ValueError, "'' cannot be set"),
    ("environment_additions", {"A=B": "x"}, ValueError, "'A=B' cannot be set"),
    ("environment_additions", {"A": "x\0"}, ValueError, "'A' cannot be set"),
]
FIELD_OF = {
    part.metadata["knob"]: (kind, part.name)
    for kind in (Limits, Shutdown, Surroundings)
    for part in dataclasses.fields(kind)
}


@pytest.mark.parametrize(("knob", "value", "error", "text"), WRONG, ids=[f"{row[0]}={row[1]!r:.12}" for row in WRONG])
@pytest.mark.parametrize("whole", [False, True], ids=["keyword", "policy"])
def test_a_wrong_value_is_refused_by_the_name_that_users_know(
    knob: str, value: object, error: type[Exception], text: str, whole: bool
) -> None:
    kind, field = FIELD_OF[knob]
    with pytest.raises(error, match=f"^{knob}:? .*") as caught:
        stdio([kind(**{field: value})]) if whole else stdio(**{knob: value})
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("knob", "value", "kept"),
    [
        ("environment_filter", ["A", "B"], ("A", "B")),
        ("environment_filter", {"A": 1}.keys(), ("A",)),
        ("environment_filter", [], ()),
        ("environment_filter", None, None),
        ("environment_additions", None, {}),
        ("environment_additions", {"A": ""}, {"A": ""}),
        ("shutdown_timeout", 0, 0.0),
        ("max_message_size", 1024, 1024),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_right_value_is_kept_in_one_form(knob: str, value: object, kept: object) -> None:
    kind, field = FIELD_OF[knob]
    got = getattr(stdio(**{knob: value})[kind], field)
    assert got == kept
    assert type(got) is type(kept)


def test_the_variables_kept_are_a_copy() -> None:
    variables = {"A": "1"}
    policies = stdio(environment_additions=variables)
    variables["A"] = "2"
    assert policies[Surroundings].added == {"A": "1"}


def test_policies_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().backlog = 5  # type: ignore[misc]


def test_no_value_of_a_variable_is_shown() -> None:
    policies = stdio(environment_additions={"API_KEY": CANARY})
    assert CANARY not in repr(policies)
    with pytest.raises(TypeError) as caught:
        gather(MemoryTransport, [Limits], [policies[Surroundings]], {})
    assert CANARY not in str(caught.value)


def test_a_misspelt_argument_of_the_constructor_itself_is_recognised() -> None:
    with pytest.raises(TypeError, match="did you mean 'command'"):
        stdio(comand="x")


def test_a_signature_lists_every_keyword_with_its_default() -> None:
    parameters = inspect.signature(StdioTransport).parameters
    assert list(parameters) == [
        *("command", "name", "max_message_size", "max_pending_messages", "max_backlog", "max_concurrent_callbacks"),
        *("shutdown_timeout", "kill_tree", "environment_filter", "environment_additions"),
    ]
    assert parameters["max_message_size"].default == 16 << 20
    assert parameters["environment_additions"].default == {}
    assert parameters["max_backlog"].kind is inspect.Parameter.KEYWORD_ONLY


def test_a_signature_binds_what_the_constructor_takes_and_nothing_else() -> None:
    inspect.signature(MemoryTransport).bind("server", max_backlog=3)
    with pytest.raises(TypeError):
        inspect.signature(MemoryTransport).bind("server", kill_tree=True)
