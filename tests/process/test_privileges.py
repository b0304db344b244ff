"""--user and --group: bound first, then given up for good; refused when that cannot be done."""

from __future__ import annotations

import grp
import os
import pwd
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Daemon, alive, until
from .trial import family, open_files

NOBODY = pwd.getpwnam("nobody")
GROUP = grp.getgrgid(NOBODY.pw_gid).gr_name
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def identity(pid: int) -> dict[str, list[int]]:
    text = Path(f"/proc/{pid}/status").read_text()
    return {
        key: [int(x) for x in re.search(rf"^{key}:\s*(.*)$", text, re.M)[1].split()]  # type: ignore[index]
        for key in ("Uid", "Gid", "Groups")
    }


@root_only
@pytest.mark.parametrize("by", ["name", "number", "with group"])
def test_children_are_nobody_for_good(service: Daemon, by: str) -> None:
    service.open_up()
    flags = {
        "name": ["--user", "nobody"],
        "number": ["--user", str(NOBODY.pw_uid), "--group", str(NOBODY.pw_gid)],
        "with group": ["--user", "nobody", "--group", GROUP],
    }[by]
    service.start("-b", "127.0.0.1:0", *flags)
    for pid in service.worker_pids():
        found = identity(pid)
        assert found["Uid"] == [NOBODY.pw_uid] * 4
        assert found["Gid"] == [NOBODY.pw_gid] * 4
        assert 0 not in found["Groups"]
        assert set(found["Groups"]) <= set(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert service.get() == "v1"


LOGIN = """
    import os

    AT_IMPORT = " ".join(os.environ.get(name, "-") for name in ("HOME", "USER", "LOGNAME"))

    def app(environ, start):
        start("200 OK", [])
        return [AT_IMPORT.encode()]
"""


@root_only
@pytest.mark.parametrize("flags", [[], ["--preload"]])
def test_home_user_and_logname_are_those_of_the_user(service: Daemon, flags: list[str]) -> None:
    service.open_up()
    service.write_app(LOGIN)
    service.environ |= {"HOME": "/root", "USER": "root", "LOGNAME": "root"}
    service.start("-w", "1", "--user", "nobody", *flags)
    assert service.get() == f"{NOBODY.pw_dir} nobody nobody"


@root_only
def test_a_uid_without_an_account_has_no_home(service: Daemon) -> None:
    service.open_up()
    service.write_app(LOGIN)
    service.start("-w", "1", "--user", "54321")
    assert service.get() == "/ 54321 54321"


@root_only
def test_it_reloads_and_rotates_as_nobody(service: Daemon) -> None:
    service.open_up()
    access = service.dir / "access.log"
    service.start("--user", "nobody", "--access-log", str(access))
    service.write_app(version="v2")
    service.ok("reload")
    assert service.get() == "v2"
    for pid in service.worker_pids():
        assert identity(pid)["Uid"] == [NOBODY.pw_uid] * 4


@root_only
@pytest.mark.parametrize("flags", [[], ["--preload"]], ids=" ".join)
def test_workers_write_logs_that_they_may_not_open(service: Daemon, flags: list[str]) -> None:
    service.open_up()
    logs = service.dir / "logs"
    logs.mkdir(mode=0o700)
    access = logs / "access"
    service.start("--user", "nobody", "--access-log", str(access), *flags)
    for name in ("/first", "/second"):
        service.get(name)
        until(lambda name=name: name in access.read_text(), "its line")
        access.rename(logs / "rotated")
        service.signal(signal.SIGUSR1)
        until(access.exists, "a new file")
        until(
            lambda: open_files(family(service.pid)).isdisjoint([f"{logs}/rotated"]),
            "the old one closed",
        )


@root_only
def test_the_death_of_the_master_reaches_children_of_another_user(service: Daemon) -> None:
    service.open_up()
    service.start("--user", "nobody")
    pids = service.worker_pids()
    os.kill(service.pid, 9)
    until(lambda: not [p for p in pids if alive(p)], "all children gone", seconds=1.0)
    service.pidfile.unlink()
    service.control.unlink()


@pytest.mark.parametrize("flag", ["--user", "--group"])
def test_an_unknown_account_is_refused(service: Daemon, flag: str) -> None:
    done = service.run("start", *service.flags(flag, "no-such-account"))
    assert done.returncode != 0
    assert "no-such-account" in done.stderr


@root_only
def test_refused_when_not_started_by_root(service: Daemon) -> None:
    service.expected_errors = ["the service did not start: "]
    service.open_up()
    service.dir.chmod(0o777)
    become = (
        # Imported before: nobody may not be able to read the interpreter's files.
        "import encodings.idna, forkd.master.main; from forkd.command.main import main;"
        f"import os, sys; os.setgroups([]); os.setgid({NOBODY.pw_gid}); os.setuid({NOBODY.pw_uid});"
        "sys.argv = sys.argv[1:]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", become, "forkd", "start", *service.flags("--user", "root"),
         "--name", service.name, "--pidfile", str(service.pidfile)],
        cwd=service.dir, env=service.environ, text=True, capture_output=True, timeout=20,
    )  # fmt: skip
    assert done.returncode != 0
    assert "root" in done.stderr
    assert not service.pidfile.exists()
