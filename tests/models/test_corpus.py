"""The raw HTTP corpora, judged on the wire: every model with every io, native code and its twin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forkd.models import registry
from tests.process.conftest import Daemon

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(os.environ.get("FORKD_CORPUS") or ROOT.parent / "shared" / "corpus")
FILES = ("gunicorn.jsonl", "llhttp.jsonl", "desync_guardian.jsonl")
#: Decided against the corpus, for reasons given in tests/http/test_corpus.py.
KNOWN = {"gunicorn/valid/022", "gunicorn/valid/099", "gunicorn/invalid/006"}

WAYS = [
    *(["-m", row.name, "--io", io] for row in registry.MODELS for io in row.ios[:1]),
    ["-m", "proactor", "--io", "aio"],
    ["-m", "process-per-connection", "--io", "blocking"],
    ["-m", "leader-followers", "--threads", "4"],
    ["--no-native"],
]
WAYS_OF_ASGI = [["-m", "leader-followers"], ["--no-native"], ["--loop", "uvloop"], ["--request-task", "real"]]


@pytest.mark.skipif(not CORPUS.exists(), reason=f"no corpus in {CORPUS} (set FORKD_CORPUS)")
@pytest.mark.parametrize(
    ("app", "flags"),
    [*(("wsgi", way) for way in WAYS), *(("asgi", way) for way in WAYS_OF_ASGI)],
    ids=lambda each: each if isinstance(each, str) else " ".join(each),
)
def test_corpora(service: Daemon, app: str, flags: list[str]) -> None:
    service.environ["PYTHONPATH"] += os.pathsep + str(CORPUS)
    service.start(*flags, "-w", "4", app=f"echo_app:{app}")
    _, judged = judge(service, *(CORPUS / name for name in FILES))
    assert len(judged) > 300
    failed = {case["id"] for case in judged if case["problems"]}
    # The runner takes 0.6 s of silence for the end, which a loaded machine may need for an answer, and what
    # its clients did not wait for is served first. A fault is there again, however long one waits.
    service.get(timeout=60)
    again = service.dir / "again.jsonl"
    lines = [line for name in FILES for line in (CORPUS / name).read_text().splitlines()]
    again.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["id"] in failed))
    report, judged = judge(service, again, wait=5)
    assert "ALIVE" in report, report
    assert {case["id"] for case in judged} == failed
    still = {case["id"]: case for case in judged if case["problems"]}
    assert set(still) == KNOWN, still


def judge(service: Daemon, *files: Path, wait: float = 0.6) -> tuple[str, list[dict[str, Any]]]:
    """What the corpus's own runner prints, and finds of each case."""
    found = service.dir / "found.json"
    done = subprocess.run(
        [
            sys.executable, str(CORPUS / "run_corpus.py"), str(service.address[1]), *map(str, files),
            "--skip-config", "--threads", "24", "--wait", str(wait), "--json", str(found),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout + done.stderr, json.loads(found.read_text())
