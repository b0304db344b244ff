"""The control socket: private, one line each way, and deaf to garbage."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkd.errors import BindError, ForkdError, NotRunning
from forkd.ipc.control import Command, ControlServer, ask
from forkd.system.loop import Loop


class Served:
    """A control server whose loop runs in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.loop = Loop()
        self.requests: list[Command] = []
        self.server = ControlServer.listen(self.path, self.loop, self._handle)
        self.server.open()
        self._read, self._write = os.pipe()
        self._going = True
        self.loop.watch(self._read, self._stop)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _handle(self, request: Command) -> None:
        self.requests.append(request)
        if request.verb == "refuse":
            request.refuse("not today")
        elif request.verb == "answer the first":  # here, since the loop is this thread's
            self.requests[0].answer()
            request.answer()
        elif request.verb != "hang":
            request.answer(verb=request.verb, got=request.arguments)

    def _stop(self) -> None:
        self._going = False

    def _run(self) -> None:
        while self._going:
            self.loop.turn()

    def end(self) -> None:
        os.write(self._write, b"x")
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.server.close()
        self.loop.unwatch(self._read)
        self.loop.close()
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "c.sock")
    yield made
    made.end()


def raw(served: Served, data: bytes, shut: bool = False) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(served.path)
        sock.sendall(data)
        if shut:
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        while more := sock.recv(65536):
            answer += more
        return answer


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_only_the_owner_may_open_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        loop = Loop()
        server = ControlServer.listen(str(tmp_path / "c.sock"), loop, lambda request: None)
        assert stat.S_IMODE(os.stat(tmp_path / "c.sock").st_mode) == 0o600
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    server.open()
    server.close()
    loop.close()
    assert not (tmp_path / "c.sock").exists()


def test_a_request_and_its_answer(served: Served) -> None:
    reply = ask(served.path, "scale", by=2)
    assert reply["verb"] == "scale"
    assert reply["got"] == {"by": 2}


def test_a_refusal_keeps_the_masters_words(served: Served) -> None:
    with pytest.raises(ForkdError, match="not today"):
        ask(served.path, "refuse")


def test_an_answer_that_does_not_come(served: Served) -> None:
    with pytest.raises(ForkdError, match="did not answer"):
        ask(served.path, "hang", seconds=0.1)
    assert ask(served.path, "answer the first")["ok"]  # the client has left: nothing happens
    assert ask(served.path, "status")["ok"]


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"garbage\n", b"\xff\xfe\n", b"[]\n", b"1\n", b"null\n", b"{}\n",
        b'"verb"\n', b"[" * 60_000 + b"\n", b'{"verb": "x"', b"GET / HTTP/1.1\r\n\r\n",
    ],
)  # fmt: skip
def test_garbage_is_refused_and_the_next_is_served(served: Served, line: bytes) -> None:
    answer = raw(served, line, shut=True)
    assert json.loads(answer)["ok"] is False
    assert ask(served.path, "status")["ok"]


def test_a_line_without_end_is_bounded(served: Served) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(served.path)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            for _ in range(100):
                sock.sendall(b"x" * 65536)
    assert ask(served.path, "status")["ok"]


def test_a_request_byte_by_byte(served: Served) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(served.path)
        for byte in b'{"verb": "status"}\n':
            sock.sendall(bytes([byte]))
        assert json.loads(sock.recv(65536))["ok"]


def test_clients_that_say_nothing_do_not_lock_it_for_ever(served: Served) -> None:
    silent = []
    for _ in range(20):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(5)
        sock.connect(served.path)
        silent.append(sock)
    for sock in silent:
        sock.close()
    assert ask(served.path, "status")["ok"]


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "c.sock"))
    made = Served(tmp_path / "c.sock")
    assert ask(made.path, "status")["ok"]
    made.end()


def test_a_live_one_is_never_stolen(served: Served) -> None:
    with pytest.raises(BindError):
        ControlServer.listen(served.path, Loop(), lambda request: None)
    assert ask(served.path, "status")["ok"]


def test_another_kind_of_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "c.sock").write_text("precious")
    with pytest.raises(BindError):
        ControlServer.listen(str(tmp_path / "c.sock"), Loop(), lambda request: None)
    assert (tmp_path / "c.sock").read_text() == "precious"


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        ask(str(tmp_path / "none.sock"), "status")


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    """Others connect faster than the master looks: the kernel refuses who does not want to block."""
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(path)
        listener.listen(0)
        other.connect(path)
        with pytest.raises(ForkdError, match="did not answer status within"):
            ask(path, "status", 0.1)

        def answer() -> None:
            listener.accept()[0].close()
            client, _ = listener.accept()
            client.recv(1024)
            client.sendall(b'{"ok": true}\n')
            client.close()

        later = threading.Timer(0.2, answer)
        later.start()
        assert ask(path, "status", 10.0) == {"ok": True}
        later.join()
