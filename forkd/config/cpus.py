"""The number of CPUs that this process may use (`workers = auto`). Asked when the configuration is read.

Two things take CPUs away. The affinity mask (sched_setaffinity(2), taskset, a cpuset) says which of them
there are. The quota of a control group says for how much of each period all its processes together may run:
`docker run --cpus`, a Kubernetes limit, systemd's CPUQuota=. It has no effect on the mask, and holds for
everything below the group, so that the least of all groups above a process is what it has.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator

_CPU = "cpu"  # the controller, as cgroups(7) calls it
_UNIFIED = ""  # in its place, for version 2: one hierarchy for all controllers


def usable() -> int:
    """The number of CPUs that forkd may use, at least 1. A part of a CPU counts as one, so that it is
    used."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except OSError:  # a policy denies it
        cpus = os.cpu_count() or 1
    limit = quota()
    return cpus if limit is None else max(1, min(cpus, math.ceil(limit)))


def quota(root: str = "") -> float | None:
    """The CPUs that the control groups of this process grant, as a fraction; None where there is no limit.

    `root` is where the file tree begins. What cannot be read limits nothing: /proc or /sys may be hidden.
    """
    mine = dict(_groups(_read(f"{root}/proc/self/cgroup")))
    least: float | None = None
    for controller, top, mount in _mounts(_read(f"{root}/proc/self/mountinfo")):
        group = mine.get(controller)
        if group is None or not _is_below(group, top):
            continue  # the mount shows other groups than this process's
        below = group.removeprefix(top.rstrip("/")).strip("/")
        names = below.split("/") if below else []
        for depth in range(len(names) + 1):
            granted = _granted("/".join([root + mount, *names[:depth]]), controller)
            if granted is not None:
                least = granted if least is None else min(least, granted)
    return least


def _groups(text: str) -> Iterator[tuple[str, str]]:
    """(controller, group) for each line of /proc/PID/cgroup, "7:cpu,cpuacct:/a/b" or "0::/a/b"."""
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, group = rest.partition(":")
        if colon and group.startswith("/") and ".." not in group.split("/"):  # "/..": not in this namespace
            for controller in controllers.split(","):
                yield controller, group


def _mounts(text: str) -> Iterator[tuple[str, str, str]]:
    """(controller, the group that is mounted, where) for each line of /proc/PID/mountinfo (proc(5)) that
    has CPU quotas."""
    for line in text.splitlines():
        front, _, back = line.partition(" - ")
        before, after = front.split(" "), back.split(" ")
        if len(before) < 5 or len(after) < 3:
            continue
        kind, options = after[0], after[2].split(",")
        where = _plain(before[3]), _plain(before[4]).rstrip("/")
        if kind == "cgroup2":
            yield _UNIFIED, *where
        elif kind == "cgroup" and _CPU in options:
            yield _CPU, *where


def _plain(path: str) -> str:
    """A path of mountinfo, where a blank is \\040 and so on."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _is_below(group: str, top: str) -> bool:
    return top == "/" or group == top or group.startswith(f"{top}/")


def _granted(directory: str, controller: str) -> float | None:
    """The CPUs of one group; None where it has no limit."""
    if controller == _UNIFIED:
        words = _read(f"{directory}/cpu.max").split()  # "max 100000" or "150000 100000"
    else:
        words = [_read(f"{directory}/cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(words) != 2 or not all(word.isdigit() and int(word) for word in words):
        return None  # "max", or -1 in version 1
    return int(words[0]) / int(words[1])


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
