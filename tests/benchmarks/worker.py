"""One contender in a process of its own: reads orders as lines of JSON, answers each with times.

::

    python worker.py <module> <class> <server as JSON>

The server is a command, a URL, or what a container is made of. An order is ``{"case": "calls", "n": 100, ...}``;
further members are the arguments of the case. The first has the ``era`` too, for the connection that is made then and
lives until stdin ends. The answer is what the case returns, or ``{"error": "..."}``.
"""

import importlib
import json
import sys


def main(module, name, server):
    contender = getattr(importlib.import_module(f"contenders.{module}"), name)(json.loads(server))
    contender.serve(map(json.loads, sys.stdin), lambda answer: print(json.dumps(answer), flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
