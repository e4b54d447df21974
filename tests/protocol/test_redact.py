"""No canary survives: in commands, in URLs, in text."""

from __future__ import annotations

import base64
import html
import json
import re
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from house import growth
from mcp_sync.protocol.redact import MASK, mask, names_a_secret, redact_command, redact_url, secrets_of

CANARY = "c4nary"

COMMANDS = {
    "the next word": (["srv", "--token", CANARY, "--port", "80"], ["srv", "--token", MASK, "--port", "80"]),
    "after an equals sign": (["srv", f"--api-key={CANARY}"], ["srv", f"--api-key={MASK}"]),
    "an equals sign in the secret": (["srv", f"--api-key=={CANARY}=="], ["srv", f"--api-key={MASK}"]),
    "a variable": (["env", f"DB_PASSWORD={CANARY}", "srv"], ["env", f"DB_PASSWORD={MASK}", "srv"]),
    "a variable for a container": (
        ["docker", "run", "-e", f"GITHUB_TOKEN={CANARY}", "img"],
        ["docker", "run", "-e", f"GITHUB_TOKEN={MASK}", "img"],
    ),
    "a variable in an option": (["docker", f"--env=API_KEY={CANARY}"], ["docker", f"--env=API_KEY={MASK}"]),
    "a header": (["npx", "--header", f"Authorization: Bearer {CANARY}"], ["npx", "--header", f"Authorization:{MASK}"]),
    "a header with spaces": (["npx", "-H", f"X-Api-Key : {CANARY} {CANARY}"], ["npx", "-H", f"X-Api-Key :{MASK}"]),
    "JSON": (["srv", "--config", f'{{"apiKey":"{CANARY}"}}'], ["srv", "--config", f'{{"apiKey":{MASK}']),
    "a secret with a dash": (["srv", "--password", f"-{CANARY}"], ["srv", "--password", MASK]),
    "two options": (["srv", "--secret", "--password", CANARY], ["srv", "--secret", "--password", MASK]),
    "upper case": (["srv", "--TOKEN", CANARY], ["srv", "--TOKEN", MASK]),
    "a URL": (["srv", f"https://me:{CANARY}@host/db"], ["srv", "https://host/db"]),
    "a URL in an option": (["srv", f"--db=postgres://me:{CANARY}@host/db"], ["srv", "--db=postgres://host/db"]),
    "a URL with a secret in both places": (
        ["srv", f"https://me:{CANARY}@host/?token={CANARY}"],
        ["srv", f"https://host/?{MASK}"],
    ),
    "a line in the secret": (["srv", f"--token=a\n{CANARY}"], ["srv", f"--token={MASK}"]),
}


@pytest.mark.parametrize(("argv", "shown"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_is_shown_without_its_secrets(argv: list[str], shown: list[str]) -> None:
    assert redact_command(argv) == shown
    assert CANARY not in " ".join(redact_command(argv))


@pytest.mark.parametrize(
    "argv",
    [[], ["python", "-m", "server", "--port", "80"], ["npx", "-y", "pkg@1.2", "/srv/data"], ["srv", "--name=x=y"]],
    ids=" ".join,
)
def test_a_command_without_secrets_is_shown_as_it_is(argv: list[str]) -> None:
    assert redact_command(argv) == argv


options = st.sampled_from(["--token", "--password", "--api-key", "--client-secret", "--auth", "-credential"])
glue = st.sampled_from([None, "=", ":", ": ", "=Bearer "])
canaries = st.text("abcdef0123456789+/=_.", min_size=1, max_size=12).map(lambda tail: f"{CANARY}{tail}{CANARY}")


@given(st.lists(st.tuples(options, glue, canaries), min_size=1, max_size=4))
def test_no_canary_survives_in_a_command(parts: list[tuple[str, str | None, str]]) -> None:
    argv = ["srv"]
    for option, between, secret in parts:
        argv += [option, secret] if between is None else [f"{option}{between}{secret}"]
    assert CANARY not in " ".join(redact_command(argv))


URLS = {
    "https://host/path": "https://host/path",
    "https://host:8443/a/b": "https://host:8443/a/b",
    f"https://{CANARY}@host/": "https://host/",
    f"https://me:{CANARY}@host:1/x": "https://host:1/x",
    f"https://me:p@{CANARY}@host/x": "https://host/x",
    f"https://host/x?key={CANARY}": f"https://host/x?{MASK}",
    f"https://host?{CANARY}": f"https://host?{MASK}",
    f"https://host/x#access={CANARY}": f"https://host/x#{MASK}",
    f"https://host/x?a=1#{CANARY}": f"https://host/x?{MASK}#{MASK}",
    f"WSS://me:{CANARY}@host": "WSS://host",
    f"redis+tls://:{CANARY}@host/0": "redis+tls://host/0",
    f"neither http://u:{CANARY}@a/ nor http://v:{CANARY}@b/ answers": "neither http://a/ nor http://b/ answers",
    "mail me@host": "mail me@host",
    "https://host/@scope/package": "https://host/@scope/package",
}


@pytest.mark.parametrize(("text", "shown"), URLS.items(), ids=URLS)
def test_a_url_is_shown_without_what_may_be_secret(text: str, shown: str) -> None:
    assert redact_url(text) == shown


user_parts = st.text("abz09-._~!$&'()*+,;=%:@", max_size=8)


@given(user_parts, user_parts, st.sampled_from(["", "/", "/a@b", "?q", "#f"]))
def test_no_canary_survives_before_the_host_of_a_url(before: str, after: str, rest: str) -> None:
    assert CANARY not in redact_url(f"https://{before}{CANARY}{after}@host{rest}")


@pytest.mark.parametrize(
    "name",
    [
        "PASSWORD",
        "DB_PWD",
        "passphrase",
        "GITHUB_TOKEN",
        "X-Api-Key",
        "AWS_SECRET_ACCESS_KEY",
        "--auth",
        "Cookie",
        "JWT",
    ],
)
def test_a_name_may_say_that_a_secret_follows(name: str) -> None:
    assert names_a_secret(name)


@pytest.mark.parametrize("name", ["PATH", "HOME", "--port", "LANG", "KEYBOARD", "USER"])
def test_most_names_do_not(name: str) -> None:
    assert not names_a_secret(name)


def test_the_secrets_of_an_environment_are_the_long_values_of_telling_names() -> None:
    variables = {"API_KEY": "abcdef", "TOKEN": "abcdefgh", "AUTH": "short", "HOME": "/home/me", "PASSWORD": "abcdef"}
    assert secrets_of(variables) == ["abcdefgh", "abcdef"]


@given(
    st.lists(st.sampled_from(["", "c4", "c4nary", "c4nary-long", "x"]), max_size=5),
    st.text("c4nary-longx ", max_size=30),
)
def test_no_secret_is_left_in_masked_text_whatever_their_order(secrets: list[str], text: str) -> None:
    shown = mask(text, secrets)
    assert not any(secret in shown for secret in secrets if secret)


def test_a_secret_that_begins_like_another_leaves_no_rest() -> None:
    assert mask("key c4nary-long!", ["c4nary", "c4nary-long"]) == f"key {MASK}!"


def test_an_empty_secret_masks_nothing() -> None:
    assert mask("text", [""]) == "text"


WRITTEN = {
    "percent": lambda text: quote(text, safe=""),
    "percent in lower case": lambda text: re.sub("%..", lambda byte: byte[0].lower(), quote(text)),
    "percent, twice": lambda text: quote(quote(text, safe=""), safe=""),
    "of a form": quote_plus,
    "JSON": lambda text: json.dumps({"key": text}),
    "JSON beyond ASCII": lambda text: json.dumps({"key": text}, ensure_ascii=False),
    "JSON in JSON": lambda text: json.dumps({"log": json.dumps({"key": text})}),
    "Python": lambda text: repr([text, text.encode()]),
    "HTML": lambda text: html.escape(f"<{text}>"),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64 behind a user": lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
    "base64 behind another": lambda text: base64.b64encode(f"user1:{text}?".encode()).decode(),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal in upper case": lambda text: text.encode().hex().upper(),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("secret", ["s3cr3t-t0ken_~.x", 'p@ss/w+rd "ü\U0001f600&<%', "back\\slash'quote"])
def test_a_secret_is_masked_however_it_is_written(name: str, secret: str) -> None:
    written = WRITTEN[name](secret)
    shown = mask(f"before {written} after", [secret])
    assert secret not in shown
    assert written not in shown
    assert len(shown) < len(written) + 10 if name.startswith("base64") else MASK in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")


def test_a_short_secret_is_masked_only_as_it_is() -> None:
    assert mask("x 78 eA== %78", ["x"]) == f"{MASK} 78 eA== %78"


def test_to_mask_many_lines_does_not_take_long() -> None:
    secrets = [f"secret-{n}/of+{n}" * 10 for n in range(10)]
    line = "INFO nothing to be seen here " * 4
    few, many = (lambda n=n: [mask(line, secrets) for _ in range(n)] for n in (500, 2000))
    growth.at_most(few, many, times=8)
