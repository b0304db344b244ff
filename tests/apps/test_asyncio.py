"""asyncio protocols written plainly, served as they are."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from pathlib import Path

import pytest

from tests.process.conftest import Service, until

from .conftest import FAILURES, dial, read_all, take


@pytest.fixture
def handlers(service: Service) -> Service:
    take(service, "asyncio_handlers")
    return service


def serve(service: Service, name: str, *flags: str) -> None:
    service.start(*flags, app=f"asyncio_handlers:{name}")


@pytest.mark.parametrize("where", ["tcp", "unix"])
def test_echo(handlers: Service, where: str) -> None:
    path = handlers.dir / "echo.sock"
    serve(handlers, "Echo", "-b", f"unix:{path}" if where == "unix" else "127.0.0.1:0")
    for _ in range(4):
        with socket.socket(socket.AF_UNIX) if where == "unix" else dial(handlers) as client:
            client.settimeout(10)
            if where == "unix":
                client.connect(str(path))
            file = client.makefile("rwb", buffering=0)
            for line in (b"one\n", b"x" * 200_000 + b"\n", b"three\n"):
                threading.Thread(target=client.sendall, args=(line,)).start()
                assert b"".join(iter_exactly(client, len(line))) == line
            file.close()


def iter_exactly(client: socket.socket, size: int) -> list[bytes]:
    pieces: list[bytes] = []
    while size:
        data = client.recv(size)
        assert data, "closed too early"
        pieces.append(data)
        size -= len(data)
    return pieces


def test_timers_tasks_and_executors(handlers: Service) -> None:
    serve(handlers, "Tasks")
    with dial(handlers) as client, client.makefile("rb") as lines:
        assert lines.readline() == b"hello\n"
        client.sendall(b"abc\npeer\nthread\n")
        assert lines.readline() == b"cba\n"
        assert lines.readline().split() == [
            b"127.0.0.1",
            str(client.getsockname()[1]).encode(),
        ]
        assert lines.readline().strip().decode() == hashlib.sha256(b"thread").hexdigest()
        client.sendall(b"quit\n")
        assert lines.read() == b"bye\n"


def test_many_clients_share_a_worker(handlers: Service) -> None:
    serve(handlers, "Tasks", "-w", "1")
    clients = [dial(handlers) for _ in range(50)]
    files = [client.makefile("rb") for client in clients]
    assert [file.readline() for file in files] == [b"hello\n"] * 50
    for number, client in enumerate(clients):
        client.sendall(b"%d\nquit\n" % number)
    assert [file.read() for file in files] == [
        str(number)[::-1].encode() + b"\nbye\n" for number in range(50)
    ]
    for client, file in zip(clients, files, strict=True):
        file.close()
        client.close()


def test_a_buffered_protocol(handlers: Service) -> None:
    serve(handlers, "Buffered")
    data = bytes(range(256)) * 100
    with dial(handlers) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == data + b"<eof>"


def test_a_half_closed_client_gets_its_answer(handlers: Service) -> None:
    serve(handlers, "HalfClosed")
    with dial(handlers) as client:
        client.sendall(b"question" * 1000)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"question" * 1000


def test_the_streams_of_asyncio(handlers: Service) -> None:
    serve(handlers, "streams", "-k", "stream")
    with dial(handlers) as client, client.makefile("rb") as lines:
        for text in (b"first\n", b"x" * 50_000 + b"\n"):
            client.sendall(text)
            assert lines.readline() == text.upper()
        client.shutdown(socket.SHUT_WR)
        assert lines.read() == b""


def test_a_protocol_that_fails_costs_its_own_client_only(handlers: Service) -> None:
    handlers.expected_errors = FAILURES
    serve(handlers, "Broken", "-w", "1")
    pids = handlers.worker_pids()
    with dial(handlers) as other, dial(handlers) as client:
        client.sendall(b"x")
        assert read_all(client) == b""
        until(lambda: "RuntimeError: failed on purpose" in handlers.log(), "the traceback")
        until(lambda: handlers.metric("forkd_connections") == 1, "the other is still there")
        other.close()
    assert handlers.worker_pids() == pids


# ---- backpressure -------------------------------------------------------------------------


SENT = b"".join(number.to_bytes(4, "big") * 16384 for number in range(320))


def report(service: Service, name: str) -> dict[str, object]:
    path: Path = service.dir / name
    until(path.exists, name)
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_a_protocol_that_heeds_pause_writing_is_held_back(handlers: Service) -> None:
    serve(handlers, "Source", "-w", "1")
    with dial(handlers) as client, dial(handlers) as other:
        client.sendall(b"careful")
        assert int(str(report(handlers, "paused.json")["left"])) > 0
        other.sendall(b"careless")  # is served meanwhile
        assert hashlib.sha256(read_all(other)).digest() == hashlib.sha256(SENT).digest()
        (handlers.dir / "lost.json").unlink(missing_ok=True)
        assert hashlib.sha256(read_all(client)).digest() == hashlib.sha256(SENT).digest()
    found = report(handlers, "lost.json")
    assert found["left"] == 0
    assert int(str(found["paused"])) >= 1
    assert found["resumed"] in (found["paused"], int(str(found["paused"])) - 1)
    assert int(str(found["peak"])) <= 65536 * 2  # the high-water mark, and one piece above it
    assert found["reason"] == "None"


def test_a_protocol_that_writes_all_at_once_loses_nothing(handlers: Service) -> None:
    serve(handlers, "Source", "-w", "1")
    with dial(handlers) as client:
        client.sendall(b"careless")
        report(handlers, "paused.json")  # by now, nothing has been read
        assert hashlib.sha256(read_all(client)).digest() == hashlib.sha256(SENT).digest()


def test_a_protocol_that_pauses_reading_holds_its_client_back(handlers: Service) -> None:
    serve(handlers, "Sink", "-w", "1")
    with dial(handlers) as client:
        client.settimeout(0.3)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < len(SENT):
                sent += client.send(SENT[sent : sent + 65536])
        client.settimeout(10)
        (handlers.dir / "gate").touch()
        client.sendall(SENT[sent:])
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == f"{len(SENT)} {hashlib.sha256(SENT).hexdigest()}".encode()


# ---- deadlines ----------------------------------------------------------------------------


def test_an_idle_stream_is_closed_and_logged(handlers: Service) -> None:
    serve(handlers, "Source", "--idle-timeout", "300ms")
    with dial(handlers) as client:
        assert client.recv(100) == b""
    until(lambda: "127.0.0.1: the peer was idle" in handlers.log(), "a line in the log")
    assert "TimeoutError" in str(report(handlers, "lost.json")["reason"])
    until(lambda: handlers.metric("forkd_connections") == 0, "no connection")


def test_a_client_that_does_not_read_is_dropped_after_the_write_timeout(
    handlers: Service,
) -> None:
    serve(handlers, "Source", "--write-timeout", "300ms")
    with dial(handlers) as client:
        client.sendall(b"careful")
        assert "TimeoutError" in str(report(handlers, "lost.json")["reason"])
    until(lambda: "did not read" in handlers.log(), "a line in the log")
