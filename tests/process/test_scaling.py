"""MIN:MAX workers: more when somebody waits and nobody is free, fewer when idle, the first on demand."""

from __future__ import annotations

import threading

import pytest

from .conftest import Service, until
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
def test_up_with_waiters_and_down_when_idle(service: Service, flags: list[str]) -> None:
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
def test_the_first_child_on_demand(service: Service, flags: list[str]) -> None:
    service.open_up()
    service.start("-w", "0:2", "--scale-down-after", "1", *flags)
    until(lambda: not service.live()["workers"], "none: who has proved the application has gone")
    assert service.admin("/readyz")[0] == 200
    assert service.get() == "v1"
    assert len(service.workers()) == 1
    until(lambda: not service.live()["workers"], "none again", 15)
    assert service.get() == "v1"


def test_a_range_is_kept_by_scale_and_signals(service: Service) -> None:
    service.start("-w", "1:2")
    assert service.run("scale", "3").returncode == 1
    assert service.run("scale", "0").returncode == 1
    service.ok("scale", "2")
    until(lambda: len(service.workers()) == 2, "two")
