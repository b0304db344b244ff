"""The works: what is asked of which servers, and what forkd is to reach. One row each."""

from __future__ import annotations

from functools import partial

from scripts.benchmark import check, fairness, load, measure, servers
from scripts.benchmark.asgi_works import ASGI_WORKS
from scripts.benchmark.servers import Contender, forkd, forkd_without_log
from scripts.benchmark.work import RATES, Goal, Work

PEERS = (
    servers.bjoern(),
    servers.fastwsgi(),
    servers.granian(),
    servers.uwsgi("--http-keepalive"),
    servers.uvicorn(),
)
C_PEERS = ("bjoern", "fastwsgi")
ALL = tuple(peer.name for peer in PEERS)
HELLO = partial(check.answers, sent=check.request("/", "Accept: */*"))
ACCEPT = ("Accept: */*",)
MESSAGE = b"0123456789abcde\n" * 4
MANY = ("--worker-connections", "12000")
THREADS_8 = ("--threads", "8")
GTHREAD = ("--worker-class", "gthread")


UWSGI = "?protocol=uwsgi"


def _own(*flags: str, option: str = "") -> tuple[Contender, ...]:
    return forkd(*flags, option=option), forkd_without_log(*flags, option=option)


#: Those of WSGI and of streams; docs/performance.md.
SYNC_WORKS = (
    Work(
        "hello", "WSGI hello, 2 header fields", RATES,
        (*_own(), *PEERS, servers.gunicorn(*GTHREAD), servers.loop()),
        (Goal(1.2, C_PEERS),),
        HELLO, partial(load.wrk, headers=ACCEPT), quick=True,
    ),
    Work(
        "headers", "WSGI hello, 10 realistic header fields, values varied", RATES,
        (*_own(), *PEERS, servers.gunicorn(*GTHREAD), servers.loop()),
        (Goal(1.2, C_PEERS),),
        HELLO, partial(load.wrk, script="headers.lua"), quick=True,
    ),
    Work(
        "repeated", "WSGI hello, one header field twice", RATES, (*_own(), *PEERS), (Goal(1.0, ALL),),
        HELLO, partial(load.wrk, script="repeated.lua"),
    ),
    Work(
        "forwarded", "WSGI hello, X-Forwarded-* of 10,000 clients behind two hops", RATES,
        (forkd(), forkd(*measure.NO_PROXY, name="forkd, other fields")),
        (Goal(0.95, ("forkd, other fields",)),),
        HELLO, measure.forwarded,
    ),
    Work(
        "python-hello", "WSGI hello, without native code", RATES,
        (*_own("--no-native"), servers.gunicorn(*GTHREAD)), (Goal(1.0, ("gunicorn gthread",)),),
        HELLO, partial(load.wrk, headers=ACCEPT),
    ),
    Work(
        "python-upload", "Upload of 1 MiB, without native code", RATES,
        (*_own("--no-native"), servers.gunicorn(*GTHREAD)), (Goal(1.0, ("gunicorn gthread",)),),
        partial(check.answers, sent=check.request("/upload", body=bytes(1 << 20)), body=b"1048576"),
        partial(load.wrk, path="/upload", script="upload.lua"),
    ),
    Work(
        "uwsgi", "WSGI hello, by uwsgi behind nginx", RATES,
        (*_own(option=UWSGI), servers.uwsgi(listens="--socket")), (Goal(1.2, ("uWSGI",)),),
        measure.answers_behind_nginx, measure.behind_nginx,
    ),
    Work(
        "proactor", "WSGI hello, proactor on io_uring", RATES,
        (
            *_own("--model", "proactor", "--io", "io_uring", "--no-io-fallback"),
            servers.nginx(), servers.loop(),
        ),
        (Goal(1.0, ("nginx return 200",)),),
        HELLO, partial(load.wrk, headers=ACCEPT), quick=True,
    ),
    Work(
        "threads", "WSGI hello with 8 threads", RATES,
        (forkd(), forkd(*THREADS_8, name="forkd, 8 threads")),
        (Goal(0.95, ("forkd",), of="forkd, 8 threads"),),
        HELLO, partial(load.wrk, headers=ACCEPT),
    ),
    Work(
        "sleep", "WSGI that sleeps 5 ms, 32 threads, 64 connections", ("per_second", "per_cpu", "p50", "p99"),
        (
            *_own("--threads", "32"),
            servers.granian("--blocking-threads", "32"),
            servers.gunicorn(*GTHREAD, "--threads", "32"),
        ),
        (Goal(1.0, ("granian",)),),
        partial(check.answers, sent=check.request("/5ms")),
        partial(load.wrk, path="/5ms", connections=64),
    ),
    *(
        Work(
            name, f"1 % of requests take 100 ms, 8 threads, 32 connections, {how}: the others",
            ("p99", "p50", "per_second", "per_cpu"),
            (
                *_own(*THREADS_8),
                servers.granian("--blocking-threads", "8"),
                servers.gunicorn(*GTHREAD, *THREADS_8),
            ),
            (Goal(0.5, ("gunicorn gthread", "granian")),),
            HELLO, partial(measure.fast_beside_slow, rate=rate),
        )
        for name, how, rate in (
            ("slow", "each client asks on at once", 0),
            ("slow-paced", "1,000 requests a second", 1000),
        )
    ),
    Work(
        "close", "New connection per request, 2 workers", RATES,
        (
            *_own("--workers", "2"), servers.granian("--workers", "2"), servers.bjoern(2),
        ),
        (Goal(1.5, ("granian", "bjoern")),),
        partial(check.answers, sent=check.request("/", "Connection: close"), again=False),
        partial(load.wrk, headers=("Connection: close",)), quick=True,
    ),
    Work(
        "fairness", "Beside 24 clients that connect anew all the time, 5 ms each: who waits how long",
        (
            *(f"{group}_{which}" for group in fairness.GROUPS for which in ("p99", "p50", "max")),
            "p50", "p99", "per_second",
        ),
        (
            servers.with_second(forkd()),
            servers.with_second(forkd("--threads", "4", name="forkd, 4 threads")),
            servers.with_second(forkd("--model", "half-sync-half-async", name="forkd, half-sync/half-async")),
            servers.with_second(forkd("--model", "proactor", name="forkd, proactor")),
            servers.nginx_with_second(),
            servers.with_second(servers.gunicorn(*GTHREAD, "--threads", "4")),
        ),
        (),
        HELLO, fairness.measure, warm=False,
    ),
    Work(
        "64k", "Response of 64 KiB", RATES, (*_own(), *PEERS), (Goal(1.0, ALL, best=True),),
        partial(check.answers, sent=check.request("/64k"), body=bytes(64 << 10)),
        partial(load.wrk, path="/64k"),
    ),
    Work(
        "1m", "Response of 1 MiB", RATES, (*_own(), *PEERS), (Goal(1.0, ALL, best=True),),
        partial(check.answers, sent=check.request("/1m"), body=bytes(1 << 20)),
        partial(load.wrk, path="/1m"),
    ),
    Work(
        "upload", "Upload of 1 MiB", RATES, (*_own(), *PEERS), (Goal(1.0, ALL, best=True),),
        partial(check.answers, sent=check.request("/upload", body=bytes(1 << 20)), body=b"1048576"),
        partial(load.wrk, path="/upload", script="upload.lua"),
    ),
    Work(
        "echo", "Stream echo, messages of 64 bytes", RATES,
        (
            forkd(app="echo:Echo"),
            servers.uvloop(), servers.c_echo(),
        ),
        (Goal(1.0, ("uvloop",)), Goal(0.75, ("C epoll echo",))),
        partial(check.echoes, message=MESSAGE),
        lambda server, seconds: load.messages(server, seconds, (MESSAGE, len(MESSAGE))), quick=True,
    ),
    Work(
        "idle-connections", "10,000 idle keep-alive connections", ("bytes",),
        (
            *_own(*MANY), servers.granian("--backpressure", "12000", "--backlog", "4096"),
            servers.gunicorn(*GTHREAD, *MANY, "--keep-alive", "75"),
        ),
        (Goal(3_000),),
        HELLO, measure.idle_connections, warm=False,
    ),
    Work(
        "master", "The master under full load", ("master", "per_second"), _own(), (Goal(0.5),),
        HELLO, measure.master,
    ),
    Work(
        "idle", "The daemon at rest, 2 workers", ("wakeups",),
        (
            *_own("--workers", "2"), servers.granian("--workers", "2"),
            servers.gunicorn(*GTHREAD, "--workers", "2"),
        ),
        (Goal(5),),
        HELLO, measure.idle, warm=False,
    ),
    Work(
        "connections", "CPU time per request by number of connections",
        ("spread", *(f"cost_{n}" for n in measure.STEPS)),
        (*_own(*MANY), servers.loop(), servers.bjoern()),
        (Goal(1.15),), HELLO, measure.cost_by_connections, warm=False,
    ),
    Work(
        "preload", "Django, 8 workers, --preload", ("pss",),
        (
            forkd("--workers", "8", "--preload", app="project:app"),
            servers.gunicorn("--workers", "8", "--preload", app="project:app", name="gunicorn"),
        ),
        (Goal(0.8, ("gunicorn",)),),
        partial(check.answers, sent=check.request("/", "Connection: close"), again=False),
        measure.memory, warm=False,
    ),
)  # fmt: skip

WORKS: tuple[Work, ...] = (*SYNC_WORKS, *ASGI_WORKS)
