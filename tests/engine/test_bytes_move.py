"""The bytes of clients move in two functions of C and two methods of Connection: nothing else receives or
sends on a client's socket."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

import forkd

ROOT = Path(forkd.__file__).parent
FOLDERS = ("app", "engine", "models", "native", "session")
NAMES = {
    "recv", "recvfrom", "recvmsg", "recv_into", "recvfrom_into", "recvmsg_into", "send", "sendall",
    "sendto", "sendmsg", "sendfile", "send_fds", "recv_fds", "splice",
}  # fmt: skip

MOVES = "this is where they move"
LOOKS = "looks whether something has come, and leaves it there"
#: By file and expression: how often it stands there, and why it may.
EXEMPT = {
    ("engine/connection.py", "self.sock.recv"): (2, f"{MOVES}; the other {LOOKS}"),
    ("engine/connection.py", "sock.recv_into"): (1, MOVES),  # into a session's memory
    ("engine/connection.py", "filling.recv"): (1, MOVES),
    ("engine/connection.py", "self.sock.send"): (1, MOVES),  # Connection.transmit
    ("engine/connection.py", "self.sock.sendmsg"): (1, MOVES),
    ("engine/connection.py", "os.sendfile"): (1, MOVES),
    ("engine/connection.py", "self.session.send"): (1, "a generator's"),
    ("engine/connection.py", "session.send"): (1, "a generator's"),
    ("engine/completing.py", "self.operations.send"): (1, "the kernel moves them"),
    ("engine/completing.py", "self.send"): (1, "the method of Connection"),
    ("models/proactor.py", "self.handles.send"): (1, "the kernel moves them"),
    ("engine/hijack.py", "super().sendfile"): (1, "the socket is the application's"),
    ("engine/parting.py", "sock.send"): (1, "the process that had the connection is dead"),
    ("engine/parting.py", "sock.recv"): (1, "the process that had the connection is dead"),
    ("app/stream/transport.py", "self._peer.send"): (2, "the method of Connection, for a session"),
    ("app/asgi/duplex.py", "self.peer.send"): (2, "the method of Connection, for a session"),
    ("app/asgi/duplex.py", "self.send"): (1, "an application's"),
    ("app/asgi/websocket.py", "self._flow.send"): (1, "an application's"),
    ("app/asgi/steps.py", "coroutine.send"): (2, "a coroutine's"),
    ("native/engine_link.c", "recv"): (1, MOVES),  # link_receive
    ("native/engine_link.c", "send"): (1, MOVES),
    ("native/engine_link.c", "sendmsg"): (1, MOVES),
}


def in_python(source: str) -> list[str]:
    """Each mention of such a method, or function, called or not."""
    tree = ast.walk(ast.parse(source))
    return [ast.unparse(n) for n in tree if isinstance(n, ast.Attribute) and n.attr in NAMES]


def in_c(source: str) -> list[str]:
    """Each call of such a function, and each other of the kernel's that writes to a Link's descriptor."""
    source = re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\])*"', "", source, flags=re.S)
    found = [name for name in re.findall(r"\b(\w+)\s*\(", source) if name in NAMES]
    return found + re.findall(r"\b(p?readv?2?|p?writev?2?)\s*\([^;]*->fd\b", source)


def found() -> Counter[tuple[str, str]]:
    count: Counter[tuple[str, str]] = Counter()
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.[pch]*")):
            if path.suffix in (".py", ".c", ".h"):
                look = in_python if path.suffix == ".py" else in_c
                name = str(path.relative_to(ROOT))
                count.update((name, expression) for expression in look(path.read_text()))
    return count


def test_bytes_move_there_alone() -> None:
    assert found() == {key: count for key, (count, _) in EXEMPT.items()}


@pytest.mark.parametrize(
    ("look", "source"),
    [
        (in_python, "conn.sock.recv(1)"),
        (in_python, "f = sock.sendall"),
        (in_python, "os.sendfile(1, 2, 0, 3)"),
        (in_python, "socket.socket.sendmsg(s, [b''])"),
        (in_c, "n = recv(link->fd, at, 1, 0);"),
        (in_c, "/* no */ sendmsg (fd, &message, 0);"),
        (in_c, "write(link->fd, at, 1);"),
        (in_c, "if (readv(conn->fd, pieces, 2))"),
    ],
)
def test_another_is_found(look: object, source: str) -> None:
    assert callable(look)
    assert len(look(source)) == 1


def test_what_is_none() -> None:
    assert in_python("conn.receive(1)\nx = 'sock.send(1)'  # sock.recv(1)") == []
    assert in_c('/* recv(2) */ link_receive(link, at, 1); f("send(1)"); write(2, text, 1);') == []
