"""Children that have gone: the report of each, and what its end means for those after it. In the master.

A report is one record: in the error log, and the last few in `forkd status --json`. It holds what the
kernel said at the end, and what the child had written to the scoreboard, which may be nonsense: it is
shown, never acted on.
"""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Iterable
from time import monotonic, monotonic_ns
from typing import Any, NamedTuple

from forkd.errors import StartError
from forkd.log.lines import escape
from forkd.master import events, plan, stacks
from forkd.master.children import Child, State
from forkd.master.spawn import Departure
from forkd.system import process

#: Of the requests in flight that hold no thread, so many are named in a report, and `status` shows so many in
#: all. The access log has a line for each.
_NAMED_REQUESTS, _SHOWN_REQUESTS = 100, 20
_WORD = (1 << 64) - 1
#: Why a child is replaced that has lost what its application needs: as if it had crashed.
LIFESPAN = "lifespan"
_MAX_STATUS_TEXT_CHARS = 4096  # of a text that `status` shows; the log has all of it


# ---- what the end of a child means ------------------------------------------------------------


class Nothing(NamedTuple):
    """It is replaced at once."""


class FailReload(NamedTuple):
    """The reload under way has failed."""

    error: str


class GiveUp(NamedTuple):
    """The start has failed."""

    error: str


class Delay(NamedTuple):
    """The next children of the active generation come later."""

    backoff: plan.Backoff


class DelayIncoming(NamedTuple):
    """The next children of the incoming generation come later."""

    backoff: plan.Backoff


Verdict = Nothing | FailReload | GiveUp | Delay | DelayIncoming


class Facts(NamedTuple):
    """What a verdict depends on, besides the child."""

    active: int  # the number of the generation that serves
    incoming: int | None  # of the one that a reload brings up
    booting: bool  # the service has never answered
    backoff: plan.Backoff
    incoming_backoff: plan.Backoff
    now: float  # CLOCK_MONOTONIC, seconds


def error_of(departure: Departure) -> str:
    """Why a child has crashed, in its own words if it had any."""
    how = f"ended by {departure.reason}"
    if departure.reason == "boot":  # says when, and not how
        how = (
            f"ended {process.how_ended(departure.code)} before it was ready; what it has printed is in "
            "the error log"
        )
    return departure.child.error or f"worker {departure.child.slot} {how}"


def crashed(child: Child, error: str, facts: Facts) -> Verdict:
    """A child has ended, and was not asked to."""
    served = 0.0 if child.ready is None else facts.now - child.ready
    if child.generation == facts.active and served >= plan.SETTLED_SECONDS:
        return Nothing()  # it was no crash at start
    return failed(child.generation, error, facts)


def failed(generation: int, error: str, facts: Facts) -> Verdict:
    """A child of that generation has crashed at its start, or a template that was to fork some."""
    if generation == facts.incoming:
        return FailReload(error)
    if facts.booting:
        return GiveUp(error)
    if generation == facts.active:
        return Delay(facts.backoff.crashed(facts.now, error))
    return Nothing()


def killed(generation: int, error: str, facts: Facts) -> Verdict:
    """A child, or a template, was killed from outside while it booted: the application has not crashed, and
    another is tried, later each time; without end only when the service has answered before."""
    if generation == facts.incoming:
        incoming = facts.incoming_backoff.killed(facts.now, error)
        if incoming.waits >= plan.BREAKER_CRASHES:
            return FailReload(f"{incoming.waits} times in a row: {error}")
        return DelayIncoming(incoming)
    if generation != facts.active:
        return Nothing()
    backoff = facts.backoff.killed(facts.now, error)
    if facts.booting and backoff.waits >= plan.BREAKER_CRASHES:
        return GiveUp(f"{backoff.waits} times in a row: {error}")
    return Delay(backoff)


def unborn(generation: int, error: StartError, facts: Facts) -> Verdict:
    """A child of that generation could not be forked. Another try soon is of no use where the system has
    refused it; a template that did not answer is another matter."""
    if generation == facts.incoming:
        return FailReload(str(error))
    cause, backoff = error.__cause__, facts.backoff.short(facts.now, str(error))
    lasting = isinstance(cause, OSError) and cause.errno not in (errno.ETIMEDOUT, errno.EPROTO)
    if facts.booting and lasting:
        return GiveUp(str(error))
    if facts.booting and backoff.waits >= plan.BREAKER_CRASHES:
        return GiveUp(f"{backoff.waits} times in a row: {error}")
    return Delay(backoff)


# ---- its report ---------------------------------------------------------------------------------


def note(record: events.Events, departure: Departure, told: bool) -> None:
    """Make the record of an end. `told`: its error has to be said here, since it ends neither the start nor
    a reload, which say it themselves."""
    child = departure.child
    found = _report(departure)
    title = (
        f"worker {child.slot} (pid {child.pid}) gone: {departure.reason}, age {found['age']} s"
    )
    if not departure.untimely:
        record.note("end", "info", title)
        return
    details = "\n".join(_lines(found if told else {**found, "error": None}))
    overdue = child.state is State.KILLED and child.why != "timeout"
    level = "warning" if overdue else "error"
    record.note("departure", level, title, details, _shown(found), {"departure": found})


def note_loop(record: events.Events, crashes: int, error: str) -> None:
    record.note(
        "crash-loop", "error",
        f"crash loop: {crashes} children in a row crashed; from now on one is tried at a time, with growing "
        f"delays. The last error:\n{error}",
    )  # fmt: skip


def _report(departure: Departure) -> dict[str, Any]:
    """The record: JSON. What could not be known is null."""
    child, code = departure.child, departure.code
    seconds, line = departure.held or (None, None)
    return {
        "time": events.now(),
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
            "id": request.id or None,
            "seconds": round((now - request.began) / 1e9, 3),
            "own_process": not request.thread and bool(request.held),
            "thread": f"0x{request.thread & _WORD:016x}" if request.thread else None,
            "stack": frames.get(request.thread & _WORD) if request.thread else None,
        }
        for request in [*held, *others[:_NAMED_REQUESTS]]
    ]


def _told(found: dict[str, Any]) -> Iterable[str]:
    """Of each request in flight."""
    for request in found["requests_in_flight"]:
        client = escape(request["client"]) or "a unix client"
        text = f'in flight: "{escape(request["request"])}" of {client} for {request["seconds"]} s'
        if request["id"]:
            text += f", {request['id']}"
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
    if found["request"]:
        yield f'it was serving "{escape(found["request"])}" for {found["busy_for"]} s'
    elif found["request"] is not None:  # what its event loop was at was no step of a request's own
        yield f"its event loop had not come round for {found['busy_for']} s"
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
    first = found["requests_in_flight"][:_SHOWN_REQUESTS]
    most = _MAX_STATUS_TEXT_CHARS // max(1, len(first))
    cut["requests_in_flight"] = [
        {k: _cut(v, most) if isinstance(v, str) else v for k, v in request.items()}
        for request in first
    ]
    return cut


def _cut(text: str, most: int = _MAX_STATUS_TEXT_CHARS) -> str:
    """Printable ASCII, so that JSON does not make it much longer."""
    text = re.sub(r"[^\n -~]", "?", text)
    return text if len(text) <= most else f"{text[: most // 2]}\n... cut ...\n{text[-most // 2 :]}"
