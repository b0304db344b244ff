"""Beside clients that connect anew all the time, WebSockets, streams and kept connections have their turns.

What is asserted is the order of events (fair_site.py), never a duration.
"""

from __future__ import annotations

import json

import pytest

from forkd.system.uring import usable
from tests.models.test_fairness import SHARE, between, served, waited
from tests.process.conftest import Daemon

from . import fair_site
from .conftest import take

WAYS = {
    "native": [], "twin": ["--no-native"], "uvloop": ["--loop", "uvloop"],
    "half-sync-half-async": ["-m", "half-sync-half-async"], "io_uring": ["-m", "proactor"],
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_each_has_its_turn(service: Daemon, way: str) -> None:
    if way == "io_uring" and (why := usable()):
        pytest.skip(why)
    take(service, "fair_site")
    service.start("-w", "1", "--lifespan", "off", *WAYS[way], app="fair_site:app")
    events = [(kind, number) for kind, number in json.loads(service.get("/play", timeout=20))]
    # Those of a share whose bytes come after they were accepted are served beside the next share.
    assert between(events, "turn") <= 2 * SHARE
    assert served(events, "kept") == set(range(fair_site.KEPT))
    assert served(events, "socket") == set(range(fair_site.SOCKETS))
    assert served(events, "stream") == set(range(fair_site.STREAMS))
    assert waited(events, "kept ready", "kept") <= 2 * SHARE
    assert waited(events, "socket ready", "socket") <= 2 * SHARE
    assert between(events, "stream") <= 2 * SHARE
