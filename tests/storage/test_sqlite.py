"""What only the file has: its lock and those who hold it, forks, its size, a full disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkd import storage
from forkd.storage import Storage
from tests.process.conftest import until


@pytest.fixture
def engine() -> str:
    return "sqlite"


@contextlib.contextmanager
def holding(path: Path) -> Iterator[int]:
    """A process that has the writers' lock, as one that was stopped in the middle of a write."""
    code = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX); print(1, flush=True); input()"
    command = [sys.executable, "-c", code.replace("open(", "f := open("), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        try:
            yield process.pid
        finally:
            process.kill()


def in_child(run: object) -> int:
    """The exit code of a child in which it was run."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            assert callable(run)
            run()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_writer_that_is_stopped_is_named(s: Storage, tmp_path: Path) -> None:
    s["k"] = b"v"
    with holding(tmp_path / "unit.db.lock") as pid:
        for write in (lambda: s.set("k", b"w"), lambda: s.incr("n"), lambda: s.lock("l").acquire(0)):
            with pytest.raises(storage.Stalled, match=str(pid)) as raised:
                write()
            assert raised.value.pid == pid
        assert s["k"] == b"v"  # readers need no lock
        assert s.stats().stalls == 3
    s["k"] = b"w"  # the kernel has released it
    assert s["k"] == b"w"


def test_another_program_that_locks_the_file(s: Storage, tmp_path: Path) -> None:
    s["k"] = b"v"
    other = sqlite3.connect(tmp_path / "unit.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(storage.Stalled, match="not forkd"):
        s["k"] = b"w"
    other.execute("ROLLBACK")
    s["k"] = b"w"
    other.close()


def test_a_child_opens_it_anew(s: Storage) -> None:
    s["k"] = b"v"

    def child() -> None:
        assert s["k"] == b"v"
        s["k"] = b"child"
        assert s.incr("n") == 1

    assert in_child(child) == 0
    assert s["k"] == b"child"
    assert s.incr("n") == 2


def test_a_child_does_not_hold_the_lock_of_its_parent(s: Storage, tmp_path: Path) -> None:
    """A fork by another thread, while this one writes: the copy of the descriptor is closed there."""
    s["k"] = b"v"
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    inode = os.stat(tmp_path / "unit.db.lock").st_ino
    fds = Path(f"/proc/{pid}/fd")
    until(lambda: inode not in {os.stat(fd).st_ino for fd in fds.iterdir() if fd.exists()}, "it is closed")
    os.close(write)
    os.close(read)
    os.waitpid(pid, 0)


def test_a_child_that_ends_leaves_the_file_to_its_parent(s: Storage) -> None:
    s["k"] = b"v"
    for _ in range(5):
        assert in_child(lambda: None) == 0
        assert in_child(s.close) == 0
        s.incr("n")
    assert s["n"] == 5
    assert s.check() == []


def test_a_lock_of_a_child_is_free_when_that_dies(s: Storage) -> None:
    assert in_child(lambda: s.lock("l", lease=600).acquire(0)) == 0
    assert s.lock("l").acquire(wait=30)


def test_only_the_owner_may_read_it(s: Storage, tmp_path: Path) -> None:
    s["k"] = b"v"
    s.subscribe("c").close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes.pop("unit.db.channels") == 0o700
    assert set(modes) == {"unit.db", "unit.db-wal", "unit.db-shm", "unit.db.lock"}
    assert set(modes.values()) == {0o600}


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database\n" * 100)
    with pytest.raises(storage.Damaged, match="text"):
        storage.open(f"sqlite:{tmp_path}/text").get("k")
    db = sqlite3.connect(tmp_path / "other.db")
    db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(storage.Damaged, match="layout"):
        storage.open(f"sqlite:{tmp_path}/other.db").get("k")
    with pytest.raises(storage.Unavailable, match="none"):
        storage.open(f"sqlite:{tmp_path}/none/unit.db").get("k")


def test_what_is_written_outlives_all_processes(url: str) -> None:
    code = f"from forkd import storage; s = storage.open({url!r}); s['k'] = b'v'; s.queue('q').put(7)"
    subprocess.run([sys.executable, "-c", code + "; import os; os.kill(os.getpid(), 9)"], timeout=60)
    s = storage.open(url)
    assert s["k"] == b"v"
    job = s.queue("q").get()
    assert job is not None
    assert job.data == 7
    s.close()


# ---- bounds ---------------------------------------------------------------------------------


def test_values_are_evicted_and_nothing_else_is(url: str) -> None:
    s = storage.open(url + "?limit=2m")
    lock = s.lock("held", lease=600)
    token = lock.acquire(0)
    assert token
    s.set("fenced", b"", fence=token)
    for i in range(20):
        s.queue("q").put(i)
    s.limit("l", "1/day")
    s["counter"] = 5
    for i in range(3000):
        s.set(f"k{i}", b"x" * 4000, ttl=None if i % 2 else 1000 + i)
        if not i % 500:
            s.incr("counter")
    stats = s.stats()
    assert stats.evictions
    assert stats.bytes is not None
    assert stats.bytes <= 2 << 20
    assert s["k2999"] == b"x" * 4000
    assert s["counter"] == 11
    assert s.lock("held").acquire(0) is None
    assert lock.renew(600)
    with pytest.raises(storage.Fenced):
        s.set("fenced", b"", fence=token - 1)
    assert not s.limit("l", "1/day").allowed
    for i in range(20):
        job = s.queue("q").get()
        assert job is not None
        assert job.data == i
    assert s.check() == []
    s.close()


def test_what_may_not_be_evicted_fills_it(url: str) -> None:
    s = storage.open(url + "?limit=1m")
    s.set("value", b"x" * 100_000)
    with pytest.raises(storage.Full):
        for _ in range(1000):
            s.queue("q").put(b"x" * 10_000)
    assert "value" not in s
    count = len(s.queue("q"))
    assert count > 50
    job = s.queue("q").get()
    assert job is not None
    assert job.ack()
    s.queue("q").put(b"again")
    assert len(s.queue("q")) == count
    assert s.check() == []
    s.close()


def test_what_is_over_is_deleted_in_time(s: Storage, tmp_path: Path) -> None:
    for i in range(100):
        s.set(f"k{i}", b"x", ttl=0.001)
    until(lambda: "k99" not in s, "they are over")
    for _ in range(256):
        s.incr("n")
    db = sqlite3.connect(tmp_path / "unit.db")
    assert db.execute("SELECT count(*) FROM cache").fetchone() == (1,)
    db.close()


def test_a_full_disk(tmp_path: Path) -> None:
    """In a mount namespace of its own, where that may be made."""
    code = f"""
import subprocess, sys
from forkd import storage
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", {str(tmp_path)!r}]).returncode:
    sys.exit(77)
s = storage.open("sqlite:{tmp_path}/unit.db")
s["old"] = b"v"
try:
    for i in range(1000):
        s[f"k{{i}}"] = b"x" * 100_000
except storage.Full as error:
    assert "full" in str(error), error
    assert error.__cause__ is not None
    assert s["old"] == b"v"
    sys.exit(0)
sys.exit(1)
"""
    command = ["unshare", "-m", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this process may not mount")
    assert done.returncode == 0, done.stderr


def test_two_files_are_two_units(tmp_path: Path) -> None:
    first, second = storage.open(f"sqlite:{tmp_path}/a"), storage.open(f"sqlite:{tmp_path}/b")
    first["k"] = b"1"
    assert "k" not in second
    first.close()
    second.close()


def test_a_writer_waits_for_one_that_is_quick(s: Storage, tmp_path: Path) -> None:
    s["k"] = b"v"
    with open(tmp_path / "unit.db.lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pid = os.fork()
        if not pid:
            code = 1
            with contextlib.suppress(storage.Error):
                s["k"] = b"w"
                code = 0
            os._exit(code)
        fcntl.flock(file, fcntl.LOCK_UN)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert s["k"] == b"w"
