"""A server over stdio that tells its secrets wherever it can: the standard library only, the handshake era.

The tool ``work`` is told by its argument ``how`` to do it: see the functions below.
"""

import base64
import json
import os
import sys
import time
import urllib.parse

KNOWN = {name: value for name, value in os.environ.items() if name.startswith("CANARY_")}
TOLD = " ".join(f"{name}={value}" for name, value in KNOWN.items())
ALL = "; ".join(
    [
        *(TOLD, json.dumps(KNOWN), repr(KNOWN), urllib.parse.quote(TOLD), TOLD.encode().hex()),
        *(base64.b64encode(value.encode()).decode() for value in KNOWN.values()),
        *(base64.b64encode(f"user:{value}".encode()).decode() for value in KNOWN.values()),
    ]
)


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def answer(request, **result):
    say(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}))


def stderr_and_death(request):
    """Write it to stderr, and die."""
    for line in (ALL, f"Traceback: KeyError: {TOLD!r}", *KNOWN.values()):
        print(line, file=sys.stderr)
    sys.exit(3)


def a_long_line_and_death(request):
    """Write it at the edges of what is kept of stderr, and die."""
    for at in range(0, 9000, 37):
        print("x" * at + TOLD, file=sys.stderr)
    sys.exit(3)


def crash(request):
    """Crash with a traceback that holds it."""
    raise RuntimeError(ALL)


def noise_and_death(request):
    """Write it to stdout, where it is no message, and die."""
    say(ALL)
    sys.exit(4)


def tell(request):
    """Answer with it."""
    answer(request, content=[{"type": "text", "text": ALL}])


def noise(request):
    """Write it to stdout, and answer."""
    say(ALL)
    answer(request, content=[])


def broken(request):
    """Answer with what is no JSON."""
    say(f'{{"jsonrpc": "2.0", "id": {request["id"]}, "result": {ALL}')


def wrong(request):
    """Answer with what is no answer."""
    say(json.dumps({"jsonrpc": "2.0", "id": request["id"], "told": TOLD}))


def half(request):
    """Answer with half a line, and die."""
    sys.stdout.write(f'{{"jsonrpc": "2.0", "id": {request["id"]}, "result": "{ALL}')
    sys.stdout.flush()
    os._exit(5)


def nothing(request):
    """Say it on stderr, and nothing else."""
    print(ALL, file=sys.stderr, flush=True)


def for_ever(request):
    """Never end by itself."""
    time.sleep(60)


def main():
    for line in sys.stdin:
        request = json.loads(line)
        method, params = request.get("method"), request.get("params") or {}
        if "id" not in request:
            continue
        if method == "initialize":
            about = {"capabilities": {"tools": {}}, "serverInfo": {"name": "telltale", "version": "1"}}
            answer(request, protocolVersion="2025-11-25", **about)
        elif method == "tools/call":
            globals()[params["arguments"]["how"]](request)
        else:
            say(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32601, "message": "no"}}))


main()
