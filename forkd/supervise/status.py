"""What `forkd status --json` and `/status.json` say. In the master."""

from __future__ import annotations

import os
from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING, Any

from forkd import __version__
from forkd.models import registry
from forkd.supervise.children import Child, State
from forkd.supervise.listening import unreachable
from forkd.supervise.occupancy import occupancy
from forkd.system import process
from forkd.system.scoreboard import ACCEPTED, CONNECTIONS, IN_FLIGHT, REQUESTS
from forkd.system.sockets import Listener

if TYPE_CHECKING:
    from forkd.supervise.master import Master


#: For so long all workers have to be full until the service is not ready for that.
_FULL_SECONDS = 1.0


def report(master: Master) -> dict[str, Any]:
    """The shape is part of the contract (DESIGN, section 5); keys may be added, not removed."""
    generation, config = master.generation, master.generation.config
    return {
        "master": {
            "pid": master.pid,
            "name": config.name,
            "version": __version__,
            "generation": generation.number,
            "state": state(master),
            "why": why_not_ready(master) + _last_error(master),
            "model": config.model,
            "io": registry.io_of(config.model, config.io),
            "io_fallback": master.fallback,
            "accept": config.accept,
            "native": not registry.without_native(config),
            "native_why": registry.without_native(config),
            "app": config.app,
            "interface": master.generation.interface,
            "uptime": round(monotonic() - master.started, 3),
            "templates": master.template_pids(),
            "workers_wanted": generation.want,
            "max_workers": master.most_workers,
            "lanes": master.board.threads,
            "workers_limit": most_wanted(master),
            "reloads": dict(master.reloader.results),
            "last_error": master.last_error,
            "uid": os.geteuid(),
            "config": master.sources.path,
            "pidfile": config.pidfile,
            "control": config.control,
            "error_log": master.launch.error_log,
            "access_log": config.access_log,
        },
        "workers": [_worker(master, child) for child in sorted(master.children, key=_slot)],
        "listeners": [
            {
                "address": listener.name,
                "bind": str(listener.wanted),
                "sockets": len(listener.sockets),
                "accept_queue": depth,
                "backlog": limit,
                "high_water": {
                    "recent": master.high_water.recent(listener.name, monotonic()),
                    "since_start": master.high_water.ever(listener.name),
                },
                "deferring": listener.deferring,
                "broken": unreachable(listener),
            }
            for listener in generation.listeners
            for depth, limit in [_look(master, listener)]
        ],
        "logger": master.logs.report(),
        "admin": master.admin_address,
        "health": master.health.name if master.health is not None else None,
        "own_broken": {
            who: why
            for who, server in (("admin", master.admin), ("health", master.health))
            if server is not None and (why := unreachable(server.listener))
        },
        "doorbell": master.doorbell.counters(),
        "departures": master.departures.reports(),
    }


def _look(master: Master, listener: Listener) -> tuple[int, int]:
    """(connections in the accept queue, its limit); who asks is one more who has looked."""
    depth, limit = listener.waiting()
    master.high_water.saw(listener.name, depth, monotonic())
    return depth, limit


def most_wanted(master: Master) -> int:
    """As many workers as the load or `forkd scale` can have."""
    generation = master.generation
    fixed = generation.config.accept == "reuseport" or generation.least < generation.most
    return generation.most if fixed else master.most_workers


def whole(master: Master) -> dict[str, Any]:
    """`report`, with what only a reader asks for: a scrape has it from elsewhere."""
    board = master.board
    return report(master) | {
        "totals": {
            "requests": board.total(REQUESTS),
            "codes": {str(code): number for code, number in sorted(board.codes().items())},
            "accepted": board.total(ACCEPTED),
            "exits": {reason: number for reason, number in sorted(master.exits.items()) if number},
            "untimely": dict(sorted(master.departures.untimely.items())),
        },
    }


def state(master: Master) -> str:
    """One word."""
    if master.ending.begun:
        return "stopping"
    new = master.leadership.serving(master.generation)
    if master.backoff.open and len(new) < master.generation.want:
        return "crash-loop"
    if master.reloader.incoming is not None:
        return "reloading"
    if master.paused:
        return "paused"
    return "running" if master.served else "starting"


def why_not_ready(master: Master) -> str:
    """Empty when the service is ready; otherwise the sentence for `/readyz` and status. Anybody may ask for
    it: there is nothing of the application's in it."""
    if master.ending.begun:
        return "draining: the master is stopping"
    ready, want = master.ready_count(), master.generation.want
    if _crash_loop(master):
        wait = max(0.0, master.backoff.not_before - monotonic())
        return f"{master.backoff.crashes} children in a row crashed, next try in {wait:.0f} s"
    if master.paused:
        ways = ["SIGHUP"] if master.paused == "SIGWINCH" else []
        if master.generation.config.accept != "reuseport":
            ways.append("SIGTTIN or `forkd scale N`")
        return f"no workers since {master.paused}: clients wait; {', '.join(ways)} brings workers back"
    if ready < want:
        return f"{ready} of {want} workers are ready"
    full = [master.board.full(child.slot, monotonic_ns()) for child in _serving(master)]
    if full and all(since is not None and since > _FULL_SECONDS for since in full):
        return (
            f"all {len(full)} workers have --worker-connections connections, and none is idle: "
            "clients wait in the accept queue"
        )
    return master.listening.why_not()


def _crash_loop(master: Master) -> bool:
    if master.ending.begun or not master.backoff.open:
        return False
    return master.ready_count() < master.generation.want


def _last_error(master: Master) -> str:
    """For status: why a crash loop crashes. An exception may quote a password."""
    if not _crash_loop(master):
        return ""
    return f"; the last error: {''.join(master.backoff.error.strip().splitlines()[-1:])}"


def _serving(master: Master) -> list[Child]:
    number = master.generation.number
    return [c for c in master.children if c.generation == number and c.state is State.READY]


def _slot(child: Child) -> int:
    return child.slot


def _worker(master: Master, child: Child) -> dict[str, Any]:
    board, slot, now = master.board, child.slot, monotonic_ns()
    busy, serving = board.working(slot, now), board.longest(slot, now)
    generation = master.generation_of(child)
    config = None if generation is None else generation.config
    serves = generation in master.generations_that_serve()
    threads = occupancy(config, child.state, serves, board.used(slot))
    return {
        "slot": child.slot,
        "number": child.worker_number,
        "pid": child.pid,
        "generation": child.generation,
        "state": child.state.value,
        "role": role(master, child),
        "requests": board.counter(slot, REQUESTS),
        "connections": board.gauge(slot, CONNECTIONS),
        "in_flight": board.gauge(slot, IN_FLIGHT),
        "rss_bytes": process.resident_bytes(child.pid),
        "cpu_seconds": round(child.look_at_cpu() / 1e9, 3),
        "threads": threads._asdict(),
        "busy_for": round(max(busy or 0.0, serving[0] if serving else 0.0), 6),
        "full_for": round(full, 3) if (full := board.full(slot, now)) is not None else None,
        "request": serving[1].decode("latin-1") if serving else None,
        "age": round(monotonic() - child.forked, 3),
    }


def role(master: Master, child: Child) -> str:
    """leader, follower, or what it does in a model without leadership."""
    if child.state is not State.READY:
        return str(child.state.value)
    lease = master.generation.lease
    if child.generation != master.generation.number:
        return "standby"
    if lease is None:
        return "half-sync" if master.generation.master_accepts else "acceptor"
    return "leader" if lease.leads(child.slot) else "follower"
