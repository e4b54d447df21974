"""The constructors of the HTTP transports: every keyword by its name, and what the error says where one is wrong."""

from __future__ import annotations

import inspect
import pathlib
import ssl
from dataclasses import fields
from typing import Any, get_type_hints

import pytest
import requests

from mcp_sync import Client
from mcp_sync.exceptions import MCPConnectionError, ServerError
from mcp_sync.policies import Connections, Limits, Policies, Replies, Retry, Shutdown
from mcp_sync.transports import http
from mcp_sync.transports.http import HttpTransport, StreamableHTTPTransport, UrlTransport
from mcp_sync.transports.sse import SSETransport, SseTransport

URL = "http://127.0.0.1:9/mcp"
SECRET = "c4naryS3cret"

KNOBS: dict[str, Any] = {
    "max_message_size": 2048,
    "max_pending_messages": 7,
    "max_backlog": 8,
    "max_concurrent_callbacks": 9,
    "max_response_size": 4096,
    "chunk_size": 100,
    "streaming_threshold": 200,
    "buffer_size": 8192,
    "validate_content_type": False,
    "connection_timeout": 1.5,
    "connection_pool_size": 3,
    "max_connections_per_host": 4,
    "keep_alive_timeout": 2.5,
    "tcp_nodelay": False,
    "tcp_keepalive": False,
    "enable_request_pipelining": False,
    "max_pipeline_size": 5,
    "trust_env": False,
    "validate_origin": False,
    "allowed_origins": ("https://other.test",),
    "max_redirects": 1,
    "session_management": False,
    "session_timeout": 13.0,
    "max_sessions": 8,
    "session_cleanup_interval": 14.0,
    "enable_compression": True,
    "compression_threshold": 10,
    "compression_level": 9,
    "max_retries": 2,
    "retry_delay": 0.25,
    "retry_backoff_multiplier": 3.0,
    "max_retry_delay": 9.0,
    "retry_jitter": 0.5,
    "retry_on_status_codes": (500, 503),
    "retry_on_exceptions": (ServerError,),
    "circuit_breaker_enabled": True,
    "circuit_breaker_threshold": 2,
    "circuit_breaker_timeout": 7.0,
    "reconnect_interval": 0.125,
    "max_reconnects": 6,
    "heartbeat_interval": 11.0,
}
"""Every knob with a value that is not its default."""

EVERY = [StreamableHTTPTransport, SSETransport, UrlTransport]
MAKES: dict[str, Any] = {
    **{kind.__name__: lambda kind=kind, **knobs: kind(URL, **knobs) for kind in EVERY},
    "SseTransport": lambda **knobs: SseTransport(URL, **knobs),
}
make = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)


EFFECTIVE = {
    kind: {part.metadata["knob"] for policy in kind._kinds for part in fields(policy)}
    for kind in [*EVERY, SseTransport]
}
"""The knobs that mean something to each."""
TAKEN = [(name, knob) for name, kind in zip(MAKES, EFFECTIVE, strict=True) for knob in KNOBS if knob in EFFECTIVE[kind]]
REFUSED = [(name, knob) for name, kind in zip(MAKES, EFFECTIVE, strict=True) for knob in {*KNOBS} - EFFECTIVE[kind]]


def part_of(policies: Policies, keyword: str) -> Any:
    for kind in policies._parts:
        for part in fields(kind):  # type: ignore[arg-type]
            if part.metadata["knob"] == keyword:
                return getattr(policies[kind], part.name)
    raise AssertionError(f"{keyword} is no knob")


# -- keywords ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "keyword"), REFUSED)
def test_a_knob_that_would_mean_nothing_is_refused(name: str, keyword: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{keyword}'"):
        MAKES[name](**{keyword: KNOBS[keyword]})


@pytest.mark.parametrize(("name", "keyword"), TAKEN)
def test_every_knob_is_taken_by_its_name(name: str, keyword: str) -> None:
    make = MAKES[name]
    assert part_of(make()._policies, keyword) != KNOBS[keyword]
    assert part_of(make(**{keyword: KNOBS[keyword]})._policies, keyword) == KNOBS[keyword]


def test_the_table_of_knobs_is_complete_and_so_are_the_types_and_the_docstring() -> None:
    known = set.union(*EFFECTIVE.values())
    assert set(KNOBS) == known
    assert set(http.HttpKnobs.__annotations__) == known
    undocumented = {knob for knob in known if f"``{knob}``" not in str(StreamableHTTPTransport.__doc__)}
    reconnecting = {"reconnect_interval", "max_reconnects", "heartbeat_interval"}  # these are SSETransport's
    limits = {part.metadata["knob"] for part in fields(Limits)}
    assert undocumented <= reconnecting | limits


OWN = {
    *("headers", "custom_headers", "auth_header", "auth_provider", "session", "verify_ssl", "ssl_context", "cert"),
    *("health_endpoint", "timeout", "policies"),
}


@pytest.mark.parametrize("kind", [*EVERY, SseTransport], ids=lambda kind: kind.__name__)
def test_the_signature_lists_every_keyword(kind: Any) -> None:
    parameters = inspect.signature(kind).parameters
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert set(parameters) & {*KNOBS} == EFFECTIVE[kind]
    missing = OWN - set(parameters)
    assert not missing, missing
    assert ("session_id" in parameters) is ("session_management" in parameters)


@make
def test_a_misspelt_keyword_is_refused_with_the_one_that_was_meant(make: Any) -> None:
    for wrong, meant in {"max_retrys": "max_retries", "verify_sll": "verify_ssl", "header": "headers"}.items():
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'; did you mean '{meant}'"):
            make(**{wrong: 1})


def test_a_keyword_of_another_transport_is_refused() -> None:
    with pytest.raises(TypeError, match="'shutdown_timeout'"):
        StreamableHTTPTransport(URL, shutdown_timeout=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no use for the policy"):
        StreamableHTTPTransport(URL, policies=[Shutdown()])


def test_a_misspelt_keyword_of_a_client_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(TypeError, match="did you mean 'max_retries'"):
        Client(URL, max_retrys=3)


@pytest.mark.parametrize(("name", "keyword"), TAKEN)
def test_a_value_that_makes_no_sense_is_refused_by_name(name: str, keyword: str) -> None:
    with pytest.raises(TypeError, match=f"^{keyword} "):
        MAKES[name](**{keyword: object()})


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("max_response_size", 1),
        ("chunk_size", 0),
        ("streaming_threshold", -1),
        ("buffer_size", 1),
        ("connection_timeout", -1),
        ("connection_pool_size", 0),
        ("max_connections_per_host", 0),
        ("max_pipeline_size", 0),
        ("max_redirects", -1),
        ("compression_level", 10),
        ("compression_threshold", -1),
        ("max_retries", -1),
        ("retry_backoff_multiplier", 0.5),
        ("retry_jitter", 2),
        ("retry_on_status_codes", [99]),
        ("circuit_breaker_threshold", 0),
        ("reconnect_interval", -1),
        ("timeout", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(keyword: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{keyword} "):
        StreamableHTTPTransport(URL, **{keyword: value})  # type: ignore[arg-type]


def test_policies_may_be_given_whole_and_keywords_win() -> None:
    transport = StreamableHTTPTransport(URL, policies=[Retry(repeats=7, delay=1.0), Replies(piece=10)], max_retries=2)
    assert transport._policies[Retry] == Retry(repeats=2, delay=1.0)
    assert transport._policies[Replies].piece == 10
    assert transport._policies[Connections] == Connections()


# -- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ({"base_url": "http://h.test"}, "http://h.test"),
        ({"url": " https://h.test/mcp\n"}, "https://h.test/mcp"),
        ({"base_url": "http://h.test/a/", "endpoint_path": "/mcp"}, "http://h.test/a/mcp"),
        ({"base_url": "http://h.test/a?k=1", "endpoint_path": "mcp?x=2"}, "http://h.test/a/mcp?x=2&k=1"),
        ({"base_url": "http://joe:pw@h.test:81/mcp#part"}, "http://h.test:81/mcp"),
        ({"base_url": "http://h.test/a/mcp?k=1", "endpoint_path": "/mcp"}, "http://h.test/a/mcp?k=1"),
        ({"base_url": "http://h.test/amcp", "endpoint_path": "mcp"}, "http://h.test/amcp/mcp"),
        ({"url": "http://h.test/a", "endpoint_path": "/mcp"}, "http://h.test/a"),
    ],
)
def test_the_url_may_be_said_in_several_ways(arguments: dict[str, Any], url: str) -> None:
    assert StreamableHTTPTransport(**arguments).url == url


def test_sse_has_a_path_of_its_own_and_a_second_class_takes_both_urls_whole() -> None:
    assert SSETransport("http://h.test").url == "http://h.test/sse"
    assert SSETransport("http://h.test/sse").url == "http://h.test/sse"
    assert SSETransport("http://h.test/a/sse/").url == "http://h.test/a/sse/"
    assert SSETransport(url="http://h.test/other").url == "http://h.test/other"
    assert SSETransport("http://h.test", "/events").url == "http://h.test/events"
    assert SseTransport("http://h.test/events").url == "http://h.test/events"
    assert SseTransport("http://h.test/events", "http://h.test/post")._post_url == "http://h.test/post"
    assert HttpTransport is StreamableHTTPTransport


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({}, TypeError, "give the URL of the server, as base_url or as url"),
        ({"base_url": URL, "url": URL}, TypeError, "give the URL of the server, as base_url or as url"),
        ({"base_url": 7}, TypeError, "base_url must be a str such as 'http://host/mcp', not int"),
        ({"url": b"http://h.test"}, TypeError, "url must be a str such as 'http://host/mcp', not bytes"),
        ({"base_url": ""}, ValueError, "base_url '' does not begin with http:// or https://"),
        ({"base_url": "h.test/mcp"}, ValueError, "did you mean 'https://h.test/mcp'?"),
        ({"base_url": "localhost:80/mcp"}, ValueError, "did you mean 'http://localhost:80/mcp'?"),
        ({"base_url": "ws://h.test/mcp"}, ValueError, "must begin with http:// or https://"),
        ({"base_url": "http://"}, ValueError, "has no host"),
        ({"base_url": "http://h.test:99999/"}, ValueError, "has a port that is not between 1 and 65535"),
        ({"base_url": "http://h .test/"}, ValueError, "holds a blank"),
        ({"base_url": "http://127.1/"}, ValueError, "no IPv4 address of four decimal numbers"),
        (
            {"base_url": "http://h.test", "endpoint_path": "http://evil.test/"},
            ValueError,
            "endpoint_path must be a path",
        ),
    ],
)
def test_a_url_that_is_none_is_refused_and_the_text_says_why(
    arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as found:
        StreamableHTTPTransport(**arguments)
    assert text in str(found.value)


@pytest.mark.parametrize(
    "bad", [f"http://joe:{SECRET}@h.test:99999/", f"http://joe:{SECRET}@/", f"joe:{SECRET}@h.test"]
)
def test_no_error_about_a_url_shows_its_password(bad: str) -> None:
    with pytest.raises(ValueError) as found:
        StreamableHTTPTransport(bad)
    assert SECRET not in str(found.value)


def test_the_post_url_is_checked_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"^post_url 'h.test' does not begin"):
        SseTransport(URL, "h.test")


# -- other arguments --------------------------------------------------------------------------------------------------


class Provider:
    def headers(self) -> dict[str, str]:
        return {}


@make
@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"headers": ["X: 1"]}, TypeError, "headers must be a mapping"),
        ({"custom_headers": {"X": 1}}, TypeError, "custom_headers must map str to str"),
        ({"headers": {"X": f"{SECRET}\n"}}, ValueError, "headers: the value of the header 'X'"),
        ({"auth_header": 7}, TypeError, "auth_header must map str to str"),
        ({"auth_header": f"Bearer {SECRET}\r\n"}, ValueError, "auth_header: the value"),
        ({"auth_provider": SECRET}, TypeError, "auth_provider must have a method headers(), which str has not"),
        ({"session": SECRET}, TypeError, "session must be a requests.Session, not str"),
        ({"verify_ssl": 1}, TypeError, "verify_ssl must be True, False or a path, not int (1)"),
        ({"ssl_context": True}, TypeError, "ssl_context must be an ssl.SSLContext, not bool"),
        ({"cert": ("a", "b", "c")}, TypeError, "cert must be a file, or a pair of files"),
        ({"cert": 7}, TypeError, "cert must be a file, or a pair of files"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name_and_secrets_are_not_shown(
    make: Any, arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as found:
        make(**arguments)
    assert text in str(found.value)
    assert SECRET not in str(found.value)


@pytest.mark.parametrize("kind", [StreamableHTTPTransport, UrlTransport], ids=lambda kind: kind.__name__)
def test_a_session_to_go_on_with_has_a_name_and_a_version(kind: Any) -> None:
    with pytest.raises(ValueError, match="session_id needs a session_version, one of 2024-11-05"):
        kind(URL, session_id="x")
    with pytest.raises(ValueError, match="session_id: "):
        kind(URL, session_id="x\n", session_version="2025-11-25")


@pytest.mark.parametrize("name", ["SSETransport", "SseTransport"])
def test_where_the_connection_is_the_session_there_is_none_to_go_on_with(name: str) -> None:
    with pytest.raises(TypeError, match="no use for 'session_id'"):
        MAKES[name](session_id="x", session_version="2025-11-25")


def test_a_file_of_authorities_that_is_not_there_is_said_at_once(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="verify_ssl: there is no file or folder"):
        StreamableHTTPTransport(URL, verify_ssl=tmp_path / "none.pem")
    assert StreamableHTTPTransport(URL, verify_ssl=tmp_path)._verify == str(tmp_path)


@make
def test_what_makes_sense_is_taken(make: Any) -> None:
    transport = make(
        headers={"X-One": "1", "X-Two": "2"},
        custom_headers={"X-Two": "3"},
        auth_provider=Provider(),
        session=requests.Session(),
        ssl_context=ssl.create_default_context(),
        cert=(__file__, __file__),
        health_endpoint="/health",
        timeout=3,
    )
    assert transport._passport.headers() == {"X-One": "1", "X-Two": "3"}
    assert transport.timeout == 3.0


def test_the_types_of_the_arguments_can_be_asked_for() -> None:
    assert get_type_hints(http.HttpKnobs)["max_retries"] is int


# -- what is shown ----------------------------------------------------------------------------------------------------


@make
def test_no_repr_shows_a_secret(make: Any) -> None:
    transport = make(headers={"X-Key": SECRET}, auth_header=f"Bearer {SECRET}")
    assert repr(transport) == f"<{type(transport).__name__} {transport.name}>"
    assert SECRET not in repr(transport)
    assert SECRET not in repr(transport._passport)


def test_neither_the_name_nor_an_error_shows_what_is_secret_in_the_url() -> None:
    transport = StreamableHTTPTransport(f"http://joe:{SECRET}@127.0.0.1:9/mcp?token={SECRET}")
    with pytest.raises(MCPConnectionError) as found:
        transport.create_session(5)
    for text in (repr(transport), transport.name, str(found.value), repr(found.value.details)):
        assert SECRET not in text
        assert "joe" not in text


def test_two_transports_share_nothing_that_is_secret() -> None:
    first = StreamableHTTPTransport(URL, auth_header="Bearer one")
    second = StreamableHTTPTransport(URL)
    assert first._passport.headers() == {"Authorization": "Bearer one"}
    assert second._passport.headers() == {}
