"""What `forkd status --json` and `/status.json` say, and whether the service is ready. In the master."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic, monotonic_ns
from typing import Any, NamedTuple

from forkd import __version__
from forkd.app.interfaces import flag_of, named
from forkd.config.storage_url import StorageURL
from forkd.master import plan
from forkd.master.children import Child, State
from forkd.master.doorbell import Doorbell
from forkd.master.endpoints import Endpoints
from forkd.master.generation import Generation
from forkd.master.high_water import HighWater
from forkd.master.listening import unreachable, why_not
from forkd.master.logs import Logs
from forkd.master.occupancy import occupancy
from forkd.master.phase import Phase
from forkd.master.reload import Reloads
from forkd.master.service import Service
from forkd.master.templates import Templates
from forkd.metrics.collector import dropped_fields
from forkd.models import registry
from forkd.system import process
from forkd.system.cells import (
    ACCEPTED,
    CONNECTIONS,
    IN_FLIGHT,
    REQUESTS,
    STORAGE,
    STORAGE_COUNTS,
    WEBSOCKETS,
)
from forkd.system.shared_memory import statistics
from forkd.system.sockets import Listener

#: For so long all workers have to be full until the service is not ready for that.
_FULL_SECONDS = 1.0

# ---- the word, and why the service is not ready ----------------------------------------------


class Facts(NamedTuple):
    """What the state of the service is told from."""

    phase: Phase
    backoff: plan.Backoff
    reloading: bool
    paused: str  # by what; "": not
    fixed: bool  # --accept reuseport: the number of workers is
    want: int  # workers
    ready: int  # workers, of all generations that serve
    new: int  # of these, of the newest generation
    full: list[float | None]  # of each of those: seconds for which it has had all its connections
    unreachable: str  # why clients cannot reach a listener; "": they can
    now: float  # CLOCK_MONOTONIC, seconds


class StatusRow(NamedTuple):
    """`word` and `why` are those of the first row that has one and whose test holds."""

    test: Callable[[Facts], bool]
    word: str = ""
    why: Callable[[Facts], str] | None = None


def _paused(facts: Facts) -> str:
    ways = ["SIGHUP"] if facts.paused == "SIGWINCH" else []
    if not facts.fixed:
        ways.append("SIGTTIN or `forkd scale N`")
    return f"no workers since {facts.paused}: clients wait; {', '.join(ways)} brings workers back"


def _crash_loop(facts: Facts) -> str:
    wait = max(0.0, facts.backoff.not_before - facts.now)
    return f"{facts.backoff.crashes} children in a row crashed, next try in {wait:.0f} s"


def _all_full(facts: Facts) -> bool:
    full = facts.full
    return bool(full) and all(since is not None and since > _FULL_SECONDS for since in full)


#: Anybody may ask for the sentences: there is nothing of the application's in them.
ROWS = (
    StatusRow(lambda f: f.phase.ending, "stopping", lambda f: "draining: the master is stopping"),
    StatusRow(lambda f: f.backoff.open and f.ready < f.want, "", _crash_loop),
    StatusRow(lambda f: f.backoff.open and f.new < f.want, "crash-loop"),
    StatusRow(lambda f: f.reloading, "reloading"),
    StatusRow(lambda f: bool(f.paused), "paused", _paused),
    StatusRow(lambda f: f.ready < f.want, "", lambda f: f"{f.ready} of {f.want} workers are ready"),
    StatusRow(
        _all_full, "",
        lambda f: f"all {len(f.full)} workers have --worker-connections connections, and none is idle: "
        "clients wait in the accept queue",
    ),
    StatusRow(lambda f: bool(f.unreachable), "", lambda f: f.unreachable),
    StatusRow(lambda f: f.phase.booting, "starting"),
    StatusRow(lambda f: True, "running"),
)  # fmt: skip


def state(facts: Facts) -> str:
    """One word."""
    return next(row.word for row in ROWS if row.word and row.test(facts))


def why_not_ready(facts: Facts) -> str:
    """Empty when the service is ready; otherwise the sentence for `/readyz` and status."""
    return next((row.why(facts) for row in ROWS if row.why is not None and row.test(facts)), "")


def agent(facts: Facts) -> str:
    """The line for HAProxy's agent-check: the share of the workers that are ready, as a weight; 0 % where the
    master is told to stop, which is no failure of what is still served."""
    why = why_not_ready(facts)
    if facts.phase.ending:
        word = "up 0%"
    elif not facts.ready or facts.unreachable:
        word = "down"
    else:
        share = 100 * facts.ready // max(facts.want, 1)
        word = f"up {1 if _all_full(facts) else min(max(share, 1), 100)}%"
    return f"{word} #{why}" if why else word


# ---- the report ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Status:
    """Reads the service and the parts that know the rest."""

    service: Service
    endpoints: Endpoints
    templates: Templates
    doorbell: Doorbell
    high_water: HighWater
    logs: Logs
    reloads: Reloads
    exits: Counter[str]  # children that have ended, by reason
    untimely: Counter[str]  # of these, those that were killed for a fault or have died by themselves
    tables: Mapping[str, int]  # memfds of storage units, by name

    def facts(self) -> Facts:
        service, generation = self.service, self.service.generation
        now = monotonic_ns()
        new = service.serving(generation)
        return Facts(
            phase=service.phase,
            backoff=service.backoff,
            reloading=service.incoming is not None,
            paused=service.paused,
            fixed=generation.config.accept == "reuseport",
            want=generation.want,
            ready=service.ready_count(),
            new=len(new),
            full=[service.board.full(child.slot, now) for child in new],
            unreachable=why_not(generation.listeners),
            now=monotonic(),
        )

    def why_not_ready(self) -> str:
        return why_not_ready(self.facts())

    def agent(self) -> str:
        return agent(self.facts())

    def report(self) -> dict[str, Any]:
        """The shape is part of the contract; keys may be added, not removed."""
        service = self.service
        return {
            "master": self._master(),
            "workers": [self._worker(child) for child in sorted(service.children, key=_slot)],
            "listeners": [self._listener(listener) for listener in service.generation.listeners],
            "logger": self.logs.report(),
            "admin": self.endpoints.admin_address,
            "health": self.endpoints.health.name if self.endpoints.health is not None else None,
            "own_broken": {
                who: why
                for who, server in (
                    ("admin", self.endpoints.admin),
                    ("health", self.endpoints.health),
                )
                if server is not None and (why := unreachable(server.listener))
            },
            "doorbell": self.doorbell.counters(),
            "storage": [self._unit(*unit) for unit in enumerate(service.generation.config.storage)],
            "departures": [record.fields for record in service.events.last("departure")],
        }

    def whole(self) -> dict[str, Any]:
        """`report`, with what only a reader asks for: a scrape has it from elsewhere."""
        board = self.service.board
        return self.report() | {
            "totals": {
                "requests": board.total(REQUESTS),
                "codes": {str(code): number for code, number in sorted(board.codes().items())},
                "accepted": board.total(ACCEPTED),
                "exits": {reason: number for reason, number in sorted(self.exits.items()) if number},
                "untimely": dict(sorted(self.untimely.items())),
                "forwarded_dropped": [
                    {"field": name, "reason": why, "count": count}
                    for name, why, count in dropped_fields(board)
                ],
            },
        }

    def _master(self) -> dict[str, Any]:
        service, facts = self.service, self.facts()
        generation, config = service.generation, service.generation.config
        return {
            "pid": os.getpid(),
            "name": config.name,
            "version": __version__,
            "generation": generation.number,
            "state": state(facts),
            "why": why_not_ready(facts) + _last_error(facts),
            "model": config.model,
            "io": registry.io_of(config.model, config.io),
            "io_fallback": service.fallback,
            "accept": config.accept,
            "native": not registry.without_native(config),
            "native_why": registry.without_native(config),
            "app": config.app,
            "interface": flag_of(generation.interface),
            "loop": generation.loop,
            "request_tasks": generation.tasks,
            "uptime": round(monotonic() - service.started, 3),
            "templates": self.templates.pids(),
            "workers_wanted": generation.want,
            "max_workers": service.max_workers,
            "lanes": service.board.threads,
            "workers_limit": _workers_limit(generation, service.max_workers),
            "reloads": dict(self.reloads.results),
            "last_error": service.last_error,
            "uid": os.geteuid(),
            "config": service.sources.path,
            "pidfile": config.pidfile,
            "control": config.control,
            "error_log": service.launch.error_log,
            "access_log": config.access_log,
        }

    def _unit(self, number: int, unit: tuple[str, StorageURL]) -> dict[str, Any]:
        """A storage unit, by what the workers have counted; the table of one in shared memory has counters of
        its own."""
        name, url = unit
        found: dict[str, Any] = {"name": name, "place": str(url)}  # without a password
        if name in self.tables:
            return found | statistics(self.tables[name])
        first = STORAGE + number * len(STORAGE_COUNTS)
        total = self.service.board.total
        return found | {word: total(first + place) for place, word in enumerate(STORAGE_COUNTS)}

    def _listener(self, listener: Listener) -> dict[str, Any]:
        now = monotonic()
        depth, limit = listener.waiting()
        self.high_water.saw(listener.name, depth, now)  # who asks is one more who has looked
        return {
            "address": listener.name,
            "bind": str(listener.wanted),
            "sockets": len(listener.sockets),
            "accept_queue": depth,
            "backlog": limit,
            "high_water": {
                "recent": self.high_water.recent(listener.name, now),
                "since_start": self.high_water.ever(listener.name),
            },
            "deferring": listener.deferring,
            "broken": unreachable(listener),
        }

    def _worker(self, child: Child) -> dict[str, Any]:
        service, board, slot, now = self.service, self.service.board, child.slot, monotonic_ns()
        busy, serving = board.working(slot, now), board.longest(slot, now)
        generation = service.generation_of(child)
        config = None if generation is None else generation.config
        serves = generation in service.generations_that_serve()
        threads = occupancy(config, child.state, serves, board.used(slot))
        in_flight, websockets = board.gauge(slot, IN_FLIGHT), board.gauge(slot, WEBSOCKETS)
        speaks = None if generation is None else named(generation.interface)
        lives = speaks is not None and speaks.lives
        return {
            "slot": child.slot,
            "number": child.worker_number,
            "pid": child.pid,
            "generation": child.generation,
            "state": child.state.value,
            "role": role(service.generation, child),
            "requests": board.counter(slot, REQUESTS),
            "connections": board.gauge(slot, CONNECTIONS),
            "in_flight": in_flight,
            "websockets": websockets,
            # All but the one whose step holds the loop, if one does.
            "suspended": max(0, in_flight - websockets - bool(serving and serving[1])) if lives else 0,
            "rss_bytes": process.resident_bytes(child.pid),
            "cpu_seconds": round(child.look_at_cpu() / 1e9, 3),
            "threads": threads._asdict(),
            "busy_for": round(max(busy or 0.0, serving[0] if serving else 0.0), 6),
            "full_for": round(full, 3) if (full := board.full(slot, now)) is not None else None,
            "request": serving[1].decode("latin-1") if serving else None,
            # The longest turn of its event loop that was longer than --lag-limit.
            "blocked": None if (worst := child.worst) is None else {
                "seconds": round(worst.seconds, 3), "by": worst.by or None,
            },
            "age": round(monotonic() - child.forked, 3),
        }


def _workers_limit(generation: Generation, max_workers: int) -> int:
    """As many workers as the load or `forkd scale` can have."""
    fixed = generation.config.accept == "reuseport" or generation.least < generation.most
    return generation.most if fixed else max_workers


def _last_error(facts: Facts) -> str:
    """For status: why a crash loop crashes. An exception may quote a password."""
    if facts.phase.ending or not facts.backoff.open or facts.ready >= facts.want:
        return ""
    return f"; the last error: {''.join(facts.backoff.error.strip().splitlines()[-1:])}"


def _slot(child: Child) -> int:
    return child.slot


def role(generation: Generation, child: Child) -> str:
    """leader, follower, or what it does in a model without leadership. `generation`: the newest."""
    if child.state is not State.READY:
        return str(child.state.value)
    if child.generation != generation.number:
        return "standby"
    if generation.lease is None:
        return "half-sync" if generation.master_accepts else "acceptor"
    return "leader" if generation.lease.leads(child.slot) else "follower"
