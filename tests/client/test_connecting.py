"""How a Client connects: the era it finds, who dials, and what happens meanwhile."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from client.scripted import HANDSHAKE, LATER, STATELESS, Asked, Scripted, text

from mcp_sync import Client, JSONRPCError, MCPConnectionError, MCPTimeoutError, MemoryTransport

DISCOVERED = {"supportedVersions": [STATELESS], "capabilities": {}}
INITIALIZED = {"protocolVersion": HANDSHAKE, "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}


def refuse(code: int, supported: list[str] | None = None) -> Any:
    """Return what answers with an error that may name versions."""

    def answer(ask: Asked) -> Any:
        data = None if supported is None else {"supported": supported, "requested": "x"}
        raise JSONRPCError(code, "refused", data)

    return answer


# -- eras -------------------------------------------------------------------------------------------------------------


def test_a_server_of_the_stateless_era_is_asked_once_and_never_greeted() -> None:
    server = Scripted({"server/discover": lambda ask: {**DISCOVERED, "instructions": "Be kind."}})
    with Client(server, client_info={"name": "me", "version": "7"}) as client:
        assert client.protocol_version == STATELESS
        assert client.instructions == "Be kind."
    (ask,) = server.asked("server/discover")
    assert ask.meta["io.modelcontextprotocol/protocolVersion"] == STATELESS
    assert ask.meta["io.modelcontextprotocol/clientInfo"] == {"name": "me", "version": "7"}
    assert [server.heard(method) for method in ("initialize", "notifications/initialized")] == [0, 0]


@pytest.mark.parametrize("code", [-32601, -32602, -32600, -32000, 0, -1])
def test_any_error_of_no_era_leads_to_initialize(code: int) -> None:
    server = Scripted({"server/discover": refuse(code)}, era=HANDSHAKE)
    with Client(server, client_info={"name": "me"}) as client:
        assert client.protocol_version == HANDSHAKE
        server.told("notifications/initialized")
    (ask,) = server.asked("initialize")
    assert ask.params == {
        "protocolVersion": HANDSHAKE,
        "capabilities": {},
        "clientInfo": {"name": "me", "version": ""},
    }


def test_a_server_that_does_not_answer_the_probe_is_initialized_and_the_late_answer_dropped() -> None:
    late: list[Asked] = []

    def initialize(ask: Asked) -> Any:
        late[0].answer(DISCOVERED)
        return INITIALIZED

    def probe(ask: Asked) -> Any:
        late.append(ask)
        return LATER

    with Client(Scripted({"server/discover": probe, "initialize": initialize}, era=HANDSHAKE), timeout=1) as client:
        assert client.protocol_version == HANDSHAKE
        client.ping()
        assert client.counters["dropped_late"] == 1


def test_the_probe_is_never_cancelled_on_the_wire() -> None:
    server = Scripted({"server/discover": lambda ask: LATER}, era=HANDSHAKE)
    with Client(server, timeout=0.5) as client:
        client.ping()
    assert server.heard("notifications/cancelled") == 0


def test_a_server_that_took_the_late_probe_for_the_beginning_is_probed_again() -> None:
    answers = iter([LATER, DISCOVERED])
    server = Scripted(
        {"server/discover": lambda ask: next(answers), "initialize": refuse(-32022, [STATELESS])}, era=HANDSHAKE
    )
    with Client(server, timeout=2) as client:
        assert client.protocol_version == STATELESS
    assert [server.heard(method) for method in ("server/discover", "initialize")] == [2, 1]


def test_a_server_that_refuses_the_version_it_names_is_probed_once_more() -> None:
    answers = iter([refuse(-32022, [STATELESS]), lambda ask: DISCOVERED])
    server = Scripted({"server/discover": lambda ask: next(answers)(ask)})
    with Client(server) as client:
        assert client.protocol_version == STATELESS
    assert len(server.asked("server/discover")) == 2


def test_a_server_that_refuses_the_version_it_names_twice_is_an_error() -> None:
    server = Scripted({"server/discover": refuse(-32022, [STATELESS])})
    client = Client(server)
    try:
        with pytest.raises(MCPConnectionError, match="the server refused server/discover"):
            client.connect()
    finally:
        client.close()
    assert [server.heard(method) for method in ("server/discover", "initialize")] == [2, 0]


@pytest.mark.parametrize("code", [-32020, -32021])
def test_an_error_of_the_stateless_era_is_no_reason_to_initialize(code: int) -> None:
    server = Scripted({"server/discover": refuse(code)})
    client = Client(server)
    try:
        with pytest.raises(MCPConnectionError, match=f"refused server/discover.*{code}"):
            client.connect()
    finally:
        client.close()
    assert server.heard("initialize") == 0


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_an_older_version_that_the_server_chooses_is_taken(version: str) -> None:
    server = Scripted(era=version)
    with Client(server) as client:
        assert client.protocol_version == version
    assert server.asked("initialize")[0].params["protocolVersion"] == HANDSHAKE


def test_a_version_that_was_asked_for_is_not_preceded_by_a_probe() -> None:
    server = Scripted(era="2025-06-18")
    with Client(server, protocol_version="2025-06-18") as client:
        assert client.protocol_version == "2025-06-18"
    assert server.heard("server/discover") == 0
    assert server.asked("initialize")[0].params["protocolVersion"] == "2025-06-18"


@pytest.mark.parametrize(("era", "method"), [(STATELESS, "server/discover"), (HANDSHAKE, "ping")])
def test_ping_asks_what_the_era_has_for_it(era: str, method: str) -> None:
    server = Scripted(era=era)
    with Client(server) as client:
        before = server.heard(method)
        client.ping()
        assert server.heard(method) == before + 1


def test_what_the_server_says_of_itself_may_be_missing() -> None:
    server = Scripted({"server/discover": lambda ask: {"supportedVersions": [STATELESS]}})
    with Client(server) as client:
        assert client.server_info.name == ""
        assert client.server_capabilities.tools is None
        assert client.instructions is None


# -- who dials --------------------------------------------------------------------------------------------------------


def test_a_client_connects_on_first_use_and_only_once() -> None:
    server = Scripted({"tools/call": lambda ask: text("ok")})
    client = Client(server)
    try:
        assert not client.connected
        assert server.dials == 0
        client.call_tool("t")
        client.connect()
        client.list_tools()
        assert client.connected
    finally:
        client.close()
    assert server.dials == 1


def test_two_threads_that_connect_at_once_dial_once() -> None:
    together, found = threading.Barrier(2), []

    def work() -> None:
        together.wait(10)
        found.append(client.connect().protocol_version)

    server = Scripted()
    client = Client(server)
    threads = [threading.Thread(target=work) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    finally:
        client.close()
    assert found == [STATELESS] * 2
    assert server.dials == 1


def test_who_waits_for_another_thread_to_connect_waits_no_longer_than_its_timeout() -> None:
    asked = threading.Event()

    def hold(ask: Asked) -> Any:
        asked.set()
        return LATER

    client = Client(Scripted({"server/discover": hold, "initialize": lambda ask: LATER}), timeout=30)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            client.connect()
        except MCPConnectionError as error:
            errors.append(error)

    other = threading.Thread(target=work)
    other.start()
    try:
        assert asked.wait(10)
        with pytest.raises(MCPTimeoutError, match="another thread is still connecting") as caught:
            client.list_tools(timeout=0.1)
        assert caught.value.may_have_run is False
    finally:
        client.close()
        other.join(20)
    assert [type(error) for error in errors] == [MCPConnectionError]


def test_closing_while_another_thread_connects_ends_that_at_once() -> None:
    asked = threading.Event()

    def hold(ask: Asked) -> Any:
        asked.set()
        return LATER

    client = Client(Scripted({"server/discover": hold, "initialize": lambda ask: LATER}), timeout=30)
    errors: list[Exception] = []

    def work() -> None:
        try:
            client.connect()
        except MCPConnectionError as error:
            errors.append(error)

    other = threading.Thread(target=work)
    other.start()
    assert asked.wait(10)
    client.close()
    other.join(20)
    assert not other.is_alive()
    assert "closed" in str(errors[0])
    assert errors[0].may_have_run is False  # type: ignore[attr-defined]


def test_closing_while_the_log_level_is_being_set_ends_that_at_once() -> None:
    asked = threading.Event()

    def hold(ask: Asked) -> Any:
        asked.set()
        return LATER

    server = Scripted({"logging/setLevel": hold}, era=HANDSHAKE, capabilities={"logging": {}})
    client = Client(server, log_level="info", timeout=30)
    errors: list[Exception] = []

    def work() -> None:
        try:
            client.connect()
        except MCPConnectionError as error:
            errors.append(error)

    other = threading.Thread(target=work)
    other.start()
    assert asked.wait(10)
    client.close()
    other.join(20)
    assert len(errors) == 1


def test_a_client_that_failed_to_connect_may_try_again() -> None:
    answers = iter([refuse(-32020), lambda ask: DISCOVERED])
    server = Scripted({"server/discover": lambda ask: next(answers)(ask), "tools/call": lambda ask: text("ok")})
    client = Client(server)
    try:
        with pytest.raises(MCPConnectionError):
            client.connect()
        assert client.call_tool("t").text == "ok"
    finally:
        client.close()
    assert server.dials == 2


def test_a_client_that_lost_its_connection_says_so_until_it_is_told_to_connect() -> None:
    server = Scripted({"tools/call": lambda ask: text("ok"), "never/answered": lambda ask: LATER})
    with Client(server) as client:
        assert client.call_tool("t").text == "ok"
        waiting = client.submit("never/answered")
        server.hang_up()
        assert "the other end closed the connection" in str(waiting.exception(10))
        assert not client.connected
        for _ in range(2):
            with pytest.raises(MCPConnectionError, match="the other end closed the connection") as caught:
                client.call_tool("t")
            assert caught.value.may_have_run is False
        assert server.dials == 1
        assert client.connect() is client
        assert client.call_tool("t").text == "ok"
    assert server.dials == 2


def test_connecting_anew_uses_what_the_server_says_now() -> None:
    eras = iter([STATELESS, HANDSHAKE])

    class Changing(Scripted):
        def serve(self, channel: Any) -> None:
            if next(eras) == HANDSHAKE:
                self._table = Scripted({"tools/call": lambda ask: text("new")}, era=HANDSHAKE)._table
            super().serve(channel)

    server = Changing({"never/answered": lambda ask: LATER})
    with Client(server) as client:
        assert client.protocol_version == STATELESS
        waiting = client.submit("never/answered")
        server.hang_up()
        assert isinstance(waiting.exception(10), MCPConnectionError)
        client.connect()
        assert client.protocol_version == HANDSHAKE
        assert client.call_tool("t").text == "new"


def test_a_client_uses_the_connection_that_its_transport_has() -> None:
    server = Scripted({"tools/call": lambda ask: text("ok")})
    with MemoryTransport(server) as transport, Client(transport) as client:
        assert client.call_tool("t").text == "ok"
        assert server.dials == 1


def test_a_with_statement_inside_a_with_statement_closes_for_both() -> None:
    with Client(Scripted()) as client:
        with client as same:
            assert same is client
        with pytest.raises(MCPConnectionError, match="the client of memory is closed; make a new Client"):
            client.ping()


def test_a_with_statement_after_a_with_statement_is_refused() -> None:
    client = Client(Scripted())
    with client:
        pass
    with pytest.raises(MCPConnectionError, match="the client of memory is closed; make a new Client"), client:
        pass
