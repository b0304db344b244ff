"""The grid: what passed in each cell of model × io × interface, at the end of a run.

Here and not beside the cells, since the process that reports a run of several need not have collected any.
"""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from xdist.workermanage import NodeManager

from tests.models.conftest import CELLS, name_of, refusal_of
from tests.process.conftest import children_of

CORPUS = Path(
    os.environ.get("FORKD_CORPUS") or Path(__file__).resolve().parents[2] / "shared" / "corpus"
)
_RESULTS: dict[str, Counter[str]] = {}
#: Where each case starts daemons of its own; and files in which many cases share one.
SAMPLED = (
    "tests/process/", "tests/models/", "tests/apps/", "tests/storage/test_conformance.py",
    "tests/storage/test_linear.py", "tests/native/test_suspending.py",
)  # fmt: skip
WHOLE = (
    "tests/models/test_wsgi.py", "tests/apps/test_loader.py", "tests/process/test_fronts.py",
    "tests/apps/test_asgi_programs.py",
)  # fmt: skip


def pytest_sessionstart(session: pytest.Session) -> None:
    """A run that is told to end, by timeout(1) or a CI, ends its daemons, as with ^C."""

    def end(number: int, frame: object) -> None:
        session.shouldstop = "told to end"  # also when what a test closes fails, and hides the exception
        if session.config.getoption("numprocesses", None):
            for worker in children_of(os.getpid()):
                os.kill(worker, signal.SIGTERM)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    # Its workers need longer than the 10 s after which pytest-xdist kills them, on a busy machine.
    NodeManager.EXIT_TIMEOUT = 60


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a run of all (scripts/test sets the variable): of each test of real daemons with four cases or more
    every third is run, of 12 or more every sixth, of 48 or more every twelfth; the others are marked as of
    the soak. Which are run follows from the test's name."""
    if not os.environ.get("TESTS_SAMPLED"):
        return
    families: dict[str, list[pytest.Item]] = {}
    for item in items:
        name = item.nodeid.partition("[")[0]
        mine = name.startswith(SAMPLED) and not name.startswith(WHOLE)
        mine = mine or item.get_closest_marker("waits") is not None
        if mine and item.get_closest_marker("soak") is None:
            families.setdefault(name, []).append(item)
    for name, cases in families.items():
        if len(cases) >= 4:
            step = 3 if len(cases) < 12 else 6 if len(cases) < 48 else 12
            for number, case in enumerate(cases):
                if number % step != crc32(name.encode()) % step:
                    case.add_marker(pytest.mark.soak)


def pytest_collection_finish() -> None:
    """A collection of garbage, of which some tests make many, does not go over all tests."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for cell in CELLS:
        name = name_of(cell)
        mine = f"[{name}" in report.nodeid or f"-{name}" in report.nodeid
        if mine and (report.when == "call" or report.outcome != "passed"):
            _RESULTS.setdefault(name, Counter())[report.outcome] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not CORPUS.exists():
        terminalreporter.line(
            f"skipped: the corpora of raw HTTP, of which none is in {CORPUS} (set FORKD_CORPUS); "
            "the project's own cases cover the same rules"
        )
    if not _RESULTS:
        return
    terminalreporter.section("models")
    for cell in CELLS:
        name = name_of(cell)
        found = _RESULTS.get(name, Counter())
        text = ", ".join(f"{n} {outcome}" for outcome, n in sorted(found.items())) or "not run"
        why = refusal_of(cell)
        terminalreporter.line(f"{name:40} {'refused: ' + why if why else text}")
