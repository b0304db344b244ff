"""What may run beside an application calls no function of the standard library that gevent, eventlet or
freezegun replace: it has the originals, where none of them finds it.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forkd.system import originals
from scripts import graph

ROOT = Path(__file__).parent.parent

#: Files whose code runs only where there is no application: the master, the logger, the command.
APART = ("command/", "ipc/", "logger/", "master/", "metrics/", "system/originals.py")
#: But for these of them, which run in children.
BESIDE = {
    "command/check.py", "ipc/heritage.py", "ipc/messages.py", "master/hook_runner.py", "master/logs.py",
}  # fmt: skip
#: What is for the application itself, as it has it by then.
MEANT = {
    ("system/forked.py", "threading._active"),
    ("system/forked.py", "threading._DummyThread"),
    ("system/forked.py", "threading._shutdown"),
    ("system/signals.py", "signal.getsignal"),
    ("system/signals.py", "signal.set_wakeup_fd"),
    ("system/signals.py", "signal.signal"),
}

#: Prints the names that each library replaces or deletes, by module.
REPLACED = """
import json, os, queue, select, selectors, signal, socket, subprocess, sys, threading, time, _thread
modules = [os, queue, select, selectors, signal, socket, subprocess, threading, time, _thread]
before = {module: dict(vars(module)) for module in modules}
if sys.argv[1] == "gevent":
    import gevent.monkey
    gevent.monkey.patch_all()
elif sys.argv[1] == "eventlet":
    import eventlet
    eventlet.monkey_patch()
else:
    import freezegun
    freezegun.freeze_time("2001-01-01").start()
print(json.dumps([
    f"{module.__name__}.{name}"
    for module, names in before.items() for name, value in names.items()
    if vars(module).get(name) is not value
]))
"""


def replaced_by(library: str) -> set[str]:
    command = [sys.executable, "-W", "ignore", "-c", REPLACED, library]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


def used(file: Path) -> set[str]:
    """The names that a file has from the standard library, as "module.name"; annotations are no use."""
    tree = ast.parse(file.read_text())
    modules: dict[str, str] = {}
    found: set[str] = set()
    annotations: set[ast.AST] = set()
    for node in ast.walk(tree):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.AST):
                annotations.update(ast.walk(part))
        if isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module is not None and node not in annotations:
                found.add(f"{module}.{node.attr}")
    return found


def test_nothing_is_called_that_may_be_replaced() -> None:
    replaced = replaced_by("gevent") | replaced_by("eventlet") | replaced_by("freezegun")
    assert {"os.close", "os.read", "select.epoll", "threading.Lock", "time.monotonic"} <= replaced
    assert set(graph.files()) >= BESIDE
    for file, path in graph.files().items():
        if file in BESIDE or not file.startswith(APART):
            bad = {name for name in used(path) & replaced if (file, name) not in MEANT}
            assert not bad, f"forkd/{file} has {sorted(bad)}: the originals have them, too"


def test_the_originals_are_in_c() -> None:
    assert type(originals.Lock()).__module__ == "_thread"
    assert originals.SimpleQueue.__module__ == "_queue"
    assert originals.time.monotonic is not time.monotonic


@pytest.mark.parametrize("tick", [False, True])
def test_freezegun_does_not_find_the_clocks(tick: bool) -> None:
    freezegun = pytest.importorskip("freezegun")
    clock, wall = time.monotonic, time.time
    with freezegun.freeze_time("2001-02-03", tick=tick):
        assert abs(time.time() - 981158400) < 1000  # it is on
        assert abs(originals.monotonic() - clock()) < 100
        assert abs(originals.monotonic_ns() / 1e9 - clock()) < 100
        assert abs(originals.time.time() - wall()) < 100


@pytest.mark.parametrize("tick", [False, True])
def test_time_machine_does_not_find_the_clocks(tick: bool) -> None:
    time_machine = pytest.importorskip("time_machine")
    clock, now = time.monotonic, time.time()
    with time_machine.travel(981158400, tick=tick):
        assert abs(time.time() - 981158400) < 1000
        assert abs(originals.monotonic() - clock()) < 100
        assert abs(originals.time.time() - now) < 100
        assert originals.time.gmtime(0).tm_year == 1970
        assert originals.time.strftime("%Y", originals.time.gmtime(now)) != "2001"


PATCHED_FIRST = """
import sys
{patch}
from forkd.command.main import main
sys.exit(main(["check", "forkd.app.welcome:app"]))
"""


@pytest.mark.parametrize(
    ("patch", "who"),
    [
        ("import gevent.monkey; gevent.monkey.patch_all()", "gevent"),
        # Without its resolver, which imports whatever HTTP client is installed, and cannot patch each.
        ("import os; os.environ['EVENTLET_NO_GREENDNS'] = 'yes'; import eventlet; eventlet.monkey_patch()",
         "eventlet"),
    ],
)  # fmt: skip
def test_who_patches_before_forkd_is_told(patch: str, who: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", PATCHED_FIRST.format(patch=patch)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"forkd: {who} has patched this interpreter before forkd")
