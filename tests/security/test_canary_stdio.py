"""The canary run over stdio and in containers: variables, options, and whatever a server tells of them as it dies."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import pytest
from faults.tools import PATIENCE
from security.canaries import Canaries, Evidence, check, threads_and_objects, watching

from mcp_sync import Client, DockerTransport, MCPError, StdioTransport, TransportManager

TELLTALE = str(Path(__file__).with_name("telltale.py"))
WAYS = [
    *("stderr_and_death", "a_long_line_and_death", "crash", "noise_and_death", "broken", "wrong", "half"),
    *("nothing", "for_ever"),
]
SLOW = {"nothing": 0.2, "for_ever": 0.05}


def variables(canaries: Canaries) -> dict[str, str]:
    """Return variables whose names say that they are secret, or whose values do."""
    plant = canaries.plant
    return {
        "CANARY_TOKEN": plant("a token"),
        "CANARY_API_KEY": plant("a key", "\"{}'\\/+&=é"),
        "CANARY_SECRET": plant("a secret of two lines", "{}\n-----"),
        "CANARY_DATABASE_URL": f"postgres://me:{plant('the password in a URL')}@db.example/x",
    }


def words(canaries: Canaries) -> list[str]:
    """Return options that say that what follows is secret."""
    plant = canaries.plant
    return [
        *("--token", plant("an option's value")),
        f"--api-key={plant('a value in the same word')}",
        *("--header", f"Authorization: Bearer {plant('a header')}"),
        f"--url=https://me:{plant('userinfo')}@example.com/?key={plant('a query')}#{plant('a fragment')}",
        *("-e", f"PASSWORD={plant('an assignment')}"),
    ]


@pytest.mark.parametrize("way", [*WAYS, "noise"])
def test_no_secret_comes_out_whatever_a_server_tells_over_stdio(way: str) -> None:
    """I12, I17: not in the end of its stderr, in the noise, in what is no answer, in the command that did not start."""
    canaries = Canaries()
    env, args = variables(canaries), words(canaries)
    with watching() as evidence:
        transport = StdioTransport([sys.executable, "-I", TELLTALE, *args], env=env, timeout=PATIENCE)
        transport.observe(lambda event: evidence.look("an event", event))
        with closing(Client(transport)) as client:
            client.connect()
            fails(client, way, canaries, evidence)
            evidence.look("at the end", client, transport, client.counters)
            evidence.add("live objects", threads_and_objects())
        evidence.look("after close", client)
    check(canaries, evidence)


def fails(client: Client, way: str, canaries: Canaries, evidence: Evidence) -> None:
    """Have a call fail, and keep what it raises."""
    arguments = {"how": way, "password": canaries.plant("an argument")}
    try:
        client.call_tool("work", arguments, timeout=SLOW.get(way, PATIENCE))
    except MCPError as error:
        evidence.look(way, error)
    else:
        assert way == "noise"


@pytest.mark.parametrize(
    "command", [["/does/not/exist"], ["/etc/hostname"], [sys.executable, "-c", "raise SystemExit(1)"]], ids=str
)
def test_no_secret_comes_out_of_a_server_that_does_not_start(command: list[str]) -> None:
    """I12"""
    canaries = Canaries()
    with watching() as evidence:
        transport = StdioTransport(command + words(canaries), env=variables(canaries), timeout=PATIENCE)
        with closing(Client(transport)) as client:
            with pytest.raises(MCPError) as found:
                client.connect()
            evidence.look("not started", found.value, client, transport)
    check(canaries, evidence)


def test_what_a_tool_answers_is_the_callers_as_it_is() -> None:
    """The test that the secrets were there at all; and the lines of stderr that a program asks for have none."""
    canaries, lines = Canaries(), list[str]()
    env = variables(canaries)
    transport = StdioTransport([sys.executable, "-I", TELLTALE], env=env, stderr=lines.append)
    with closing(Client(transport, timeout=PATIENCE)) as client:
        assert canaries.planted_in(client.call_tool("work", {"how": "tell"}).text.encode()) == canaries.names
        with pytest.raises(MCPError, match=r"the end of its stderr: .*\*\*\*"):
            client.call_tool("work", {"how": "stderr_and_death"})
    assert canaries.planted_in("\n".join(lines).encode()) == set()
    assert any("CANARY_TOKEN=***" in line for line in lines)


def test_a_manager_tells_no_secret_of_its_servers() -> None:
    """I12: in its report, its events, its errors, the causes of all of them."""
    canaries = Canaries()
    with watching() as evidence, TransportManager(health_check_interval=None, failover_threshold=1) as manager:
        manager.on_health_event(lambda event, data: evidence.look(f"the event {event}", data))
        for name in ("one", "two"):
            command = [sys.executable, "-I", TELLTALE, *words(canaries)]
            manager.register_transport(name, StdioTransport(command, env=variables(canaries), timeout=PATIENCE))
        for way in ("crash", "stderr_and_death"):
            with pytest.raises(MCPError) as found:
                manager.send_request("default", "tools/call", {"name": "work", "arguments": {"how": way}})
            evidence.look(way, found.value, manager, manager.get_health_report())
        manager.register_transport("bad", StdioTransport(["/does/not/exist", *words(canaries)]))
        with pytest.raises(MCPError) as found:
            manager.send_request("bad", "tools/list")
        evidence.look("not started", found.value, manager.get_health_report())
        evidence.add("live objects", threads_and_objects())
    check(canaries, evidence)


def test_a_transport_of_containers_tells_no_secret() -> None:
    """I12: neither it nor what it is made of."""
    canaries = Canaries()
    with watching() as evidence:
        transport = DockerTransport("some/server:1", command=words(canaries), env=variables(canaries))
        evidence.look("a transport", transport, transport.name, Client(transport))
        evidence.add("live objects", threads_and_objects())
    check(canaries, evidence)
