"""The three steps that every model is made of: receive, advance, flush.

They touch one connection and nothing else, so any thread that has the connection to itself may take
them. A model decides which thread takes which, and what happens in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from forkd.engine.connection import CHUNK_BYTES, Connection
from forkd.session.seam import HIJACK, LINGER, Await, Become, Deadline, Exchange, Log, Multiplexed
from forkd.system.forked import in_fork, leave

#: Sends after which the other connections have their turn, when a session never has to wait:
#: a client that pipelines thousands of requests, an answer without end to a fast reader.
TURN_SENDS = 16


class _Outcome:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


# ---- what `advance` returns, besides an Await and an Exchange -----------------------------------

#: Output is queued in `conn.out`: resume with None once it is sent.
WRITING: Final = _Outcome("WRITING")
#: The session returned.
FINISHED: Final = _Outcome("FINISHED")
#: A shortcut has called the application, which answers later: `conn.call`.
SUSPENDED: Final = _Outcome("SUSPENDED")
#: It returned, and the client may still be sending.
LINGERING: Final = _Outcome("LINGERING")
#: The client left, or the session failed.
ABORTED: Final = _Outcome("ABORTED")

Outcome = Any  # Await | Exchange | HIJACK | one of the above


def receive(conn: Connection) -> bytes | memoryview | None:
    """The bytes that the client sent, b"" at EOF, None when there is nothing. Raises OSError (it left)."""
    try:
        return conn.receive(CHUNK_BYTES)
    except BlockingIOError:
        return None


def advance(
    conn: Connection,
    step: Callable[[Any], Any],
    value: Any,
    log: Log,
    *,
    send: bool = True,
    to_ready: bool = False,
) -> Outcome:
    """Resume the session with `step(value)` and do what it yields, and what its successor does, until one has
    to wait.

    `send` False leaves writing to the caller: what is to be sent is queued, and WRITING returned.
    `to_ready` True returns the Exchange or HIJACK where the application would run: logic goes on elsewhere.
    """
    resume = conn.resume
    turn = TURN_SENDS
    try:
        op = step(value)
        while True:
            if type(op) is bytes:
                sent = conn.transmit(op) if send else 0
                turn -= 1
                if sent < len(op):
                    conn.out.append(memoryview(op)[sent:])
                    return WRITING
                if not turn:
                    return WRITING  # nothing is left, so it goes on in the next turn of the loop
                op = resume(None)
            elif type(op) is Await:
                return op
            elif type(op) is Exchange:
                if to_ready:
                    return op
                op = resume(None)
            elif op is HIJACK:
                if to_ready:
                    return HIJACK
                op = resume(conn.hijack())
            elif type(op) is Multiplexed:
                op = resume(None if conn.run_apart(op) else op.step())
            else:
                turn -= 1
                if not send:
                    conn.queue(op)
                    return WRITING
                if not conn.put(op) or not turn:
                    return WRITING
                op = resume(None)
    except StopIteration as stop:
        result = stop.value
        if type(result) is not Become:
            return LINGERING if result is LINGER else FINISHED
    except (OSError, Deadline):
        result = ABORTED  # the client left, or took too long
    except BaseException as error:  # whatever it is: the others' connections go on
        if in_fork:
            leave(error)
        log.exception(f"a session failed; its connection from {conn.client} is closed")
        result = ABORTED
    if result is not ABORTED:
        return advance(conn, conn.become(result.session), None, log, send=send, to_ready=to_ready)
    conn.end(log)
    return ABORTED


def read(conn: Connection, log: Log, *, send: bool = True, to_ready: bool = False) -> Outcome:
    """Receive, and advance with what came; what the connection waits for, when nothing came."""
    try:
        data = receive(conn)
    except OSError:
        conn.end(log)
        return ABORTED
    if data is None:
        return conn.op
    return advance(conn, conn.resume, data, log, send=send, to_ready=to_ready)


def flush(conn: Connection, log: Log) -> Outcome | None:
    """Send what is queued: None when all is sent, WRITING when the socket is full, or ABORTED."""
    try:
        return None if conn.flush() else WRITING
    except OSError:
        conn.end(log)
        return ABORTED
