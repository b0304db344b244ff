"""The part of a connection that a driver and native code share: the base of `Connection`, with a twin in C.

`fd`: its descriptor. `forks`: what `in_fork` had counted when it
was new. `moved`: bytes received or sent since the deadline was last looked at. `deadline`
and `bucket`: see deadlines.py. `op`: the Await that its session is in. `client`: its IP address. `note`:
see `Peer` in session/seam.py. `recorder`: where its bytes are counted. `origin`: of a bare Link, which native
code has accepted, the intake. `call`: what a shortcut has called, and the application answers later; None
where there is none, as always without native code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forkd.native import pick
from forkd.session.seam import Await, Recorder


class PythonLink:
    __slots__ = ("bucket", "client", "deadline", "fd", "forks", "moved", "note", "op", "origin", "recorder")

    fd: int
    recorder: Recorder
    forks: int
    moved: int
    deadline: float
    bucket: float
    op: Await
    client: str
    note: Any
    origin: Any
    call: Any = None


if TYPE_CHECKING:
    Link = PythonLink
else:
    Link = pick("Link", PythonLink)
