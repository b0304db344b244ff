"""USR2: a new forkd takes over from this one, with the same listeners.

The old master executes the new program (the same command, which may by now be other code, another
Python, another virtual environment) and hands it, in one environment variable, the descriptors of
the listeners, of the control, admin and health sockets and of the pid file, and one end of a socketpair,
the link. The new master boots its children, says over the link that it serves or why it cannot, and
only then does the old one retire its own. Until that word everything stays as it was. Counters
follow over the link: once at the handover, and what the last old children added, at the end.

The pid file's lock belongs to the open file, which both have: it is never free in between.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from forkd import interpreter
from forkd.address import Address
from forkd.errors import ForkdError, SystemCallError
from forkd.logger.destinations import Standard
from forkd.sources import Sources
from forkd.supervise.control import Request
from forkd.supervise.notify import Manager
from forkd.system import process
from forkd.system.socket_files import PUBLIC, Permissions
from forkd.system.sockets import Listener

if TYPE_CHECKING:
    from forkd.supervise.master import Master

_VARIABLE = "FORKD_INTERNAL_UPGRADE"
_MAX_WORDS = 1 << 16  # bytes
#: For a new master to start, besides what it waits for.
_SPARE_SECONDS = 10.0


class Link:
    """One end of the socketpair between the two masters: lines of JSON."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._partial = b""

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: dict[str, Any]) -> None:
        try:
            self._sock.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # the other master is gone; its pidfd or EOF says so

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """(messages, whether the other side is gone)."""
        try:
            data = self._sock.recv(1 << 20, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return [], False
        except OSError:
            data = b""
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [json.loads(line) for line in lines], not data

    def close(self) -> None:
        self._sock.close()


@dataclass(frozen=True)
class Inheritance:
    """What a new master was handed by the old one."""

    sources: Sources
    generation: int
    listeners: list[Listener]
    control: int
    admin: int | None
    health: int | None
    own_files: dict[str, int]  # the inodes of the socket files of these two
    pidfile: int
    link: Link
    activated: tuple[Address, ...]
    manager: Manager
    first: int | None = None  # pidfd of the process that stays in the foreground, with which the service ends


def inherited(environ: MutableMapping[str, str]) -> Inheritance | None:
    """Take the variable out of `environ`, so that no application sees it, and read it."""
    text = environ.pop(_VARIABLE, None)
    if text is None:
        return None
    found = json.loads(text)
    made = Inheritance(
        sources=Sources(**found["sources"]),
        generation=found["generation"],
        listeners=[_listener(item) for item in found["listeners"]],
        control=found["control"],
        admin=found["admin"],
        health=found.get("health"),  # an older forkd has no such listener
        own_files=found.get("own_files", {}),  # an older forkd does not say
        pidfile=found["pidfile"],
        link=Link(socket.socket(fileno=found["link"])),
        activated=tuple(Address(**item) for item in found["activated"]),
        manager=Manager(**found["manager"]),
        first=_own(found.get("first")),  # an older forkd has none
    )
    if "stderr" in found:  # an older forkd has left that as it is
        os.dup2(found["stderr"], 2)
        os.close(found["stderr"])
    return made


def _own(fd: int | None) -> int | None:
    if fd is not None:
        os.set_inheritable(fd, False)
    return fd


def _listener(item: dict[str, Any]) -> Listener:
    sockets = [socket.socket(fileno=fd) for fd in item["fds"]]
    for sock in sockets:
        sock.set_inheritable(False)
        sock.setblocking(False)
    made = Listener(
        Address(**item["wanted"]), item["name"], item["backlog"], sockets,
        private=item.get("private", False),  # an older forkd does not say whose workers have it
        permissions=Permissions(**item["permissions"]) if "permissions" in item else PUBLIC,
    )  # fmt: skip
    made.file_inode = item["file"] if "file" in item else made.found_inode()
    return made


class Upgrade:
    """The old master's side of one upgrade."""

    def __init__(self, master: Master, request: Request | None) -> None:
        """Start the new program. Raises ForkdError when it cannot be forked."""
        self._master = master
        self._request = request
        self._decided = False
        ours, theirs = socket.socketpair()
        self._link = Link(ours)
        # What the new program says before it is a master: that there is no forkd any more, for one.
        try:
            self._words = process.make_memfd("forkd-upgrade")
        except OSError as error:
            for end in (ours, theirs):
                end.close()
            raise ForkdError(f"upgrade: {process.why_no_fork(error)}") from error
        handed = self._describe(theirs.fileno())
        master.leadership.lend()

        def execute() -> NoReturn:
            assert master.launch.standard is not None
            try:
                _execute(handed, master.launch.standard, self._words)
            except ForkdError as error:
                Link(theirs).send({"ok": False, "text": str(error)})
                os._exit(1)

        try:
            self.pid, self._pidfd = process.fork_away(execute)
        except OSError as error:
            ours.close()
            os.close(self._words)
            raise ForkdError(f"upgrade: {process.why_no_fork(error)}") from error
        finally:
            theirs.close()
        master.log.info(f"upgrade: pid {self.pid} is starting")
        master.loop.watch(ours.fileno(), self._hear)
        config = master.generation.config
        if config.boot_timeout:
            # It keeps that time itself, after a hook, unless it hangs before it can.
            seconds = config.boot_timeout + (config.timeout or config.boot_timeout) + _SPARE_SECONDS
            master.loop.timers.set("upgrade", monotonic() + seconds, partial(self._late, seconds))

    def _describe(self, link: int) -> dict[str, Any]:
        master = self._master
        assert master.launch.pidfile is not None
        return {
            "sources": asdict(master.sources),
            "generation": master.generation.number,
            "listeners": [
                {
                    "wanted": asdict(x.wanted), "name": x.name, "backlog": x.backlog,
                    "private": x.private, "file": x.file_inode, "permissions": asdict(x.permissions),
                    "fds": [sock.fileno() for sock in x.sockets],
                }
                for x in master.generation.listeners
            ],
            "control": master.control.sock.fileno(),
            "admin": None if master.admin is None else master.admin.fileno(),
            "health": None if master.health is None else master.health.fileno(),
            "own_files": {
                who: server.listener.file_inode
                for who, server in (("admin", master.admin), ("health", master.health))
                if server is not None and server.listener.file_inode is not None
            },
            "pidfile": master.launch.pidfile.fd,
            "link": link,
            "activated": [asdict(address) for address in master.launch.activated],
            "manager": asdict(master.launch.manager),
            "first": master.launch.first,
        }  # fmt: skip

    def _hear(self) -> None:
        messages, gone = self._link.receive()
        for message in messages:
            self._decide(message["ok"], message["text"])
        if gone:
            words = os.pread(self._words, _MAX_WORDS, 0).decode("utf-8", "replace").strip()
            # It is init's child, so nobody here learns how it has ended.
            why = f":\n{words}" if words else f", without a word: {shlex.join(interpreter.command('start'))}"
            self._decide(False, f"the new master (pid {self.pid}) ended before it served{why}")

    def _decide(self, ok: bool, text: str) -> None:
        if self._decided:
            return
        self._decided = True
        self._master.loop.timers.cancel("upgrade")
        self._master.loop.unwatch(self._link.fileno())
        os.close(self._pidfd)
        os.close(self._words)
        if self._request is not None:
            self._request.answer(pid=self.pid) if ok else self._request.refuse(text)
        if ok:
            self._master.log.info(f"upgrade: pid {self.pid} serves; retiring")
            self._master.notifier.main(self.pid)
            self.send_counters()
            self._master.hand_over()
            return
        if self._master.ending.begun:
            self._master.log.info(f"upgrade given up: {text}")
        else:
            self._master.log.error(f"upgrade failed; this master goes on:\n{text}")
        self._link.close()
        self._master.upgrade_failed()

    def _late(self, seconds: float) -> None:
        process.send_signal(self._pidfd, signal.SIGKILL)
        self._decide(False, f"the new master (pid {self.pid}) has said nothing for {seconds:g} s; killed")

    def cancel(self, why: str) -> None:
        """End the new master, unless it serves already."""
        if not self._decided:
            process.send_signal(self._pidfd, signal.SIGKILL)
            self._decide(False, why)

    def send_counters(self) -> None:
        """At the handover, and once more when the last of our children is gone."""
        master = self._master
        master.logs.count()
        self._link.send(
            {
                "counters": master.board.export({c.slot: c.look_at_cpu() for c in master.children}),
                "high_water": master.high_water.export(),
                "exits": master.exits,
                "untimely": master.departures.untimely,
                "reloads": master.reloader.results,
                "doorbell": master.doorbell.counters(),
            }
        )


class Succession:
    """The new master's side: counters of the master before it.

    Verbs and scrapes are answered from the first message on, so that no counter is seen to go back.
    """

    def __init__(self, master: Master, link: Link) -> None:
        self._master = master
        self._link = link
        self._absorbed: list[list[int]] | None = None
        master.loop.watch(link.fileno(), self._hear)

    def _hear(self) -> None:
        master = self._master
        messages, gone = self._link.receive()
        for message in messages:
            master.board.absorb(message["counters"], self._absorbed)
            if self._absorbed is None:
                master.exits.update(message["exits"])
                master.departures.untimely.update(message.get("untimely", {}))  # not of versions before
                master.reloader.results.update(message["reloads"])
                master.doorbell.absorb(message["doorbell"])
                master.high_water.absorb(message.get("high_water", {}))  # an older forkd has none
                master.answer_verbs()
                master.notifier.ready()  # as the main process now
            self._absorbed = message["counters"]
        if gone:
            if self._absorbed is None:
                master.answer_verbs()  # it died before it could hand over
            master.loop.unwatch(self._link.fileno())
            self._link.close()


def _execute(handed: dict[str, Any], standard: Standard, words: int) -> NoReturn:
    """In the forked process: become the new program, whose stderr is `words` until it is forkd's (see
    `inherited`). Raises SystemCallError."""
    fds = [fd for item in handed["listeners"] for fd in item["fds"]]
    fds += [handed["control"], handed["pidfile"], handed["link"]]
    fds += [fd for fd in (handed["admin"], handed["health"], handed["first"]) if fd is not None]
    for fd in fds:
        os.set_inheritable(fd, True)
    standard.hand_on()
    handed["stderr"] = os.dup(2)
    os.set_inheritable(handed["stderr"], True)
    environ = {**os.environ, _VARIABLE: json.dumps(handed)}
    program = interpreter.command("start")
    os.dup2(words, 2)
    process.unblock()
    try:
        os.execve(program[0], program, environ)
    except OSError as error:
        raise SystemCallError("execve", program[0], error) from error
