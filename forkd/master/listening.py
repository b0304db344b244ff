"""Listeners that were taken away from the master: a socket that a process has shut down, a socket file that
was removed. They are noticed, said, and listened on anew. In the master.

Every process that has a copy of a listening socket can shut it down for all (shutdown(2)). A child sees it
when accept(2) fails or finds no client again and again, the doorbell and the dispatcher when they look, the
watchdog once a second. A TCP socket listens again as it is. A unix socket is shut down for good: another one
is bound, and gets the descriptor of the old one in each process that has that, templates included; the
clients that wait in the old one are served first. No loop waits for a broken listener meanwhile: it is ready
for ever.

A socket file is made again at a reload only: who has removed it may have meant it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from time import monotonic

from forkd.errors import BindError
from forkd.ipc.messages import Relisten
from forkd.log.lines import Log
from forkd.master.children import Child, Children
from forkd.master.templates import Templates
from forkd.system import sockets
from forkd.system.address import Address
from forkd.system.loop import Loop
from forkd.system.sockets import Listener

#: Between two times that something is listened on anew: an application that shuts it down for each request
#: keeps the service away, and must not keep the master busy.
_PAUSE_SECONDS = 1.0
#: Processes that a message names.
_MAX_NAMED_PROCESSES = 3


def unreachable(listener: Listener) -> str:
    """Why clients cannot reach it, or ""."""
    if listener.broken or listener.shut_down():
        return listener.broken or f"{listener.name}: the listening socket was shut down"
    if listener.unlinked:
        return f"{listener.name}: the socket file was removed or replaced; a reload makes it again"
    return ""


def why_not(listeners: Iterable[Listener]) -> str:
    """Why clients cannot reach one of them; empty when they can reach all."""
    return next(filter(None, map(unreachable, listeners)), "")


class Listening:
    def __init__(
        self,
        loop: Loop,
        log: Log,
        children: Children,
        templates: Templates,
        *,
        look: Callable[[], None],
        look_away: Callable[[], None],
        listen: Callable[[], None],
        making: Callable[[Listener], None],
        replacing: Callable[[Listener, socket.socket], None],
        renewed: Callable[[Listener], None],
        failed: Callable[[str], None],
    ) -> None:
        """`look` calls `self.look` with the listeners. `look_away` has the master look away from them, while
        descriptors get other sockets, and `listen` look again. A listener is told to `making` before it is
        listened on anew; to `replacing`, with its old socket, before it gets another one; to `renewed` when
        clients can come again. `failed` is told why they cannot."""
        self._loop = loop
        self._log = log
        self._children = children
        self._templates = templates
        self._look = look
        self._look_away = look_away
        self._listen = listen
        self._making = making
        self._replacing = replacing
        self._renewed = renewed
        self._failed = failed
        self._not_before = 0.0
        self._deaf: dict[tuple[int, int], Child] = {}  # by pid and descriptor: who waits to hear

    def hear(self, child: Child, number: int, listeners: Iterable[Listener]) -> None:
        """A child says that this listener is shut down. It waits for it no more until it is told."""
        if any(number == sock.fileno() for x in listeners for sock in x.sockets):
            self._deaf[child.pid, number] = child
            self.look_soon()

    def look_soon(self) -> None:
        """A listener seems to have been shut down; look when no caller is using it."""
        self._loop.timers.set("listening", monotonic(), self._look)

    def look(self, listeners: Iterable[Listener], ours: bool) -> None:
        """See whether all listeners let clients in; repair those that do not. `ours`: this master has to.
        Not one that stops, whose children shut the listeners down, nor one beside which another is
        responsible."""
        for listener in listeners if ours else ():
            if listener.shut_down():
                self._repair(listener)
            elif listener.broken:
                self._let_in(listener)
        self._tell(listeners)

    def restore(self, addresses: tuple[Address, ...], listeners: Iterable[Listener]) -> None:
        """Before a reload: have all of these that cannot be reached listened on anew. Raises BindError."""
        places = {address.place for address in addresses}
        for listener in listeners:
            if listener.wanted.place not in places:
                continue
            if listener.unlinked or listener.shut_down():
                unlinked = listener.unlinked
                self._listen_anew(listener)
                what = (
                    "the socket file had been removed or replaced"
                    if unlinked
                    else "it was shut down"
                )
                self._log.warning(f"{listener.name}: {what}; listening anew")
        self._tell(listeners)

    # ---- one listener ---------------------------------------------------------------------

    def _repair(self, listener: Listener) -> None:
        now = monotonic()
        if now < self._not_before:
            self._loop.timers.set("listening", self._not_before, self._look)
            if not listener.broken:
                listener.broken = (
                    f"{listener.name}: the listening socket was shut down, again; wait a moment"
                )
                self._watch_the_others()
            return
        who = self._who(listener)
        try:
            self._listen_anew(listener)
        except BindError as error:
            why = f"{listener.name}: the listening socket was shut down; {error}"
            if listener.broken != why:
                listener.broken = why
                self._failed(why)
                self._log.error(f"{why}\n{who}")
                self._watch_the_others()
        else:
            self._log.error(
                f"{listener.name}: the listening socket was shut down; listening anew\n{who}"
            )

    def _who(self, listener: Listener) -> str:
        """What can be known of it: the kernel does not say who called shutdown(2)."""
        children = {child.pid: str(child) for child in self._children}
        numbers = {sock.fileno() for sock in listener.sockets}
        noticed = [
            children[pid] for pid, number in self._deaf if number in numbers and pid in children
        ]
        known = {os.getpid(), *children, *self._templates.pids()}
        others = [text for sock in listener.sockets for text in sockets.other_holders(sock, known)]
        return (
            "not by forkd: by the application, or by a process that has a copy of the socket; noticed by "
            + (", ".join(noticed[:_MAX_NAMED_PROCESSES]) or "the master")
            + (f"; also held by {', '.join(others[:_MAX_NAMED_PROCESSES])}" if others else "")
        )

    def _listen_anew(self, listener: Listener) -> None:
        """Raises BindError."""
        self._not_before = monotonic() + _PAUSE_SECONDS
        self._making(listener)
        self._look_away()
        try:
            which = range(len(listener.sockets)) if listener.unlinked else listener.shut_down()
            for index in which:
                made = sockets.listen_anew(listener, index)
                number = listener.sockets[index].fileno()
                if made is None:
                    self._send(number, anew=False)
                else:
                    self._replace(listener, listener.sockets[index], made)
            listener.broken = ""
        finally:
            self._listen()
        self._renewed(listener)

    def _replace(self, listener: Listener, old: socket.socket, made: socket.socket) -> None:
        """Give the descriptor of the old socket to another one, here and in all that have it."""
        number = old.fileno()
        self._replacing(listener, old)
        os.dup2(made.fileno(), number, inheritable=False)
        made.close()
        self._send(number, anew=True)
        self._templates.relisten(number)

    def _let_in(self, listener: Listener) -> None:
        """It listens again, and not by us."""
        listener.broken = ""
        self._watch_the_others()
        for sock in listener.sockets:
            self._send(sock.fileno(), anew=False)

    def _watch_the_others(self) -> None:
        self._look_away()
        self._listen()

    # ---- the children ---------------------------------------------------------------------

    def _send(self, number: int, anew: bool) -> None:
        for child in self._children:
            child.channel.send(Relisten(number, anew, number if anew else -1))
            self._deaf.pop((child.pid, number), None)

    def _tell(self, listeners: Iterable[Listener]) -> None:
        """Children that have found a listener shut down after it was listened on anew: what they were told
        may not have reached them, so they get the socket."""
        listening = {
            sock.fileno()
            for listener in listeners
            for sock in listener.sockets
            if not listener.broken and not sockets.is_shut_down(sock)
        }
        alive = set(self._children)
        for (pid, number), child in list(self._deaf.items()):
            if child not in alive:
                del self._deaf[pid, number]
            elif number in listening:
                child.channel.send(Relisten(number, True, number))
                del self._deaf[pid, number]
