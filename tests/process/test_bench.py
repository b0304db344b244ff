"""`forkd bench`: what cannot be measured is an error, and what makes no sense is one of usage."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from .conftest import Daemon

pytestmark = pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk")


def bench(service: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forkd", "bench", *arguments], env=service.environ, text=True,
        capture_output=True, timeout=120, cwd=service.dir,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("nosuch:app", "No module named 'nosuch'"),
        ("app:nosuch", "has no attribute 'nosuch'"),
        ("broken:app", "ZeroDivisionError"),
    ],
)
def test_an_application_that_cannot_be_loaded(service: Daemon, app: str, said: str) -> None:
    (service.dir / "broken.py").write_text("1 / 0\n")
    done = bench(service, app)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stdout == ""
    assert not (service.dir / "bench.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "nosuch"], "--models: there is no model 'nosuch'; there are leader-followers, "),
        (["--models", "reactor,"], "--models: there is no model ''"),
        (["--workers", "0"], "--workers: '0' is no list of positive numbers"),
        (["--threads", "many"], "--threads: 'many' is no list of positive numbers"),
        (["--connections", "1,2"], "--connections: '1,2' is more than one number"),
        (["--seconds", "-1"], "--seconds: '-1' is no list of positive numbers"),
        (["--rounds", "1.5"], "--rounds: '1.5' is no list of positive numbers"),
        (["--path", "index"], "--path: 'index' is no path to request"),
    ],
)
def test_arguments_that_make_no_sense_are_exit_2(service: Daemon, arguments: list[str], said: str) -> None:
    done = bench(service, "app:app", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_when_each_combination_is_refused_nothing_was_measured(service: Daemon) -> None:
    service.write_app("import asyncio\nclass Echo(asyncio.Protocol): pass\n", name="echo.py")
    done = bench(service, "echo:Echo", "--models", "reactor,simulated-proactor", "--rounds", "1")
    assert done.returncode == 1
    assert "nothing was measured" in done.stderr
    assert "an asyncio protocol belongs to the thread of its event loop" in done.stdout


def test_of_asgi_what_can_serve_it_is_measured(service: Daemon) -> None:
    service.write_app("""
        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})
    """)
    brief = ["--rounds", "1", "--seconds", "1"]
    done = bench(service, "app:app", *brief)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:] if line and "written" not in line]
    assert [row[0] for row in rows if "refused" not in row] >= ["leader-followers", "half-sync-half-async"]
    assert {row[2] for row in rows} == {"1"}
    assert "reactor" not in done.stdout
    done = bench(service, "app:app", "--models", "leader-followers", "--loops", "asyncio", *brief)
    assert "leader-followers, asyncio " in done.stdout
    done = bench(service, "app:app", "--models", "reactor", "--rounds", "1")
    assert done.returncode == 1
    assert "reactor w1 t1: refused: app app:app: --model reactor" in done.stdout


def test_what_can_be_measured_is(service: Daemon) -> None:
    """Whatever configuration file lies in the directory."""
    (service.dir / "forkd.toml").write_text("nonsense = 1\n")
    brief = ["--threads", "1", "--rounds", "1", "--seconds", "1"]
    done = bench(service, "app:app", "--models", "reactor", *brief)
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("reactor")]
    assert int(row.split()[3].replace(",", "")) > 0
    assert "reactor" in (service.dir / "bench.html").read_text()
