"""The server that every contender talks to: canned answers, as fast as the standard library allows.

It knows three tools:

* ``bench_tiny``: answers a few bytes; whatever the arguments, however large, nobody looks at them.
* ``bench_text``: one text block of about ``number`` bytes.
* ``bench_notify``: ``number`` log messages in one write, then a few bytes.

A call is answered without parsing it: its id and the name of its tool are found in the bytes. All requests that one
read brings are answered by one write. Run it with ``python -I -S``, and the numbers of the CPUs that it may use.
"""

import json
import os
import re
import sys

READ_BYTES = 65536
LINE = b"It was the best of times, it was the worst of times, it was the age of wisdom.\\n"
TINY = b'"content":[{"type":"text","text":"3"}]}}\n'
NOTE = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"%06d"}}\n'
ID_PLACE = slice(len(b'{"jsonrpc":"2.0","id":'), len(b'{"jsonrpc":"2.0","id":') + 12)
INFO = {"name": "bench", "version": "1"}
CAPABILITIES = {"tools": {}, "logging": {}}
TOOLS = [{"name": f"bench_{name}", "inputSchema": {"type": "object"}} for name in ("tiny", "text", "notify")]

find_id = re.compile(rb'"id":\s*(\d+)').search
find_tool = re.compile(rb'"bench_(tiny|text|notify)"').search
find_number = re.compile(rb'"number":\s*(\d+)').search


class Answers:
    """What is said to which line; large answers are made once and kept."""

    def __init__(self):
        self.kind = b""  # the stateless era wants to know what kind of result each is
        self.kept = {}

    def to(self, line):
        tool = find_tool(line)
        if not tool:
            return self.to_other(line)
        name = tool[1]
        if name == b"text":
            return self.text(int(find_number(line)[1]), int(find_id(line)[1]))
        answer = b'{"jsonrpc":"2.0","id":%b,"result":{%b%b' % (find_id(line)[1], self.kind, TINY)
        return answer if name == b"tiny" else self.notes(int(find_number(line)[1])) + answer

    def text(self, size, number):
        """Return lines of words, as tools send them; the id is put into its place, so that nothing is copied."""
        kept = self.kept.get(size)
        if kept is None:
            text = LINE * (size // len(LINE))
            head = b'{"jsonrpc":"2.0","id":%12d,"result":{%b"content":[{"type":"text","text":"' % (0, self.kind)
            kept = self.kept[size] = bytearray(b'%b%b"}]}}\n' % (head, text))
        kept[ID_PLACE] = b"%12d" % number
        return kept

    def notes(self, number):
        if number not in self.kept:
            self.kept[number] = b"".join([NOTE % n for n in range(number)])
        return self.kept[number]

    def to_other(self, line):
        message = json.loads(line)
        if "id" not in message:
            return b""
        return json.dumps({"jsonrpc": "2.0", "id": message["id"], **self.answer(message)}).encode() + b"\n"

    def answer(self, message):
        method = message["method"]
        if method == "initialize":
            version = message["params"]["protocolVersion"]
            return {"result": {"protocolVersion": version, "capabilities": CAPABILITIES, "serverInfo": INFO}}
        if method == "server/discover":
            self.kind = b'"resultType":"complete",'
            versions = ["2026-07-28"]
            found = {"supportedVersions": versions, "capabilities": CAPABILITIES, "serverInfo": INFO}
            return {"result": {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", **found}}
        if method == "tools/list":
            cache = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if self.kind else {}
            return {"result": {"tools": TOOLS, **cache}}
        return {"error": {"code": -32601, "message": method}}


def write_all(data):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def main():
    answers = Answers()
    parts = []  # of a line that is not complete
    while chunk := os.read(0, READ_BYTES):
        if b"\n" not in chunk:
            parts.append(chunk)
            continue
        lines = chunk.split(b"\n")
        if parts:
            lines[0] = b"".join([*parts, lines[0]])
            parts = []
        if rest := lines.pop():
            parts.append(rest)
        found = [answers.to(line) for line in lines]
        write_all(found[0] if len(found) == 1 else b"".join(found))


if __name__ == "__main__":
    if sys.argv[1:]:
        os.sched_setaffinity(0, map(int, sys.argv[1:]))
    main()
