"""Each event loop with each io: what an application does in its loop, and what forkd has to hear then."""

from __future__ import annotations

import http.client
import os
import re
import signal
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.process.conftest import Daemon, until

from .conftest import dial, take

IOS = {
    "epoll": [], "poll": ["--io", "poll"], "select": ["--io", "select"], "sigio": ["--io", "sigio"],
    "io_uring": ["-m", "proactor", "--io", "io_uring"],
}  # fmt: skip
#: What is in the log of a worker that was killed on purpose.
KILLED = ["gone: timeout"]
STACKS = int(signal.SIGRTMIN) + 3


def start(service: Daemon, loop: str, io: str, *flags: str, app: str = "app") -> None:
    take(service, "loops_site")
    service.start("-w", "1", "--loop", loop, *IOS[io], *flags, app=f"loops_site:{app}")


@pytest.mark.parametrize("io", IOS)
def test_what_an_application_has_in_its_loop(service: Daemon, loop: str, io: str) -> None:
    start(service, loop, io)
    assert ("uvloop" in service.get("/loop")) == (loop == "uvloop")
    assert service.live()["master"]["loop"] == loop
    assert service.get("/timers") == "abc"
    assert service.get("/thread") == "woken"
    assert service.get("/program") == "set()"
    for size in (10, 30_000_000):
        assert service.get(f"/dial/{size}") == str(size)
    assert f", loop {loop}, " in service.log()
    assert f"(asgi, loop {loop})" in service.ok("status")


@pytest.mark.parametrize("io", IOS)
def test_what_a_protocol_has_in_its_loop(service: Daemon, loop: str, io: str) -> None:
    """It writes to a transport of its loop's in the middle of a turn of forkd's."""
    start(service, loop, io, "-k", "stream", app="Relay")
    data = os.urandom(8_000_000).translate(bytes(range(97)) + bytes(range(97, 123)) + bytes(range(123, 256)))
    with dial(service) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        found = bytearray()
        while len(found) < len(data):
            more = client.recv(1 << 20)
            assert more
            found += more
        sender.join()
    assert bytes(found) == data.upper()


@pytest.mark.parametrize("io", IOS)
def test_signals_are_heard_by_forkd_and_by_the_application(service: Daemon, loop: str, io: str) -> None:
    start(service, loop, io)
    for way in ("add", "signal", "wakeup", "removed", "default", "ignored", "no-wakeup"):
        before = count(service, signal.SIGUSR1), count(service, signal.SIGTERM)
        pid = int(service.get(f"/hear/{way}"))
        os.kill(pid, signal.SIGUSR1)  # changes nothing
        if way in ("add", "signal"):
            until(partial(heard, service, signal.SIGUSR1, before[0] + 1), way)
        assert service.get("/pid") == str(pid)
        os.kill(pid, signal.SIGTERM)
        until(lambda pid=pid: service.worker_pids() not in ([], [pid]), f"another worker, for {way}")
        until(lambda pid=pid: f"(pid {pid}) gone: SIGTERM" in service.log(), "the worker said why it went")
        if way in ("add", "signal"):
            until(partial(heard, service, signal.SIGTERM, before[1] + 1), way)


@pytest.mark.parametrize("where", ["lifespan", "import"])
def test_a_wake_up_descriptor_of_before_the_first_request(service: Daemon, loop: str, where: str) -> None:
    """uvloop has its own at the beginning of each of its runs, of which the startup is one."""
    service.environ["WAKE_UP"] = where
    start(service, loop, "epoll", "-k", "asgi")
    assert service.get("/woken") == str([int(signal.SIGALRM)])


def count(service: Daemon, number: int) -> int:
    """How often the application has heard that signal."""
    return service.log().count(f"heard by the application: {number:d}\n")


def heard(service: Daemon, number: int, times: int) -> bool:
    return count(service, number) == times


@pytest.mark.parametrize("way", ["add", "signal"])
def test_stacks_are_written_whoever_has_their_signal(service: Daemon, loop: str, way: str) -> None:
    service.expected_errors = KILLED
    start(service, loop, "epoll", "--timeout", "1")
    service.get(f"/hear/{way}")
    service.get("/block/soon")
    until(lambda: "gone: timeout" in service.log(), "the loop is held", 20)
    assert re.search(r'loops_site.py", line \d+ in sleep\b', service.log())


@pytest.mark.parametrize("way", ["soon", "later", "task", "reader"])
def test_a_loop_that_is_held_is_noticed(service: Daemon, loop: str, way: str) -> None:
    service.expected_errors = KILLED
    start(service, loop, "epoll", "--timeout", "1")
    service.get(f"/block/{way}")
    until(lambda: "gone: timeout" in service.log(), "the loop is held", 20)
    assert re.search(r'loops_site.py", line \d+ in sleep\b', service.log())
    assert service.get("/note") == "noted"


@pytest.mark.parametrize("way", ["step", "callback"])
def test_a_loop_that_is_entered_again_serves_nobody(service: Daemon, way: str) -> None:
    start(service, "asyncio", "epoll")
    service.get("/note")  # it is imported by now
    with dial(service) as other, dial(service) as client:
        client.sendall(f"GET /enter/{way} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        until(lambda: "now inside" in service.log(), "the loop runs in the middle of a step")
        other.sendall(b"GET /note HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(4096).endswith(b"through")
        assert other.recv(4096).endswith(b"noted")
    until(lambda: said(service) == ["served", "inside", "outside", "served"], "one after the other")


def test_a_protocol_that_enters_the_loop_again_serves_nobody(service: Daemon) -> None:
    start(service, "asyncio", "epoll", "-k", "stream", app="Enters")
    with dial(service) as other, dial(service) as client:
        client.sendall(b"enter")
        until(lambda: "now inside" in service.log(), "the loop runs in the middle of a turn")
        other.sendall(b"other")
        assert client.recv(100) == b"enter"
        assert other.recv(100) == b"other"
    until(lambda: said(service) == ["inside", "outside", "served"], "one after the other")


def said(service: Daemon) -> list[str]:
    return re.findall(r"\b(inside|outside|served)$", service.log(), re.MULTILINE)


def test_uvloop_is_not_entered_again(service: Daemon) -> None:
    service.expected_errors = ["Traceback", "Can't patch loop of type", "the application failed"]
    start(service, "uvloop", "epoll")
    with pytest.raises(AssertionError, match="500"):
        service.get("/enter/step")
    assert service.get("/note") == "noted"


# ---- which loop -------------------------------------------------------------------------------


@pytest.fixture
def without_uvloop(service: Daemon, tmp_path: Path) -> Daemon:
    place = tmp_path / "without"
    place.mkdir()
    (place / "uvloop.py").write_text("raise ImportError('none here', name='uvloop')")
    service.environ["PYTHONPATH"] = f"{place}:{service.environ['PYTHONPATH']}"
    take(service, "loops_site")
    return service


def test_auto_is_asyncio_without_uvloop(without_uvloop: Daemon) -> None:
    without_uvloop.start("-w", "1", app="loops_site:app")
    assert without_uvloop.live()["master"]["loop"] == "asyncio"
    assert "uvloop" not in without_uvloop.get("/loop")


def test_auto_is_uvloop(service: Daemon) -> None:
    take(service, "loops_site")
    service.start("-w", "1", app="loops_site:app")
    assert service.live()["master"]["loop"] == "uvloop"


@pytest.mark.parametrize("flags", [[], ["-k", "asgi"]], ids=" ".join)
def test_uvloop_that_is_missing_is_an_error(without_uvloop: Daemon, flags: list[str]) -> None:
    without_uvloop.expected_errors = ["--loop uvloop: uvloop is not installed", "gone: boot"]
    flags = without_uvloop.flags("--loop", "uvloop", *flags, app="loops_site:app")
    for verb in ("start", "check"):
        done = without_uvloop.run(verb, *flags)
        assert done.returncode != 0
        assert "--loop uvloop: uvloop is not installed; pip install 'forkd[uvloop]'" in done.stderr


def test_a_loop_is_no_use_to_wsgi(service: Daemon) -> None:
    service.start("-w", "1", "--loop", "uvloop")
    assert service.live()["master"]["loop"] == ""
    assert "the application has no event loop" in service.log()


@pytest.mark.parametrize("io", IOS)
def test_deadlines_and_the_end_come_in_their_time(service: Daemon, loop: str, io: str) -> None:
    start(service, loop, io, "--header-timeout", "300ms", "--keep-alive", "400ms")
    with dial(service) as silent, dial(service) as kept:
        kept.sendall(b"GET /note HTTP/1.1\r\nHost: a\r\n\r\n")
        assert kept.recv(4096).endswith(b"noted")
        assert kept.recv(4096) == b""
        assert not silent.recv(4096)
    held = http.client.HTTPConnection(*service.address, timeout=10)
    held.request("GET", "/timers")
    service.ok("stop")
    assert held.getresponse().read() == b"abc"
    held.close()
