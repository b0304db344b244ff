"""One daemon per cell of model × io × interface, and the grid of what passed in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from forkd.models import registry
from tests.process.conftest import Service, service

__all__ = ["service"]  # the fixture, for the tests here

CELLS = [
    (row.name, io, interface)
    for row in registry.MODELS
    for io in row.ios
    for interface in registry.INTERFACES
]
_RESULTS: dict[str, Counter[str]] = {}


def cells(*interfaces: str, refused: bool = False) -> list[Any]:
    """The cells with these interfaces; those that the table refuses, or the others."""
    return [
        pytest.param(cell, id="/".join(cell))
        for cell in CELLS
        if cell[2] in interfaces and bool(_refusal(cell)) is refused
    ]


def _refusal(cell: tuple[str, str, str]) -> str | None:
    row = registry.find(cell[0])
    assert row is not None
    return registry.refusal(row, cell[1], cell[2])


@pytest.fixture(scope="module")
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """`APP` and `FLAGS` of the test module, served by the cell."""
    model, io, _ = request.param
    service = Service(tmp_path_factory.mktemp(f"{model}-{io}"))
    service.write_app(request.module.APP)
    service.expected_errors = getattr(request.module, "ERRORS", [])
    service.start("-m", model, "--io", io, "-w", "2", *request.module.FLAGS)
    yield service
    service.finish()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for cell in CELLS:
        name = "/".join(cell)
        mine = f"[{name}" in report.nodeid or f"-{name}" in report.nodeid
        if mine and (report.when == "call" or report.outcome != "passed"):
            _RESULTS.setdefault(name, Counter())[report.outcome] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _RESULTS:
        return
    terminalreporter.section("models")
    for cell in CELLS:
        name = "/".join(cell)
        found = _RESULTS.get(name, Counter())
        text = ", ".join(f"{n} {outcome}" for outcome, n in sorted(found.items())) or "not run"
        why = _refusal(cell)
        terminalreporter.line(f"{name:40} {'refused: ' + why if why else text}")
