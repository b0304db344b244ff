"""The lines about connections that a session closes and does not answer: one a minute. In a child."""

from __future__ import annotations

from forkd.session.seam import Host, Peer
from forkd.system.seldom import Seldom

_SILENCE_SECONDS = 60.0


class Closed:
    def __init__(self, host: Host, metric: str) -> None:
        """`metric`: that counts them."""
        self._host = host
        self._warns = Seldom(_SILENCE_SECONDS)
        self._more = f"more of that within {_SILENCE_SECONDS:g} s is counted ({metric})"

    def note(self, peer: Peer, cell: int, why: str) -> None:
        """`cell`: of its count."""
        self._host.recorder.add(cell)
        text = f"{peer.client or 'unix'}: {why}; closed"
        if self._warns.leave():
            self._host.log.warning(f"{text}; {self._more}, and logged with --log-level debug")
        else:
            self._host.log.debug(text)
