"""Runs a program with some system calls denied, as a container's seccomp profile does (seccomp(2)):
python deny.py ERRNO CALL,CALL PROGRAM ARGUMENTS
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

#: Of those that are tried (asm/unistd.h). From 424 on all architectures have the same numbers.
NUMBERS = {
    "x86_64": {
        "epoll_create1": 291, "eventfd2": 290, "flock": 73, "memfd_create": 319, "pipe2": 293,
        "prctl": 157, "sched_getaffinity": 204, "socketpair": 53,
    },
    "aarch64": {
        "epoll_create1": 20, "eventfd2": 19, "flock": 32, "memfd_create": 279, "pipe2": 59,
        "prctl": 167, "sched_getaffinity": 123, "socketpair": 199,
    },
}.get(platform.machine(), {}) | {"close_range": 436, "pidfd_open": 434, "pidfd_send_signal": 424}  # fmt: skip
_LOAD, _EQUAL, _DONE = 0x20, 0x15, 0x06  # BPF, of seccomp_data.nr
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


def deny(calls: list[str], number: int) -> None:
    """For this process, and all that it starts."""
    steps = [(_LOAD, 0, 0, 0)]
    for call in calls:
        steps += [(_EQUAL, 0, 1, NUMBERS[call]), (_DONE, 0, 0, _ERRNO | number)]
    steps.append((_DONE, 0, 0, _ALLOW))
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    memory = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.c_char_p(program), 0, 0) == 0, ctypes.get_errno()


if __name__ == "__main__":
    deny(sys.argv[2].split(","), getattr(errno, sys.argv[1]))
    os.execv(sys.argv[3], sys.argv[3:])
