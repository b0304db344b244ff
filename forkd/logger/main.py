"""The logger: a process that the master forks, which alone writes files.

It holds no listener, no lock and no client, so nothing else waits for its end. It takes lines from the rings
(system/log_ring.py) and from the pipes that descriptors 1 and 2 of forkd's processes are, and gives them to
the threads of its files (files.py). Its main thread touches no file: it always answers the master, and always
empties the pipes, since an application must not wait to print. It wakes for what others give it, and for a
file that did not take what it was to, and for nothing else.

It opens files with the rights of the master, at the start and at each rotation, since the workers' user may
not be allowed to; it runs no foreign code. When the master is gone it writes what is left, for a second.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import NoReturn

from forkd.errors import ForkdError
from forkd.log.lines import Log, Trouble
from forkd.logger import messages
from forkd.logger.destinations import STDERR, Destination, kind_of
from forkd.logger.files import Closed, File, Opened, Result, Written
from forkd.logger.pipes import Pipe
from forkd.system import process
from forkd.system.log_ring import ACCESS, ERROR, Reader, Rings, RingSink, Taken
from forkd.title import set_title

_JOB_BYTES = 1 << 21
_RING_BYTES = 1 << 20  # of one ring in one job
#: Milliseconds after lines have come until the next are looked for, so that a wake-up is for those of several
#: workers. A ring holds what a worker writes meanwhile (system/log_ring.py).
_TOGETHER_MS = 20
#: The same after a job that was small: rings do not fill in that time, and a wake-up costs as much as a few
#: hundred lines.
_FEW_TOGETHER_MS = 50
_SMALL_JOB_BYTES = 1 << 16
#: Seconds until a file that did not take a line is tried again.
_RETRY_SECONDS = 0.5
#: The same at the end, for a pipe that was full.
_LAST_RETRY_SECONDS = 0.02
#: Seconds for which a write may hang before the lines of a log that has no writers any more are given up.
_GIVE_UP_SECONDS = 5.0
#: Seconds for what is left when the master is gone.
_ORPHAN_SECONDS = 1.0
#: Seconds for the error log to take what is said of those that take nothing.
_LAST_WORDS_SECONDS = 0.2


@dataclass(frozen=True)
class LoggerHeritage:
    """The things that the master passes to a logger at its fork."""

    rings: Rings
    destinations: dict[int, Destination]
    pipes: dict[int, int]  # by log: the end to read
    channel: socket.socket
    master: int  # its pid
    name: str
    level: str
    style: str
    native: bool  # it may use native code
    forget: Callable[[], None]  # closes, in the logger, what belongs to the master only


def main(heritage: LoggerHeritage) -> NoReturn:
    """The logger's main; never returns to the master's code."""
    code, logger = 70, None
    try:
        for number in signal.Signals:  # Ctrl-C, and a TERM for all: it is the last to end
            if number not in _KEPT:
                signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        heritage.forget()
        set_title("logger", heritage.name)
        # If it is stopped when the master ends, it goes on, and learns of it.
        process.die_with_parent(heritage.master, signal.SIGCONT)
        process.unblock()
        logger = Logger(heritage)
        logger.run()
        code = 0
    except BaseException as error:
        own, why = Log("error", heritage.style, "logger"), f"logger: {error}"
        if isinstance(error, ForkdError):
            own.error(str(error))
        else:
            own.exception("the logger crashed")
            why = f"the logger crashed\n{traceback.format_exc().rstrip()}"
        if logger is None:  # a start waits for its files
            for log in heritage.destinations:
                messages.send(heritage.channel, messages.OPENED, log, why)
    finally:
        os._exit(code)


#: Faults and what cannot be ignored keep their defaults.
_KEPT = {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE,
    signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS,
}  # fmt: skip


class Logger:
    def __init__(self, heritage: LoggerHeritage) -> None:
        self._birth = heritage
        self._rings = rings = heritage.rings
        self._reader = Reader(rings, native=heritage.native)
        self._results: deque[tuple[File, Result]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        sink = RingSink(rings, rings.own, ERROR, 0)
        sink.lost = lambda lines: rings.lose(ERROR, lines)
        self._log = Log(heritage.level, heritage.style, "logger", sink)
        self._trouble: dict[int, Trouble] = {}
        self._files: dict[int, File] = {}
        self._pipes = [Pipe(rings, log, fd) for log, fd in heritage.pipes.items()]
        self._questions: list[tuple[int, int]] = []  # (number, head of the master's ring)
        self._told = False  # what did not answer until then
        self._ends_at: float | None = None  # what is left is written until then
        for log, destination in heritage.destinations.items():
            self._open(log, destination)

    def run(self) -> None:
        """Serve until the master says so, or is gone, and nothing is left that can be written."""
        poll, only_master = select.poll(), select.poll()
        only_master.register(self._birth.channel, select.POLLIN)
        pipes = [pipe.fileno() for pipe in self._pipes]
        for fd in (self._rings.bell, self._wake, self._birth.channel.fileno(), *pipes):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(self._patience())}
            for bell in (self._rings.bell, self._wake):
                if bell in ready:
                    _hear(bell)
            if self._birth.channel.fileno() in ready:
                self._listen()
            for pipe in self._pipes:
                pipe.pump()
            self._collect()
            given = self._give_out()
            if self._rings.bell in ready and self._ends_at is None:
                only_master.poll(_FEW_TOGETHER_MS if 0 < given <= _SMALL_JOB_BYTES else _TOGETHER_MS)
            if self._ends_at is not None and (self._is_late() or self._is_done()):
                return

    def _patience(self) -> int | None:
        """Milliseconds for poll(2); None when nothing is to be tried again."""
        times = [f.not_before for f in self._files.values() if f.not_before and f.idle]
        times += [pipe.flush_at for pipe in self._pipes if pipe.flush_at]
        if self._ends_at is not None:
            times.append(self._ends_at)
        closing = [f.closing_since for f in self._files.values() if f.job and f.closing_since]
        times += [since + _GIVE_UP_SECONDS for since in closing]
        return max(0, int((min(times) - monotonic()) * 1000) + 1) if times else None

    # ---- the master -----------------------------------------------------------------------

    def _listen(self) -> None:
        while (message := messages.receive(self._birth.channel)) != []:
            if message is None:  # it is gone
                self._end(_ORPHAN_SECONDS)
                return
            verb, number, argument = message
            if verb == messages.OPEN:
                self._open(number, Destination(argument))
            elif verb == messages.CLOSE and number in self._files:
                self._files[number].closing_since = monotonic()
            elif verb == messages.REOPEN:
                self._reopen(number, argument)
            elif verb == messages.SYNC:
                head = self._rings.heads[self._rings.index(0, ERROR)]
                self._questions.append((number, head))
            elif verb == messages.END:
                self._end(argument)

    def _end(self, seconds: float) -> None:
        ends_at = monotonic() + seconds
        self._ends_at = ends_at if self._ends_at is None else min(self._ends_at, ends_at)

    def _open(self, log: int, destination: Destination) -> None:
        try:
            file = File(log, destination, self._finished)
        except RuntimeError:  # Python says nothing more of pthread_create(3)
            why = process.why_no_fork(OSError(errno.EAGAIN, ""), "pthread_create(3)")
            messages.send(
                self._birth.channel, messages.OPENED, log, f"{destination.describe(log)}: {why}"
            )
            os._exit(1)  # another logger tries again
        self._files[log] = file
        self._trouble[log] = Trouble(self._log)
        file.open()

    def _reopen(self, question: int, log: int) -> None:
        file = self._files.get(log)
        if file is None or file.destination.path is None:
            messages.send(self._birth.channel, messages.REOPENED, question, "")
            return
        file.reopening.append(question)

    # ---- the files ------------------------------------------------------------------------

    def _finished(self, file: File, result: Result) -> None:
        """Note a result; called in a file's thread."""
        self._results.append((file, result))
        os.eventfd_write(self._wake, 1)

    def _collect(self) -> None:
        while self._results:
            file, result = self._results.popleft()
            file.busy_since = 0
            if isinstance(result, Opened):
                self._opened(file, result.error)
            elif isinstance(result, Written):
                self._written(file, result)
            elif isinstance(result, Closed):
                del self._files[file.log], self._trouble[file.log]
                messages.send(self._birth.channel, messages.CLOSED, file.log, "")
        while self._questions and self._reader.passed(
            self._rings.index(0, ERROR), self._questions[0][1]
        ):
            number, _ = self._questions.pop(0)
            messages.send(self._birth.channel, messages.SYNCED, number, "")

    def _opened(self, file: File, error: OSError | None) -> None:
        why = "" if error is None else f"{file.destination.describe(file.log)}: {error.strerror}"
        if error is None:
            if file.is_open:
                self._end_torn_lines(file.log)
            file.is_open, file.not_before = True, 0.0
        elif not file.is_open:
            file.not_before = monotonic() + _RETRY_SECONDS
        channel = self._birth.channel
        if not file.answering:
            messages.send(channel, messages.OPENED, file.log, why)
        for question in file.answering:
            messages.send(channel, messages.REOPENED, question, why)
        file.answering.clear()

    def _end_torn_lines(self, log: int) -> None:
        for index in self._reader.filled():
            if self._reader.log_of(index) == log:
                self._rings.lose(self._rings.kind(index), self._reader.end_torn_line(index))

    def _written(self, file: File, result: Written) -> None:
        left = result.done
        for taken in file.given_up:
            rest = taken.text[max(0, left) :]
            self._rings.lose(self._rings.kind(taken.ring), rest.count(b"\n"))
            left -= len(taken.text)
        job, file.job, file.given_up = file.job, [], []
        for taken in job:
            left -= self._reader.advance(taken, left)
        now, file.not_before = monotonic(), 0.0
        if result.done:
            file.moved = now
        if result.error is not None:
            full = isinstance(result.error, BlockingIOError)
            soon = full and self._ends_at is not None
            file.not_before = now + (_LAST_RETRY_SECONDS if soon else _RETRY_SECONDS)
            if not full and file.log != STDERR:
                self._trouble[file.log].failed(result.error)

    def _give_out(self) -> int:
        """Give each file that has nothing to do what is there for it. Returns how many bytes that is."""
        now = monotonic()
        work = self._sort(now)
        for file in list(self._files.values()):
            if not file.idle:
                continue
            # A request that comes from now on needs another open(2): it is of a later rotation.
            if file.reopening:
                file.answering, file.reopening = file.reopening, []
                file.open()
            elif not file.is_open:
                if file.not_before <= now:
                    file.open()
            elif file.log in work:
                file.write(work[file.log])
            elif file.closing_since:
                file.close()
        for kind in (ERROR, ACCESS):
            began = [f.busy_since for f in self._files.values() if kind_of(f.log) == kind]
            self._rings.note_write(kind, min(filter(None, began), default=0))
        return sum(len(taken.text) for takens in work.values() for taken in takens)

    def _sort(self, now: float) -> dict[int, list[Taken]]:
        """The next lines for each file, by log, if the file can take some now. The rest of a line that is in
        the file in part comes first."""
        reader, rings = self._reader, self._rings
        found: dict[int, list[Taken]] = {}
        for file in self._files.values():
            if file.job and self._is_given_up(file, now):
                for taken in file.job:  # its lines are lost, unless the write returns after all
                    reader.advance(taken, len(taken.text))
                file.job, file.given_up = [], file.job
        held = {taken.ring for file in self._files.values() for taken in file.job}
        size = dict.fromkeys(self._files, 0)
        filled = reader.filled()
        filled.sort(key=lambda index: not rings.done[index])
        for index in filled:
            if index in held:
                continue
            log = reader.log_of(index)
            owner = None if log is None else self._files.get(log)
            if log is None:
                rings.lose(rings.kind(index), 1)
                reader.forget(index)
            elif owner is None or self._is_given_up(owner, now):
                self._drop(reader.take(index, _RING_BYTES))
            elif owner.takes_lines(now) and size[log] < _JOB_BYTES:
                taken = reader.take(index, _RING_BYTES)
                size[log] += len(taken.text)
                found.setdefault(log, []).append(taken)
        return found

    def _is_given_up(self, file: File, now: float) -> bool:
        """Whether the file has no writers any more and takes nothing: the other files must not wait for
        it."""
        overdue = 0 < file.closing_since < now - _GIVE_UP_SECONDS
        return overdue and (not file.idle or not file.is_open or file.not_before > 0)

    def _is_late(self) -> bool:
        """Whether the time is over. Files that do not answer by then are logged, and the error log gets a
        moment more."""
        assert self._ends_at is not None
        if monotonic() <= self._ends_at:
            return False
        busy = [f.destination.describe(f.log) for f in self._files.values() if f.busy_since]
        if self._told or not busy:
            return True
        self._told, self._ends_at = True, monotonic() + _LAST_WORDS_SECONDS
        self._log.error(
            f"{', '.join(busy)}: its disk does not answer, and its lines are lost; this process (pid "
            f"{os.getpid()}) ends when it does"
        )
        self._give_out()
        return False

    def _drop(self, taken: Taken) -> None:
        self._rings.lose(self._rings.kind(taken.ring), taken.text.count(b"\n"))
        self._reader.advance(taken, len(taken.text))

    def _is_done(self) -> bool:
        """Whether nothing is left that can be written now: what a file does not take is lost. A pipe whose
        reader is slow is not such a file."""
        if any([pipe.pump() or pipe.flush() for pipe in self._pipes]):
            return False
        if any(not file.idle for file in self._files.values()):
            return False
        now, reader = monotonic(), self._reader
        filled = reader.filled()
        owners = [self._files.get(reader.log_of(index) or 0) for index in filled]
        if any(
            file and file.is_open and (file.not_before <= now or file.moved + _RETRY_SECONDS > now)
            for file in owners
        ):
            return False
        for index in filled:
            self._drop(reader.take(index, _JOB_BYTES))
        return not reader.filled()


def _hear(bell: int) -> None:
    try:
        os.eventfd_read(bell)
    except BlockingIOError:
        pass  # rung for the logger before this one
