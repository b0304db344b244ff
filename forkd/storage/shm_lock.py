"""The lock of a shard: who holds it, how it is waited for, and how one that was left is taken over.

The lock is one word of 64 bits in the table, 0 when it is free. A holder writes who it is (`holder_word`):

- its process id, 22 bits;
- the epoch of its master, 6 bits: the page of incarnations is one master's, and says nothing of the
  children of another, as there are during an upgrade;
- its slot, 14 bits; 0 for a process that is not a child of the master, which the page does not have;
- its slot's incarnation, 22 bits. The master adds one when the child in the slot has died.

So who finds the word set can tell a holder that is dead: by the page at once, else by the kernel, which is
asked after 10 ms (a process that has ended and was not collected counts as dead). It takes the lock over
and has the shard repaired. A holder that lives is waited for, in growing pauses, for one second: Stalled.
There is no mutex of the C library, whose pointers a neighbour could write over, and nothing that a SIGKILL
could leave locked.

Native code takes the word with a compare-and-swap, which Python has not. So processes that use this twin
exclude each other by a record lock of fcntl(2) on the word's place in the file, and say so in the table's
header (TWINS_AT). Native code that finds this said takes the same lock first; if it is said while native
code takes the word, that gives the word back and begins again. The kernel frees such a lock when its
holder dies.

In a process of the application's; native/storage_lock.c is the twin.
"""

from __future__ import annotations

import fcntl
from typing import NamedTuple

from forkd.storage.errors import Busy, Stalled
from forkd.storage.shm_layout import BELLS, BELLS_AT, TWINS_AT, Cell
from forkd.system.originals import OwnedLock, monotonic, os, time

STALL_SECONDS = 1.0
_JUDGE_SECONDS = 0.01
_YIELDS = 20
_INSTANT_TRIES = 3
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.00002, 0.001
#: Of one sleep: those that use this twin cannot be woken.
_POLL_SECONDS = 0.005

_PID_BITS, _EPOCH_BITS, _SLOT_BITS, _COUNT_BITS = 22, 6, 14, 22
_PID_MASK, _EPOCH_MASK = (1 << _PID_BITS) - 1, (1 << _EPOCH_BITS) - 1
_SLOT_MASK, _COUNT_MASK = (1 << _SLOT_BITS) - 1, (1 << _COUNT_BITS) - 1
_SLOT_AT = _PID_BITS + _EPOCH_BITS
_COUNT_AT = _SLOT_AT + _SLOT_BITS
_WORD_MASK = (1 << 32) - 1


class _Threads:
    """The threads of this process: one at a time is in a table. A child begins anew. The lock itself tells
    whose it is, at whatever instant a signal's handler raises."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.lock = OwnedLock()

    def is_inside(self) -> bool:
        """Whether the calling thread is."""
        inside: bool = self.lock._is_owned()  # type: ignore[attr-defined]
        return inside


_threads = _Threads()
os.register_at_fork(after_in_child=_threads.renew)


class Who(NamedTuple):
    """The identity of this process in a table."""

    page: memoryview | None  # of incarnations, as cells of 64 bits
    slot: int
    pid: int  # of the process that has the slot

    def _cell(self, slot: int) -> int:
        return self.page[slot] if self.page is not None and slot < len(self.page) else 0

    def word(self) -> int:
        """What this process writes where it holds something."""
        pid = os.getpid()
        slot = self.slot if pid == self.pid else 0
        count = self._cell(slot) & _COUNT_MASK if slot else 0
        epoch = self._cell(0) & _EPOCH_MASK
        return pid & _PID_MASK | epoch << _PID_BITS | slot << _SLOT_AT | count << _COUNT_AT

    def page_says(self, word: int) -> bool | None:
        """Whether that holder is dead; None: it is no child of this master."""
        slot = word >> _SLOT_AT & _SLOT_MASK
        epoch = word >> _PID_BITS & _EPOCH_MASK
        if not slot or self.page is None or epoch != self._cell(0) & _EPOCH_MASK:
            return None
        return self._cell(slot) & _COUNT_MASK != word >> _COUNT_AT

    def is_over(self, word: int) -> bool:
        """Whether a holder of a lease is dead."""
        said = self.page_says(word)
        return not _exists(pid_of(word)) if said is None else said


def pid_of(word: int) -> int:
    return word & _PID_MASK


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return pid > 0


def has_ended(word: int) -> bool:
    """By the kernel's word; one that its parent has not collected yet has, too."""
    pid = pid_of(word)
    if not _exists(pid):
        return True
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        state = os.read(fd, 64).rpartition(b")")[2].split()
    except OSError:
        return True  # it has just ended
    finally:
        os.close(fd)
    return bool(state) and state[0] in (b"Z", b"X")


class ShardLock:
    """The locks of all shards of a table, for this process."""

    def __init__(self, memory: memoryview, fd: int, who: Who, instant: bool) -> None:
        """`instant`: raise Busy where one would have to wait."""
        self._fd = fd
        self._who = who
        self._instant = instant
        self._bells = memory[BELLS_AT : BELLS_AT + 4 * BELLS].cast("I")
        memory[TWINS_AT : TWINS_AT + 4].cast("I")[0] = 1

    def hold(self, cells: memoryview, at: int) -> None:
        """Take the lock of the shard that begins with `cells`, `at` so many bytes in the file. Raises
        Stalled, Busy."""
        own = self._who.word()
        began = judged = monotonic()
        pause = _FIRST_PAUSE_SECONDS
        tries = 0
        while not self._try(cells, at, own, judge=False):
            now = monotonic()
            if now - judged > _JUDGE_SECONDS:
                judged = now
                if self._try(cells, at, own, judge=True):
                    return
            if self._instant and tries >= _INSTANT_TRIES:
                raise Busy("another process is in the middle of an update")
            if now - began > STALL_SECONDS:
                if _threads.is_inside():  # a signal's handler has raised where it could not be seen
                    _threads.renew()
                    continue
                cells[Cell.STALLS] = cells[Cell.STALLS] + 1 & _COUNT_MASK
                raise Stalled("shared memory", pid_of(cells[Cell.LOCK]))
            tries += 1
            if tries < _YIELDS:
                if not self._instant:
                    os.sched_yield()
            else:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _try(self, cells: memoryview, at: int, own: int, judge: bool) -> bool:
        if _threads.is_inside() or not _threads.lock.acquire(False):
            return False
        if self._lock_file(at):
            word = cells[Cell.LOCK]
            if not word or word == own or self._who.page_says(word) or (judge and has_ended(word)):
                cells[Cell.LOCK] = own
                if word:
                    cells[Cell.DIRTY] = 1
                return True
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, at)
        _threads.lock.release()
        return False

    def _lock_file(self, at: int) -> bool:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
        except OSError:
            return False
        return True

    def let_go(self, cells: memoryview, at: int) -> None:
        if cells[Cell.LOCK] == self._who.word():
            cells[Cell.LOCK] = 0
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, at)
        _threads.lock.release()

    # ---- bells: words that change with what may be waited for, by hash

    def ring(self, hashed: int) -> None:
        self._bells[hashed % BELLS] = self._bells[hashed % BELLS] + 1 & _WORD_MASK

    def bell(self, hashed: int) -> int:
        return self._bells[hashed % BELLS]

    def sleep(self, hashed: int, seen: int, seconds: float) -> None:
        """Until the bell is no more as it was seen, or for a moment."""
        if seconds > 0 and self.bell(hashed) == seen:
            time.sleep(min(seconds, _POLL_SECONDS))
