"""Who may connect to the master's own servers cannot keep others out: neither probes nor verbs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from forkd.ipc.control import ask
from forkd.system.process import resident_bytes

from .conftest import Daemon, until

CLIENTS = 200
PROBES = 100

#: So many clients at a time, each renewed when it is closed, and after a second anyway.
FLOOD = """
import select, socket, sys, time
kind, request, count = sys.argv[1], sys.argv[2].encode().decode("unicode_escape").encode(), int(sys.argv[3])
address = sys.argv[4] if len(sys.argv) == 5 else (sys.argv[4], int(sys.argv[5]))
poll, clients, said = select.epoll(), {}, False

def renew(fd=None):
    if fd is not None:
        clients.pop(fd)[0].close()
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.settimeout(2)
    try:
        sock.connect(address)
        if kind == "unread":
            sock.sendall(request)
    except OSError:
        return sock.close()
    clients[sock.fileno()] = [sock, time.monotonic(), 0]
    poll.register(sock, select.EPOLLHUP | select.EPOLLERR | (0 if kind == "unread" else select.EPOLLIN))

while True:
    for _ in range(count - len(clients)):
        renew()
    if not said:
        print("flooding", flush=True)
        said = True
    for fd, _ in poll.poll(0.05):
        renew(fd)
    now = time.monotonic()
    for fd, client in list(clients.items()):
        if kind == "slow" and client[2] <= now:
            client[2] = now + 1
            try:
                client[0].send(request[:1])
            except OSError:
                pass
        if client[1] + (4 if kind == "slow" else 1) < now:
            renew(fd)
"""


@contextlib.contextmanager
def flood(kind: str, request: str, address: object) -> Iterator[None]:
    where = [address] if isinstance(address, str) else list(map(str, address))  # type: ignore[call-overload]
    process = subprocess.Popen(
        [sys.executable, "-c", FLOOD, kind, request, str(CLIENTS), *where],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "flooding\n"
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]


def probe(address: object) -> bytes:
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as sock:
        sock.settimeout(20)
        sock.connect(address)
        sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        while more := sock.recv(65536):
            answer += more
        return answer


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("kind", ["silent", "slow", "unread"])
@pytest.mark.parametrize("server", ["tcp", "unix", "control"])
def test_each_probe_and_verb_is_answered(service: Daemon, server: str, kind: str) -> None:
    path = str(service.dir / "admin.sock")
    service.start("-w", "1", "--admin", f"unix:{path}" if server == "unix" else "127.0.0.1:0")
    address: object = service.admin_address if server == "tcp" else path
    request = r"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
    if server == "control":
        address, request = str(service.control), r'{"verb": "status"}\n'
    pid = service.pid
    size, open_before = resident_bytes(pid), descriptors(pid)
    with flood(kind, request, address), ThreadPoolExecutor(10) as threads:
        if server == "control":
            verbs = [threads.submit(ask, address, "status", 20.0) for _ in range(PROBES)]
            assert [done.result()["status"]["master"]["pid"] for done in verbs] == [pid] * PROBES
        else:
            answers = [threads.submit(probe, address) for _ in range(PROBES)]
            assert [x.result().split(b"\r\n")[0] for x in answers] == [b"HTTP/1.1 200 OK"] * PROBES
        assert descriptors(pid) <= open_before + 2 * 64
        assert resident_bytes(pid) - size < 32 << 20
    until(lambda: descriptors(pid) == open_before, "their places to be free")


HANGING = """
import os, time
from pathlib import Path
while Path(__file__).with_name("hang").exists():
    time.sleep(0.01)
def app(environ, start):
    start("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def test_a_verb_whose_answer_is_not_due_yet_keeps_its_place(service: Daemon) -> None:
    """`reload` waits for longer than a slow client may, while others push."""
    service.write_app(HANGING)
    service.start("-w", "1")
    (service.dir / "hang").touch()
    replies: list[object] = []
    thread = threading.Thread(
        target=lambda: replies.append(ask(str(service.control), "reload", seconds=60))
    )
    thread.start()
    until(lambda: service.live()["master"]["state"] == "reloading", "the reload to begin")
    with flood("silent", "", str(service.control)):
        thread.join(6.5)
        assert thread.is_alive()
        (service.dir / "hang").unlink()
        thread.join(30)
    assert replies == [{"ok": True, "generation": 2, "restart": [], "unused": []}]


def callers(service: Daemon) -> int:
    """The connections to the control socket, see proc_net(5): 3 is SS_CONNECTED."""
    table = Path("/proc/net/unix").read_text().splitlines()
    states = [line.split()[5] for line in table if line.endswith(f" {service.control}")]
    return states.count("03")


def test_who_gave_up_waiting_has_no_place_any_more(service: Daemon) -> None:
    service.write_app(HANGING)
    service.start("-w", "1")
    (service.dir / "hang").touch()
    before = descriptors(service.pid)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(service.control))
        sock.sendall(b'{"verb": "reload"}\n')
        until(lambda: service.live()["master"]["state"] == "reloading", "the reload to begin")
        assert callers(service) == 1
    until(lambda: callers(service) == 0, "its place to be free")
    (service.dir / "hang").unlink()
    until(lambda: service.live()["master"]["generation"] == 2, "the reload to end")
    until(lambda: descriptors(service.pid) == before, "nothing to be left")


@pytest.mark.parametrize(
    "request_",
    [
        '{"verb": "scale", "to": null}', '{"verb": "scale", "by": null}', '{"verb": "scale"}',
        '{"verb": "scale", "to": true}', '{"verb": "scale", "to": false}', '{"verb": "scale", "to": 0.0}',
        '{"verb": "scale", "to": "0"}', '{"verb": "scale", "by": "-2"}', '{"verb": "scale", "by": -2.0}',
        '{"verb": "scale", "to": [0]}', '{"verb": "scale", "by": -2, "to": 0}',
        '{"verb": "scale", "to": 1e400}', '{"verb": "reload", "now": 1}', '{"verb": ["scale"], "to": 0}',
        '{"verb": null}', '{"verb": "upgrade", "pid": null}', '{"verb": "status", "to": 0}',
    ],
)  # fmt: skip
def test_an_argument_of_another_type_is_an_error(service: Daemon, request_: str) -> None:
    service.start("-w", "2")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(service.control))
        sock.sendall(request_.encode() + b"\n")
        reply = json.loads(sock.makefile().readline())
    assert reply["ok"] is False, reply
    assert reply["error"]
    assert service.live()["master"]["workers_wanted"] == 2
    assert service.live()["master"]["generation"] == 1


def test_stop_works_beside_a_flood(service: Daemon) -> None:
    service.start("-w", "1")
    pid = service.pid
    with flood("silent", "", str(service.control)):
        service.signal(signal.SIGTERM)
        until(lambda: not Path(f"/proc/{pid}").exists(), "the end")
