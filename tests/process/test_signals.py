"""Every signal of the contract, sent to the master; and the same sent to a child by mistake."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from .clients import Load
from .conftest import Daemon, alive, until


def test_term_finishes_requests_in_flight(service: Daemon) -> None:
    service.start()
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(service.get("/sleep/0.5")))
    thread.start()
    until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
    service.signal(signal.SIGTERM)
    service.gone()
    thread.join(10)
    assert answers == ["slept"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_int_and_quit_do_not_wait_for_requests(service: Daemon, number: signal.Signals) -> None:
    service.start()
    with service.connect() as client:
        client.sendall(b"GET /sleep/20 HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
        service.signal(number)
        service.gone(5)
        assert client.recv(100) == b""


def test_term_closes_idle_connections_and_ends(service: Daemon) -> None:
    service.start("--keep-alive", "60")
    client = service.client()
    client.request("GET", "/")
    assert client.getresponse().read() == b"v1"
    service.signal(signal.SIGTERM)
    service.gone(5)
    client.close()


def test_term_answers_what_already_waits_in_the_queue(service: Daemon) -> None:
    service.start("-w", "1")
    with service.connect() as busy, service.connect() as waiting:
        busy.sendall(b"GET /sleep/0.5 HTTP/1.1\r\nHost: a\r\n\r\n")
        waiting.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
        service.signal(signal.SIGTERM)
        assert busy.recv(1000).startswith(b"HTTP/1.1 200")
        assert waiting.recv(1000).startswith(b"HTTP/1.1 200")
    service.gone()


def test_term_kills_who_does_not_finish_in_time(service: Daemon) -> None:
    service.start("--graceful-timeout", "0.5s")
    with service.connect() as client:
        client.sendall(b"GET /sleep/20 HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
        service.signal(signal.SIGTERM)
        service.gone(5)
    until(lambda: "not done in time" in service.log(), "the line in the log")


def test_usr1_reopens_rotated_logs(service: Daemon) -> None:
    access = service.dir / "access.log"
    service.start("--access-log", str(access))
    service.get("/before")
    until(lambda: access.read_text().count("\n") == 1, "the line before")
    address = service.address
    os.rename(access, service.dir / "access.1")
    os.rename(service.error_log, service.dir / "error.1")
    os.kill(service.pid, signal.SIGUSR1)
    until(lambda: "reopened" in service.log() and access.exists(), "new files")

    def asked() -> bool:
        with socket.create_connection(address, 5) as client:
            client.sendall(b"GET /after HTTP/1.0\r\n\r\n")
            while client.recv(1000):
                pass
        return "/after" in access.read_text()

    until(asked, "a line in the new file")
    assert "/after" not in (service.dir / "access.1").read_text().partition("/after")[0]
    assert (service.dir / "access.1").read_text().count("/before") == 1


def test_winch_retires_the_children_and_keeps_the_master(service: Daemon) -> None:
    service.start()
    master = service.pid
    service.signal(signal.SIGWINCH)
    until(lambda: not service.live()["workers"], "no children")
    assert service.pid == master
    status, why = service.admin("/readyz")
    assert status == 503
    assert "WINCH" in why
    assert service.admin("/healthz")[0] == 200
    with service.connect() as waiting:  # the listeners are there
        waiting.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        service.signal(signal.SIGTTIN)
        until(lambda: len(service.workers()) == 1, "the first child")
        assert waiting.recv(1000).startswith(b"HTTP/1.1 200")
    service.signal(signal.SIGWINCH)
    until(lambda: not service.live()["workers"], "no children")
    service.signal(signal.SIGHUP)
    until(lambda: len(service.workers()) == 2, "all children, after HUP")
    assert service.get() == "v1"
    assert service.admin("/readyz")[0] == 200


def test_ttin_and_ttou(service: Daemon) -> None:
    service.start()
    service.signal(signal.SIGTTIN)
    until(lambda: len(service.workers()) == 3, "one more")
    for left in (2, 1):
        service.signal(signal.SIGTTOU)
        until(lambda left=left: len(service.live()["workers"]) == left, "one fewer")
    assert service.get() == "v1"


def test_signals_that_come_together_are_all_obeyed(service: Daemon) -> None:
    service.start()
    for number in (signal.SIGUSR1, signal.SIGTTIN, signal.SIGHUP):
        service.signal(number)
    until(lambda: service.live()["master"]["generation"] == 2, "the reload")
    until(lambda: "reopened" in service.log(), "the line in the log")
    assert service.get() == "v1"


QUIET = ["HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "TTIN", "TTOU", "IO"]


def test_signals_to_a_child_by_mistake_change_nothing(service: Daemon) -> None:
    service.start()
    before = service.worker_pids()
    with Load(service.address, keep=2) as load:
        load.more(10)
        for name in QUIET:
            for pid in before:
                os.kill(pid, getattr(signal, f"SIG{name}"))
        load.more(50)
    assert load.failures == []
    assert service.worker_pids() == before
    assert service.live()["master"]["generation"] == 1


def test_ctrl_c_in_a_terminal_reaches_all_and_ends_quietly(service: Daemon) -> None:
    process = service.start_in_foreground(start_new_session=True)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(5) == 0
    service.gone()


def test_term_to_a_child_replaces_it_without_loss(service: Daemon) -> None:
    service.start()
    before = service.worker_pids()
    with Load(service.address, keep=3) as load:
        load.more(10)
        os.kill(before[0], signal.SIGTERM)
        until(lambda: not alive(before[0]), "the child gone")
        until(lambda: len(service.workers()) == 2, "another in its place")
        load.more(20)
    assert load.failures == []


def test_the_death_of_the_master_ends_all_within_a_second(service: Daemon) -> None:
    service.start("-w", "4")
    pids, address = service.worker_pids(), service.address
    stuck = service.connect()
    stuck.sendall(b"GET /c/20 HTTP/1.1\r\nHost: a\r\n\r\n")
    until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in C")
    service.signal(signal.SIGKILL)
    until(lambda: not [p for p in pids if alive(p)], "all children gone", seconds=1.0)
    stuck.close()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(address)
    # What it left blocks no start.
    service.start("-b", f"127.0.0.1:{address[1]}")
    assert service.get() == "v1"


#: A signal handler that raises; /later has it called 20 ms after that.
ALARM = """
    import os, signal

    def ring(number, frame):
        raise TimeoutError("an alarm of the application")

    signal.signal(signal.SIGALRM, ring)

    def app(environ, start):
        if environ["PATH_INFO"] == "/later":
            signal.setitimer(signal.ITIMER_REAL, 0.02)
        body = str(os.getpid()).encode()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]
"""


@pytest.mark.parametrize(
    "flags", [[], ["--no-native"], ["--io", "select"], ["-m", "reactor"]], ids=" ".join
)
def test_a_handler_that_raises_in_an_idle_worker_costs_nobody(
    service: Daemon, flags: list[str]
) -> None:
    service.write_app(ALARM)
    service.expected_errors = ["a signal handler of the application has raised", "Traceback"]
    service.start("-w", "1", *flags)
    pid = str(service.worker_pids()[0]).encode()
    with service.connect() as kept:
        kept.sendall(b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n")
        assert kept.recv(1000).endswith(pid)
        until(lambda: "TimeoutError: an alarm of the application" in service.log(), "the alarm")
        kept.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert kept.recv(1000).endswith(pid)
