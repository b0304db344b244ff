"""Real daemons for the tests of this directory: started by the command, in a directory of their own.

`service` makes them; at the end of a test each is stopped and has to leave nothing: no process, no
pid file, no socket file, and no error in its log that the test did not expect.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from forkd.errors import ForkdError, NotRunning
from forkd.ipc.control import ask
from forkd.ipc.pidfile import running

T = TypeVar("T")
_names = itertools.count(1)

#: Ways in which forkd serves ASGI, as its environment has them: for daemons whose test gives no other flags.
ASGI_MODES = {
    f"{kind}-{loop}": {**options, "FORKD_LOOP": loop}
    for kind, options in (
        ("twin", {"FORKD_NATIVE": "false"}), ("real", {"FORKD_REQUEST_TASK": "real"}), ("lazy", {}),
    )
    for loop in ("asyncio", "uvloop")
}  # fmt: skip
#: One of them; without it the defaults. scripts/modes runs the tests of ASGI in each.
ASGI_MODE = os.environ.get("TESTS_ASGI_MODE", "")

#: The application of most tests: what it does is the path.
APP = """
    import ctypes, os, sys, threading, time

    VERSION = "v1"

    def app(environ, start):
        path = environ["PATH_INFO"]
        if path == "/pid":
            body = str(os.getpid()).encode()
        elif path.startswith("/sleep/"):
            time.sleep(float(path.rpartition("/")[2]))
            body = b"slept"
        elif path.startswith("/c/"):
            # PyDLL keeps the GIL: no Python code of this process runs meanwhile.
            left = int(path.rpartition("/")[2])
            while left:  # a signal ends a sleep(3) early
                left = ctypes.PyDLL(None).sleep(left)
            body = b"slept in C"
        elif path == "/grow":
            KEPT.append(bytearray(os.urandom(1) * (64 << 20)))
            body = b"grown"
        elif path == "/fail":
            raise RuntimeError("the app failed on purpose")
        elif path == "/exit":
            os._exit(7)
        else:
            body = VERSION.encode()
        fields = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
        if "HTTP_X_REQUEST_ID" in environ:
            fields.append(("X-Request-Id", environ["HTTP_X_REQUEST_ID"]))
        start("200 OK", fields)
        return [body]

    KEPT = []
"""

#: Below an application, makes one for ASGI of it, which suspends in every second request.
ASGI = """
import asyncio, io, itertools
numbers, wsgi = itertools.count(), app

async def app(scope, receive, send):
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    if next(numbers) % 2:
        await asyncio.sleep(0)
    fields = {k.decode("latin-1").upper().replace("-", "_"): v.decode("latin-1") for k, v in scope["headers"]}
    environ = {
        **{f"HTTP_{name}": value for name, value in fields.items()}, "REQUEST_METHOD": scope["method"],
        "PATH_INFO": scope["path"], "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "CONTENT_LENGTH": fields.get("CONTENT_LENGTH", ""), "wsgi.input": io.BytesIO(body),
    }
    head = {"type": "http.response.start"}

    def start(status, headers):
        head["status"] = int(status.split()[0])
        head["headers"] = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers]

    pieces = wsgi(environ, start)
    await send(head)
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})
"""


def until(condition: Callable[[], T], what: str, seconds: float = 10.0) -> T:
    """Wait for `condition` to be true, and return it. Looks often, so that it costs no time, and less often
    later: the looks at a condition that takes long keep others from the processors."""
    deadline, pause = time.monotonic() + seconds, 0.002
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
        pause = min(0.05, pause * 1.2)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def zombies_of(pid: int) -> list[int]:
    """The dead children of `pid` that it has not collected."""
    return [child for child in children_of(pid) if not alive(child)]


def children_of(pid: int) -> list[int]:
    try:
        return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def processes_of(name: str) -> list[int]:
    """All living processes whose command line mentions the daemon."""
    found = [int(x) for x in os.listdir("/proc") if x.isdigit()]
    return [p for p in found if p != os.getpid() and name in command_line(p) and alive(p)]


class Daemon:
    """One daemon and its directory."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.name = f"t{os.getpid()}x{next(_names)}"
        self.pidfile = directory / f"{self.name}.pid"
        self.control = directory / f"{self.name}.sock"
        self.error_log = directory / f"{self.name}.log"
        #: Patterns of errors in the log that the test is about.
        self.expected_errors: list[str] = []
        self._failures_seen: list[str] = []
        self.foreground: subprocess.Popen[str] | None = None
        #: What `forkd start -f` is run under: a tracer, a namespace.
        self.under: list[str] = []
        #: Whether `write_app` makes ASGI's of the applications, which are WSGI's.
        self.asgi = False
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith("FORKD_")}
        if ASGI_MODE:
            self.environ.update(ASGI_MODES[ASGI_MODE])
        self.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # a changed app has the same size and second
        root = str(Path(__file__).parents[2])
        self.environ["PYTHONPATH"] = os.pathsep.join(
            [root, *filter(None, [self.environ.get("PYTHONPATH")])]
        )
        self.write_app()

    def write_app(self, source: str = APP, version: str = "v1", name: str = "app.py") -> None:
        path = self.dir / name
        new = path.with_suffix(".new")
        below = ASGI if self.asgi else ""
        new.write_text(textwrap.dedent(source).replace('"v1"', f'"{version}"') + below)
        os.replace(new, path)

    def open_up(self, directory: Path | None = None) -> None:
        """Let every user read what is in the service's directory, or in that one: pytest's are 0700."""
        directory = directory or self.dir
        while directory != directory.parent and directory.stat().st_uid == os.geteuid():
            if str(directory) in ("/", "/tmp"):
                break
            directory.chmod(directory.stat().st_mode | 0o055)
            directory = directory.parent

    # ---- the command ----------------------------------------------------------------------

    def argv(self, verb: str, *arguments: str) -> list[str]:
        where = ["--name", self.name, "--pidfile", str(self.pidfile)]
        return [
            sys.executable, "-m", "forkd", verb, *arguments, *([] if verb == "models" else where)
        ]  # fmt: skip

    def run(self, verb: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """`forkd VERB ARGUMENTS` for this daemon."""
        options.setdefault("timeout", 30)
        done = subprocess.run(
            self.argv(verb, *arguments), cwd=self.dir, env=self.environ, text=True,
            capture_output=True, **options,
        )  # fmt: skip
        if verb in ("start", "restart") and done.returncode:
            # The test sees that it has failed; the log says so, too.
            self._failures_seen += ["the service did not start: ", "^    Traceback"]
        return done

    def ok(self, verb: str, *arguments: str) -> str:
        done = self.run(verb, *arguments)
        assert done.returncode == 0, f"forkd {verb}: {done.stdout}{done.stderr}{self.log()}"
        return done.stdout

    def flags(self, *arguments: str, app: str | None = "app:app") -> list[str]:
        given = list(arguments)
        has = lambda *names: any(a in names or a.partition("=")[0] in names for a in given)  # noqa: E731
        if not has("-b", "--bind", "-c", "--config"):
            given += ["-b", "127.0.0.1:0"]
        if not has("--admin", "-c", "--config"):
            given += ["--admin", "127.0.0.1:0"]
        if not has("-w", "--workers", "-c", "--config"):
            given += ["-w", "2"]
        return [*([app] if app else []), *given]

    def start(self, *arguments: str, app: str | None = "app:app") -> str:
        """`forkd start`, detached. Returns what it prints."""
        return self.ok("start", *self.flags(*arguments, app=app))

    def start_in_foreground(
        self, *arguments: str, app: str | None = "app:app", **options: Any
    ) -> subprocess.Popen[str]:
        """`forkd start -f`: a child of the test, its stderr in the error log."""
        command = [*self.under, *self.argv("start", *self.flags(*arguments, app=app), "-f")]
        with open(self.error_log, "ab") as log:
            self.foreground = subprocess.Popen(
                command, cwd=self.dir, env=self.environ, text=True,
                stdin=subprocess.DEVNULL, **{"stdout": log, "stderr": log, **options},
            )  # fmt: skip
        until(lambda: self.foreground.poll() is not None or " serves " in self.log(), "serving", 30)
        assert self.foreground.poll() is None, self.log()
        return self.foreground

    # ---- what it says ---------------------------------------------------------------------

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    def log(self) -> str:
        try:
            return self.error_log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("status", "--json"))
        return found

    def live(self) -> dict[str, Any]:
        """The same from the admin endpoint, which costs no process."""
        found: dict[str, Any] = json.loads(self.admin("/status.json")[1])
        return found

    def workers(self, state: str = "ready") -> list[dict[str, Any]]:
        return [w for w in self.live()["workers"] if w["state"] == state]

    def worker_pids(self) -> list[int]:
        return [w["pid"] for w in self.workers()]

    def leader(self) -> dict[str, Any]:
        return until(
            lambda: next((w for w in self.workers() if w["role"] == "leader"), None), "a leader"
        )

    @property
    def logger_pid(self) -> int:
        found: int = self.live()["logger"]["pid"]
        return found

    def pids(self) -> set[int]:
        """Master, logger and workers, as the master has them."""
        found = self.live()
        workers = (worker["pid"] for worker in found["workers"])
        return {self.pid, found["logger"]["pid"], *workers}

    @property
    def admin_address(self) -> tuple[str, int]:
        pattern = r"metrics on http://127\.0\.0\.1:(\d+)/"
        found = until(lambda: re.findall(pattern, self.log()), "the address of the metrics in the log")
        return "127.0.0.1", int(found[-1])

    def admin(self, path: str) -> tuple[int, str]:
        """GET a page of the admin endpoint: status and body."""
        client = http.client.HTTPConnection(*self.admin_address, timeout=10)
        with contextlib.closing(client):
            client.request("GET", path)
            answer = client.getresponse()
            return answer.status, answer.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of a metric that have these labels."""
        total = 0.0
        for line in self.admin("/metrics")[1].splitlines():
            match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if match:
                have = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[1] or ""))
                if all(have.get(k) == v for k, v in labels.items()):
                    total += float(match[2])
        return total

    def settles(self, value: float, name: str, **labels: str) -> None:
        """A metric comes to this value. A client has its answer a moment before the answer is counted."""
        seen = 0.0

        def reached() -> bool:
            nonlocal seen
            seen = self.metric(name, **labels)
            return seen == value

        try:
            until(reached, f"{name}{labels or ''} {value:g}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {seen:g}") from None

    # ---- clients --------------------------------------------------------------------------

    @property
    def address(self) -> tuple[str, int]:
        """The first TCP address that is listened on."""
        pattern = r" (?:http://)?([0-9.]+):(\d+)(?:/(?!metrics|readyz)| \(uwsgi\))"
        found = until(lambda: re.findall(pattern, self.log()), "an address in the log")
        return found[-1][0], int(found[-1][1])

    def connect(self, timeout: float = 10.0) -> socket.socket:
        return socket.create_connection(self.address, timeout)

    def client(self, timeout: float = 10.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=timeout)

    def get(self, path: str = "/", timeout: float = 10.0) -> str:
        """GET over a fresh connection; anything but a 200 fails."""
        with contextlib.closing(self.client(timeout)) as client:
            client.request("GET", path)
            answer = client.getresponse()
            body = answer.read().decode()
            assert answer.status == 200, f"{answer.status}: {body}"
            return body

    # ---- the end --------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def gone(self, seconds: float = 10.0) -> None:
        """Wait until no process of the daemon is left."""
        if self.foreground is not None:
            self.foreground.wait(seconds)
        until(lambda: not processes_of(self.name), f"{self.name} gone: {self.log()}", seconds)

    def finish(self) -> None:
        """Stop it, and prove that nothing is left of it."""
        try:
            # As `forkd stop` does, without another interpreter for each test. Once it answers: a new master
            # that is stopped before the old one has given it the control socket leaves the file.
            with contextlib.suppress(ForkdError):
                ask(str(self.control), "status", 2.0)
            with contextlib.suppress(NotRunning, ProcessLookupError):
                pid = running(str(self.pidfile), str(self.control))
                os.kill(pid, signal.SIGTERM)
                until(lambda: not alive(pid), f"{self.name} ends: {self.log()}", 30)
            self.gone(30)
        finally:
            for pid in processes_of(self.name):
                os.kill(pid, signal.SIGKILL)
        assert not self.pidfile.exists(), "the pid file is left"
        assert not self.control.exists(), "the control socket is left"
        unexpected = [
            line for line in self.log().splitlines()
            if ("] error " in line or "Traceback" in line or "Exception ignored" in line)
            and not any(
                re.search(pattern, line) for pattern in [*self.expected_errors, *self._failures_seen]
            )
        ]  # fmt: skip
        assert not unexpected, "\n".join(unexpected) + "\n---\n" + self.log()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.finish()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Daemon]:
    """A second daemon, for what two of them do to each other."""
    directory = tmp_path / "other"
    directory.mkdir()
    made = Daemon(directory)
    yield made
    made.finish()
