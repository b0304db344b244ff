"""The raw HTTP corpora, judged on the wire: every model with every io, native code and its twin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from forkd.models import registry
from tests.process.conftest import Service

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(os.environ.get("FORKD_CORPUS") or ROOT.parent / "shared" / "corpus")
FILES = ("gunicorn.jsonl", "llhttp.jsonl", "desync_guardian.jsonl")
#: Decided against the corpus, for reasons given in tests/http/test_corpus.py.
KNOWN = {"gunicorn/valid/022", "gunicorn/valid/099"}

WAYS = [
    *(["-m", row.name, "--io", io] for row in registry.MODELS for io in row.ios[:1]),
    ["-m", "proactor", "--io", "aio"],
    ["-m", "process-per-connection", "--io", "blocking"],
    ["-m", "leader-followers", "--threads", "4"],
    ["--no-native"],
]


@pytest.mark.skipif(not CORPUS.exists(), reason=f"no corpus in {CORPUS} (set FORKD_CORPUS)")
@pytest.mark.parametrize("flags", WAYS, ids=" ".join)
def test_corpora(service: Service, flags: list[str]) -> None:
    service.environ["PYTHONPATH"] += os.pathsep + str(CORPUS)
    service.start(*flags, "-w", "4", app="echo_app:wsgi")
    found = service.dir / "found.json"
    done = subprocess.run(
        [
            sys.executable, str(CORPUS / "run_corpus.py"), str(service.address[1]),
            *(str(CORPUS / name) for name in FILES),
            "--skip-config", "--threads", "24", "--json", str(found),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "ALIVE" in done.stdout, done.stdout + done.stderr
    cases = json.loads(found.read_text())
    assert len(cases) > 300
    failed = {case["id"]: case for case in cases if case["problems"]}
    assert set(failed) == KNOWN, failed
