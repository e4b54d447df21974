"""A tiny MCP server over stdio for the host tests: the standard library only, one thread, up in 20 ms.

    python -I -S server.py FOLDER [WORD ...]

While it lives it holds a lock on a file of its own in FOLDER, so that a test can tell, without process numbers, whether
a server is left, and end it. Words change its manners:

    handshake       it does not know server/discover, only initialize
    deaf            the end of stdin and SIGTERM mean nothing to it
    linger=SECONDS  it lives on for so long after the end of stdin, and then notes its farewell in its file
    late=SECONDS    it answers the first question only after so long
    chatty          it writes a line to stderr at the start, and one for each call
"""

import fcntl
import heapq
import itertools
import json
import os
import select
import signal
import sys
import time

LIFETIME = 90  # seconds, whatever happens
TOOLS = ("add", "slow", "hang", "hold", "notify", "die", "whoami")
OBJECT = {"type": "object"}

folder, words = sys.argv[1], dict(word.partition("=")[::2] for word in sys.argv[2:])
due = []  # a heap of (when, number, message)
numbers = itertools.count()


def say(message, seconds=0.0):
    heapq.heappush(due, (time.monotonic() + seconds, next(numbers), message))


def answer(request, result, seconds=0.0):
    say({"jsonrpc": "2.0", "id": request["id"], "result": {"resultType": "complete", **result}}, seconds)


def refuse(request, code, message):
    say({"jsonrpc": "2.0", "id": request["id"], "error": {"code": code, "message": message}})


def log(line):
    if "chatty" in words:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def call(request):
    name, arguments = request["params"]["name"], request["params"].get("arguments") or {}
    log("called " + name)
    text, seconds = "", 0.0
    if name == "hang":
        return
    if name == "hold":
        words["held"] = ""
    if name == "die":
        os._exit(arguments.get("code", 3))
    if name == "slow":
        seconds, text = arguments["seconds"], "slept"
    elif name == "add":
        text = str(arguments["a"] + arguments["b"])
    elif name == "whoami":
        text = json.dumps({"pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0)})
    elif name == "notify":
        notify(request, arguments["n"])
    answer(request, {"content": [{"type": "text", "text": text}]}, seconds)


def notify(request, n):
    token = (request["params"].get("_meta") or {}).get("progressToken")
    for step in range(1, n + 1):
        params = {"level": "info", "data": step}
        say({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
        if token is not None:
            params = {"progressToken": token, "progress": step, "total": n}
            say({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})


def receive(message):
    method = message.get("method")
    if "id" not in message or method is None:
        return
    about = {"capabilities": {"tools": {}, "logging": {}}, "serverInfo": {"name": "hosts", "version": "1"}}
    patience = float(words.pop("late", 0))
    if method == "server/discover" and "handshake" not in words:
        answer(message, {**about, "supportedVersions": ["2026-07-28"]}, patience)
    elif method == "initialize":
        answer(message, {**about, "protocolVersion": "2025-11-25"}, patience)
    elif method == "tools/list":
        answer(message, {"tools": [{"name": name, "inputSchema": OBJECT} for name in TOOLS]})
    elif method == "tools/call":
        call(message)
    elif method == "ping":
        answer(message, {})
    else:
        refuse(message, -32601, "no such method")


def write(message):
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def serve():
    """Until the end of stdin."""
    buffer = b""
    while True:
        while due and due[0][0] <= time.monotonic():
            write(heapq.heappop(due)[2])
        ears = [] if "held" in words and not due else [0]
        if not select.select(ears, [], [], max(0.0, due[0][0] - time.monotonic()) if due else None)[0]:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            return
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            receive(json.loads(line))


def main():
    signal.alarm(LIFETIME)
    if "deaf" in words:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(os.path.join(folder, str(os.getpid())), "w") as life:
        fcntl.flock(life, fcntl.LOCK_EX)
        log("ready")
        try:
            serve()
        except BrokenPipeError:
            pass  # the client is gone
        while "deaf" in words:
            signal.pause()
        if "linger" in words:
            time.sleep(float(words["linger"]))
            life.write("farewell")


main()
