"""--hooks: which function is called when, in which process, and what its failure does."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from .conftest import Daemon, until

ALL = ("on_starting", "on_reload", "on_exit", "post_fork", "worker_ready", "worker_retiring",
       "worker_exit")  # fmt: skip

#: Each hook notes what it was told, and what is so.
NOTING = """
    import dataclasses, json, os, pathlib, sys

    NOTES = pathlib.Path(__file__).with_name("notes")

    def note(hook, place):
        with open("/proc/self/cmdline") as file:
            title = file.read().rstrip("\\0 ")
        sockets = 0
        for name in os.listdir("/proc/self/fd"):
            try:
                sockets += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
            except OSError:
                pass
        line = {"hook": hook, **dataclasses.asdict(place), "real": os.getpid(), "title": title,
                "parent": os.getppid(), "loaded": "app" in sys.modules, "sockets": sockets}
        with open(NOTES, "a") as notes:
            notes.write(json.dumps(line) + "\\n")
""" + "".join(f"\n    def {name}(place): note({name!r}, place)\n" for name in ALL)


def notes(service: Daemon, hook: str | None = None) -> list[dict[str, Any]]:
    path = service.dir / "notes"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [x for x in found if hook in (None, x["hook"])]


def hooked(service: Daemon, source: str = NOTING) -> None:
    service.write_app(source, name="care.py")


def test_the_life_of_a_daemon(service: Daemon) -> None:
    hooked(service)
    service.start("--hooks", "care")
    master = service.pid
    assert notes(service)[0]["hook"] == "on_starting"
    assert sorted(x["hook"] for x in notes(service)[1:]) == ["post_fork"] * 2 + ["worker_ready"] * 2
    first = {w["pid"]: w["slot"] for w in service.workers()}
    service.ok("reload")
    until(lambda: len(notes(service, "worker_exit")) == 2, "the old ones' exit")
    second = {w["pid"]: w["slot"] for w in service.workers()}
    service.ok("stop")
    order = [x["hook"] for x in notes(service)]
    assert order[-1] == "on_exit"
    assert order[5] == "on_reload"  # and only then the new workers
    for hook, times in (("on_starting", 1), ("on_reload", 1), ("on_exit", 1), ("post_fork", 4),
                        ("worker_ready", 4), ("worker_retiring", 4), ("worker_exit", 4)):  # fmt: skip
        assert order.count(hook) == times, hook
    for found in notes(service):
        assert (found["pid"], found["name"]) == (found["real"], service.name)
        assert found["master"] == found["parent"] == master
        assert found["loaded"] == (
            found["hook"] in ("worker_ready", "worker_retiring", "worker_exit")
        )
        if found["process"] == "worker":
            assert found["hook"] in ("post_fork", "worker_ready", "worker_retiring", "worker_exit")
            assert {**first, **second}[found["pid"]] == found["slot"]
            assert f"worker {found['slot']}" in found["title"]
            assert found["generation"] == (1 if found["pid"] in first else 2)
        else:
            assert found["hook"].startswith("on_")
            assert found["slot"] is None
            assert found["title"] == f"forkd: hook {found['hook']} [{service.name}]"
            assert found["sockets"] == 0  # no listener is held, whatever it leaves behind
    assert [x["generation"] for x in notes(service) if x["process"] == "own"] == [1, 2, 2]


def test_after_an_upgrade_the_daemon_has_neither_started_nor_ended(service: Daemon) -> None:
    hooked(service)
    service.start("--hooks", "care")
    old = service.pid
    service.ok("upgrade")
    until(lambda: not os.path.exists(f"/proc/{old}"), "the old master gone")
    service.ok("stop")
    own = [x["hook"] for x in notes(service) if x["process"] == "own"]
    assert own == ["on_starting", "on_reload", "on_exit"]


def test_with_preload_they_run_in_the_child_and_not_in_the_template(service: Daemon) -> None:
    hooked(service)
    service.start("--hooks", "care", "--preload")
    workers = {w["pid"] for w in service.workers()}
    forked = notes(service, "post_fork")
    assert {x["pid"] for x in forked} == workers
    assert all(x["loaded"] for x in forked)


@pytest.mark.parametrize("how", ["raise LookupError('on purpose')", "raise SystemExit(3)"])
def test_what_one_raises_is_logged_and_contained(service: Daemon, how: str) -> None:
    service.expected_errors = [""]
    hooked(service, "".join(f"def {name}(place):\n    {how}\n" for name in ALL))
    service.start("--hooks", "care")
    assert service.get() == "v1"
    service.ok("reload")
    assert service.get() == "v1"
    service.ok("stop")
    for name in ALL:
        assert f"hook {name} failed" in service.log(), name
    assert service.log().count(how.partition(" ")[2].partition("(")[0]) >= len(ALL)


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)", "time.sleep(60)"])
def test_one_that_takes_its_process_with_it_or_hangs_stops_nobody(
    service: Daemon, end: str
) -> None:
    service.expected_errors = ["hook on_starting"]
    hooked(service, f"import os, time\ndef on_starting(place):\n    {end}\n")
    service.start("--hooks", "care", "--timeout", "1")
    assert service.get() == "v1"
    how = {"o": "failed: ", "t": r"not done in 1 s (--timeout); killed"}[end[0]]
    until(lambda: how in service.log(), "the line in the log")


def test_a_stop_at_once_does_not_wait_for_one(service: Daemon) -> None:
    service.expected_errors = ["hook on_exit"]
    hooked(service, "import time\ndef on_exit(place):\n    time.sleep(60)\n")
    service.start("--hooks", "care", "--timeout", "0")
    service.signal(signal.SIGTERM)
    until(lambda: not service.live()["workers"], "the workers gone")
    service.signal(signal.SIGINT)
    service.gone()


def test_one_that_runs_ends_with_a_master_that_is_killed(service: Daemon) -> None:
    hooked(service, "import time\ndef on_reload(place):\n    time.sleep(600)\n")
    service.start("--hooks", "care", "--timeout", "0")
    service.signal(signal.SIGHUP)
    until(lambda: "reloading" in service.log(), "the reload")
    assert service.get() == "v1"  # the old ones serve meanwhile
    service.signal(signal.SIGKILL)
    service.gone()
    service.pidfile.unlink()
    service.control.unlink()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def on_startng(place): pass\n", "there is no hook on_startng; did you mean on_starting?"),
        ("def pre_fork(place): pass\n", "there is no hook pre_fork"),
        ("post_fork = 3\n", "post_fork is not callable"),
        ("import nothing_of_that_name\n", "ModuleNotFoundError"),
    ],
)
def test_a_module_that_is_wrong_is_named_by_check_and_at_start(
    service: Daemon, source: str, says: str
) -> None:
    service.expected_errors = [""]
    hooked(service, source)
    for verb in ("check", "start"):
        done = service.run(verb, *service.flags("--hooks", "care"))
        assert done.returncode == 1
        assert says in done.stderr
        assert "'care'" in done.stderr
    service.gone()


def test_what_is_imported_from_elsewhere_is_no_mistake(service: Daemon) -> None:
    (service.dir / "helper.py").write_text("def on_commit(f): return f\n")
    hooked(service, "from helper import on_commit\n@on_commit\ndef worker_ready(place): pass\n")
    assert service.ok("check", *service.flags("--hooks", "care")).startswith("ok: ")


def test_a_broken_module_leaves_the_old_generation_serving(service: Daemon) -> None:
    service.expected_errors = [""]
    hooked(service)
    service.start("--hooks", "care")
    hooked(service, "def on_relod(place): pass\n")
    done = service.run("reload")
    assert done.returncode == 1
    assert "did you mean on_reload?" in done.stderr
    assert service.get() == "v1"
