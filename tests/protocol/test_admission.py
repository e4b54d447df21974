"""What a server of Streamable HTTP decides before any code of the application runs: rule by rule of the protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from protocol.strategies import json_values, whole_messages

from mcp_sync.exceptions import JSONRPCError
from mcp_sync.protocol import messages
from mcp_sync.protocol.admission import (
    ASSUMED_VERSION,
    Admitted,
    Refusal,
    accepts,
    admit_post,
    http_status_of,
    lacking,
    method_refusal,
    missing_capability,
    shown,
)
from mcp_sync.protocol.eras import (
    CAPABILITIES_KEY,
    HANDSHAKE_VERSIONS,
    INFO_KEY,
    LOG_LEVEL_KEY,
    STATELESS_VERSIONS,
    VERSION_KEY,
)
from mcp_sync.protocol.headers import ParamNames, annotated, encode_value, mirrored, routing_headers
from mcp_sync.protocol.messages import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_BATCH,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    Batch,
    Failure,
    Malformed,
    Notification,
    Request,
    Result,
    encode,
)

CANARY = "c4nary"
NOW = "2026-07-28"
HTTP = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
META = {VERSION_KEY: NOW, CAPABILITIES_KEY: {}}
OFFERED = {
    *("server/discover", "tools/list", "tools/call", "prompts/get", "resources/read", "subscriptions/listen"),
    *("tasks/get", "tasks/update", "tasks/cancel"),
}
SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "dry": {"type": "boolean", "x-mcp-header": "Dry"},
        "inner": {"type": "object", "properties": {"deep": {"type": "string", "x-mcp-header": "in_ner"}}},
        "free": {"type": "string"},
    },
}
NAMES = {"wx": annotated(SCHEMA)}


def admit(headers: Mapping[str, str], body: object) -> Admitted | Refusal:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return admit_post({**HTTP, **headers}, raw, known=OFFERED.__contains__, param_names=NAMES.get)


def admitted(headers: Mapping[str, str], body: object) -> Admitted:
    found = admit(headers, body)
    assert isinstance(found, Admitted), found
    return found


def refused(headers: Mapping[str, str], body: object) -> tuple[int, int, object]:
    """Return status, code and id of the refusal."""
    found = refusal(headers, body)
    return found.status, found.code, found.request_id


def refusal(headers: Mapping[str, str], body: object) -> Refusal:
    found = admit(headers, body)
    assert isinstance(found, Refusal), found
    return found


def call(method: str, meta: object = META, /, id_: object = 7, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": {**params, "_meta": meta}}


def dressed(body: dict[str, Any], /, **changed: str | None) -> dict[str, str]:
    """Return the headers of a well-behaved client, with some changed (the underscore is a hyphen) or left out."""
    request = Request(body["id"], body["method"], body.get("params"))
    headers = {name.lower(): value for name, value in routing_headers(request).items()}
    for name, value in changed.items():
        headers.pop(name.replace("_", "-"), None)
        if value is not None:
            headers[name.replace("_", "-")] = value
    return headers


def plain(method: str, **params: Any) -> dict[str, Any]:
    """A request of the handshake era."""
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}


INITIALIZE = plain(
    "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "c", "version": "1"}
)
NOTE = {"jsonrpc": "2.0", "method": "notifications/initialized"}
ANSWER = {"jsonrpc": "2.0", "id": 3, "result": {}}
ERROR_ANSWER = {"jsonrpc": "2.0", "id": 3, "error": {"code": -1, "message": "no"}}


# -- the form ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *("application/json", "Application/JSON", " application/json ", "application/json; charset=utf-8"),
        *('application/json;charset="UTF-8"', "application/json; charset=utf8", "application/json; version=1"),
    ],
)
def test_D1_json_is_taken_whatever_its_parameters(value: str) -> None:
    assert admitted({"content-type": value}, INITIALIZE).message == Request(7, "initialize", INITIALIZE["params"])


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "text/plain",
            "text/json",
            "application/json-rpc",
            "application/jsonp",
            "application/x-www-form-urlencoded",
        ),
        *("application/json, application/json", "multipart/form-data", "application/json; charset=latin-1"),
        *("application/json; version=1; charset=utf-16", "; application/json", "application/json\x00"),
    ],
)
def test_D1_what_is_no_json_by_its_type_is_415(value: str) -> None:
    assert refused({"content-type": value}, INITIALIZE) == (415, INVALID_REQUEST, None)


def test_D1_a_missing_content_type_is_415() -> None:
    found = admit_post({"accept": "*/*"}, b"{}", known=OFFERED.__contains__, param_names=NAMES.get)
    assert isinstance(found, Refusal)
    assert found.status == 415


ACCEPTABLE = [
    *("application/json, text/event-stream", "text/event-stream,application/json", "*/*", "APPLICATION/JSON,Text/*"),
    *("application/*, text/event-stream", "application/json;q=0.1, text/event-stream;q=0.001", "text/html, */*;q=0.8"),
    *("application/json;q=x, text/event-stream;q=", " ", "", "text/event-stream, */*;q=0.1"),
    *("*/*;q=0, application/json, text/event-stream", "application/json, text/event-stream, */*;q=0, text/*;q=0"),
]
UNACCEPTABLE = [
    *("application/json", "text/event-stream", "text/html", "text/*", "application/*", ",", "application/jsonx, */"),
    *("*/*, text/event-stream;q=0", "text/event-stream;q=0, application/json, */*", "application/*, text/html"),
    *("application/json; q=0.000, text/event-stream", "*/*;q=0"),
    *("application/*;q=1, application/json;Q=0, text/event-stream", "application/json text/event-stream"),
]


@pytest.mark.parametrize("value", ACCEPTABLE)
def test_D1_E2_who_accepts_both_types_is_served(value: str) -> None:
    assert admitted({"accept": value}, INITIALIZE)
    body = call("tools/list")
    assert admitted({**dressed(body), "accept": value}, body)


@pytest.mark.parametrize("value", UNACCEPTABLE)
def test_D1_E2_V18_who_accepts_only_one_of_the_types_gets_406(value: str) -> None:
    assert refused({"accept": value}, INITIALIZE) == (406, INVALID_REQUEST, 7)
    body = call("tools/list")
    assert refused({**dressed(body), "accept": value}, body) == (406, INVALID_REQUEST, 7)


def test_who_says_nothing_of_types_accepts_all() -> None:
    found = admit_post(
        {"content-type": "application/json"},
        json.dumps(INITIALIZE).encode(),
        known=OFFERED.__contains__,
        param_names=NAMES.get,
    )
    assert isinstance(found, Admitted)


@pytest.mark.parametrize("body", [NOTE, ANSWER, ERROR_ANSWER, [NOTE, ANSWER]])
def test_where_there_is_no_answer_it_does_not_matter_what_is_accepted(body: object) -> None:
    assert admitted({"accept": "text/html"}, body)


@pytest.mark.parametrize("body", [[NOTE, INITIALIZE], [NOTE, {}]])
def test_a_batch_that_is_answered_needs_both_types(body: object) -> None:
    assert refused({"accept": "application/json"}, body)[0] == 406


UNREADABLE = {
    b"": "invalid JSON: Expecting value: line 1 column 1 (char 0)",
    b"{": None,
    b"{'a': 1}": None,
    b'{"jsonrpc": "2.0", "id": 5, "method": "tools/list",': None,
    b"\xff": "invalid UTF-8 at byte 0",
    b"\xef\xbb\xbf{}": "invalid JSON: it begins with a byte order mark (RFC 8259, section 8.1)",
    b'{"id": 5, "jsonrpc": "2.0", "method": "a", "params": {"b": NaN}}': "invalid JSON: NaN is not JSON",
    b'"\\ud800"': "a lone surrogate, which is no character",
    b"[" * 200 + b"]" * 200: "invalid JSON: nested more than 128 levels deep",
    b"[" * 100_000: "invalid JSON: nested more than 128 levels deep",
    b"9" * 10_000: "the body cannot be read as JSON",
    '{"id": 5}'.encode("utf-16"): None,
}


@pytest.mark.parametrize("headers", [{}, {"mcp-protocol-version": "2025-11-25"}, {"mcp-protocol-version": NOW}])
@pytest.mark.parametrize(("body", "reason"), UNREADABLE.items())
def test_V18_what_is_no_json_is_400_and_a_parse_error_without_id(
    headers: dict[str, str], body: bytes, reason: str | None
) -> None:
    found = refusal(headers, body)
    assert (found.status, found.code, found.request_id) == (400, PARSE_ERROR, None)
    assert found.message.startswith("Parse error: ")
    assert reason is None or found.message == f"Parse error: {reason}"
    assert "sys." not in found.message


WRONG_SHAPES: list[tuple[object, object]] = [
    ({}, None),
    (5, None),
    (None, None),
    ("text", None),
    ({"jsonrpc": "2.0", "id": None, "method": "tools/list"}, None),
    ({"jsonrpc": "2.0", "id": 1.5, "method": "tools/list"}, None),
    ({"jsonrpc": "2.0", "id": True, "method": "tools/list"}, None),
    ({"jsonrpc": "2.0", "id": {"a": 1}, "method": "tools/list"}, None),
    ({"jsonrpc": "1.0", "id": 4, "method": "tools/list"}, 4),
    ({"id": "a", "method": "tools/list"}, "a"),
    ({"jsonrpc": "2.0", "id": 4, "method": 5}, 4),
    ({"jsonrpc": "2.0", "id": 4, "method": "tools/list", "params": [1]}, 4),
    ({"jsonrpc": "2.0", "id": 4}, None),
    ({"jsonrpc": "2.0", "id": 4, "result": 5}, None),
    ({"jsonrpc": "2.0", "id": 4, "error": {}}, None),
    ([], None),
    ([[]] * (MAX_BATCH + 1), None),
]


@pytest.mark.parametrize("headers", [{}, {"mcp-protocol-version": "2025-03-26"}, {"mcp-protocol-version": NOW}])
@pytest.mark.parametrize(("body", "id_"), WRONG_SHAPES)
def test_A2_V18_what_is_no_message_is_400_and_an_invalid_request_with_the_id_it_plainly_has(
    headers: dict[str, str], body: object, id_: object
) -> None:
    assert refused(headers, body) == (400, INVALID_REQUEST, id_)


# -- the era: handshake -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", HANDSHAKE_VERSIONS)
@pytest.mark.parametrize("body", [INITIALIZE, plain("tools/list"), plain("unknown/method"), NOTE, ANSWER, ERROR_ANSWER])
def test_D13_a_version_of_the_handshake_era_leads_there(version: str, body: dict[str, Any]) -> None:
    found = admitted({"mcp-protocol-version": f" {version}\t"}, body)
    assert (found.version, found.stateless) == (version, False)
    assert found.message.as_dict() == body  # type: ignore[union-attr]


@pytest.mark.parametrize("body", [INITIALIZE, plain("tools/list"), NOTE, ANSWER, ERROR_ANSWER])
def test_D13_without_the_header_the_version_is_assumed(body: dict[str, Any]) -> None:
    found = admitted({}, body)
    assert (found.version, found.stateless) == (ASSUMED_VERSION, False)
    assert ASSUMED_VERSION == "2025-03-26"


def test_the_handshake_era_has_no_headers_that_mirror_a_body() -> None:
    headers = {"mcp-protocol-version": "2025-11-25", "mcp-method": "wrong", "mcp-name": "wrong", "mcp-param-x": "\xff"}
    assert admitted(headers, plain("tools/call", name="wx", arguments={"region": "eu"}))


def test_A9_a_batch_is_taken_in_2025_03_26_whole_with_what_is_wrong_in_it() -> None:
    for headers in ({}, {"mcp-protocol-version": "2025-03-26"}):
        found = admitted(headers, [plain("ping"), NOTE, ANSWER, {"id": 8, "method": 5}])
        assert isinstance(found.message, Batch)
        assert [type(one) for one in found.message.messages] == [Request, Notification, Result, Malformed]
        assert (found.version, found.stateless) == ("2025-03-26", False)


@pytest.mark.parametrize("version", sorted({*HANDSHAKE_VERSIONS, NOW, "1900-01-01"} - {"2025-03-26"}))
def test_A9_E2_a_batch_is_refused_in_every_other_version(version: str) -> None:
    assert refused({"mcp-protocol-version": version}, [plain("ping")]) == (400, INVALID_REQUEST, None)


def test_A9_initialize_in_a_batch_is_refused() -> None:
    assert refused({}, [plain("ping"), INITIALIZE]) == (400, INVALID_REQUEST, None)


@pytest.mark.parametrize(
    "headers", [{}, *({"mcp-protocol-version": version} for version in HANDSHAKE_VERSIONS)], ids=str
)
def test_E8_E11_a_body_of_the_stateless_era_without_its_header_is_a_mismatch(headers: dict[str, str]) -> None:
    assert refused(headers, call("tools/list")) == (400, HEADER_MISMATCH, 7)
    assert refused(headers, {**NOTE, "params": {"_meta": META}}) == (400, HEADER_MISMATCH, None)
    assert refused(headers, call("tools/list", {VERSION_KEY: 5})) == (400, HEADER_MISMATCH, 7)
    assert refused(headers, call("tools/list", {VERSION_KEY: "1900-01-01"})) == (400, HEADER_MISMATCH, 7)


def test_E8_no_message_of_the_stateless_era_slips_in_with_a_batch() -> None:
    assert refused({}, [plain("ping"), call("tools/list")]) == (400, HEADER_MISMATCH, 7)


def test_B16_a_version_of_the_handshake_era_cannot_be_spoken_without_a_handshake() -> None:
    found = refusal({"mcp-protocol-version": "2025-11-25"}, call("tools/list", {**META, VERSION_KEY: "2025-11-25"}))
    assert (found.status, found.code, found.request_id) == (400, UNSUPPORTED_VERSION, 7)
    assert found.data == {"supported": list(STATELESS_VERSIONS), "requested": "2025-11-25"}


@pytest.mark.parametrize("headers", [{}, {"mcp-protocol-version": "2025-11-25"}])
def test_B16_initialize_is_a_handshake_whatever_metadata_it_brings(headers: dict[str, str]) -> None:
    body = {**INITIALIZE, "params": {**INITIALIZE["params"], "_meta": META}}
    assert not admitted(headers, body).stateless


@pytest.mark.parametrize("meta", [None, {}, [], 5, {"progressToken": 1}, {INFO_KEY: {}, CAPABILITIES_KEY: {}}])
def test_metadata_without_a_version_belongs_to_no_era(meta: object) -> None:
    assert not admitted({"mcp-protocol-version": "2025-06-18"}, call("tools/list", meta)).stateless


# -- the era: stateless -----------------------------------------------------------------------------------------------

GOOD = [
    call("server/discover"),
    call("tools/list"),
    call("tools/call", name="unmarked", arguments={"region": "x"}),
    call("tools/call", name="wx"),
    call("prompts/get", name="Übersicht"),
    call("resources/read", uri="file:///a%20b?id=1,2"),
    call("tasks/get", taskId="786-512"),
    call("subscriptions/listen", notifications={}),
    call("tools/list", {**META, INFO_KEY: {"name": "c", "version": "1"}, LOG_LEVEL_KEY: "debug"}),
    call("tools/list", {**META, INFO_KEY: None, LOG_LEVEL_KEY: None}),
    call("tools/list", id_="text"),
]


@pytest.mark.parametrize("body", GOOD, ids=lambda body: body["method"])
def test_a_request_of_the_stateless_era_is_admitted(body: dict[str, Any]) -> None:
    found = admitted(dressed(body), body)
    assert found == Admitted(Request(body["id"], body["method"], body["params"]), NOW, stateless=True)


def test_E1_sessions_and_event_ids_mean_nothing_there() -> None:
    body = call("tools/list")
    assert admitted({**dressed(body), "mcp-session-id": "stale", "last-event-id": "9"}, body).stateless


@pytest.mark.parametrize("method", ["notifications/cancelled", "notifications/initialized", "nonsense"])
def test_E3_a_notification_is_taken_whatever_its_headers(method: str) -> None:
    for headers in ({}, {"mcp-method": "wrong"}):
        body = {"jsonrpc": "2.0", "method": method}
        assert admitted({"mcp-protocol-version": NOW, **headers}, body) == Admitted(Notification(method), NOW, True)


def test_E3_a_notification_of_an_unknown_version_is_told_so() -> None:
    found = refusal({"mcp-protocol-version": "2099-01-01"}, NOTE)
    assert (found.status, found.code, found.request_id) == (400, UNSUPPORTED_VERSION, None)


@pytest.mark.parametrize("version", [NOW, "1900-01-01"])
@pytest.mark.parametrize("body", [ANSWER, ERROR_ANSWER])
def test_A7_V18_an_answer_is_refused_where_the_server_does_not_ask(version: str, body: object) -> None:
    assert refused({"mcp-protocol-version": version}, body) == (400, INVALID_REQUEST, None)


# the version


@pytest.mark.parametrize("version", ["1900-01-01", "v999.0.0", "2026-07-29", "2026-07-28x", "draft", ""])
def test_B1_V2_an_unknown_version_is_told_which_are_supported(version: str) -> None:
    for body in (call("server/discover", {**META, VERSION_KEY: version}), call("unknown/method", {}), INITIALIZE):
        found = refusal(dressed(body, mcp_protocol_version=version), body)
        assert (found.status, found.code, found.request_id) == (400, UNSUPPORTED_VERSION, 7)
        assert found.data == {"supported": list(STATELESS_VERSIONS), "requested": version}


def test_B1_the_supported_versions_are_those_that_discover_names() -> None:
    found = admit_post(
        {**HTTP, "mcp-protocol-version": "x"},
        encode(Request(7, "a")),
        known=OFFERED.__contains__,
        param_names=NAMES.get,
        supported=["2026-07-28", "2025-11-25"],
    )
    assert isinstance(found, Refusal)
    assert found.data == {"supported": ["2026-07-28", "2025-11-25"], "requested": "x"}


def test_a_version_is_repeated_neither_at_length_nor_with_control_characters() -> None:
    found = refusal({"mcp-protocol-version": "a\x00\x1b\n\x7fé" + "b" * 9999}, plain("a"))
    assert found.data["requested"] == "a?????" + "b" * 71 + "..."


@pytest.mark.parametrize(
    ("header", "declared"), [(NOW, "v999.0.0"), ("v999.0.0", NOW), (NOW, "2025-11-25"), (NOW, ""), (NOW, NOW + " ")]
)
def test_E8_header_and_body_that_name_two_versions_are_a_mismatch(header: str, declared: str) -> None:
    for method in ("server/discover", "unknown/method"):
        body = call(method, {**META, VERSION_KEY: declared})
        assert refused(dressed(body, mcp_protocol_version=header), body) == (400, HEADER_MISMATCH, 7)
    note = {**NOTE, "params": {"_meta": {**META, VERSION_KEY: declared}}}
    assert refused({"mcp-protocol-version": header}, note) == (400, HEADER_MISMATCH, None)


@pytest.mark.parametrize("joined", [f"{NOW},{NOW}", f"{NOW}, 2025-11-25", f"2025-11-25,{NOW}", "x,y"])
def test_E10_trap_42_a_repeated_version_is_a_mismatch(joined: str) -> None:
    body = call("tools/list")
    assert refused(dressed(body, mcp_protocol_version=joined), body) == (400, HEADER_MISMATCH, 7)
    assert refused({"mcp-protocol-version": joined}, plain("tools/list")) == (400, HEADER_MISMATCH, 7)


def test_D13_a_repeated_version_of_the_handshake_era_is_no_evidence_of_a_server_without_it() -> None:
    for body in (plain("tools/list"), INITIALIZE):
        assert refused({"mcp-protocol-version": "2025-11-25, 2025-11-25"}, body) == (400, INVALID_REQUEST, 7)


# the method

REMOVED = [
    *("initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "unknown/method", ""),
    *("tasks/list", "tasks/result", "notifications/initialized"),
]


@pytest.mark.parametrize("method", REMOVED)
def test_B5_E12_a_method_that_is_not_offered_is_404(method: str) -> None:
    body = call(method)
    assert refused(dressed(body), body) == (404, METHOD_NOT_FOUND, 7)


@pytest.mark.parametrize("method", REMOVED)
def test_the_method_is_looked_at_before_the_metadata_and_the_headers_that_mirror(method: str) -> None:
    for body in (plain(method), call(method, {VERSION_KEY: NOW}), call(method, id_="a")):
        assert refused({"mcp-protocol-version": NOW}, body) == (404, METHOD_NOT_FOUND, body["id"])
        assert refused({"mcp-protocol-version": NOW, "mcp-method": "wrong"}, body)[0] == 404


def test_B17_initialize_is_told_how_the_handshake_goes() -> None:
    found = refusal({"mcp-protocol-version": NOW}, INITIALIZE)
    assert all(version in found.message for version in HANDSHAKE_VERSIONS)
    assert "MCP-Protocol-Version" in found.message


def test_an_unknown_method_is_repeated_neither_at_length_nor_with_control_characters() -> None:
    found = refusal({"mcp-protocol-version": NOW}, call("\x1b[31m\r\n<é>" + "m" * 999))
    assert found.message == "Method not found: ?[31m??<?>" + "m" * 67 + "..."


# the metadata


@pytest.mark.parametrize(
    ("params", "named"),
    [
        (None, [VERSION_KEY, CAPABILITIES_KEY]),
        ({}, [VERSION_KEY, CAPABILITIES_KEY]),
        ({"_meta": None}, [VERSION_KEY, CAPABILITIES_KEY]),
        ({"_meta": [1]}, [VERSION_KEY, CAPABILITIES_KEY]),
        ({"_meta": {}}, [VERSION_KEY, CAPABILITIES_KEY]),
        ({"_meta": {CAPABILITIES_KEY: {}, INFO_KEY: {}}}, [VERSION_KEY]),
        ({"_meta": {VERSION_KEY: NOW, INFO_KEY: {}}}, [CAPABILITIES_KEY]),
        ({"_meta": {VERSION_KEY: None, CAPABILITIES_KEY: {}}}, [VERSION_KEY]),
        ({"_meta": {VERSION_KEY: [NOW], CAPABILITIES_KEY: {}}}, [VERSION_KEY]),
        ({"_meta": {VERSION_KEY: NOW, CAPABILITIES_KEY: None}}, [CAPABILITIES_KEY]),
        ({"_meta": {VERSION_KEY: NOW, CAPABILITIES_KEY: ["sampling"]}}, [CAPABILITIES_KEY]),
        ({"_meta": {**META, LOG_LEVEL_KEY: "loud"}}, [LOG_LEVEL_KEY]),
        ({"_meta": {**META, LOG_LEVEL_KEY: {}}}, [LOG_LEVEL_KEY]),
    ],
)
def test_A11_A12_R1_metadata_that_is_missing_or_wrong_is_named(params: Any, named: list[str]) -> None:
    body = {"jsonrpc": "2.0", "id": 101, "method": "server/discover"}
    body |= {} if params is None else {"params": params}
    found = refusal({"mcp-protocol-version": NOW, "mcp-method": "server/discover"}, body)
    assert (found.status, found.code, found.request_id) == (400, INVALID_PARAMS, 101)
    keys = (VERSION_KEY, CAPABILITIES_KEY, INFO_KEY, LOG_LEVEL_KEY)
    assert [key for key in keys if key in found.message] == named


# the headers that mirror


@pytest.mark.parametrize(
    "value", [None, "prompts/list", "TOOLS/LIST", "tools/list,tools/list", "", "tools list", "\xe9"]
)
def test_E9_E10_mcp_method_has_to_be_the_method(value: str | None) -> None:
    body = call("tools/list")
    found = refusal(dressed(body, mcp_method=value), body)
    assert (found.status, found.code, found.request_id) == (400, HEADER_MISMATCH, 7)
    assert "Mcp-Method" in found.message


def test_E10_blanks_around_a_value_do_not_count() -> None:
    body = call("tools/call", name="unmarked")
    assert admitted(dressed(body, mcp_method=" \ttools/call ", mcp_name="  unmarked  "), body)


NAMED = {
    "tools/call": {"name": "a b"},
    "prompts/get": {"name": "a b"},
    "resources/read": {"uri": "test://a%20b?id=1"},
    "tasks/get": {"taskId": "t-1"},
    "tasks/update": {"taskId": "t-1"},
    "tasks/cancel": {"taskId": "t-1"},
}


@pytest.mark.parametrize(("method", "params"), NAMED.items(), ids=NAMED)
def test_E9_E10_mcp_name_has_to_be_the_name(method: str, params: dict[str, str]) -> None:
    body, [(key, name)] = call(method, **params), params.items()
    wrong = [None, "", "other", name.upper() if name.islower() else name.lower(), f"{name},{name}", f"{name}, {name}"]
    if key == "taskId":  # fastmcp's client leaves it out
        assert admitted(dressed(body, mcp_name=wrong.pop(0)), body)
    for value in (one for one in wrong if one != name):
        found = refusal(dressed(body, mcp_name=value), body)
        assert (found.status, found.code, found.request_id) == (400, HEADER_MISMATCH, 7)
        assert "Mcp-Name" in found.message
        assert f"params.{key}" in found.message
    assert admitted(dressed(body, mcp_name=name), body)


def test_E16_a_wrapped_name_is_unwrapped_and_an_unwrapped_one_taken_as_it_is() -> None:
    body = call("tools/call", name="execute_sql")
    assert admitted(dressed(body, mcp_name="=?base64?ZXhlY3V0ZV9zcWw=?="), body)
    body = call("tools/call", name="天気")
    assert admitted(dressed(body), body)
    assert dressed(body)["mcp-name"] == "=?base64?5aSp5rCX?="
    for malformed in ("=?base64?5aSp5rCX=?=", "=?base64?5aSp!rCX?=", "=?base64?gICA?=", "天気", "å¤©æ°\x97"):
        assert refused(dressed(body, mcp_name=malformed), body)[:2] == (400, HEADER_MISMATCH)


@pytest.mark.parametrize("params", [{}, {"name": 5}, {"name": None}, {"name": ["a"]}])
def test_a_name_that_is_missing_is_left_to_whoever_answers(params: dict[str, Any]) -> None:
    body = call("tools/call", **params)
    assert admitted(dressed(body), body)
    assert admitted(dressed(body, mcp_name="x"), body)


def test_a_value_is_not_shown_in_what_says_that_it_is_wrong() -> None:
    body = call("tools/call", name="wx", arguments={"region": CANARY})
    for headers in (
        dressed(body, mcp_method=CANARY),
        dressed(body, mcp_name=CANARY),
        dressed(body, mcp_param_region="x"),
        dressed(body, mcp_param_region=f"{CANARY}\x00"),
        dressed(body),
    ):
        assert CANARY not in refusal(headers, body).message


# -- the arguments of tools -------------------------------------------------------------------------------------------


def called(arguments: object, **headers: str) -> Admitted | Refusal:
    body = call("tools/call", name="wx", arguments=arguments)
    return admit(dressed(body, **{f"mcp_param_{name}": value for name, value in headers.items()}), body)


AGREEING: list[tuple[object, dict[str, str]]] = [
    ({}, {}),
    (None, {}),
    ({"free": "x"}, {}),
    ({"free": "x"}, {"free": "y", "other": "z"}),
    ({"region": "us-west1"}, {"region": "us-west1"}),
    ({"region": "us-west1"}, {"region": " us-west1\t"}),
    ({"region": "a, b"}, {"region": "a, b"}),
    ({"region": ""}, {"region": ""}),
    ({"region": "東京"}, {"region": "=?base64?5p2x5Lqs?="}),
    ({"region": "Hello"}, {"region": "=?base64?SGVsbG8=?="}),
    ({"region": "SGVsbG8="}, {"region": "SGVsbG8="}),
    ({"region": "=?base64?SGVsbG8="}, {"region": "=?base64?SGVsbG8="}),
    ({"region": "=?BASE64?SGVsbG8=?="}, {"region": "=?BASE64?SGVsbG8=?="}),
    ({"region": None}, {}),
    ({"count": 42}, {"count": "42"}),
    ({"count": 42}, {"count": "42.0"}),
    ({"count": 42.0}, {"count": "42"}),
    ({"count": 42}, {"count": "0042.000"}),
    ({"count": -7}, {"count": "-7"}),
    ({"count": 0}, {"count": "-0"}),
    ({"count": -0.0}, {"count": "0"}),
    ({"count": 2**70}, {"count": str(2**70)}),
    ({"count": 1e300}, {"count": str(int(1e300))}),
    ({"count": 1.5}, {}),
    ({"count": 1.5}, {"count": "1.5"}),
    ({"count": {}}, {}),
    ({"count": [1]}, {}),
    ({"dry": True}, {"dry": "true"}),
    ({"dry": False}, {"dry": "false"}),
    ({"inner": {"deep": "x"}}, {"in_ner": "x"}),
    ({"inner": 5}, {}),
    (5, {}),
    ([], {}),
]


@pytest.mark.parametrize(("arguments", "headers"), AGREEING)
def test_E13_E15_E17_arguments_and_headers_that_agree_are_admitted(arguments: object, headers: dict[str, str]) -> None:
    assert isinstance(called(arguments, **headers), Admitted)


DISAGREEING: list[tuple[object, dict[str, str]]] = [
    ({"region": "us"}, {}),
    ({"region": ""}, {}),
    ({"region": "us"}, {"region": "eu"}),
    ({"region": "us"}, {"region": "US"}),
    ({"region": "us"}, {"region": "us,us"}),
    ({"region": "us"}, {"region": "us,eu"}),
    ({"region": "us"}, {"region": ""}),
    ({}, {"region": "us"}),
    ({}, {"region": ""}),
    (None, {"region": "us"}),
    (5, {"region": "us"}),
    ({"region": None}, {"region": "us"}),
    ({"region": None}, {"region": "null"}),
    ({"region": "Hello"}, {"region": "=?base64?SGVsbG8?="}),
    ({"region": "Hello"}, {"region": "=?base64?SGVs!!!bG8=?="}),
    ({"region": "Hello"}, {"region": "=?base64?SGVsbG9=?="}),
    ({"region": "Hello"}, {"region": "=?base64?SGVs bG8=?="}),
    ({"region": "é"}, {"region": "é"}),
    ({"region": "a\tb"}, {"region": "a\tb"}),
    ({"region": "42"}, {"region": "42.0"}),
    ({"count": 42}, {}),
    ({"count": 42.0}, {}),
    ({"count": 2**70}, {}),
    ({"count": 42}, {"count": "43"}),
    ({"count": 42}, {"count": "-42"}),
    ({"count": -42}, {"count": "42"}),
    ({"count": 42}, {"count": "42.5"}),
    ({"count": 42}, {"count": "42."}),
    ({"count": 42}, {"count": "4.2e1"}),
    ({"count": 42}, {"count": "+42"}),
    ({"count": 42}, {"count": "0x2a"}),
    ({"count": 42}, {"count": "٤٢"}),
    ({"count": 42}, {"count": "9" * 20_000}),
    ({"count": 1.5}, {"count": "1"}),
    ({"count": {}}, {"count": "{}"}),
    ({"count": [1]}, {"count": "1"}),
    ({"count": True}, {"count": "1"}),
    ({"count": 1}, {"count": "true"}),
    ({"dry": True}, {"dry": "True"}),
    ({"dry": False}, {}),
    ({"inner": {"deep": "x"}}, {}),
    ({"inner": {"deep": "x"}}, {"in_ner": "y"}),
    ({"inner": 5}, {"in_ner": "5"}),
]


@pytest.mark.parametrize(("arguments", "headers"), DISAGREEING)
def test_E10_E16_E17_arguments_and_headers_that_do_not_agree_are_400(
    arguments: object, headers: dict[str, str]
) -> None:
    found = called(arguments, **headers)
    assert isinstance(found, Refusal)
    assert (found.status, found.code, found.request_id) == (400, HEADER_MISMATCH, 7)
    assert "Mcp-Param-" in found.message


def test_V5_the_refusal_names_the_header_and_the_argument() -> None:
    for arguments, headers, text in [
        (
            {"inner": {"deep": "x"}},
            {},
            "the header Mcp-Param-in_ner is missing; the body has the argument 'inner.deep'",
        ),
        ({}, {"region": "x"}, "there is a header Mcp-Param-Region, but the body has no argument 'region'"),
        (
            {"count": 1},
            {"count": "2"},
            "the header Mcp-Param-Count does not say what the body has as the argument 'count'",
        ),
    ]:
        found = called(arguments, **headers)
        assert isinstance(found, Refusal)
        assert found.message == text


def test_E13_only_calls_of_tools_and_only_known_ones_have_such_headers() -> None:
    for body in (
        call("prompts/get", name="wx", arguments={"region": "x"}),
        call("tools/call", name="who", arguments={}),
    ):
        assert admitted(dressed(body, mcp_param_region="wrong"), body)


def test_the_method_and_the_name_are_compared_before_the_arguments() -> None:
    body = call("tools/call", name="wx", arguments={"region": "us"})
    assert "Mcp-Name" in refusal(dressed(body, mcp_name=None), body).message


arguments_of_tools = st.fixed_dictionaries(
    {},
    optional={
        "region": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
        "count": st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False, width=16),
        "dry": st.booleans(),
        "inner": json_values,
        "free": json_values,
    },
)


@given(arguments_of_tools)
def test_what_our_own_client_mirrors_is_always_admitted(arguments: dict[str, Any]) -> None:
    body = call("tools/call", name="wx", arguments=arguments)
    headers = {name.lower(): value for name, value in mirrored(NAMES["wx"], arguments).items()}
    assert admitted({**dressed(body), **headers}, body)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_what_our_own_client_writes_for_a_name_is_always_admitted(name: str) -> None:
    body = call("prompts/get", name=name)
    assert admitted(dressed(body), body)
    assert dressed(body)["mcp-name"] == encode_value(name)


# -- methods, statuses, capabilities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [None, *HANDSHAKE_VERSIONS])
def test_D1_D8_D12_the_handshake_era_posts_gets_and_deletes(version: str | None) -> None:
    headers = {} if version is None else {"mcp-protocol-version": version}
    for method in ("GET", "POST", "DELETE"):
        assert method_refusal(method, headers) is None
    for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "get", "", "G\x00T", "X" * 999):
        found = method_refusal(method, headers)
        assert found is not None
        assert (found.status, found.headers) == (405, (("Allow", "GET, POST, DELETE"),))


def test_E1_V18_the_stateless_era_only_posts() -> None:
    headers = {"mcp-protocol-version": NOW, "mcp-session-id": "x", "accept": "text/event-stream"}
    assert method_refusal("POST", headers) is None
    for method in ("GET", "DELETE", "HEAD", "OPTIONS", "PUT"):
        found = method_refusal(method, headers)
        assert found is not None
        assert (found.status, found.headers) == (405, (("Allow", "POST"),))
        assert found.as_failure() == Failure(None, INVALID_REQUEST, f"the method {method} is not allowed here")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_D13_an_unknown_or_repeated_version_is_400_with_every_method(method: str) -> None:
    for version, code in {"1900-01-01": UNSUPPORTED_VERSION, "2025-11-25,2025-11-25": INVALID_REQUEST}.items():
        found = method_refusal(method, {"mcp-protocol-version": version})
        assert found is not None
        assert (found.status, found.code) == (400, code)


def test_D8_who_gets_has_to_accept_events() -> None:
    for value in ("text/event-stream", "*/*", "text/*;q=0.5", "text/html, */*;q=0.8", ""):
        assert method_refusal("GET", {"accept": value}) is None
    for value in ("application/json", "text/html", "text/event-stream;q=0"):
        found = method_refusal("GET", {"accept": value})
        assert found is not None
        assert found.status == 406
        assert method_refusal("DELETE", {"accept": value}) is None


STATUSES = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    METHOD_NOT_FOUND: 404,
    INVALID_PARAMS: 400,
    INTERNAL_ERROR: 200,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    -32002: 200,
    -32042: 200,
    -1: 200,
    0: 200,
    12345: 200,
}


@pytest.mark.parametrize(("code", "status"), STATUSES.items())
def test_S_an_error_of_the_stateless_era_has_the_status_of_its_code(code: int, status: int) -> None:
    assert http_status_of(code, True) == status
    assert http_status_of(code, False) == 200


def test_A14_V10_a_missing_capability_is_named_as_an_object() -> None:
    found = missing_capability({"elicitation": {"form": {}}}, 18)
    assert (found.status, found.code, found.request_id) == (400, MISSING_CAPABILITY, 18)
    assert found.data == {"requiredCapabilities": {"elicitation": {"form": {}}}}
    error = missing_capability({"sampling": {}}).as_failure().as_error("tools/call")
    assert isinstance(error, JSONRPCError)
    assert (error.code, error.data) == (MISSING_CAPABILITY, {"requiredCapabilities": {"sampling": {}}})


@pytest.mark.parametrize(
    ("required", "declared", "missing"),
    [
        ({}, {}, {}),
        ({"sampling": {}}, {"sampling": {}}, {}),
        ({"sampling": {}}, {"sampling": {"tools": {}}}, {}),
        ({"sampling": {}}, {}, {"sampling": {}}),
        ({"sampling": {}}, {"sampling": None}, {"sampling": {}}),
        ({"sampling": {}, "roots": {}}, {"roots": {}}, {"sampling": {}}),
        ({"sampling": {"tools": {}}}, {"sampling": {}}, {"sampling": {"tools": {}}}),
        ({"sampling": {"tools": {}}}, {"sampling": 5}, {"sampling": {"tools": {}}}),
        ({"sampling": {"tools": {}, "context": {}}}, {"sampling": {"tools": {}}}, {"sampling": {"context": {}}}),
        ({"sampling": {"form": {}}}, {"sampling": {}}, {"sampling": {"form": {}}}),
        ({"elicitation": {}}, {"elicitation": {"url": {}}}, {}),
        ({"elicitation": {"form": {}}}, {"elicitation": {}}, {}),
        ({"elicitation": {"url": {}}}, {"elicitation": {}}, {"elicitation": {"url": {}}}),
        ({"elicitation": {"form": {}}}, {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}),
        ({"elicitation": {"form": {}}}, {}, {"elicitation": {"form": {}}}),
        ({"roots": {"listChanged": True}}, {"roots": {"listChanged": False}}, {"roots": {"listChanged": True}}),
        ({"extensions": {"a/b": {}}}, {"extensions": {"a/c": {}}}, {"extensions": {"a/b": {}}}),
        ({"extensions": {"a/b": {}}}, {"extensions": {"a/b": {"x": 1}}}, {}),
    ],
)
def test_A14_P1_what_of_the_required_is_not_declared(
    required: dict[str, Any], declared: dict[str, Any], missing: dict[str, Any]
) -> None:
    assert lacking(required, declared) == missing


def test_a_refusal_is_a_failure_for_the_body() -> None:
    found = Refusal(400, INVALID_REQUEST, "no", {"a": 1}, "x")
    assert found.as_failure() == Failure("x", INVALID_REQUEST, "no", {"a": 1})
    assert encode(Refusal(403, INVALID_REQUEST, "no").as_failure()) == (
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no"}}'
    )


# -- whatever comes ---------------------------------------------------------------------------------------------------

anything = st.text(max_size=30)
header_values = st.one_of(
    anything,
    st.sampled_from(["", ",", *HANDSHAKE_VERSIONS, NOW, f"{NOW},{NOW}", "tools/call", "wx", "*/*", "=?base64?eA==?="]),
    st.sampled_from([*HTTP.values(), "application/json;charset=", "text/*;q=0", "eu", "42", "true"]),
)
header_names = st.sampled_from(
    [
        *("content-type", "accept", "mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id"),
        *("mcp-param-region", "mcp-param-count", "mcp-param-in-ner", "mcp-param-in_ner", "mcp-param-dry"),
    ]
)
headers_of_any_kind = st.dictionaries(header_names | anything, header_values, max_size=8)
metadata = st.fixed_dictionaries(
    {},
    optional={
        VERSION_KEY: st.sampled_from([NOW, *HANDSHAKE_VERSIONS, "x"]) | json_values,
        CAPABILITIES_KEY: st.just({}) | json_values,
        LOG_LEVEL_KEY: st.just("info") | json_values,
        INFO_KEY: json_values,
    },
)
params_of_any_kind = st.fixed_dictionaries(
    {},
    optional={
        "_meta": metadata | json_values,
        "name": st.just("wx") | json_values,
        "uri": json_values,
        "taskId": json_values,
        "arguments": arguments_of_tools | json_values,
    },
)
calls = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "method": st.sampled_from(sorted(OFFERED) + REMOVED) | anything},
    optional={"id": st.integers() | anything | json_values, "params": params_of_any_kind | json_values},
)
texts_of_bodies = st.one_of(
    calls,
    st.lists(calls, max_size=3),
    json_values,
    whole_messages.map(lambda message: message.as_dict()),
).map(lambda body: json.dumps(body).encode())
bodies = st.binary(max_size=60) | texts_of_bodies | texts_of_bodies.map(lambda raw: raw[: len(raw) // 2])


def check_whatever_came_out(found: Admitted | Refusal) -> None:
    if isinstance(found, Admitted):
        assert found.version in (STATELESS_VERSIONS if found.stateless else HANDSHAKE_VERSIONS)
        assert not isinstance(found.message, Malformed)
        return
    assert found.status in (400, 404, 406, 415)
    assert len(found.message) <= 300
    assert all(" " <= character <= "~" for character in found.message), found.message
    sent = encode(found.as_failure())
    assert isinstance(messages.decode(sent), Failure)


@given(headers_of_any_kind, bodies)
@example({}, b"")
def test_whatever_comes_is_admitted_or_refused(headers: dict[str, str], body: bytes) -> None:
    check_whatever_came_out(admit_post(headers, body, known=OFFERED.__contains__, param_names=NAMES.get))
    check_whatever_came_out(admit(headers, body))


@given(headers_of_any_kind, bodies)
def test_whatever_comes_of_the_stateless_era_is_admitted_or_refused(headers: dict[str, str], body: bytes) -> None:
    found = admit({**headers, "mcp-protocol-version": NOW, **HTTP}, body)
    check_whatever_came_out(found)
    if isinstance(found, Admitted):
        assert found.stateless
        assert isinstance(found.message, (Request, Notification))
    if isinstance(found, Admitted) and isinstance(found.message, Request):
        check_what_was_admitted(found.message)


def check_what_was_admitted(request: Request) -> None:
    assert request.method in OFFERED
    assert request.params is not None
    assert request.params["_meta"][VERSION_KEY] == NOW
    assert isinstance(request.params["_meta"][CAPABILITIES_KEY], dict)


@given(st.text(max_size=12), headers_of_any_kind)
def test_whatever_method_comes_is_decided(method: str, headers: dict[str, str]) -> None:
    found = method_refusal(method, headers)
    assert found is None or found.status in (400, 405, 406)
    assert found is None or found.message.isascii()


@given(st.none() | st.text(max_size=60), st.sampled_from(["application/json", "text/event-stream"]))
@example("*/*;q=0;q=1", "application/json")
def test_whatever_is_accepted_is_decided(value: str | None, media: str) -> None:
    assert accepts(value, media) in (True, False)


@given(arguments_of_tools | json_values, headers_of_any_kind)
def test_whatever_the_arguments_and_their_headers_are_is_decided(arguments: object, headers: dict[str, str]) -> None:
    body = call("tools/call", name="wx", arguments=arguments)
    check_whatever_came_out(admit({**headers, **dressed(body)}, body))


@given(st.text(max_size=200), st.integers(10, 80))
def test_what_is_shown_is_short_and_plain(text: str, limit: int) -> None:
    found = shown(text, limit)
    assert len(found) <= limit
    assert all(" " <= character <= "~" for character in found)
    assert found == text or len(text) > limit or any(not " " <= character <= "~" for character in text)


HUGE = 1 << 18


@pytest.mark.parametrize(
    "headers",
    [
        {"accept": "text/html;q=0," * (HUGE // 14)},
        {"accept": ";" * HUGE},
        {"accept": "text/event-stream" + "; " * (HUGE // 2)},
        {"content-type": "application/json" + "; charset=" * (HUGE // 10)},
        {"content-type": "application/json" + ";" + " " * HUGE},
        {"mcp-protocol-version": "2025-11-25," * (HUGE // 11)},
        {"mcp-method": "tools/call" + " " * HUGE + "x"},
        {"mcp-name": "=?base64?" + "A" * HUGE + "?="},
        {"mcp-param-count": "0" * HUGE + "x"},
        {"mcp-param-count": "1." + "0" * HUGE + "x"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_a_huge_header_takes_no_quadratic_time(headers: dict[str, str]) -> None:
    body = call("tools/call", name="wx", arguments={"count": 1})  # if it did, more than the minute that a test may take
    check_whatever_came_out(admit({**dressed(body, mcp_param_count="1"), **headers}, body))


def test_no_schema_no_headers() -> None:
    def nothing(name: str) -> ParamNames | None:
        return {} if name == "plain" else None

    for name in ("plain", "unknown"):
        body = call("tools/call", name=name, arguments={"region": "x"})
        raw = json.dumps(body).encode()
        found = admit_post({**HTTP, **dressed(body)}, raw, known=OFFERED.__contains__, param_names=nothing)
        assert isinstance(found, Admitted)
