"""Native code, in C beside this file: module.c says what it is for. Optional.

Imported by what has a twin of it, or is one: http/usual.py, app/flow.py, models/link.py, inline.py and
stake.py, system/handles.py, ring.py, signals.py, uring.py and scoreboard.py, log.py, forked.py.
"""

from __future__ import annotations

from types import ModuleType

#: Why there is none; "" where there is.
missing: str

try:
    from forkd import _native
except ImportError as error:
    native: ModuleType | None = None
    missing = str(error)
    if missing.startswith("cannot import name"):
        missing = "it was not compiled when forkd was installed"
else:
    native = _native
    missing = ""
