"""A small MCP server over stdio that behaves, but for what it is told: the standard library only, up in 20 ms.

    python -I -S server.py '{"era": "handshake", "on": {"work": ["exit", {"code": 3}]}, "log": "FILE"}'

``era`` is ``handshake`` (it refuses server/discover) or ``stateless`` (it refuses initialize). ``on`` names what it
does instead of a plain answer when a method, or the tool of that name, is asked for; the manners are the functions
below, up to ``MANNERS``. Every tool without one answers with its arguments; ``pid`` with what is known of the process.
Every message that arrives is noted in the file ``log``, one a line: its method, and its id or the id it cancels.
"""

import heapq
import itertools
import json
import os
import select
import signal
import sys
import time

LIFETIME = 90  # seconds, whatever happens
BLOCK = 65536
FOREVER = 3600.0

about = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
era, on = about.get("era", "handshake"), about.get("on", {})
noted = os.open(about["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT) if "log" in about else -1
due = []  # a heap of (when, number, bytes)
numbers = itertools.count()
family = []  # the children we have


def write(data):
    data = memoryview(data)
    while data:
        data = data[os.write(1, data) :]


def say(data, seconds=0.0):
    heapq.heappush(due, (time.monotonic() + seconds, next(numbers), data))


def line(**message):
    return json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"


def answered(request, payload=None, **more):
    result = {"content": [{"type": "text", "text": json.dumps(payload)}], **more}
    return line(id=request["id"], result={"resultType": "complete", **result} if era == "stateless" else result)


def arguments(request):
    return (request.get("params") or {}).get("arguments") or {}


def token(request):
    return ((request.get("params") or {}).get("_meta") or {}).get("progressToken")


def raw(text, request):
    """The bytes of a text in which one character stands for one byte, with the request's id put in.

    A list holds pairs: a text, and how often it comes.
    """
    if isinstance(text, list):
        return b"".join(raw(part, request) * times for part, times in text)
    return text.replace("$ID", str(request["id"])).encode("latin-1")


# -- manners: each is given the request, and the parameters that stand beside its name ---------------------------------


def answer(request, seconds=0.0, times=1, **payload):
    """Answer, perhaps late, perhaps twice."""
    for _ in range(times):
        say(answered(request, payload or arguments(request)), seconds)


def silent(request):
    """Say nothing."""


def says(request, texts, then=True):
    """Write these texts as they are; and then, perhaps, the answer."""
    write(b"".join(raw(text, request) for text in texts))
    if then:
        answer(request)


def later(request, texts, seconds):
    """Write these texts, each so many seconds after the one before."""
    for number, text in enumerate(texts, 1):
        say(raw(text, request), number * seconds)


def exit(request, code=0, text="", words="last words\n"):
    """Leave, with something on stdout and something on stderr."""
    write(raw(text, request))
    os.write(2, words.encode())
    os._exit(code)


def killed(request, number=9, text="", words="last words\n"):
    """Be killed."""
    write(raw(text, request))
    os.write(2, words.encode())
    os.kill(os.getpid(), number)
    time.sleep(FOREVER)


def mute(request):
    """Close stdout, and live on."""
    os.write(2, b"last words\n")
    os.close(1)
    time.sleep(FOREVER)


def hush(request):
    """Close stderr, and answer."""
    os.close(2)
    answer(request)


def orphaning(request, code=5, ignores=False):
    """Leave a child that holds the pipes, and exit."""
    beget(ignores)
    exit(request, code)


def parent(request, count=1, ignores=False, escapes=False):
    """Have children that hold the pipes, and answer with their numbers."""
    for _ in range(count):
        beget(ignores, escapes)
    answer(request, pid=os.getpid(), family=family)


def beget(ignores, escapes=False):
    child = os.fork()
    if child:
        family.append(child)
        return
    signal.alarm(LIFETIME)
    if ignores:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if escapes:
        os.setsid()
    while True:
        time.sleep(FOREVER)


def deaf(request):
    """Answer, and read no more."""
    write(answered(request, {}))
    time.sleep(FOREVER)


def deaf_for(request, seconds):
    """Answer, and read no more for so long."""
    write(answered(request, {}))
    time.sleep(seconds)


def deaf_flood(request, method="notifications/flood"):
    """Answer, read no more, and never stop talking."""
    write(answered(request, {}))
    block = line(method=method, params={"x": "y" * 100}) * 400
    while True:
        write(block)


def long(request, size):
    """Answer with a text of so many bytes."""
    write(answered(request, "x" * size))


def endless(request, text='{"jsonrpc": "2.0", "id": $ID, "result": {"content": [{"type": "text", "text": "'):
    """Begin an answer that never ends."""
    write(raw(text, request))
    while True:
        write(b"x" * BLOCK)


def drip(request, seconds=0.01, rest=False):
    """Answer one byte at a time; without the rest it never comes to an end."""
    data = answered(request, "drip, drip, drip" * 20)
    for number, byte in enumerate(data if rest else data[:-10]):
        say(bytes([byte]), number * seconds)


def stall(request, share=0.5):
    """Write the beginning of the answer."""
    data = answered(request, "x" * 2000)
    write(data[: int(len(data) * share)])


def progress(request, times, seconds=0.0, then=False):
    """Report progress without end, or end."""
    for number in range(1, times + 1):
        params = {"progressToken": token(request), "progress": number}
        say(line(method="notifications/progress", params=params), number * seconds)
    if then:
        answer(request, (times + 1) * seconds)


def flood(request, count, method, params=None, ask=False):
    """Send so many notifications, or requests, and answer."""
    for begin in range(0, count, 500):
        numbers_ = range(begin, min(begin + 500, count))
        ids = [{"id": f"q{number}"} if ask else {} for number in numbers_]
        sent = [dict(params or {}, n=number) for number in numbers_]
        write(b"".join(line(method=method, params=p, **i) for p, i in zip(sent, ids, strict=True)))
    write(answered(request, {"sent": count}))


def babble(request, count, size=BLOCK):
    """Write so many bytes to stderr, and answer."""
    block = (b"x" * 99 + b"\n") * (size // 100)
    for _ in range(count // len(block)):
        data = memoryview(block)
        while data:
            data = data[os.write(2, data) :]
    os.write(2, b"done\n")
    write(answered(request, {"written": count}))


def unkillable(request, eof=True, term=True, stop=False, spin=False):
    """Answer with our number, and live as long as we can."""
    if term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write(answered(request, {"pid": os.getpid(), "family": family}))
    if stop:
        os.kill(os.getpid(), signal.SIGSTOP)
    while spin:
        pass
    while eof:
        time.sleep(FOREVER)


def structured(request, value=42):
    """Answer with structured content, for which a careful client looks up the tool's schema."""
    write(answered(request, {"value": value}, structuredContent={"value": value}))


def version(request, name="2099-01-01"):
    """Agree to a version that nobody knows."""
    result = {"protocolVersion": name, "supportedVersions": [name], "capabilities": {}, "serverInfo": {}}
    write(line(id=request["id"], result=result))


def refuse(request, code=-32601, message="no", data=None):
    """Answer with an error."""
    error = {"code": code, "message": message}
    say(line(id=request["id"], error=error if data is None else {**error, "data": data}))


def asks(request, method, params=None):
    """Ask the client something, and answer with its answer."""
    write(line(id="asked", method=method, params=params or {}))
    waiting.append(request)


MANNERS = {name: value for name, value in list(globals().items()) if callable(value) and value.__doc__}
waiting = []  # requests that are answered when the client has answered us


# -- what a good server does -------------------------------------------------------------------------------------------


def greet(request):
    info = {"capabilities": {"tools": {}, "logging": {}}, "serverInfo": {"name": "faults", "version": "1"}}
    if request["method"] == "initialize" and era == "handshake":
        say(line(id=request["id"], result={"protocolVersion": "2025-11-25", **info}))
    elif request["method"] == "server/discover" and era == "stateless":
        say(line(id=request["id"], result={"supportedVersions": ["2026-07-28"], **info}))
    else:
        refuse(request)


def knows(request):
    """What is asked for: a manner's name and parameters, by the tool or else by the method."""
    tool = (request.get("params") or {}).get("name") if request["method"] == "tools/call" else None
    return on.get(tool) or on.get(request["method"])


def receive(message):
    params = message.get("params") or {}
    if noted >= 0:
        which = params.get("requestId") if message.get("method") == "notifications/cancelled" else message.get("id")
        os.write(noted, f"{message.get('method', 'answer')} {which}\n".encode())
    if "method" not in message:
        if message.get("id") == "asked" and waiting:
            answer(waiting.pop(), answer=message.get("result") or message.get("error"))
    elif "id" not in message:
        return
    elif manner := knows(message):
        MANNERS[manner[0]](message, **(manner[1] if len(manner) > 1 else {}))
    elif message["method"] == "tools/call":
        known = params.get("name") == "pid"
        answer(message, **({"pid": os.getpid(), "session": os.getsid(0), "family": family} if known else {}))
    elif message["method"] == "tools/list":
        say(line(id=message["id"], result={"tools": []}))
    elif message["method"] == "ping":
        say(line(id=message["id"], result={}))
    else:
        greet(message)


def pending():
    """Seconds until something is to be said; 0 while there is, None where there is nothing."""
    while due and due[0][0] <= time.monotonic():
        batch = []
        while due and due[0][0] <= time.monotonic() and len(batch) < 100:
            batch.append(heapq.heappop(due)[2])
        write(b"".join(batch))
    return max(0.0, due[0][0] - time.monotonic()) if due else None


def serve():
    """Until the end of stdin."""
    pieces, size, fatal = [], 0, about.get("dies_at")
    while True:
        if not select.select([0], [], [], pending())[0]:
            continue
        chunk = os.read(0, BLOCK)
        if not chunk:
            return
        size += len(chunk)
        if fatal is not None and size > fatal:
            killed({"id": 0})
        pieces.append(chunk)
        if b"\n" in chunk:
            *lines, rest = b"".join(pieces).split(b"\n")
            pieces, size = [rest], len(rest)
            for each in lines:
                receive(json.loads(each))


def main():
    signal.alarm(LIFETIME)
    if about.get("before"):
        manner, *parameters = about["before"]
        MANNERS[manner]({"id": 0}, **(parameters[0] if parameters else {}))
    try:
        serve()
    except BrokenPipeError:
        pass  # the client is gone


main()
