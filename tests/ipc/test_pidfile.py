"""The pid file: one holder, no symlink, no trouble with what a dead one left."""

from __future__ import annotations

import errno
import fcntl
import os
import select
from pathlib import Path

import pytest

from forkd.errors import ForkdError, NotRunning, StartError, SystemCallError
from forkd.ipc.pidfile import Pidfile, running


def test_it_names_its_holder_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a.pid"
    held = Pidfile.acquire(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    held.remove()
    assert not path.exists()


def test_a_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pid")
    held = Pidfile.acquire(path)
    with pytest.raises(StartError, match=f"pid {os.getpid()}"):
        Pidfile.acquire(path)
    assert running(path, "") == os.getpid()
    held.remove()


@pytest.mark.parametrize("left", ["", "999999\n", "not a pid", "-5", "9" * 100])
def test_a_stale_file_blocks_nobody(tmp_path: Path, left: str) -> None:
    path = tmp_path / "a.pid"
    path.write_text(left)
    with pytest.raises(NotRunning):
        running(str(path), "")
    held = Pidfile.acquire(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    held.remove()


def test_a_symbolic_link_is_refused_and_its_target_kept(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / "a.pid"
    link.symlink_to(target)
    with pytest.raises(ForkdError, match="ELOOP"):
        Pidfile.acquire(str(link))
    with pytest.raises(NotRunning):
        running(str(link), "")
    assert target.read_text() == "precious"


def test_somebody_elses_file_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.pid"
    held = Pidfile.acquire(str(path))
    path.unlink()
    path.write_text("another's\n")
    held.remove()
    assert path.read_text() == "another's\n"


def test_not_running_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        running(str(tmp_path / "none.pid"), "")


def test_the_descriptor_is_not_inherited_through_exec(tmp_path: Path) -> None:
    held = Pidfile.acquire(str(tmp_path / "a.pid"))
    assert not os.get_inheritable(held.fd)
    held.remove()


def test_one_that_is_just_ending_is_not_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removes its file, and then lets go of the lock: a start may come in between."""
    path = str(tmp_path / "a.pid")
    ending = Pidfile.acquire(path)
    flock = fcntl.flock

    def meanwhile(fd: int, how: int) -> None:
        if os.path.exists(path) and os.path.samestat(os.fstat(fd), os.fstat(ending.fd)):
            os.unlink(path)
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    started = Pidfile.acquire(path)
    assert Path(path).read_text() == f"{os.getpid()}\n"
    started.remove()
    os.close(ending.fd)


@pytest.mark.parametrize("attempt", range(5))
def test_of_processes_that_race_exactly_one_wins(tmp_path: Path, attempt: int) -> None:
    """They start together, behind a gate, while a former holder removes its file."""
    path = str(tmp_path / "a.pid")
    former = Pidfile.acquire(path)
    gate, open_gate = os.pipe()
    results, tell = os.pipe()
    hold, release = os.pipe()
    pids = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            try:
                os.close(open_gate)
                os.close(release)
                os.close(former.fd)
                os.read(gate, 1)
                try:
                    Pidfile.acquire(path)
                except StartError:
                    os.write(tell, b"-")
                    os._exit(0)
                os.write(tell, b"+")
                os.read(hold, 1)  # a winner keeps it until all have tried
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    os.close(gate)
    os.close(hold)
    former.remove()
    os.close(open_gate)
    answers = b""
    while len(answers) < len(pids):
        answers += os.read(results, 64)
    os.close(release)
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    os.close(results)
    os.close(tell)
    assert answers.count(b"+") == 1


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["pwrite", "ftruncate"])
def test_one_that_cannot_be_written_is_an_error_and_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    def fails(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(SystemCallError, match=errno.errorcode[error]):
            Pidfile.acquire(str(tmp_path / "x.pid"))
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before
    held = Pidfile.acquire(str(tmp_path / "x.pid"))
    held.remove()


def test_a_file_system_that_is_read_only_by_now_does_not_stop_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Pidfile.acquire(str(tmp_path / "x.pid"))

    def fails(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fails)
        held.remove()
    Pidfile.acquire(str(tmp_path / "x.pid")).remove()  # it was let go of


def test_a_device_is_no_pid_file_and_stays(tmp_path: Path) -> None:
    """As root, the end of a service with --pidfile /dev/null removed that."""
    path = tmp_path / "fifo"  # which anybody may make
    os.mkfifo(path)
    with pytest.raises(StartError, match="no regular file"):
        Pidfile.acquire(str(path))
    assert path.is_fifo()


def test_one_whose_master_is_just_gone_is_not_running(tmp_path: Path) -> None:
    """Its number is nobody's by then, and the lock is held for a moment more."""
    path = tmp_path / "a.pid"
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            Pidfile.acquire(str(path))
            path.write_text("4194304\n")  # above any pid, pid_max(5)
            os.write(write, b"!")
            select.select([], [], [], 0.3)
        finally:
            os._exit(0)
    assert os.read(read, 1) == b"!"
    with pytest.raises(NotRunning, match="nobody holds"):
        running(str(path), "")
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)
