"""Logs that lead to a stream, a terminal or a pipe by a name or a link, as images of containers have them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from .conftest import Daemon, until

OTHER = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


def start(service: Daemon, out: int, *flags: str) -> None:
    """In the foreground, stdout that descriptor."""
    service.start_in_foreground("-w", "1", *flags, stdout=out)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link", "link to a link"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_a_name_of_stdout_is_a_dash(service: Daemon, name: str, kind: str) -> None:
    (service.dir / "link").symlink_to("/dev/stdout")
    (service.dir / "link to a link").symlink_to("link")
    out = service.dir / "out"
    os.mkfifo(out) if kind == "pipe" else out.touch()
    read = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
    write = os.open(out, os.O_WRONLY)
    start(service, write, "--access-log", name)
    os.close(write)
    assert service.get("/through") == "v1"
    said = b""

    def arrived() -> bool:
        nonlocal said
        with contextlib.suppress(BlockingIOError):
            said += os.read(read, 1 << 16)
        return b'"GET /through HTTP/1.1" 200' in said

    until(arrived, "its line")
    os.close(read)
    assert service.live()["master"]["access_log"] == "-"


@pytest.mark.parametrize("name", ["/dev/stderr", "/proc/self/fd/2", "link"])
def test_a_name_of_stderr_is_a_dash(service: Daemon, name: str) -> None:
    (service.dir / "link").symlink_to("/dev/stderr")
    service.start_in_foreground("-w", "1", "--error-log", name)
    assert service.get() == "v1"
    done = service.run("check", "app:app", "--error-log", name)
    assert (done.returncode, done.stderr) == (
        1, "forkd: error-log: a detached daemon has no stderr; name a file, or use --foreground\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "path", "said"),
    [("access-log", "/dev/stderr", "leads to stderr; write - for stdout, or name a file"),
     ("access-log", "/dev/stdin", "leads to stdin; write - for stdout, or name a file"),
     ("error-log", "/proc/self/fd/1", "leads to stdout; write - for stderr, or name a file")],
)  # fmt: skip
def test_that_of_another_stream_has_a_hint(service: Daemon, option: str, path: str, said: str) -> None:
    done = service.run("start", *service.flags(f"--{option}", path))
    assert (done.returncode, done.stderr) == (2, f"forkd: {option} = '{path}': {said} (flag --{option})\n")


@pytest.mark.parametrize("kind", ["terminal", "fifo", "/dev/null"])
def test_a_link_to_a_device(service: Daemon, kind: str) -> None:
    link, fifo = service.dir / "access.log", service.dir / "fifo"
    ours, theirs = os.openpty()
    link.symlink_to({"terminal": os.ttyname(theirs), "fifo": str(fifo)}.get(kind, kind))
    if kind == "fifo":
        os.mkfifo(fifo)
        os.close(ours)
        ours = os.open(fifo, os.O_RDWR)
    os.set_blocking(ours, False)
    service.start("-w", "1", "--access-log", str(link))
    for turn in ("before", "after"):
        assert service.get(f"/{turn}") == "v1"
        said = b""

        def arrived(turn: str = turn) -> bool:
            nonlocal said
            with contextlib.suppress(BlockingIOError):
                said += os.read(ours, 1 << 16)
            return f'"GET /{turn} HTTP/1.1" 200'.encode() in said

        if kind != "/dev/null":
            until(arrived, "its line")
        service.signal(10)  # USR1: they are opened anew
        until(lambda: "reopened" in service.log(), "opened anew")
    os.close(theirs)
    service.ok("check", "app:app", "--access-log", str(link), "-b", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    service.ok("stop")
    os.close(ours)
    assert link.is_symlink()


def refused(service: Daemon, link: Path) -> str:
    """What a start says of it, in one line."""
    done = subprocess.run(
        service.argv("start", *service.flags("-w", "1", "--user", "root", "--access-log", str(link))),
        cwd=service.dir, env=service.environ, text=True, capture_output=True, timeout=30,
    )  # fmt: skip
    service.expected_errors = ["did not start"]
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    return line


@root_only
def test_a_link_that_others_could_have_made_is_not_followed(service: Daemon) -> None:
    """To a device neither: it may be a disk."""
    shared = service.dir / "shared"
    shared.mkdir()
    shared.chmod(0o777)  # in a sticky one the kernel refuses by itself (fs.protected_symlinks)
    link = shared / "access.log"
    link.symlink_to("/dev/null")
    os.lchown(link, OTHER, OTHER)
    why = "a symbolic link that others could have made is not followed"
    assert refused(service, link) == f"forkd: access log {link}: {why}"
    (service.dir / "ours.log").symlink_to(link)  # and by way of it
    assert refused(service, service.dir / "ours.log").endswith(f"ours.log: {why}")


@root_only
def test_a_link_to_a_file_is_not_followed(service: Daemon) -> None:
    precious, link = service.dir / "precious", service.dir / "access.log"
    link.symlink_to(precious)
    why = f"forkd: access log {link}: a symbolic link to a file is not followed; name the file itself"
    assert refused(service, link) == why
    assert not precious.exists()
    precious.write_text("kept")
    assert refused(service, link) == why
    assert precious.read_text() == "kept"


def test_no_log_that_cannot_be_opened_is_a_traceback(service: Daemon) -> None:
    service.expected_errors = ["did not start"]
    for path in (str(service.dir), "/proc/none/x", "/dev/none/x", "/proc/version/x"):
        for option in ("--access-log", "--error-log"):
            for how in ([], ["-f"]):
                done = service.run("start", *service.flags("-w", "1", option, path, *how))
                lines = [line for line in done.stderr.splitlines() if "warning" not in line]
                assert done.returncode == 1 and len(lines) == 1, done.stderr
                assert f"{option[2:].replace('-', ' ')} {path}: " in lines[0]
