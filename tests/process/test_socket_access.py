"""--socket-mode, --socket-owner, --socket-group: whatever becomes of a socket, its file lets in the same."""

from __future__ import annotations

import grp
import os
import pwd
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Daemon, until
from .test_listening import SHUT, copy_of_listener
from .test_privileges import root_only
from .test_sockets import ask_unix

NOBODY = pwd.getpwnam("nobody")
GROUP = grp.getgrgid(NOBODY.pw_gid).gr_name
OTHER = 54321  # an id that no user has


def access(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    assert stat.S_ISSOCK(found.st_mode)
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def serves(path: Path) -> bool:
    try:
        return ask_unix(path).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


@pytest.mark.parametrize("umask", ["000", "022", "077"])
@pytest.mark.parametrize(("flags", "mode"), [([], 0o666), (["--socket-mode", "0640"], 0o640)])
def test_the_umask_changes_nothing(service: Daemon, umask: str, flags: list[str], mode: int) -> None:
    path = service.dir / "s.sock"
    service.start("-b", f"unix:{path}", "--umask", umask, *flags)
    assert access(path)[0] == mode
    assert access(service.control)[0] == 0o600
    assert serves(path)


@root_only
def test_who_may_connect(service: Daemon) -> None:
    service.open_up()
    path, admin = service.dir / "s.sock", service.dir / "admin.sock"
    service.start(
        "-b", f"unix:{path}", "--admin", f"unix:{admin}",
        "--socket-mode", "660", "--socket-owner", "nobody", "--socket-group", str(OTHER),
    )  # fmt: skip
    for file in (path, admin):
        assert access(file) == (0o660, NOBODY.pw_uid, OTHER)
        for uid, gid, may in [(OTHER, OTHER, True), (NOBODY.pw_uid, 1, True), (OTHER, 1, False)]:
            program = (
                "import os, socket, sys; os.setgroups([]); "
                f"os.setgid({gid}); os.setuid({uid}); socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
            )
            done = subprocess.run(
                [sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=20
            )
            assert (done.returncode == 0) is may, done.stderr
            assert may or "PermissionError" in done.stderr
    service.ok("stop")
    assert not path.exists() and not admin.exists()


@root_only
def test_it_stays_over_reload_upgrade_and_repair(service: Daemon) -> None:
    service.expected_errors = [SHUT]
    path, later = service.dir / "s.sock", service.dir / "later.sock"
    config = service.dir / "f.toml"
    text = (
        "workers = 2\nadmin = '127.0.0.1:0'\nsocket-mode = '0620'\n"
        f"socket-owner = '{NOBODY.pw_uid}'\nsocket-group = '{GROUP}'\n"
    )
    config.write_text(text + f"bind = 'unix:{path}'\n")
    service.start("-c", str(config))
    right = (0o620, NOBODY.pw_uid, NOBODY.pw_gid)
    assert access(path) == right

    def repaired() -> None:
        before = path.lstat().st_ino
        with copy_of_listener(service.worker_pids()[0], "unix") as copy:
            copy.shutdown(socket.SHUT_RDWR)
        until(lambda: path.exists() and path.lstat().st_ino != before, "another file")
        until(lambda: serves(path), "it serves")
        assert access(path) == right

    repaired()
    config.write_text(text + f"bind = ['unix:{path}', 'unix:{later}']\n")
    path.unlink()
    service.ok("reload")
    assert access(path) == right and access(later) == right and serves(path) and serves(later)
    path.unlink()
    old = service.pid
    service.signal(signal.SIGUSR2)
    until(lambda: service.pid != old, "another master")
    until(path.exists, "the file again")
    assert access(path) == right
    until(lambda: serves(path), "it serves")
    until(lambda: access(later) == right and serves(later), "both do")
    until(lambda: re.search(r"upgrade: pid \d+ serves", service.log()), "the old one to know")
    repaired()
    service.ok("stop")
    assert not path.exists() and not later.exists()


def test_a_reload_changes_it(service: Daemon) -> None:
    path, config = service.dir / "s.sock", service.dir / "f.toml"

    def configure(mode: str, more: str = "") -> None:
        config.write_text(
            f"bind = 'unix:{path}'\nworkers = 1\nadmin = '127.0.0.1:0'\nsocket-mode = '{mode}'\n{more}"
        )

    configure("666")
    service.start("-c", str(config))
    number = path.lstat().st_ino
    assert access(path)[0] == 0o666
    configure("600")
    service.ok("reload")
    assert access(path)[0] == 0o600 and path.lstat().st_ino == number and serves(path)
    # One that fails changes nothing.
    service.expected_errors = ["reload failed"]
    configure("666", "socket-group = 'no-such-account'")
    done = service.run("reload")
    assert done.returncode == 1 and "socket-group: there is no group 'no-such-account'" in done.stderr
    assert access(path)[0] == 0o600
    # An upgrade takes over what the old master had, and reads the file anew.
    configure("660")
    old = service.pid
    service.signal(signal.SIGUSR2)
    until(lambda: service.pid != old, "another master")
    until(lambda: access(path)[0] == 0o660, "its mode")
    assert path.lstat().st_ino == number and serves(path)
    until(lambda: re.search(r"upgrade: pid \d+ serves", service.log()), "the old one to know")


@pytest.mark.parametrize("verb", ["start", "check"])
def test_an_owner_that_there_is_not(service: Daemon, verb: str) -> None:
    path = service.dir / "s.sock"
    done = service.run(verb, *service.flags("-b", f"unix:{path}", "--socket-owner", "no-such-account"))
    assert done.returncode == 1
    assert "socket-owner: there is no user 'no-such-account' on this machine" in done.stderr
    assert "Traceback" not in done.stderr and not path.exists()


def test_it_is_said_where_there_is_no_unix_socket(service: Daemon) -> None:
    done = service.run("check", *service.flags("--socket-mode", "600"))
    assert "warning: socket-mode: without effect, since no address is unix:/path\n" in done.stdout
    path = service.dir / "s.sock"
    done = service.run("check", *service.flags("--socket-mode", "600", "-b", f"unix:{path}"))
    assert done.returncode == 0 and "without effect" not in done.stdout + done.stderr


def test_the_file_of_the_admin_endpoint_is_removed_after_an_upgrade(service: Daemon) -> None:
    admin = service.dir / "admin.sock"
    service.start("--admin", f"unix:{admin}", "--socket-mode", "600")
    assert access(admin)[0] == 0o600
    old = service.pid
    service.signal(signal.SIGUSR2)
    until(lambda: service.pid != old, "another master")
    until(lambda: re.search(r"upgrade: pid \d+ serves", service.log()), "the old one to know")
    assert access(admin)[0] == 0o600 and os.path.exists(admin)
    service.ok("stop")
    service.gone()
    assert not admin.exists()
