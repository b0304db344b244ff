"""Status and the list of daemons as tables for a terminal. In the command.

What a table shows may come from an application, or from another user's daemon: nothing of it reaches the
terminal but printable characters.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from forkd.system.address import page_at
from forkd.system.output import clean, grid, native_or_not, tasks_said

#: Columns of a table on a terminal that has fewer, more, or none at all.
_MIN_COLUMNS, _MAX_COLUMNS = 80, 100
_LABEL_COLUMNS = 13
#: Lines of the error that makes a crash loop: its end, where the exception is.
_ERROR_LINES = 8
_MAX_ERROR_CHARS = 400
#: Departures that status shows; the JSON has more.
_MAX_DEPARTURES = 3
_FILES = {
    "config": "config", "pidfile": "pid file", "control": "control", "error_log": "error log",
    "access_log": "access log",
}  # fmt: skip
_WORKER_COLUMNS = ("SLOT", "NO", "GEN", "PID", "ROLE", "AGE", "REQUESTS", "CONNS", "RSS", "BUSY", "REQUEST")


def render(status: Mapping[str, Any]) -> str:
    """The answer of `forkd status`."""
    columns = _columns()
    lines = _headline(status["master"], columns)
    for label, text in _facts(status):
        lines += _field(label, text, columns)
    lines += [*_files(status["master"]), ""]
    rows = [_worker(worker) for worker in status["workers"]]
    right = {"SLOT", "NO", "GEN", "PID", "AGE", "REQUESTS", "CONNS", "RSS", "BUSY"}
    return "\n".join(lines + grid(_WORKER_COLUMNS, rows, right, columns))


def _headline(master: Mapping[str, Any], columns: int) -> list[str]:
    """What it is and how it is; of a crash loop the reason, before anything else."""
    lines = [f"forkd {master['version']} [{master['name']}] {master['state']}"]
    if master["why"]:
        lines += textwrap.wrap(clean(master["why"]), columns, initial_indent="  ", subsequent_indent="  ")
    if master["state"] == "crash-loop":
        error = str(master["last_error"]).strip().splitlines()
        # Not cut: the number of a line stands behind a path. A line of data may be of any length.
        lines += ["", *(f"  {clean(line)[:_MAX_ERROR_CHARS]}" for line in error[-_ERROR_LINES:])]
    return [*lines, ""]


def _facts(status: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Label and text. A label that is empty belongs to the one before. A master of an older version, which is
    still to be upgraded, does not say all of it."""
    master, totals = status["master"], status.get("totals")
    yield "master", (
        f"pid {master['pid']}, up {span(master['uptime'])}, generation {master['generation']}"
        + (f", template pid {', '.join(map(str, found))}" if (found := master["templates"]) else "")
    )
    yield "model", (
        f"{master['model']}, io {master['io']}, accept {master['accept']}"
        + (f", {native_or_not(master['native_why'])}" if "native_why" in master else "")
    )
    loop = f", loop {master['loop']}" if master.get("loop") else ""
    interface = f" ({master['interface']}{loop})" if master["interface"] else ""
    yield "app", f"{master['app'] or '(built-in)'}{interface}{tasks_said(master.get('request_tasks', ''))}"
    ready = sum(worker["state"] == "ready" for worker in status["workers"])
    limit = f", at most {master['workers_limit']}" if "workers_limit" in master else ""
    yield "workers", f"{ready} ready, {master['workers_wanted']} wanted{limit}"
    if totals is not None:
        errors = sum(number for code, number in totals["codes"].items() if code >= "500")
        yield "answered", (
            f"{totals['requests']} requests, {errors} of them 5xx; {totals['accepted']} connections"
        )
        yield from _deaths(status)
    if any(master["reloads"].values()):
        yield "reloads", _counts(master["reloads"])
    broken = status.get("own_broken", {})
    if status["admin"] and "admin" not in broken:
        yield "metrics", page_at(status["admin"], "/metrics")
    if status.get("health") and "health" not in broken:
        yield "health", page_at(status["health"], "/readyz")
    for who, why in broken.items():
        yield {"admin": "metrics"}.get(who, who), f"NOT listening on {why}"
    for listener in status["listeners"]:
        if listener.get("broken"):
            yield "", f"NOT listening on {listener['broken']}"
        else:
            queue = f"{listener['accept_queue']} of {listener['backlog']} waiting"
            yield "listening", f"{listener['address']}, {queue}"
    for unit in status.get("storage", ()):
        counts = f"{unit['hits']} hits, {unit['misses']} misses"
        yield "storage", f"{unit['name']}: {unit['place']}, {counts}"
    blocked = [(w["blocked"], w["slot"]) for w in status["workers"] if w.get("blocked")]
    if blocked:
        worst, slot = max(blocked, key=lambda pair: pair[0]["seconds"])
        by = f" by {worst['by']}" if worst["by"] else ""
        yield "blocked", f"{span(worst['seconds'])}, the event loop of worker {slot}{by}"
    logger = status.get("logger")
    if logger is not None and logger["why"]:
        yield "logger", f"pid {logger['pid']}: {logger['why']}"


def _files(master: Mapping[str, Any]) -> Iterable[str]:
    """Each in one line, however long: to be copied."""
    label = "files"
    for name, words in _FILES.items():
        if master.get(name):
            yield f"{label:{_LABEL_COLUMNS}}{words:11}{clean(master[name])}"
            label = ""


def _deaths(status: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Workers that were killed or died, with the last few; and how many were replaced in good order."""
    untimely = status["totals"]["untimely"]
    if untimely:
        number = sum(untimely.values())
        last = status["departures"][-_MAX_DEPARTURES:]
        # An upgrade hands the numbers over, and not the reports.
        more = "the last:" if last else "before an upgrade: see the error log"
        yield "died", f"{number} worker{'s' if number > 1 else ''}: {_counts(untimely)}; {more}"
        for gone in reversed(last):
            yield "", _departure(gone)
    else:
        yield "died", "no worker"
    orderly = {
        reason: number - untimely.get(reason, 0)
        for reason, number in status["totals"]["exits"].items()
        if number > untimely.get(reason, 0)
    }
    if orderly:
        yield "replaced", _counts(orderly)


def _departure(gone: Mapping[str, Any]) -> str:
    when = (datetime.now(UTC) - datetime.fromisoformat(gone["time"])).total_seconds()
    how = gone["signal"] or f"exit code {gone['exit_code']}"
    text = f"{span(max(0.0, when))} ago: worker {gone['slot']} (pid {gone['pid']}), {gone['reason']}"
    if how != gone["reason"]:
        text += f", {how}"
    text += f", age {span(gone['age'])}"
    if gone["fault"]:
        text += f": {gone['fault']}"
    elif gone["error"]:
        text += f": {gone['error'].strip().splitlines()[-1]}"
    elif gone["request"]:
        text += f", while it served {gone['request']}"
    return text


def _worker(worker: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        worker["slot"], worker.get("number", "-"), worker["generation"], worker["pid"], worker["role"],
        span(worker["age"]), worker["requests"], worker["connections"], f"{worker['rss_bytes'] >> 20}M",
        span(worker["busy_for"]) if worker["busy_for"] else "-", worker["request"] or "-",
    )  # fmt: skip


def daemons(found: Sequence[Mapping[str, Any]]) -> str:
    """The answer of `forkd list`."""
    columns = _columns()
    rows = []
    for daemon in found:
        workers = "-"
        if daemon["workers_wanted"] is not None:
            workers = f"{daemon['workers_ready']}/{daemon['workers_wanted']}"
        uptime = "-" if daemon["uptime"] is None else span(daemon["uptime"])
        addresses = ", ".join(daemon["listeners"]) or "-"
        rows.append(
            (
                daemon["name"], daemon["user"], daemon["pid"], daemon["state"], workers, uptime, addresses,
            )
        )  # fmt: skip
    header = ("NAME", "USER", "PID", "STATE", "WORKERS", "UP", "LISTENING")
    lines = grid(header, rows, {"PID", "WORKERS", "UP"}, columns)
    shown = lines[:1]
    for line, daemon in zip(lines[1:], found, strict=True):
        shown.append(line)
        if daemon["why"]:
            shown += textwrap.wrap(
                clean(daemon["why"]), columns, initial_indent="  ", subsequent_indent="  ", **_WHOLE_WORDS
            )
        if daemon["where"]:
            shown.append(f"  {clean(daemon['where'])}")  # to be copied: in one line, however long
    return "\n".join(shown)


# ---- layout ---------------------------------------------------------------------------------

#: A path is not broken: it is copied.
_WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def _columns() -> int:
    return min(_MAX_COLUMNS, max(_MIN_COLUMNS, shutil.get_terminal_size((_MAX_COLUMNS, 24)).columns))


def _field(label: str, text: str, columns: int) -> list[str]:
    first, rest = label.ljust(_LABEL_COLUMNS), " " * _LABEL_COLUMNS
    found, room = clean(text), columns - _LABEL_COLUMNS
    if len(found) <= room or max(map(len, found.split())) > room:  # a path that fits nowhere
        return [f"{first}{found}".rstrip()]
    return textwrap.wrap(found, columns, initial_indent=first, subsequent_indent=rest, **_WHOLE_WORDS)


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in numbers.items() if number)


def span(seconds: float) -> str:
    """A time in at most four characters or so: 0.12s, 59s, 12m, 3h, 40d."""
    if seconds < 10:
        return f"{seconds:.2g}s"
    for unit, length, most in (("s", 1, 120), ("m", 60, 120), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds // 86400)}d"
