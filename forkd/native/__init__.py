"""Native code, in C beside this file: module.c says what it is for. Optional.

Imported by what has a twin of it, or is one: http/usual.py, app/flow.py, models/link.py, inline.py and
stake.py, system/handles.py, ring.py, uring.py and scoreboard.py, log.py.
"""

from __future__ import annotations

from types import ModuleType

try:
    from forkd import _native
except ImportError:  # no compiler when forkd was installed
    native: ModuleType | None = None
else:
    native = _native
