"""The owner of a lock, where an engine keeps it by name: which process it is, and whether it lives.

An owner is told on its own host only: by the boot of the kernel, the PID namespace, the process and when that
began. Of owners elsewhere nothing is known; their locks end with their lease. Shared memory has slots and
incarnations in place of this.
"""

from __future__ import annotations

from forkd.system.originals import os

__all__ = ["is_dead", "own"]


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _began(pid: int) -> str:
    """In clock ticks since the boot; "" where there is no such process, or it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


def _host() -> str:
    try:
        return f"{_boot()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # without /proc an owner is never told dead
        return f"?{os.urandom(8).hex()}"


def own() -> str:
    """Of this process. Another after a fork."""
    pid = os.getpid()
    return f"{_host()}/{pid}/{_began(pid)}"


def is_dead(owner: str, me: str) -> bool:
    """Whether `owner` was a process of the host of `me`, which is gone."""
    boot, namespace, pid, began = owner.split("/") if owner.count("/") == 3 else ("", "", "", "")
    if not began or [boot, namespace] != me.split("/")[:2]:
        return False
    return _began(int(pid)) != began
