"""The steps of an application's coroutine: each is in the scoreboard for as long as it holds the loop.

So `--timeout`, and the report of a worker that was killed, name the request whose code blocks the loop.
"""

from __future__ import annotations

import contextvars
import types
from collections.abc import Coroutine, Generator
from typing import Any, Protocol

from forkd.session.seam import NO_REQUEST, Recorder

#: The request line, in the context of its request, which its child tasks and callbacks have a copy of: their
#: steps are not in the scoreboard.
line_of: contextvars.ContextVar[bytes] = contextvars.ContextVar("forkd_request_line")


class Held(Protocol):
    ticket: int  # of the request in the recorder; 0 once that has ended


@types.coroutine
def in_steps(
    coroutine: Coroutine[Any, Any, Any], request: Held, recorder: Recorder
) -> Generator[Any, Any, Any]:
    """Awaits it, and returns what it returns."""
    step: Any = coroutine.send
    value: Any = None
    while True:
        recorder.resume(request.ticket or NO_REQUEST)
        try:
            awaited = step(value)
        except StopIteration as stop:
            return stop.value
        finally:
            recorder.resume(NO_REQUEST)  # the loop goes on
        try:
            value = yield awaited
            step = coroutine.send
        except BaseException as thrown:  # a cancellation, or what is closed
            step, value = coroutine.throw, thrown
