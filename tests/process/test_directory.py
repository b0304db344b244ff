"""The directory of the application: each generation goes to the one that has the name by then, as a deploy
does that makes a link lead to another release."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Daemon, until

HOOKS = """
    def on_reload(place):
        with open("hooked", "w"):
            pass
"""


class Releases:
    """Two releases, and `current`, which leads to one of them."""

    def __init__(self, service: Daemon) -> None:
        self._service = service
        self.current = service.dir / "current"
        for name in ("v1", "v2"):
            (service.dir / name).mkdir()
            service.write_app(version=name, name=f"{name}/app.py")
            service.write_app(HOOKS, name=f"{name}/project_hooks.py")
        self.deploy("v1")

    def deploy(self, name: str) -> None:
        new = self._service.dir / "new"
        new.symlink_to(name)
        new.replace(self.current)

    def start(self, *arguments: str) -> None:
        done = run_in(self.current, self._service, "start", *self._service.flags(*arguments))
        assert done.returncode == 0, done.stderr


def run_in(
    directory: Path, service: Daemon, verb: str, *arguments: str, before: str = "true"
) -> subprocess.CompletedProcess[str]:
    """A command as a shell runs it that has gone to the directory, and done something there."""
    shell = ["sh", "-c", f'cd "$0" && {before} && exec "$@"', str(directory)]
    command = [*shell, *service.argv(verb, *arguments)]
    return subprocess.run(command, env=service.environ, text=True, capture_output=True, timeout=60)


@pytest.fixture
def releases(service: Daemon) -> Releases:
    return Releases(service)


@pytest.mark.parametrize("flags", [[], ["--preload"], ["--hooks", "project_hooks"]], ids=" ".join)
def test_a_reload_serves_what_the_link_leads_to(
    service: Daemon, releases: Releases, flags: list[str]
) -> None:
    releases.start(*flags)
    assert service.get() == "v1"
    releases.deploy("v2")
    service.ok("reload")
    assert service.get() == "v2"
    shutil.rmtree(service.dir / "v1")
    service.ok("reload")
    assert service.get() == "v2"
    assert (service.dir / "v2" / "hooked").exists() == ("--hooks" in flags)
    assert service.live()["master"]["generation"] == 3


@pytest.mark.parametrize("verb", ["upgrade", "restart"])
def test_so_do_an_upgrade_and_a_restart(service: Daemon, releases: Releases, verb: str) -> None:
    releases.start()
    releases.deploy("v2")
    shutil.rmtree(service.dir / "v1")
    service.ok(verb)
    assert service.get() == "v2"


def test_a_worker_of_an_old_generation_has_its_code(service: Daemon, releases: Releases) -> None:
    """The link leads elsewhere, and there was no reload yet."""
    service.expected_errors = ["SIGKILL"]
    releases.start("-w", "1")
    releases.deploy("v2")
    [before] = service.worker_pids()
    os.kill(before, signal.SIGKILL)
    until(lambda: service.worker_pids() not in ([], [before]), "another worker")
    assert service.get() == "v1"


def test_a_configuration_beside_it_is_that_of_the_release(service: Daemon, releases: Releases) -> None:
    for name, workers in (("v1", 1), ("v2", 2)):
        text = f'app = "app:app"\nbind = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\nworkers = {workers}\n'
        (service.dir / name / "forkd.toml").write_text(text)
    done = run_in(releases.current, service, "start")
    assert done.returncode == 0, done.stderr
    releases.deploy("v2")
    service.ok("reload")
    assert (service.get(), len(service.workers())) == ("v2", 2)


def test_chdir_is_a_name_too_and_may_change_at_a_reload(service: Daemon, releases: Releases) -> None:
    file = service.dir / "c.toml"
    common = 'app = "app:app"\nbind = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\nworkers = 1\nchdir = '
    file.write_text(f'{common}"current"\n')
    service.start("-c", str(file), app=None)
    releases.deploy("v2")
    service.ok("reload")
    assert service.get() == "v2"
    file.write_text(f'{common}"v1"\n')
    assert service.run("reload", "-c", str(file)).stderr == ""  # no "needs a restart"
    assert service.get() == "v1"


def test_a_directory_that_is_gone_ends_nothing(service: Daemon, releases: Releases) -> None:
    why = f"chdir({releases.current}): ENOENT: No such file or directory"
    service.expected_errors = ["reload failed", "upgrade failed"]
    releases.start("-w", "1")
    before = service.pid
    releases.current.unlink()
    for verb in ("reload", "upgrade", "restart"):
        done = service.run(verb)
        assert (done.returncode, done.stderr) == (1, f"forkd: {why}\n"), verb
    assert (service.pid, service.get()) == (before, "v1")
    releases.deploy("v2")
    service.ok("reload")
    assert service.get() == "v2"


def test_a_worker_whose_release_was_removed_says_so(service: Daemon, releases: Releases) -> None:
    service.expected_errors = ["SIGKILL", "crash", "has been removed", "gone: boot"]
    releases.start("-w", "1")
    releases.deploy("v2")
    shutil.rmtree(service.dir / "v1")
    os.kill(service.worker_pids()[0], signal.SIGKILL)
    until(lambda: "the working directory has been removed; a reload" in service.log(), "why")
    service.ok("reload")
    assert service.get() == "v2"


def test_a_start_from_a_directory_that_was_removed(service: Daemon) -> None:
    service.expected_errors = ["did not start"]
    gone = service.dir / "gone"
    gone.mkdir()
    app = service.dir
    flags = service.flags("-w", "1")
    done = run_in(gone, service, "start", *flags, before="rmdir ../gone")
    said = "the directory that forkd was started in has been removed; start it elsewhere, or with --chdir"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"forkd: {said}")
    for words in (["-c", "x.toml"], ["--access-log", "x"]):
        gone.mkdir()
        done = run_in(gone, service, "start", *flags, *words, before="rmdir ../gone")
        assert done.returncode == 2
        assert "a relative path, and the current directory has been removed" in done.stderr
    gone.mkdir()
    done = run_in(gone, service, "start", "--chdir", str(app), *flags, before="rmdir ../gone")
    assert done.returncode == 0, done.stderr
    assert service.get() == "v1"
    for verb in ("status", "reload", "upgrade"):
        gone.mkdir()
        done = run_in(gone, service, verb, before="rmdir ../gone")
        assert done.returncode == 0, done.stderr
    assert service.get() == "v1"




def test_a_program_that_is_gone_is_said_at_an_upgrade(service: Daemon) -> None:
    """As of a virtual environment in a release that was removed."""
    service.expected_errors = ["upgrade failed"]
    python = service.dir / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(os.path.realpath(sys.executable))
    (service.dir / "venv" / "lib").symlink_to(Path(sys.prefix) / "lib")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", service.dir / "venv")
    command = [str(python), *service.argv("start", *service.flags("-w", "1"))[1:]]
    subprocess.run(command, cwd=service.dir, env=service.environ, check=True, capture_output=True, timeout=30)
    python.unlink()
    done = service.run("upgrade")
    said = f"forkd: execve({python}): ENOENT: No such file or directory\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert service.get() == "v1"
