"""Native code, in C beside this file: module.c says what it is for. Optional.

Imported by the files that have a twin of it, or call it: app/stream/flow.py, system/forked.py,
app/wsgi/shortcut.py, log/lines.py, engine/one_shot.py, engine/inline.py, engine/intake.py, engine/link.py,
engine/baton.py, system/aio.py, system/handles.py, system/in_flight.py, system/lanes.py, system/log_ring.py,
system/operations.py, system/ring.py, system/scoreboard.py, system/signals.py, system/uring.py; and by
models/registry.py, which says whether it is there.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

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


class Resumes(Protocol):
    """A loop, as native code calls it for what it cannot do by itself of a connection that rests."""

    def feed(self, conn: Any, value: Any) -> None:
        """This has arrived for the session: bytes, or a request that was begun."""

    def rests(self, conn: Any, op: Any) -> None:
        """A request is answered, and the connection waits for the next one."""

    def ended(self, conn: Any) -> None:
        """A request is answered, and it was the last one."""
