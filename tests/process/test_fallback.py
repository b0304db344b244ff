"""The directory in /tmp in which a user without XDG_RUNTIME_DIR has pid files: others may write to /tmp, and
programs clean it up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Daemon, until

OTHER = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


@pytest.fixture
def fallback(service: Daemon) -> Iterator[Path]:
    """A directory that is called as such ones are; not made yet."""
    directory = Path(f"/tmp/forkd-{service.name}")
    service.pidfile = directory / "forkd.pid"
    service.control = directory / "forkd.sock"
    service.error_log = service.dir / "error.log"
    yield directory
    service.finish()
    shutil.rmtree(directory, ignore_errors=True)


def start(service: Daemon) -> None:
    service.start("-w", "1", "--error-log", str(service.error_log))


def test_a_pid_file_that_was_removed_is_made_again(service: Daemon, fallback: Path) -> None:
    start(service)
    before = service.pid
    shutil.rmtree(fallback)
    until(lambda: service.pidfile.exists() and service.pidfile.read_text() == f"{before}\n", "another")
    until(service.control.exists, "the control socket")
    assert f"pid file {service.pidfile}: it had been removed or replaced; made again" in service.log()
    assert service.status()["master"]["pid"] == before
    done = service.run("start", *service.flags())
    assert (done.returncode, "already running" in done.stderr) == (1, True)
    service.ok("reload")
    service.ok("upgrade")
    service.pidfile.unlink()
    until(service.pidfile.exists, "another, by the next master")
    service.ok("stop")
    assert not service.pidfile.exists() and not service.control.exists()


def test_one_that_cannot_be_made_again_is_said_once(service: Daemon, fallback: Path) -> None:
    service.expected_errors = ["cannot be made again"]
    start(service)
    shutil.rmtree(fallback)
    fallback.write_text("in its place")
    said = f"cannot be made again: {fallback} is a link or a file, and no directory"
    until(lambda: said in service.log(), "why")
    assert service.get() == "v1"
    fallback.unlink()
    until(service.pidfile.exists, "another")
    assert service.log().count("cannot be made again") == 1


@pytest.mark.parametrize(
    ("kind", "said"),
    [("link", "is a link or a file, and no directory"), ("open", "can be written by others"),
     pytest.param("other", f"belongs to uid {OTHER}", marks=root_only)],
)  # fmt: skip
def test_a_directory_that_may_be_another_users_is_refused(
    service: Daemon, fallback: Path, kind: str, said: str
) -> None:
    target = service.dir / "theirs"
    target.mkdir()
    if kind == "link":
        fallback.symlink_to(target)
    else:
        fallback.mkdir()
        fallback.chmod(0o777 if kind == "open" else 0o755)
        os.chown(fallback, OTHER, OTHER) if kind == "other" else None
    remedy = "remove it, or choose another --pidfile"
    for verb in ("start", "check"):
        done = service.run(verb, *service.flags("--error-log", str(service.error_log)))
        assert done.returncode == 1
        assert f"forkd: {fallback} {said}; {remedy}" in done.stderr.splitlines()
    if kind != "other":  # root may ask another user's daemon
        for verb in ("status", "stop", "restart", "reload"):
            done = service.run(verb)
            assert (done.returncode, done.stderr) == (1, f"forkd: {fallback} {said}; {remedy}\n")
    assert list(target.iterdir()) == []
    service.expected_errors = ["did not start"]
    fallback.unlink() if kind == "link" else fallback.rmdir()


@root_only
@pytest.mark.parametrize("kind", ["link", "directory"])
def test_a_start_that_is_refused_writes_nothing_there(service: Daemon, fallback: Path, kind: str) -> None:
    """Not the error log, either, which is there by default."""
    other = service.dir / "other"
    other.mkdir()
    if kind == "link":
        fallback.symlink_to(other)
    else:
        fallback.mkdir()
        os.chown(fallback, OTHER, OTHER)
        other = fallback
    done = service.run("start", *service.flags("--error-log", str(fallback / "forkd.log")))
    assert done.returncode == 1
    assert f"forkd: {fallback} " in done.stderr
    assert list(other.iterdir()) == []
    if kind == "link":
        fallback.unlink()
