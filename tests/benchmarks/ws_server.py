"""The server over WebSocket that every contender talks to: the same canned answers, raw sockets, a thread for each.

It knows the tools of server.py, in the handshake era. What a client masked is unmasked only as far as its id and the
name of its tool go, so a masked megabyte costs the client alone. All requests that one read brings are answered by one
write. It wants a message to be one frame, does not compress, and chooses the subprotocol ``mcp`` where that is offered.
Run it with ``python -I -S``; it prints its port.
"""

import base64
import hashlib
import os
import re
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from server import Answers, find_id, find_tool  # a file beside ours, which -I hides

READ_BYTES = 65536
HEAD_BYTES = 512
"""Where a call has its id and its tool; a multiple of the mask's length."""
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
ACCEPT = b"Sec-WebSocket-Accept: %b\r\n"
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A

find_key = re.compile(rb"\r\nsec-websocket-key: *(\S+)", re.IGNORECASE).search
find_protocols = re.compile(rb"\r\nsec-websocket-protocol: *([^\r]+)", re.IGNORECASE).search


def shake_hands(line):
    """Upgrade the connection; return what came after that."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = line.recv(READ_BYTES)
        if not more:
            raise ConnectionError
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    answer = SWITCHING + ACCEPT % base64.b64encode(hashlib.sha1(find_key(head)[1] + GUID).digest())
    offered = find_protocols(head)
    if offered and b"mcp" in offered[1]:
        answer += b"Sec-WebSocket-Protocol: mcp\r\n"
    line.sendall(answer + b"\r\n")
    return rest


def head_of(kind, size):
    """Return the head of a frame of ours, which has no mask."""
    if size < 126:
        return bytes((kind, size))
    if size < 65536:
        return bytes((kind, 126)) + size.to_bytes(2, "big")
    return bytes((kind, 127)) + size.to_bytes(8, "big")


def bounds_of(data, place):
    """Return where the payload of the frame at ``place`` begins and where it ends; zeros if that cannot be told yet."""
    if len(data) - place < 2:
        return 0, 0
    size = data[place + 1] & 0x7F
    more = {126: 2, 127: 8}.get(size, 0)
    start = place + 2 + more + 4  # behind the mask
    if len(data) < start:
        return 0, 0
    if more:
        size = int.from_bytes(data[place + 2 : place + 2 + more], "big")
    return start, start + size


def unmask(data, mask):
    if not any(mask):
        return data
    size = len(data)
    mask = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")


def batches_on(line, data):
    """Yield what comes at once: for each frame its kind, its mask, and its payload as it came."""
    found, place = [], 0
    while True:
        start, end = bounds_of(data, place)
        if start and end <= len(data):
            found.append((data[place], bytes(data[start - 4 : start]), data[start:end]))
            place = end
            continue
        if found:
            yield found
        need = end - place if start else 0
        data, found, place = data[place:], [], 0
        if need > len(data):
            whole = bytearray(need)
            whole[: len(data)] = data
            size = len(data)
            with memoryview(whole) as view:
                while size < need:
                    count = line.recv_into(view[size:])
                    if not count:
                        return
                    size += count
            data = whole
        else:
            more = line.recv(READ_BYTES)
            if not more:
                return
            data += more


def answer_to(answers, kind, mask, payload):
    """Return the head and the payload of the answer."""
    if kind != TEXT:
        if kind not in (CLOSE, PING):
            raise ValueError(f"a frame of kind {kind:#x} is none that we know")
        return head_of(CLOSE if kind == CLOSE else PONG, len(payload)), unmask(payload, mask)
    head = unmask(payload[:HEAD_BYTES], mask)
    if len(payload) > HEAD_BYTES and not (find_tool(head) and find_id(head)):
        head = unmask(payload, mask)
    answer = answers.to(head)
    return (head_of(TEXT, len(answer)), answer) if answer else (b"", b"")


def send_all(line, parts):
    size = sum(map(len, parts))
    sent = line.sendmsg(parts)
    if sent < size:
        line.sendall(memoryview(b"".join(parts))[sent:])


def serve(line):
    answers = Answers()
    try:
        for batch in batches_on(line, shake_hands(line)):
            parts = [part for frame in batch for part in answer_to(answers, *frame)]
            send_all(line, parts if len(batch) == 1 else [b"".join(parts)])
            if any(kind == CLOSE for kind, _, _ in batch):
                return
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
