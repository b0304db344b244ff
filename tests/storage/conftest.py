"""Storage units to test: each case gets an empty one, of each engine that is asked for."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forkd import storage
from forkd.storage import Storage
from tests.storage.servers import Server, started_cluster

#: What opens a unit once more: in the same process or, by its URL, in another. Options are those of `open`.
Opens = Callable[..., Storage]

ENGINES = ("sqlite", "valkey", "cluster")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Its name. A test of some engines only is marked `parametrize("engine", ..., indirect=True)`."""
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, engine: str, tmp_path: Path) -> str:
    """An empty place."""
    if engine == "sqlite":
        return f"sqlite:{tmp_path}/unit.db"
    prefix = f"t{os.urandom(6).hex()}"
    if engine == "valkey":
        return f"valkey+unix:{request.getfixturevalue('server').socket}?prefix={prefix}"
    assert engine == "cluster"
    nodes = request.getfixturevalue("cluster")
    return f"valkey+cluster://{','.join(f'127.0.0.1:{node.port}' for node in nodes)}?prefix={prefix}"


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server.started() as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[list[Server]]:
    with started_cluster(3) as nodes:
        yield nodes


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
