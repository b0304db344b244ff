"""The loop of libuv that uvloop runs, by libuv's C interface: a call in each of its rounds, which may wait.

In a round uv_run() calls idle handles, waits for descriptors, and calls check handles, and then timers that
are due (libuv's design overview). An active idle handle makes it look at descriptors without waiting. Behind
that, in a check handle, is the place to wait: the kernel has been told by then what to watch, but for what
has just come up, for which `Rounds.patience` looks.

uvloop's extension module exports libuv's functions, and gives the address of its loop. Loads ctypes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from typing import Any

from forkd.system.originals import socket

_CHECK, _IDLE, _PREPARE = 2, 6, 9  # of uv_handle_type
_FUNCTIONS = (
    "uv_handle_size", "uv_idle_init", "uv_idle_start", "uv_idle_stop", "uv_check_init", "uv_check_start",
    "uv_prepare_init", "uv_prepare_start", "uv_close", "uv_backend_timeout", "uv_is_active",
)  # fmt: skip

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Loop(ctypes.Structure):
    """The beginning of uv_loop_t, which is the same in all of libuv 1."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("active_handles", ctypes.c_uint),
        ("handle_queue", ctypes.c_void_p * 2),
        ("active_reqs", ctypes.c_void_p),
        ("internal_fields", ctypes.c_void_p),
        ("stop_flag", ctypes.c_uint),
        ("flags", ctypes.c_ulong),
        ("backend_fd", ctypes.c_int),
        ("pending_queue", ctypes.c_void_p * 2),
        ("watcher_queue", ctypes.c_void_p * 2),  # of which the kernel is told at the next wait
    )


def _address_of(loop: Any) -> int:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    address: int = pointer(import_module("uvloop.loop").libuv_get_loop_t_ptr(loop), None)
    return address


def _library() -> ctypes.PyDLL:
    """libuv, as it is in uvloop. Its functions are called with the GIL held: none of these waits."""
    library = ctypes.PyDLL(import_module("uvloop.loop").__file__)
    for name in _FUNCTIONS:
        getattr(library, name).argtypes = None  # AttributeError where it is not exported
    library.uv_handle_size.restype = ctypes.c_size_t
    return library


class Rounds:
    """Of one loop of uvloop's, which does not wait by itself while there are these."""

    def __init__(self, loop: Any, call: Callable[[], None]) -> None:
        """`call` is called in each round, and must not raise."""
        library, address = _library(), _address_of(loop)
        self._inside = _Loop.from_address(address)
        self._pending = self._inside.watcher_queue
        self._nothing_pending = address + _Loop.watcher_queue.offset
        self._close = library.uv_close
        # Kept here: libuv has their addresses until its loop is closed.
        self._idle_handle = ctypes.create_string_buffer(library.uv_handle_size(_IDLE))
        self._check_handle = ctypes.create_string_buffer(library.uv_handle_size(_CHECK))
        self._callback = _CALLBACK(lambda handle: call())
        self._loop = ctypes.c_void_p(address)
        self._idle, self._check = map(ctypes.byref, (self._idle_handle, self._check_handle))
        self._timeout = library.uv_backend_timeout
        self._start_idle, self._stop_idle = library.uv_idle_start, library.uv_idle_stop
        self._nothing = library.uv_is_active  # what an idle handle calls: it does nothing
        library.uv_idle_init(self._loop, self._idle)
        library.uv_check_init(self._loop, self._check)
        self._start_idle(self._idle, self._nothing)
        library.uv_check_start(self._check, self._callback)

    def patience(self) -> float | None:
        """Seconds for which libuv itself would wait now; None: until something happens. In `call`."""
        if self._pending[0] != self._nothing_pending:
            return 0.0
        self._stop_idle(self._idle)
        milliseconds: int = self._timeout(self._loop)
        self._start_idle(self._idle, self._nothing)
        return None if milliseconds < 0 else milliseconds / 1000

    def close(self) -> None:
        """Before the loop is closed, which ends them."""
        self._close(self._idle, None)
        self._close(self._check, None)


def call_before_waiting(loop: Any, call: Callable[[], None]) -> object:
    """Call it before the loop looks at its descriptors the next time. Keep what this returns until then."""
    library = _library()
    handle = ctypes.create_string_buffer(library.uv_handle_size(_PREPARE))
    callback = _CALLBACK(lambda handle: call())
    library.uv_prepare_init(ctypes.c_void_p(_address_of(loop)), ctypes.byref(handle))
    library.uv_prepare_start(ctypes.byref(handle), callback)
    return handle, callback


def why_not() -> str:
    """Why uvloop cannot be used here; "" if it can be. Makes a loop of it, and closes that."""
    try:
        uvloop = import_module("uvloop")
    except ImportError as error:
        if error.name == "uvloop":
            return "uvloop is not installed; pip install 'forkd[uvloop]'"
        return f"uvloop cannot be imported: {error}"
    unknown = f"forkd cannot work with the libuv of uvloop {uvloop.__version__}"
    try:
        _library()
        loop: Any = uvloop.new_event_loop()
        try:
            return "" if _is_known(loop) else unknown
        finally:
            loop.close()
    except (AttributeError, ImportError, OSError) as error:
        return f"{unknown}: {error}"


def _is_known(loop: Any) -> bool:
    """Whether its memory is as declared: its queue is empty after a round, and has what is added then."""
    loop.call_soon(loop.stop)
    loop.run_forever()
    address = _address_of(loop)
    inside, empty = _Loop.from_address(address), address + _Loop.watcher_queue.offset
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = [inside.watcher_queue[0]]
        loop.add_reader(ours.fileno(), int)
        found.append(inside.watcher_queue[0])
        loop.remove_reader(ours.fileno())
        found.append(inside.watcher_queue[0])
    alike = [queued == empty for queued in found] == [True, False, True]
    return alike and inside.backend_fd == loop._get_backend_id()
