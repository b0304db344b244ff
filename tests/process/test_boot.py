"""A boot that does not end, or is ended from outside: it is said where it hangs, and nothing waits for it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time

import pytest

from .conftest import Daemon, alive, processes_of, until

#: Importing it does not end while there is a file "hang"; each import is noted.
APP = """
    import os, time
    from pathlib import Path

    HERE = Path(__file__).parent
    VERSION = "v1"

    def stuck_here():
        with open(HERE / "imports", "a") as file:
            file.write(f"{os.getpid()} {VERSION}\\n")
        while (HERE / "hang").exists():
            time.sleep(0.01)

    stuck_here()

    def app(environ, start):
        start("200 OK", [("Content-Length", str(len(VERSION)))])
        return [VERSION.encode()]
"""
HOOKS = """
    import os, time
    from pathlib import Path

    def waits(name):
        def hook(place):
            Path(name).write_text(str(os.getpid()))
            while Path("hang").exists():
                time.sleep(0.01)
        return hook

    on_starting, on_reload, post_fork = waits("on_starting"), waits("on_reload"), waits("post_fork")
"""
KINDS = {
    "workers": ["-w", "2"],
    "template": ["-w", "2", "--preload"],
    "surge": ["-w", "2", "--max-surge", "1"],
}


def hang(service: Daemon) -> None:
    (service.dir / "hang").touch()


def go_on(service: Daemon) -> None:
    (service.dir / "hang").unlink()


def imports(service: Daemon) -> list[tuple[int, str]]:
    try:
        lines = (service.dir / "imports").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [(int(pid), version) for pid, version in map(str.split, lines)]


def importing(service: Daemon, version: str) -> int:
    """Waits until a process imports that version, and returns its pid."""
    return until(
        lambda: next((p for p, v in imports(service) if v == version and alive(p)), 0),
        f"an import of {version}",
    )


def command(service: Daemon, verb: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        service.argv(verb, *arguments), cwd=service.dir, env=service.environ, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def output(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def shows_where(text: str) -> None:
    assert "has not loaded the application within 0.5 s (--boot-timeout)" in text
    assert re.search(r'File ".*app\.py", line \d+ in stuck_here', text), text


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_ends_and_shows_where_it_hangs(service: Daemon, kind: str) -> None:
    service.write_app(APP)
    hang(service)
    done = service.run("start", *service.flags(*KINDS[kind], "--boot-timeout", "0.5"))
    assert done.returncode == 1
    shows_where(done.stderr)
    service.gone()
    assert not service.pidfile.exists()
    service.expected_errors = ["gone: boot-timeout"]


def test_a_check_ends_and_shows_where_it_hangs(service: Daemon) -> None:
    service.write_app(APP)
    hang(service)
    done = service.run("check", *service.flags("--boot-timeout", "0.5"))
    assert done.returncode == 1
    shows_where(done.stderr)
    assert not [pid for pid, _ in imports(service) if alive(pid)]


def test_a_check_waits_for_nobody_that_the_import_has_started(service: Daemon) -> None:
    service.write_app("""
        import os, time
        from pathlib import Path

        PID = os.fork()
        if PID == 0:
            time.sleep(60)
            os._exit(0)
        Path(__file__).with_name("left").write_text(str(PID))

        def app(environ, start):
            raise NotImplementedError
    """)
    try:
        done = subprocess.run(
            service.argv("check", *service.flags()), cwd=service.dir, env=service.environ,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20,
        )  # fmt: skip
    finally:
        os.kill(int((service.dir / "left").read_text()), signal.SIGKILL)
    assert done.returncode == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["reload", "upgrade"])
def test_a_reload_and_an_upgrade_end_too(service: Daemon, kind: str, verb: str) -> None:
    service.write_app(APP)
    service.start(*KINDS[kind], "--boot-timeout", "0.5")
    service.expected_errors = ["gone: boot-timeout", "reload failed", "upgrade failed"]
    workers = sorted(service.worker_pids())
    service.write_app(APP, "v2")
    hang(service)
    done = service.run(verb)
    assert done.returncode == 1
    shows_where(done.stderr)
    assert sorted(service.worker_pids()) == workers
    assert service.get() == "v1"
    until(lambda: not [p for p, v in imports(service) if v == "v2" and alive(p)], "no orphan")
    go_on(service)
    service.ok(verb)
    until(lambda: service.get() == "v2", "those before have been told to retire")


def test_zero_is_no_limit(service: Daemon) -> None:
    service.write_app(APP)
    hang(service)
    starting = command(service, "start", *service.flags("-w", "1", "--boot-timeout", "0"))
    importing(service, "v1")
    with pytest.raises(subprocess.TimeoutExpired):
        starting.wait(1.5)
    go_on(service)
    assert output(starting)[0] == 0


def test_a_hanging_hook_of_a_boot_ends_too(service: Daemon) -> None:
    service.write_app(HOOKS, name="hooks.py")
    hang(service)
    flags = ["--hooks", "hooks", "--timeout", "0", "--boot-timeout", "0.5"]
    service.expected_errors = ["hook on_starting", "gone: boot-timeout"]
    done = service.run("start", *service.flags("-w", "1", *flags))
    # on_starting is left behind, as after --timeout; a worker's own hook is part of its boot.
    assert done.returncode == 1
    assert re.search(r'File ".*hooks\.py", line \d+ in hook', done.stderr), done.stderr
    service.gone()
    assert "not done in 0.5 s (--boot-timeout); killed" in service.log()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["reload", "HUP"])
def test_mended_code_supersedes_a_reload_that_hangs(service: Daemon, kind: str, by: str) -> None:
    service.write_app(APP)
    service.start(*KINDS[kind])
    hang(service)
    service.write_app(APP, "v2")
    first = command(service, "reload")
    stuck = importing(service, "v2")
    service.write_app(APP.replace("stuck_here()\n\n    def app", "def app"), "v3")
    if by == "reload":
        assert "generation 2 serves" in service.ok("reload")
    else:
        service.signal(signal.SIGHUP)
    code, text = output(first)
    assert code == 1
    assert "superseded" in text
    until(lambda: service.live()["master"]["generation"] == 2, "the mended generation")
    until(lambda: len(service.workers()) == 2, "two workers")
    until(lambda: {service.get() for _ in range(20)} == {"v3"}, "those before have been told to retire")
    until(lambda: not alive(stuck), "the end of the one that hung")
    assert service.live()["master"]["reloads"] == {"success": 1, "failure": 0, "superseded": 1}


def test_a_storm_of_reloads_ends_with_the_last_code(service: Daemon) -> None:
    service.write_app(APP)
    service.start("-w", "8")
    hang(service)
    service.write_app(APP, "v2")
    for _ in range(40):
        service.signal(signal.SIGHUP)
        time.sleep(0.005)  # so that they are seen one by one, as a rule
    until(lambda: service.live()["master"]["state"] == "reloading", "the last of them")
    go_on(service)
    until(lambda: service.live()["master"]["state"] == "running", "the end of it")
    until(lambda: len(service.workers()) == 8, "eight workers")
    assert service.get() == "v2"
    assert service.live()["master"]["reloads"]["failure"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_stop_during_a_hanging_start_works_at_once(service: Daemon, kind: str) -> None:
    service.write_app(APP)
    hang(service)
    starting = command(service, "start", *service.flags(*KINDS[kind]))
    stuck = importing(service, "v1")
    service.ok("stop")
    code, text = output(starting)
    assert code == 1
    assert "stopped before the service answered" in text
    assert not alive(stuck)


def test_what_takes_long_is_said_and_ctrl_c_ends_what_a_start_began(service: Daemon) -> None:
    service.write_app(APP)
    hang(service)
    starting, checking = (command(service, verb, *service.flags("-w", "1")) for verb in ("start", "check"))
    stuck = []
    for waiting in (starting, checking):
        assert waiting.stderr is not None
        said = next(line for line in waiting.stderr if "is still being loaded" in line)
        pattern = r"forkd: app:app is still being loaded after 5 s \(pid (\d+)\); waiting, at most 300 s"
        found = re.match(pattern, said)
        assert found is not None
        stuck.append(int(found[1]))
    until(lambda: "app:app is still being loaded after 5 s" in service.log(), "the log to say it, too")
    starting.send_signal(signal.SIGINT)
    code, text = output(starting)
    assert (code, text) == (130, "forkd: interrupted; what this start had begun has ended\n")
    assert [alive(pid) for pid in stuck] == [False, True]
    assert not service.pidfile.exists()
    go_on(service)
    assert output(checking)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_start_that_nobody_waits_for_any_more_ends(service: Daemon, number: int) -> None:
    """The command is killed: it could not report any more whether the service has come up."""
    service.write_app(HOOKS, name="hooks.py")
    hang(service)
    service.expected_errors = ["hook on_starting .* failed: SIGTERM"]
    starting = command(service, "start", *service.flags("--hooks", "hooks"))
    until((service.dir / "on_starting").exists, "its hook")
    starting.send_signal(number)
    output(starting)
    service.gone()
    assert "does not wait for it any more" in service.log()
    assert not service.pidfile.exists()


def test_the_end_of_a_command_that_has_its_answer_is_nothing_to_the_service(service: Daemon) -> None:
    service.start()
    assert service.get() == "v1"
    assert "does not wait" not in service.log()


@pytest.mark.parametrize("verb", ["reload", "upgrade"])
def test_stop_during_a_hanging_reload_works_at_once(service: Daemon, verb: str) -> None:
    service.write_app(APP)
    service.start()
    hang(service)
    service.write_app(APP, "v2")
    waiting = command(service, verb)
    importing(service, "v2")
    service.ok("stop")
    code, text = output(waiting)
    assert code == 1
    assert "stopping" in text
    service.gone()


@pytest.mark.parametrize("when", ["on_starting", "on_reload"])
def test_stop_does_not_wait_for_a_hook_of_a_boot(service: Daemon, when: str) -> None:
    service.write_app(HOOKS, name="hooks.py")
    service.expected_errors = [f"hook {when} .* failed: SIGTERM"]
    flags = service.flags("--hooks", "hooks", "--timeout", "0", "--boot-timeout", "0")
    if when == "on_starting":
        hang(service)
        waiting = command(service, "start", *flags)
    else:
        service.ok("start", *flags)
        hang(service)
        waiting = command(service, "reload")
    until((service.dir / when).exists, when)
    service.ok("stop")
    assert output(waiting)[0] == 1
    service.gone()


# ---- killed from outside -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["workers", "template"])
def test_who_is_killed_while_it_boots_is_no_crash(service: Daemon, kind: str, number: int) -> None:
    """More often than the breaker allows crashes; and each time a little later."""
    mortal = "import os, signal, time\n    signal.signal(15, signal.SIG_DFL)"
    service.write_app(APP.replace("import os, time", mortal))
    service.start(*KINDS[kind][2:], "-w", "1")
    service.expected_errors = [r"gone: boot", r"gone: SIGKILL", "template", "fork: Broken pipe"]
    hang(service)
    old = [imports(service)[0][0], *service.worker_pids()]
    for pid in set(old):
        os.kill(pid, signal.SIGKILL)
    for _ in range(6):
        pid = until(lambda: next((p for p, _ in imports(service)[1:] if alive(p)), 0), "a boot", 20)
        os.kill(pid, number)
        until(lambda pid=pid: not alive(pid), "its end")  # type: ignore[misc]
    assert service.live()["master"]["state"] != "crash-loop"
    assert "crash loop" not in service.log()
    assert "from outside while it booted" in service.live()["master"]["last_error"]
    go_on(service)
    until(lambda: len(service.workers()) == 1, "a worker", 30)
    assert service.get() == "v1"


def test_it_is_not_tried_in_a_hot_loop(service: Daemon) -> None:
    """As when there is no memory: each is killed as soon as it imports the application."""
    service.write_app(APP)
    service.start("-w", "1")
    service.expected_errors = ["gone: boot", "gone: SIGKILL"]
    service.write_app(APP.replace("while (HERE", "while os.kill(os.getpid(), 9) or (HERE"))
    os.kill(service.worker_pids()[0], signal.SIGKILL)
    until(lambda: len(imports(service)) >= 4, "some tries")
    began, before = time.monotonic(), len(imports(service))
    time.sleep(2)  # what is looked at is how often something happens meanwhile
    most = (time.monotonic() - began) / 0.2 + 1
    assert len(imports(service)) - before <= most
    assert service.live()["master"]["state"] != "crash-loop"


@pytest.mark.parametrize("kind", ["workers", "template"])
def test_a_start_whose_workers_are_always_killed_fails(service: Daemon, kind: str) -> None:
    service.write_app(APP.replace("while (HERE", "while os.kill(os.getpid(), 9) or (HERE"))
    service.expected_errors = ["gone: boot"]
    done = service.run("start", *service.flags(*KINDS[kind][2:], "-w", "1"))
    assert done.returncode == 1
    assert "5 times in a row" in done.stderr
    assert "killed by SIGKILL from outside while it booted" in done.stderr
    service.gone()


def test_a_reload_survives_that_one_of_its_workers_is_killed(service: Daemon) -> None:
    service.write_app(APP)
    service.start("-w", "2")
    service.expected_errors = ["gone: boot"]
    hang(service)
    service.write_app(APP, "v2")
    reloading = command(service, "reload")
    os.kill(importing(service, "v2"), signal.SIGKILL)
    until(lambda: len([p for p, v in imports(service) if v == "v2"]) >= 3, "another in its place")
    go_on(service)
    assert output(reloading)[0] == 0
    assert service.get() == "v2"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_other_signals_are_crashes(service: Daemon, number: int) -> None:
    service.write_app(APP.replace("while (HERE", f"while os.kill(os.getpid(), {int(number)}) or (HERE"))
    service.expected_errors = ["gone: boot"]
    done = service.run("start", *service.flags("-w", "1"))
    assert done.returncode == 1
    service.gone()
    assert len(imports(service)) == 1  # the first crash ends the start


def test_the_thread_that_waits_gets_the_word_of_its_own_reload(service: Daemon) -> None:
    """Three callers: the two that were superseded fail, the last one succeeds."""
    service.write_app(APP)
    service.start("-w", "1")
    hang(service)
    found: dict[int, int] = {}

    def reload(number: int) -> None:
        found[number] = service.run("reload").returncode

    threads = []
    for number in range(3):
        threads.append(threading.Thread(target=reload, args=(number,)))
        threads[-1].start()
        want = {"success": 0, "failure": 0, "superseded": number}
        until(lambda want=want: service.live()["master"]["reloads"] == want, "it to begin")  # type: ignore[misc]
        until(lambda: service.live()["master"]["state"] == "reloading", "it to boot")
    go_on(service)
    for thread in threads:
        thread.join(30)
    assert found == {0: 1, 1: 1, 2: 0}
    assert not [p for p in processes_of(service.name) if not alive(p)]


def test_a_rolling_reload_that_hangs_in_its_middle_is_superseded(service: Daemon) -> None:
    """The first worker of the generation is ready, the next one hangs: it is tried again, the old ones
    serve, and mended code takes the place of both."""
    service.write_app(APP)
    service.start("-w", "2", "--max-surge", "1", "--boot-timeout", "0.5")
    service.expected_errors = ["gone: boot-timeout"]
    hang(service)
    first = "if (HERE / 'first').exists():\n        stuck_here()\n    (HERE / 'first').touch()\n"
    service.write_app(APP.replace("stuck_here()\n\n    def app", f"{first}\n    def app"), "v2")
    service.ok("reload")
    until(lambda: "gone: boot-timeout" in service.log(), "the second worker to be given up")
    until(lambda: " in stuck_here" in service.log(), "where it hangs")
    shows_where(service.log())
    assert len(service.workers()) == 2
    assert {service.get() for _ in range(10)} <= {"v1", "v2"}
    service.write_app(APP.replace("stuck_here()\n\n    def app", "def app"), "v3")
    service.ok("reload")
    until(lambda: {w["generation"] for w in service.workers()} == {3}, "the third generation alone")
    assert service.get() == "v3"


def test_an_upgrade_whose_new_master_says_nothing_ends(service: Daemon) -> None:
    service.write_app(APP)
    service.start("-w", "1", "--boot-timeout", "0.3", "--timeout", "0.3")
    service.expected_errors = ["upgrade failed"]
    hang(service)
    waiting = command(service, "upgrade")
    found = until(lambda: re.search(r"upgrade: pid (\d+) is starting", service.log()), "a new master")
    new = int(found[1])
    os.kill(new, signal.SIGSTOP)
    code, text = output(waiting)
    assert code == 1
    assert f"the new master (pid {new}) has said nothing for 10.6 s; killed" in text
    until(lambda: not alive(new), "its end")
    go_on(service)
    assert service.get() == "v1"
    service.ok("upgrade")
