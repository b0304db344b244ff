"""Where the kernel has no room to wait for one more descriptor (fs.epoll.max_user_watches), a connection is
refused and its worker goes on.

That limit is the whole machine's; so a seccomp(2) filter in the worker says ENOSPC instead, to epoll_ctl(2)
for descriptors from a number on: as if the room were used up by those below, and free again when they go.
"""

from __future__ import annotations

import os
import platform
import socket
import textwrap

import pytest

from tests.process.conftest import Daemon, until

from .test_faults import failing, failures
from .test_signature import traceable

NUMBERS = {"x86_64": 233, "aarch64": 21}
pytestmark = pytest.mark.skipif(
    platform.machine() not in NUMBERS, reason="the number of epoll_ctl(2) is not known here"
)
FIRST = 80  # descriptor that epoll has no room for
ADD, MODIFY = 1, 3
ERRORS = {"ENOSPC": 28, "ENOMEM": 12}
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

FILTER = """
    import ctypes, os, struct

    def deny(operation, first, error):
        '''epoll_ctl(2) with that operation fails for descriptors from `first` on, in all threads to come.'''
        load, equal, least, done = 0x20, 0x15, 0x35, 0x06
        steps = [
            (load, 0, 0, 0), (equal, 0, 5, NUMBER),  # seccomp_data.nr
            (load, 0, 0, 24), (equal, 0, 3, operation),  # args[1]
            (load, 0, 0, 32), (least, 0, 1, first),  # args[2]
            (done, 0, 0, 0x00050000 | error), (done, 0, 0, 0x7FFF0000),
        ]
        code = b"".join(struct.pack("HBBI", *step) for step in steps)
        memory = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(memory))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        assert libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0, ctypes.get_errno()
""".replace("NUMBER", str(NUMBERS.get(platform.machine(), 0)))

APP = (
    FILTER
    + """
    BIG = b"x" * (64 << 20)

    def app(environ, start):
        body = BIG if environ["PATH_INFO"] == "/big" else b"%d" % os.getpid()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]
"""
)

#: All that wait by epoll(7) in a worker, natively or not, with threads or not.
KINDS = {
    "native": [],
    "python": ["--no-native"],
    "threads": ["--threads", "3"],
    "exclusive": ["--accept", "exclusive"],
    "reactor": ["-m", "reactor"],
    "half-sync-half-reactive": ["-m", "half-sync-half-reactive", "--threads", "2"],
    "half-sync-half-async": ["-m", "half-sync-half-async"],
    "simulated-proactor": ["-m", "simulated-proactor", "--threads", "2"],
}


def start(service: Daemon, kind: str, operation: int, error: str) -> None:
    service.write_app(APP + f"\n    deny({operation}, {FIRST}, {ERRORS[error]})\n")
    service.expected_errors = [f"epoll_ctl .*: {error}: "]
    service.start("-w", "1", "--keep-alive", "60", *KINDS[kind])


def talk(client: socket.socket) -> bytes:
    """The answer to a request; b"" when the connection was closed instead."""
    try:
        client.sendall(REQUEST)
        return client.recv(65536)
    except ConnectionError:
        return b""


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_more_than_can_be_watched_is_refused(
    service: Daemon, kind: str, error: str
) -> None:
    start(service, kind, ADD, error)
    (worker,) = service.worker_pids()
    clients = [service.connect(20) for _ in range(FIRST + 40)]
    kept, closed = [], 0
    for client in clients:
        first = talk(client)
        second = talk(client) if first else b""
        assert not first or first.startswith(b"HTTP/1.1 200 OK")
        if second:
            kept.append(client)
        else:
            closed += 1
            client.close()
    assert closed >= 20
    assert len(kept) >= 20
    for client in kept:  # the others go on
        assert talk(client).startswith(b"HTTP/1.1 200 OK")
        client.close()
    until(lambda: service.live()["workers"][0]["connections"] == 0, "no connection")
    again = [service.connect(20) for _ in range(10)]
    for client in again:
        assert talk(client) and talk(client)
        client.close()
    assert service.worker_pids() == [worker]
    assert service.metric("forkd_accept_errors_total") >= closed
    assert service.log().count(f"epoll_ctl (fs.epoll.max_user_watches): {error}") <= 3


@pytest.mark.parametrize("kind", ["native", "python"])
def test_so_is_one_that_cannot_be_written_to(service: Daemon, kind: str) -> None:
    """Its watch cannot be changed: what it asked for is not sent, and no other client suffers."""
    start(service, kind, MODIFY, "ENOMEM")
    (worker,) = service.worker_pids()
    clients = [service.connect(20) for _ in range(FIRST + 10)]
    for client in clients:
        assert talk(client)
    last = clients.pop()
    last.sendall(REQUEST.replace(b"/ ", b"/big ", 1))
    received = 0
    while True:
        try:
            data = last.recv(1 << 20)
        except ConnectionError:
            break
        if not data:
            break
        received += len(data)
    assert received < 64 << 20
    for client in clients:
        assert talk(client).startswith(b"HTTP/1.1 200 OK")
        client.close()
    last.close()
    assert service.worker_pids() == [worker]


def test_a_process_that_cannot_be_watched_ends(service: Daemon) -> None:
    """process-per-connection: its client is refused; the worker does not lose it, and goes on."""
    service.write_app(APP + f"\n    deny({ADD}, {FIRST}, 28)\n")
    service.expected_errors = ["epoll_ctl .*: ENOSPC"]
    service.start("-w", "1", "-m", "process-per-connection", "--io", "epoll")
    (worker,) = service.worker_pids()
    clients = [service.connect(20) for _ in range(FIRST)]
    results = [talk(client) for client in clients]
    assert results.count(b"") >= 5
    assert len(results) - results.count(b"") >= 5
    for client in clients:
        client.close()
    until(lambda: service.live()["workers"][0]["connections"] == 0, "no process")
    assert service.get() != ""
    assert service.worker_pids() == [worker]


@pytest.mark.parametrize(
    "io, call", [("poll", "poll"), ("select", "select,pselect6"), ("sigio", "poll")]
)
def test_a_wait_without_memory_is_repeated(service: Daemon, io: str, call: str) -> None:
    if not traceable():
        pytest.skip("strace may not trace here")
    service.write_app(APP)
    service.start("-w", "1", "-m", "leader-followers", "--io", io)
    (worker,) = service.worker_pids()
    # The last one is over before strace leaves: a call that it had just taken away would end as ENOSYS.
    with failing(service, [worker], call, "ENOMEM", when="1..10+3") as out:
        clients = [service.connect(20) for _ in range(10)]
        for _ in range(5):
            for client in clients:
                assert talk(client)
        until(lambda: failures(out) == 4, "some waits to fail")
        for client in clients:
            client.close()
    assert service.get() == str(worker)
    assert service.worker_pids() == [worker]


ECHO = (
    FILTER
    + """
    import asyncio, fcntl

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            read, self.write = os.pipe()
            self.read = fcntl.fcntl(read, fcntl.F_DUPFD, 200)
            os.close(read)
            asyncio.get_running_loop().add_reader(self.read, self.echo)

        def data_received(self, data):
            os.write(self.write, data)

        def echo(self):
            self.transport.write(os.read(self.read, 1000))

        def connection_lost(self, error):
            asyncio.get_running_loop().remove_reader(self.read)
            os.close(self.read)
            os.close(self.write)

    def app():
        return Echo()

    app.forkd_interface = "stream"
    deny(1, 200, 28)
"""
)


def test_an_asyncio_application_hears_what_epoll_has_no_room_for(service: Daemon) -> None:
    service.write_app(ECHO)
    service.start("-w", "1", "--loop", "asyncio")  # libuv ends the process
    found = service.live()
    host, _, port = found["listeners"][0]["address"].rpartition(":")
    clients = [socket.create_connection((host, int(port)), 20) for _ in range(5)]
    for word in (b"one", b"two"):
        for client in clients:
            client.sendall(word)
            assert client.recv(100) == word
    for client in clients:
        client.close()
    until(lambda: service.live()["workers"][0]["connections"] == 0, "no connection")
    assert service.live()["workers"][0]["pid"] == found["workers"][0]["pid"]


def test_the_master_goes_on_by_polling(service: Daemon) -> None:
    """Its children, its control socket and its admin endpoint work, though epoll has no room for any more."""
    (service.dir / "sitecustomize.py").write_text(
        textwrap.dedent(FILTER)
        + textwrap.dedent("""
        import sys
        if os.environ.get("DENY"):
            deny(1, 8, 28)
    """)
    )
    service.environ["PYTHONPATH"] = f"{service.dir}{os.pathsep}{service.environ['PYTHONPATH']}"
    service.environ["DENY"] = "1"
    done = service.run("start", *service.flags("-w", "2", "-m", "leader-followers", "--io", "poll"))
    assert done.returncode == 0, done.stderr + service.log()
    del service.environ["DENY"]
    assert service.get() == "v1"
    assert service.status()["master"]["state"] == "running"
    os.kill(service.worker_pids()[0], 9)
    service.expected_errors = ["gone: SIGKILL"]
    until(lambda: len(service.workers()) == 2, "another worker")
    service.write_app(version="v2")
    service.ok("reload")
    assert service.get() == "v2"
    service.ok("scale", "3")
    until(lambda: len(service.workers()) == 3, "three")


def test_a_worker_that_can_watch_nothing_says_so(service: Daemon) -> None:
    service.write_app(APP + f"\n    deny({ADD}, 0, 28)\n")
    done = service.run("start", *service.flags("-w", "1"))
    assert done.returncode == 1
    assert "ENOSPC" in done.stderr
    assert "Traceback" not in done.stderr
    service.expected_errors = ["gone: boot"]
    service.gone()
