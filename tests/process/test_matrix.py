"""The fault matrix in its short form: docs/reliability.md names these tests, by the row's function.

scripts/soak is the long form of the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from . import matrix
from .conftest import Daemon
from .faults_logs import TMPFS
from .trial import Trial

SEED = 1
_IN_SUITE = {"1", "3b", "3c", "6", "18"}
_IN_SUITE_ASGI = {"3b"}
NEEDS_ROOT = {"no_processes": "strace on a process that is not ours to trace"}
NEEDS_SLOWHTTPTEST = {"slow_senders", "slow_readers"}


def _marks(row: matrix.Row, model: str) -> list[pytest.MarkDecorator]:
    """Some rows show their other models for every change, the rest with the long runs."""
    soak = row.long or (model in row.models and row.number not in _IN_SUITE)
    return [*([pytest.mark.soak] if soak else []), *([pytest.mark.alone] if row.alone else [])]


@pytest.mark.parametrize(
    ("row", "model"),
    [
        pytest.param(
            row,
            model,
            id=f"{row.name}-{model}",
            marks=_marks(row, model),
        )
        for row in matrix.ROWS
        for model in ("leader-followers", *row.models)
    ],
)
def test_row(service: Daemon, row: matrix.Row, model: str, tmp_path: Path) -> None:
    _run(service, row, model, tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row, id=row.name,
            marks=[*([] if row.number in _IN_SUITE_ASGI else [pytest.mark.soak]),
                   *([pytest.mark.alone] if row.alone else [])],
        )
        for row in matrix.ROWS
        if row.asgi
    ],
)  # fmt: skip
def test_row_under_asgi(service: Daemon, row: matrix.Row, tmp_path: Path) -> None:
    service.asgi = True
    _run(service, row, "leader-followers", tmp_path)


def _run(service: Daemon, row: matrix.Row, model: str, tmp_path: Path) -> None:
    if row.name in NEEDS_ROOT and os.geteuid():
        pytest.skip(f"needs root: {NEEDS_ROOT[row.name]}")
    if row.name in NEEDS_SLOWHTTPTEST and shutil.which("slowhttptest") is None:
        pytest.skip("needs the Debian package slowhttptest")
    if row.name == "full_disk" and subprocess.run([*TMPFS, str(tmp_path), "true"]).returncode:
        pytest.skip("needs to be allowed to mount a tmpfs in a namespace of its own")
    service.write_app()
    trial = Trial(service, SEED, row.short, model)
    row.run(trial)
    print(f"row {row.number}: {trial.summary()}")
    assert trial.broken == []
