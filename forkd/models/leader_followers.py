"""Leader/Followers (POSA2, Schmidt, Stal, Rohnert, Buschmann), over processes.

The set of children shares the listeners, and takes turns at waiting for them.

1. One child is the *leader*: the lease names it, and only its handle set contains the listeners.
2. A connection arrives; the leader wakes and accepts it.
3. It *promotes a follower*: the child with the fewest connections, if that has fewer than itself.
   The promoted child's bell rings, and it puts the listeners into its own handle set.
4. Only then does the former leader work: it resumes the session until that has to wait.
5. It joins the followers: its handle set holds its own connections and its bell, so that it serves
   its clients and can be promoted at once.

The lease and its bells are in system/lease.py, a child's part in them in engine/acceptor.py; the work of
step 4 is in engine/inline.py: the child that learned of an event handles it, with no hand-off.
When the leader is still inside application code while a client waits, SIGIO wakes the master, which
grants the lease to an idle follower (master/doorbell.py).

`--accept exclusive` and `reuseport` leave step 3 to the kernel: every child waits on the listeners
all the time. `--io blocking` serves one client per child, to its end, in step 4 (engine/blocking.py).
"""

from __future__ import annotations

from forkd.engine.blocking import BlockingFollowers
from forkd.engine.context import ChildContext, Model
from forkd.engine.inline import InlineLoop
from forkd.models.leader_threads import LeaderThreads
from forkd.models.row import ModelRow


def make(context: ChildContext) -> Model:
    """Leadership belongs to all models whose children accept: what is this model's own is the loop."""
    if context.io == "blocking":
        return BlockingFollowers(context)
    return LeaderThreads(context) if context.config.threads > 1 else InlineLoop(context)


ROW = ModelRow(
    name="leader-followers",
    make=make,
    ios=("epoll", "poll", "select", "sigio", "blocking"),
    master_accepts=False,
    forks=False,
    threaded=True,
    pooled=False,
    waits="the child that leads, under the shared accept lock",
    moves="that child",
    logic="that child",
    handoff="promote a follower, then work",
    good_for="nearly everything: no hand-off on the way of a request, even spread of clients",
    weakness="with one thread, a handler that blocks holds the other clients of its child; "
    "blocking io serves one client per child at a time",
    refused={
        ("blocking", "asyncio"): "an asyncio protocol needs an event loop, and blocking io has "
        "none; use --io epoll, or a socketserver handler",
        ("blocking", "asgi"): "an ASGI application needs an event loop, and blocking io has none; use "
        "--io epoll",
    },
)
