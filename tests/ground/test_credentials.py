"""A client proves who it is, a server believes nothing else, and no secret is ever shown."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mcp_sync.credentials import ALGORITHMS, APIKeyAuth, Authenticator, AuthProvider, BearerTokenAuth, JWTAuth

CANARY = "canary-7f3a-0123456789-0123456789-0123456789-0123456789-0123456789"
OTHER = CANARY.replace("7", "8")
NOW = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def pems(key: Any) -> tuple[str, str]:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


RSA_KEY = rsa.generate_private_key(65537, 2048)
RSA_PRIVATE, RSA_PUBLIC = pems(RSA_KEY)
EC_PRIVATE, EC_PUBLIC = pems(ec.generate_private_key(ec.SECP256R1()))
P384_PRIVATE, P384_PUBLIC = pems(ec.generate_private_key(ec.SECP384R1()))
P521_PRIVATE, P521_PUBLIC = pems(ec.generate_private_key(ec.SECP521R1()))
ED_PRIVATE, ED_PUBLIC = pems(ed25519.Ed25519PrivateKey.generate())
KEYS = {
    **dict.fromkeys(("HS256", "HS384", "HS512"), (CANARY, CANARY)),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), (RSA_PRIVATE, RSA_PUBLIC)),
    "ES256": (EC_PRIVATE, EC_PUBLIC),
    "ES384": (P384_PRIVATE, P384_PUBLIC),
    "ES512": (P521_PRIVATE, P521_PUBLIC),
    "EdDSA": (ED_PRIVATE, ED_PUBLIC),
}


def everything_said(error: BaseException) -> str:
    """The error, its traceback, and whatever hangs on it, shown or not."""
    said = ["".join(traceback.format_exception(error))]
    one: BaseException | None = error
    while one is not None:
        said.append(f"{one} {one!r} {one.__dict__!r}")
        one = one.__cause__ or one.__context__
    return "\n".join(said)


def refusal(kind: type[Exception], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as caught:
        call()
    said = everything_said(caught.value)
    assert "canary" not in said
    assert "PRIVATE KEY" not in said
    return str(caught.value)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# Both ends.


def accepts(server: Authenticator, client: AuthProvider) -> str | None:
    return server.authenticate(client.headers())


@pytest.mark.parametrize(
    ("auth", "name"),
    [(BearerTokenAuth(CANARY), "bearer"), (APIKeyAuth(CANARY), "api-key"), (JWTAuth(CANARY), "mcp-client")],
    ids=["bearer", "key", "jwt"],
)
def test_one_object_serves_both_ends(auth: Any, name: str) -> None:
    assert accepts(auth, auth) == name


@pytest.mark.parametrize("kind", [BearerTokenAuth, APIKeyAuth])
def test_a_server_knows_its_clients_by_their_secrets(kind: type[Any]) -> None:
    server = kind({"alice": CANARY, "bob": OTHER})
    assert accepts(server, kind(CANARY)) == "alice"
    assert accepts(server, kind(OTHER)) == "bob"
    assert accepts(server, kind("mallory")) is None


@pytest.mark.parametrize("kind", [BearerTokenAuth, APIKeyAuth])
def test_a_single_secret_goes_by_the_name_it_was_given(kind: type[Any]) -> None:
    assert accepts(kind(CANARY, principal="the team"), kind(CANARY)) == "the team"


@pytest.mark.parametrize("kind", [BearerTokenAuth, APIKeyAuth])
def test_a_mapping_of_one_client_can_be_used_by_that_client(kind: type[Any]) -> None:
    assert accepts(kind({"alice": CANARY}), kind({"alice": CANARY})) == "alice"


@pytest.mark.parametrize("kind", [BearerTokenAuth, APIKeyAuth])
def test_a_mapping_of_many_clients_has_nothing_to_send(kind: type[Any]) -> None:
    said = refusal(TypeError, kind({"alice": CANARY, "bob": OTHER}).headers)
    assert "exactly one" in said
    assert "2 clients" in said


@pytest.mark.parametrize("auth", [BearerTokenAuth(CANARY), APIKeyAuth(CANARY), JWTAuth(CANARY)])
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "}, {"X-API-Key": ""}],
)
def test_missing_credentials_are_no_credentials(auth: Any, headers: Mapping[str, str]) -> None:
    assert auth.authenticate(headers) is None


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
@pytest.mark.parametrize("value", [f"Bearer {CANARY}", f"bearer {CANARY}", f" BEARER   {CANARY}\t"])
def test_names_of_headers_and_schemes_are_matched_in_any_case(name: str, value: str) -> None:
    assert BearerTokenAuth(CANARY).authenticate({"Host": "x", name: value}) == "bearer"


@pytest.mark.parametrize(
    "value",
    [CANARY, f"Basic {CANARY}", f"Bearer{CANARY}", f"Bearer {CANARY}x", f"Bearer {CANARY[:-1]}", "Bearer \ud800"],
)
def test_anything_else_in_the_header_is_refused(value: str) -> None:
    assert BearerTokenAuth(CANARY).authenticate({"Authorization": value}) is None


def test_credentials_that_come_twice_are_refused() -> None:
    twice = {"X-API-Key": CANARY, "x-api-key": CANARY}
    assert APIKeyAuth(CANARY).authenticate(twice) is None


def test_a_key_travels_in_the_header_of_its_choice() -> None:
    auth = APIKeyAuth({"alice": CANARY}, "X-Team")
    assert auth.headers() == {"X-Team": CANARY}
    assert auth.authenticate({"x-team": CANARY}) == "alice"
    assert auth.authenticate({"X-API-Key": CANARY}) is None


def test_a_mapping_that_changes_later_changes_nothing() -> None:
    keys = {"alice": CANARY}
    auth = APIKeyAuth(keys)
    keys["mallory"] = OTHER
    assert auth.authenticate({"X-API-Key": OTHER}) is None


def test_secrets_are_compared_in_constant_time_and_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return a == b

    monkeypatch.setattr("mcp_sync.credentials.hmac.compare_digest", compare)
    assert APIKeyAuth({"alice": "a", "bob": "b", "carol": "c"}).authenticate({"X-API-Key": "a"}) == "alice"
    assert compared == [b"a", b"b", b"c"]


def test_any_character_that_a_header_holds_agrees_at_both_ends() -> None:
    token = "a b\xa0\xff~!"
    assert accepts(BearerTokenAuth(token), BearerTokenAuth(token)) == "bearer"


# Tokens from a function.


def test_a_token_from_a_function_is_kept_until_it_is_refreshed() -> None:
    tokens = iter(["first", "second"])
    auth = BearerTokenAuth(lambda: next(tokens))
    assert [auth.headers(), auth.headers()] == [bearer("first"), bearer("first")]
    assert auth.refresh() is True
    assert auth.headers() == bearer("second")


def test_a_function_is_not_called_before_it_is_needed() -> None:
    BearerTokenAuth(lambda: pytest.fail("too early"))


def test_a_server_asks_its_function_for_each_request() -> None:
    tokens = iter(["first", "second"])
    auth = BearerTokenAuth(lambda: next(tokens), principal="rotating")
    assert auth.authenticate(bearer("first")) == "rotating"
    assert auth.authenticate(bearer("first")) is None


def test_a_function_that_fails_leaves_the_old_token() -> None:
    answers: list[Any] = ["first", RuntimeError("the vault is closed")]

    def token() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    auth = BearerTokenAuth(token)
    auth.headers()
    with pytest.raises(RuntimeError, match="the vault is closed"):
        auth.refresh()
    assert auth.headers() == bearer("first")


@pytest.mark.parametrize("bad", [f"{CANARY}\n", "", f"{CANARY}\u20ac"])
def test_what_a_function_returns_is_checked(bad: str) -> None:
    auth = BearerTokenAuth(lambda: bad)
    for call in [auth.headers, auth.refresh, lambda: auth.authenticate(bearer("x"))]:
        assert "what the function for the token returns" in refusal(ValueError, call)


def test_a_function_that_returns_no_text_is_named() -> None:
    assert "must be a str, not NoneType" in refusal(TypeError, BearerTokenAuth(lambda: None).headers)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("auth", [BearerTokenAuth(CANARY), BearerTokenAuth({"a": CANARY}), APIKeyAuth(CANARY)])
def test_where_there_is_nothing_new_refresh_says_so(auth: AuthProvider) -> None:
    before = auth.headers()
    assert auth.refresh() is False
    assert auth.headers() == before


def test_many_threads_may_ask_and_refresh_at_once() -> None:
    start = threading.Barrier(8)
    auths: list[Any] = [BearerTokenAuth(lambda: CANARY), JWTAuth(CANARY)]
    names: list[Any] = []

    def work() -> None:
        start.wait(10)
        for _ in range(50):
            for auth in auths:
                names.append(auth.authenticate(auth.headers()))
                auth.refresh()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(names) == 800
    assert set(names) == {"bearer", "mcp-client"}


# What is refused at the door.

BAD_TEXTS = [
    ("", "must not be empty"),
    (" \t", "must not be empty"),
    (f"{CANARY}\n", "control character; is there a line break at its end"),
    (f"{CANARY}\r\nX-Evil: 1", "control character"),
    (f"{CANARY}\0", "control character"),
    (f"{CANARY}\x7f", "control character"),
    (f"{CANARY}\x85", "control character"),
    (f"{CANARY} ", "begin or end with a space"),
    (f" {CANARY}", "begin or end with a space"),
    (f"{CANARY}\u20ac", "ISO 8859-1"),
    (f"{CANARY}\ud800", "ISO 8859-1"),
]


@pytest.mark.parametrize("kind", [BearerTokenAuth, APIKeyAuth])
@pytest.mark.parametrize("wrap", [str, lambda text: {"a": text}], ids=["alone", "mapping"])
@pytest.mark.parametrize(("bad", "reason"), BAD_TEXTS, ids=ascii)
def test_what_no_header_can_hold_is_refused_and_not_shown(
    kind: type[Any], wrap: Callable[[str], Any], bad: str, reason: str
) -> None:
    assert reason in refusal(ValueError, lambda: kind(wrap(bad)))


@pytest.mark.parametrize("kind", [BearerTokenAuth, APIKeyAuth])
@pytest.mark.parametrize("bad", [None, 5, CANARY.encode(), [CANARY], {"a": CANARY.encode()}, {5: CANARY}, {"a": None}])
def test_what_is_no_text_is_refused_by_its_type(kind: type[Any], bad: object) -> None:
    refusal(TypeError, lambda: kind(bad))


@pytest.mark.parametrize("kind", [BearerTokenAuth, APIKeyAuth])
@pytest.mark.parametrize("bad", [{}, {"": CANARY}, {"a\n": CANARY}, {CANARY: "alice", OTHER: "alice"}])
def test_a_mapping_that_tells_nobody_apart_is_refused(kind: type[Any], bad: dict[str, str]) -> None:
    refusal(ValueError, lambda: kind(bad))


@pytest.mark.parametrize("header", ["", "X Key", "X-Key:", "X-Key\r\n", "X-Schl\u00fcssel", CANARY + "\n"])
def test_what_is_no_name_of_a_header_is_refused(header: str) -> None:
    refusal(ValueError, lambda: APIKeyAuth("key", header))


def test_a_header_and_a_name_have_to_be_text() -> None:
    refusal(TypeError, lambda: APIKeyAuth("key", 5))  # type: ignore[arg-type]
    refusal(TypeError, lambda: APIKeyAuth("key", principal=5))  # type: ignore[arg-type]
    refusal(ValueError, lambda: BearerTokenAuth("key", principal=""))


# Signed tokens.


def claims(**changes: Any) -> dict[str, Any]:
    made = {"sub": "alice", "exp": NOW + 60, **changes}
    return {name: value for name, value in made.items() if value is not ...}


def signed(header: Mapping[str, Any] | None = None, key: str = CANARY, payload: bytes = b"", **changes: Any) -> str:
    """Sign by hand, for PyJWT would refuse to do much of what attackers do."""
    parts = [json.dumps(header or {"alg": "HS256"}).encode(), payload or json.dumps(claims(**changes)).encode()]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = hmac.new(key.encode(), text, hashlib.sha256).digest()
    return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def server(secret: str = CANARY, algorithm: str = "HS256", **settings: Any) -> JWTAuth:
    return JWTAuth(secret, algorithm, **{"clock": Clock(), "leeway": 0, **settings})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_both_ends_agree_by_every_algorithm(algorithm: str) -> None:
    private, public = KEYS[algorithm]
    client = JWTAuth(private, algorithm, issuer="us", audience="tools", subject="alice")
    verifier = JWTAuth(public.encode(), algorithm, issuer="us", audience="tools")
    assert accepts(verifier, client) == "alice"
    assert accepts(client, client) == "alice"  # a private key holds the public one
    assert accepts(JWTAuth(public, algorithm), client) is None  # its audience is somebody else


def test_a_token_of_any_other_signer_is_checked_just_the_same() -> None:
    assert server().authenticate(bearer(jwt.encode(claims(), CANARY, "HS256"))) == "alice"
    assert server().authenticate(bearer(signed())) == "alice"


def test_a_client_claims_what_it_was_told_to() -> None:
    auth = JWTAuth(CANARY, issuer="us", audience="tools", subject="alice", clock=Clock())
    token = auth.headers()["Authorization"].removeprefix("Bearer ")
    said = jwt.decode(token, options={"verify_signature": False})
    assert said == {"sub": "alice", "iss": "us", "aud": "tools", "iat": NOW, "exp": NOW + 300}


def test_a_tampered_token_is_refused() -> None:
    token = signed()
    for at in range(len(token)):
        other = "A" if token[at] != "A" else "Q"
        spoilt = token[:at] + other + token[at + 1 :]
        if at < len(token) - 1:  # the last character carries two bits that mean nothing
            assert server().authenticate(bearer(spoilt)) is None, at
    assert server().authenticate(bearer(signed(key=OTHER))) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token.rpartition(".")[0],
        lambda token: token.rpartition(".")[0] + ".",
        lambda token: token + ".x",
        lambda token: "." + token,
        lambda token: "...",
        lambda token: "\ud800" + token,
        lambda token: "\u20ac" + token,
    ],
)
def test_a_mutilated_token_is_refused(spoil: Callable[[str], str]) -> None:
    assert server().authenticate(bearer(spoil(signed()))) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - 1},
        {"exp": NOW},
        {"exp": ...},
        {"exp": None},
        {"exp": True},
        {"exp": str(int(NOW + 60))},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": 10**400},
        {"exp": [NOW + 60]},
        {"nbf": NOW + 1},
        {"nbf": None},
        {"nbf": True},
        {"nbf": -(10**400)},
        {"nbf": float("-inf")},
    ],
    ids=str,
)
def test_a_token_out_of_its_time_is_refused(changes: dict[str, Any]) -> None:
    assert server().authenticate(bearer(signed(**changes))) is None


def test_clocks_may_differ_by_the_leeway_and_no_more() -> None:
    lenient = server(leeway=10)
    assert lenient.authenticate(bearer(signed(exp=NOW - 9))) == "alice"
    assert lenient.authenticate(bearer(signed(exp=NOW - 10))) is None
    assert lenient.authenticate(bearer(signed(nbf=NOW + 10))) == "alice"
    assert lenient.authenticate(bearer(signed(nbf=NOW + 11))) is None


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"aud": "tools"}, "alice"),
        ({"aud": ["more", "tools"]}, "alice"),
        ({"aud": "tool"}, None),
        ({"aud": ["more"]}, None),
        ({"aud": {"tools": 1}}, None),
        ({"aud": [["tools"]]}, None),
        ({"aud": None}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_token_for_another_audience_is_refused(changes: dict[str, Any], name: str | None) -> None:
    assert server(audience="tools").authenticate(bearer(signed(**changes))) == name


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"iss": "us"}, "alice"), ({"iss": "u"}, None), ({"iss": ["us"]}, None), ({"iss": None}, None), ({}, None)],
    ids=str,
)
def test_a_token_of_another_issuer_is_refused(changes: dict[str, Any], name: str | None) -> None:
    assert server(issuer="us").authenticate(bearer(signed(**changes))) == name


def test_a_token_for_somebody_else_is_refused_by_a_server_without_an_audience() -> None:
    assert server().authenticate(bearer(signed(aud="bank"))) is None


@pytest.mark.parametrize("subject", [..., None, "", 5, ["alice"], "alice\r\n> forged line of a log"])
def test_a_token_without_a_proper_subject_is_refused(subject: object) -> None:
    assert server().authenticate(bearer(signed(sub=subject))) is None


@pytest.mark.parametrize(
    "payload", [b"[]", b"null", b"5", b"not JSON", b"[" * 100_000, b'{"exp": ' + b"9" * 9000 + b"}"]
)
def test_a_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    assert server().authenticate(bearer(signed(payload=payload))) is None


# A confused algorithm.


def test_a_token_signed_with_the_public_key_as_if_it_were_a_secret_is_refused() -> None:
    verifier = server(RSA_PUBLIC, "RS256")
    for key in [RSA_PUBLIC, RSA_PUBLIC.strip()]:
        assert verifier.authenticate(bearer(signed({"alg": "HS256"}, key=key))) is None
        assert verifier.authenticate(bearer(signed({"alg": "RS256"}, key=key))) is None


@pytest.mark.parametrize("name", ["none", "None", "NONE", "", None, 5, ["HS256"]])
def test_a_token_that_wants_no_signature_is_refused(name: object) -> None:
    token = signed({"alg": name})
    for one in [token, token.rpartition(".")[0] + "."]:
        for verifier in [server(), server(RSA_PUBLIC, "RS256")]:
            assert verifier.authenticate(bearer(one)) is None


def test_a_server_accepts_its_own_algorithm_alone() -> None:
    for algorithm in ["HS384", "HS512"]:
        assert server().authenticate(bearer(jwt.encode(claims(), CANARY, algorithm))) is None
    verifier = server(RSA_PUBLIC, "RS256")
    assert verifier.authenticate(bearer(jwt.encode(claims(), RSA_PRIVATE, "PS256"))) is None


def test_a_key_that_comes_with_the_token_is_not_used() -> None:
    own = {"kty": "oct", "k": base64.urlsafe_b64encode(OTHER.encode()).decode()}
    headers: list[dict[str, Any]] = [{"jwk": own}, {"jku": "https://evil.example"}, {"kid": "../../dev/null"}]
    for header in headers:
        assert server().authenticate(bearer(signed({"alg": "HS256", **header}, key=OTHER))) is None


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], None])
def test_a_token_that_asks_for_extensions_is_refused(crit: object) -> None:
    assert server().authenticate(bearer(signed({"alg": "HS256", "crit": crit, "b64": True, "exp": 1}))) is None


@pytest.mark.parametrize("header", [b"[" * 30_000, b"{}", b"[]", b'{"alg": ' + b"9" * 9000 + b"}"])
def test_a_header_that_chokes_the_decoder_is_refused(header: bytes) -> None:
    token = f"{base64.urlsafe_b64encode(header).decode().rstrip('=')}.e30.e30"
    assert server().authenticate(bearer(token)) is None


# When a client signs anew.


def test_a_token_is_kept_until_a_tenth_of_its_life_is_left() -> None:
    clock = Clock()
    auth = JWTAuth(CANARY, lifetime=100, clock=clock)
    first = auth.headers()
    clock.now = NOW + 89
    assert auth.headers() == first
    clock.now = NOW + 90
    second = auth.headers()
    assert second != first
    assert auth.headers() == second


def test_a_clock_that_is_set_back_makes_a_new_token() -> None:
    clock = Clock()
    auth = JWTAuth(CANARY, clock=clock)
    first = auth.headers()
    clock.now = NOW - 3600
    assert auth.headers() != first
    assert accepts(auth, auth) == "mcp-client"


def test_refresh_signs_anew() -> None:
    clock = Clock()
    auth = JWTAuth(CANARY, clock=clock)
    first = auth.headers()
    clock.now += 1
    assert auth.refresh() is True
    assert auth.headers() != first


def test_the_shortest_life_is_still_one_at_the_moment_of_signing() -> None:
    auth = JWTAuth(CANARY, lifetime=0.001, leeway=0)
    assert accepts(auth, auth) == "mcp-client"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_signs_nothing(algorithm: str) -> None:
    auth = JWTAuth(KEYS[algorithm][1], algorithm)
    for call in [auth.headers, auth.refresh]:
        assert "signs with the private key" in refusal(TypeError, call)


# What is refused when it is made.


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", "hs256", "ES256K", CANARY])
def test_an_algorithm_that_is_none_or_unknown_is_refused_and_not_shown(algorithm: str) -> None:
    assert refusal(ValueError, lambda: JWTAuth("x", algorithm)).startswith("algorithm must be one of HS256, ")


@pytest.mark.parametrize(
    ("secret", "algorithm"),
    [
        (CANARY, "RS256"),
        (CANARY, "ES256"),
        (CANARY, "EdDSA"),
        (EC_PRIVATE, "RS256"),
        (RSA_PUBLIC, "ES256"),
        (RSA_PUBLIC, "HS256"),
        (RSA_PRIVATE, "HS256"),
        (RSA_PRIVATE.replace("M", "canary", 1), "RS256"),
        (CANARY + "\ud800", "HS256"),
        (
            RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(CANARY.encode())),
            "RS256",
        ),
    ],
)
def test_a_key_that_does_not_fit_is_refused_and_not_shown(secret: str | bytes, algorithm: str) -> None:
    assert refusal(ValueError, lambda: JWTAuth(secret, algorithm)) == f"secret is no key for {algorithm}"


@pytest.mark.parametrize("secret", ["", " \n", b"", b" "])
def test_an_empty_secret_is_refused(secret: str | bytes) -> None:
    assert refusal(ValueError, lambda: JWTAuth(secret)) == "secret must not be empty"


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (TypeError, {"secret": None}),
        (TypeError, {"secret": [CANARY]}),
        (TypeError, {"algorithm": None}),
        (TypeError, {"algorithm": [CANARY]}),
        (TypeError, {"issuer": 5}),
        (TypeError, {"audience": ["tools"]}),
        (TypeError, {"subject": None}),
        (TypeError, {"lifetime": None}),
        (TypeError, {"lifetime": "300"}),
        (TypeError, {"leeway": True}),
        (TypeError, {"clock": 5}),
        (ValueError, {"issuer": ""}),
        (ValueError, {"audience": "a\n"}),
        (ValueError, {"subject": " "}),
        (ValueError, {"lifetime": 0}),
        (ValueError, {"lifetime": -1}),
        (ValueError, {"lifetime": float("nan")}),
        (ValueError, {"leeway": float("inf")}),
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(kind: type[Exception], settings: dict[str, Any]) -> None:
    (name,) = settings
    assert refusal(kind, lambda: JWTAuth(**{"secret": CANARY, **settings})).startswith(name)


# Secrets stay secret.


@pytest.mark.parametrize(
    ("auth", "shown"),
    [
        (BearerTokenAuth(CANARY), "<BearerTokenAuth of 1 client>"),
        (BearerTokenAuth({CANARY: "mixed up", "bob": OTHER}), "<BearerTokenAuth of 2 clients>"),
        (BearerTokenAuth(lambda: CANARY), "<BearerTokenAuth of a function>"),
        (APIKeyAuth(CANARY), "<APIKeyAuth X-API-Key of 1 client>"),
        (JWTAuth(CANARY, audience="tools"), "<JWTAuth HS256 sub='mcp-client' iss=None aud='tools'>"),
        (JWTAuth(RSA_PRIVATE, "RS256"), "<JWTAuth RS256 sub='mcp-client' iss=None aud=None>"),
    ],
)
def test_a_repr_tells_the_kind_and_no_secret(auth: Any, shown: str) -> None:
    if not shown.endswith("2 clients>"):
        auth.headers()
    assert (repr(auth), str(auth), f"{auth}") == (shown, shown, shown)


def test_what_is_refused_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    refusing: list[Authenticator] = [BearerTokenAuth(OTHER), APIKeyAuth(OTHER), server()]
    for auth in refusing:
        assert auth.authenticate({**bearer(CANARY), "X-API-Key": CANARY}) is None
    assert caplog.records == []


@pytest.mark.parametrize(
    "auth",
    [
        BearerTokenAuth({"alice": CANARY}),
        APIKeyAuth({"alice": CANARY}, "X-Team"),
        JWTAuth(CANARY, issuer="us", subject="alice"),
        JWTAuth(RSA_PRIVATE, "RS256", subject="alice"),
    ],
)
@pytest.mark.parametrize(
    "again", [lambda auth: pickle.loads(pickle.dumps(auth)), copy.deepcopy], ids=["pickle", "copy"]
)
def test_a_pickle_is_as_good_as_the_original(auth: Any, again: Callable[[Any], Any]) -> None:
    assert accepts(again(auth), auth) == "alice"
    assert accepts(auth, again(auth)) == "alice"
    assert repr(again(auth)) == repr(auth)


# Without PyJWT.


def test_without_pyjwt_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    said = refusal(ImportError, lambda: JWTAuth(CANARY))
    assert said == "JWTAuth needs PyJWT: pip install 'mcp-sync-transports[jwt]'"


def test_without_cryptography_the_error_names_the_extra() -> None:
    code = f"""
import sys
sys.modules["cryptography"] = None
from mcp_sync.credentials import JWTAuth
auth = JWTAuth({CANARY!r})
assert auth.authenticate(auth.headers()) == "mcp-client"
try:
    JWTAuth({RSA_PUBLIC!r}, "RS256")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "JWTAuth with RS256 needs cryptography: pip install 'mcp-sync-transports[jwt]'\n"


def test_nothing_third_party_is_imported_before_a_jwt_is_wanted() -> None:
    code = """
import sys
from mcp_sync.credentials import APIKeyAuth, BearerTokenAuth
BearerTokenAuth("x").headers()
assert "jwt" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], timeout=30, check=True)
