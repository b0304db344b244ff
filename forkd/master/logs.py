"""The master's side of the logger (forkd/logger): makes it, tells it which files there are, replaces it, and
ends it last. In the master, which never touches a log file itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from forkd.config import Config
from forkd.ipc.heritage import Sinks
from forkd.log.lines import Log
from forkd.logger import main as logger
from forkd.logger import messages
from forkd.logger.destinations import STDERR, STDOUT, Destination, Standard
from forkd.system import process
from forkd.system.accounts import Identity
from forkd.system.cells import LOST_ACCESS, LOST_ERROR
from forkd.system.log_ring import ACCESS, ERROR, Rings, RingSink
from forkd.system.loop import Loop
from forkd.system.originals import monotonic, monotonic_ns, os, select, signal, socket
from forkd.system.scoreboard import Row

#: Seconds that a start or a reload waits for a log file to be opened; then it goes on without.
_OPEN_SECONDS = 2.0
#: Seconds until it is said that a log could not be opened anew, for its disk does not answer.
_REOPEN_SECONDS = 5.0
#: Seconds that who waits for an answer of the master waits for its lines to be in the file.
_SYNC_SECONDS = 1.0
#: Seconds between the ends of two loggers, so that one that cannot run costs little.
_PAUSE_SECONDS = 1.0
#: Seconds for what is left at the end, if --graceful-timeout is not shorter; and for a SIGKILL.
_END_SECONDS, _KILL_SECONDS = 5.0, 0.5
#: Seconds after which status tells of a write that has not returned.
_HANGS_SECONDS = 1.0
#: The answer for who waits for a logger that is no more.
_GONE = "the logger has ended"


class Logs:
    def __init__(
        self,
        loop: Loop,
        log: Log,
        rings: Rings,
        row: Row,
        standard: Standard,
        config: Config,
        *,
        failed: Callable[[int, str], None],
        forgetting: Callable[[], Callable[[], None]],
    ) -> None:
        """`row` is the master's, of the scoreboard. `failed` is told the number of a generation whose
        access log cannot be opened, or 0 for the error log, and why. `forgetting` makes what a process that
        is forked does with the master's descriptors."""
        self._loop, self._log, self._rings, self._row = loop, log, rings, row
        self._standard, self._config = standard, config
        self._failed, self._forgetting = failed, forgetting
        self._destinations = dict(standard.destinations)
        self._opening: set[int] = set(standard.pipes)
        #: The access logs of generations, by their numbers. One that is withdrawn leaves its number to the
        #: next, whose log is another one: the logger may be about to close that of the first.
        self._access: dict[int, int] = {}
        self._newest = STDOUT
        #: Those of generations that are over. What a logger has not written at its end, the next one writes.
        self._closing: set[int] = set()
        self._to_stdout = False  # a generation has its access log there
        self._channel: socket.socket | None = None
        self._pid = 0
        self._pidfd = -1
        self._forked_at = 0.0
        self._number = 0  # of the last question
        self._answers: dict[int, Callable[[str], None]] = {}  # by question
        self._lost = [0, 0]  # lines that the logger lost, as counted already
        self._begun = self._ended = False
        self._is_logger = False  # this process, which has been forked to be it
        if standard.err is not None:
            log.use(RingSink(rings, row.index, ERROR, STDERR))
        log.sink.lost = partial(row.add, LOST_ERROR)

    def become(self, identity: Identity | None) -> None:
        """The children will be that user. Raises OSError."""
        if identity is not None:
            self._standard.give_to(*identity[:2])

    def sinks(self, number: int, config: Config) -> Sinks:
        """Where the children of a generation write to."""
        out = STDOUT if self._standard.out is None else self._standard.out
        access = out if config.access_log == "-" else self._access.get(number, out)
        return Sinks(self._rings, self._standard.err, access, config.native)

    # ---- the logger -----------------------------------------------------------------------

    @property
    def _needed(self) -> bool:
        """Whether there is a file, or lines for descriptor 1."""
        return self._to_stdout or any(
            log != STDOUT or log in self._standard.pipes for log in self._destinations
        )

    @property
    def pid(self) -> int:
        """0 when there is none."""
        return self._pid

    def start(self) -> None:
        """Fork the logger, if there is a file to write and it does not run. To be called when the master
        has all that a new process must close."""
        self._begun = True
        if self._pid or self._ended or not self._needed:
            return
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._put_off(error)
            return
        forget = self._forgetting()

        def forget_all() -> None:
            ours.close()
            forget()

        # A first one opens what the start waits for; one that replaces it, what there is.
        heritage = logger.LoggerHeritage(
            rings=self._rings, destinations=dict(self._destinations), pipes=self._standard.pipes,
            channel=theirs, master=os.getpid(), name=self._config.name, level=self._config.log_level,
            style=self._config.log_format, native=self._config.native, forget=forget_all,
        )  # fmt: skip

        def logger_main() -> NoReturn:
            self._is_logger = True
            logger.main(heritage)

        try:
            self._pid, self._pidfd = process.fork(logger_main)
        except OSError as error:
            ours.close()
            self._put_off(error)
            return
        finally:
            theirs.close()
        self._forked_at = monotonic()
        self._standard.is_read = True
        self._channel = ours
        for log in self._closing:
            messages.send(ours, messages.CLOSE, log, None)
        self._loop.watch(self._pidfd, self._gone)
        self._loop.watch(ours.fileno(), self._hear)
        if self._opening:
            self._loop.timers.set("logs", monotonic() + _OPEN_SECONDS, self._open_late)

    def _put_off(self, error: OSError) -> None:
        """There is no room for a logger. The next try may find some; a generation whose logs it was to open
        does not wait for that."""
        why = f"logger: {process.why_no_fork(error)}"
        if not self._standard.is_read:  # there was never one: the start waits for it
            self._failed(0, why)
            return
        self._log.error(f"{why}; trying again")
        self._loop.timers.set("logger", monotonic() + _PAUSE_SECONDS, self.start)
        for log in sorted(self._opening):
            self._opened(log, why)

    def _gone(self) -> None:
        """It has ended, though nobody told it to. What is in the rings waits for the next."""
        code = process.reap(self._pid)
        if code is None:
            return
        self._hear()  # its last words may be in the channel still
        how = f"exit code {code}" if code >= 0 else process.exit_reason(code)
        self._log.error(f"the logger (pid {self._pid}) is gone: {how}; another one goes on")
        self._release()
        for answer in list(self._answers.values()):
            answer(_GONE)
        self._loop.timers.set(
            "logger", max(monotonic(), self._forked_at + _PAUSE_SECONDS), self.start
        )

    def _release(self) -> None:
        assert self._channel is not None
        self._loop.unwatch(self._pidfd)
        self._loop.unwatch(self._channel.fileno())
        self._channel.close()
        os.close(self._pidfd)
        self._channel, self._pid, self._pidfd = None, 0, -1

    def forget(self) -> None:
        """In a child."""
        if self._channel is not None:
            self._channel.close()
            os.close(self._pidfd)
        if not self._is_logger:
            self._standard.forget()

    def _hear(self) -> None:
        assert self._channel is not None
        while message := messages.receive(self._channel):
            verb, number, why = message
            if verb == messages.OPENED:
                self._opened(number, why)
            elif verb == messages.CLOSED:
                self._closing.discard(number)
                self._destinations.pop(number, None)
            elif number in self._answers:
                self._answers[number](why)
        if message is None:
            self._loop.unwatch(self._channel.fileno())  # its pidfd will tell the rest

    def _ask(self, verb: str, argument: Any, then: Callable[[str], None], seconds: float) -> None:
        """Call `then` with what the logger answers, an error or "", or when it does not in time."""
        self._number += 1
        number = self._number

        def answer(why: str) -> None:
            del self._answers[number]
            self._loop.timers.cancel(f"logger {number}")
            then(why)

        self._answers[number] = answer
        if self._channel is None or not messages.send(self._channel, verb, number, argument):
            answer(_GONE)
            return
        late = partial(answer, "its disk does not answer")
        self._loop.timers.set(f"logger {number}", monotonic() + seconds, late)

    # ---- files ----------------------------------------------------------------------------

    @property
    def opening(self) -> bool:
        """Whether a file is being opened that a generation needs, and is not overdue."""
        return bool(self._opening)

    def open(self, number: int, config: Config) -> None:
        """A generation has that configuration: have its access log opened, if that is a file."""
        if config.access_log == "-" and not self._to_stdout:
            self._to_stdout = True
            if self._begun:
                self.start()
        if config.access_log in (None, "-"):
            return
        self._newest += 1
        log = self._access[number] = self._newest
        self._destinations[log] = Destination(config.access_log)
        self._opening.add(log)
        if self._channel is not None:
            messages.send(self._channel, messages.OPEN, log, config.access_log)
            self._loop.timers.set("logs", monotonic() + _OPEN_SECONDS, self._open_late)
        elif self._begun:
            self.start()

    def close(self, number: int) -> None:
        """The generation has no children any more."""
        log = self._access.pop(number, None)
        if log is None:
            return
        self._opening.discard(log)
        self._closing.add(log)
        if self._channel is not None:
            messages.send(self._channel, messages.CLOSE, log, None)

    def _opened(self, log: int, why: str) -> None:
        wanted = log in self._opening
        self._opening.discard(log)
        if why and wanted:
            self._failed(next((number for number, its in self._access.items() if its == log), 0), why)
        elif why:
            self._log.error(f"{why}; its lines wait, or are lost")

    def _open_late(self) -> None:
        for log in self._opening:
            if log in self._destinations:
                name = self._destinations[log].describe(log)
                self._log.warning(
                    f"{name}: not open after {_OPEN_SECONDS:g} s: its disk does not answer; its lines "
                    "wait, or are lost"
                )
        self._opening.clear()

    def reopen(self) -> None:
        """The files were rotated. The old one stays in use where that fails, and is tried to the end."""
        files = [
            log for log, destination in self._destinations.items() if destination.path is not None
        ]
        failed: list[str] = []
        left = set(files)

        def told(log: int, why: str) -> None:
            left.discard(log)
            if why and why != _GONE:  # the next logger opens them all by their names
                name = self._destinations[log].describe(log) if log in self._destinations else ""
                failed.append(why if why.startswith(name) else f"{name}: {why}")
                self._log.error(f"{failed[-1]}; the old file stays in use")
            if not left and not failed:
                self._log.info("log files reopened")

        for log in files:
            self._ask(messages.REOPEN, log, partial(told, log), _REOPEN_SECONDS)
        if not files:
            self._log.info("log files reopened")

    def sync(self, then: Callable[[], None]) -> None:
        """Call `then` when what this process has written is in the error log; or soon, if it does not go
        there."""
        if self._standard.err is None or self._channel is None:
            then()
            return
        self._ask(messages.SYNC, None, lambda why: then(), _SYNC_SECONDS)

    # ---- for status and metrics -----------------------------------------------------------

    def count(self) -> None:
        """Add what the logger has lost to the master's counters."""
        for kind, cell in ((ERROR, LOST_ERROR), (ACCESS, LOST_ACCESS)):
            lost = self._rings.lost(kind)
            self._row.cells[cell] += max(0, lost - self._lost[kind])
            self._lost[kind] = lost

    def report(self) -> dict[str, Any]:
        """For status: how long the write has not returned that each log waits for, seconds."""
        now = monotonic_ns()
        waits = {}
        for name, kind in (("error", ERROR), ("access", ACCESS)):
            since = self._rings.writing_since(kind) if self._pid else 0
            waits[name] = round((now - since) / 1e9, 3) if 0 < since < now else 0.0
        hung = [f"{name} log, {s:.0f} s" for name, s in waits.items() if s > _HANGS_SECONDS]
        why = f"a disk does not answer ({', '.join(hung)}); lines wait, or are lost" if hung else ""
        return {"pid": self._pid or None, "waits": waits, "why": why}

    # ---- the end --------------------------------------------------------------------------

    def replace(self) -> None:
        """The master is about to end. A logger that has ended is replaced at once: lines may wait for it."""
        if self._pid and _wait(self._pidfd, 0):
            self._gone()
        if self._standard.is_read:
            self.start()

    def end(self, seconds: float) -> None:
        """The master ends, and nobody else is left: wait until all is written, or what can be. Not
        longer, and not for a process that no signal ends."""
        self._ended = True
        self._loop.timers.cancel("logger")
        if not self._pid:
            return
        assert self._channel is not None
        pid, seconds = self._pid, min(seconds, _END_SECONDS)
        messages.send(self._channel, messages.END, 0, seconds)
        gone = _wait(self._pidfd, seconds + _KILL_SECONDS)
        if not gone:
            process.send_signal(self._pidfd, signal.SIGKILL)
            gone = _wait(self._pidfd, _KILL_SECONDS)
        if gone:
            process.reap(pid)
        self._release()


def _wait(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
