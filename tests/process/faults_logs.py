"""Rows of the fault matrix: logs that cannot be written."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from .clients import Load
from .conftest import alive, until
from .trial import Trial

#: A file system of 64 KiB on the directory $0, seen by the command after it only.
TMPFS = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64k,mode=755 logs "$0" && exec "$@"']
_LINE = re.compile(r'\S+ - - \[[^]]+\] "GET /x{2000} HTTP/1\.1" 200 2 "-" "-" [0-9.]+\n')


def full_disk(trial: Trial) -> None:
    """Both logs are on a tmpfs of 64 KiB, which is full soon; in the end there is room again."""
    service, logs = trial.service, trial.service.dir / "logs"
    service.expected_errors = ["access log: write: ENOSPC"]
    logs.mkdir()
    flags = service.flags(
        "-m", trial.model, "--access-log", f"{logs}/access", "--error-log", f"{logs}/error"
    )
    started = subprocess.run(
        [*TMPFS, str(logs), *service.argv("start", *flags)],
        cwd=service.dir, env=service.environ, text=True, capture_output=True, timeout=30,
    )  # fmt: skip
    assert started.returncode == 0, started.stderr
    seen = Path(f"/proc/{service.pid}/root{logs}")  # from outside of its mount namespace
    service.error_log, access = seen / "error", seen / "access"

    def lost() -> int:
        return int(service.metric("forkd_log_lines_lost_total", log="access"))

    with Load(service.address, keep=2, fresh=2, path="/" + "x" * 2000) as load:
        until(lost, "lost lines are counted", 60)
        load.more(trial.times(20_000), 120)
        left = os.statvfs(seen).f_bavail
        trial.require(left == 0, f"{left} blocks are free: the disk was not full")
        trial.require(service.admin("/healthz")[0] == 200, "the master answers")
        old = service.worker_pids()
        trial.require(service.run("reload").returncode == 0, "a reload works")
        until(lambda: not any(map(alive, old)), "those before have gone", 60)
        before = lost()
        until(lambda: lost() > before, "the new workers have lost lines, too", 60)
        trial.note("lines lost", lost())
    trial.note("answered", load.asked)
    trial.note("failed", len(load.failures))
    trial.require(not load.failures, f"failed: {load.failures[:3]}")
    enlarge = ["mount", "-o", "remount,size=64m", str(logs)]
    subprocess.run(["nsenter", "-t", str(service.pid), "-m", *enlarge], check=True)
    until(lambda: "lines lost" in service.log(), "what was lost is told", 30)
    service.get("/after")
    until(lambda: b'"GET /after ' in access.read_bytes(), "a line when there is room again")

    def written() -> list[str]:
        return re.findall(r".*/x.*\n", access.read_text())

    until(lambda: len(written()) + lost() == load.asked, "each line is there or counted as lost")
    torn = [line for line in written() if not _LINE.fullmatch(line)]
    # A worker may have ended, with the reload, in the middle of a line.
    trial.require(len(torn) <= 1, f"{len(torn)} torn lines")
    trial.settled(2)
