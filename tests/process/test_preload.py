"""`preload`: one template per generation loads the application, and the workers are forked from it."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from forkd.models import registry

from .clients import Load
from .conftest import APP, Daemon, alive, command_line, processes_of, until

#: Notes each import, and the process.
COUNTED = (
    """
    import os, pathlib
    with open(pathlib.Path(__file__).with_name("imports"), "a") as f: f.write(f"{os.getpid()}\\n")
"""
    + APP
)


def imports(service: Daemon) -> list[int]:
    return [int(line) for line in (service.dir / "imports").read_text().split()]


def templates(service: Daemon) -> list[int]:
    found: list[int] = service.live()["master"]["templates"]
    return found


@pytest.mark.parametrize("model", [row.name for row in registry.MODELS])
def test_the_application_is_imported_once_under_every_model(service: Daemon, model: str) -> None:
    service.write_app(COUNTED)
    service.start("--preload", "-m", model, "-w", "3")
    assert imports(service) == templates(service)
    assert len(set(service.worker_pids())) == 3
    for _ in range(20):
        assert service.get() == "v1"
    assert command_line(templates(service)[0]).startswith("forkd: template [")


def test_a_reload_loads_new_code_once(service: Daemon) -> None:
    service.write_app(COUNTED)
    service.start("--preload", "-w", "3")
    for version in ("v2", "v3"):
        service.write_app(COUNTED, version)
        service.ok("reload")
        assert service.get() == version
    assert len(imports(service)) == 3
    until(lambda: len(templates(service)) == 1, "the old templates to end")


def test_requests_are_not_lost_meanwhile(service: Daemon) -> None:
    service.start("--preload", "--max-requests", "200")
    with Load(service.address, keep=4, fresh=2) as load:
        for _ in range(5):
            service.ok("reload")
        at = load.asked
        until(lambda: load.asked > at + 1000, "recycled workers", 30)
    assert not load.failures, load.failures[:5]
    exits = "forkd_worker_exits_total"
    until(lambda: service.metric(exits, reason="max-requests") > 0, "an exit is counted")


def test_the_workers_are_the_masters_children_and_die_with_it(service: Daemon) -> None:
    service.start_in_foreground("--preload")
    with service.connect() as client:
        client.sendall(b"GET /c/60 HTTP/1.1\r\nHost: a\r\n\r\n")  # one is stuck in C
        pids = [*service.worker_pids(), *templates(service)]
        for pid in pids:
            stat = Path(f"/proc/{pid}/stat").read_text()
            assert int(stat.rpartition(")")[2].split()[1]) == service.pid
        os.kill(service.pid, signal.SIGKILL)
        until(lambda: not any(map(alive, pids)), "all to be gone", 2)
    service.pidfile.unlink()
    service.control.unlink(missing_ok=True)


def test_a_template_that_dies_is_made_again_when_it_is_needed(service: Daemon) -> None:
    service.expected_errors = ["gone: SIGKILL"]
    service.write_app(COUNTED)
    service.start("--preload")
    for _ in range(3):
        [template] = templates(service)
        os.kill(template, signal.SIGKILL)
        until(lambda: not templates(service), "it to be missed")
        assert service.get() == "v1"
        os.kill(service.worker_pids()[0], signal.SIGKILL)
        until(lambda: templates(service) and len(service.workers()) == 2, "a new worker")
    assert len(imports(service)) == 4


def test_a_template_that_does_not_answer_is_replaced(service: Daemon) -> None:
    service.expected_errors = ["gone: SIGKILL", "does not answer"]
    service.start("--preload")
    [template] = templates(service)
    os.kill(template, signal.SIGSTOP)
    os.kill(service.worker_pids()[0], signal.SIGKILL)
    until(lambda: "does not answer" in service.log(), "the master's patience")
    until(lambda: len(service.workers()) == 2, "a new worker", 20)
    assert templates(service) != [template]


@pytest.mark.parametrize("end", ["nonsense", "import os; os._exit(3)", "raise SystemExit(4)"])
def test_what_cannot_be_loaded_ends_the_start(service: Daemon, end: str) -> None:
    service.expected_errors = ["."]
    service.write_app(end)
    done = service.run("start", *service.flags("--preload"))
    assert done.returncode == 1
    assert "app" in done.stderr or "template" in done.stderr
    until(lambda: not processes_of(service.name), "nothing to be left")


@pytest.mark.parametrize(
    "replaced",
    [
        "sys.stdout = io.StringIO()",
        "sys.stdout = None",
        "sys.stdout.close()",
        "sys.stdout.detach()",
        "del sys.stdout",
        "sys.stdout = sys.stderr = type('Lines', (), {'write': lambda self, text: len(text)})()",
    ],
)
def test_what_the_application_has_put_in_the_place_of_stdout_is_left_alone(
    service: Daemon, replaced: str
) -> None:
    service.write_app(f"    import io, sys\n    {replaced}\n{APP}")
    service.start("--preload")
    assert service.get() == "v1"


def test_what_hangs_at_a_fork_is_not_left_behind(service: Daemon) -> None:
    """A lock in a hook of the application's, say; the start waits for five templates in a row."""
    hang = "os.register_at_fork(after_in_child=lambda: time.sleep(99))"
    service.write_app(f"    import os, time\n    {hang}\n{APP}")
    service.expected_errors = ["does not answer; killed"]
    done = service.run("start", *service.flags("--preload"), timeout=60)
    assert done.returncode == 1
    assert "does not answer; killed" in done.stderr
    until(lambda: not processes_of(service.name), "nothing to be left")


def test_a_template_that_never_can_fork_ends_the_start(service: Daemon) -> None:
    """Each is asked for a child, ends at that, and the next one loads the application."""
    service.write_app(f"    import os\n    os.register_at_fork(before=lambda: os._exit(1))\n{APP}")
    service.expected_errors = ["it has ended"]
    done = service.run("start", *service.flags("--preload"))
    assert done.returncode == 1
    assert "5 times in a row: " in done.stderr
    assert processes_of(service.name) == []


def test_no_room_for_descriptors_ends_the_start(service: Daemon) -> None:
    hoard = """
    import os
    KEPT = []
    try:
        while True:
            KEPT.append(os.open("/dev/null", 0))
    except OSError:
        for fd in KEPT[-3:]:
            os.close(fd)
    """
    service.write_app(f"{hoard}{APP}")
    service.expected_errors = ["Too many open files"]
    done = service.run("start", *service.flags("--preload", "-w", "1"), preexec_fn=few_files)
    assert done.returncode == 1
    assert "Too many open files" in done.stderr
    assert processes_of(service.name) == []


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))


def test_what_cannot_be_loaded_fails_the_reload_alone(service: Daemon) -> None:
    service.expected_errors = ["reload failed", "Traceback", "NameError"]
    service.start("--preload")
    service.write_app("nonsense")
    done = service.run("reload")
    assert done.returncode == 1 and "NameError" in done.stderr
    assert service.get() == "v1" and len(templates(service)) == 1
    service.settles(1, "forkd_reloads_total", result="failure")


def test_a_hanging_import_can_be_given_up(service: Daemon) -> None:
    service.start("--preload")
    service.write_app("import time; time.sleep(600)")
    waiting = subprocess.Popen(
        service.argv("reload"),
        cwd=service.dir,
        env=service.environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: len(templates(service)) == 2, "the new template")
    service.ok("stop")
    assert "stopping" in waiting.communicate(timeout=20)[1]


def test_memory_is_shared(service: Daemon) -> None:
    service.write_app("FAT = [str(n) for n in range(600_000)]\n" + APP.replace("\n    ", "\n"))

    def private() -> int:
        total = 0
        for pid in service.worker_pids():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.findall(r"Private_Dirty: +(\d+)", text)[0])
        return total

    service.start("-w", "4")
    for _ in range(40):
        service.get()
    apart = private()
    service.ok("stop")
    service.start("--preload", "-w", "4")
    for _ in range(40):
        service.get()
    together = private()
    print(f"private memory of 4 workers: {apart} KiB apart, {together} KiB with preload")
    assert together < apart / 3


def test_no_collector_walks_what_a_worker_was_born_with(service: Daemon) -> None:
    service.write_app("""
        import gc
        INHERITED = gc.get_freeze_count()
        def app(environ, start_response):
            start_response("200 OK", [])
            return [b"%d" % INHERITED]
    """)
    service.start("-w", "1")  # each worker imports it, and has the master's memory alone
    first = int(service.get())
    assert first > 10_000
    for _ in range(5):
        service.ok("reload")
    assert int(service.get()) < first * 1.1  # nor is it kept for good


def test_threads_at_import_are_told_of(service: Daemon) -> None:
    service.write_app(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        + APP.replace("\n    ", "\n")
    )
    service.start("--preload")
    until(lambda: "1 thread(s) at import" in service.log(), "the line in the log")
    assert service.get() == "v1"


def test_an_upgrade_makes_a_template_of_its_own(service: Daemon) -> None:
    service.write_app(COUNTED)
    service.start("--preload")
    before = templates(service)
    with Load(service.address, keep=2, fresh=2) as load:
        service.ok("upgrade")
        until(lambda: not any(map(alive, before)), "the old template to end")
    assert not load.failures, load.failures[:5]
    assert len(imports(service)) == 2
