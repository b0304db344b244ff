"""One daemon per cell of model × io × interface, and the grid of what passed in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from forkd.models import registry
from tests.process.conftest import Service, service

__all__ = ["service"]  # the fixture, for the tests here

Cell = tuple[str, str, str, int]  # model, io, interface, threads


def _threads(row: registry.Row, io: str) -> list[int]:
    if row.pooled:
        return [4]
    return [1, 4] if row.threaded and io in (row.ios[0], "aio") else [1]


CELLS: list[Cell] = [
    (row.name, io, interface, threads)
    for row in registry.MODELS
    for io in row.ios
    for threads in _threads(row, io)
    for interface in registry.INTERFACES
]
_RESULTS: dict[str, Counter[str]] = {}


def cells(*interfaces: str, refused: bool = False) -> list[Any]:
    """The cells with these interfaces; those that the table refuses, or the others."""
    return [
        pytest.param(cell, id=_name(cell))
        for cell in CELLS
        if cell[2] in interfaces and bool(_refusal(cell)) is refused
    ]


def _name(cell: Cell) -> str:
    model, io, interface, threads = cell
    return f"{model}/{io}/x{threads}/{interface}"


def _refusal(cell: Cell) -> str | None:
    model, io, interface, threads = cell
    return registry.refusal(registry.get(model), io, interface, threads)


@pytest.fixture(scope="module")
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """`APP` and `FLAGS` of the test module, served by the cell."""
    model, io, _, threads = request.param
    service = Service(tmp_path_factory.mktemp(f"{model}-{io}"))
    service.write_app(request.module.APP)
    service.expected_errors = getattr(request.module, "ERRORS", [])
    flags = ["-m", model, "--io", io, "--threads", str(threads), "-w", "2"]
    service.start(*flags, *request.module.FLAGS)
    yield service
    service.finish()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for cell in CELLS:
        name = _name(cell)
        mine = f"[{name}" in report.nodeid or f"-{name}" in report.nodeid
        if mine and (report.when == "call" or report.outcome != "passed"):
            _RESULTS.setdefault(name, Counter())[report.outcome] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _RESULTS:
        return
    terminalreporter.section("models")
    for cell in CELLS:
        name = _name(cell)
        found = _RESULTS.get(name, Counter())
        text = ", ".join(f"{n} {outcome}" for outcome, n in sorted(found.items())) or "not run"
        why = _refusal(cell)
        terminalreporter.line(f"{name:40} {'refused: ' + why if why else text}")
