"""./forkd.toml: read where no file is named, by every verb, and said; not when others may write it."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Daemon, until
from .test_privileges import root_only


def _forkd(service: Daemon, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, without any word on where its daemon is."""
    return subprocess.run(
        [sys.executable, "-m", "forkd", verb, *arguments], env=service.environ, text=True,
        capture_output=True, timeout=30, cwd=service.dir,
    )  # fmt: skip


def _write(service: Daemon, more: str = "") -> Path:
    file = service.dir / "forkd.toml"
    file.write_text(
        f'app = "app:app"\nname = "{service.name}"\npidfile = "{service.name}.pid"\nworkers = 2\n'
        f'bind = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n{more}'
    )
    return file


def test_all_verbs_find_it_and_say_so(service: Daemon) -> None:
    file = _write(service)
    checked = _forkd(service, "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert f"\nconfiguration: {file}\n" in checked.stdout
    started = _forkd(service, "start")
    assert started.returncode == 0, started.stderr
    assert f"\nconfiguration: {file}\n" in started.stdout
    until(lambda: f"master: configuration: {file}\n" in service.log(), "the same in the log")
    assert service.get() == "v1"
    assert service.live()["master"]["config"] == str(file)
    status = _forkd(service, "status")
    assert (status.returncode, f"\nfiles        config     {file}\n" in status.stdout) == (0, True)
    assert _forkd(service, "scale", "3").stdout == "3 workers\n"
    _write(service, "keep-alive = 5\n")
    assert _forkd(service, "reload").stdout == "generation 2 serves\n"
    before = service.pid
    assert _forkd(service, "upgrade").returncode == 0
    until(lambda: service.pid != before, "another master")
    assert service.live()["master"]["config"] == str(file)
    assert _forkd(service, "restart").returncode == 0
    assert service.live()["master"]["config"] == str(file)
    assert _forkd(service, "stop").returncode == 0
    done = _forkd(service, "status")
    assert done.returncode == 3
    assert f"where it is was read from {file}, found here" in done.stderr


def test_a_file_that_is_named_takes_its_place(service: Daemon) -> None:
    _write(service, "nonsense = 1\n")
    assert _forkd(service, "check").returncode == 2
    named = service.dir / "named.toml"
    named.write_text('app = "app:app"\nbind = "127.0.0.1:0"\nadmin = "none"\n')
    for arguments in (["-c", "named.toml"], ["-c", str(named)]):
        assert f"configuration: {named}\n" in service.ok("check", *arguments)
    service.environ["FORKD_CONFIG"] = str(named)
    assert f"configuration: {named}\n" in service.ok("check")
    flags = ["-b", "127.0.0.1:0", "--admin", "none", "--user", pwd.getpwuid(os.geteuid()).pw_name]
    said = service.ok("check", "-c", "/dev/null", "app:app", *flags)
    assert "warning" not in said


def test_a_restart_keeps_the_file_that_the_daemon_was_started_with(service: Daemon) -> None:
    service.start("-w", "1")
    (service.dir / "forkd.toml").write_text("workers = 3\n")
    service.ok("restart")
    assert service.live()["master"]["config"] is None
    assert len(service.workers()) == 1


def test_an_upgrade_reads_no_file_that_has_come_since(service: Daemon) -> None:
    service.start("-w", "1")
    (service.dir / "forkd.toml").write_text("nonsense = 1\n")
    before = service.pid
    assert service.run("upgrade", "-c", "/dev/null").returncode == 0
    until(lambda: service.pid != before, "another master")
    assert service.get() == "v1"


@root_only
@pytest.mark.parametrize("what", ["owner", "mode", "group", "directory"])
def test_one_that_others_may_write_is_read_only_when_it_is_named(service: Daemon, what: str) -> None:
    file = _write(service)
    culprit = service.dir if what == "directory" else file
    if what == "owner":
        os.chown(file, 65534, 0)
    elif what == "group":
        os.chown(file, 0, 65534)
        file.chmod(0o664)
    else:
        culprit.chmod(0o666 if what == "mode" else 0o777)
    for verb in ("start", "check", "status", "stop", "reload", "restart"):
        done = _forkd(service, verb)
        assert done.returncode == 2
        assert f"{culprit} can be written by others; name the file with -c" in done.stderr
    # Who names the pid file needs no word of it to find the daemon.
    for verb in ("status", "stop", "reload", "upgrade"):
        done = service.run(verb)
        assert (done.returncode, "forkd.toml" in done.stderr) == (3, False)
    named = _forkd(service, "check", "-c", "forkd.toml")
    assert named.returncode == 0
    assert f"{culprit} can be written by others than root: each start" in named.stderr
    file.unlink()
    file.touch()
    file.chmod(0o644)
    service.dir.chmod(0o755)
    assert service.ok("check", "app:app", "-b", "127.0.0.1:0", "--admin", "none")


def test_another_users_file_in_a_directory_for_all(service: Daemon) -> None:
    """Like /tmp: the file is ours, and the sticky bit keeps it."""
    _write(service)
    service.dir.chmod(0o1777)
    assert _forkd(service, "check").returncode == 0
