"""Histories of processes that are killed at random: nothing acknowledged is lost, and nothing is stuck."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from forkd.storage import Storage
from tests.storage.conftest import Opens
from tests.storage.hammer import main as hammer_main
from tests.storage.linear import Operation, is_linearizable, register
from tests.storage.tables import code_of, fork

ROOT = Path(__file__).resolve().parents[2]
#: By when what a killed process has sent to a server is done, or is not.
SLACK_NS = 500_000_000
SECONDS = float(os.environ.get("STORAGE_SECONDS", "1.5"))
SEED = int(os.environ.get("STORAGE_SEED", "0")) or int.from_bytes(os.urandom(3), "little")


def written(path: Path) -> list[Any]:
    """The lines of the log, in the order of their times. Of one whose process was killed as it wrote, at the
    end of a page of the file, the beginning may be there, with the next line behind it."""
    whole = re.compile(r'\[\d+, \d+, "(?:(?!\[\d+, \d+, ").)*$')
    lines = (whole.findall(line) for line in path.read_text().splitlines())
    return sorted((json.loads(found[0]) for found in lines if found), key=lambda line: line[1])


def hammer(url: str, work: str, path: Path) -> list[Any]:
    """See `written`."""
    if url.startswith("shm:"):  # which its own processes have alone
        assert code_of(fork(lambda: hammer_main(url, work, SECONDS, SEED, str(path)))) == 0, f"seed {SEED}"
        return written(path)
    command = [sys.executable, "-m", "tests.storage.hammer", url, work, str(SECONDS), str(SEED), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS * 10 + 60)
    assert done.returncode == 0, f"seed {SEED}: {done.stderr}"
    assert int(done.stdout) > 3
    return written(path)


def operations(lines: list[Any]) -> dict[str, list[Operation]]:
    """The history of each key."""
    found: dict[str, list[Operation]] = defaultdict(list)
    open_calls: dict[int, tuple[float, str, str, Any]] = {}
    for pid, at, word, *rest in lines:
        if word == "died":
            if rest[0] in open_calls:
                called, key, name, argument = open_calls.pop(rest[0])
                found[key].append(Operation(name, argument, None, called, at + SLACK_NS, killed=True))
        elif word == "call":
            key, name, argument = rest
            open_calls[pid] = (at, key, name, tuple(argument) if name == "cas" else argument)
        else:
            called, key, name, argument = open_calls.pop(pid)
            found[key].append(Operation(name, argument, rest[0], called, at))
    assert not open_calls
    return found


def last_read(s: Storage, key: str) -> Operation:
    time.sleep(SLACK_NS / 1e9)  # what was killed is over
    now = time.monotonic_ns()
    return Operation("get", None, s.get(key), now, now + 1)


@pytest.mark.parametrize("work", ["registers", "counters"])
def test_a_history_is_linearizable(url: str, opens: Opens, tmp_path: Path, work: str) -> None:
    found = operations(hammer(url, work, tmp_path / "log"))
    s = opens()
    assert sum(map(len, found.values())) > 100
    for key, history in found.items():
        assert is_linearizable([*history, last_read(s, key)], register), f"seed {SEED}, {key}"


def test_a_lock_has_one_holder_and_is_free_when_that_dies(url: str, tmp_path: Path) -> None:
    """Leases are of ten minutes: without the holder's death it would be stuck."""
    lines = hammer(url, "locks", tmp_path / "log")
    tokens = [rest[0] for _, _, word, *rest in lines if word == "enter"]
    assert len(tokens) > 20
    assert tokens == sorted(set(tokens)), f"seed {SEED}"
    inside = 0
    for _, _, word, *rest in lines:
        if word == "enter":
            inside = rest[0]
        elif word == "leave":
            assert rest[0] == inside, f"seed {SEED}: two held it"


def test_an_item_is_delivered_at_least_once(url: str, opens: Opens, tmp_path: Path) -> None:
    lines = hammer(url, "queues", tmp_path / "log")
    put = {rest[0] for _, _, word, *rest in lines if word == "is put"}
    begun = {rest[0] for _, _, word, *rest in lines if word == "put"}
    acked: dict[str, int] = {}
    for _, at, word, *rest in lines:
        if word == "acked":
            assert rest[0] not in acked, f"seed {SEED}: acknowledged twice"
            acked[rest[0]] = at
    queue = opens().queue("queue")
    left = set()
    while (job := queue.get(wait=2)) is not None:
        left.add(job.data)
        job.ack()
    assert put
    assert put <= acked.keys() | left | {rest[0] for _, _, word, *rest in lines if word == "got"}
    assert not left & acked.keys(), f"seed {SEED}: delivered after it was acknowledged"
    assert acked.keys() | left <= begun


# ---- the checker itself ---------------------------------------------------------------------


op = Operation


def test_the_checker_finds_a_lost_write() -> None:
    history = [op("set", 1, None, 0, 1), op("set", 2, None, 2, 3)]
    assert is_linearizable([*history, op("get", None, 2, 4, 5)], register)
    assert not is_linearizable([*history, op("get", None, 1, 4, 5)], register)
    assert not is_linearizable([*history, op("get", None, None, 4, 5)], register)


def test_the_checker_lets_what_was_killed_be_either() -> None:
    history = [op("set", 1, None, 0, 1), op("set", 2, None, 2, 9, True)]
    assert is_linearizable([*history, op("get", None, 1, 4, 5)], register)
    assert is_linearizable([*history, op("get", None, 2, 4, 5)], register)
    assert is_linearizable([*history, op("get", None, 1, 4, 5), op("get", None, 2, 6, 7)], register)
    assert not is_linearizable([*history, op("get", None, 2, 4, 5), op("get", None, 1, 6, 7)], register)


def test_the_checker_finds_a_lost_increment() -> None:
    history = [op("incr", 1, 1, 0, 5), op("incr", 1, 1, 0, 5)]
    assert not is_linearizable(history, register)
    assert is_linearizable([op("incr", 1, 1, 0, 5), op("incr", 1, 2, 0, 5)], register)
