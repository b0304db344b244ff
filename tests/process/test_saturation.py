"""What /metrics says of a service that is busy: threads, queues, waits, processor time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import string
import time
from pathlib import Path

import pytest

from forkd.metrics.names import METRICS, PROCESS

from .conftest import Daemon, until
from .test_metrics import stopped
from .test_threads import APP as HELD
from .test_threads import answer, ask, in_flight

BURN = """
    import time

    def app(environ, start):
        until = time.process_time() + 0.3
        while environ["PATH_INFO"] == "/burn" and time.process_time() < until:
            pass
        start("200 OK", [("Content-Length", "5")])
        return [b"burnt"]
"""


def queued(service: Daemon) -> int:
    """Connections in the accept queue, by the kernel and not by forkd: rx_queue of a listener."""
    port = f":{service.address[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return next(int(row[4].partition(":")[2], 16) for row in rows if row[1].endswith(port) and row[3] == "0A")


def release(service: Daemon) -> None:
    (service.dir / "hold").unlink()


# ---- threads ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "held", "idle"),
    [
        (["-w", "2"], 1, 1),
        (["-w", "2", "--no-native"], 1, 1),
        (["-w", "2", "--io", "blocking"], 1, 1),
        (["-w", "1", "--threads", "3"], 2, 1),
        (["-w", "1", "--threads", "3", "--no-native"], 2, 1),
        (["-w", "1", "--threads", "3", "-m", "half-sync-half-reactive"], 2, 1),
        (["-w", "1", "--threads", "3", "-m", "reactor"], 2, 1),
        (["-w", "1", "--threads", "3", "-m", "simulated-proactor"], 2, 1),
        (["-w", "2", "-m", "proactor"], 1, 1),
        (["-w", "1", "--threads", "3", "-m", "proactor"], 2, 1),
        (["-w", "2", "-m", "half-sync-half-async"], 1, 1),
        (["-w", "1", "-m", "process-per-connection", "--worker-connections", "5"], 2, 3),
    ],
    ids=str,
)
def test_busy_threads_and_idle_ones(service: Daemon, flags: list[str], held: int, idle: int) -> None:
    service.write_app(HELD)
    service.start(*flags)

    def threads() -> tuple[float, float]:
        return (
            service.metric("forkd_worker_threads", state="busy"),
            service.metric("forkd_worker_threads", state="idle"),
        )

    until(lambda: threads() == (0, held + idle), "all idle")
    (service.dir / "hold").touch()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(held)]
        for client in clients:
            ask(client, "/held")
        until(lambda: in_flight(service) == held, "all in the application")
        until(lambda: threads() == (held, idle), "some busy")
        release(service)
        for client in clients:
            answer(client)
    until(lambda: threads() == (0, held + idle), "all idle again")


@pytest.mark.parametrize("flags", [[], ["--no-native"]], ids=str)
def test_select_leaves_what_it_cannot_wait_for_to_others(service: Daemon, flags: list[str]) -> None:
    """Descriptors from 1024 on: their connections were closed when they had been accepted."""
    service.write_app(HELD)
    service.start("-w", "1", "--io", "select", *flags)
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            client = stack.enter_context(service.connect())
            ask(client, "/")
            answer(client)
    assert "cannot wait for descriptor" not in service.log()


def test_status_is_told_while_the_workers_of_a_failed_reload_are_killed(service: Daemon) -> None:
    """They take a moment to end, and nothing is known of their generation any more."""
    service.expected_errors = ["reload failed", "on purpose", "Traceback", "gone: boot"]
    service.start("-w", "4")
    service.write_app(
        """
        import os, time
        kept = bytearray(b"x") * (64 << 20)  # which takes the kernel a while to take back
        try:
            os.close(os.open("failed", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            time.sleep(60)
        time.sleep(0.5)
        raise RuntimeError("on purpose")
        """
    )
    answers: set[int] = set()
    service.signal(signal.SIGHUP)
    while "reload failed" not in service.log() or len(service.live()["workers"]) > 4:
        answers.add(service.admin("/metrics")[0])
    assert answers == {200}
    service.settles(4, "forkd_worker_threads")


# ---- the accept queue ---------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--accept", "exclusive"]], ids=["lock", "exclusive"])
def test_a_queue_that_has_been_long_is_told_to_everybody(service: Daemon, flags: list[str]) -> None:
    """No scrape comes while it is long: the master looks by itself, once a second at least."""
    service.start(*flags)

    def burst() -> float:
        pids = stopped(service)
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(service.connect()) for _ in range(7)]
            for client in clients:
                ask(client, "/")
            until(lambda: queued(service) == 7, "seven wait")
            time.sleep(1.2)  # a look, unless the machine is very busy
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            for client in clients:
                answer(client)
            assert queued(service) == 0
        return service.metric("forkd_accept_queue_high_water")

    until(lambda: burst() == 7, "the master has seen it", seconds=30)
    for _ in range(2):  # a scrape takes nothing away
        service.settles(0, "forkd_accept_queue_length")
        service.settles(7, "forkd_accept_queue_high_water")
        service.settles(7, "forkd_accept_queue_high_water_since_start")
    service.ok("reload")
    service.settles(7, "forkd_accept_queue_high_water_since_start")
    before = service.pid
    service.ok("upgrade")
    until(lambda: service.pidfile.read_text().strip() not in ("", str(before)), "a new master")
    until(lambda: service.live()["master"]["pid"] != before, "the new master answers")
    assert service.live()["listeners"][0]["high_water"] == {"recent": 7, "since_start": 7}


def test_a_master_that_accepts_sees_who_waits_when_no_worker_has_room(service: Daemon) -> None:
    service.write_app(HELD)
    service.start("-m", "half-sync-half-async", "-w", "1", "--worker-connections", "2")
    (service.dir / "hold").touch()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(7)]
        for client in clients:
            ask(client, "/held")
        until(lambda: queued(service) == 5, "two are with the worker, five wait")
        time.sleep(0.1)  # ten looks
        release(service)
        for client in clients:
            answer(client)
    assert service.metric("forkd_accept_queue_high_water") >= 5


# ---- waits --------------------------------------------------------------------------------


def waits(service: Daemon, queue: str) -> tuple[float, float, float]:
    """How many, seconds in all, and how many of not more than 100 ms."""
    name = "forkd_queue_wait_seconds"
    return (
        service.metric(f"{name}_count", queue=queue),
        service.metric(f"{name}_sum", queue=queue),
        service.metric(f"{name}_bucket", queue=queue, le="0.1"),
    )


def wait_stopped(service: Daemon) -> float:
    """One request that comes while all workers are stopped, for 0.3 s. Returns how long it took in all."""
    pids = stopped(service)
    with service.connect() as client:
        began = time.monotonic()
        ask(client, "/")
        if service.live()["workers"][0]["role"] == "half-sync":
            until(lambda: queued(service) == 0, "the master has accepted it")
        time.sleep(0.3)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        answer(client)
        return time.monotonic() - began


@pytest.mark.parametrize(
    "flags", [[], ["--no-native"], ["--accept", "exclusive"], ["-m", "proactor"]], ids=str
)
def test_how_long_a_connection_was_in_the_accept_queue(service: Daemon, flags: list[str]) -> None:
    service.start(*flags)
    at_most = wait_stopped(service)
    count, seconds, short = waits(service, "accept")
    assert (count, short) == (1, 0)
    assert 0.28 <= seconds <= at_most + 0.02  # the kernel's clock ticks each 4 or 10 ms
    assert waits(service, "worker") == waits(service, "thread") == (0, 0, 0)


def test_a_unix_socket_has_no_clock(service: Daemon) -> None:
    path = service.dir / "s.sock"
    service.start("-b", f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        ask(client, "/")
        answer(client)
    assert waits(service, "accept") == (0, 0, 0)


@pytest.mark.parametrize("model", ["half-sync-half-async", "process-per-connection"])
def test_how_long_a_connection_was_between_master_and_worker(service: Daemon, model: str) -> None:
    service.start("-m", model)
    at_most = wait_stopped(service)
    count, seconds, short = waits(service, "worker")
    assert (count, short) == (1, 0)
    assert 0.3 <= seconds <= at_most
    count, seconds, short = waits(service, "accept")
    assert (count, short) == (1, 1)  # the master was not stopped


def both_have_one(service: Daemon) -> None:
    try:
        until(lambda: in_flight(service) == 2, "both threads have one")
    except AssertionError as error:
        raise AssertionError(f"{error}: {service.live()}") from error


@pytest.mark.parametrize(
    "flags",
    [
        ["--threads", "2"],
        ["--threads", "2", "--no-native"],
        ["--threads", "2", "-m", "half-sync-half-reactive"],
        ["--threads", "2", "-m", "reactor"],
        ["--threads", "2", "-m", "simulated-proactor"],
        ["--threads", "2", "-m", "proactor"],
    ],
    ids=str,
)
def test_how_long_a_request_waited_for_a_thread(service: Daemon, flags: list[str]) -> None:
    service.write_app(HELD)
    service.start("-w", "1", *flags)
    letters = iter(string.ascii_lowercase)

    def wait() -> bool:
        # Another route each time: of one that is known to take long, the second would wait, too.
        path = f"/held-{next(letters)}"
        _, before, _ = waits(service, "thread")
        (service.dir / "hold").touch()
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(service.connect()) for _ in range(3)]
            for client in clients[:2]:
                ask(client, path)
            both_have_one(service)
            ask(clients[2], path)
            time.sleep(0.3)
            release(service)
            for client in clients:
                answer(client)
        _, seconds, _ = waits(service, "thread")
        assert seconds - before <= 3 * (time.monotonic() - began)
        return seconds - before >= 0.25

    until(wait, "the third has waited", seconds=30)


# ---- processor time, and the process --------------------------------------------------------


def test_processor_time_outlives_worker_and_master(service: Daemon) -> None:
    service.expected_errors = ["SIGKILL"]
    service.write_app(BURN)
    service.start("-w", "1")
    assert service.metric("forkd_worker_cpu_seconds_total", worker="1") < 0.3
    assert service.get("/burn") == "burnt"
    seen = service.metric("forkd_worker_cpu_seconds_total", worker="1")
    assert seen >= 0.29
    pid = service.worker_pids()[0]
    os.kill(pid, signal.SIGKILL)
    until(lambda: service.worker_pids() not in ([], [pid]), "another worker")
    assert service.metric("forkd_worker_cpu_seconds_total") >= seen
    before = service.pid
    service.ok("upgrade")
    until(lambda: service.pidfile.read_text().strip() not in ("", str(before)), "a new master")
    until(lambda: service.live()["master"]["pid"] != before, "the new master answers")
    assert service.metric("forkd_worker_cpu_seconds_total") >= seen


def test_the_master_is_told_of_as_a_process(service: Daemon) -> None:
    began = time.time()
    service.start()
    page = service.admin("/metrics")[1]
    for metric in (*METRICS, *PROCESS):
        assert f"# TYPE {metric.name} {metric.kind}\n" in page, metric.name
    # Of the kernel's clock, which is that of the machine's start, in ticks.
    assert began - 2 <= service.metric("process_start_time_seconds") <= time.time() + 2
    assert 0 < service.metric("forkd_uptime_seconds") <= time.time() - began
    status = Path(f"/proc/{service.pid}/status").read_text()
    resident = next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS"))
    assert 0.5 < service.metric("process_resident_memory_bytes") / (resident * 1024) < 2
    assert service.metric("process_open_fds") >= 10


def test_durations_are_told_by_class_of_status(service: Daemon) -> None:
    service.expected_errors = ["the application failed", "Traceback"]
    service.start()
    service.get("/sleep/0.2")
    client = service.client()
    client.request("GET", "/fail")
    assert client.getresponse().status == 500
    client.close()
    until(lambda: service.metric("forkd_requests_total") == 2, "both are counted")
    name = "forkd_request_duration_seconds"
    for cls, count in (("2xx", 1), ("5xx", 1), ("1xx", 0), ("3xx", 0), ("4xx", 0), ("none", 0)):
        service.settles(count, f"{name}_count", **{"class": cls})
    assert service.metric(f"{name}_sum", **{"class": "2xx"}) >= 0.2
    service.settles(0, f"{name}_bucket", **{"class": "2xx", "le": "0.1"})
