"""The server over HTTP that every contender talks to: canned answers, raw sockets, a thread for each connection.

It speaks both eras, as far as the tools go that it knows:

* ``bench_tiny``: answers a few bytes, as JSON.
* ``bench_stream``: the same as the only event of a stream.
* ``bench_text``: one text block of about ``number`` bytes, as JSON.
* ``bench_notify``: a stream of ``number`` log messages, each an event and a chunk of its own, then a few bytes.
* ``bench_lines``: one event whose JSON is spread over ``number`` lines.

At ``/mcp`` there is no stream of what the server says unasked (405); at ``/stream`` there is one, on which nothing is
said. A call is answered without parsing it: its id and the name of its tool are found in the bytes. Run it with
``python -I -S``; it prints its port.
"""

import json
import re
import socket
import threading

READ_BYTES = 65536
LINE = b"It was the best of times, it was the worst of times, it was the age of wisdom.\\n"
TINY = b'"content":[{"type":"text","text":"3"}]}}'
NOTE = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"%06d"}}'
ID = b"#" * 12
"""Stands for the id in answers that are kept."""
INFO = {"name": "bench", "version": "1"}
CAPABILITIES = {"tools": {}, "logging": {}}
NAMES = ("tiny", "stream", "text", "notify", "lines")
TOOLS = [{"name": f"bench_{name}", "inputSchema": {"type": "object"}} for name in NAMES]

find_length = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE).search
find_id = re.compile(rb'"id":\s*(\d+)').search
find_tool = re.compile(rb'"bench_(tiny|stream|text|notify|lines)"').search
find_number = re.compile(rb'"number":\s*(\d+)').search

HEAD = b"HTTP/1.1 %b\r\nContent-Type: %b\r\n"
JSON = HEAD % (b"200 OK", b"application/json")
STREAM = HEAD % (b"200 OK", b"text/event-stream") + b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
NO_STREAM = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"
SESSION = b"Mcp-Session-Id: 5b1a6e1f0c9d4b0e8f3a\r\n"

kept = {}  # large answers are made once


def as_json(body, more=b""):
    return b"%b%bContent-Length: %d\r\n\r\n%b" % (JSON, more, len(body), body)


def event(data):
    return b"event: message\ndata: %b\n\n" % data


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def as_stream(*parts):
    return b"".join([STREAM, *parts, b"0\r\n\r\n"])


def remember(key, make):
    """Return an answer that was made once, in one piece but for the id: what comes before and after that."""
    if key not in kept:
        kept[key] = make().split(ID)
    return kept[key]


def head_of(number, stateless):
    kind = b'"resultType":"complete",' if stateless else b""
    return b'{"jsonrpc":"2.0","id":%b,"result":{%b' % (number, kind)


def text(size, stateless):
    words = LINE * (size // len(LINE))
    return as_json(head_of(ID, stateless) + b'"content":[{"type":"text","text":"%b"}]}}' % words)


def notes(number, stateless):
    answer = chunk(event(head_of(ID, stateless) + TINY))
    return as_stream(*(chunk(event(NOTE % n)) for n in range(number)), answer)


def lines(number, stateless):
    words = [b'data: "%06d %b",' % (n, LINE[:70]) for n in range(number)]
    start = b"data: " + head_of(ID, stateless) + b'"content":[],"structuredContent":{"lines":['
    return as_stream(chunk(b"\n".join([b"event: message", start, *words, b'data: ""]}}}\n\n'])))


def answer_to(body):
    tool = find_tool(body)
    if not tool:
        return [answer_to_other(json.loads(body))]
    name, number, stateless = tool[1], find_id(body)[1], b"2026-07-28" in body
    if name == b"tiny":
        return [as_json(head_of(number, stateless) + TINY)]
    if name == b"stream":
        return [as_stream(chunk(event(head_of(number, stateless) + TINY)))]
    make = {b"text": text, b"notify": notes, b"lines": lines}[name]
    size = int(find_number(body)[1])
    before, after = remember((name, size, stateless), lambda: make(size, stateless))
    number = number.rjust(len(ID))
    return [before + number, after] if len(before) < READ_BYTES else [before, number + after]


def answer_to_other(message):
    if "id" not in message:
        return ACCEPTED
    method = message["method"]
    if method == "initialize":
        version = message["params"]["protocolVersion"]
        result, more = {"protocolVersion": version, "capabilities": CAPABILITIES, "serverInfo": INFO}, SESSION
    else:
        result = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if _is_stateless(message) else {}
        result |= {"tools": TOOLS} if method == "tools/list" else {}
        if method == "server/discover":
            result |= {"supportedVersions": ["2026-07-28"], "capabilities": CAPABILITIES, "serverInfo": INFO}
        more = b""
    return as_json(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode(), more)


def _is_stateless(message):
    return "_meta" in message.get("params", {})


def requests_on(line):
    """Yield the head and the body of each request."""
    data = line.recv(READ_BYTES)
    while data:
        while b"\r\n\r\n" not in data:
            data += line.recv(READ_BYTES) or b"\r\n\r\n"
        head, _, data = data.partition(b"\r\n\r\n")
        length = find_length(head)
        size = int(length[1]) if length else 0
        while len(data) < size:
            more = line.recv(READ_BYTES)
            if not more:
                return
            data += more
        yield head, data[:size]
        data = data[size:] or line.recv(READ_BYTES)


def serve(line):
    try:
        for head, body in requests_on(line):
            if head.startswith(b"POST"):
                for part in answer_to(body):
                    line.sendall(part)
            elif head.startswith(b"GET /stream"):
                line.sendall(STREAM)
            else:
                line.sendall(NO_STREAM if head.startswith(b"GET") else NO_CONTENT)
    except OSError:
        pass  # hung up
    finally:
        line.close()


def main():
    door = socket.create_server(("127.0.0.1", 0), backlog=1000)
    print(door.getsockname()[1], flush=True)
    while True:
        line, _ = door.accept()
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(line,), daemon=True).start()


if __name__ == "__main__":
    main()
