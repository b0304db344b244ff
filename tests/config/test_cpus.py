"""The CPUs that `workers = auto` counts: the quota of each control group above, in both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forkd.config import cpus

V2 = "31 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 31 0:29 {top} {where} rw - cgroup cgroup rw,cpu,cpuacct"


class Tree:
    """A file tree with the files of one process and of control groups."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    def process(self, groups: str, *mounts: str) -> None:
        self.put("/proc/self/cgroup", groups)
        other = "24 30 0:22 / /proc rw shared:5 - proc proc rw,cpu"
        self.put("/proc/self/mountinfo", "\n".join([other, "nonsense", *mounts]))

    def v1(self, group: str, quota: int, period: int = 100_000) -> None:
        self.put(f"{group}/cpu.cfs_quota_us", str(quota))
        self.put(f"{group}/cpu.cfs_period_us", str(period))

    def quota(self) -> float | None:
        return cpus.quota(str(self.root))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize(
    ("outer", "middle", "inner", "expected"),
    [
        ("max 100000", "max 100000", "max 100000", None),
        ("max 100000", "max 100000", "200000 100000", 2.0),
        ("max 100000", "150000 100000", "max 100000", 1.5),
        ("25000 50000", "max 100000", "400000 100000", 0.5),
        ("300000 100000", "200000 100000", "400000 100000", 2.0),
    ],
)
def test_version_2_has_the_least_of_all_groups_above(
    tree: Tree, outer: str, middle: str, inner: str, expected: float | None
) -> None:
    tree.process("0::/a.slice/b/c", V2)
    tree.put("/sys/fs/cgroup/a.slice/cpu.max", outer)
    tree.put("/sys/fs/cgroup/a.slice/b/cpu.max", middle)
    tree.put("/sys/fs/cgroup/a.slice/b/c/cpu.max", inner)
    tree.put("/sys/fs/cgroup/a.slice/other/cpu.max", "1000 100000")
    assert tree.quota() == expected


def test_version_2_in_a_namespace_of_its_own(tree: Tree) -> None:
    tree.process("0::/", V2)
    tree.put("/sys/fs/cgroup/cpu.max", "350000 100000")
    assert tree.quota() == 3.5


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [(-1, -1, None), (-1, 150_000, 1.5), (50_000, -1, 0.5), (200_000, 400_000, 2.0)],
)
def test_version_1(tree: Tree, outer: int, inner: int, expected: float | None) -> None:
    mount = V1.format(top="/", where="/sys/fs/cgroup/cpu,cpuacct")
    tree.process("4:memory:/elsewhere\n7:cpu,cpuacct:/pods/one", mount)
    tree.v1("/sys/fs/cgroup/cpu,cpuacct", -1)
    tree.v1("/sys/fs/cgroup/cpu,cpuacct/pods", outer)
    tree.v1("/sys/fs/cgroup/cpu,cpuacct/pods/one", inner)
    assert tree.quota() == expected


def test_version_1_in_a_container_sees_its_own_group_at_the_mount(tree: Tree) -> None:
    """Without a namespace /proc says the group's name outside, and its mount begins there."""
    tree.process("7:cpu:/docker/abc/in", V1.format(top="/docker/abc", where=r"/cpu\040here"))
    tree.v1("/cpu here", 250_000, 50_000)
    tree.v1("/cpu here/in", -1)
    assert tree.quota() == 5.0


def test_both_versions_at_once(tree: Tree) -> None:
    """A hybrid machine: the controller is in one of them; the least counts where it should be in both."""
    tree.process("7:cpu:/x\n0::/y", V1.format(top="/", where="/v1"), V2.replace("/sys/fs/cgroup", "/v2"))
    tree.v1("/v1/x", 300_000)
    assert tree.quota() == 3.0
    tree.put("/v2/y/cpu.max", "200000 100000")
    assert tree.quota() == 2.0


@pytest.mark.parametrize(
    ("groups", "mounts"),
    [
        ("0::/../other", [V2]),  # outside of the namespace
        ("7:cpu:/docker/abcd", [V1.format(top="/docker/abc", where="/sys/fs/cgroup")]),
        ("0::/a", []),
        ("", [V2]),
        ("nonsense\n0::a\n::\n", [V2, "1 2 3:4 / /x rw - cgroup", " - cgroup2 x"]),
    ],
)
def test_what_says_nothing_of_this_process_limits_nothing(
    tree: Tree, groups: str, mounts: list[str]
) -> None:
    tree.process(groups, *mounts)
    tree.put("/sys/fs/cgroup/cpu.max", "100000 100000")
    tree.v1("/sys/fs/cgroup", 100_000)
    assert tree.quota() is None


@pytest.mark.parametrize("text", ["", "max", "0 100000", "100000 0", "-1 100000", "1 2 3", "x y"])
def test_a_file_that_makes_no_sense_limits_nothing(tree: Tree, text: str) -> None:
    tree.process("0::/", V2)
    tree.put("/sys/fs/cgroup/cpu.max", text)
    assert tree.quota() is None


def test_no_proc_limits_nothing(tmp_path: Path) -> None:
    assert cpus.quota(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("mask", "quota", "expected"),
    [(8, None, 8), (8, 2.0, 2), (8, 1.5, 2), (8, 0.1, 1), (2, 6.0, 2), (1, 0.5, 1), (8, 7.01, 8)],
)
def test_mask_and_quota(
    monkeypatch: pytest.MonkeyPatch, mask: int, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(mask)))
    monkeypatch.setattr(cpus, "quota", lambda: quota)
    assert cpus.usable() == expected
