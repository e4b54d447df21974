"""The whole outcome matrix of a negotiation: answers in, questions and an agreement (or an error) out."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_sync.exceptions import JSONRPCError, MCPConnectionError, MCPError, MCPTimeoutError, RemoteProtocolError
from mcp_sync.protocol.eras import CAPABILITIES_KEY, VERSION_KEY, VERSIONS, Handshake, Identity, Stateless
from mcp_sync.protocol.negotiation import Agreement, Answer, Ask, negotiate

ME = Identity({"name": "me", "version": "1"}, {"roots": {}})
PROBE, LATEST = "server/discover 2026-07-28", "initialize 2025-11-25"
NEW, OLD = "2026-07-28", "2025-11-25"


def discovered(*versions: Any, **more: Any) -> Answer:
    return {"supportedVersions": list(versions), "capabilities": {"tools": {}}, "resultType": "complete", **more}


def initialized(version: Any = OLD, **more: Any) -> Answer:
    return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": {"name": "s"}, **more}


def error(code: int, data: Any = None) -> Answer:
    return JSONRPCError(code, "no", data)


def unsupported(*supported: Any, code: int = -32022) -> Answer:
    return error(code, {"supported": list(supported), "requested": NEW})


def silence() -> Answer:
    return MCPTimeoutError("no answer within 5 s")


def garbage() -> Answer:
    return RemoteProtocolError("unreadable answer: a page of HTML")


def play(answers: list[Answer], version: str | None = None) -> tuple[list[Ask], Agreement | MCPError]:
    """Return the questions that were asked, and what came of the answers; all of them have to be wanted."""
    talk = negotiate(ME, version)
    asked = [next(talk)]
    for given in answers[:-1]:
        asked.append(talk.send(given))
    try:
        talk.send(answers[-1])
    except StopIteration as end:
        return asked, end.value
    except MCPError as failure:
        return asked, failure
    raise AssertionError("it has more to ask")


def named(asked: list[Ask]) -> list[str]:
    return [f"{ask.method} {ask.params.get('protocolVersion') or ask.params['_meta'][VERSION_KEY]}" for ask in asked]


AGREED: dict[str, tuple[list[Answer], list[str], str]] = {
    # modern servers: B1, B2, B13, W4, W7
    "it speaks ours": ([discovered(NEW)], [PROBE], NEW),
    "it speaks ours among others": ([discovered("2099-01-01", OLD, NEW)], [PROBE], NEW),
    "it speaks ours, and lists nonsense": ([discovered(None, 5, NEW)], [PROBE], NEW),
    "no resultType, no ttlMs, no capabilities": ([{"supportedVersions": [NEW]}], [PROBE], NEW),
    "it refuses the very version that it supports, once": ([unsupported(NEW), discovered(NEW)], [PROBE, PROBE], NEW),
    "it refuses and supports both eras": ([unsupported(OLD, NEW), discovered(NEW)], [PROBE, PROBE], NEW),
    # a handshake server, by whatever it says to a method that it does not know: B12, B13, B14, W1
    "method not found": ([error(-32601), initialized()], [PROBE, LATEST], OLD),
    "invalid params": ([error(-32602), initialized()], [PROBE, LATEST], OLD),
    "invalid request": ([error(-32600), initialized()], [PROBE, LATEST], OLD),
    "parse error": ([error(-32700), initialized()], [PROBE, LATEST], OLD),
    "internal error": ([error(-32603), initialized()], [PROBE, LATEST], OLD),
    "a code of an SDK": ([error(-32000), initialized()], [PROBE, LATEST], OLD),
    "a code of a release candidate": ([unsupported(NEW, code=-32004), initialized()], [PROBE, LATEST], OLD),
    "a code of its own": ([error(1), initialized()], [PROBE, LATEST], OLD),
    "silence": ([silence(), initialized()], [PROBE, LATEST], OLD),
    "a page of HTML": ([garbage(), initialized()], [PROBE, LATEST], OLD),
    "an empty result": ([{}, initialized()], [PROBE, LATEST], OLD),
    "versions that are no list": ([{"supportedVersions": NEW}, initialized()], [PROBE, LATEST], OLD),
    "an empty list of versions": ([discovered(), initialized()], [PROBE, LATEST], OLD),
    # a server of the new era that says it speaks the old one: B18
    "only handshake versions discovered": ([discovered(OLD), initialized()], [PROBE, LATEST], OLD),
    "only an old handshake version discovered": (
        [discovered("2024-11-05"), initialized("2024-11-05")],
        [PROBE, LATEST],
        "2024-11-05",
    ),
    "only handshake versions supported": ([unsupported(OLD), initialized()], [PROBE, LATEST], OLD),
    "unsupported without data": ([error(-32022), initialized()], [PROBE, LATEST], OLD),
    "unsupported with nonsense": ([error(-32022, "2026-07-28"), initialized()], [PROBE, LATEST], OLD),
    "unsupported with an empty list": ([unsupported(), initialized()], [PROBE, LATEST], OLD),
    "both eras, and the new one refused twice": (
        [unsupported(OLD, NEW), unsupported(OLD, NEW), initialized()],
        [PROBE, PROBE, LATEST],
        OLD,
    ),
    # the handshake: B8, B11
    "an older version": ([error(-32601), initialized("2024-11-05")], [PROBE, LATEST], "2024-11-05"),
    "an older version after all": (
        [error(-32601), unsupported("2024-11-05", "2025-03-26", code=-32602), initialized("2025-03-26")],
        [PROBE, LATEST, "initialize 2025-03-26"],
        "2025-03-26",
    ),
    # the probe was late and has decided the era: W5
    "late probe": ([silence(), unsupported(NEW), discovered(NEW)], [PROBE, LATEST, PROBE], NEW),
}


@pytest.mark.parametrize(("answers", "questions", "version"), AGREED.values(), ids=AGREED)
def test_the_two_sides_agree(answers: list[Answer], questions: list[str], version: str) -> None:
    asked, agreement = play(answers)
    assert named(asked) == questions
    assert isinstance(agreement, Agreement)
    assert agreement.era.version == version
    assert isinstance(agreement.era, Stateless if version == NEW else Handshake)
    assert agreement.greeting == (None if version == NEW else "notifications/initialized")


FAILED: dict[str, tuple[list[Answer], list[str], type[MCPError], str]] = {
    "nothing in common discovered": (
        [discovered("2099-01-01")],
        [PROBE],
        RemoteProtocolError,
        "the server speaks 2099-01-01",
    ),
    "nothing in common supported": (
        [unsupported("2099-01-01")],
        [PROBE],
        RemoteProtocolError,
        "the server speaks 2099-01-01",
    ),
    "it refuses the version that it supports, twice": (
        [unsupported(NEW), unsupported(NEW)],
        [PROBE, PROBE],
        MCPConnectionError,
        "the server refused server/discover: no (JSON-RPC error -32022",
    ),
    "header mismatch": ([error(-32020)], [PROBE], MCPConnectionError, "the server refused server/discover"),
    "missing capability": (
        [error(-32021, {"requiredCapabilities": {"roots": {}}})],
        [PROBE],
        MCPConnectionError,
        "requiredCapabilities",
    ),
    "both unknown": (
        [error(-32601), error(-32601)],
        [PROBE, LATEST],
        MCPConnectionError,
        "the server refused initialize",
    ),
    "deaf": ([silence(), silence()], [PROBE, LATEST], MCPTimeoutError, "no answer"),
    "HTML twice": ([garbage(), garbage()], [PROBE, LATEST], RemoteProtocolError, "a page of HTML"),
    "initialize agrees to a stateless version": (
        [error(-32601), initialized(NEW)],
        [PROBE, LATEST],
        RemoteProtocolError,
        "no protocol version in common",
    ),
    "initialize agrees to an unknown version": (
        [error(-32601), initialized("1.0")],
        [PROBE, LATEST],
        RemoteProtocolError,
        "the server speaks 1.0",
    ),
    "initialize agrees to nothing": (
        [error(-32601), {}],
        [PROBE, LATEST],
        RemoteProtocolError,
        "the server speaks None",
    ),
    "initialize agrees to a list": ([error(-32601), initialized([OLD])], [PROBE, LATEST], RemoteProtocolError, OLD),
    "initialize refused for all versions": (
        [error(-32601), unsupported("1.0", code=-32602)],
        [PROBE, LATEST],
        RemoteProtocolError,
        "the server speaks 1.0",
    ),
    "initialize refused for the version it supports": (
        [error(-32601), unsupported(OLD, code=-32602)],
        [PROBE, LATEST],
        MCPConnectionError,
        "the server refused initialize",
    ),
    "initialize refused twice": (
        [error(-32601), unsupported("2025-03-26"), unsupported("2024-11-05")],
        [PROBE, LATEST, "initialize 2025-03-26"],
        MCPConnectionError,
        "the server refused initialize",
    ),
    "late probe, and again silence": (
        [silence(), unsupported(NEW), silence()],
        [PROBE, LATEST, PROBE],
        MCPTimeoutError,
        "no answer",
    ),
    "late probe, and again refused": (
        [silence(), unsupported(NEW), unsupported(NEW)],
        [PROBE, LATEST, PROBE],
        MCPConnectionError,
        "the server refused server/discover",
    ),
    "refused, silence, and initialize refused": (
        [unsupported(NEW), silence(), unsupported(NEW)],
        [PROBE, PROBE, LATEST],
        MCPConnectionError,
        "the server refused initialize",
    ),
}


@pytest.mark.parametrize(("answers", "questions", "kind", "text"), FAILED.values(), ids=FAILED)
def test_the_two_sides_do_not_agree(
    answers: list[Answer], questions: list[str], kind: type[MCPError], text: str
) -> None:
    asked, failure = play(answers)
    assert named(asked) == questions
    assert type(failure) is kind
    assert text in str(failure)
    last = answers[-1]
    assert failure is last or failure.__cause__ is (last if isinstance(last, MCPError) else None)
    assert failure.__cause__ is not failure  # an endless chain


PINNED: dict[str, tuple[str, list[Answer], list[str], Any]] = {
    "new, spoken": (NEW, [discovered(NEW)], [PROBE], NEW),
    "new, refused once": (NEW, [unsupported(NEW), discovered(NEW)], [PROBE, PROBE], NEW),
    "new, unknown method": (NEW, [error(-32601)], [PROBE], "does not speak 2026-07-28: no (JSON-RPC error -32601)"),
    "new, only old": (NEW, [discovered(OLD)], [PROBE], "does not speak 2026-07-28: its answer to server/discover"),
    "new, only old supported": (NEW, [unsupported(OLD)], [PROBE], "does not speak 2026-07-28"),
    "new, silence": (NEW, [silence()], [PROBE], "no answer within 5 s"),
    "new, garbage": (NEW, [garbage()], [PROBE], "does not speak 2026-07-28: unreadable answer"),
    "old, spoken": ("2025-06-18", [initialized("2025-06-18")], ["initialize 2025-06-18"], "2025-06-18"),
    "old, another offered": ("2025-06-18", [initialized(OLD)], ["initialize 2025-06-18"], OLD),
    "old, refused for another": (
        "2025-06-18",
        [unsupported("2024-11-05", code=-32602), initialized("2024-11-05")],
        ["initialize 2025-06-18", "initialize 2024-11-05"],
        "2024-11-05",
    ),
    "old, a modern server": (OLD, [unsupported(NEW)], [LATEST], "the server refused initialize"),
    "old, silence": (OLD, [silence()], [LATEST], "no answer within 5 s"),
}


@pytest.mark.parametrize(("version", "answers", "questions", "outcome"), PINNED.values(), ids=PINNED)
def test_a_version_that_is_asked_for_is_the_only_era_tried(
    version: str, answers: list[Answer], questions: list[str], outcome: str
) -> None:
    asked, result = play(answers, version)
    assert named(asked) == questions
    if outcome in VERSIONS:
        assert isinstance(result, Agreement)
        assert result.era.version == outcome
    else:
        assert outcome in str(result)


def test_a_probe_says_who_asks_and_is_the_only_question_that_silence_may_answer() -> None:
    [probe, opening], _ = play([silence(), initialized()])
    assert probe.probe
    assert probe.params["_meta"][CAPABILITIES_KEY] == {"roots": {}}
    assert not opening.probe
    assert opening.params == {
        "protocolVersion": OLD,
        "capabilities": {"roots": {}},
        "clientInfo": {"name": "me", "version": "1"},
    }


@pytest.mark.parametrize(
    ("answer", "info"),
    [
        (discovered(NEW, _meta={"io.modelcontextprotocol/serverInfo": {"name": "s"}}), {"name": "s"}),
        (discovered(NEW, serverInfo={"name": "rc"}), {"name": "rc"}),
        (discovered(NEW), {}),
        (discovered(NEW, _meta=5, serverInfo="s"), {}),
        (discovered(NEW, _meta={"io.modelcontextprotocol/serverInfo": None}), {}),
    ],
    ids=["in the metadata", "where candidates had it", "missing", "nonsense", "null"],
)
def test_a_server_may_say_who_it_is_or_not(answer: Answer, info: dict[str, Any]) -> None:
    _, agreement = play([answer])
    assert isinstance(agreement, Agreement)
    assert agreement.server_info == info


@pytest.mark.parametrize(
    ("more", "capabilities", "instructions"),
    [
        ({}, {"tools": {}}, None),
        ({"instructions": "be nice"}, {"tools": {}}, "be nice"),
        ({"capabilities": None, "instructions": 5}, {}, None),
        ({"capabilities": [], "instructions": None}, {}, None),
    ],
    ids=["plain", "instructions", "nonsense", "empty"],
)
@pytest.mark.parametrize("era", ["stateless", "handshake"])
def test_what_a_server_offers_is_kept_and_nonsense_is_not(
    era: str, more: dict[str, Any], capabilities: dict[str, Any], instructions: str | None
) -> None:
    answers = [discovered(NEW, **more)] if era == "stateless" else [error(-32601), initialized(**more)]
    _, agreement = play(answers)
    assert isinstance(agreement, Agreement)
    assert (agreement.capabilities, agreement.instructions) == (capabilities, instructions)


@pytest.mark.parametrize(("answers", "questions", "kind", "text"), FAILED.values(), ids=FAILED)
def test_a_failed_negotiation_has_run_nothing(
    answers: list[Answer], questions: list[str], kind: type[MCPError], text: str
) -> None:
    _, failure = play(answers)
    assert isinstance(failure, MCPError)
    if failure not in answers:
        assert failure.may_have_run is False
        assert failure.details["phase"] == "connect"
