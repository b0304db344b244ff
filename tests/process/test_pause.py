"""No workers at all, and nothing that would bring one back: paused, by whichever way."""

from __future__ import annotations

import signal

import pytest

from .conftest import Daemon, until


@pytest.mark.parametrize("how", ["scale 0", "scale -2", "SIGTTOU", "SIGWINCH"])
def test_each_way_to_no_workers_is_the_same_state(service: Daemon, how: str) -> None:
    service.start("-w", "2" if how.startswith("scale") else "1")
    if how.startswith("scale"):
        done = service.run("scale", how.split()[1])
        assert (done.returncode, done.stdout) == (0, "0 workers\n")
        assert "clients wait" in done.stderr
    else:
        service.signal(getattr(signal, how))
    until(lambda: not service.live()["workers"], "no children")
    since = "SIGWINCH" if how == "SIGWINCH" else "a scale to 0"
    also = "SIGHUP, " if how == "SIGWINCH" else ""
    why = f"no workers since {since}: clients wait; {also}SIGTTIN or `forkd scale N` brings workers back"
    assert service.admin("/readyz") == (503, why + "\n")
    assert service.admin("/healthz")[0] == 200
    service.settles(0, "forkd_ready")
    master = service.live()["master"]
    assert (master["state"], master["why"]) == ("paused", why)
    shown = service.ok("status")
    assert shown.splitlines()[0].endswith(" paused") and why in " ".join(shown.split())
    service.ok("reload")  # brings the configured number back after SIGWINCH, and keeps what was asked for
    if how != "SIGWINCH":
        until(lambda: not service.live()["workers"], "who has proved the application has gone")
        assert service.admin("/readyz") == (503, why + "\n")
        service.ok("scale", "1")
    until(lambda: service.admin("/readyz")[0] == 200, "ready again")
    assert service.live()["master"]["state"] == "running"
    assert len(service.workers()) == 1
    assert service.get() == "v1"


def test_who_waits_meanwhile_is_served_by_the_first_worker(service: Daemon) -> None:
    service.start()
    service.ok("scale", "0")
    until(lambda: not service.live()["workers"], "no children")
    with service.connect() as waiting:
        waiting.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        service.ok("scale", "1")
        assert waiting.recv(1000).startswith(b"HTTP/1.1 200")
    assert service.admin("/readyz")[0] == 200


def test_none_is_no_pause_where_a_connection_brings_one(service: Daemon) -> None:
    service.start("-w", "0:2", "--scale-down-after", "1")
    done = service.run("scale", "0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 workers\n", "")
    until(lambda: not service.live()["workers"], "no children")
    assert service.admin("/readyz") == (200, "ok\n")
    assert service.live()["master"]["state"] == "running"
    assert service.get() == "v1"


def test_who_cannot_scale_is_not_told_to(service: Daemon) -> None:
    service.start("-w", "1", "--accept", "reuseport")
    service.signal(signal.SIGWINCH)
    until(lambda: not service.live()["workers"], "no children")
    why = "no workers since SIGWINCH: clients wait; SIGHUP brings workers back"
    assert service.admin("/readyz") == (503, why + "\n")
    service.ok("reload")
    until(lambda: service.admin("/readyz")[0] == 200, "ready again")
