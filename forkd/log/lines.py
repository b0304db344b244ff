"""The error log and the access log.

Each goes to a ring, from where the logger writes it to its file (forkd/logger); or, where it is not a file,
to descriptor 2 or 1 itself. One line is one record, or one write(2), so lines of several processes do not
mix. The standard library's logging is left to the application; its locks would have to be carried across
forks.

A line of the access log is in its ring when its request ends; the logger is woken at the end of a turn of the
child's loop, for several lines at a time.

Neither is ever waited for: see sink.py and system/log_ring.py.
"""

from __future__ import annotations

import errno
import json
import re
import sys
import traceback
from functools import lru_cache
from math import inf
from typing import Any

from forkd.log.sink import LineSink, RequestSink, Sink
from forkd.native import pick
from forkd.system import links
from forkd.system.line_format import parse
from forkd.system.originals import os, time

_LEVELS = ("debug", "info", "warning", "error")
#: O_NONBLOCK: to open a FIFO without a reader is an error (ENXIO), and not a reason to wait.
_OPEN_FLAGS = (
    os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
)  # fmt: skip
#: Control bytes, DEL, the quote and the backslash, which could forge or tear a line; and what is not ASCII:
#: a client may send any bytes, and readers of a log with such ones do not take it for text.
_UNSAFE = re.compile(r'[\x00-\x1f"\\\x7f-\xff]')
#: Seconds between two lines about the same trouble.
_SILENCE_SECONDS = 10.0
_UNSAFE_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def open_log(path: str) -> int:
    """Open a log file for appending; it is created 0640 and never a symbolic link's target, which may be a
    device, though. Raises OSError."""
    fd = _open(path, _OPEN_FLAGS)
    os.set_blocking(fd, True)  # as the application expects of its stdout and stderr
    return fd


def try_log(path: str) -> None:
    """Raises OSError where `open_log` would for a file that is there, and FileNotFoundError for none."""
    os.close(_open(path, _OPEN_FLAGS & ~os.O_CREAT))


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags, 0o640)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    return links.open_target(path, flags)


class Log:
    """The error log of one process, which `who` names in each line."""

    def __init__(self, level: str, style: str, who: str, sink: LineSink | None = None) -> None:
        """`sink`: where it goes, if that is not descriptor 2."""
        self._who = who
        self.configure(level, style)
        self.use(Sink(2) if sink is None else sink)

    def use(self, sink: LineSink) -> None:
        """Write there from now on."""
        self.sink = sink
        sink.gap = lambda lines: self._line(2, f"error log: {lines} lines lost here")

    def configure(self, level: str, style: str) -> None:
        self._least = _LEVELS.index(level)
        self._json = style == "json"

    def debug(self, message: str) -> None:
        self._put(0, message)

    def info(self, message: str) -> None:
        self._put(1, message)

    def warning(self, message: str) -> None:
        self._put(2, message)

    def error(self, message: str) -> None:
        self._put(3, message)

    def report(self, level: str, title: str, details: str, **fields: Any) -> None:
        """One record with more to it: `details` below its title as text, `fields` as JSON."""
        text = title if self._json else f"{title}\n{details}"
        self._put(_LEVELS.index(level), text, fields)

    def exception(self, message: str) -> None:
        """An error with the traceback of the exception being handled."""
        self._put(3, f"{message}\n{_traceback()}")

    def _put(self, level: int, message: str, fields: dict[str, Any] | None = None) -> None:
        if level >= self._least:
            self.sink.write(self._line(level, message, fields))

    def _line(self, level: int, message: str, fields: dict[str, Any] | None = None) -> bytes:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
        if self._json:
            record = {
                "time": stamp, "level": _LEVELS[level], "pid": os.getpid(),
                "process": self._who, "message": message, **(fields or {}),
            }  # fmt: skip
            line = json.dumps(record)
        else:
            # Continuation lines are indented, so that no message can forge the start of a line.
            message = _UNSAFE_TEXT.sub(_hex, message).replace("\n", "\n    ")
            line = f"{stamp} [{os.getpid()}] {_LEVELS[level]} {self._who}: {message}"
        return line.encode("utf-8", "backslashreplace") + b"\n"


def _traceback() -> str:
    """The traceback of the exception being handled. It may be an application's, whose attributes may be
    anything: a SyntaxError whose text is not a str cannot be formatted."""
    kind = sys.exc_info()[0]
    assert kind is not None
    try:
        return traceback.format_exc().rstrip()
    except BaseException:
        return f"{type.__repr__(kind)}, whose traceback cannot be formatted"


def _hex(match: re.Match[str]) -> str:
    return f"\\x{ord(match.group()):02x}"


def escape(text: str) -> str:
    """`text` with no raw control character, quote, backslash or byte above 0x7e (as nginx does it)."""
    return _UNSAFE.sub(_hex, text)


def _is_safe(text: str) -> bool:
    """Whether `escape` would leave it as it is; for less than a search."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(maxsize=2)
def _stamp(second: int) -> str:
    now = time.localtime(second)
    month = _MONTHS[now.tm_mon - 1]  # not %b, which is in the application's locale
    return time.strftime(f"%d/{month}/%Y:%H:%M:%S %z", now)


def stamp(now: float) -> str:
    """`now` (seconds since the epoch) as access logs have it, cached for its second."""
    return _stamp(int(now))


#: In place of the address of a peer.
_UNKNOWN = "-"


class CombinedLines:
    """Lines of the Combined Log Format. Its twin is native/log_lines.c, which makes usual ones itself, and
    puts them into the ring."""

    def make(
        self, host: str, line: bytes, status: int, size: int, referer: str, agent: str, took_ns: int,
        reason: str = "", id: str = "", peer: str = "",
    ) -> bytes:  # fmt: skip
        """The line of these values; with the request's name and a reason at its end, if there are such."""
        shown = line.decode("latin-1")
        if not _is_safe(f"{shown} {referer} {agent}"):
            shown, referer, agent = escape(shown), escape(referer), escape(agent)
        us = (took_ns + 500) // 1000
        more = f" {id}" if id else ""
        if reason:
            more += f' "{escape(reason)}"'
        return (
            f'{host or "unix:"} - - [{_stamp(int(time.time()))}] "{shown}" {status} {size} "{referer}" '
            f'"{agent}" {us / 1e6:.6f}{more}\n'
        ).encode("latin-1", "backslashreplace")


class FormattedLines:
    """Lines of the form that the operator has given."""

    def __init__(self, text: str) -> None:
        self._format, self._names = parse(text)

    def make(
        self, host: str, line: bytes, status: int, size: int, referer: str, agent: str, took_ns: int,
        reason: str = "", id: str = "", peer: str = "",
    ) -> bytes:  # fmt: skip
        shown = line.decode("latin-1")
        method, _, rest = shown.partition(" ")
        us = (took_ns + 500) // 1000
        values = {
            "client": host or "unix:",
            "peer": peer or "unix:",
            "time": _stamp(int(time.time())),
            "request": shown,
            "method": method,
            "target": rest.rpartition(" ")[0] or "-",
            "status": status,
            "bytes": size,
            "referer": referer,
            "agent": agent,
            "seconds": f"{us // 1000000}.{us % 1000000:06}",
            "request_id": id or "-",
            "reason": reason or "-",
            "pid": os.getpid(),
        }
        text = self._format.format(*[escape(str(values[name])) for name in self._names])
        return text.encode("latin-1", "backslashreplace") + b"\n"


class JsonLines:
    """An object of JSON for each line."""

    def make(
        self, host: str, line: bytes, status: int, size: int, referer: str, agent: str, took_ns: int,
        reason: str = "", id: str = "", peer: str = "",
    ) -> bytes:  # fmt: skip
        values = {
            "time": stamp(time.time()),
            "client": host,
            "request": line.decode("latin-1"),
            "status": status,
            "bytes": size,
            "referer": referer,
            "user_agent": agent,
            "seconds": took_ns / 1e9,
            **({"peer": peer} if peer not in (host, _UNKNOWN) else {}),
            **({"request_id": id} if id else {}),
            **({"reason": reason} if reason else {}),
        }
        return json.dumps(values).encode() + b"\n"


#: Seconds between two wake-ups of the logger for a few lines.
_WAKE_SECONDS = 0.01


class AccessLog:
    """The access log of one child: Combined Log Format with the duration, lines of a given form, or JSON.

    A line is in the ring, and so the logger's, when its request ends: a worker that is killed takes none with
    it. What comes together for many lines is only the ringing of the bell.
    """

    def __init__(
        self,
        sink: RequestSink,
        style: str,
        log: Log | None = None,
        native: bool = True,
        form: str | None = None,
    ) -> None:
        """`log`: the log that trouble with this one is reported to. `form`: of lines of text; None: Combined
        Log Format."""
        lines: Any = JsonLines() if style == "json" else CombinedLines()
        if style != "json" and form is not None:
            lines, native = FormattedLines(form), False
        #: Makes every line; those of native code, where that makes lines, are the usual ones.
        self._general = lines.make
        make: Any = pick("Lines", lambda **_: lines, native and style != "json")
        self.lines: Any = make(stamp_of=stamp, ring=sink.ring, log=sink.log)
        self._deadline = 0.0
        self._woken = 0.0  # when the logger was last woken
        self.sink = sink
        if log is not None:
            sink.gap = Trouble(log).over

    def add(
        self, host: str, line: bytes, status: int, size: int, referer: str, agent: str, took_ns: int,
        id: str = "", peer: str = "",
    ) -> None:  # fmt: skip
        """Add the line of a request that did not reach the application."""
        made = self._general(host, line, status, size, referer, agent, took_ns, "", id, peer)
        self.sink.write(made, False)

    def end(
        self,
        recorder: Any,
        ticket: int,
        host: str,
        line: bytes,
        status: int,
        size: int,
        referer: str,
        agent: str,
        took_ns: int,
        id: str = "",
        peer: str = "",
    ) -> None:
        """Add the line of a request, and end the request in that recorder, which knows it by its ticket."""
        text: bytes | None = self.lines.make(host, line, status, size, referer, agent, took_ns, "", id, peer)
        if text is None:
            text = self._general(host, line, status, size, referer, agent, took_ns, "", id, peer)
        self.sink.end_request(recorder, ticket, status, took_ns, text)

    def broken(
        self, host: str, line: bytes, status: int, size: int, took_ns: int, reason: str, id: str = ""
    ) -> None:
        """Add the line of a request, or of several, whose process has ended; the reason is last in the
        line. Where their connections came from is not known any more."""
        made = self._general(host, line, status, size, "-", "-", took_ns, reason, id, _UNKNOWN)
        self.sink.write(made, False)

    def due(self, now: float) -> float:
        """When to call `flush`: now for many lines, for a few 10 ms after the last time; where requests are
        few, that is now, too, and the loop need not wake up for it. To wake the logger for each line costs
        more than all the rest of it. `now` and the answer are monotonic."""
        sink = self.sink
        unheard = sink.ring.head - sink.heard
        if not unheard:
            self._deadline = 0.0
            # Again: a thread that has added a line before that store has asked nobody to look.
            unheard = sink.ring.head - sink.heard
            if not unheard:
                return inf
        if not self._deadline:
            self._deadline = self._woken + _WAKE_SECONDS
        if unheard < sink.many_bytes and now < self._deadline:
            return self._deadline
        self._woken = now
        return now

    @property
    def news(self) -> bool:
        """Whether there are lines that make `due` earlier than the loop knows, which may wait without a
        deadline. Asked by other threads than the loop's, after they have added one."""
        unheard = self.sink.ring.head - self.sink.heard
        return bool(unheard) and (not self._deadline or unheard >= self.sink.many_bytes)

    def flush(self) -> bool:
        """Wake the logger for what there is. Returns whether lines were lost, and the loss is to be logged
        yet."""
        self._deadline = 0.0
        self.sink.retry()
        return bool(self.sink.waiting)

    def finish(self) -> None:
        """The process ends."""
        self.flush()
        self.sink.end()


class Trouble:
    """The lines of the error log about an access log that cannot be written."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._silent_until = 0.0

    def failed(self, error: OSError) -> None:
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _SILENCE_SECONDS
            name = errno.errorcode.get(error.errno or 0, "?")
            self._log.error(
                f"access log: write: {name}: {error.strerror}; its lines wait, or are lost"
            )

    def over(self, lines: int) -> bytes:
        self._log.warning(f"access log: {lines} lines lost")
        return b""
