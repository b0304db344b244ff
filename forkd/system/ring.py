"""io_uring: a submission and a completion queue shared with the kernel, over the raw system calls.

Belongs to one thread of one child, and is made after the fork. Operations are put into the
submission queue as they come up and handed over together, by the same system call that waits for
completions (io_uring_enter(2)).

Memory order: with IORING_SETUP_DEFER_TASKRUN the kernel reads submissions and posts completions only
inside this thread's io_uring_enter, never beside it. Program order is then enough, and no barrier is
needed, on arm64 either, which Python could not issue. IORING_SETUP_SINGLE_ISSUER makes a call from
another thread fail rather than race. Both need Linux 6.1.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import struct

from forkd.errors import SystemCallError
from forkd.native import pick
from forkd.system.originals import os

#: Operations (io_uring_enter(2)), and what they return in a completion's flags.
POLL_ADD, ACCEPT, ASYNC_CANCEL, CLOSE, SEND, RECV, POLL_REMOVE = 6, 13, 14, 19, 26, 27, 7
HARDLINK, BUFFER_SELECT, SKIP_SUCCESS = 1 << 3, 1 << 5, 1 << 6
ACCEPT_MULTISHOT, RECV_MULTISHOT = 1 << 0, 1 << 1
CANCEL_ALL, CANCEL_FD = 1 << 0, 1 << 1
MORE = 1 << 1  # the operation stays, and will complete again
BUFFER_SHIFT = 16

_SETUP, _ENTER, _REGISTER = 425, 426, 427  # the same on every architecture
_REGISTER_PBUF_RING = 22
_CQSIZE, _CLAMP, _SUBMIT_ALL, _SINGLE_ISSUER, _DEFER_TASKRUN = (
    1 << 3,
    1 << 4,
    1 << 7,
    1 << 12,
    1 << 13,
)
_GETEVENTS, _EXT_ARG = 1 << 0, 1 << 3
_OFFSET_SQES = 0x10000000

_SQE = struct.Struct("<BBHiQQIIQHHiQQ")
_CQE = struct.Struct("<QiI")
#: struct io_uring_buf, of 16 bytes; the last two of the first one are the tail of its ring.
_BUFFER, _STRIDE = struct.Struct("<QIH"), 16
_MASK = 0xFFFFFFFF

Completion = tuple[int, int, int]  # user_data, result (or minus errno), flags

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = [ctypes.c_long] * 7
_syscall.restype = ctypes.c_long
_mmap = _libc.mmap
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_mmap.restype = ctypes.c_void_p
_MAP_FIXED = 0x10  # mmap(2); the mmap module does not name it


class _Params(ctypes.Structure):
    """struct io_uring_params"""

    _fields_ = (
        ("sq_entries", ctypes.c_uint32),
        ("cq_entries", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("unused", ctypes.c_uint32 * 7),
        # head, tail, ring_mask, ring_entries, flags, dropped, array
        ("sq", ctypes.c_uint32 * 10),
        # head, tail, ring_mask, ring_entries, overflow, cqes, flags
        ("cq", ctypes.c_uint32 * 10),
    )


class _Wait(ctypes.Structure):
    """struct io_uring_getevents_arg, and the timespec that it points to."""

    _fields_ = (
        ("sigmask", ctypes.c_uint64),
        ("sigmask_size", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("timespec", ctypes.c_uint64),
        ("seconds", ctypes.c_int64),
        ("nanoseconds", ctypes.c_int64),
    )


class Ring:
    """Raises SystemCallError when the kernel has no io_uring for us: too old, or forbidden."""

    def __init__(self, entries: int = 1024, native: bool = True) -> None:
        """`native`: put into its queues, and read them, by native code where it was built."""
        params = _Params(cq_entries=8 * entries)
        params.flags = _CQSIZE | _CLAMP | _SUBMIT_ALL | _SINGLE_ISSUER | _DEFER_TASKRUN
        self.fd = _call("io_uring_setup", _SETUP, entries, ctypes.addressof(params))
        sq, cq = params.sq, params.cq
        size = max(sq[6] + 4 * params.sq_entries, cq[5] + _CQE.size * params.cq_entries)
        try:
            rings = mmap.mmap(self.fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            sqes = mmap.mmap(
                self.fd, _SQE.size * params.sq_entries,
                flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=_OFFSET_SQES,
            )  # fmt: skip
        except OSError as error:
            os.close(self.fd)
            raise SystemCallError("mmap", "io_uring", error) from error
        self._shared = (rings, sqes)
        words = memoryview(rings).cast("I")
        # The indirection of the submission queue is not used: entry n is always at n.
        array = sq[6] // 4
        for index in range(params.sq_entries):
            words[array + index] = index
        make = pick("Queues", Queues, native)
        self.queues = queues = make(
            fd=self.fd, rings=rings, sqes=sqes, sq_tail=sq[1], sq_entries=params.sq_entries,
            cq_head=cq[0], cq_tail=cq[1], cqes=cq[5], cq_entries=params.cq_entries,
        )  # fmt: skip
        self.put = queues.put
        self.enter = queues.enter
        self.completions = queues.completions

    def copies(self) -> list[int]:
        """The copies of its descriptor: each mmap.mmap holds one, and does not say which."""
        found = []
        with contextlib.suppress(OSError):
            for name in os.listdir("/proc/self/fd"):
                with contextlib.suppress(FileNotFoundError):  # by which the directory is read
                    if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[io_uring]":
                        found.append(int(name))
        return found

    def let_go(self) -> None:
        """In a process that was forked from this one's: have copies of the queues in the place of the queues,
        which would keep the ring, and with it each socket that it waits for, open for as long as it lives."""
        for memory in self._shared:
            data = memory[:]
            _mmap(
                _address_of(memory), len(memory), mmap.PROT_READ | mmap.PROT_WRITE,
                mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED, -1, 0,
            )  # fmt: skip
            memory[:] = data

    def close(self) -> None:
        os.close(self.fd)


class Queues:
    """The submission queue and the completion queue: the twin of native/system_ring.c."""

    def __init__(
        self, *, fd: int, rings: mmap.mmap, sqes: mmap.mmap, sq_tail: int, sq_entries: int,
        cq_head: int, cq_tail: int, cqes: int, cq_entries: int,
    ) -> None:  # fmt: skip
        """`rings` and `sqes` are shared with the kernel. Heads, tails and `cqes` are offsets in bytes, into
        `rings`; the others are numbers of entries."""
        words = memoryview(rings).cast("I")
        self._fd = fd
        self._sqes = sqes
        self._entries = sq_entries
        self._sq_tail = words[sq_tail // 4 :][:1]
        self._cq_head = words[cq_head // 4 :][:1]
        self._cq_tail = words[cq_tail // 4 :][:1]
        self._cqes = memoryview(rings)[cqes:][: _CQE.size * cq_entries]
        self._cq_mask = cq_entries - 1
        self._sq_mask = sq_entries - 1
        self._tail = self._head = 0
        self._unsubmitted = 0
        self._wait = _Wait()
        self._wait_address = ctypes.addressof(self._wait)
        self._timespec = self._wait_address + _Wait.seconds.offset

    def put(
        self, opcode: int, flags: int, ioprio: int, fd: int, offset: int, address: int, length: int,
        operation: int, user_data: int, group: int = 0,
    ) -> None:  # fmt: skip
        """Queue an operation; the next `enter` submits it. The names are those of struct io_uring_sqe."""
        while self._unsubmitted == self._entries:
            self.enter(0, 0.0)
        _SQE.pack_into(
            self._sqes, (self._tail & self._sq_mask) * 64,
            opcode, flags, ioprio, fd, offset, address, length, operation, user_data, group, 0, 0, 0, 0,
        )  # fmt: skip
        self._tail = (self._tail + 1) & _MASK
        self._unsubmitted += 1

    def enter(self, least: int, timeout: float | None) -> None:
        """Submit what is queued, and wait until `least` completions are there, up to `timeout` seconds
        (None: for ever). Ends early upon a signal. Raises SystemCallError."""
        self._sq_tail[0] = self._tail
        if timeout is None:
            self._wait.timespec = 0
        else:
            seconds = int(timeout)
            self._wait.seconds = seconds
            self._wait.nanoseconds = int((timeout - seconds) * 1e9)
            self._wait.timespec = self._timespec
        submitted = _syscall(
            _ENTER, self._fd, self._unsubmitted, least, _GETEVENTS | _EXT_ARG, self._wait_address,
            _Wait.seconds.offset,
        )  # fmt: skip
        if submitted >= 0:
            self._unsubmitted -= submitted
            return
        number = ctypes.get_errno()
        # ETIME: the time is up. EBUSY, EAGAIN: no room now, what is queued stays queued.
        if number not in (errno.ETIME, errno.EINTR, errno.EBUSY, errno.EAGAIN):
            raise SystemCallError("io_uring_enter", "", OSError(number, os.strerror(number)))

    def completions(self) -> list[Completion]:
        """The completions since the last call, in order."""
        head, tail = self._head, self._cq_tail[0]
        if head == tail:
            return []
        first, last = head & self._cq_mask, tail & self._cq_mask
        cqes, size = self._cqes, _CQE.size
        if first < last:
            found = list(_CQE.iter_unpack(cqes[first * size : last * size]))
        else:  # around the end of the queue
            found = list(_CQE.iter_unpack(cqes[first * size :]))
            found += _CQE.iter_unpack(cqes[: last * size])
        self._head = self._cq_head[0] = tail
        return found


class ProvidedBuffers:
    """Buffers that the kernel receives into: it takes one when there is something to put into it,
    so that a connection which is idle has none (IORING_REGISTER_PBUF_RING, Linux 5.19)."""

    GROUP = 1
    SIZE = 16384  # bytes
    COUNT = 128

    def __init__(self, ring: Ring, native: bool = True) -> None:
        memory = mmap.mmap(-1, self.SIZE * self.COUNT)
        entries = mmap.mmap(-1, _STRIDE * self.COUNT)
        registration = ctypes.create_string_buffer(
            struct.pack("<QIHH24x", _address_of(entries), self.COUNT, self.GROUP, 0)
        )
        _call(
            "io_uring_register", _REGISTER, ring.fd, _REGISTER_PBUF_RING,
            ctypes.addressof(registration), 1,
        )  # fmt: skip
        make = pick("Buffers", Buffers, native)
        self.buffers = make(memory=memory, ring=entries, size=self.SIZE, count=self.COUNT)
        self.take = self.buffers.take


class Buffers:
    """The buffers, and the ring by which they are given to the kernel: the twin of native/system_ring.c."""

    def __init__(self, memory: mmap.mmap, ring: mmap.mmap, size: int, count: int) -> None:
        self._ring = ring
        self._size = size
        self._mask = count - 1
        self._address = _address_of(memory)
        self._bytes = memoryview(memory)
        self._ring_tail = memoryview(ring).cast("H")[7:8]
        self._tail = 0
        for number in range(count):
            self._give(number)

    def take(self, flags: int, count: int) -> bytes:
        """The bytes of a completion; its buffer goes back to the kernel."""
        number = flags >> BUFFER_SHIFT
        start = number * self._size
        data = bytes(self._bytes[start : start + count])
        self._give(number)
        return data

    def _give(self, number: int) -> None:
        place = (self._tail & self._mask) * _STRIDE
        _BUFFER.pack_into(
            self._ring, place, self._address + number * self._size, self._size, number
        )
        self._tail = self._ring_tail[0] = (self._tail + 1) & 0xFFFF


def address_of(data: bytes) -> int:
    """The address of a bytes object's contents. The object must be kept alive while the kernel reads it.

    CPython lays them out behind the object's header; ctypes would take ten times as long to say so.
    """
    return id(data) + _HEADER


def _address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


_HEADER = bytes.__basicsize__ - 1
assert ctypes.string_at(address_of(b"forkd"), 5) == b"forkd"


def _call(name: str, *arguments: int) -> int:
    result: int = _syscall(*arguments, *[0] * (7 - len(arguments)))
    if result < 0:
        number = ctypes.get_errno()
        raise SystemCallError(name, "", OSError(number, os.strerror(number)))
    return result
