"""What an application finds imported when it is: what it would find without forkd, and forkd itself."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

from .conftest import Daemon, command_line, until

#: Writes down what is there that no standard library has, at its import.
LOOKS = """
    import sys
    with open(__name__ + ".found", "a") as file:
        print(sorted({name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names), file=file)
"""
ANSWERS = LOOKS + """
    def app(environ, start):
        start("200 OK", [])
        return [b"ok"]
"""


def bare(service: Daemon) -> set[str]:
    """What an interpreter has without forkd: its own, and what .pth files import."""
    code = "import multiprocessing, sys; print(sorted({n.partition('.')[0] for n in sys.modules}))"
    out = subprocess.check_output(
        [sys.executable, "-c", code], text=True, env=service.environ, cwd=service.dir
    )
    return set(ast.literal_eval(out))


@pytest.mark.parametrize("flags", [[], ["--preload"], ["--no-native"], ["--threads", "4"]], ids=" ".join)
def test_an_application_finds_forkd_and_the_standard_library(service: Daemon, flags: list[str]) -> None:
    service.write_app(ANSWERS)
    service.write_app(LOOKS, name="hooks.py")
    expected = bare(service) | {"forkd"}

    def found(name: str) -> list[set[str]]:
        lines = (service.dir / f"{name}.found").read_text().splitlines()
        return [set(ast.literal_eval(line)) - expected for line in lines]

    service.ok("check", *service.flags("--hooks", "hooks", *flags))
    assert (found("hooks"), found("app")) == ([{"hooks"}], [{"hooks", "app"}])
    for name in ("hooks", "app"):
        (service.dir / f"{name}.found").unlink()
    service.start("-w", "1", "--hooks", "hooks", *flags)
    # The hooks are imported in the process of on_starting, and in the worker; before the application, but
    # for a template, which has no hooks.
    assert found("app") == [{"app"} if "--preload" in flags else {"hooks", "app"}]
    assert found("hooks") == [{"hooks"}, {"hooks", "app"} if "--preload" in flags else {"hooks"}]


@pytest.mark.parametrize("flags", [[], ["--preload"], ["--no-native"]], ids=" ".join)
def test_an_application_has_its_own_modules_of_these_names(service: Daemon, flags: list[str]) -> None:
    names = "daemon", "httptools", "lockfile", "prometheus_client", "setproctitle"
    for name in names:
        service.write_app(f"MINE = '{name} of the application'", name=f"{name}.py")
    service.write_app(f"""
        import {", ".join(names)}

        def app(environ, start):
            start("200 OK", [])
            mine = [module.MINE for module in ({", ".join(names)})]
            return ["; ".join(mine).encode() + environ["wsgi.input"].read()]
    """)
    service.start("-w", "1", *flags)
    wanted = b"; ".join(b"%b of the application" % name.encode() for name in names)
    with service.connect() as sock, sock.makefile("rb") as answer:  # by forkd's own httptools
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
                     b"Connection: close\r\n\r\n2\r\n!!\r\n0\r\n\r\n")  # fmt: skip
        assert answer.read().endswith(b"\r\n\r\n" + wanted + b"!!")
    assert command_line(service.worker_pids()[0]).startswith("forkd: worker 1 [")
    until(lambda: service.metric("forkd_requests_total", code="200") == 1, "forkd's own exporter")


@pytest.mark.parametrize("flags", [[], ["--preload"]], ids=" ".join)
def test_prometheus_client_heeds_what_the_application_sets_before_it_imports_it(
    service: Daemon, flags: list[str]
) -> None:
    service.write_app("""
        import os
        os.makedirs("shared", exist_ok=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.path.abspath("shared")

        import daemon, httptools, prometheus_client, setproctitle

        CALLS = prometheus_client.Counter("app_calls", "of the application")

        class Seen:
            def on_header(self, name, value): self.header = name

        def app(environ, start):
            CALLS.inc()
            seen = Seen()
            httptools.HttpRequestParser(seen).feed_data(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
            start("200 OK", [])
            title = setproctitle.getproctitle().partition(" [")[0].encode()
            return [type(CALLS._value).__name__.encode(), b" ", seen.header, b" ", title]
    """)
    service.start("-w", "1", *flags)
    for count in (1, 2):  # the second in a worker that was forked later
        (pid,) = service.worker_pids()
        assert service.get() == "MmapedValue Host forkd: worker 1"
        assert (service.dir / "shared" / f"counter_{pid}.db").exists()
        until(lambda: service.metric("forkd_requests_total", code="200") == count, "forkd's exporter")  # noqa: B023
        if count == 1:
            service.expected_errors = ["SIGKILL"]
            os.kill(pid, 9)
            until(lambda: [p for p in service.worker_pids() if p != pid], "another worker")  # noqa: B023


def test_the_directory_of_the_application_comes_first(service: Daemon) -> None:
    other = service.dir / "other"
    other.mkdir()
    (other / "helper.py").write_text("WHOSE = 'another'\n")
    service.write_app("WHOSE = 'its own'", name="helper.py")
    service.environ["PYTHONPATH"] += os.pathsep + os.pathsep.join([str(other), str(service.dir)])
    service.write_app("""
        import helper

        def app(environ, start):
            start("200 OK", [])
            return [helper.WHOSE.encode()]
    """)
    service.start("-w", "1")
    assert service.get() == "its own"


@pytest.mark.parametrize("program", ["script", "-m"])
def test_pythonpath_may_lead_to_modules_of_these_names(service: Daemon, program: str) -> None:
    for name in ("daemon", "httptools", "prometheus_client", "setproctitle"):
        service.write_app(f"where = {name!r}", name=f"{name}.py")
    service.write_app("""
        import daemon, prometheus_client
        def app(environ, start):
            start("200 OK", [])
            return [f"{daemon.where} {prometheus_client.where}".encode()]
    """)
    service.environ["PYTHONPATH"] = f".{os.pathsep}{service.environ.get('PYTHONPATH', '')}"
    start = service.argv("start", *service.flags())
    if program == "script":
        start = [os.path.join(os.path.dirname(sys.executable), "forkd"), *start[3:]]
    done = subprocess.run(
        start, cwd=service.dir, env=service.environ, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert service.get() == "daemon prometheus_client"
    service.ok("upgrade")
    assert service.get() == "daemon prometheus_client"
    assert service.admin("/metrics")[0] == 200
