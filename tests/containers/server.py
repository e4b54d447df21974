"""The program in the test container: the Partner, with more that it does when it is asked.

===========  ===========================================================================================================
environment  answers with ``{name: value}`` of its variables
read         answers with ``{text}`` of the file ``{path}``, or ``{error}``
write        writes ``{text}`` to ``{path}``: ``{}``, or ``{error}``
interfaces   answers with the ``{names}`` of its network interfaces
listen       listens on ``{port}`` and says hello to whoever comes
reach        answers whether ``{host, port}`` can be reached: ``{}`` or ``{error}``
status       answers with what the kernel says of its process: ``{name: value}``
fork         starts processes until the kernel refuses or there are ``{most}``: ``{count}``
allocate     takes ``{mb}`` MiB of memory
chatter      writes ``{count}`` lines to stderr and one to stdout, then answers
stubborn     from now on neither the end of stdin nor SIGTERM ends it
kill         kills itself by signal ``{number}``
===========  ===========================================================================================================

With an argument it does one of these before anything else: ``exit 3 words``, ``silent``, ``mute`` (reads nothing).
"""

import os
import signal
import socket
import sys
import threading
import time

sys.path.insert(0, "/srv")

from partner import Partner, StdioWire


class Contained(Partner):
    """The Partner in a container."""

    def __init__(self, wire):
        super().__init__(wire)
        self._methods.update(
            environment=lambda id_, _: self._answer(id_, dict(os.environ)),
            read=self._read,
            write=self._write,
            interfaces=lambda id_, _: self._answer(id_, {"names": sorted(os.listdir("/sys/class/net"))}),
            listen=self._listen,
            reach=self._reach,
            status=self._status,
            fork=self._fork,
            allocate=self._allocate,
            chatter=self._chatter,
            stubborn=self._stubborn,
            kill=lambda _, params: os.kill(os.getpid(), params["number"]),
        )
        self.stubborn = False

    def _read(self, id_, params):
        try:
            with open(params["path"]) as file:
                self._answer(id_, {"text": file.read()})
        except OSError as error:
            self._answer(id_, {"error": error.strerror})

    def _write(self, id_, params):
        try:
            with open(params["path"], "w") as file:
                file.write(params["text"])
            self._done(id_)
        except OSError as error:
            self._answer(id_, {"error": error.strerror})

    def _listen(self, id_, params):
        listener = socket.create_server(("", params["port"]))

        def serve():
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"hello")

        threading.Thread(target=serve, daemon=True).start()
        self._done(id_)

    def _reach(self, id_, params):
        try:
            socket.create_connection((params["host"], params["port"]), timeout=2).close()
            self._done(id_)
        except OSError as error:
            self._answer(id_, {"error": str(error)})

    def _status(self, id_, params):
        with open("/proc/self/status") as file:
            fields = dict(line.rstrip().split(":\t", 1) for line in file if ":\t" in line)
        with open("/proc/1/comm") as file:
            fields["init"] = file.read().strip()
        self._answer(id_, fields)

    def _fork(self, id_, params):
        children = []
        try:
            while len(children) < params["most"]:
                child = os.fork()
                if not child:
                    time.sleep(60)
                    os._exit(0)
                children.append(child)
        except OSError:
            pass
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self._answer(id_, {"count": len(children)})

    def _allocate(self, id_, params):
        os.write(2, b"about to allocate\n")
        taken = bytearray(params["mb"] << 20)
        for place in range(0, len(taken), 4096):
            taken[place] = 1
        self._done(id_)

    def _chatter(self, id_, params):
        for number in range(params["count"]):
            os.write(2, b"chatter %d %s\n" % (number, b"." * 80))
        os.write(1, b"no message\n")
        self._done(id_)

    def _stubborn(self, id_, params):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.stubborn = True
        self._done(id_)


def main():
    """Do what the arguments say, then serve."""
    words = sys.argv[1:]
    if words[:1] == ["exit"]:
        os.write(2, " ".join(words[2:]).encode() + b"\n")
        os._exit(int(words[1]))
    if words[:1] == ["silent"]:
        time.sleep(600)
    if words[:1] == ["mute"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    partner = Contained(StdioWire())
    partner.run() if not words else None
    while partner.stubborn:
        time.sleep(600)
    os._exit(0)


main()
