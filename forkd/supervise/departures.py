"""Children that have gone: the report of each that was killed or died, and crashes. In the master.

A report is one record: in the error log, and the last few in `forkd status --json`. It holds what the
kernel said at the end, and what the child had written to the scoreboard, which may be nonsense: it is
shown, never acted on.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter, deque
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING, Any

from forkd.log import escape
from forkd.supervise import plan, stacks, worker
from forkd.supervise.children import Child, State
from forkd.supervise.lateness import LAST_WORDS, not_booted
from forkd.supervise.nursery import Departure
from forkd.supervise.signalling import send
from forkd.system import process

if TYPE_CHECKING:
    from forkd.supervise.master import Master

_KEPT = 20
#: Of the requests in flight that hold no thread, so many are named in a report, and `status` shows so many in
#: all. The access log has a line for each.
_NAMED, _SHOWN = 100, 20
_WORD = (1 << 64) - 1
_MOST = 4096  # characters of a text that `status` shows; the log has all of it


class Departures:
    def __init__(self, master: Master) -> None:
        self._master = master
        self._reports: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self.untimely: Counter[str] = Counter()  # workers killed for a fault or dead by themselves, by reason

    def reports(self) -> list[dict[str, Any]]:
        """The last reports, the newest last, cut so that they fit into an answer."""
        return list(self._reports)

    # ---- before the end -------------------------------------------------------------------

    def kill(self, child: Child, why: str, fault: str) -> None:
        """Kill a child for `fault`, a sentence, once it has had time to write its stacks."""
        child.on("kill")
        self.ask(child)
        self._master.loop.timers.set(
            f"kill {child.pid}", monotonic() + LAST_WORDS, partial(self.end, child, why, fault)
        )

    def ask(self, child: Child) -> None:
        """Ask for its stacks. faulthandler writes them in the signal handler itself, in C: also when
        the child is stuck there and holds the GIL."""
        child.forget_stacks()
        send(self._master.log, child, worker.STACKS)

    def end_boot(self, child: Child, seconds: float) -> None:
        """Kill a child that is not ready yet, unless it is once it has had time to write its stacks."""
        child.deadline = float("inf")
        self.ask(child)
        self._master.loop.timers.set(
            f"boot {child.pid}", monotonic() + LAST_WORDS, partial(self._end_boot, child, seconds)
        )

    def _end_boot(self, child: Child, seconds: float) -> None:
        if child.state is State.STARTING and self._master.children.get(child.slot) is child:
            fault = not_booted(f"worker {child.slot} (pid {child.pid})", seconds)
            child.error = f"{fault}; it was here:\n{child.read_stacks() or process.state(child.pid)}"
            self.end(child, plan.BOOT_TIMEOUT, fault)
            # Now: its end may take as long as a disk that is gone.
            self.failed(child.generation, child.error)

    def end(self, child: Child, why: str, fault: str) -> None:
        """Kill it now; noted first is what the kernel forgets with the process."""
        if self._master.children.get(child.slot) is child:
            child.why, child.fault = why, fault
            child.doing = process.state(child.pid)
            child.rss = process.resident_bytes(child.pid) or child.rss
            self._master.unanswered.part(child)
            self._master.kill(child, why)

    # ---- at the end -----------------------------------------------------------------------

    def record(self, departure: Departure) -> None:
        child, log = departure.child, self._master.log
        found = _report(departure)
        title = (
            f"worker {child.slot} (pid {child.pid}) gone: {departure.reason}, age {found['age']} s"
        )
        if not departure.untimely:
            log.info(title)
            return
        self.untimely[departure.reason] += 1
        self._reports.append(_shown(found))
        told = child.generation == self._master.generation.number and self._master.served
        # What ends the start or the reload is said there, and once.
        details = "\n".join(_lines(found if told else {**found, "error": None}))
        overdue = child.state is State.KILLED and child.why != "timeout"
        log.report("warning" if overdue else "error", title, details, departure=found)

    def crashed(self, departure: Departure) -> None:
        child, master = departure.child, self._master
        how = f"ended by {departure.reason}"
        if departure.reason == "boot":  # says when, and not how
            how = (
                f"ended {process.how_ended(departure.code)} before it was ready; what it has printed is in "
                "the error log"
            )
        error = child.error or f"worker {child.slot} {how}"
        served = 0.0 if child.ready is None else monotonic() - child.ready
        if child.generation == master.generation.number and served >= plan.SETTLED:
            master.last_error = error  # replaced at once: it was no crash at start
        else:
            self.failed(child.generation, error)

    def failed(self, generation: int, error: str) -> None:
        """A child has crashed, or a template that was to fork some."""
        master = self._master
        master.last_error = error
        incoming = master.reloader.incoming
        if incoming is not None and generation == incoming.number:
            master.reloader.fail(error)
        elif not master.served:
            master.give_up(error)
        elif generation == master.generation.number:
            was_open = master.backoff.open
            master.backoff = master.backoff.crashed(monotonic(), error)
            if master.backoff.open and not was_open:
                master.log.error(
                    f"crash loop: {master.backoff.crashes} children in a row crashed; from now on one "
                    f"is tried at a time, with growing delays. The last error:\n{error}"
                )

    def killed(self, generation: int, error: str) -> None:
        """Somebody has killed a child, or a template, while it booted: the application has not crashed, and
        another is tried, later each time; without end only when the service has answered before."""
        master, now = self._master, monotonic()
        master.last_error = error
        incoming = master.reloader.incoming
        if incoming is not None and generation == incoming.number:
            backoff = master.reloader.backoff = master.reloader.backoff.killed(now, error)
            if backoff.waits >= plan.BREAKER:
                master.reloader.fail(f"{backoff.waits} times in a row: {error}")
        elif generation == master.generation.number:
            backoff = master.backoff = master.backoff.killed(now, error)
            if not master.served and backoff.waits >= plan.BREAKER:
                master.give_up(f"{backoff.waits} times in a row: {error}")

    def reap_strangers(self) -> None:
        """As PID 1, or as somebody's subreaper, orphans are ours to collect."""
        master = self._master
        ours = {child.pid for child in master.children}
        ours.update(master.template_pids(), master.errands.pids(), [master.logs.pid])
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in ours:
                return  # a child of ours is next: its pidfd collects it, and calls us again
            process.reap(found.si_pid)


def _report(departure: Departure) -> dict[str, Any]:
    """The record: JSON. What could not be known is null."""
    child, code = departure.child, departure.code
    seconds, line = departure.held or (None, None)
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "slot": child.slot,
        "pid": child.pid,
        "generation": child.generation,
        "reason": departure.reason,
        "fault": child.fault,
        "signal": _name(-code) if code < 0 else None,
        "exit_code": code if code >= 0 else None,
        "request": line.decode("latin-1") if line is not None else None,
        "busy_for": round(seconds, 3) if seconds is not None else None,
        "in_flight": len(departure.left.requests) + departure.left.more,
        "requests_in_flight": _in_flight(departure),
        "doing": child.doing or None,
        "stacks": departure.stacks or None,
        "error": child.error,
        "rss_bytes": child.rss or None,
        "peak_rss_bytes": max(departure.peak, child.rss) or None,  # the kernel counts it less exactly
        "age": round(monotonic() - child.forked, 1),
        "requests": departure.requests,
    }


def _in_flight(departure: Departure) -> list[dict[str, Any]]:
    """The requests that it had in flight: those that held a thread, each with its stack; then the first of
    the others, which waited between two steps."""
    now, frames = monotonic_ns(), stacks.by_thread(departure.stacks)
    held = [request for request in departure.left.requests if request.held]
    others = [request for request in departure.left.requests if not request.held]
    return [
        {
            "request": request.line.decode("latin-1"),
            "client": request.client,
            "seconds": round((now - request.began) / 1e9, 3),
            "own_process": not request.thread and bool(request.held),
            "thread": f"0x{request.thread & _WORD:016x}" if request.thread else None,
            "stack": frames.get(request.thread & _WORD) if request.thread else None,
        }
        for request in [*held, *others[:_NAMED]]
    ]


def _told(found: dict[str, Any]) -> Iterable[str]:
    """Of each request in flight."""
    for request in found["requests_in_flight"]:
        client = escape(request["client"]) or "a unix client"
        text = f'in flight: "{escape(request["request"])}" of {client} for {request["seconds"]} s'
        if request["own_process"]:
            yield f"{text}, in a process of its own"
        elif request["thread"] is None:
            yield f"{text}, in no thread"
        elif request["stack"] is None:
            yield f"{text}, in thread {request['thread']}"
        else:
            yield f"{text}, in thread {request['thread']}:\n{request['stack']}"
    unnamed = found["in_flight"] - len(found["requests_in_flight"])
    if unnamed > 0:
        yield f"and {unnamed} more in flight"


def _lines(found: dict[str, Any]) -> Iterable[str]:
    """The record for a reader, below its title."""
    if found["fault"]:
        yield f"killed: {found['fault']}"
    code = found["exit_code"]
    how = f"by {found['signal']}" if code is None else f"with exit code {code}"
    yield f"ended {how}, generation {found['generation']}, {found['requests']} requests answered"
    if found["request"] is not None:
        yield f'it was serving "{escape(found["request"])}" for {found["busy_for"]} s'
    yield from _told(found)
    sizes = [("memory", found["rss_bytes"]), ("at its peak", found["peak_rss_bytes"])]
    if any(size for _, size in sizes):
        yield ", ".join(f"{name} {size >> 20} MiB" for name, size in sizes if size)
    if found["error"]:
        yield found["error"]
    if found["stacks"] and found["stacks"] not in (found["error"] or ""):
        shown = {int(r["thread"], 16) for r in found["requests_in_flight"] if r["stack"]}
        yield stacks.without(found["stacks"], shown)
    elif found["doing"] and not found["stacks"]:
        yield f"it gave no stacks; it was {found['doing']}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    """The record as `status` shows it, cut so that twenty of them fit into an answer."""
    cut = {k: _cut(v) if isinstance(v, str) else v for k, v in found.items()}
    first = found["requests_in_flight"][:_SHOWN]
    most = _MOST // max(1, len(first))
    cut["requests_in_flight"] = [
        {k: _cut(v, most) if isinstance(v, str) else v for k, v in request.items()}
        for request in first
    ]
    return cut


def _cut(text: str, most: int = _MOST) -> str:
    """Printable ASCII, so that JSON does not make it much longer."""
    text = re.sub(r"[^\n -~]", "?", text)
    return text if len(text) <= most else f"{text[: most // 2]}\n... cut ...\n{text[-most // 2 :]}"
