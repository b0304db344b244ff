"""asyncio protocols written plainly, served as they are."""

from __future__ import annotations

import fcntl
import hashlib
import json
import signal
import socket
import termios
import threading
from pathlib import Path

import pytest

from tests.process.conftest import Daemon, until

from .conftest import FAILURES, dial, read_all, take


@pytest.fixture
def handlers(service: Daemon, loop: str) -> Daemon:
    take(service, "asyncio_handlers")
    service.environ["FORKD_LOOP"] = loop
    return service


def serve(service: Daemon, name: str, *flags: str) -> None:
    service.start(*flags, app=f"asyncio_handlers:{name}")


@pytest.mark.parametrize("where", ["tcp", "unix"])
def test_echo(handlers: Daemon, where: str) -> None:
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


@pytest.mark.parametrize("flags", [[], ["--no-native"]], ids=" ".join)
def test_what_holds_bytes_is_written_by_value_and_nothing_else(service: Daemon, flags: list[str]) -> None:
    service.write_app("""
        import asyncio

        class Lying(bytes):
            def __len__(self): return 1
            def __bool__(self): return False
            def __bytes__(self): return b"forged"

        class Pieces(asyncio.Protocol):
            def connection_made(self, transport):
                for piece in (Lying(b"one,"), bytearray(b"two,"), memoryview(b"three")):
                    transport.write(piece)
                try:
                    transport.write(5)
                except TypeError:
                    transport.close()
    """)
    service.start("-w", "1", *flags, app="app:Pieces")
    with dial(service) as client:
        assert read_all(client) == b"one,two,three"


def iter_exactly(client: socket.socket, size: int) -> list[bytes]:
    pieces: list[bytes] = []
    while size:
        data = client.recv(size)
        assert data, "closed too early"
        pieces.append(data)
        size -= len(data)
    return pieces


def test_timers_tasks_and_executors(handlers: Daemon) -> None:
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


def test_many_clients_share_a_worker(handlers: Daemon) -> None:
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


def test_a_buffered_protocol(handlers: Daemon) -> None:
    serve(handlers, "Buffered")
    data = bytes(range(256)) * 100
    with dial(handlers) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == data + b"<eof>"


def test_a_half_closed_client_gets_its_answer(handlers: Daemon) -> None:
    serve(handlers, "HalfClosed")
    with dial(handlers) as client:
        client.sendall(b"question" * 1000)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"question" * 1000


def test_the_streams_of_asyncio(handlers: Daemon) -> None:
    serve(handlers, "streams", "-k", "stream")
    with dial(handlers) as client, client.makefile("rb") as lines:
        for text in (b"first\n", b"x" * 50_000 + b"\n"):
            client.sendall(text)
            assert lines.readline() == text.upper()
        client.shutdown(socket.SHUT_WR)
        assert lines.read() == b""


def test_a_protocol_that_fails_costs_its_own_client_only(handlers: Daemon) -> None:
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


def report(service: Daemon, name: str) -> dict[str, object]:
    path: Path = service.dir / name
    until(lambda: path.exists() and path.stat().st_size, name)
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_a_protocol_that_heeds_pause_writing_is_held_back(handlers: Daemon) -> None:
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


def test_a_protocol_that_writes_all_at_once_loses_nothing(handlers: Daemon) -> None:
    serve(handlers, "Source", "-w", "1")
    with dial(handlers) as client:
        client.sendall(b"careless")
        report(handlers, "paused.json")  # by now, nothing has been read
        assert hashlib.sha256(read_all(client)).digest() == hashlib.sha256(SENT).digest()


def test_a_protocol_that_pauses_reading_holds_its_client_back(handlers: Daemon) -> None:
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


def test_an_idle_stream_is_closed_and_logged(handlers: Daemon) -> None:
    serve(handlers, "Source", "--idle-timeout", "300ms")
    with dial(handlers) as client:
        assert client.recv(100) == b""
    until(lambda: "127.0.0.1: the peer was idle" in handlers.log(), "a line in the log")
    assert "TimeoutError" in str(report(handlers, "lost.json")["reason"])
    until(lambda: handlers.metric("forkd_connections") == 0, "no connection")


def test_a_client_that_does_not_read_is_dropped_after_the_write_timeout(
    handlers: Daemon,
) -> None:
    serve(handlers, "Source", "--write-timeout", "300ms")
    with dial(handlers) as client:
        client.sendall(b"careful")
        assert "TimeoutError" in str(report(handlers, "lost.json")["reason"])
    until(lambda: "did not read" in handlers.log(), "a line in the log")


@pytest.mark.parametrize("name", ["Waits", "Pauses"])
def test_what_only_waits_is_idle_too(handlers: Daemon, name: str) -> None:
    """Half-open, or not reading: no byte moves."""
    serve(handlers, name, "--idle-timeout", "300ms")
    with dial(handlers) as client:
        client.sendall(b"x")
        if name == "Waits":
            client.shutdown(socket.SHUT_WR)
        assert "TimeoutError" in told(handlers)[-1]
    until(lambda: handlers.metric("forkd_connections") == 0, "no connection")


def test_a_half_open_stream_that_sends_is_not_idle(handlers: Daemon) -> None:
    serve(handlers, "Waits", "--idle-timeout", "300ms")
    with dial(handlers) as client:
        client.sendall(b"tick")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"." * 20


# ---- as in asyncio ------------------------------------------------------------------------


def told(service: Daemon) -> list[str]:
    path = service.dir / "told.json"
    until(lambda: path.exists() and path.stat().st_size, "told.json")
    found: list[str] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("when", ["now", "later"])
def test_connection_lost_comes_after_the_call_that_caused_it(
    handlers: Daemon, when: str, how: str
) -> None:
    serve(handlers, "Closes")
    with dial(handlers) as client:
        client.sendall(f"{when} {how}".encode())
        assert client.recv(100) == b""
    assert told(handlers) == ["returned", "soon", "lost None"]


def test_a_new_protocol_is_told_everything(handlers: Daemon) -> None:
    serve(handlers, "Switches")
    with dial(handlers) as client:
        client.sendall(b"x")
        assert client.recv(100) == b"switched"
        client.sendall(b"data")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
    assert told(handlers) == ["data", "eof", "lost None"]


def test_a_new_protocol_gets_what_the_old_one_left(handlers: Daemon) -> None:
    serve(handlers, "SwitchesBuffers")
    with dial(handlers) as client:
        client.sendall(b"12345")
        assert client.recv(100) == b"2345"


def test_an_empty_buffer_is_an_error(handlers: Daemon) -> None:
    handlers.expected_errors = FAILURES
    serve(handlers, "NoBuffer")
    with dial(handlers) as client:
        client.sendall(b"x")
        assert read_all(client) == b""
    until(lambda: "get_buffer() returned an empty buffer" in handlers.log(), "the traceback")


def test_a_buffered_protocol_is_left_alone_while_it_pauses(handlers: Daemon) -> None:
    serve(handlers, "Ring")
    data = bytes(range(256)) * 100
    with dial(handlers) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == data + b"<eof>"


def test_write_eof_closes_one_direction_after_the_backlog(handlers: Daemon) -> None:
    serve(handlers, "WritesEof")
    with dial(handlers) as client:
        assert len(read_all(client)) == 5_000_000
        client.sendall(b"still heard")
        client.shutdown(socket.SHUT_WR)
        assert told(handlers) == [True, "no more", "still heard", "eof", "lost None"]


def test_the_socket_is_there_for_its_options(handlers: Daemon) -> None:
    serve(handlers, "Names")
    with dial(handlers) as client:
        names = json.loads(read_all(client))
        assert names == [list(client.getpeername()), list(client.getsockname()), True]


@pytest.mark.parametrize(
    ("how", "error"), [("reset", "ConnectionResetError"), ("late", "TimeoutError")]
)
def test_a_failure_of_the_protocols_own_is_logged(handlers: Daemon, how: str, error: str) -> None:
    """Although a client that left or was idle raises the same."""
    handlers.expected_errors = FAILURES
    serve(handlers, "Refused")
    with dial(handlers) as client:
        client.sendall(how.encode())
        assert read_all(client) == b""
    until(lambda: f"{error}: failed on purpose" in handlers.log(), "the traceback")


# ---- stopping -----------------------------------------------------------------------------


def test_streams_at_rest_do_not_hold_up_a_stop(handlers: Daemon) -> None:
    """Neither one that never said anything nor one that has its answer."""
    serve(handlers, "Thinks", "-w", "1")
    with dial(handlers) as silent, dial(handlers) as client:
        client.sendall(b"echo")
        assert client.recv(100) == b"echo"
        handlers.ok("stop")
        assert (client.recv(100), silent.recv(100)) == (b"", b"")
    assert told(handlers) == ["lost None"]
    assert "killed" not in handlers.log()


def test_an_answer_that_is_owed_is_waited_for(handlers: Daemon) -> None:
    serve(handlers, "Thinks", "-w", "1")
    with dial(handlers) as client:
        client.sendall(b"think")
        until(lambda: handlers.metric("forkd_requests_in_flight") == 1, "its arrival")
        handlers.signal(signal.SIGTERM)
        assert read_all(client) == b"thought"
    handlers.gone()


def test_a_stream_that_never_rests_is_cut_and_named(handlers: Daemon) -> None:
    serve(handlers, "Thinks", "-w", "1", "--graceful-timeout", "2s")
    with dial(handlers) as client:
        client.sendall(b"echo")
        assert client.recv(100) == b"echo"
        client.sendall(b"never")
        until(lambda: not pending(client), "read")
        handlers.ok("stop")
        assert client.recv(100) == b""
        host, port = client.getsockname()
    assert f"streams cut: {host}:{port}\n" in handlers.log()
    assert "killed" not in handlers.log()
    assert told(handlers) == ["lost ConnectionAbortedError('the process ends')"]


def pending(client: socket.socket) -> int:
    """Bytes that the server's kernel has not acknowledged (SIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(client, termios.TIOCOUTQ, bytes(4)), "little")
