"""Half-Sync/Half-Async (POSA2, Schmidt, Stal, Rohnert, Buschmann), over processes.

1. The asynchronous layer is the master: SIGIO tells it that a connection has arrived.
2. It accepts, without blocking, until EAGAIN (master/dispatcher.py).
3. The queueing layer: the accepted socket is sent to the queue of a child, as SCM_RIGHTS on a unix
   socket. `dispatch` chooses the child; with `competition` there is one queue, and an idle child
   takes what is in it.
4. The synchronous layer is the child: it takes sockets from its queue (engine/intake.py), reads, runs the
   application, writes (engine/inline.py). It never waits on a listener.

The master takes back what waits in the queue of a child that dies or retires. What was handed to one
that stands still waits for it; `competition` has one queue, which the others go on emptying.
"""

from __future__ import annotations

from forkd.engine.inline import InlineLoop
from forkd.models.row import ModelRow

ROW = ModelRow(
    name="half-sync-half-async",
    make=InlineLoop,  # a child of the synchronous layer; the other layers are the master's
    ios=("sigio", "epoll"),
    master_accepts=True,
    forks=False,
    threaded=False,
    pooled=False,
    waits="the master: the asynchronous layer, woken by SIGIO or by epoll",
    moves="the child",
    logic="the child",
    handoff="the accepted socket, sent to a child's queue (SCM_RIGHTS) as dispatch says",
    good_for="choosing the child by a policy; children that never touch a listener",
    weakness="each connection passes through the master; what was handed to a child that stands "
    "still waits for it",
    refused={},
)
