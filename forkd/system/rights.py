"""The rights that a process gives up for good before it runs foreign code: capabilities, and those of setuid
programs.

Called in each process that the master forks for the application or a hook, beside the change of its ids,
and while it has one thread: all of this belongs to a thread, and is inherited by what it starts and by
what it forks and executes (capabilities(7)).
"""

from __future__ import annotations

import ctypes
import os

from forkd.errors import SystemCallError

_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAP_KILL = 5
_CAP_SETPCAP = 8
_CAP_NUMBERS = 64  # bits of a set; the kernel ends the list with EINVAL where it knows no more
_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: sets of two words of 32 bits


class _Header(ctypes.Structure):
    """__user_cap_header_struct"""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """__user_cap_data_struct"""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def may_empty_bounding_set() -> bool:
    """Whether this process has CAP_SETPCAP, without which a bounding set stays as it is."""
    return bool(_read_sets()[0].effective & 1 << _CAP_SETPCAP)


def may_signal_all() -> bool:
    """Whether this process may signal those of other users: it has CAP_KILL (kill(2))."""
    return bool(_read_sets()[0].effective & 1 << _CAP_KILL)


def empty_bounding_set() -> None:
    """No program that is executed from here on gains a capability, whatever its file says.

    To be called before the ids change, which takes CAP_SETPCAP away. Without it, as in a container that
    was started with few capabilities, nothing is done: a bounding set is a second lock, behind the ids.
    """
    if not may_empty_bounding_set():
        return
    for number in range(_CAP_NUMBERS):
        present = _prctl(_PR_CAPBSET_READ, number)
        if present < 0:
            return
        if present and _prctl(_PR_CAPBSET_DROP, number) < 0:
            raise _failed("prctl", f"PR_CAPBSET_DROP {number}")


def empty_inheritable_set() -> None:
    """Hand no capability on to executed programs; the ambient set is part of this one, and goes with it.

    The change of ids leaves the inheritable set as it is. A process needs no right to make it smaller.
    """
    sets = _read_sets()
    if not any(half.inheritable for half in sets):
        return
    for half in sets:
        half.inheritable = 0
    if _libc().capset(ctypes.byref(_Header(_VERSION_3, 0)), sets) != 0:
        raise _failed("capset", "inheritable = 0")


def allow_no_new_privileges() -> None:
    """Setuid programs, and those with file capabilities, run as what this process is, for good."""
    if _prctl(_PR_SET_NO_NEW_PRIVS, 1) < 0:
        raise _failed("prctl", "PR_SET_NO_NEW_PRIVS (--new-privileges does without)")


def _read_sets() -> ctypes.Array[_Sets]:
    sets = (_Sets * 2)()
    if _libc().capget(ctypes.byref(_Header(_VERSION_3, 0)), sets) != 0:
        raise _failed("capget", "own")
    return sets


def _prctl(operation: int, argument: int) -> int:
    zero = ctypes.c_ulong(0)
    found: int = _libc().prctl(operation, ctypes.c_ulong(argument), zero, zero, zero)
    return found


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _failed(call: str, target: str) -> SystemCallError:
    number = ctypes.get_errno()
    return SystemCallError(call, target, OSError(number, os.strerror(number)))
