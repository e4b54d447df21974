"""All fuzz targets: what there is to run, and what makes their inputs interesting (FAULTS.md, section 8).

A target is a function of bytes that raises where there is a flaw, and says in its docstring what would be one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fuzz import clients, messages, patterns, replies, servers, sockets, streams, texts

CORPUS = Path(__file__).resolve().parent / "corpus"

MARK = b"\xef\xbb\xbf"
JSON_WORDS = (
    *(b'"jsonrpc":"2.0"', b'"id":', b'"method":', b'"result":{}', b'"error":', b'"params":{', b"{", b"}", b"[", b"]"),
    *(b"\\u0022", b'\\"', b"\\\\", b"\\ud800", b"null", b"true", b"NaN", b"1e999", b"-0", b"1.0", MARK, b"\n"),
)
EVENT_WORDS = (b"data:", b"data: ", b"event: ", b"id: ", b"retry: 5", b"\n\n", b"\r\n\r\n", b"\r", MARK, b":", b"\0")
HEADER_WORDS = (
    *(b"application/json", b"text/event-stream", b"; charset=utf-8", b"*/*;q=0", b"2026-07-28", b"2025-11-25"),
    *(b"tools/call", b"=?base64?", b"?=", b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"http://"),
)
HTTP_WORDS = (b"HTTP/1.1 200 OK\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n", b"; ")
URL_WORDS = (b"https://", b"home.example", b"@", b":443", b"//", b"\\", b"%2f", b"[::1]", b"..", b"?", b"#", b"xn--")
FRAME_WORDS = (b"\x81\x05hello", b"\x88\x02\x03\xe8", b"\x89\x00", b"\xc1", b"\x01", b"\n")
MASKED_WORDS = (b"\x81\x85", b"\x88\x80\0\0\0\0")


@dataclass(frozen=True)
class Target:
    """Something to fuzz.

    Attributes:
        function: The target.
        longest: Bytes of its inputs at most.
        words: What its inputs often hold.
        examples: How many inputs the short run makes up; the dear ones fewer.
        threads: Whether it starts some, and so takes its time.
    """

    function: Callable[[bytes], None]
    longest: int = 512
    words: tuple[bytes, ...] = ()
    examples: int = 150
    threads: bool = False

    @property
    def name(self) -> str:
        """What it is called."""
        return self.function.__name__

    @property
    def corpus(self) -> Path:
        """Where its inputs are kept."""
        return CORPUS / self.name

    def inputs(self) -> list[Path]:
        """Return the files of its corpus."""
        return sorted(path for path in self.corpus.glob("*") if path.is_file())


def _by_name(targets: Iterable[Target]) -> dict[str, Target]:
    return {target.name: target for target in targets}


TARGETS = _by_name(
    [
        Target(streams.lines, words=(b"\n", b"\r\n", b" \t", b"x" * 31)),
        Target(streams.sse, words=EVENT_WORDS),
        Target(streams.websocket_frames, words=FRAME_WORDS),
        Target(streams.docker_streams, words=(b"\x01\0\0\0\0\0\0\x05hello", b"\x02\0\0\0", b"\0\0\0\0")),
        Target(streams.compression, words=(b"permessage-deflate", b"server_no_context_takeover", b"; ", b"=15", b"\n")),
        Target(messages.messages, words=JSON_WORDS),
        Target(messages.unsayable, longest=300, words=JSON_WORDS),
        Target(messages.salvage, words=JSON_WORDS),
        Target(texts.response_heads, longest=256, words=(*HEADER_WORDS, *URL_WORDS)),
        Target(replies.http_replies, words=HTTP_WORDS),
        Target(texts.request_heads, words=(*HEADER_WORDS, *JSON_WORDS)),
        Target(texts.url_origins, longest=256, words=URL_WORDS),
        Target(texts.redactor, longest=256, words=(b"--token", b"=", b"https://", b"\n", *URL_WORDS)),
        Target(patterns.uri_templates, longest=256, words=(b"{x}", b"{+y}", b"/", b"%2f", b"..", b"?q=", b"\n")),
        Target(patterns.json_schemas, longest=256, words=(b"\n",)),
        Target(patterns.sealed_state, longest=256, words=(b"\n", b"v1.", b"=", b".")),
        Target(sockets.socket_lines, longest=128, words=(b"000", b"100", b"02", b"12"), examples=40),
        Target(servers.server_conversation, words=JSON_WORDS, examples=25, threads=True),
        Target(servers.wsgi_requests, words=(*JSON_WORDS, *HEADER_WORDS), examples=150, threads=True),
        Target(servers.websocket_requests, words=(*JSON_WORDS, *MASKED_WORDS), examples=20, threads=True),
        Target(clients.client_and_faults, longest=64, words=JSON_WORDS, examples=25, threads=True),
    ]
)
