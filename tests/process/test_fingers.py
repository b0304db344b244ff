"""What a user types by habit or by mistake: each is answered once, with what to type instead."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .conftest import Daemon


def forkd(service: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "forkd", *words], cwd=service.dir, env=service.environ, text=True,
        capture_output=True, timeout=30,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "start --host 0.0.0.0 --port 8080 app:app",
            ["--host'; a flag of uvicorn and granian; here it is --bind HOST:PORT",
             "--port'; a flag of uvicorn and granian; here it is --bind HOST:PORT"],
        ),
        ("start app:app --reload --reload-dir src", ["'--reload'", "'--reload-dir'"]),
        ("start -D app:app", ["'-D'; a flag of gunicorn and hypercorn; here it is forkd start,"]),
        ("start -t 30 -p /run/x.pid app:app", ["here it is --timeout SECONDS", "here it is --pidfile PATH"]),
        ("start --wrokers 4 app:app", ["'--wrokers'; did you mean --workers?"]),
        ("check --access-logfile=- app:app", ["here it is --access-log PATH"]),
        ("reload --pid /run/x.pid", ["here it is --pidfile PATH"]),
        ("restart app:app other:app", ["unknown argument 'other:app'"]),
        ("start app:app -w", ["argument -w/--workers: expected one argument"]),
        ("strat app:app", ["no verb 'strat'; did you mean start?"]),
        ("app:app -w 4", ["did you mean forkd start app:app -w 4?"]),
        ("--workers 4 app:app", ["a verb comes first: forkd start --workers 4 app:app"]),
        ("serve", ["no verb 'serve'; here it is forkd start"]),
    ],
)  # fmt: skip
def test_one_line_for_each_mistake_and_exit_2(service: Daemon, words: str, said: list[str]) -> None:
    done = forkd(service, *words.split())
    assert done.returncode == 2
    *lines, last = done.stderr.splitlines()
    assert len(lines) == len(said), done.stderr
    for line, part in zip(lines, said, strict=True):
        assert line.startswith("forkd: ") and part in line, line
    assert last.startswith("forkd: see forkd") and last.endswith("--help")
    assert done.stdout == ""


@pytest.mark.parametrize("flag", ["--version", "-V", "-v"])
def test_the_version(service: Daemon, flag: str) -> None:
    done = forkd(service, flag)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "forkd", "")


@pytest.mark.parametrize(
    ("source", "serves"),
    [
        ("application = lambda e, s: [s('200 OK', []), [b'application']][1]", "application"),
        ("app = lambda e, s: [s('200 OK', []), [b'app']][1]", "app"),
        ("app = None\napplication = lambda e, s: [s('200 OK', []), [b'application']][1]", "application"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--preload"]], ids=" ".join)
def test_a_module_alone_serves_its_application(
    service: Daemon, source: str, serves: str, flags: list[str]
) -> None:
    (service.dir / "mysite").mkdir()
    service.write_app(source, name="mysite/wsgi.py")
    assert service.ok("check", "mysite.wsgi").startswith("ok: mysite.wsgi (wsgi)")
    service.start(*flags, app="mysite.wsgi")
    assert service.get() == serves
    service.ok("reload")
    assert service.get() == serves


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("empty", "app 'empty': empty has neither application nor app; write it as module:attr"),
        ("./mysite/wsgi.py:app", "name a module, not a file: mysite.wsgi:app"),
        ("app.py", "app 'app.py': name a module, not a file: app"),
    ],
)
def test_an_application_that_is_none_is_answered(service: Daemon, app: str, said: str) -> None:
    service.expected_errors = [""]
    service.write_app("", name="empty.py")
    for verb in ("check", "start"):
        done = service.run(verb, *service.flags(app=app))
        assert done.returncode == 1
        assert said in done.stderr


def test_a_timeout_of_an_hour(service: Daemon) -> None:
    service.start("--timeout", "1h", "--keep-alive", "1d")
    assert service.get() == "v1"
