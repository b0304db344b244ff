"""Listeners that were taken away from the master: a socket that somebody has shut down, a socket file that
was removed. They are noticed, said, and listened on anew. In the master.

Every process that has a copy of a listening socket can shut it down for all (shutdown(2)). A child sees it
when accept(2) fails or finds nobody again and again, the doorbell and the dispatcher when they look, the
watchdog once a second. A TCP socket listens again as it is. A unix socket is shut down for good: another one
is bound, and gets the descriptor of the old one in each process that has that, templates included; whoever
waits in the old one is served first. Nobody waits for a broken listener meanwhile: it is ready for ever.

A socket file is made again at a reload only: who has removed it may have meant it.
"""

from __future__ import annotations

import os
import socket
from time import monotonic
from typing import TYPE_CHECKING

from forkd.address import Address
from forkd.errors import BindError
from forkd.supervise.children import Child
from forkd.supervise.messages import Relisten
from forkd.system import sockets
from forkd.system.sockets import Listener

if TYPE_CHECKING:
    from forkd.supervise.master import Master

#: Between two times that something is listened on anew: an application that shuts it down for each request
#: keeps the service away, and must not keep the master busy.
_PAUSE_SECONDS = 1.0
#: Processes that a message names.
_MOST_NAMED = 3


def unreachable(listener: Listener) -> str:
    """Why clients cannot reach it, or ""."""
    if listener.broken or listener.shut_down():
        return listener.broken or f"{listener.name}: the listening socket was shut down"
    if listener.unlinked:
        return f"{listener.name}: the socket file was removed or replaced; a reload makes it again"
    return ""


class Listening:
    def __init__(self, master: Master) -> None:
        self._master = master
        self._not_before = 0.0
        self._deaf: dict[tuple[int, int], Child] = {}  # by pid and descriptor: who waits to hear

    def hear(self, child: Child, number: int) -> None:
        """A child says that this listener is shut down. It waits for it no more until it is told."""
        if any(number == sock.fileno() for x in self._listeners() for sock in x.sockets):
            self._deaf[child.pid, number] = child
            self.look_soon()

    def look_soon(self) -> None:
        """Somebody seems to have shut a listener down; look when no caller is using it."""
        self._master.loop.timers.set("listening", monotonic(), self.look)

    def look(self) -> None:
        """See whether all listeners let clients in; repair those that do not."""
        if self._ours():
            for listener in self._listeners():
                if listener.shut_down():
                    self._repair(listener)
                elif listener.broken:
                    self._let_in(listener)
        self._tell()

    def why_not(self) -> str:
        """Why clients cannot reach a listener; empty when they can reach all."""
        found = (unreachable(listener) for listener in self._master.generation.listeners)
        return next(filter(None, found), "")

    def restore(self, addresses: tuple[Address, ...]) -> None:
        """Before a reload: have all of these that cannot be reached listened on anew. Raises BindError."""
        for listener in self._listeners():
            if listener.wanted not in addresses or not self._ours():
                continue
            if listener.unlinked or listener.shut_down():
                unlinked = listener.unlinked
                self._listen_anew(listener)
                what = (
                    "the socket file had been removed or replaced"
                    if unlinked
                    else "it was shut down"
                )
                self._master.log.warning(f"{listener.name}: {what}; listening anew")
        self._tell()

    def restore_what_can_be(self, addresses: tuple[Address, ...]) -> None:
        """The same for a master that has taken over: there was no reload to be refused."""
        try:
            self.restore(addresses)
        except BindError as error:
            self._master.log.error(str(error))

    def restore_own(self) -> None:
        """Make the control socket again if its file is gone, and those of the admin endpoint and the health
        listener. The service does not depend on them."""
        master = self._master
        try:
            master.control.restore()
        except BindError as error:
            master.log.error(str(error))
        for server in master.page_servers():
            try:
                if server.restore():
                    master.log.warning(
                        f"{server.name}: the socket file had been removed or replaced; listening anew"
                    )
            except BindError as error:
                master.log.error(str(error))

    # ---- one listener ---------------------------------------------------------------------

    def _repair(self, listener: Listener) -> None:
        master, now = self._master, monotonic()
        if now < self._not_before:
            master.loop.timers.set("listening", self._not_before, self.look)
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
                master.last_error = why
                master.log.error(f"{why}\n{who}")
                self._watch_the_others()
        else:
            master.log.error(
                f"{listener.name}: the listening socket was shut down; listening anew\n{who}"
            )

    def _who(self, listener: Listener) -> str:
        """What can be known of it: the kernel does not say who called shutdown(2)."""
        master = self._master
        children = {
            child.pid: f"worker {child.slot} (pid {child.pid})" for child in master.children
        }
        numbers = {sock.fileno() for sock in listener.sockets}
        noticed = [
            children[pid] for pid, number in self._deaf if number in numbers and pid in children
        ]
        known = {os.getpid(), *children, *master.template_pids()}
        others = [text for sock in listener.sockets for text in sockets.other_holders(sock, known)]
        return (
            "not by forkd: by the application, or by a process that has a copy of the socket; noticed by "
            + (", ".join(noticed[:_MOST_NAMED]) or "the master")
            + (f"; also held by {', '.join(others[:_MOST_NAMED])}" if others else "")
        )

    def _listen_anew(self, listener: Listener) -> None:
        """Raises BindError."""
        self._not_before = monotonic() + _PAUSE_SECONDS
        if listener.wanted.kind == "unix":
            # A new master that is about to take over has the old socket, or one without a file.
            self._master.cancel_upgrade("a listener was made anew meanwhile; try again")
        self._master.leadership.rest()  # before descriptors get other sockets
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
            self._master.leadership.listen()
        self._master.generation.defer()

    def _replace(self, listener: Listener, old: socket.socket, made: socket.socket) -> None:
        """Give the descriptor of the old socket to another one, here and in all that have it."""
        master, number = self._master, old.fileno()
        if master.generation.master_accepts:
            rest = socket.socket(fileno=os.dup(number))
            rest.setblocking(False)
            master.dispatcher.ending.append(
                Listener(listener.wanted, listener.name, listener.backlog, [rest])
            )
        os.dup2(made.fileno(), number, inheritable=False)
        made.close()
        self._send(number, anew=True)
        master.templates.relisten(number)
        master.notifier.renewed(listener)

    def _let_in(self, listener: Listener) -> None:
        """It listens again, and not by us."""
        listener.broken = ""
        self._watch_the_others()
        for sock in listener.sockets:
            self._send(sock.fileno(), anew=False)

    def _watch_the_others(self) -> None:
        self._master.leadership.rest()
        self._master.leadership.listen()

    # ---- the children ---------------------------------------------------------------------

    def _send(self, number: int, anew: bool) -> None:
        for child in self._master.children:
            child.channel.send(Relisten(number, anew, number if anew else -1))
            self._deaf.pop((child.pid, number), None)

    def _tell(self) -> None:
        """Children that have found a listener shut down after it was listened on anew: what they were told
        may not have reached them, so they get the socket."""
        listening = {
            sock.fileno()
            for listener in self._listeners()
            for sock in listener.sockets
            if not listener.broken and not sockets.is_shut_down(sock)
        }
        alive = set(self._master.children)
        for (pid, number), child in list(self._deaf.items()):
            if child not in alive:
                del self._deaf[pid, number]
            elif number in listening:
                child.channel.send(Relisten(number, True, number))
                del self._deaf[pid, number]

    def _ours(self) -> bool:
        """Whether this master has to do it: not one that stops, whose children shut the listeners down, nor
        one beside which another one is responsible."""
        master = self._master
        return master.owns and not master.handed_over and not master.ending.stopping

    def _listeners(self) -> list[Listener]:
        master = self._master
        return list(dict.fromkeys(master.generation.listeners + master.reloader.listeners()))
