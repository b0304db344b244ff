"""Options that were set and have no effect: a start, a reload and a check say so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from forkd.config import OPTIONS, Config
from forkd.models import registry
from forkd.models.unused import unused
from forkd.system.address import Address

from .conftest import Daemon, until


def names(flavour: str, model: str = "leader-followers", io: str | None = None, **given: object) -> set[str]:
    """The options that have no effect, of those given and of all the others at their defaults."""
    every = {row.attr: "flag" for row in OPTIONS}
    config = replace(Config(), model=model, io=io, app="app:app", origins=every, **given)  # type: ignore[arg-type]
    return {line.partition(" = ")[0] for line in unused(config, flavour)}


#: What is of no use to a stream, and to no model.
HTTP_ONLY = {
    "keep-alive", "header-timeout", "body-timeout", "limit-request-line", "limit-request-fields",
    "limit-request-field-size",
    "limit-request-head", "limit-request-body", "body-buffer", "access-log", "shed-after", "timeout",
    "defer-accept", "allowed-hosts", "server-header", "early-hints", "request-ids", "server-timing",
    "request-timeout", "limit-concurrency",
}  # fmt: skip
#: The number of workers is fixed, and there is no access log.
ALWAYS = {"scale-down-after", "access-log-format"}
ASGI_ONLY = {
    "lifespan", "lifespan-context", "root-path", "ws-max-message", "ws-ping-interval", "ws-ping-timeout",
    "ws-deflate", "drain-spread", "ws-origins", "drain-streams", "asgi-extensions",
    "request-task",
}  # fmt: skip
LOOP_ONLY = {"lag-limit", "loop"}


@pytest.mark.parametrize(
    ("model", "io", "expected"),
    [
        ("leader-followers", "epoll", {"dispatch", "handoff", "io-fallback"}),
        ("leader-followers", "blocking", {"dispatch", "handoff", "io-fallback", "worker-connections"}),
        ("process-per-connection", "epoll", {"accept", "handoff", "io-fallback", "worker-connections"}),
        ("half-sync-half-async", "sigio", {"accept", "handoff", "io-fallback"}),
        ("half-sync-half-reactive", "epoll", {"dispatch", "io-fallback"}),
        ("reactor", "epoll", {"dispatch", "handoff", "io-fallback"}),
        ("simulated-proactor", "poll", {"dispatch", "handoff", "io-fallback"}),
        ("proactor", "io_uring", {"dispatch", "handoff"}),
        ("proactor", "aio", {"dispatch", "handoff", "io-fallback", "worker-connections"}),
    ],
)
def test_by_model_and_interface(model: str, io: str, expected: set[str]) -> None:
    always = expected | ALWAYS
    assert names("wsgi", model, io) == always | ASGI_ONLY | LOOP_ONLY | {"idle-timeout"}
    assert names("asgi", model, io) == always | {"idle-timeout", "body-buffer"}
    assert names("asyncio", model, io) == always | ASGI_ONLY | HTTP_ONLY
    blocking = LOOP_ONLY | {"write-timeout"}
    assert names("socketserver", model, io) == always | ASGI_ONLY | HTTP_ONLY | blocking


def test_each_model_is_in_that_table() -> None:
    assert {row.name for row in registry.MODELS} == {
        "leader-followers", "process-per-connection", "half-sync-half-async", "half-sync-half-reactive",
        "reactor", "simulated-proactor", "proactor",
    }  # fmt: skip


def test_by_other_options() -> None:
    usual = {"dispatch", "handoff", "io-fallback", "idle-timeout"} | ALWAYS | ASGI_ONLY | LOOP_ONLY
    assert names("wsgi") == usual
    assert names("wsgi", access_log="-") == usual - {"access-log-format"}
    assert names("wsgi", access_log="-", log_format="json") == usual
    workers = replace(Config().workers, min=1, max=4)
    assert names("wsgi", workers=workers) == usual - {"scale-down-after"}
    unix, passed = Address("unix", path="/x"), Address("fd", fd=3)
    assert names("wsgi", bind=(unix,)) == usual | {"defer-accept", "shed-after", "server-timing"}
    assert names("wsgi", bind=(unix,), threads=4) == usual | {"defer-accept"}
    assert names("wsgi", bind=(unix, *Config().bind)) == usual
    assert names("wsgi", bind=(passed,)) == usual | {"defer-accept", "backlog"}
    assert names("wsgi", limit_request_field_size=65537) == usual | {"limit-request-field-size"}
    admin = {"admin-hosts", "admin-queries", "admin-token-file"}
    assert names("wsgi", admin=None) == usual | admin
    stream = usual - {"idle-timeout"} | HTTP_ONLY
    assert names("socketserver", idle_timeout=0.0) == stream
    assert names("asyncio", hooks="hooks") == stream - {"timeout"} - LOOP_ONLY
    assert names("wsgi", "process-per-connection", worker_connections=256) == (
        usual - {"dispatch"} | {"accept"}
    )


def test_only_what_somebody_has_set_is_told() -> None:
    assert unused(Config(), "wsgi") == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--dispatch", "round-robin"],
            "dispatch = round-robin has no effect: under leader-followers children accept by themselves; "
            "process-per-connection and half-sync-half-async have a dispatcher (flag --dispatch)",
        ),
        (
            ["--handoff", "task"],
            "handoff = task has no effect: only half-sync-half-reactive has a choice, not leader-followers "
            "(flag --handoff)",
        ),
        (
            ["--idle-timeout", "5"],
            "idle-timeout = 5 has no effect: the application is WSGI, and this is for streams "
            "(flag --idle-timeout)",
        ),
    ],
)
def test_start_and_check_say_it(service: Daemon, flags: list[str], said: str) -> None:
    assert f"\nwarning: {said}\n" in service.ok("check", *service.flags(*flags))
    printed = service.start(*flags)
    assert f"\nwarning: {said}\n" in printed
    assert f" warning master: {said}\n" in service.log()


def test_a_reload_says_it(service: Daemon) -> None:
    file = service.dir / "c.toml"
    text = 'app = "app:app"\nbind = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\nworkers = 1\n'
    file.write_text(text)
    assert "warning" not in service.start("-c", str(file), app=None)
    file.write_text(text + 'handoff = "task"\n')
    done = service.run("reload")
    said = (
        "handoff = task has no effect: only half-sync-half-reactive has a choice, not leader-followers "
        f"(file {file} line 5)"
    )
    assert (done.returncode, done.stderr) == (0, f"warning: {said}\n")
    until(lambda: f" warning master: reload: {said}\n" in service.log(), "the line in the log")


def test_a_stream_says_what_is_for_http(service: Daemon) -> None:
    service.write_app("import socketserver\nclass H(socketserver.BaseRequestHandler): pass\n", name="h.py")
    printed = service.start("--keep-alive", "5", "--write-timeout", "5", app="h:H")
    assert "\nwarning: keep-alive = 5 has no effect: the application is a stream, and" in printed
    assert "\nwarning: write-timeout = 5 has no effect: a socketserver handler has the socket" in printed
