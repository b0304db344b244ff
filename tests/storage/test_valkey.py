"""What only servers have: they are lost, they fail over, they want a password, other hosts write to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkd import storage
from forkd.config.storage_url import StorageURL
from forkd.storage import Storage
from forkd.storage.valkey import ValkeyEngine
from forkd.storage.valkey_client import Client
from tests.process.conftest import until
from tests.storage.servers import Server, Watched, free_ports, started_watched

SECRET = "s3cr3t-w0rd"


@pytest.fixture
def engine() -> str:
    return "valkey"


@contextlib.contextmanager
def opened(url: str) -> Iterator[Storage]:
    s = storage.open(url)
    try:
        yield s
    finally:
        s.close()


def answers(s: Storage) -> bool:
    try:
        s.incr("answers")
    except storage.Unavailable:
        return False
    return True


# ---- a server that is lost ------------------------------------------------------------------


def test_there_is_no_server(tmp_path: Path) -> None:
    for url in (f"valkey+unix:{tmp_path}/none", "valkey://127.0.0.1:1", "valkey+cluster://127.0.0.1:1"):
        with opened(url) as s, pytest.raises(storage.Unavailable) as raised:
            s.get("k")
        assert raised.value.__cause__ is not None
    with opened("valkey+sentinel://127.0.0.1:1/main") as s, pytest.raises(storage.Unavailable):
        s.get("k")


def test_a_server_that_is_stopped_holds_up_nobody() -> None:
    with Server.started() as server, opened(f"valkey+unix:{server.socket}?timeout=200ms") as s:
        s["k"] = b"v"
        lock = s.lock("l", lease=60)
        assert lock.acquire()
        server.process.send_signal(signal.SIGSTOP)
        for call in (lambda: s["k"], lambda: s.incr("n"), lambda: s.queue("q").put(b""), lock.renew):
            with pytest.raises(storage.Unavailable, match=r"[Tt]imeout"):
                call()
        server.process.send_signal(signal.SIGCONT)
        until(lambda: answers(s), "it answers again")
        assert s["k"] == b"v"


def test_a_wait_for_a_thread_is_part_of_a_call() -> None:
    """Of many calls to a stopped server those that no thread gets to end with the others, and not in turn."""

    async def main(s: Storage, server: Server) -> None:
        await s.aio.set("k", b"v")
        server.process.send_signal(signal.SIGSTOP)
        calls = [s.aio.get("k") for _ in range(200)]
        calls.append(s.aio.queue("q").get(wait=0))
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert {isinstance(error, storage.Unavailable) for error in found} == {True}
        assert sum("no thread" in str(error) for error in found) > 100
        server.process.send_signal(signal.SIGCONT)
        while True:
            try:
                assert await s.aio.get("k") == b"v"
                break
            except storage.Unavailable:
                continue

    with Server.started() as server, opened(f"valkey+unix:{server.socket}?timeout=200ms") as s:
        asyncio.run(asyncio.wait_for(main(s, server), 60))


def test_a_server_that_comes_back_is_found() -> None:
    with Server.started() as server, opened(f"valkey+unix:{server.socket}") as s:
        s["k"] = b"v"
        server.stop()
        with pytest.raises(storage.Unavailable):
            s.get("k")
        server.start()
        until(lambda: answers(s), "it is there")
        assert "k" not in s  # a script that it no longer has is sent again
        assert s.lock("l").acquire(0)


def test_a_subscription_to_a_server_that_is_lost() -> None:
    with Server.started() as server, opened(f"valkey+unix:{server.socket}?timeout=200ms") as s:
        reader = s.subscribe("c")
        server.stop()
        with pytest.raises(storage.Unavailable):
            reader.get(5)
        reader.close()


def test_a_server_without_room() -> None:
    options = ("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    with Server.started(*options) as server, opened(f"valkey+unix:{server.socket}") as s:
        for fill in (lambda: s.set(os.urandom(8), b"x" * 100_000), lambda: s.queue("q").put(b"x" * 100_000)):
            with pytest.raises(storage.Full):
                for _ in range(100):
                    fill()


def test_check_names_a_policy_that_evicts_locks() -> None:
    options = ("--maxmemory-policy", "allkeys-lru")
    with Server.started(*options) as server, opened(f"valkey+unix:{server.socket}") as s:
        assert ["allkeys-lru evicts locks" in text for text in s.check()] == [True]


# ---- passwords ------------------------------------------------------------------------------


def test_a_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    with contextlib.ExitStack() as stack:
        server = Server(tmp_path, 0, "--requirepass", SECRET)
        stack.callback(server.stop)
        until(lambda: server.cli("PING", password=SECRET) == "PONG", "it answers")
        with opened(f"valkey+unix://:{SECRET}@{server.socket}") as s:
            s["k"] = b"v"
            assert SECRET not in repr(s)
        with opened(f"valkey+unix:{server.socket}?password-file={file}") as s:
            assert s["k"] == b"v"
        for place in ("", ":wr0ng@"):
            with opened(f"valkey+unix://{place}{server.socket}") as s:
                with pytest.raises(storage.Unavailable, match=r"password|NOAUTH|Authentication") as raised:
                    s.get("k")
                assert "wr0ng" not in str(raised.value) + str(raised.value.__cause__)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_password_file_that_others_may_read(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    file.chmod(mode)
    with opened(f"valkey://127.0.0.1:1?password-file={file}") as s, pytest.raises(storage.Error) as raised:
        s.get("k")
    assert f"{mode:04o}" in str(raised.value)
    assert SECRET not in str(raised.value)


# ---- forks, and other hosts -----------------------------------------------------------------


def test_a_child_has_a_connection_of_its_own(s: Storage) -> None:
    s["k"] = b"v"
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = 0 if [s.incr("n") for _ in range(50)] and s["k"] == b"v" else 2
        finally:
            os._exit(code)
    for _ in range(50):
        s.incr("n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert s["n"] == 100


def test_a_lock_of_another_host_ends_with_its_lease(url: str) -> None:
    here, there = ValkeyEngine(StorageURL.parse(url)), ValkeyEngine(StorageURL.parse(url))
    there._me = "another-boot/4026531836/1/1"
    assert there.acquire(b"l", 0.3)
    assert here.acquire(b"l", 5) is None
    until(lambda: here.acquire(b"l", 5), "its lease is over")
    here.close()
    there.close()


# ---- failover -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with started_watched() as watched:
        yield watched


def failed_over(watched: Watched) -> None:
    """Kill the primary, and bring it back as a replica."""
    old = watched.primary()
    old.stop()
    until(lambda: watched.primary() is not old, "another is the primary", 60)
    old.start()

    def follows() -> bool:
        # The Sentinels do that as well, after some 20 s; and undo it, where they have not agreed yet.
        old.cli("REPLICAOF", "127.0.0.1", str(watched.primary().port))
        return "master_link_status:up" in old.cli("INFO")

    until(follows, "it follows", 60)


def test_tokens_never_go_back_over_failovers(watched: Watched) -> None:
    """A replica may lack the last tokens; the greater of the last and the clock is beyond them all the same.
    What was acknowledged long before the failover is there."""
    tokens: list[int] = []
    rounds = int(os.environ.get("STORAGE_FAILOVERS", "2"))
    with opened(watched.url + "?timeout=500ms&wait=1") as s:
        until(lambda: answers(s), "it answers", 60)
        s["k"] = b"v"
        for number in range(rounds):
            for _ in range(3):
                lock = s.lock("l", lease=30)
                token = until(lambda lock=lock: lock.acquire(0), "it is free", 60)
                tokens.append(token)
                s.set("guarded", number, fence=token)
                lock.release()
            failed_over(watched)
            until(lambda: answers(s), "it answers again", 60)
            assert s["k"] == b"v"
            assert s["guarded"] == number
            with pytest.raises(storage.Fenced):
                s.set("guarded", -1, fence=tokens[-1] - 1)
    assert tokens == sorted(set(tokens))


def test_a_write_that_no_replica_has_is_no_success(watched: Watched) -> None:
    url = watched.url + "?timeout=500ms&wait=2"
    with opened(url) as s, pytest.raises(storage.Unavailable, match="1 of 2 replicas"):
        s["k"] = b"v"


def test_a_server_that_is_deposed_after_the_write() -> None:
    """It refuses WAIT then: whether the write stays is not known."""
    with Server.started() as server:
        client = Client(StorageURL.parse(f"valkey+unix:{server.socket}?wait=1"))
        with contextlib.closing(client), pytest.raises(storage.Unavailable, match="replica"):
            client.write("REPLICAOF", "127.0.0.1", 1)


# ---- the form of a name ---------------------------------------------------------------------


def test_keys_of_one_thing_have_one_hash_tag(s: Storage, server: Server, url: str) -> None:
    for key in ("a", "a}b", "{a}", "%", "}"):
        with s.lock(key, lease=60) as token:
            s.set(key, b"v", fence=token)
            s.queue(key, tries=1).put(b"")
            job = s.queue(key, tries=1).get()
            assert job is not None
            job.retry()
            assert s.queue(key, tries=1).get() is None
            assert s.queue(key).dead.get() is not None
    prefix = re.sub(".*prefix=", "", url)
    names = server.cli("KEYS", f"{prefix}:*").splitlines()
    assert len(names) > 20
    for name in names:
        assert re.fullmatch(rf"{prefix}:[a-z]:\{{[^}}]+\}}[^}}]*", name)


def test_threads_share_the_pool(s: Storage) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                s.incr("n")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert s["n"] == 400


# ---- TLS ------------------------------------------------------------------------------------


def test_tls(tmp_path: Path) -> None:
    """The server is told by a certificate that `tls-ca` names; without it nothing is said to it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (port,) = free_ports(1)
    options = ("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key))
    with Server.started(*options, "--tls-auth-clients", "no") as server:
        assert server.process.poll() is None
        with opened(f"valkeys://127.0.0.1:{port}?tls-ca={certificate}") as s:
            s["k"] = b"v"
            assert s["k"] == b"v"
        url = f"rediss://127.0.0.1:{port}"
        with opened(url) as s, pytest.raises(storage.Unavailable, match="certificate"):
            s.get("k")
