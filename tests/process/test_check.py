"""`forkd check`: an answer to "would a start succeed?", tried, that changes nothing."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest

from .conftest import Daemon, until
from .test_privileges import root_only


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def problems(service: Daemon, *flags: str) -> str:
    """What `forkd check` complains of; it has to change nothing, and a start has to fail too."""
    before = {path: path.lstat().st_mtime_ns for path in service.dir.rglob("*")}
    done = service.run("check", *service.flags(*flags))
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert {path: path.lstat().st_mtime_ns for path in service.dir.rglob("*")} == before
    service.expected_errors = [""]
    started = service.run("start", *service.flags(*flags))
    assert started.returncode == 1, "check says no, and a start says yes"
    return done.stderr


def test_a_port_in_use_with_its_holder(service: Daemon, taken: int) -> None:
    said = problems(service, "-b", f"127.0.0.1:{taken}")
    assert f"forkd: bind(127.0.0.1:{taken}): EADDRINUSE" in said
    assert f"it is held by pid {os.getpid()} " in said


@pytest.mark.parametrize("own", ["admin", "health"])
def test_a_port_of_the_masters_own_in_use_with_its_holder(service: Daemon, taken: int, own: str) -> None:
    said = problems(service, f"--{own}", f"127.0.0.1:{taken}")
    assert f"forkd: {own}: bind(127.0.0.1:{taken}): EADDRINUSE" in said
    assert f"it is held by pid {os.getpid()} " in said


@pytest.mark.parametrize("option", ["-b", "--admin", "--health"])
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("192.0.2.1:8000", "EADDRNOTAVAIL"),
        ("no-such-host.invalid:8000", "no-such-host.invalid:8000"),
        ("unix:/proc/none/x.sock", "ENOENT"),
        ("fd://199", "descriptor 199 is not a socket"),
    ],
)
def test_an_address_that_cannot_be_bound(service: Daemon, option: str, address: str, said: str) -> None:
    assert said in problems(service, option, address)


@pytest.mark.parametrize("option", ["-b", "--admin", "--health"])
def test_a_socket_file_that_somebody_listens_on_or_that_is_none(service: Daemon, option: str) -> None:
    path = service.dir / "x.sock"
    with socket.socket(socket.AF_UNIX) as holder:
        holder.bind(str(path))
        holder.listen()
        assert f"belongs to pid {os.getpid()} " in problems(service, option, f"unix:{path}")
    path.unlink()
    path.write_text("precious")
    assert "is not a socket" in problems(service, option, f"unix:{path}")
    assert path.read_text() == "precious"


def test_two_addresses_of_one_configuration_that_exclude_each_other(service: Daemon) -> None:
    port = _free_port()
    said = problems(service, "-b", f"127.0.0.1:{port}", "-b", f"0.0.0.0:{port}")
    assert f"forkd: bind 0.0.0.0:{port}: 127.0.0.1:{port} has that port already" in said
    for own in ("--admin", "--health"):
        said = problems(service, "-b", f"127.0.0.1:{port}", own, f"localhost:{port}")
        assert f"forkd: bind localhost:{port}: 127.0.0.1:{port} has that port already" in said


@pytest.mark.parametrize("option", ["--access-log", "--error-log"])
def test_a_log_that_cannot_be_written(service: Daemon, option: str) -> None:
    name = option[2:].replace("-", " ")
    said = problems(service, option, "/proc/none/x.log")
    assert f"{name}(/proc/none/x.log): ENOENT" in said
    said = problems(service, option, str(service.dir))
    assert f"{name}({service.dir}): EISDIR" in said
    link = service.dir / "link.log"
    link.symlink_to(service.dir / "elsewhere.log")
    assert f"{name}({link}): ELOOP" in problems(service, option, str(link))


@root_only
def test_files_that_only_another_user_may_write(service: Daemon) -> None:
    """By the command's own rights, which are those of the master and the logger."""
    closed = service.dir / "closed"
    closed.mkdir(mode=0o755)
    os.chown(closed, 65534, 65534)
    pidfile, control = service.pidfile, service.control
    service.pidfile, service.control = closed / "x.pid", closed / "x.sock"
    argv = service.argv("check", *service.flags("--access-log", f"{closed}/a.log"))
    service.pidfile, service.control = pidfile, control
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *argv],
        cwd=service.dir, env=service.environ, text=True, capture_output=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"access log({closed}/a.log): EACCES" in done.stderr
    assert f"open({closed}/x.pid): EACCES" in done.stderr
    assert f"control {closed}/x.sock: bind({closed}/x.sock): EACCES" in done.stderr


def test_a_detached_daemon_has_no_stderr_for_its_log(service: Daemon) -> None:
    assert "a detached daemon has no stderr" in problems(service, "--error-log", "-")
    assert service.run("check", *service.flags("--error-log", "-", "-f")).returncode == 0


def test_all_at_once_and_the_application_too(service: Daemon, taken: int) -> None:
    service.write_app("import this_is_not_there\n")
    wrong = ["-b", f"127.0.0.1:{taken}", "--admin", "192.0.2.1:1", "--access-log", "/proc/n/x"]
    done = service.run("check", *service.flags(*wrong))
    assert done.returncode == 1
    told = f"bind(127.0.0.1:{taken})", "admin: bind(192.0.2.1:1)", "access log(/proc/n/x)"
    assert [said for said in (*told, "this_is_not_there") if said not in done.stderr] == []
    assert len(re.findall("^forkd: ", done.stderr, re.MULTILINE)) == 4


def test_what_a_start_would_make_is_no_problem(service: Daemon) -> None:
    where = service.dir / "run" / "deep"
    service.pidfile = where / "d.pid"
    service.control = where / "d.sock"
    said = service.ok("check", *service.flags("--access-log", f"{service.dir}/new.log"))
    assert said.startswith("ok: app:app")
    assert not where.exists()


# ---- beside a running service -------------------------------------------------------------


def _configure(service: Daemon, port: int, admin: int, more: str = "") -> list[str]:
    file = service.dir / "service.toml"
    file.write_text(
        f'app = "app:app"\nworkers = 2\nbind = ["127.0.0.1:{port}", "unix:{service.dir}/s.sock"]\n'
        f'admin = "127.0.0.1:{admin}"\nhealth = "unix:{service.dir}/health.sock"\n'
        f'access-log = "{service.dir}/access.log"\n{more}'
    )
    return ["-c", str(file)]


def test_beside_the_running_service_before_and_after_a_change_of_one_bind(service: Daemon) -> None:
    port, other, admin = _free_port(), _free_port(), _free_port()
    flags = _configure(service, port, admin)
    service.start(*flags, app=None)
    said = service.ok("check", *flags)
    assert said.startswith("ok: app:app (wsgi) under leader-followers/epoll, native code, workers 2, on ")
    assert (
        f"held by the running daemon itself (pid {service.pid}): the pid file, the control socket, "
        f"127.0.0.1:{port}, unix:{service.dir}/s.sock, 127.0.0.1:{admin} (admin), "
        f"unix:{service.dir}/health.sock (health)\n"
    ) in said
    _configure(service, other, admin)
    said = service.ok("check", *flags)
    assert f"127.0.0.1:{port}" not in said
    assert f"on 127.0.0.1:{other}, unix:" in said
    assert service.ok("reload") == "generation 2 serves\n"
    held = f"(pid {service.pid}): the pid file, the control socket, 127.0.0.1:{other},"
    assert held in service.ok("check", *flags)
    _configure(service, other, port)
    assert (
        f"admin 127.0.0.1:{port}: at a reload the running daemon keeps what it has (127.0.0.1:{admin}); "
        "forkd restart changes it\n"
    ) in service.ok("check", *flags)


def test_an_address_that_is_anothers_is_an_error_beside_it_too(service: Daemon, taken: int) -> None:
    port, admin = _free_port(), _free_port()
    flags = _configure(service, port, admin)
    service.start(*flags, app=None)
    _configure(service, taken, admin)
    done = service.run("check", *flags)
    assert done.returncode == 1
    assert f"it is held by pid {os.getpid()} " in done.stderr
    service.expected_errors = ["reload failed"]
    assert service.run("reload").returncode == 1


def test_what_another_daemon_of_forkd_has_is_an_error(service: Daemon, other: Daemon) -> None:
    other.start()
    port = other.address[1]
    done = service.run("check", *service.flags("-b", f"127.0.0.1:{port}"))
    assert done.returncode == 1
    assert f"it is held by pid {other.pid} (forkd: master [{other.name}])" in done.stderr
    done = service.run("check", *service.flags("--control", str(other.control)))
    assert done.returncode == 1
    assert f"control {other.control}: " in done.stderr


def test_what_a_reload_refuses_is_an_error_and_a_restart_is_named(service: Daemon) -> None:
    port, admin = _free_port(), _free_port()
    flags = _configure(service, port, admin)
    service.start(*flags, app=None)
    file = service.dir / "service.toml"
    file.write_text(file.read_text().replace(f"127.0.0.1:{port}", f"0.0.0.0:{port}"))
    done = service.run("check", *flags)
    assert done.returncode == 1
    assert f"held by pid {service.pid} (forkd: master [{service.name}]), the running daemon" in done.stderr
    assert "forkd restart can" in done.stderr
    service.expected_errors = ["reload failed"]
    assert service.run("reload").returncode == 1
    file.write_text(
        f'app = "app:app"\nworkers = 2\naccept = "reuseport"\nbind = "127.0.0.1:{port}"\n'
        f'admin = "127.0.0.1:{admin}"\n'
    )
    done = service.run("check", *flags)
    assert done.returncode == 1
    assert "a reload is refused; forkd restart works" in done.stderr
    assert service.run("reload").returncode == 1


def test_what_a_reload_has_no_room_for_is_an_error(service: Daemon) -> None:
    flags = _configure(service, _free_port(), _free_port())
    service.start(*flags, app=None)
    service.expected_errors = ["reload failed"]
    file = service.dir / "service.toml"
    usual = file.read_text()
    for changed, said in (
        (usual.replace("= 2", "= 31", 1), "workers 31: the running daemon has room for 16"),
        (usual + 'model = "process-per-connection"\n', "needs more rows of the scoreboard than the running"),
    ):
        file.write_text(changed)
        done = service.run("check", *flags)
        assert (done.returncode, said in done.stderr) == (1, True)
        assert done.stderr.endswith("a reload is refused; forkd restart works\n")
        assert service.run("reload").returncode == 1
    file.write_text(usual.replace("workers = 2", "workers = 16"))
    assert service.ok("check", *flags).startswith("ok: ")


def test_a_file_that_the_running_daemon_does_not_read(service: Daemon) -> None:
    service.start()
    said = service.ok("check", *_configure(service, _free_port(), _free_port()))
    assert (
        "note: the running daemon reads no configuration file, so that is what a reload reads; what was "
        f"checked is {service.dir}/service.toml\n"
    ) in said


def test_a_port_that_the_kernel_chose_may_be_written_down(service: Daemon) -> None:
    file = service.dir / "c.toml"
    text = 'app = "app:app"\nworkers = 2\nbind = "127.0.0.1:PORT"\nadmin = "127.0.0.1:0"\n'
    file.write_text(text.replace("PORT", "0"))
    service.start("-c", str(file), app=None)
    address = service.address
    file.write_text(text.replace("PORT", str(address[1])))
    assert f"the control socket, 127.0.0.1:{address[1]}\n" in service.ok("check", "-c", str(file))
    service.ok("reload")
    assert service.address == address
    assert service.get() == "v1"


def test_a_master_that_does_not_answer_is_an_error(service: Daemon) -> None:
    service.start()
    service.control.unlink()
    done = service.run("check", *service.flags())
    assert done.returncode == 1
    assert f"nobody says what the running daemon (pid {service.pid}) holds" in done.stderr
    service.ok("stop")
    until(lambda: not service.pidfile.exists(), "stopped")


def test_the_sockets_of_a_front_are_tried_and_left_as_they_are(service: Daemon) -> None:
    with socket.socket() as front:
        front.bind(("127.0.0.1", 0))
        fd = front.fileno()
        done = subprocess.run(
            service.argv("check", *service.flags("-b", f"fd://{fd}")), cwd=service.dir, env=service.environ,
            text=True, capture_output=True, timeout=30, pass_fds=[fd],
        )  # fmt: skip
        assert (done.returncode, "does not listen" in done.stderr) == (1, True)
        front.listen()
        done = subprocess.run(
            service.argv("check", *service.flags("-b", f"fd://{fd}")), cwd=service.dir, env=service.environ,
            text=True, capture_output=True, timeout=30, pass_fds=[fd],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert os.get_blocking(fd)
