"""A forked child keeps nothing of its parent's connections over HTTP."""

from __future__ import annotations

from faults.http_tools import serving
from faults.tools import host

PROGRAM = """
import socket, warnings
faulthandler.cancel_dump_traceback_later()
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from mcp_sync import Client
url = COMMAND[0]
port = int(url.rsplit(":", 1)[1].partition("/")[0])

def lines():
    found = 0
    for name in os.listdir("/dev/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as line:
                found += line.getpeername()[1] == port
        except OSError:
            pass
    return found

client = Client(url, timeout=5).connect()
assert client.call_tool("echo", {"a": 1}).text
assert lines()
pid = os.fork()
if not pid:
    os._exit(lines())
print("of the parent's lines the child has", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(client.call_tool("echo", {"a": 2}).text)
client.close()
"""


def test_a_forked_child_has_no_copy_of_the_parents_sockets() -> None:
    """I14: or the server would take a connection for open that the parent has closed."""
    with serving("stateless") as (_, server):
        lines = host(PROGRAM, server.url, stderr=None)
    assert lines == ["of the parent's lines the child has 0", '{"a": 2}']
