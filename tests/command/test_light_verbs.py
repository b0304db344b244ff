"""What a verb imports: monitors run `forkd status` often, and workers keep what a start has imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from forkd.command.main import VERBS

#: What only those import that run the service, or try to.
SERVICE = {"forkd.master", "forkd.models", "forkd.worker", "forkd.engine"}
COSTLY = {"asyncio", "prometheus_client", "multiprocessing", "ssl"}


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_imports_what_it_needs(name: str) -> None:
    code = f"import sys, forkd.command.{VERBS[name].module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    loaded = set(done.stdout.split())
    assert f"forkd.command.{VERBS[name].module}" in loaded, done.stderr
    assert not loaded & COSTLY
    if name not in ("start", "restart", "check", "bench", "models"):
        assert not loaded & SERVICE
