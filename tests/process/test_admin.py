"""The pages of the admin endpoint: who may see them, what of them, and the listener with those for probes.

The rules by themselves are in tests/metrics/test_access.py.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from .conftest import Daemon, until

RESTRICTED = ["/", "/metrics", "/status.json", "/nothing"]
PROBES = ["/healthz", "/readyz"]
TOKEN = "r2Jb0-xQ.7~k+9/aa=="

Place = str | tuple[str, int]


def ask(
    where: Place, path: str, *fields: str, version: str = "1.1", method: str = "GET"
) -> tuple[int, str]:
    """Status and the whole answer to a request with these header fields and no others."""
    with socket.socket(socket.AF_UNIX) if isinstance(where, str) else socket.create_connection(where) as sock:
        sock.settimeout(10)
        if isinstance(where, str):
            sock.connect(where)
        sock.sendall("\r\n".join([f"{method} {path} HTTP/{version}", *fields, "", ""]).encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    return int(answer.split()[1]), answer


def place(text: str) -> Place:
    """The address of a listener as status names it, to connect to."""
    if text.startswith("unix:"):
        return text.removeprefix("unix:")
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def bearer(token: str = TOKEN) -> str:
    return f"Authorization: Bearer {token}"


# ---- Host -------------------------------------------------------------------------------------


def test_a_rebound_name_is_refused(service: Daemon) -> None:
    service.start("-w", "1")
    where = service.admin_address
    for path, method in itertools.product(RESTRICTED, ("GET", "HEAD", "POST")):
        status, answer = ask(where, path, f"Host: rebound.example:{where[1]}", method=method)
        assert (status, answer.count("pid"), answer.count("forkd_")) == (421, 0, 0), (path, method)
        assert method == "HEAD" or "--admin-hosts" in answer
    for path in PROBES:
        assert ask(where, path, "Host: rebound.example")[0] == 200
        assert ask(where, path, version="1.0")[0] == 200
    for host in ("localhost", "127.0.0.1", f"192.0.2.7:{where[1]}", "[2001:db8::1]:80"):
        assert ask(where, "/status.json", f"Host: {host}")[0] == 200


@pytest.mark.parametrize(("bind", "connect"), [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "::1")])
def test_a_scrape_by_the_machines_address_on_a_wildcard_bind(
    service: Daemon, bind: str, connect: str
) -> None:
    service.start("-w", "1", "--admin", bind)
    port = int(service.status()["admin"].rpartition(":")[2])
    host = f"[{connect}]" if ":" in connect else connect
    status, answer = ask((connect, port), "/metrics", f"Host: {host}:{port}")
    assert status == 200
    assert "\nforkd_ready 1" in answer
    assert ask((connect, port), "/metrics", f"Host: rebound.example:{port}")[0] == 421


def test_the_names_are_read_again_at_a_reload(service: Daemon) -> None:
    config = service.dir / "forkd.toml"
    text = 'app = "app:app"\nbind = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\nworkers = 1\nadmin-hosts = {}\n'
    config.write_text(text.format('["old.example", "Both.Example."]'))
    service.start("-c", str(config), app=None)
    where = service.admin_address

    def answers() -> list[int]:
        return [ask(where, "/metrics", f"Host: {x}.example:1")[0] for x in ("old", "new", "both")]

    assert answers() == [200, 421, 200]
    config.write_text(text.format('"new.example,both.example"'))
    service.ok("reload")
    assert answers() == [421, 200, 200]


# ---- query strings ----------------------------------------------------------------------------

SECRET = "/sleep/60?token=s3cret&next=%2Fa"


def hold(service: Daemon) -> socket.socket:
    """A request that is in the application."""
    client = service.connect()
    client.sendall(f"GET {SECRET} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    until(lambda: [w for w in service.live()["workers"] if w["request"]], "the request in the application")
    return client


def test_query_strings_are_hidden(service: Daemon) -> None:
    service.expected_errors = ["SIGKILL"]
    service.start("-w", "1")
    with hold(service):
        assert [w["request"] for w in service.live()["workers"]] == ["GET /sleep/60?... HTTP/1.1"]
        assert "<td>GET /sleep/60?... HTTP/1.1</td>" in service.admin("/")[1]
        # Over the control socket, which is its owner's alone, all is shown.
        assert [w["request"] for w in service.status()["workers"]] == [f"GET {SECRET} HTTP/1.1"]
        os.kill(service.worker_pids()[0], signal.SIGKILL)
    gone = until(lambda: service.live()["departures"], "the record of the end")
    assert gone[0]["request"] == "GET /sleep/60?... HTTP/1.1"
    until(lambda: "s3cret" in service.log(), "the record in the log, which shows it")
    for path in ("/", "/metrics", "/status.json", *PROBES):
        assert "s3cret" not in service.admin(path)[1], path


@pytest.mark.parametrize("shown", [False, True])
def test_query_strings_are_shown_where_that_is_wanted(service: Daemon, shown: bool) -> None:
    service.expected_errors = ["timeout"]
    service.start("-w", "1", "--timeout", "1", *["--admin-queries"][: int(shown)])
    line = f"GET {SECRET} HTTP/1.1" if shown else "GET /sleep/60?... HTTP/1.1"
    with hold(service):
        gone = until(lambda: service.live()["departures"], "the record of the kill")
    assert gone[0]["request"] == line
    assert gone[0]["fault"].startswith(f'"{line}" has held it for ')
    assert ("s3cret" in service.admin("/status.json")[1]) is shown


# ---- the token --------------------------------------------------------------------------------


def write_token(path: Path, text: str = TOKEN + "\n", mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_pages_want_the_token_and_probes_do_not(service: Daemon, kind: str) -> None:
    token = write_token(service.dir / "token")
    admin = f"unix:{service.dir}/admin.sock" if kind == "unix" else "127.0.0.1:0"
    service.start("-w", "1", "--admin-token-file", str(token), "--admin", admin)
    where = place(service.status()["admin"])
    for path in RESTRICTED:
        status, answer = ask(where, path, "Host: localhost")
        assert (status, "pid" in answer, "forkd_" in answer) == (401, False, False), path
        assert '\r\nWWW-Authenticate: Bearer realm="forkd"\r\n' in answer
        assert ask(where, path, "Host: localhost", bearer(TOKEN[:-1]))[0] == 401
        right = ask(where, path, "Host: localhost", bearer())[0]
        assert right == (404 if path == "/nothing" else 200), path
    for path in PROBES:
        assert ask(where, path, "Host: localhost")[0] == 200
    assert ask(where, "/metrics", "Host: rebound.example", bearer())[0] == 421
    assert TOKEN not in service.log()


@pytest.mark.parametrize("verb", ["start", "check"])
def test_a_token_that_all_may_read_ends_the_start(service: Daemon, verb: str) -> None:
    token = write_token(service.dir / "token", mode=0o644)
    done = service.run(verb, *service.flags("--admin-token-file", str(token)))
    assert done.returncode == 1
    assert f"admin-token-file: {token} has mode 0644" in done.stderr
    assert TOKEN not in done.stderr


@pytest.mark.parametrize("verb", ["reload", "upgrade"])
def test_the_token_is_read_again(service: Daemon, verb: str) -> None:
    service.expected_errors = [f"{verb} failed"]
    token = write_token(service.dir / "token")
    service.start("-w", "1", "--admin-token-file", str(token))
    where = service.admin_address

    def answers() -> list[int]:
        tokens = (TOKEN, "the-next-token")
        return [ask(where, "/metrics", "Host: localhost", bearer(x))[0] for x in tokens]

    write_token(token, "the-next-token")
    assert answers() == [200, 401]
    service.ok(verb)
    until(lambda: answers() == [401, 200], "the next token to be the one")
    token.chmod(0o644)
    done = service.run(verb)
    assert done.returncode == 1
    assert "has mode 0644" in done.stderr
    assert answers() == [401, 200]


# ---- the health listener ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_health_listener_has_the_pages_of_probes_alone(service: Daemon, kind: str) -> None:
    token = write_token(service.dir / "token")
    health = f"unix:{service.dir}/health.sock" if kind == "unix" else "127.0.0.1:0"
    said = service.start("-w", "1", "--health", health, "--admin-token-file", str(token))
    where = place(service.status()["health"])
    for path in PROBES:
        assert ask(where, path, "Host: any.example")[0] == 200
        assert ask(where, path, version="1.0", method="HEAD")[0] == 200
    for path in RESTRICTED:
        status, answer = ask(where, path, "Host: localhost", bearer())
        assert status == 404
        assert answer.endswith("the pages here are /healthz, /readyz\n")
    assert ask(where, "/readyz", "Host: a", method="POST")[0] == 405
    shown = f"unix:{where} (GET /readyz)" if kind == "unix" else f"http://127.0.0.1:{where[1]}/readyz"
    assert f"\nhealth on {shown}\n" in said
    assert f"\nhealth       {shown}\n" in service.ok("status")
    service.signal(signal.SIGWINCH)
    until(lambda: ask(where, "/readyz", "Host: a")[0] == 503, "503")
    for address in (where, service.admin_address):
        assert "no workers since SIGWINCH" in ask(address, "/readyz", "Host: a")[1]
        assert ask(address, "/healthz", "Host: a")[0] == 200


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_both_listeners_are_kept_over_reload_and_upgrade(service: Daemon, kind: str) -> None:
    files = [service.dir / "admin.sock", service.dir / "health.sock"]
    admin, health = [f"unix:{path}" for path in files] if kind == "unix" else ["127.0.0.1:0"] * 2
    service.start("-w", "1", "--admin", admin, "--health", health)
    status = service.status()
    before = [status["admin"], status["health"]]
    for verb in ("reload", "upgrade", "upgrade"):
        old = service.pid
        service.ok(verb)
        if verb == "upgrade":
            until(lambda old=old: not Path(f"/proc/{old}").exists(), "the old master to go")  # type: ignore[misc]
        status = service.status()
        assert [status["admin"], status["health"]] == before
        assert [ask(place(x), "/readyz", "Host: a")[0] for x in before] == [200, 200]
        assert [ask(place(x), "/metrics", "Host: localhost")[0] for x in before] == [200, 404]
    service.ok("stop")
    assert not any(path.exists() for path in files)


def test_sockets_that_were_passed_stay_their_owners(service: Daemon) -> None:
    """fd://N: a detached start keeps them, an upgrade hands them on, and the file of one is not removed."""
    path = str(service.dir / "passed.sock")
    with socket.create_server(("127.0.0.1", 0)) as admin, socket.socket(socket.AF_UNIX) as health:
        health.bind(path)
        health.listen()
        numbers = [admin.fileno(), health.fileno()]
        flags = [x for o, n in zip(("--admin", "--health"), numbers, strict=True) for x in (o, f"fd://{n}")]
        done = service.run("start", *service.flags("-w", "1", *flags), pass_fds=numbers)
        assert done.returncode == 0, done.stderr
        where = admin.getsockname()
    for _ in range(2):
        assert ask(where, "/metrics", "Host: localhost")[0] == 200
        assert [ask(path, x, "Host: a")[0] for x in ("/readyz", "/metrics")] == [200, 404]
        old = service.pid
        service.ok("upgrade")
        until(lambda old=old: not Path(f"/proc/{old}").exists(), "the old master to go")  # type: ignore[misc]
    service.ok("stop")
    assert Path(path).is_socket()


def test_probes_are_answered_without_the_admin_endpoint(service: Daemon) -> None:
    service.start("-w", "1", "--admin", "none", "--health", "127.0.0.1:0")
    assert service.status()["admin"] is None
    assert ask(place(service.status()["health"]), "/readyz", "Host: a")[0] == 200


@pytest.mark.parametrize(
    "options",
    [
        ["-b", "127.0.0.1:9", "--health", "127.0.0.1:9"], ["-b", "unix:/tmp/x", "--admin", "unix:/tmp/x"],
        ["--admin", "127.0.0.1:9", "--health", "127.0.0.1:9"],
        ["--control", "/tmp/x", "--health", "unix:/tmp/x"], ["--control", "/tmp/x", "--admin", "unix:/tmp/x"],
    ],
)  # fmt: skip
def test_an_address_is_for_one_server(service: Daemon, options: list[str]) -> None:
    done = service.run("check", *service.flags(*options))
    assert done.returncode == 2
    assert "must differ from" in done.stderr


# ---- what is printed ----------------------------------------------------------------------------


def test_a_unix_socket_has_no_url(service: Daemon) -> None:
    path = service.dir / "admin.sock"
    said = service.start("-w", "1", "--admin", f"unix:{path}", app=None)
    where = f"unix:{path} (GET /metrics)"
    status, welcome = service.ok("status"), service.get("/")
    assert f"\nmetrics on {where}\n" in said
    assert f" metrics {where} listening " in " ".join(status.split())  # a long path is wrapped
    assert f" metrics on {where}\n" in service.log()
    assert f"<code>{where}</code>" in welcome
    for text in (said, status, welcome, service.log()):
        assert "http://unix" not in text
    assert json.loads(ask(str(path), "/status.json", "Host: localhost")[1].partition("\r\n\r\n")[2])


def test_the_page_is_headed_by_the_name(service: Daemon) -> None:
    service.start("-w", "1")
    page = service.admin("/")[1]
    assert re.findall("<h1>(.*?)</h1>", page) == [service.name]
    assert re.findall("<title>(.*?)</title>", page) == [f"{service.name}: forkd status"]
    assert re.search(r"<p>forkd [0-9.]+ is running; pid ", page)


def test_the_name_that_is_the_default_is_not_said_twice(service: Daemon) -> None:
    command = [*service.argv("start", *service.flags("-w", "1")), "--name", "forkd"]  # the last one holds
    subprocess.run(command, cwd=service.dir, env=service.environ, check=True, capture_output=True, timeout=30)
    page = service.admin("/")[1]
    assert re.findall("<title>(.*?)</title>", page) == ["forkd status"]
    service.ok("stop")


def test_no_model_says_a_reason_twice_and_80_columns_are_enough(service: Daemon) -> None:
    lines = service.ok("models").splitlines()
    assert max(map(len, lines)) <= 79
    refused = [line for line in lines if line.startswith("  refused")]
    assert refused == [
        "  refused           asyncio with --io blocking: an asyncio protocol needs an",
        "  refused           asgi with --io blocking: an ASGI application needs an event",
        "  refused           asyncio: the event loop runs in the process that forks, and",
        "  refused           asgi: an application has one lifespan and one event loop",
        *[
            "  refused           asyncio: an asyncio protocol belongs to the thread of its",
            "  refused           asgi: an ASGI application belongs to the thread of its",
        ] * 3,
        "  refused           asyncio with --io aio: glibc does the operations of one",
        "  refused           asgi with --io aio: glibc does the operations of one",
    ]


def test_the_page_tells_what_status_tells(service: Daemon) -> None:
    """A browser is what one looks with at night: deaths and the application are there, too."""
    service.expected_errors = ["SIGKILL"]
    service.start("-w", "2")
    page = service.admin("/")[1]
    assert "<li>app: app:app (wsgi)</li><li>workers: 2 ready, 2 wanted</li>" in page
    assert "<li>no worker has died</li>" in page
    for count in (1, 2):
        os.kill(pid := service.worker_pids()[0], signal.SIGKILL)
        until(lambda c=count: service.live()["totals"]["untimely"] == {"SIGKILL": c}, "it is counted")
        until(lambda p=pid: len(set(service.worker_pids()) - {p}) == 2, "another in its place")
    service.get()
    service.settles(1, "forkd_requests_total")
    page = service.admin("/")[1]
    assert "<li>answered: 1 requests, 0 of them 5xx</li><li>workers that died: 2 SIGKILL</li>" in page
