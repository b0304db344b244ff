"""Messages between the master and the logger: a socketpair, one datagram of JSON per message.

The master says `[verb, number, argument]`, the logger answers with the verb's past tense.
"""

from __future__ import annotations

import json
import socket
from typing import Any

_MAX_MESSAGE_BYTES = 1 << 16

#: From the master: verb, a log or the number of the question, and what the verb needs.
OPEN, CLOSE, REOPEN, SYNC, END = "open", "close", "reopen", "sync", "end"
#: From the logger: (log, error or ""), (log, ""), (question, error or ""), (question, "").
OPENED, CLOSED, REOPENED, SYNCED = "opened", "closed", "reopened", "synced"


def send(sock: socket.socket, *message: Any) -> bool:
    """False when the other side is gone, or has not read for so long that nothing fits."""
    try:
        sock.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def receive(sock: socket.socket) -> list[Any] | None:
    """One message; [] when there is none; None when the other side is gone."""
    try:
        data = sock.recv(_MAX_MESSAGE_BYTES, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return []
    except OSError:
        return None
    return list(json.loads(data)) if data else None
