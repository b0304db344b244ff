"""The models that forkd has, and what each can do. A new model is a new file and one row here.

`forkd models` and docs/models/ are printed from this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from forkd.config import Config
from forkd.config.rules import Rule
from forkd.engine.blocking import BlockingFollowers
from forkd.engine.context import ChildContext, Model
from forkd.models.half_sync_half_async import HalfSyncHalfAsync
from forkd.models.half_sync_half_reactive import HalfSyncHalfReactive
from forkd.models.leader_followers import LeaderFollowers
from forkd.models.leader_threads import LeaderThreads
from forkd.models.proactor import Proactor
from forkd.models.process_per_connection import MAX_PROCESSES, ProcessPerConnection
from forkd.models.reactor import Reactor
from forkd.models.simulated_proactor import SimulatedProactor
from forkd.native import missing, native
from forkd.system import uring


@dataclass(frozen=True)
class ModelRow:
    name: str
    make: Callable[[ChildContext], Model]
    ios: tuple[str, ...]  # the default first
    master_accepts: bool  # and hands the sockets to its children
    forks: bool  # a process for each client
    threaded: bool  # --threads means something
    pooled: bool  # the logic always runs in a pool of them
    waits: str  # who waits and accepts
    moves: str  # who reads and writes
    logic: str  # who runs the logic
    handoff: str
    good_for: str
    weakness: str
    #: Pairs of (io, interface) that make no sense, with the reason and what to use instead.
    refused: dict[tuple[str, str], str]


_ONE_THREAD = (
    "an asyncio protocol belongs to the thread of its event loop, and this model would run it in "
    "any thread of its pool; use --model leader-followers"
)


def _leader_followers(context: ChildContext) -> Model:
    if context.io == "blocking":
        return BlockingFollowers(context)
    return LeaderThreads(context) if context.config.threads > 1 else LeaderFollowers(context)


MODELS: tuple[ModelRow, ...] = (
    ModelRow(
        name="leader-followers",
        make=_leader_followers,
        ios=("epoll", "poll", "select", "sigio", "blocking"),
        master_accepts=False,
        forks=False,
        threaded=True,
        pooled=False,
        waits="the child that leads, under the shared accept lock",
        moves="that child",
        logic="that child",
        handoff="promote a follower, then work",
        good_for="nearly everything: no hand-off on the way of a request, even spread of clients",
        weakness="with one thread, a handler that blocks holds the other clients of its child; "
        "blocking io serves one client per child at a time",
        refused={
            ("blocking", "asyncio"): "an asyncio protocol needs an event loop, and blocking io has "
            "none; use --io epoll, or a socketserver handler",
        },
    ),
    ModelRow(
        name="process-per-connection",
        make=ProcessPerConnection,
        ios=("epoll", "blocking", "sigio"),
        master_accepts=True,
        forks=True,
        threaded=False,
        pooled=False,
        waits="the master, woken by its epoll or by SIGIO",
        moves="a process forked for the client",
        logic="that process",
        handoff="the socket goes to a worker, which has the application loaded, and forks",
        good_for="long sessions that must not harm each other: a crash or a leak ends with its client",
        weakness="a fork for each client, and the memory of a process",
        refused={
            (io, "asyncio"): "the event loop runs in the process that forks, and cannot be carried "
            "into the one that is forked; use a socketserver handler, or --model leader-followers"
            for io in ("epoll", "blocking", "sigio")
        },
    ),
    ModelRow(
        name="half-sync-half-async",
        make=HalfSyncHalfAsync,
        ios=("sigio", "epoll"),
        master_accepts=True,
        forks=False,
        threaded=False,
        pooled=False,
        waits="the master: the asynchronous layer, woken by SIGIO or by epoll",
        moves="the child",
        logic="the child",
        handoff="the accepted socket, sent to a child's queue (SCM_RIGHTS) as dispatch says",
        good_for="choosing the child by a policy; children that never touch a listener",
        weakness="each connection passes through the master; what was handed to a child that stands "
        "still waits for it",
        refused={},
    ),
    ModelRow(
        name="half-sync-half-reactive",
        make=HalfSyncHalfReactive,
        ios=("epoll", "poll", "select"),
        master_accepts=False,
        forks=False,
        threaded=True,
        pooled=True,
        waits="the child's main thread",
        moves="a pool thread (handoff = socket), or the main thread reads (handoff = task)",
        logic="a pool thread",
        handoff="ready sockets, or requests, in a request queue that idle threads compete for",
        good_for="applications that block, with clients that keep their connections",
        weakness="each request passes the queue's lock and wakes a thread; one client per thread "
        "at a time",
        refused={(io, "asyncio"): _ONE_THREAD for io in ("epoll", "poll", "select")},
    ),
    ModelRow(
        name="reactor",
        make=Reactor,
        ios=("epoll", "poll", "select"),
        master_accepts=False,
        forks=False,
        threaded=True,
        pooled=True,
        waits="the child's main thread, which only waits",
        moves="pool threads; a readable and a writable event are two queue entries",
        logic="a pool thread",
        handoff="ready events in the request queue",
        good_for="seeing the pattern as it is written; large answers to slow clients",
        weakness="two passes of the queue and two registrations for each request",
        refused={(io, "asyncio"): _ONE_THREAD for io in ("epoll", "poll", "select")},
    ),
    ModelRow(
        name="simulated-proactor",
        make=SimulatedProactor,
        ios=("epoll", "poll", "select"),
        master_accepts=False,
        forks=False,
        threaded=True,
        pooled=True,
        waits="the child's main thread",
        moves="the main thread: it reads until EAGAIN, and writes when writable",
        logic="a pool thread",
        handoff="request objects in the queue, responses back",
        good_for="applications that block, behind clients that send or read slowly",
        weakness="the main thread moves all bytes of its child",
        refused={(io, "asyncio"): _ONE_THREAD for io in ("epoll", "poll", "select")},
    ),
    ModelRow(
        name="proactor",
        make=Proactor,
        ios=("io_uring", "aio"),
        master_accepts=False,
        forks=False,
        threaded=True,
        pooled=False,
        waits="the kernel; the child's main thread waits for completions",
        moves="the kernel, into and out of our buffers",
        logic="completion handlers: inline, or in the pool with --threads",
        handoff="completions",
        good_for="many busy connections: one system call starts and ends dozens of operations",
        weakness="io_uring is denied in many containers (see io_fallback); aio is a thread of "
        "glibc for each client, 256 at most, and is here for the pattern's sake",
        refused={
            ("aio", "asyncio"): "glibc does the operations of one descriptor one after the other, "
            "so a read that waits would hold up the write; use --io io_uring"
        },
    ),
)

INTERFACES = ("wsgi", "socketserver", "asyncio")


def find(name: str) -> ModelRow | None:
    return next((row for row in MODELS if row.name == name), None)


def get(name: str) -> ModelRow:
    """The model of a configuration that `require` has passed."""
    return next(row for row in MODELS if row.name == name)


def io_of(name: str, io: str | None) -> str:
    """The `--io` in force: the model's first when none was chosen."""
    return get(name).ios[0] if io is None else io


def child_io(name: str, io: str | None) -> str:
    """The `io` of a child's wait. Where the master accepts, SIGIO wakes the master."""
    found = io_of(name, io)
    return "epoll" if found == "sigio" and get(name).master_accepts else found


def _model(config: Config) -> str:
    known = ", ".join(row.name for row in MODELS)
    return "" if find(config.model) else f"must be one of {known}"


def _io(config: Config) -> str:
    row = find(config.model)
    if row is None or config.io is None or config.io in row.ios:
        return ""
    pairs = "; ".join(f"{r.name}: {', '.join(r.ios)}" for r in MODELS)
    return f"{row.name} works with {', '.join(row.ios)} (all pairs: {pairs})"


def _accept(config: Config) -> str:
    row = find(config.model)
    if row is None or config.accept == "lock" or _io(config):
        return ""
    if row.master_accepts:
        return f"under {row.name} the master accepts, and children do not compete"
    if config.accept == "exclusive" and io_of(config.model, config.io) != "epoll":
        return "EPOLLEXCLUSIVE needs --io epoll"
    return ""


def _threads(config: Config) -> str:
    row = find(config.model)
    if row is None or config.threads == 1 or _io(config):
        return ""
    if not row.threaded:
        threaded = ", ".join(r.name for r in MODELS if r.threaded)
        return f"{row.name} has no threads; models that do: {threaded}"
    if io_of(config.model, config.io) == "blocking":
        return "blocking io serves one client per child; use more workers, or --io epoll"
    return ""


def _native(config: Config) -> str:
    """Native code is the default where there is some; a configuration that asks for it fails without."""
    if not config.native or native is not None or "native" not in config.origins:
        return ""
    return (
        f"there is no native code here: {missing}; install forkd where there is a C compiler, or leave "
        "this out"
    )


#: For `Sources.load`: what the table of models knows of combinations.
RULES = (
    Rule(("model",), _model),
    Rule(("io",), _io),
    Rule(("accept",), _accept),
    Rule(("threads",), _threads),
    Rule(("native",), _native),
)


def without_native(config: Config) -> str:
    """Why Python alone serves; empty where native code does what it can."""
    if not config.native:
        return "native = false"
    return "" if native is not None else missing


def native_or_not(why: str) -> str:
    """The result of `without_native` as words."""
    return f"no native code ({why})" if why else "native code"


def lanes(config: Config) -> int:
    """Rows of the scoreboard that a child needs besides its main thread's: one per thread of its
    pool, or per process that it forks."""
    row = get(config.model)
    if row.forks:
        return min(config.worker_connections, MAX_PROCESSES)
    may_be_pooled = row.pooled or io_of(config.model, config.io) == "io_uring"  # see `usable`
    return config.threads if may_be_pooled or config.threads > 1 else 0


def usable(config: Config) -> tuple[Config, str]:
    """The configuration, and ""; or, where io_uring is denied, one that does without, and why.
    In a child: a ring belongs to the process that made it."""
    if io_of(config.model, config.io) != "io_uring" or not (why := uring.usable()):
        return config, ""
    return replace(config, model="simulated-proactor", io=None), why


def refusal(row: ModelRow, io: str, flavour: str, threads: int) -> str | None:
    """Why `flavour` ("wsgi", "socketserver", "asyncio") cannot run so, or None."""
    if flavour == "asyncio" and threads > 1 and not row.pooled:
        return (
            "an asyncio protocol belongs to the thread of its event loop; use --threads 1, "
            "and more workers"
        )
    return row.refused.get((io, flavour))
