"""The models that forkd has. A new model is a file that ends with its row, and a line here.

`forkd models` and docs/models/ are printed from this table.
"""

from __future__ import annotations

from dataclasses import replace

from forkd.app import interfaces
from forkd.config import Config
from forkd.config.rules import Rule
from forkd.models import (
    half_sync_half_async,
    half_sync_half_reactive,
    leader_followers,
    proactor,
    process_per_connection,
    reactor,
    simulated_proactor,
)
from forkd.models.process_per_connection import MAX_PROCESSES
from forkd.models.row import MULTIPLEXED, ModelRow
from forkd.native import missing, native
from forkd.system import uring

MODELS: tuple[ModelRow, ...] = (
    leader_followers.ROW,
    process_per_connection.ROW,
    half_sync_half_async.ROW,
    half_sync_half_reactive.ROW,
    reactor.ROW,
    simulated_proactor.ROW,
    proactor.ROW,
)


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


#: For `Sources.load`: what the tables of models and interfaces know of combinations.
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


def refusal(row: ModelRow, io: str, interface: str, threads: int) -> str | None:
    """Why an interface of that name cannot run so, or None."""
    speaks = interfaces.named(interface)
    if speaks is not None and speaks.needs_loop and threads > 1 and not row.pooled:
        what = "an ASGI application" if speaks.http else "an asyncio protocol"
        return f"{what} belongs to the thread of its event loop; use --threads 1, and more workers"
    why = row.refused.get((io, interface))
    if why is None and speaks is not None and speaks.multiplexes:
        return row.refused.get((io, MULTIPLEXED))
    return why
