"""There is no room: for processes, or on the disk of the pid file. A start says so, and leaves nothing."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys

import pytest

from .conftest import Daemon, alive, until
from .trial import GONE

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, to be a user that nothing else is"
)

#: RLIMIT_NPROC counts the processes of a user on the whole machine: these have no others.
UIDS = itertools.count(300_000 + 16 * os.getpid())
REMEDY = "raise RLIMIT_NPROC (ulimit -u, LimitNPROC=) or pids.max (TasksMax=)"


def limited(processes: int, uid: int = 0) -> list[str]:
    """What to put before a command, so that its user may have so many processes."""
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
    return ["prlimit", f"--nproc={processes}:{processes}", *become]


def executes() -> bool:
    """Whether that user may execute this interpreter: it may be in another user's home."""
    try:
        command = [*limited(50, next(UIDS)), sys.executable, "-c", "import forkd, daemon"]
        return subprocess.run(command, capture_output=True, cwd="/").returncode == 0
    except FileNotFoundError:
        return False


def of(uid: int) -> list[int]:
    """Processes of that user."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == uid and alive(int(name)):
                found.append(int(name))
        except GONE:
            pass
    return found


def give_away(service: Daemon) -> int:
    """Its directory to a user of its own."""
    service.open_up()
    uid = next(UIDS)
    os.chown(service.dir, uid, uid)
    return uid


def limit(pid: int, uid: int, processes: int) -> None:
    """That of a process that runs; by its own user, as root may lack CAP_SYS_RESOURCE."""
    become = limited(50, uid)[2:]
    subprocess.run([*become, "prlimit", f"--pid={pid}", f"--nproc={processes}:50"], check=True)


def run(
    service: Daemon, under: list[str], verb: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    command = [*under, *service.argv(verb, *arguments)]
    return subprocess.run(
        command, cwd=service.dir, env=service.environ, text=True, capture_output=True, timeout=60
    )


@pytest.mark.parametrize("most", [8, 24, 44, 50, 53, 57])
def test_a_start_without_open_files_fails_and_says_what_it_needs(service: Daemon, most: int) -> None:
    """With numbers that are too small for the eventfds, the listener, the logger, a worker."""
    service.expected_errors = ["the service did not start: ", "logger: fork: Too many open files; trying"]
    under = ["prlimit", f"--nofile={most}:{most}"]
    done = run(service, under, "start", *service.flags("-w", "2", "--user", "root"))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "Too many open files" in line
    assert line.endswith(
        f"; a process may have {most} here, and this service needs 81 or more, its workers one for each "
        "connection; raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=)"
    )
    assert "bug in forkd" not in service.log()


may_execute = pytest.mark.skipif(
    os.geteuid() != 0 or not executes(), reason="another user cannot execute this interpreter"
)


@may_execute
@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["workers", "template"])
def test_a_start_without_processes_fails_and_says_why(service: Daemon, preload: list[str]) -> None:
    """With each number of processes that is too small, wherever it is that one more is missing."""
    uid = give_away(service)
    service.expected_errors = [
        "gone: boot", "a child crashed", "Traceback", "the logger .* is gone", r"logger: fork\(2\)",
        "the service did not start: ",
    ]  # fmt: skip
    failed = started = 0
    for most in range(1, 25):
        if started == 2:
            break
        done = run(service, limited(most, uid), "start", *service.flags("-w", "2", *preload))
        if done.returncode == 0:
            assert service.get() == "v1"
            service.ok("stop")
            started += 1
        else:
            failed += 1
            assert done.returncode == 1
            said = re.search(r"(fork\(2\)|pthread_create\(3\)): EAGAIN", done.stderr)
            assert said, f"{most}: {done.stderr}{service.log()}"
            assert REMEDY in done.stderr
            need = 8 if preload else 7  # besides those of others
            assert f"this service needs room for {need} more of them" in done.stderr
            assert "bug in forkd" not in done.stderr + service.log()
        until(lambda: not of(uid), "no process of that user")
        assert not service.pidfile.exists()
        assert not service.control.exists()
    assert failed >= 3
    assert started == 2  # so that it was the limit


@pytest.mark.parametrize(
    "most, flags",
    [
        (1, ["--preload"]),
        (2, ["--threads", "4"]),
        (2, ["-m", "half-sync-half-reactive", "--threads", "4"]),
    ],
    ids=["template", "threads", "pool"],
)
def test_nor_without_those_of_the_workers_user(
    service: Daemon, most: int, flags: list[str]
) -> None:
    """The master is root, which has no limit; the other user's template and threads have one."""
    service.open_up()
    uid = next(UIDS)
    service.expected_errors = ["gone: boot", "the service did not start: "]
    flags = service.flags("-w", "1", "--user", str(uid), "--group", str(uid), *flags)
    done = run(service, limited(most), "start", *flags)
    assert done.returncode == 1, done.stdout
    assert REMEDY in done.stderr
    assert "EAGAIN" in done.stderr
    service.gone()
    until(lambda: not of(uid), "no process of that user")


@may_execute
def test_a_service_tries_again_until_there_is_room(service: Daemon) -> None:
    uid = give_away(service)
    service.expected_errors = [r"fork\(2\): EAGAIN", "gone: SIGKILL"]
    flags = service.flags("-w", "2")
    assert run(service, limited(50, uid), "start", *flags).returncode == 0
    master, victim = service.pid, service.worker_pids()[0]
    limit(master, uid, 2)
    os.kill(victim, signal.SIGKILL)
    until(lambda: service.log().count("fork(2): EAGAIN") >= 3, "three tries")
    assert service.admin("/readyz")[0] == 503
    assert service.live()["master"]["state"] == "running"  # it is no crash loop
    assert service.get() == "v1"
    done = service.run("reload")
    assert done.returncode == 1
    assert REMEDY in done.stderr
    service.expected_errors.append("reload failed")
    limit(master, uid, 50)
    until(lambda: len(service.workers()) == 2, "two workers")
    service.ok("reload")
    assert service.pid == master


# ---- the pid file's disk -------------------------------------------------------------------------

#: In a mount namespace of its own: a file system of one page, or of few inodes, or that is read-only.
DISKS = {
    "full": 'mount -t tmpfs -o size=4k disk "$0" && head -c 4096 /dev/zero > "$0/fill"',
    "no inodes": 'mount -t tmpfs -o nr_inodes=2 disk "$0" && touch "$0/fill"',
    "read-only": 'mount -t tmpfs disk "$0" && touch "$0/fill" && mount -o remount,ro "$0"',
}


@pytest.mark.parametrize("detached", [True, False], ids=["detached", "foreground"])
@pytest.mark.parametrize("disk", DISKS)
def test_a_pid_file_that_cannot_be_written_is_an_error(
    service: Daemon, disk: str, detached: bool
) -> None:
    service.expected_errors = ["the service did not start: "]
    place = service.dir / "run"
    place.mkdir()
    command = [
        sys.executable, "-m", "forkd", "start", *service.flags("-w", "1"), "--name", service.name,
        "--pidfile", str(place / "x.pid"), "--control", str(service.control),
        "--error-log", str(service.error_log), *([] if detached else ["-f"]),
    ]  # fmt: skip
    script = f'{DISKS[disk]} || exit 77; "$@"; code=$?; ls -A "$0"; exit $code'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(place), *command], cwd=service.dir,
        env=service.environ, text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"no mount namespace here: {done.stderr}")
    said = done.stderr + service.log()
    assert done.returncode == 1, said
    error = "EROFS" if disk == "read-only" else "ENOSPC"
    assert f"x.pid): {error}: " in said
    assert "bug in forkd" not in said
    assert "Traceback" not in said
    assert done.stdout.split() == ["fill"]
    service.gone()
