"""How the service ends, in the master: as a lame duck first if so configured, in order, or at once.

In order means: whoever waits in the accept queue is still answered, the work in flight ends, and only
then does the master. `plan` retires the children and kills those that take too long.
"""

from __future__ import annotations

import signal
from time import monotonic
from typing import TYPE_CHECKING

from forkd.supervise.messages import Quit
from forkd.supervise.signalling import send

if TYPE_CHECKING:
    from forkd.supervise.master import Master

#: Until a child that was told to quit is killed, seconds.
_QUIT_SECONDS = 1.0
#: For which a listener that deferred connections accepts those whose first bytes are on their way, seconds.
_DEFERRED_SECONDS = 0.05


class Ending:
    def __init__(self, master: Master) -> None:
        self.lame = False  # told to stop, and accepting for some seconds more
        self.soon = False  # told to stop, and stopping in a moment
        self.stopping = False
        self._master = master

    @property
    def begun(self) -> bool:
        """Told to stop: nothing new is begun."""
        return self.lame or self.stopping

    def stop(self) -> None:
        """Be a lame duck for a while, if so configured, or if the kernel holds connections back; told
        again, or then, wind up."""
        master = self._master
        seconds = master.generation.config.lame_duck
        held_back = not self.begun and self._defer_no_more()
        if self.begun or not (seconds or held_back) or not master.served:
            self.wind_up()
            return
        if seconds:
            master.log.info(
                f"told to stop: not ready any more, accepting for {seconds:g} s (--lame-duck)"
            )
        self.lame, self.soon = True, not seconds
        self._begin_nothing()
        master.loop.timers.set(
            "lame-duck", monotonic() + max(seconds, _DEFERRED_SECONDS), self.wind_up
        )

    def wind_up(self) -> None:
        """Finish what is under way, then end."""
        if self.stopping:
            return
        master, generation = self._master, self._master.generation
        master.log.info("stopping")
        self.stopping = True
        if not self.lame:
            self._begin_nothing()
        # A master that serves no more, or not yet, shares the listeners with one that does.
        generation.last = master.owns and not master.handed_over
        if generation.last:
            master.doorbell.mute()
            for listener in generation.listeners:
                listener.shut()
        master.dispatcher.finish(keep=[] if generation.last else generation.listeners)
        if not (generation.last and generation.master_accepts):
            for listener in generation.listeners:
                listener.hang_up()

    def quit(self) -> None:
        """End now: what is under way is lost."""
        self.wind_up()
        master = self._master
        for child in master.children:
            child.on("kill")
            child.why = child.why or "stop"
            if not child.channel.send(Quit()):
                send(master.log, child, signal.SIGKILL)
        master.errands.kill()
        master.loop.timers.set("quit", monotonic() + _QUIT_SECONDS, self.kill_all)

    def kill_all(self) -> None:
        for child in self._master.children:
            send(self._master.log, child, signal.SIGKILL)

    def _defer_no_more(self) -> bool:
        """Whether there may be connections that no child can see yet."""
        master = self._master
        listeners = master.generation.listeners if master.owns and not master.handed_over else []
        held_back = any(listener.deferring for listener in listeners)
        for listener in listeners:
            listener.defer(False)
        return held_back

    def _begin_nothing(self) -> None:
        self._master.notifier.stopping()
        self._master.reloader.abort("the master is stopping")
        self._master.cancel_upgrade("the master is stopping")
        self._master.errands.give_up_boot()
