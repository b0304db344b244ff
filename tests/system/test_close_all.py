"""What a daemon closes when it detaches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, resource, sys
from forkd.system import process

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
if sys.argv[1] == "without":
    def absent(path):
        raise FileNotFoundError(path)
    listdir, os.listdir = os.listdir, absent
closed = []
close, os.close = os.close, lambda fd: (closed.append(fd), close(fd))
for fd in (100, 101, 4000):
    os.dup2(1, fd)
process.close_all_but({0, 1, 2, 101})
print(len(closed) <= 1 << 16)
for fd in (0, 1, 2, 100, 101, 4000):
    try:
        os.fstat(fd)
        print(fd)
    except OSError:
        pass
"""


@pytest.mark.parametrize("proc", ["with", "without"])
def test_all_but_some_are_closed_and_not_each_number_is_tried(proc: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, proc], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.split() == ["True", "0", "1", "2", "101"], done.stderr
