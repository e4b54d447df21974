"""How each version dresses what we send, and what it permits."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_sync.protocol.eras import (
    CAPABILITIES_KEY,
    HANDSHAKE_VERSIONS,
    INFO_KEY,
    LOG_LEVEL_KEY,
    VERSION_KEY,
    VERSIONS,
    Era,
    Handshake,
    Identity,
    Opening,
    Stateless,
)

ME = Identity({"name": "me", "version": "1"}, {"sampling": {}})
META = {VERSION_KEY: "2026-07-28", INFO_KEY: {"name": "me", "version": "1"}, CAPABILITIES_KEY: {"sampling": {}}}


@pytest.mark.parametrize(
    "era", [Opening(), *map(Handshake, HANDSHAKE_VERSIONS)], ids=lambda era: era.version or "opening"
)
@pytest.mark.parametrize("params", [None, {}, {"a": 1, "_meta": {"x": 1}}], ids=repr)
def test_a_conversation_sends_params_as_they_are(era: Era, params: dict[str, Any] | None) -> None:
    dressed = era.dress(params)
    assert dressed == params
    assert params is None or dressed is not params


@pytest.mark.parametrize(
    ("params", "dressed"),
    [
        (None, {"_meta": META}),
        ({}, {"_meta": META}),
        ({"name": "add"}, {"name": "add", "_meta": META}),
        ({"_meta": None}, {"_meta": META}),
        ({"_meta": {"traceparent": "00"}}, {"_meta": {**META, "traceparent": "00"}}),
        ({"_meta": {LOG_LEVEL_KEY: "info"}}, {"_meta": {**META, LOG_LEVEL_KEY: "info"}}),
        ({"_meta": {CAPABILITIES_KEY: {}}}, {"_meta": {**META, CAPABILITIES_KEY: {}}}),
    ],
    ids=["nothing", "empty", "params", "null", "more metadata", "a level", "other capabilities"],
)
def test_a_stateless_request_says_who_asks(params: dict[str, Any] | None, dressed: dict[str, Any]) -> None:
    assert Stateless(ME).dress(params) == dressed


def test_dressing_leaves_what_the_caller_holds_alone() -> None:
    params: dict[str, Any] = {"_meta": {"x": 1}}
    dressed = Stateless(ME).dress(params)
    dressed["_meta"][CAPABILITIES_KEY]["roots"] = {}
    assert params == {"_meta": {"x": 1}}
    assert ME.capabilities == {"sampling": {}}


def test_no_capability_is_an_empty_object_and_not_left_out() -> None:
    assert Stateless(Identity()).dress(None)["_meta"][CAPABILITIES_KEY] == {}


def test_a_level_is_asked_for_with_every_request_until_it_is_taken_back() -> None:
    era = Stateless(ME).at_level("warning")
    assert era.dress(None)["_meta"][LOG_LEVEL_KEY] == "warning"
    assert LOG_LEVEL_KEY not in era.at_level(None).dress(None)["_meta"]


@pytest.mark.parametrize("kind", ["complete", "input_required", "task"])
def test_a_known_type_of_result_is_valid(kind: str) -> None:
    assert Stateless(ME).flaw_of({"resultType": kind}) is None


def test_a_result_without_a_type_is_complete() -> None:
    assert Stateless(ME).flaw_of({}) is None


@pytest.mark.parametrize("kind", ["partial", "", "Complete", None, 5, [], {}, True], ids=repr)
def test_an_unknown_type_of_result_is_invalid(kind: object) -> None:
    assert Stateless(ME).flaw_of({"resultType": kind}) == f"resultType is {kind!r}"


def test_a_complaint_is_short_however_long_the_type() -> None:
    assert len(Stateless(ME).flaw_of({"resultType": "x" * 10_000}) or "") < 100


@pytest.mark.parametrize("era", [Opening(), Handshake("2025-11-25")], ids=["opening", "handshake"])
def test_results_of_a_conversation_have_no_type(era: Era) -> None:
    assert era.flaw_of({"resultType": "whatever"}) is None


@pytest.mark.parametrize("version", VERSIONS)
def test_one_version_has_batches_and_one_lets_only_the_client_ask(version: str) -> None:
    era: Era = Handshake(version) if version in HANDSHAKE_VERSIONS else Stateless(ME, version)
    assert era.batches == (version == "2025-03-26")
    assert era.server_asks == (version != "2026-07-28")
    assert era.version == version


def test_before_a_version_is_agreed_the_other_side_may_ask_but_not_in_batches() -> None:
    assert (Opening().version, Opening().server_asks, Opening().batches) == ("", True, False)
