"""The number of a worker, which the application is told: stable over replacements, reloads and deaths."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from .conftest import Daemon, until
from .test_hooks import NOTING, hooked, notes

APP = """
    import os, json

    AT_IMPORT = os.environ.get("FORKD_WORKER")

    def app(environ, start):
        numbers = [AT_IMPORT, os.environ.get("FORKD_WORKER"), environ.get("forkd.worker")]
        body = json.dumps([os.getpid(), *numbers]).encode()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]
"""


def told(service: Daemon) -> dict[int, list[object]]:
    """What each worker says, by pid: once each of those that are ready has answered."""
    found: dict[int, list[object]] = {}

    def all_have_answered() -> bool:
        pid, *rest = json.loads(service.get())
        found[pid] = rest
        return set(service.worker_pids()) <= set(found)

    until(all_have_answered, "an answer of each worker", 20)
    return {pid: found[pid] for pid in service.worker_pids()}


FLAGS = [[], ["--no-native"], ["--shed-after", "60"], ["-m", "proactor"], ["-m", "reactor"],
         ["-m", "process-per-connection"], ["--io", "blocking"], ["-m", "half-sync-half-reactive"],
         ["-m", "half-sync-half-async"], ["--threads", "4"]]  # fmt: skip


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_the_application_is_told_at_import_and_in_the_environ(
    service: Daemon, flags: list[str]
) -> None:
    service.write_app(APP)
    # With a queue of its own each worker gets a request at last, also where another is always faster.
    accept = [] if {"-m", "--io"} & set(flags) else ["--accept", "reuseport"]
    service.start("-w", "1", *flags, *accept)
    _, at_import, in_environment, in_environ = json.loads(service.get())
    assert (at_import, in_environment, in_environ) == ("1", "1", 1)


def test_with_preload_it_is_told_after_the_fork(service: Daemon) -> None:
    service.write_app(APP)
    service.start("-w", "2", "--preload", "--accept", "reuseport")
    assert sorted(told(service).values(), key=str) == [[None, "1", 1], [None, "2", 2]]


def test_it_is_the_same_after_a_death_a_reload_and_a_replacement(service: Daemon) -> None:
    service.expected_errors = ["SIGKILL"]
    service.write_app(APP)
    service.start("-w", "3", "--accept", "reuseport")
    three = [["1", "1", 1], ["2", "2", 2], ["3", "3", 3]]
    assert sorted(told(service).values(), key=str) == three
    pid = next(p for p, said in told(service).items() if said[2] == 2)
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(set(service.worker_pids()) - {pid}) == 3, "another in its place")
    assert sorted(told(service).values(), key=str) == three
    pid = next(p for p, said in told(service).items() if said[2] == 2)
    os.kill(pid, signal.SIGTERM)  # replaced: its successor is ready before it goes
    until(lambda: pid not in service.worker_pids(), "replaced")
    assert sorted(told(service).values(), key=str) == three
    before = set(service.worker_pids())
    service.ok("reload")
    until(lambda: not before & set(service.worker_pids()), "all replaced")
    assert sorted(told(service).values(), key=str) == three
    assert {w["pid"]: w["number"] for w in service.workers()} == {
        pid: said[2] for pid, said in told(service).items()
    }


def test_who_scales_down_keeps_worker_1(service: Daemon) -> None:
    service.start("-w", "3")
    first = next(w["pid"] for w in service.workers() if w["number"] == 1)
    os.kill(first, signal.SIGTERM)  # its successor is the youngest
    until(lambda: first not in [w["pid"] for w in service.live()["workers"]], "replaced")
    service.ok("scale", "1")
    until(lambda: len(service.live()["workers"]) == 1, "scaled")
    assert [w["number"] for w in service.workers()] == [1]


def test_a_hook_is_told_too(service: Daemon) -> None:
    hooked(service, NOTING.replace('"hook": hook', '"hook": hook, "said": os.environ.get("FORKD_WORKER")'))
    service.start("--hooks", "care")
    service.ok("reload")
    service.ok("stop")
    for hook in ("post_fork", "worker_ready", "worker_retiring", "worker_exit"):
        found = notes(service, hook)
        assert sorted((n["generation"], n["number"], n["said"]) for n in found) == [
            (1, 1, "1"), (1, 2, "2"), (2, 1, "1"), (2, 2, "2"),
        ]  # fmt: skip
    assert [(n["number"], n["said"]) for n in notes(service, "on_exit")] == [(None, None)]


def test_a_stream_finds_it_in_the_environment(service: Daemon) -> None:
    service.write_app("""
        import asyncio, os

        class App(asyncio.Protocol):
            def connection_made(self, transport):
                transport.write(os.environ["FORKD_WORKER"].encode())
                transport.close()
    """)
    service.start("-w", "1", app="app:App")
    host, port = until(lambda: service.live()["listeners"], "listeners")[0]["address"].split(":")
    import socket

    with socket.create_connection((host, int(port)), 10) as client:
        assert client.recv(10) == b"1"


def test_a_worker_may_run_forkd_itself_and_a_slip_is_still_said(service: Daemon) -> None:
    service.write_app(f"""
        import subprocess

        def app(environ, start):
            done = subprocess.run([{sys.executable!r}, "-m", "forkd", "check"], capture_output=True)
            body = done.stdout + done.stderr
            start("200 OK", [("Content-Length", str(len(body)))])
            return [body]
    """)
    service.start("-w", "1")
    said = service.get(timeout=30)
    assert said.startswith("ok: the built-in welcome app"), said
    service.environ["FORKD_WORKER"] = "4"
    assert "did you mean FORKD_WORKERS?" in service.run("check", *service.flags()).stdout
    del service.environ["FORKD_WORKER"]
