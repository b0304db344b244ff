"""The file of a unit in sqlite: connections, the lock that writers take, and what errors mean.

Each thread has a connection. Readers need no lock (WAL). Writers take a flock(2) on a file beside it first:
sqlite's own busy handler sleeps in steps that grow, and lets some wait for ten times as long. flock(2) has no
deadline, so they try without waiting, at short intervals, for a second; who holds it then is read from
/proc/locks. The kernel releases it when its holder dies, and sqlite rolls back what that one had begun.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from forkd.storage.errors import Damaged, Error, Full, Stalled, Unavailable
from forkd.system.originals import ThreadLocal, monotonic, os, time

__all__ = ["LAYOUT", "File"]

T = TypeVar("T")

LAYOUT = 1  # PRAGMA user_version
MAX_WAIT_SECONDS = 1.0
#: Seconds between two tries for the lock: the first, and the longest.
_FIRST_PAUSE_SECONDS = 0.00005
_LONGEST_PAUSE_SECONDS = 0.0005
_PAGE_BYTES = 4096
_LARGEST_PAGES = 300  # of one value, and of what its write takes besides
_RESERVED_PAGES = 64  # beyond the limit, for what frees others
_WAL_BYTES = 16 << 20  # that are kept of the log's file once it is empty
_PERMISSIONS = 0o600

_SCHEMA = """
CREATE TABLE cache (key BLOB NOT NULL UNIQUE, value, packed INT NOT NULL, ends REAL, token INT NOT NULL);
CREATE INDEX cache_ends ON cache (ends) WHERE ends IS NOT NULL;
CREATE TABLE fences (key BLOB PRIMARY KEY, token INT NOT NULL) WITHOUT ROWID;
CREATE TABLE locks (name BLOB PRIMARY KEY, token INT NOT NULL, owner TEXT NOT NULL, ends REAL NOT NULL)
    WITHOUT ROWID;
CREATE TABLE limits (key BLOB PRIMARY KEY, arrival INT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue BLOB NOT NULL, due REAL NOT NULL, taken INT NOT NULL,
    tries INT NOT NULL, data BLOB NOT NULL
);
CREATE INDEX items_due ON items (queue, due, id);
CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT, channel BLOB NOT NULL, data BLOB NOT NULL);
CREATE INDEX messages_channel ON messages (channel, id);
CREATE TABLE counts (name TEXT PRIMARY KEY, count INT NOT NULL) WITHOUT ROWID;
"""

#: Connections of a parent: to close one in a child would take part in the parent's locks.
_parents: list[sqlite3.Connection] = []


class _Connection:
    """What one thread has open."""

    def __init__(self, db: sqlite3.Connection, lock: int) -> None:
        self.db = db
        #: Of a cursor of this connection's: a new one for each call would cost half a microsecond.
        self.execute = db.cursor().execute
        self.lock = lock
        self._pid = os.getpid()

    def __del__(
        self, close: Callable[[int], None] = os.close, getpid: Callable[[], int] = os.getpid
    ) -> None:
        """The calls are arguments, since at the end of the interpreter the module has lost its names."""
        # A copy of the lock's descriptor in a child would hold the parent's lock beyond its death.
        close(self.lock)
        if getpid() == self._pid:
            self.db.close()
        else:
            _parents.append(self.db)


class File:
    """One file. Used by all threads of one process."""

    def __init__(self, path: str, full_sync: bool, limit: int, tidy: Callable[[sqlite3.Connection], object]):
        """`limit`: bytes. `tidy` is called now and then, among the writers, to delete what is over."""
        self.path = path
        self.stalls = 0
        self._full_sync = full_sync
        self._pages = max(limit // _PAGE_BYTES, 1)
        self._tidy = tidy
        self._writes = 0
        self._local = ThreadLocal()

    def row(self, sql: str, values: tuple[Any, ...]) -> Any:
        """The one row that there may be; None for none. Raises Error."""
        try:
            here = self._local.connection
        except AttributeError:
            here = self._connection()
        try:
            return here.execute(sql, values).fetchone()
        except sqlite3.Error as error:
            raise self._meaning(error) from error

    def read(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """All rows. Raises Error."""
        here = self._connection()  # held on to: another thread may close the file meanwhile
        try:
            return here.db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._meaning(error) from error

    def write(self, work: Callable[[sqlite3.Connection], T], begin: bool = False, frees: bool = False) -> T:
        """What `work` returns, run by one at a time; with `begin` in a transaction, for more than one
        statement. When the file is as large as it may be, values are evicted, and it is run again. What
        `frees`, in the end, may go beyond that by a little: a full queue can be emptied. Raises Error."""
        here = self._connection()
        self._take(here.lock)
        db, most = here.db, self._pages
        try:
            self._writes += 1
            if not self._writes & 63:
                self._tidy(db)
            while True:
                try:
                    if not begin:
                        return work(db)
                    db.execute("BEGIN IMMEDIATE")
                    result = work(db)
                    db.execute("COMMIT")
                    return result
                except sqlite3.Error as error:
                    _roll_back(db)
                    if not self._evicted(db, error):
                        if not frees or most > self._pages:
                            raise
                        most += _RESERVED_PAGES
                        db.execute(f"PRAGMA max_page_count = {most}")
                except BaseException:
                    _roll_back(db)
                    raise
        except sqlite3.Error as error:
            raise self._meaning(error) from error
        finally:
            if most > self._pages:
                db.execute(f"PRAGMA max_page_count = {self._pages}")
            fcntl.flock(here.lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Each thread's connection is closed, once that thread does not use it."""
        self._local = ThreadLocal()

    def _connection(self) -> _Connection:
        try:
            connection: _Connection = self._local.connection
        except AttributeError:
            connection = self._local.connection = self._connect()
        return connection

    def _connect(self) -> _Connection:
        try:
            # Not opened where it is there: to close a file drops the locks that this process has on it.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _PERMISSIONS))
            lock = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PERMISSIONS)
        except OSError as error:
            raise Unavailable(f"{self.path}: {error.strerror}") from error
        try:
            _same_owner(self.path, lock)
            self._take(lock)
            db = sqlite3.connect(
                self.path, MAX_WAIT_SECONDS, isolation_level=None, check_same_thread=False,
                cached_statements=64,
            )  # fmt: skip
            self._prepare(db)
            fcntl.flock(lock, fcntl.LOCK_UN)
        except sqlite3.Error as error:
            os.close(lock)
            raise self._meaning(error) from error
        except BaseException:
            os.close(lock)
            raise
        return _Connection(db, lock)

    def _prepare(self, db: sqlite3.Connection) -> None:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if self._full_sync else 'NORMAL'}")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        db.execute(f"PRAGMA max_page_count = {self._pages}")
        layout = db.execute("PRAGMA user_version").fetchone()[0]
        if not layout and not db.execute("SELECT 1 FROM sqlite_master").fetchall():
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {LAYOUT}; COMMIT;")
        elif layout != LAYOUT:
            raise Damaged(f"{self.path} is no storage unit of layout {LAYOUT}; it has {layout}")

    def _take(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        end, pause = monotonic() + MAX_WAIT_SECONDS, _FIRST_PAUSE_SECONDS
        while True:
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
            late = monotonic() >= end
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if late:
                    self.stalls += 1
                    raise Stalled(f"{self.path} is written", holder(lock)) from None

    def _evicted(self, db: sqlite3.Connection, error: sqlite3.Error) -> bool:
        """Whether values were evicted, since the file is as large as it may be."""
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_FULL:
            return False
        if self._number(db, "page_count") < self._pages - _LARGEST_PAGES:
            return False  # the disk is full
        goal = self._number(db, "freelist_count") + max(self._pages // 64, 16)
        count = 0
        while self._number(db, "freelist_count") < goal and (gone := db.execute(_EVICT).rowcount):
            count += gone
        if count:
            db.execute(_COUNT, ("evictions", count, count))
        return count > 0

    def _number(self, db: sqlite3.Connection, pragma: str) -> int:
        return int(db.execute(f"PRAGMA {pragma}").fetchone()[0])

    def _meaning(self, error: sqlite3.Error) -> Error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        text = f"{self.path}: {error}"
        if code == sqlite3.SQLITE_FULL:
            return Full(text)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            self.stalls += 1
            return Stalled(f"{self.path} is locked by a program that is not forkd", 0)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA):
            return Damaged(text)
        return Unavailable(text)


#: Expired first, then nearest to their end, then oldest; a counter (an int without an end) never.
_EVICT = """
DELETE FROM cache WHERE rowid IN (
    SELECT rowid FROM (SELECT rowid FROM cache WHERE ends IS NOT NULL ORDER BY ends LIMIT 16)
    UNION ALL SELECT rowid FROM (
        SELECT rowid FROM cache WHERE ends IS NULL AND typeof(value) <> 'integer'
        AND NOT EXISTS (SELECT 1 FROM cache WHERE ends IS NOT NULL) ORDER BY rowid LIMIT 16
    )
)
"""
_COUNT = "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET count = count + ?"


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")


def _same_owner(path: str, lock: int) -> None:
    """Let the lock's file have the owner of the unit's, where root is the first to write there."""
    file, own = os.stat(path), os.fstat(lock)
    if not os.geteuid() and own.st_uid != file.st_uid:
        os.fchown(lock, file.st_uid, file.st_gid)


def holder(lock: int) -> int:
    """The process that holds the flock on this open file; 0 where the kernel does not say."""
    inode = os.fstat(lock).st_ino
    try:
        with open("/proc/locks", encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                    return max(int(fields[4]), 0)
    except (OSError, ValueError, IndexError):
        pass
    return 0
