"""The state of one asyncio stream's flow, which a transport and native code share. Its twin is
native/stream_flow.c.

`plain`: the stream is open both ways, and nothing waits: then native code may give what it receives to
`protocol`, and send what is written, without a call of the session or of the transport. `owed`: the client
had the last word. `quiet`: nothing has moved since this was last looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from forkd.native import pick
from forkd.session.seam import Peer

if TYPE_CHECKING:
    from forkd._native import Flow as NativeFlow

#: As session.Await has it.
SHORTCUT: Any = pick("FLOW_SHORTCUT", None)


class Flow:
    __slots__ = ("owed", "plain", "protocol", "quiet")

    protocol: Any

    def __init__(self, **_: Any) -> None:
        self.plain = self.owed = self.quiet = False
        self.protocol = None


def make(peer: Peer, write: Callable[[Any], None], native: bool) -> Flow | NativeFlow:
    """`write`: a transport's, for what is not plain; a native flow has one of its own."""
    flow: Flow | NativeFlow = pick("Flow", Flow, native and peer.direct)(peer=peer, general=write)
    peer.note = flow
    return flow
