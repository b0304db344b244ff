"""The adapters pass the suites that their frameworks have for back ends of caches and limits.

`scripts/storage-suites` fetches these, in the versions that are installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = Path(__file__).parent / "suites"


@pytest.fixture(scope="module")
def suites() -> Path:
    done = subprocess.run([ROOT / "scripts/storage-suites"], capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"the suites cannot be fetched: {done.stderr.splitlines()[-1:]}")
    return ROOT / "build/suites"


def engines(first: str, then: str) -> pytest.MarkDecorator:
    """A run has one of them, and the soak the other, too."""
    both = [first, pytest.param(then, marks=pytest.mark.soak)]
    return pytest.mark.parametrize("engine", both, indirect=True)


def run(cwd: Path, url: str, *command: object, path: object = "") -> str:
    """What it prints; it has to succeed."""
    environ = {**os.environ, "STORAGE_URL": url, "PYTHONPATH": f"{path}:{ROOT}"}
    command = (sys.executable, *map(str, command))
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def pytest_run(cwd: Path, url: str, cases: Path, path: object) -> str:
    options = ("-q", "-p", "no:cacheprovider", "-c", os.devnull, "-W", "ignore", "--rootdir", cwd)
    options += ("--noconftest", "--import-mode=importlib")
    return run(cwd, url, "-m", "pytest", *options, cases, path=path)


def passed(text: str) -> int:
    found = re.search(r"(\d+) passed|Ran (\d+) tests", text)
    assert found is not None, text
    return int(found[1] or found[2])


@engines("valkey", "sqlite")
def test_django(suites: Path, url: str) -> None:
    tests = suites / f"django-{version('django')}/tests"
    text = run(tests, url, CASES / "run_django.py", tests, url)
    assert passed(text) >= 50


@engines("sqlite", "valkey")
def test_cachelib(suites: Path, url: str) -> None:
    tests = suites / f"cachelib-{version('cachelib')}/tests"
    assert passed(pytest_run(tests, url, CASES / "cachelib_cases.py", tests)) >= 18


@engines("sqlite", "valkey")
def test_limits(suites: Path, url: str) -> None:
    top = suites / f"limits-{version('limits')}"
    assert passed(pytest_run(top, url, CASES / "limits_cases.py", top)) >= 25
