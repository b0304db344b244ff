"""What a start takes from its surroundings, and says of them: variables of others, the CPU quota, root."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Daemon, until
from .test_privileges import root_only

CGROUPS = Path("/sys/fs/cgroup/cpu")  # where version 1 is mounted
AS_ROOT = "started as root without --user"

VARIABLES = """
    import os

    def app(environ, start):
        start("200 OK", [])
        return ["\\n".join(sorted(n for n in os.environ if n.startswith("FORKD_"))).encode()]
"""


def test_variables_of_somebody_else(service: Daemon) -> None:
    """Links to Services of Kubernetes are nothing to forkd; the application has a use for them."""
    service.write_app(VARIABLES)
    service.environ |= {
        "FORKD_WEB_SERVICE_HOST": "10.0.0.1", "FORKD_WEB_PORT": "tcp://10.0.0.1:80",
        "FORKD_WEB_PORT_80_TCP_ADDR": "10.0.0.1", "FORKD_WORKRES": "7", "FORKD_BACKLOG": "99",
    }  # fmt: skip
    done = service.run("start", *service.flags())
    said = "environment FORKD_WORKRES: no such option; did you mean FORKD_WORKERS?; it is ignored"
    assert done.returncode == 0, done.stderr
    assert f"forkd: warning: {said}\n" in done.stderr and "_WEB_" not in done.stderr
    until(lambda: service.log().count(f" warning master: {said}") == 1, "the same in the log")
    assert service.get().split() == [
        "FORKD_WEB_PORT", "FORKD_WEB_PORT_80_TCP_ADDR", "FORKD_WEB_SERVICE_HOST", "FORKD_WORKER",
        "FORKD_WORKRES",
    ]  # fmt: skip
    assert service.live()["listeners"][0]["backlog"] == 99
    checked = service.run("check", *service.flags())
    assert checked.returncode == 0 and said in checked.stdout and "_WEB_" not in checked.stdout


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with another one in it, both ours."""
    outer = CGROUPS / f"forkd-test-{os.getpid()}"
    inner = outer / "inner"
    try:
        inner.mkdir(parents=True)
        (outer / "cpu.cfs_quota_us").write_text("-1")
    except OSError as error:
        pytest.skip(f"no control group of version 1 can be made here: {error}")
    yield inner
    inner.rmdir()
    outer.rmdir()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs, one to be taken away")
def test_auto_follows_the_quota_of_a_control_group(group: Path, service: Daemon) -> None:
    (group.parent / "cpu.cfs_quota_us").write_text("60000")  # 0.6 CPUs, for all that is inside
    service.under = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"']
    service.start_in_foreground("-w", "auto")
    assert len(service.workers()) == 1
    (group.parent / "cpu.cfs_quota_us").write_text("200000")
    service.ok("reload")
    assert len(service.workers()) == 2
    service.ok("stop")
    service.gone()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs, one to be taken away")
def test_auto_follows_the_affinity_mask(service: Daemon) -> None:
    service.under = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    service.start_in_foreground("-w", "auto")
    assert len(service.workers()) == 1


def test_web_concurrency(service: Daemon) -> None:
    service.environ["WEB_CONCURRENCY"] = "3"
    config = service.dir / "f.toml"
    config.write_text("bind = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\n")
    service.start("-c", str(config))
    assert len(service.workers()) == 3
    config.write_text("bind = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\nworkers = 1\n")
    service.ok("reload")
    assert len(service.workers()) == 1
    service.environ["WEB_CONCURRENCY"] = "lots"
    checked = service.run("check", "app:app")
    assert checked.returncode == 2
    assert checked.stderr.startswith("forkd: workers = 'lots': must be N from 1 to 512")
    assert "(environment WEB_CONCURRENCY)" in checked.stderr


@root_only
def test_root_without_a_user_is_warned_of_once(service: Daemon) -> None:
    done = service.run("start", *service.flags())
    assert done.returncode == 0
    assert done.stderr.count(f"forkd: warning: {AS_ROOT}") == 1
    until(lambda: f" warning master: {AS_ROOT}" in service.log(), "the same in the log")
    service.ok("reload")
    before = service.pid
    service.signal(signal.SIGUSR2)
    until(lambda: service.pid != before and "upgrade" in service.log(), "another master", 30)
    assert service.get() == "v1"
    assert service.log().count(AS_ROOT) == 1
    assert service.ok("check", *service.flags()).count(AS_ROOT) == 1


@root_only
@pytest.mark.parametrize("user", ["nobody", "root", "0"])
def test_a_user_that_was_named_is_meant(service: Daemon, user: str) -> None:
    service.open_up()
    flags = service.flags("--user", user)
    done = service.run("start", *flags)
    assert done.returncode == 0 and AS_ROOT not in done.stderr + service.log()
    assert AS_ROOT not in service.run("check", *flags).stderr
    uids = {os.stat(f"/proc/{pid}").st_uid for pid in service.worker_pids()}
    assert uids == {pwd.getpwnam("nobody").pw_uid if user == "nobody" else 0}


@root_only
def test_root_in_the_foreground_is_warned_of_in_the_log(service: Daemon) -> None:
    service.start_in_foreground()
    assert service.log().count(AS_ROOT) == 1


@pytest.mark.parametrize(
    ("bind", "allow", "warned"),
    [("0.0.0.0:0", "*", True), ("[::]:0", "::/0", True), ("0.0.0.0:0", "10.0.0.0/8", False),
     ("0.0.0.0:0", "0.0.0.0/1,128.0.0.0/1", True),
     ("127.0.0.1:0", "*", False), ("[::1]:0", "0.0.0.0/0", False)],
)  # fmt: skip
def test_everybody_is_trusted_at_a_public_address(
    service: Daemon, bind: str, allow: str, warned: bool
) -> None:
    done = service.run("check", *service.flags("--forwarded-allow", allow, "--bind", bind))
    assert done.returncode == 0, done.stderr
    assert ("warning: forwarded-allow = " in done.stdout) is warned
    assert ("other machines can reach" in done.stdout) is warned


@pytest.mark.parametrize("http", [False, True])
def test_the_note_of_keep_alive_is_for_connections_that_are_kept(service: Daemon, http: bool) -> None:
    """nginx opens one for each request by uwsgi."""
    flags = ["--bind", "127.0.0.1:0?protocol=uwsgi", *(["--bind", "127.0.0.1:0"] if http else [])]
    done = service.run("check", *service.flags("--forwarded-allow", "127.0.0.1", *flags))
    assert done.returncode == 0, done.stderr
    assert ("note: keep-alive = " in done.stdout) is http
