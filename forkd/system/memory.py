"""The heap of a process: what of it is shared with children, kept, or given back to the kernel."""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_heap() -> None:
    """Have malloc keep some free memory rather than return it at once (mallopt(3)).

    glibc maps large blocks one by one, and cuts the heap when its end is free: each body of a megabyte
    would cost hundreds of page faults, more than all the rest of it. No other libc is asked.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 8 << 20)
        mallopt(_M_TRIM_THRESHOLD, 16 << 20)


def share_heap() -> None:
    """Before long-lived processes are forked: what is here now stays shared with them, since no
    collector, theirs or ours, walks (and so writes) its pages any more. To be called again before the
    next ones: what has become garbage since the last time is collected, too."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def give_memory_back() -> None:
    """Give what was freed back to the kernel. A full collection empties Python's free lists, which pin its
    arenas; glibc returns what is free below the top of its heap only when it is told to."""
    if gc.isenabled():  # an application that has turned it off does not want its pauses
        gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
