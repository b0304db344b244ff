"""What `module:attr` may name, and what is said of what it may not."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from forkd.app import interfaces, loader
from forkd.config import Config
from forkd.errors import AppError
from tests.process.conftest import Daemon

APPS = '''
import functools, sys

def make(*args, **kwargs):
    def app(environ, start):
        return []
    app.args, app.kwargs = args, kwargs
    return app

def forgot_to_return():
    make()

def leaves():
    sys.exit("no database")

def leaves_with_a_number():
    raise SystemExit(5)

class Holder:
    @property
    def broken(self):
        raise RuntimeError("no settings")
    @property
    def lacks(self):
        return self.missing

holder = Holder()
nothing = None

async def asgi(scope, receive, send):
    pass

async def generator(scope, receive, send):
    yield b""

class Callable:
    async def __call__(self, scope, receive, send):
        pass

class CallsAPartial:
    @property
    def __call__(self):
        return functools.partial(asgi, 1)

instance = Callable()
calls_a_partial = CallsAPartial()
static = staticmethod(asgi)
partial = functools.partial(asgi, 1)
partial_of_partial = functools.partial(functools.partial(generator), send=1)
partial_of_instance = functools.partial(instance, 1)
class Reluctant:
    def __getattr__(self, name):
        raise RuntimeError("outside of a request")
    def __repr__(self):
        raise RuntimeError("outside of a request")

reluctant = Reluctant()
wsgi_partial = functools.partial(make(), {})
'''
_names = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"apps_of_loader_{next(_names)}"
    (tmp_path / f"{name}.py").write_text(APPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return name


@pytest.mark.parametrize(
    ("call", "args", "kwargs"),
    [
        ("make()", (), {}),
        ("make(1, 'b', c=None)", (1, "b"), {"c": None}),
        ("make(**{'a': 1})", (), {"a": 1}),
        ("make(*[1, 2], *(3,), **{'a': 1}, b=2)", (1, 2, 3), {"a": 1, "b": 2}),
    ],
)
def test_a_factory_gets_its_arguments(
    module: str, call: str, args: object, kwargs: object
) -> None:
    app = loader.load(f"{module}:{call}")
    assert (app.args, app.kwargs) == (args, kwargs)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("make(open('x'))", "a factory's arguments must be literals"),
        ("make(**[1])", "a factory's arguments must be literals"),
        ("make(*1)", "a factory's arguments must be literals"),
        ("make(a=1, **{'a': 2})", "'a' is given twice"),
        ("make(**{'a': 1}, **{'a': 2})", "'a' is given twice"),
        ("make({[]: 1})", "a factory's arguments must be literals"),
        ("make(**{1: 2})", "keywords must be strings"),
        ("forgot_to_return()", "the factory returned None, which is no application"),
        ("nothing", "it is None, which is no application"),
        ("leaves()", "SystemExit: no database"),
        ("leaves_with_a_number()", "SystemExit: 5"),
        ("absent", "has no attribute 'absent'"),
        ("holder.absent", "Holder has no attribute 'absent'"),
        ("holder.broken", "RuntimeError: no settings"),
        ("holder.lacks", "'Holder' object has no attribute 'missing'"),
    ],
)
def test_what_cannot_be_loaded_has_a_reason(module: str, expression: str, said: str) -> None:
    with pytest.raises(AppError) as caught:
        loader.load(f"{module}:{expression}")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "asgi", "generator", "instance", "partial", "partial_of_partial", "partial_of_instance",
        "calls_a_partial", "static",
    ],
)  # fmt: skip
def test_asgi_is_no_wsgi(module: str, name: str) -> None:
    with pytest.raises(AppError, match="speaks ASGI"):
        app = loader.load(f"{module}:{name}")
        interfaces.find(app, "wsgi").require(app, Config())


def test_what_cannot_be_asked_for_anything_is_no_application(module: str) -> None:
    with pytest.raises(AppError, match="a Reluctant is no application"):
        interfaces.find(loader.load(f"{module}:reluctant"), None)


def test_a_partial_of_wsgi_is_wsgi(module: str) -> None:
    app = loader.load(f"{module}:wsgi_partial")
    speaks = interfaces.find(app, None)
    speaks.require(app, Config())
    assert speaks.name == "wsgi"


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("app = None", "app 'app:app': it is None, which is no application"),
        ("import sys; sys.exit('no database')", "SystemExit: no database"),
        ("raise KeyboardInterrupt", "importing app failed\nTraceback"),
        ("import os; os._exit(5)", "ended with exit code 5"),
        ("import os; os.kill(os.getpid(), 11)", "ended by SIGSEGV"),
    ],
)
def test_a_start_ends_with_the_reason(
    service: Daemon, preload: str, source: str, said: str
) -> None:
    service.expected_errors = ["gone: boot", "app 'app:app'", "Traceback", "SystemExit"]
    service.write_app(source)
    done = service.run("start", "-w", "1", "-b", "127.0.0.1:0", "--admin", "none", preload, "app:app")
    assert done.returncode == 1
    assert said in done.stderr
    done = service.run("check", "-b", "127.0.0.1:0", "--admin", "none", "app:app")
    assert done.returncode == 1
    assert said in done.stderr


def test_of_a_module_alone_none_is_no_application(service: Daemon) -> None:
    service.write_app("application = None")
    service.expected_errors = ["gone: boot"]
    done = service.run("start", *service.flags("-w", "1", "--preload", app="app"))
    assert done.returncode == 1
    assert "app 'app': it is None, which is no application" in done.stderr
