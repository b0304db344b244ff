"""Reload: a new generation beside the old; no request is lost, and a broken one changes nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .clients import Load
from .conftest import APP, Daemon, alive, until


def test_new_code_is_served(service: Daemon) -> None:
    service.start()
    old = service.worker_pids()
    service.write_app(version="v2")
    assert "2" in service.ok("reload")
    assert service.get() == "v2"
    until(lambda: not [p for p in old if alive(p)], "the old ones gone")
    assert service.live()["master"]["generation"] == 2
    service.settles(2, "forkd_generation")
    service.settles(1, "forkd_reloads_total", result="success")


def test_broken_code_leaves_the_old_serving(service: Daemon) -> None:
    service.start()
    service.expected_errors = [""]
    old = service.worker_pids()
    service.write_app("raise LookupError('broken on purpose')\n")
    done = service.run("reload")
    assert done.returncode == 1
    assert "LookupError: broken on purpose" in done.stderr
    assert "Traceback" in done.stderr
    assert service.worker_pids() == old
    assert service.get() == "v1"
    service.settles(1, "forkd_reloads_total", result="failure")
    assert service.admin("/readyz")[0] == 200
    service.write_app(version="v3")
    service.ok("reload")
    assert service.get() == "v3"


@pytest.mark.parametrize("how", ["keep", "fresh"])
def test_hup_under_load_loses_nothing(service: Daemon, how: str) -> None:
    service.start()
    with Load(service.address, **{how: 4}) as load:
        load.more(50)
        for version in range(2, 5):
            service.write_app(version=f"v{version}")
            service.signal(signal.SIGHUP)
            until(lambda v=version: service.live()["master"]["generation"] == v, "the reload")
            load.more(50)
        until(lambda: len(service.live()["workers"]) == 2, "the old ones gone")
    assert load.failures == []
    assert load.bodies >= {b"v1", b"v4"}


RETIRES_SLOWLY = """
import os, time

def worker_retiring(*_, **__):
    open("retiring", "w").close()
    end = time.monotonic() + 10
    while not os.path.exists("go") and time.monotonic() < end:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("more", [(), ("--no-native",), ("--threads", "2")], ids=" ".join)
@pytest.mark.parametrize("io", ["epoll", "io_uring"])
def test_a_client_that_comes_while_a_worker_retires_is_answered(
    service: Daemon, io: str, more: tuple[str, ...]
) -> None:
    """It wakes one child: also where that is the one that accepts no more."""
    service.write_app(RETIRES_SLOWLY, name="care.py")
    model = "proactor" if io == "io_uring" else "leader-followers"
    service.start("--hooks", "care", "-w", "1", "-m", model, "--io", io, *more)
    (old,) = service.worker_pids()
    service.signal(signal.SIGHUP)
    until((service.dir / "retiring").exists, "the old worker retires")
    with service.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        (service.dir / "go").touch()
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    until(lambda: not alive(old), "the old one gone")


@pytest.mark.parametrize("model", ["leader-followers", "half-sync-half-async"])
def test_a_rolling_reload_has_one_more_at_a_time(service: Daemon, model: str) -> None:
    service.start("-m", model, "-w", "4", "--max-surge", "1")
    with Load(service.address, keep=4, fresh=4) as load, ThreadPoolExecutor() as executor:
        load.more(50)
        service.write_app(version="v2")
        # Looked at from its first moment: the old workers may be gone when the verb returns.
        alive_at_once, ready, live = set(), set(), service.live()["workers"]
        reloading = executor.submit(service.ok, "reload")
        while not reloading.done() or any(worker["generation"] == 1 for worker in live):
            alive_at_once.add(len(live))
            ready.add(sum(worker["state"] == "ready" for worker in live))
            assert service.admin("/readyz")[0] == 200
            live = service.live()["workers"]
        reloading.result()
        load.more(50)
    assert load.failures == []
    assert load.bodies == {b"v1", b"v2"}
    assert max(alive_at_once) <= 5
    assert min(ready) >= 4
    assert len(service.workers()) == 4


def test_a_rolling_reload_that_breaks_leaves_all_serving(service: Daemon) -> None:
    service.expected_errors = [""]
    service.start("-w", "3", "--max-surge", "1")
    old = service.worker_pids()
    service.write_app("raise LookupError('broken on purpose')\n")
    assert service.run("reload").returncode == 1
    assert service.worker_pids() == old
    assert service.get() == "v1"
    service.write_app(version="v2")
    service.ok("reload")
    until(lambda: {w["generation"] for w in service.live()["workers"]} == {2}, "all are replaced")
    assert service.get() == "v2"


def test_a_rolling_reload_is_overtaken_by_the_next(service: Daemon) -> None:
    service.start("-w", "3", "--max-surge", "1")
    with Load(service.address, keep=2, fresh=2) as load:
        for version in range(2, 6):
            service.write_app(version=f"v{version}")
            service.ok("reload")
        until(lambda: {w["generation"] for w in service.live()["workers"]} == {5}, "all the newest")
        until(lambda: len(service.live()["workers"]) == 3, "as many as wanted")
        load.more(20)
    assert load.failures == []
    assert service.get() == "v5"


def test_a_long_request_is_finished_by_the_old_generation(service: Daemon) -> None:
    service.start()
    with service.connect() as client:
        client.sendall(b"GET /sleep/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        until(lambda: [w for w in service.workers() if w["in_flight"]], "the request in flight")
        service.ok("reload")
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"slept")
        if b"connection: close" not in answer.lower():
            # The child was in the application all the time, and could not know: the next answer is
            # the last one.
            client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"connection: close" in client.recv(1000).lower()


def test_reloads_that_come_together_all_succeed(service: Daemon) -> None:
    service.start()
    for _ in range(5):
        service.signal(signal.SIGHUP)
    service.write_app(version="v2")
    service.ok("reload")
    assert service.get() == "v2"
    until(lambda: len(service.live()["workers"]) == 2, "the old ones gone")


def test_many_reloads_leak_nothing(service: Daemon) -> None:
    service.start()

    def held() -> int:
        return len(os.listdir(f"/proc/{service.pid}/fd"))

    service.ok("reload")
    until(lambda: len(service.live()["workers"]) == 2, "settled")
    before = held()
    for _ in range(4):
        service.ok("reload")
        until(lambda: len(service.live()["workers"]) == 2, "settled")
    until(lambda: held() <= before, f"{before} descriptors, as after the first; has {held()}")


# ---- the configuration file ---------------------------------------------------------------


def configure(service: Daemon, *binds: str, more: str = "") -> None:
    lines = ['app = "app:app"', 'admin = "127.0.0.1:0"', f"bind = {list(binds)!r}", more]
    (service.dir / "c.toml").write_text("\n".join(lines) + "\n")


def answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return client.recv(1000).startswith(b"HTTP/1.1 200")
    except (FileNotFoundError, ConnectionRefusedError):
        return False


def test_a_changed_file_adds_and_removes_binds(service: Daemon) -> None:
    one, two = service.dir / "one.sock", service.dir / "two.sock"
    configure(service, "127.0.0.1:0", f"unix:{one}")
    service.start("-c", "c.toml", app=None)
    address = service.address
    assert answers(one)
    with Load(address, keep=2) as load:
        load.more(10)
        configure(service, "127.0.0.1:0", f"unix:{two}", more="workers = 3")
        service.ok("reload")
        load.more(20)
    assert load.failures == []
    assert service.address == address
    assert answers(two)
    assert not answers(one)
    assert not one.exists()
    assert len(service.workers()) == 3
    shown = [x["address"] for x in service.live()["listeners"]]
    assert shown == [f"127.0.0.1:{address[1]}", f"unix:{two}"]


@pytest.mark.parametrize(
    "flags",
    [
        ["-m", "half-sync-half-async"],
        ["-m", "half-sync-half-async", "--io", "sigio"],
        ["-m", "half-sync-half-async", "--dispatch", "competition"],
        ["-m", "process-per-connection"],
        ["-m", "proactor"],
    ],
    ids=" ".join,
)
def test_an_address_is_dropped_where_the_master_accepts(service: Daemon, flags: list[str]) -> None:
    """The dispatcher has emptied its queue, and closed it, when the reload is done with it."""
    path = service.dir / "one.sock"
    configure(service, "127.0.0.1:0", f"unix:{path}")
    service.start("-c", "c.toml", *flags, app=None)
    address = service.address
    with Load(address, keep=2, fresh=1) as load:
        load.more(10)
        configure(service, "127.0.0.1:0")
        service.ok("reload")
        load.more(20)
    assert load.failures == []
    assert service.live()["master"]["generation"] == 2
    assert not answers(path)


def test_a_master_that_crashes_says_why(service: Daemon) -> None:
    """In the error log, whose logger is still there."""
    crash = service.dir / "crash"
    program = (
        "import os, sys; import forkd.master.plan as plan; usual = plan.plan;"
        f"crash = lambda scene: 1 / 0 if os.path.exists({str(crash)!r}) else usual(scene);"
        "plan.plan = crash; from forkd.__main__ import main; sys.argv = sys.argv[1:]; main()"
    )
    service.expected_errors = ["the master crashed", "Traceback"]
    started = [sys.executable, "-c", program, *service.argv("start", *service.flags())[2:]]
    subprocess.run(started, cwd=service.dir, env=service.environ, check=True, timeout=30)
    crash.touch()
    service.signal(signal.SIGHUP)
    service.gone()
    assert "the master crashed; this is a bug in forkd" in service.log()
    assert "ZeroDivisionError: division by zero" in service.log()


def test_another_address_of_its_own_port_is_for_a_restart(service: Daemon) -> None:
    """Linux allows no listener at 0.0.0.0 where there is one at an address of that port (ip(7))."""
    service.expected_errors = [""]
    configure(service, "127.0.0.1:0")
    service.start("-c", "c.toml", app=None)
    port = service.address[1]
    configure(service, f"0.0.0.0:{port}")
    done = service.run("reload")
    assert done.returncode == 1
    assert f"bind(0.0.0.0:{port}): EADDRINUSE" in done.stderr
    assert "; this daemon listens at another address of that port: forkd restart can" in done.stderr
    assert service.get() == "v1"
    service.ok("restart")
    assert service.live()["listeners"][0]["address"] == f"0.0.0.0:{port}"


def test_a_bind_that_cannot_be_made_changes_nothing(service: Daemon) -> None:
    service.expected_errors = [""]
    configure(service, "127.0.0.1:0")
    service.start("-c", "c.toml", app=None)
    address = service.address
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        configure(service, "127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}")
        done = service.run("reload")
    assert done.returncode == 1
    assert "EADDRINUSE" in done.stderr
    assert service.address == address
    assert service.get() == "v1"


def test_a_wrong_file_changes_nothing(service: Daemon) -> None:
    service.expected_errors = [""]
    configure(service, "127.0.0.1:0")
    service.start("-c", "c.toml", app=None)
    configure(service, "127.0.0.1:0", more="workers = 2\nkeep-alive = 'long'")
    done = service.run("reload")
    assert done.returncode != 0
    assert "keep-alive" in done.stderr
    assert service.get() == "v1"
    assert service.live()["master"]["generation"] == 1


def test_a_child_that_dies_during_a_reload_is_replaced(service: Daemon) -> None:
    service.start()
    service.expected_errors = ["SIGKILL"]
    service.write_app("import time; time.sleep(0.7)\n" + _flat(APP), version="v2")
    service.signal(signal.SIGHUP)
    until(lambda: len(service.live()["workers"]) == 4, "both generations")
    os.kill(service.leader()["pid"], signal.SIGKILL)
    assert service.get() == "v1"
    until(lambda: service.live()["master"]["generation"] == 2, "the reload")
    assert service.get() == "v2"


def _flat(source: str) -> str:
    import textwrap

    return textwrap.dedent(source)
