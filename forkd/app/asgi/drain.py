"""The end of a worker's requests, once it retires: which streams end early, which answers are cut, and until
when the tasks behind answers are waited for.

WebSockets are closed with 1012, each when it is quiet, or else between two messages, spread over
--drain-spread. Requests go on to their
end. A stream of server-sent events has none, and its client comes back by itself: it is
ended when it has been quiet for a while. Any other stream that looks like ended would be taken for whole: it
goes on until --graceful-timeout is nearly over, and is then cut so that the client sees it.
"""

from __future__ import annotations

import asyncio

from forkd.app.asgi.requests import Requests
from forkd.app.asgi.streams import Reconnecting
from forkd.app.asgi.websocket import Phase, WebSocket
from forkd.http.limits import Refusal, Refused
from forkd.system.originals import monotonic

_LOOK_SECONDS = 1.0  # between two looks for what is at rest
#: A WebSocket that is never quiet for so long is closed between two messages.
_LEAST_QUIET_SECONDS = 0.1
#: Instead of --drain-spread, when the whole service ends.
_STOP_SPREAD_SECONDS = 2.0
#: Of --graceful-timeout, after which answers are cut: what is left is for what the application does then.
_CUT_SHARE = 0.9
_MAX_SHOWN = 5


class Drain:
    def __init__(
        self, requests: Requests, seconds: float, spread: float, reconnecting: Reconnecting
    ) -> None:
        """`seconds`: --graceful-timeout. `spread`: --drain-spread."""
        self._reconnecting = reconnecting
        self._requests = requests
        self._seconds = seconds
        self._spread = spread
        self._ends = 0.0  # CLOCK_MONOTONIC; 0: it has not begun
        self._turns: set[WebSocket] = set()  # which have one

    def begin(self) -> None:
        self._ends = monotonic() + self._seconds
        if self._requests.shortcut is not None:
            for call in self._requests.shortcut.suspended():
                call.answered(None)
        for cycle in self._requests.cycles:
            cycle.quiet = False
        self._look()
        self._requests.loop.call_later(self._seconds * _CUT_SHARE, self._cut)

    def _turn(self, sockets: set[WebSocket]) -> None:
        """Give each its turn: the first after a look, the last when --drain-spread is over."""
        longest = _STOP_SPREAD_SECONDS if self._requests.host.ends else self._seconds / 2
        rest = max(0.0, min(self._spread, longest) - _LOOK_SECONDS)
        for number, socket in enumerate(sockets):
            socket.quiet = True  # unless something moves until then
            self._turns.add(socket)
            later = _LOOK_SECONDS + rest * number / len(sockets)
            self._requests.loop.call_later(later, self._close, socket)

    def _look(self) -> None:
        """End the streams whose clients come back, and on which nothing was sent since the last look. Of
        WebSockets, there may be some that were in the accept queue."""
        self._turn(self._requests.sockets - self._turns)
        for cycle in list(self._requests.cycles):
            kind = cycle.response.stream
            if kind is not None and self._reconnecting.has(cycle.request, kind):
                if cycle.quiet:
                    cycle.end_stream()
                cycle.quiet = True
        self._requests.loop.call_later(_LOOK_SECONDS, self._look)

    def _close(self, socket: WebSocket, quiet: float = _LOOK_SECONDS) -> None:
        """It is its turn, or has been. One that was not quiet for so many seconds is looked at again after
        half of them, and in the end between any two messages."""
        if socket not in self._requests.sockets:
            return
        if (socket.quiet or quiet < _LEAST_QUIET_SECONDS) and socket.restart():
            return
        socket.quiet = True
        quiet = max(quiet / 2, _LEAST_QUIET_SECONDS / 2)
        self._requests.loop.call_later(quiet, self._close, socket, quiet)

    def _cut(self) -> None:
        sockets = list(self._requests.sockets)
        cycles = [cycle for cycle in self._requests.cycles if cycle.unfinished]
        lines = [each.request.line for each in (*cycles, *sockets)]
        if lines:
            self._requests.host.log.warning(
                f"--graceful-timeout is nearly over; answers cut: {_shown(lines)}"
            )
        for socket in sockets:
            if socket.phase is Phase.CLOSING or not socket.restart():
                socket.cut()
        for cycle in cycles:
            if cycle.response.head_sent:
                cycle.break_off()
            else:
                cycle.refuse(Refused(503, "the worker ends before its answer", Refusal.APPLICATION_FAILED))

    async def wait_for_tasks(self) -> None:
        """Until the application has returned from each request, or the time is over."""
        tasks, left = self._requests.tasks, self._ends - monotonic()
        if tasks and left > 0:
            await asyncio.wait(list(tasks), timeout=left)
        self._requests.ended = True
        if tasks:
            self._requests.host.log.warning(
                f"the application has not returned from {_shown(list(tasks.values()))}; cancelled"
            )


def _shown(lines: list[bytes]) -> str:
    shown = ", ".join(line.decode("latin-1") for line in lines[:_MAX_SHOWN])
    more = len(lines) - _MAX_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
