"""Storage units to test: each case gets an empty one, of each engine that is asked for."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forkd import storage
from forkd.storage import Storage

#: What opens a unit once more: in the same process or, by its URL, in another. Options are those of `open`.
Opens = Callable[..., Storage]

ENGINES = ("sqlite",)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Its name. A test of some engines only is marked `parametrize("engine", ..., indirect=True)`."""
    return str(request.param)


@pytest.fixture
def url(engine: str, tmp_path: Path) -> str:
    """An empty place."""
    assert engine == "sqlite"
    return f"sqlite:{tmp_path}/unit.db"


@pytest.fixture
def opens(url: str) -> Iterator[Opens]:
    opened: list[Storage] = []

    def opens(**options: Any) -> Storage:
        unit = storage.open(url, **options)
        opened.append(unit)
        return unit

    yield opens
    for unit in opened:
        unit.close()
    gc.collect()


@pytest.fixture
def s(opens: Opens) -> Storage:
    return opens()
