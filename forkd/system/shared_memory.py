"""The memory of a table that processes share, and the page that tells which of them live.

Made by the master, which reads no more of a table than the header that it has written itself or taken over
from the master before. A table is a memfd that nobody can shrink or grow: a neighbour's ftruncate(2) would be
everybody's SIGBUS. The page is a second memfd, which is sealed once the master has it mapped
(F_SEAL_FUTURE_WRITE, memfd_create(2)), so that nobody else can write to it: a cell of 64 bits for each slot,
to which the master adds one when the child there has died. Its first cell is the epoch of the master.
"""

from __future__ import annotations

import fcntl
import mmap
import struct
import zlib

from forkd.native import pick
from forkd.system.originals import os, time
from forkd.system.process import naming

MAGIC = b"forkdshm"
LAYOUT = 1
HEADER_BYTES = 4096
#: Magic, layout, bytes of the table, when it was made (µs of CLOCK_REALTIME), seed of its hash; then the
#: checksum of these.
_HEADER = struct.Struct("<8sQQQ16s")
_CHECKSUM = struct.Struct("<I")
#: A table is made of so many bytes each, or of one shard; storage/shm_layout.py says what is in it.
_SHARD_BYTES, _MAX_SHARDS = 8 << 20, 64
BLOCK_BYTES = 128
#: The cells of 64 bits that a shard begins with, and those of them that are for statistics.
_CELLS = struct.Struct("<15Q")
_FREE_COUNT, _HIGH = 3, 4
_STATISTICS = {"keys": 9, "hits": 10, "misses": 11, "evictions": 12, "stalls": 13, "repairs": 14}
_SANE = (1 << 52) - 1
#: Of a master, in the word of a lock's holder (storage/shm_lock.py).
EPOCHS = 64

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_SEAL_FUTURE_WRITE = 0x10  # not in Python's fcntl before 3.14


def new_header(size: int) -> bytes:
    """Of a table without entries. Its tokens begin with the time in µs: those of a later table are greater,
    as long as no shard has more than a million writes a second."""
    born = time.clock_gettime_ns(0) // 1000
    text = _HEADER.pack(MAGIC, LAYOUT, size, born, os.urandom(16))
    return text + _CHECKSUM.pack(zlib.crc32(text))


def read_header(text: bytes, size: int) -> tuple[int, bytes]:
    """When it was made and its seed, from the first bytes of a table of `size`. Raises ValueError, which says
    why it is none."""
    if len(text) < _HEADER.size + _CHECKSUM.size:
        raise ValueError("it is too short")
    magic, layout, named, born, seed = _HEADER.unpack_from(text)
    if magic != MAGIC:
        raise ValueError("it does not begin as one")
    if layout != LAYOUT:
        raise ValueError(f"it has layout {layout}, and this forkd has {LAYOUT}")
    if zlib.crc32(text[: _HEADER.size]) != _CHECKSUM.unpack_from(text, _HEADER.size)[0]:
        raise ValueError("its checksum is wrong")
    if named != size:
        raise ValueError(f"it says that it has {named} bytes, and has {size}")
    return born, seed


def shards_of(size: int) -> tuple[int, int]:
    """How many shards a table of that size has, and the bytes of each."""
    count = min(_MAX_SHARDS, max(1, size // _SHARD_BYTES))
    return count, (size - HEADER_BYTES) // count & -4096


def statistics(fd: int) -> dict[str, int]:
    """What a table has counted, over its shards, and how many `bytes` are in use. Plain numbers, which any
    process may have written. Raises OSError."""
    found = dict.fromkeys([*_STATISTICS, "bytes"], 0)
    count, size = shards_of(os.fstat(fd).st_size)
    for number in range(count):
        cells = _CELLS.unpack(os.pread(fd, _CELLS.size, HEADER_BYTES + number * size))
        for name, cell in _STATISTICS.items():
            found[name] += cells[cell] & _SANE
        found["bytes"] += BLOCK_BYTES * max(0, min(cells[_HIGH], size // BLOCK_BYTES) - cells[_FREE_COUNT])
    return found


def make_table(name: str, size: int) -> int:
    """The memfd of a table without entries. Raises OSError. Its pages are there once they are used."""
    with naming("memfd_create"):
        fd = os.memfd_create(f"forkd-storage-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        os.pwrite(fd, new_header(size), 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def header_of(fd: int) -> bytes:
    """Raises OSError."""
    return os.pread(fd, _HEADER.size + _CHECKSUM.size, 0)


def why_no_table(fd: int) -> str:
    """Why a descriptor from another master cannot be used as a table; "" where it can."""
    try:
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            return "it is not sealed"
        read_header(header_of(fd), os.fstat(fd).st_size)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


class Incarnations:
    """The page, in the master."""

    def __init__(self, slots: int, epoch: int) -> None:
        """Raises OSError."""
        with naming("memfd_create"):
            self.fd = os.memfd_create("forkd-incarnations", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        size = 8 * (slots + 1)
        os.ftruncate(self.fd, size)
        page = mmap.mmap(self.fd, size)
        # A child would inherit the mapping, and with it the right to write. It must not unmap what it has
        # not: another mapping may be there by then.
        page.madvise(mmap.MADV_DONTFORK)
        _kept.append(page)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS | _SEAL_FUTURE_WRITE)
        self.epoch = epoch % EPOCHS
        self._cells = memoryview(page).cast("Q")
        self._cells[0] = self.epoch
        for slot in range(1, slots + 1):
            self._cells[slot] = 1

    def end(self, slot: int) -> None:
        """The child in that slot has died."""
        self._cells[slot] += 1


#: Never freed, in no process.
_kept: list[mmap.mmap] = []


class Bells:
    """The words of a table on which processes sleep, in the master: none of them is read."""

    def __init__(self, fd: int) -> None:
        """Raises OSError."""
        self._memory = mmap.mmap(fd, HEADER_BYTES, prot=mmap.PROT_READ)
        self._wake = pick("wake", _wake)

    def wake(self) -> None:
        """All of them look again."""
        self._wake(self._memory)


def _wake(_memory: mmap.mmap) -> None:
    """Without native code nobody sleeps for long."""
