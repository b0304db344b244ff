"""MIN:MAX workers: more when clients wait and no worker is free, fewer when idle, the first on demand. How
many there may be, and where that is said."""

from __future__ import annotations

import re
import signal
import threading

import pytest

from .conftest import Daemon, until
from .test_privileges import root_only

#: Who accepts; and with the ids of another user, whose master hears of who waits by epoll.
ways = pytest.mark.parametrize(
    "flags",
    [
        ["--accept", "lock"],
        ["--accept", "exclusive"],
        pytest.param(["--accept", "lock", "--user", "nobody"], marks=root_only),
        pytest.param(["--accept", "exclusive", "--user", "nobody"], marks=root_only),
    ],
    ids=" ".join,
)


@ways
def test_up_with_waiters_and_down_when_idle(service: Daemon, flags: list[str]) -> None:
    service.open_up()
    service.start("-w", "1:3", "--scale-down-after", "1", *flags)
    assert len(service.workers()) == 1
    answers: list[str] = []
    threads = []
    for number in (1, 2, 3):  # each comes when all children there are work: it has to wait
        threads.append(threading.Thread(target=lambda: answers.append(service.get("/sleep/2"))))
        threads[-1].start()
        until(
            lambda number=number: len([w for w in service.workers() if w["in_flight"]]) == number,
            f"{number} children at work",
        )
    for thread in threads:
        thread.join(20)
    assert answers == ["slept"] * 3
    assert service.live()["doorbell"]["rings"] > 0
    until(lambda: len(service.live()["workers"]) == 1, "one child again", 15)
    assert service.get() == "v1"


@ways
def test_the_first_child_on_demand(service: Daemon, flags: list[str]) -> None:
    service.open_up()
    service.start("-w", "0:2", "--scale-down-after", "1", *flags)
    until(lambda: not service.live()["workers"], "none: who has proved the application has gone")
    assert service.admin("/readyz")[0] == 200
    assert service.get() == "v1"
    # One; and the other, if the first had no processor yet when the master looked who is idle.
    assert len(service.workers()) in (1, 2)
    until(lambda: " scaling up to 1: " in service.log(), "the line")
    until(lambda: not service.live()["workers"], "none again", 15)
    assert service.get() == "v1"


def test_a_range_is_kept_by_scale_and_signals(service: Daemon) -> None:
    service.start("-w", "1:2")
    assert service.run("scale", "3").returncode == 1
    assert service.run("scale", "0").returncode == 1
    service.ok("scale", "2")
    until(lambda: len(service.workers()) == 2, "two")


def test_the_limit_is_named_wherever_it_is_met(service: Daemon) -> None:
    service.expected_errors = ["SIGTTIN: ", "reload failed"]
    config = service.dir / "f.toml"
    text = "bind = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\n"
    config.write_text(text + "workers = 2\nmax-workers = 3\n")
    service.start("-c", str(config))
    assert "2 ready, 2 wanted, at most 3\n" in service.ok("status")
    assert service.live()["master"]["workers_limit"] == 3
    said = "4 workers: the number goes from 0 to 3 (--max-workers)"
    done = service.run("scale", "4")
    assert done.returncode == 1 and said in done.stderr
    assert service.ok("scale", "3") == "3 workers\n"
    done = service.run("scale", "+1")
    assert done.returncode == 1 and said in done.stderr
    service.signal(signal.SIGTTIN)
    until(lambda: re.search(rf"error master: SIGTTIN: {re.escape(said)}", service.log()), "the same")
    # A reload has room for as many again, and for no more.
    service.ok("reload")
    assert len(service.workers()) == 3
    config.write_text(text + "workers = 4\nmax-workers = 4\n")
    done = service.run("reload")
    assert done.returncode == 1
    assert "workers 4: there may be up to 3 (--max-workers) until the next restart" in done.stderr
    assert len(service.workers()) == 3
    service.ok("restart")
    assert "4 ready, 4 wanted, at most 4\n" in service.ok("status")


@pytest.mark.parametrize(
    ("flags", "limit"),
    [(["-w", "2"], 16), (["-w", "9"], 18), (["-w", "1:2"], 2), (["--accept", "reuseport"], 2)],
    ids=str,
)
def test_the_limit_without_the_option(service: Daemon, flags: list[str], limit: int) -> None:
    service.start(*flags)
    assert f" wanted, at most {limit}\n" in service.ok("status")
    done = service.run("scale", str(limit + 1))
    assert done.returncode == 1
    if limit >= 16:
        assert f"{limit + 1} workers: the number goes from 0 to {limit} (--max-workers)" in done.stderr


def test_more_than_twice_the_workers(service: Daemon) -> None:
    service.start("-w", "1", "--max-workers", "20")
    assert service.ok("scale", "20") == "20 workers\n"
    until(lambda: len(service.workers()) == 20, "all of them", 60)
    service.ok("reload")
    until(lambda: len(service.live()["workers"]) == len(service.workers()) == 20, "all anew", 60)
    assert service.get() == "v1"
