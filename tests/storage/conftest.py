"""Storage units to test: each case gets an empty one, of each engine that is asked for."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forkd import storage
from forkd.native import native
from forkd.storage import Storage
from tests.storage import tables
from tests.storage.servers import Server, started_cluster

#: What opens a unit once more: in the same process or, by its URL, in another. Options are those of `open`.
Opens = Callable[..., Storage]

ENGINES = ("sqlite", *(("shm",) if native is not None else ()), "shm-twin", "valkey", "cluster")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Its name. A test of some engines only is marked `parametrize("engine", ..., indirect=True)`."""
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, engine: str, tmp_path: Path) -> Iterator[str]:
    """An empty place."""
    prefix = f"t{os.urandom(6).hex()}"
    if engine == "sqlite":
        yield f"sqlite:{tmp_path}/unit.db"
    elif engine == "valkey":
        yield f"valkey+unix:{request.getfixturevalue('server').socket}?prefix={prefix}"
    elif engine == "cluster":
        nodes = request.getfixturevalue("cluster")
        yield f"valkey+cluster://{','.join(f'127.0.0.1:{node.port}' for node in nodes)}?prefix={prefix}"
    else:
        tables.serve(tables.Memory(8 << 20), native=engine == "shm")
        yield "shm:8m"
        tables.serve(None)


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
