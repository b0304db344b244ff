"""What runs with which rights: docs/rights.md is the table, and each process is asked.

Names of modules are planted in the application's directory, which the workers' user may write to. No
process with the master's rights may import one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Daemon, alive, processes_of, until
from .markers import Ends, Markers, Note, environment, plantable
from .test_privileges import NOBODY, root_only

PAGE = Path(__file__).parents[2] / "docs" / "rights.md"
APP = """
    import colorsys

    VERSION = "v1"

    def app(environ, start):
        if environ["PATH_INFO"] == "/crash":
            import os, signal
            os.kill(os.getpid(), signal.SIGSEGV)
        start("200 OK", [("Content-Length", "2")])
        return [VERSION.encode()]
"""
HOOKS = """
    import sched

    def on_starting(place): import fileinput
    def on_reload(place): import fileinput
    def on_exit(place): import fileinput
    def worker_ready(place): import fileinput
"""
#: Of the application and the hooks, in the directory for good.
OWN = {"app", "hooks_of_ours"}
#: As users start it: the script, and the module by an interpreter in the application's directory.
SCRIPT = [str(Path(sysconfig.get_path("scripts")) / "forkd")]
MODULE = [sys.executable, "-m", "forkd"]


class Planted:
    """A service as root with `--user nobody`, in a directory that nobody may write to."""

    def __init__(self, service: Daemon, outside: Path, program: list[str]) -> None:
        service.open_up()
        service.write_app(APP)
        service.write_app(HOOKS, name="hooks_of_ours.py")
        os.chown(service.dir, NOBODY.pw_uid, NOBODY.pw_gid)
        outside.mkdir()
        outside.chmod(0o755)
        self.service = service
        self.markers = Markers(service.dir, outside / "notes")
        self.ends = Ends(outside)
        self.program = program
        self.verbs: dict[str, list[Note]] = {}
        self.control = outside / "s.sock"

    def run(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        service = self.service
        where = ["--name", service.name, "--pidfile", str(service.pidfile)]
        done = subprocess.run(
            [*self.program, verb, *arguments, *where], cwd=service.dir, text=True, timeout=120,
            env=environment(service.environ, self.ends), capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, f"forkd {verb}: {done.stdout}{done.stderr}{service.log()}"
        return done

    def during(self, verb: str, action: Callable[[], object]) -> None:
        """Note who imports what while `action` runs."""
        self.markers.forget()
        action()
        self.verbs[verb] = self.markers.found()

    def all_verbs(self, *flags: str) -> None:
        service = self.service
        given = service.flags("--user", "nobody", "--hooks", "hooks_of_ours", "-w", "1", *flags)
        self.during("check", lambda: self.run("check", *given))
        self.during("start", lambda: self.run("start", *given))
        self.during("reload", lambda: self.run("reload"))
        self.during("upgrade", self._upgrade)
        self.during("restart", lambda: self.run("restart"))
        self.during("crash", self._crash)
        self.during("status", lambda: self.run("status"))
        self.during("scrape", lambda: service.admin("/metrics"))
        self.during("scale", lambda: self.run("scale", "2"))
        self.during("stop", lambda: (self.run("stop"), service.gone()))

    def _upgrade(self) -> None:
        old = self.service.pid
        self.run("upgrade")
        until(lambda: not alive(old), "the old master gone")

    def _crash(self) -> None:
        service = self.service
        service.expected_errors += ["SIGSEGV", "Segmentation fault"]
        with pytest.raises(OSError):
            service.get("/crash")
        until(lambda: "SIGSEGV" in service.log(), "the crash report")
        until(lambda: len(service.workers()) == 1, "a new worker")


def rights_table() -> dict[str, tuple[str, str]]:
    """Of the page: process to (whose ids, NoNewPrivs)."""
    rows = re.findall(
        r"^\| `(\w+)[^`]*` \| (master's|workers') \| ([01]) \|", PAGE.read_text(), re.M
    )
    return {process: (ids, no_new) for process, ids, no_new in rows}


@root_only
@pytest.mark.parametrize(
    "program, flags", [(SCRIPT, []), (MODULE, ["--preload"])], ids=["script", "module, preload"]
)
def test_nothing_of_the_application_is_imported_with_the_masters_rights(
    service: Daemon, tmp_path_factory: pytest.TempPathFactory, program: list[str], flags: list[str]
) -> None:
    if not os.path.exists(program[0]):
        pytest.skip("forkd is not installed: there is no script")
    planted = Planted(service, tmp_path_factory.mktemp("trusted") / "x", program)
    service.open_up(planted.ends.directory.parent)
    planted.all_verbs(*flags)
    names = set(plantable(planted.ends.names())) - OWN
    assert {"forkd", "daemon", "httptools", "json", "signal"} <= names
    names.add("prometheus_client")  # at a scrape, by the master, which ends without a trace of it
    if program is MODULE:
        # `python -m forkd` in a directory with a forkd.py runs that one, and -m itself imports others before
        # any line of forkd.
        code = "import runpy, sys; print(*sys.modules)"
        names -= {"forkd", *subprocess.check_output([sys.executable, "-I", "-c", code], text=True).split()}
    planted.markers.plant(names)
    planted.all_verbs(*flags)
    table = rights_table()
    foreign = {process for process, (ids, _) in table.items() if ids == "workers'"}
    seen = {note.role for notes in planted.verbs.values() for note in notes}
    wrong = [(v, n) for v, notes in planted.verbs.items() for n in notes if 0 in (*n.uid, *n.gid)]
    assert not wrong, "\n".join(map(str, wrong[:20]))
    assert seen == foreign if flags else seen == foreign - {"template"}
    for notes in planted.verbs.values():
        for note in notes:
            assert note.uid == (NOBODY.pw_uid,) * 3
            assert note.gid == (NOBODY.pw_gid,) * 3
            assert note.no_new_privs == int(table[note.role][1])
            assert note.bounding == 0
    importing = "template" if flags else "worker"
    found = {verb: {(n.role, n.module) for n in notes} for verb, notes in planted.verbs.items()}
    for verb in ("start", "reload", "upgrade", "restart"):
        expected = {(importing, "colorsys"), ("hook", "fileinput"), ("worker", "fileinput")}
        assert expected <= found[verb], verb
    assert {("check", "colorsys"), ("check", "sched")} <= found["check"]
    assert ("hook", "fileinput") in found["stop"]


@pytest.mark.parametrize("name", ["daemon", "httptools", "json", "signal"])
def test_an_application_with_modules_named_as_ours_is_upgraded(service: Daemon, name: str) -> None:
    (service.dir / f"{name}.py").write_text("raise SystemExit('not for forkd')\n")
    service.start()
    old = service.pid
    service.ok("upgrade")
    until(lambda: not alive(old), "the old master gone")
    assert service.get() == "v1"


def caps(pid: int) -> dict[str, int]:
    text = Path(f"/proc/{pid}/status").read_text()
    found = dict(re.findall(r"^(NoNewPrivs|Cap\w+):\s*(\w+)$", text, re.M))
    return {key: int(value, 16) for key, value in found.items()}


@root_only
@pytest.mark.parametrize("preload", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
def test_workers_gain_nothing_any_more(service: Daemon, preload: bool, allowed: bool) -> None:
    service.open_up()
    flags = [*["--preload"] * preload, *["--new-privileges"] * allowed]
    service.start("--user", "nobody", *flags)
    before = caps(os.getpid())
    assert caps(service.pid) == before  # the master is as its start was
    forkds = {service.pid, service.logger_pid}  # which run no code but forkd's
    foreign = [pid for pid in processes_of(service.name) if pid not in forkds]
    assert len(foreign) == 2 + preload
    for pid in foreign:
        sets = caps(pid)
        assert sets.pop("NoNewPrivs") == (0 if allowed else 1)
        assert set(sets) == {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}
        assert set(sets.values()) == {0}
    service.ok("reload")
    assert all(caps(pid)["CapBnd"] == 0 for pid in service.worker_pids())


def test_workers_with_the_masters_ids_gain_nothing_by_setuid_programs(service: Daemon) -> None:
    service.start()
    for pid in service.worker_pids():
        found = caps(pid)
        assert found["NoNewPrivs"] == 1
        assert found["CapInh"] == found["CapAmb"] == 0
        assert found["CapBnd"] == caps(service.pid)["CapBnd"]
    assert caps(service.pid)["NoNewPrivs"] == 0


#: Runs `cat` of the path that is asked for, by a setuid copy if the directory has one.
RUNNING = """
    import os

    def app(environ, start):
        read, write = os.pipe()
        program = "./cat" if os.path.exists("./cat") else "/bin/cat"
        actions = [(os.POSIX_SPAWN_DUP2, write, 1)]
        pid = os.posix_spawn(program, ["cat", "/proc/self/status"], {}, file_actions=actions)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            body = pipe.read()
        os.waitpid(pid, 0)
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]
"""


@root_only
@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("model", ["leader-followers", "process-per-connection"])
def test_a_setuid_program_has_no_rights_but_those_of_new_privileges(
    service: Daemon, allowed: bool, model: str
) -> None:
    service.open_up()
    service.write_app(RUNNING)
    program = service.dir / "cat"
    shutil.copy("/bin/cat", program)
    program.chmod(0o4755)
    if os.statvfs(program).f_flag & os.ST_NOSUID:
        pytest.skip("the directory's file system is mounted nosuid")
    service.start("--user", "nobody", "--model", model, *["--new-privileges"] * allowed)
    found = dict(line.split(":", 1) for line in service.get().splitlines())
    effective = int(found["Uid"].split()[1])
    assert effective == (0 if allowed else NOBODY.pw_uid)
    assert int(found["NoNewPrivs"]) == (0 if allowed else 1)
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == int(found["CapBnd"], 16) == 0


@root_only
@pytest.mark.parametrize("flags", [[], ["--user", "nobody"]], ids=" ".join)
def test_ambient_capabilities_of_the_start_are_not_handed_on(
    service: Daemon, flags: list[str]
) -> None:
    service.open_up()
    service.under = ["setpriv", "--inh-caps", "+net_raw", "--ambient-caps", "+net_raw"]
    service.start_in_foreground(*flags)
    assert caps(service.pid)["CapAmb"] == caps(service.pid)["CapInh"] == 1 << 13
    for pid in service.worker_pids():
        assert caps(pid)["CapAmb"] == caps(pid)["CapInh"] == 0


@root_only
def test_without_setpcap_the_workers_serve_and_the_start_says_what_stays(service: Daemon) -> None:
    service.open_up()
    service.under = ["setpriv", "--bounding-set", "-setpcap"]
    service.start_in_foreground("--user", "nobody")
    bounding = caps(service.pid)["CapBnd"]
    assert bounding and not bounding & 1 << 8
    assert service.get() == "v1"
    for pid in service.worker_pids():
        found = caps(pid)
        assert found["CapBnd"] == bounding
        assert found["NoNewPrivs"] == 1
        assert found["CapEff"] == found["CapPrm"] == found["CapInh"] == found["CapAmb"] == 0
    until(lambda: service.log().count("without CAP_SETPCAP") == 1, "it is said once")


@root_only
def test_start_and_check_warn_of_what_root_trusts_and_workers_write(service: Daemon) -> None:
    service.open_up()
    os.chown(service.dir, NOBODY.pw_uid, NOBODY.pw_gid)
    said = f"{service.dir} can be written by the workers' user (uid {NOBODY.pw_uid}) or group"
    flags = service.flags("--user", "nobody")
    checked = service.run("check", *flags)
    assert checked.returncode == 0, checked.stderr
    assert f"{said}: `forkd restart` by root takes its options" in checked.stderr
    service.ok("start", *flags)
    warning = f"{said}: `forkd restart` by root takes its options"
    until(lambda: warning in service.log(), "the warning in the log")
    os.chown(service.dir, 0, 0)
    assert "can be written" not in service.run("check", *flags).stderr


def test_check_says_how_an_import_ended_that_ends_the_process(service: Daemon) -> None:
    service.write_app("import os\nos._exit(7)\n")
    done = service.run("check", *service.flags())
    assert done.returncode == 1
    assert done.stderr == (
        "forkd: app 'app:app': the process that imported it ended with exit code 7\n"
    )
