"""One daemon per cell of model × io × interface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from zlib import crc32

import pytest

from forkd.models import registry
from forkd.models.row import ModelRow
from tests.process.conftest import Daemon, service

__all__ = ["service"]  # the fixture, for the tests here

Cell = tuple[str, str, str, int]  # model, io, interface, threads


def _threads(row: ModelRow, io: str) -> list[int]:
    if row.pooled:
        return [4]
    return [1, 4] if row.threaded and io in (row.ios[0], "aio") else [1]


CELLS: list[Cell] = [
    (row.name, io, interface, threads)
    for row in registry.MODELS
    for io in row.ios
    for threads in _threads(row, io)
    for interface in ("wsgi", "socketserver", "asyncio", "asgi")
]


def cells(*interfaces: str, refused: bool = False) -> list[Any]:
    """The cells with these interfaces; those that the table refuses, or the others."""
    return [
        pytest.param(cell, id=name_of(cell))
        for cell in CELLS
        if cell[2] in interfaces and bool(refusal_of(cell)) is refused
    ]


def name_of(cell: Cell) -> str:
    model, io, interface, threads = cell
    return f"{model}/{io}/x{threads}/{interface}"


def refusal_of(cell: Cell) -> str | None:
    model, io, interface, threads = cell
    return registry.refusal(registry.get(model), io, interface, threads)


@pytest.fixture(scope="module")
def daemon(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """`APP` and `FLAGS` of the test module, served by the cell."""
    model, io, interface, threads = request.param
    service = Daemon(tmp_path_factory.mktemp(f"{model}-{io}"))
    service.write_app(request.module.APP)
    service.expected_errors = getattr(request.module, "ERRORS", [])
    if interface in ("asyncio", "asgi"):  # each loop has some of the cells
        service.environ["FORKD_LOOP"] = ("asyncio", "uvloop")[crc32(name_of(request.param).encode()) % 2]
    flags = ["-m", model, "--io", io, "--threads", str(threads), "-w", "2"]
    service.start(*flags, *request.module.FLAGS)
    yield service
    service.finish()
