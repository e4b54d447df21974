"""The passport: headers and credentials, shown to the server alone, renewed once for all who are refused."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from faults.tools import until

from mcp_sync.deadlines import Deadline
from mcp_sync.exceptions import AuthError, LocalProtocolError, MCPConnectionError, MCPTimeoutError
from mcp_sync.testing import in_threads
from mcp_sync.testing.tools import PATIENCE, SLACK, Background
from mcp_sync.transports.errands import Errand
from mcp_sync.transports.passport import Passport, checked_headers, request_headers

SECRET = "c4naryS3cret"


class Provider:
    """An auth provider that counts; ``refresh`` may be held up."""

    def __init__(self, renewed: Any = True, headers: Any = None) -> None:
        self.renewed, self.given = renewed, headers
        self.refreshed = 0
        self.running = threading.Event()
        self.release = threading.Event()
        self.release.set()

    def headers(self) -> Mapping[str, str]:
        if isinstance(self.given, Exception):
            raise self.given
        return {"Authorization": f"Bearer t{self.refreshed}"} if self.given is None else self.given

    def refresh(self) -> Any:
        self.running.set()
        self.release.wait(PATIENCE)
        self.refreshed += 1
        if isinstance(self.renewed, Exception):
            raise self.renewed
        return self.renewed


def soon() -> Deadline:
    return Deadline(PATIENCE)


def test_the_users_headers_are_shown_as_they_are_and_cannot_be_changed_from_outside() -> None:
    given = {"X-One": "1"}
    passport = Passport(given)
    given["X-Two"] = "2"
    passport.headers()["X-Three"] = "3"
    assert passport.headers() == {"X-One": "1"}


def test_auth_header_wins_over_the_url_and_the_provider_over_both() -> None:
    basic = "Basic " + base64.b64encode("jö:p:w".encode()).decode()
    assert Passport({}, userinfo=("jö", "p:w")).headers() == {"Authorization": basic}
    assert Passport({}, "Token x", userinfo=("a", "b")).headers() == {"Authorization": "Token x"}
    assert Passport({}, "Token x", Provider(), ("a", "b")).headers() == {"Authorization": "Bearer t0"}


def test_a_request_says_what_it_takes_and_what_the_user_says() -> None:
    headers = request_headers(Passport({}), "application/json")
    assert headers["Accept"] == "application/json"
    assert request_headers(Passport({"User-Agent": "mine"}), "x")["User-Agent"] == "mine"


@pytest.mark.parametrize(
    "given",
    [None.__class__, 7, {"A": 1}, {"A b": "x"}, {"A": f"{SECRET}\r\nB: c"}, {"A": f"{SECRET}\N{SNOWMAN}"}, ["A"]],
    ids=["a class", "a number", "no str", "a blank", "a line break", "not latin-1", "a list"],
)
def test_what_a_provider_gives_is_checked_and_never_shown(given: Any) -> None:
    with pytest.raises(LocalProtocolError, match="auth_provider") as found:
        Passport({}, auth_provider=Provider(headers=given)).headers()
    assert found.value.may_have_run is False
    assert SECRET not in str(found.value)


def test_a_provider_that_fails_is_named_and_what_it_said_is_the_cause_only() -> None:
    flaw = RuntimeError(SECRET)
    with pytest.raises(LocalProtocolError, match=r"auth_provider: headers\(\) failed with RuntimeError") as found:
        Passport({}, auth_provider=Provider(headers=flaw)).headers()
    assert found.value.__cause__ is flaw
    assert SECRET not in str(found.value)
    with pytest.raises(LocalProtocolError, match=r"refresh\(\) failed with RuntimeError"):
        Passport({}, auth_provider=Provider(flaw)).renew(0, soon())


def test_an_error_of_ours_that_a_provider_raises_comes_out_as_it_is() -> None:
    flaw = AuthError("the token server said no", 401)
    with pytest.raises(AuthError) as found:
        Passport({}, auth_provider=Provider(headers=flaw)).headers()
    assert found.value is flaw
    with pytest.raises(AuthError):
        Passport({}, auth_provider=Provider(flaw)).renew(0, soon())


def test_without_a_provider_or_without_a_refresh_nothing_is_renewed() -> None:
    class Fixed:
        def headers(self) -> Mapping[str, str]:
            return {}

    assert Passport({}).renew(0, soon()) is False
    assert Passport({}, auth_provider=Fixed()).renew(0, soon()) is False


@pytest.mark.parametrize("renewed", [False, None])
def test_a_provider_that_has_nothing_new_says_so(renewed: Any) -> None:
    passport = Passport({}, auth_provider=Provider(renewed))
    assert passport.renew(0, soon()) is False
    assert passport.generation == 0


def test_of_eight_who_are_refused_at_once_one_renews_for_all() -> None:
    provider = Provider()
    passport = Passport({}, auth_provider=provider)
    assert in_threads(8, lambda _: passport.renew(0, soon())) == [True] * 8
    assert (provider.refreshed, passport.generation) == (1, 1)
    assert passport.headers() == {"Authorization": "Bearer t1"}


def test_who_is_refused_with_the_renewed_ones_renews_again() -> None:
    provider = Provider()
    passport = Passport({}, auth_provider=provider)
    passport.renew(0, soon())
    passport.renew(passport.generation, soon())
    assert provider.refreshed == 2


def test_waiting_for_another_ones_refresh_ends_at_the_deadline() -> None:
    provider = Provider()
    provider.release.clear()
    passport = Passport({}, auth_provider=provider)
    first = Background(lambda: passport.renew(0, soon()))
    assert provider.running.wait(PATIENCE)
    deadline = Deadline(0.1)
    with pytest.raises(MCPTimeoutError) as found:
        passport.renew(0, deadline)
    assert found.value.may_have_run is False
    assert deadline.elapsed < 0.1 + SLACK
    provider.release.set()
    assert first.result() is True


def test_a_refresh_that_hangs_is_not_waited_for_beyond_the_deadline_and_counts_when_it_ends() -> None:
    provider = Provider()
    provider.release.clear()
    passport = Passport({}, auth_provider=provider)
    for _ in range(3):
        with pytest.raises(MCPTimeoutError):
            passport.renew(0, Deadline(0.02))
    assert [thread.name for thread in threading.enumerate()].count("mcp-refresh") == 1
    provider.release.set()
    assert passport.renew(0, soon()) is True
    assert (provider.refreshed, passport.generation) == (1, 1)


def test_whoever_is_no_longer_wanted_stops_waiting_and_disturbs_nobody() -> None:
    provider = Provider()
    provider.release.clear()
    passport = Passport({}, auth_provider=provider)
    errand = Errand(soon())
    first = Background(lambda: passport.renew(0, soon()))
    second = Background(lambda: passport.renew(0, soon(), errand.interrupting))
    assert provider.running.wait(PATIENCE)
    errand.drop()
    with pytest.raises(MCPConnectionError):
        second.result()
    provider.release.set()
    assert first.result() is True


def test_eight_who_wait_for_a_refresh_that_fails_get_an_error_each() -> None:
    provider = Provider(AuthError("the token server said no", 401))
    provider.release.clear()
    passport = Passport({}, auth_provider=provider)
    waiting = [Background(lambda: passport.renew(0, soon())) for _ in range(8)]
    assert provider.running.wait(PATIENCE)
    until(lambda: passport._renewal is not None and len(passport._renewal.waiting) == 8)
    provider.release.set()
    errors = []
    for one in waiting:
        with pytest.raises(AuthError) as found:
            one.result()
        errors.append(found.value)
    assert len({id(error) for error in errors}) == 8
    assert provider.refreshed == 1


def test_a_refresh_that_raised_does_not_keep_the_next_from_trying() -> None:
    provider = Provider(RuntimeError("down"))
    passport = Passport({}, auth_provider=provider)
    with pytest.raises(LocalProtocolError):
        passport.renew(0, soon())
    provider.renewed = True
    assert passport.renew(0, soon()) is True


def test_its_repr_names_headers_and_no_values() -> None:
    passport = Passport({"X-Key": SECRET}, f"Bearer {SECRET}")
    assert repr(passport) == "<Passport with X-Key, Authorization>"
    assert repr(Passport({})) == "<Passport with no headers>"


def test_after_a_fork_a_held_lock_is_a_new_one() -> None:
    provider = Provider()
    passport = Passport({}, auth_provider=provider)
    passport._refreshing.acquire()
    passport.forked()
    assert passport.renew(0, Deadline(1)) is True


@pytest.mark.parametrize(
    ("headers", "kind", "text"),
    [
        ("X: 1", TypeError, "headers must be a mapping of str to str, not str"),
        ({1: "x"}, TypeError, "headers must map str to str; 1 maps to str"),
        ({"X": 1}, TypeError, "headers must map str to str; 'X' maps to int"),
        ({"": "x"}, ValueError, "headers: the header's name is empty"),
        ({"X": f"{SECRET}\n"}, ValueError, "headers: the value of the header 'X' holds a line break"),
        ({"X": f" {SECRET}"}, ValueError, "headers: the value of the header 'X' begins or ends with a blank"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused_and_their_values_not_shown(
    headers: Any, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as found:
        checked_headers("headers", headers)
    assert str(found.value).startswith(text)
    assert SECRET not in str(found.value)


def test_no_headers_are_fine() -> None:
    assert checked_headers("headers", None) == {}
