"""A storage unit in shared memory: what its processes share outlives each of them, and a reload and an
upgrade; what one of them held is free when it dies."""

from __future__ import annotations

import json
import os
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from forkd.models import registry

from .conftest import Daemon, alive, until

#: The path is a verb and its arguments.
APP = """
    import ctypes, fcntl, json, mmap, os, time
    from forkd.storage.engine import Waits
    from forkd.storage.shm import Shm
    from forkd.system import shared

    VERSION = "v1"
    names = list(shared.places())
    at_import = [Shm.open("default").incr(b"imports", 1, None)] if "default" in names else []

    def wait(unit, name, seconds):
        end = time.monotonic() + seconds
        while (token := unit.acquire(name, 1000.0)) is None and time.monotonic() < end:
            unit.wait(Waits.LOCK, name, end - time.monotonic())
        return token

    def tried(call):
        try:
            return repr(call())
        except Exception as error:
            return type(error).__name__

    def protect():
        address = page_address()
        return ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), 4096, mmap.PROT_READ | mmap.PROT_WRITE)

    def page_address():
        for line in open("/proc/self/maps"):
            if "forkd-incarnations" in line:
                return int(line.partition("-")[0], 16)

    def app(environ, start):
        _, verb, *args = environ["PATH_INFO"].split("/")
        name = environ.get("QUERY_STRING") or "default"
        found = Shm.open(name) if verb else None
        key = args[0].encode() if args else b""
        if verb == "incr":
            said = found.incr(key, 1, None)
        elif verb == "get":
            said = (lambda entry: entry and entry.value)(found.get(key))
        elif verb == "set":
            said = found.put(key, args[1], None)
        elif verb == "acquire":
            said = found.acquire(key, 1000.0), os.getpid()
        elif verb == "wait":
            said = wait(found, key, float(args[1])), os.getpid()
        elif verb == "fork":
            pid = os.fork()
            if not pid:
                Shm.open(name).acquire(key, 1000.0)
                os._exit(0)
            os.waitpid(pid, 0)
            said = Shm.open(name).acquire(key, 1000.0) is not None
        elif verb == "harm":
            mapped = shared.table_of(name)
            page = shared._Entered.units.page
            attempts = [
                lambda: os.ftruncate(mapped.fd, 0), lambda: os.ftruncate(page, 0),
                lambda: os.posix_fallocate(mapped.fd, 0, 1 << 30), lambda: os.pwrite(page, b"x", 0),
                lambda: mmap.mmap(page, os.fstat(page).st_size),
                lambda: fcntl.fcntl(mapped.fd, fcntl.F_ADD_SEALS, 1),
            ]
            pages = [line for line in open("/proc/self/maps") if "forkd-incarnations" in line]
            said = [[tried(attempt) for attempt in attempts], protect(), pages]
        elif verb == "ruin":
            shared.table_of(name).memory[:64] = bytes(64)
            said = True
        elif verb == "stats":
            said = found.stats()._asdict() | {"check": found.check()}
        else:
            said = {"pid": os.getpid(), "names": names, "version": VERSION, "imports": at_import}
        body = json.dumps(said).encode()
        start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
"""


@pytest.fixture
def shared(service: Daemon) -> Daemon:
    service.write_app(APP)
    service.expected_errors = ["gone: SIGKILL"]
    return service


def ask(service: Daemon, path: str) -> Any:
    return json.loads(service.get(path))


@pytest.mark.parametrize("model", [row.name for row in registry.MODELS])
def test_workers_share_it_under_every_model(shared: Daemon, model: str) -> None:
    shared.start("--storage", "shm:4m", "-m", model)
    assert sorted(ask(shared, "/incr/n") for _ in range(50)) == list(range(1, 51))


@pytest.mark.parametrize("flags", [[], ["--preload"], ["--no-native"]])
def test_it_outlives_workers_reloads_and_upgrades(shared: Daemon, flags: list[str]) -> None:
    shared.start("--storage", "shm:4m", *flags)
    assert ask(shared, "/set/k/value")
    for pid in shared.worker_pids():
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(shared.workers()) == 2, "others")
    assert ask(shared, "/get/k") == "value"
    shared.write_app(APP, "v2")
    shared.ok("reload")
    assert ask(shared, "/")["version"] == "v2" and ask(shared, "/get/k") == "value"
    old = shared.pid
    shared.ok("upgrade")
    until(lambda: not alive(old), "the old master gone")
    assert ask(shared, "/get/k") == "value"
    assert ask(shared, "/stats")["check"] == []


def test_native_code_and_the_twin_share_it_during_a_reload(shared: Daemon) -> None:
    config = shared.dir / "forkd.toml"
    text = 'app = "app:app"\nbind = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\nworkers = 2\nstorage = "shm:4m"\n'
    config.write_text(text)
    shared.start("-c", str(config), app=None)
    asked = 0
    for native in (False, True, False):
        config.write_text(f"{text}native = {str(native).lower()}\n")
        shared.ok("reload")
        for _ in range(20):
            asked += 1
            assert ask(shared, "/incr/n") == asked


def test_several_units(shared: Daemon) -> None:
    shared.start("--storage", "shm:4m", "--storage", "sessions=shm:2m")
    assert ask(shared, "/")["names"] == ["default", "sessions"]
    ask(shared, "/set/k/one"), ask(shared, "/set/k/two?sessions")
    assert ask(shared, "/get/k") == "one" and ask(shared, "/get/k?sessions") == "two"


def test_none_is_none(shared: Daemon) -> None:
    shared.start()
    assert ask(shared, "/")["names"] == []
    links = [os.readlink(path) for path in Path(f"/proc/{shared.pid}/fd").iterdir()]
    assert not [link for link in links if "incarnations" in link or "storage" in link]


def test_a_lock_is_free_when_its_holder_dies(shared: Daemon) -> None:
    shared.start("--storage", "shm:4m")
    token, holder = ask(shared, "/acquire/l")
    assert ask(shared, "/acquire/l")[0] is None
    # A worker that is stopped behind its answer, before it has counted it, counts it for ever.
    until(lambda: shared.metric("forkd_requests_in_flight") == 0, "both have been counted")
    os.kill(holder, signal.SIGSTOP)  # so that another one waits
    with closing(shared.client(30)) as client:
        client.request("GET", "/wait/l/25")
        until(lambda: shared.metric("forkd_requests_in_flight") == 1, "it waits")
        os.kill(holder, signal.SIGKILL)
        found = json.loads(client.getresponse().read())
    assert found[0] > token and found[1] != holder


def test_a_process_that_a_worker_has_forked_has_no_slot(shared: Daemon) -> None:
    shared.start("--storage", "shm:4m")
    assert ask(shared, "/fork/l") is True  # it has ended, so that the lock was free


def test_a_hook_of_the_daemon_has_it(shared: Daemon) -> None:
    shared.write_app(
        """
        from forkd import storage
        def on_starting(place):
            storage.open()["k"] = "from a hook"
        """,
        name="hooks.py",
    )
    shared.start("--storage", "shm:4m", "--hooks", "hooks")
    assert ask(shared, "/get/k") == "from a hook"


def test_a_worker_cannot_harm_the_memfds(shared: Daemon) -> None:
    shared.start("--storage", "shm:4m")
    errors, protected, pages = ask(shared, "/harm")
    assert errors == ["PermissionError"] * 6 and protected == -1
    assert pages and all(" r--s " in page for page in pages)
    assert ask(shared, "/incr/n") == 1


def test_a_header_that_was_written_over(shared: Daemon) -> None:
    """New workers have it from the master; a new master begins with an empty table, and says so."""
    shared.start("--storage", "shm:4m")
    assert ask(shared, "/set/k/value") and ask(shared, "/ruin")
    shared.ok("reload")
    assert ask(shared, "/get/k") == "value"
    old = shared.pid
    shared.ok("upgrade")
    until(lambda: not alive(old), "the old master gone")
    assert ask(shared, "/get/k") is None
    assert "storage default: begins empty; of the table from before: it does not begin as one" in shared.log()


def test_a_reload_keeps_the_size_and_says_so(shared: Daemon) -> None:
    config = shared.dir / "forkd.toml"
    text = 'app = "app:app"\nbind = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\nworkers = 2\n'
    config.write_text(f'{text}storage = "shm:4m"\n')
    shared.start("-c", str(config), app=None)
    before = ask(shared, "/stats")["limit"]
    config.write_text(f'{text}storage = "shm:8m"\n')
    assert "storage" in shared.ok("reload") + shared.log()
    assert ask(shared, "/stats")["limit"] == before
    old = shared.pid
    shared.ok("upgrade")
    until(lambda: not alive(old), "the old master gone")
    assert ask(shared, "/stats")["limit"] == before and "keeps its" in shared.log()
    shared.ok("restart", "-c", str(config))
    assert ask(shared, "/stats")["limit"] > before
