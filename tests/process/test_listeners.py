"""Two listeners, one of which is never empty: the other one's clients have their turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from .clients import Load
from .conftest import Daemon

#: Answers at the quiet one while the other is full: before listeners took turns, one to four in 8 s.
ANSWERS = 60


@pytest.mark.parametrize("quiet", ["first", "second"])
@pytest.mark.parametrize(
    "flags",
    [
        ["-w", "1"],
        ["-w", "2"],
        ["-w", "4"],
        ["-w", "1", "--no-native"],
        ["-w", "1", "--threads", "4"],
        ["-w", "2", "--accept", "exclusive"],
        ["-w", "1", "-m", "reactor", "--threads", "4"],
        ["-w", "1", "-m", "proactor"],
        ["-w", "1", "-m", "half-sync-half-async", "--io", "sigio"],
        ["-w", "1", "-m", "half-sync-half-async", "--io", "epoll"],
    ],
    ids=" ".join,
)
def test_the_quiet_one_is_not_left_out(
    service: Daemon, tmp_path: Path, flags: list[str], quiet: str
) -> None:
    unix = str(tmp_path / "app.sock")
    binds = ["-b", "127.0.0.1:0", "-b", f"unix:{unix}"]
    service.start(*flags, *binds)
    tcp = service.address
    busy, other = (unix, tcp) if quiet == "first" else (tcp, unix)
    with (
        Load(busy, fresh=12, path="/sleep/0.002", timeout=30) as many,
        Load(other, fresh=1, timeout=30) as few,
    ):
        many.more(50, 30)
        few.more(ANSWERS, 40)
    assert not few.failures
