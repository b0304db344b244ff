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
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, NoReturn

from forkd.config import Config
from forkd.config.sources import Sources
from forkd.errors import ForkdError, SystemCallError
from forkd.ipc.control import Command
from forkd.ipc.handover import VARIABLE, HandoverChannel
from forkd.log.lines import Log
from forkd.logger.destinations import Standard
from forkd.master.children import Child
from forkd.master.doorbell import Doorbell
from forkd.master.endpoints import Endpoints
from forkd.master.generation import Generation
from forkd.master.high_water import HighWater
from forkd.master.launch import Launch
from forkd.master.storage import SharedTables
from forkd.system import interpreter, process
from forkd.system.loop import Loop
from forkd.system.scoreboard import Scoreboard

_MAX_WORDS_BYTES = 1 << 16
#: For a new master to start, besides what it waits for.
_SPARE_SECONDS = 10.0


class Upgrade:
    """The old master's side of one upgrade."""

    def __init__(
        self,
        loop: Loop,
        log: Log,
        standard: Standard,
        describe: Callable[[int], dict[str, Any]],
        command: Command | None,
        seconds: float,
        *,
        serves: Callable[[Upgrade, list[str]], None],
        failed: Callable[[str], None],
    ) -> None:
        """Start the new program. `describe` says what it is handed, given the descriptor of its end of the
        link. It has `seconds` to serve; 0: as long as it takes. `serves` is told the names of the listeners
        that it does not keep. Raises ForkdError when the program cannot be started."""
        self.succeeded = False
        self._loop = loop
        self._command = command
        self._decided = False
        self._serves = serves
        self._failed = failed
        ours, theirs = socket.socketpair()
        self._link = HandoverChannel(ours)
        # What the new program says before it is a master: that there is no forkd any more, for one.
        try:
            self._words = process.make_memfd("forkd-upgrade")
        except OSError as error:
            for end in (ours, theirs):
                end.close()
            raise ForkdError(f"upgrade: {process.why_no_fork(error)}") from error
        handed = describe(theirs.fileno())

        def execute() -> NoReturn:
            try:
                _execute(handed, standard, self._words)
            except ForkdError as error:
                HandoverChannel(theirs).send({"ok": False, "text": str(error)})
                os._exit(1)

        try:
            self.pid, self._pidfd = process.fork_away(execute)
        except OSError as error:
            ours.close()
            os.close(self._words)
            raise ForkdError(f"upgrade: {process.why_no_fork(error)}") from error
        finally:
            theirs.close()
        log.info(f"upgrade: pid {self.pid} is starting")
        loop.watch(ours.fileno(), self._hear)
        if seconds:
            loop.timers.set("upgrade", monotonic() + seconds, partial(self._late, seconds))

    @property
    def under_way(self) -> bool:
        return not self._decided

    def _hear(self) -> None:
        messages, gone = self._link.receive()
        for message in messages:
            # An older forkd keeps all listeners that it is handed.
            self._decide(message["ok"], message["text"], message.get("dropped", []))
        if gone:
            words = os.pread(self._words, _MAX_WORDS_BYTES, 0).decode("utf-8", "replace").strip()
            # It is init's child, so nobody here learns how it has ended.
            why = f":\n{words}" if words else f", without a word: {shlex.join(interpreter.command('start'))}"
            self._decide(False, f"the new master (pid {self.pid}) ended before it served{why}")

    def _decide(self, ok: bool, text: str, dropped: list[str] | None = None) -> None:
        if self._decided:
            return
        self._decided = True
        self._loop.timers.cancel("upgrade")
        self._loop.unwatch(self._link.fileno())
        os.close(self._pidfd)
        os.close(self._words)
        if ok:
            self.succeeded = True
            self._serves(self, dropped or [])
            return
        if self._command is not None:
            self._command.refuse(text)
        self._link.close()
        self._failed(text)

    def answer(self) -> None:
        """Our children accept nothing that comes after this."""
        if self._command is not None:
            self._command.answer(pid=self.pid)

    def _late(self, seconds: float) -> None:
        process.send_signal(self._pidfd, signal.SIGKILL)
        self._decide(False, f"the new master (pid {self.pid}) has said nothing for {seconds:g} s; killed")

    def cancel(self, why: str) -> None:
        """End the new master, unless it serves already."""
        if not self._decided:
            process.send_signal(self._pidfd, signal.SIGKILL)
            self._decide(False, why)

    def send(self, counters: dict[str, Any]) -> None:
        """At the handover, and once more when the last of our children is gone."""
        self._link.send(counters)


def seconds_for(config: Config) -> float:
    """Within which a new master has to serve. It keeps that time itself, after a hook, unless it hangs before
    it can. 0: as long as it takes."""
    if not config.boot_timeout:
        return 0.0
    return config.boot_timeout + (config.timeout or config.boot_timeout) + _SPARE_SECONDS


def describe(
    link: int,
    *,
    sources: Sources,
    generation: Generation,
    launch: Launch,
    endpoints: Endpoints,
    shared: SharedTables,
) -> dict[str, Any]:
    """What a new master is handed; `link` is a descriptor."""
    assert launch.pidfile is not None
    return {
        "sources": asdict(sources),
        "generation": generation.number,
        "listeners": [
            {
                "wanted": x.wanted.fields(), "name": x.name, "backlog": x.backlog,
                "private": x.private, "file": x.file_inode, "permissions": asdict(x.permissions),
                "fds": [sock.fileno() for sock in x.sockets],
            }
            for x in generation.listeners
        ],
        "control": endpoints.control.sock.fileno(),
        "admin": None if endpoints.admin is None else endpoints.admin.fileno(),
        "health": None if endpoints.health is None else endpoints.health.fileno(),
        "own_files": {
            who: server.listener.file_inode
            for who, server in (("admin", endpoints.admin), ("health", endpoints.health))
            if server is not None and server.listener.file_inode is not None
        },
        "pidfile": launch.pidfile.fd,
        "link": link,
        "activated": [address.fields() for address in launch.activated],
        "manager": asdict(launch.manager),
        "first": launch.first,
        "storage": shared.hand_over(),
    }  # fmt: skip


class Counters(NamedTuple):
    """What a master has counted, where it counts it; `export` is what the next one goes on from."""

    board: Scoreboard
    high_water: HighWater
    exits: Counter[str]
    untimely: Counter[str]
    reloads: Counter[str]
    doorbell: Doorbell

    def export(self, children: Iterable[Child]) -> dict[str, Any]:
        return {
            "counters": self.board.export({c.slot: c.look_at_cpu() for c in children}),
            "high_water": self.high_water.export(),
            "exits": self.exits,
            "untimely": self.untimely,
            "reloads": self.reloads,
            "doorbell": self.doorbell.counters(),
        }

    def absorb(self, found: dict[str, Any], absorbed: list[list[int]] | None) -> None:
        """Go on from another master's. `absorbed`: cells of the scoreboard that it has sent before; then
        nothing else has changed."""
        self.board.absorb(found["counters"], absorbed)
        if absorbed is None:
            self.exits.update(found["exits"])
            self.untimely.update(found.get("untimely", {}))  # not of versions before
            self.reloads.update(found["reloads"])
            self.doorbell.absorb(found["doorbell"])
            self.high_water.absorb(found.get("high_water", {}))  # an older forkd has none


class Succession:
    """The new master's side: counters of the master before it.

    Verbs and scrapes are answered from the first message on, so that no counter is seen to go back.
    """

    def __init__(
        self,
        loop: Loop,
        link: HandoverChannel,
        counters: Counters,
        *,
        heard: Callable[[], None],
        dead: Callable[[], None],
    ) -> None:
        """`heard` is called when the counters are there; `dead` when the old master has ended without."""
        self._loop = loop
        self._link = link
        self._counters = counters
        self._heard = heard
        self._dead = dead
        self._absorbed: list[list[int]] | None = None
        loop.watch(link.fileno(), self._hear)

    def _hear(self) -> None:
        messages, gone = self._link.receive()
        for message in messages:
            first = self._absorbed is None
            self._counters.absorb(message, self._absorbed)
            self._absorbed = message["counters"]
            if first:
                self._heard()
        if gone:
            if self._absorbed is None:
                self._dead()
            self._loop.unwatch(self._link.fileno())
            self._link.close()


def _execute(handed: dict[str, Any], standard: Standard, words: int) -> NoReturn:
    """In the forked process: become the new program, whose stderr is `words` until it is forkd's (see
    `inherited`). Raises SystemCallError."""
    fds = [fd for item in handed["listeners"] for fd in item["fds"]]
    fds += [handed["control"], handed["pidfile"], handed["link"]]
    fds += handed["storage"].get("tables", {}).values()
    fds += [fd for fd in (handed["admin"], handed["health"], handed["first"]) if fd is not None]
    for fd in fds:
        os.set_inheritable(fd, True)
    standard.hand_on()
    handed["stderr"] = os.dup(2)
    os.set_inheritable(handed["stderr"], True)
    environ = {**os.environ, VARIABLE: json.dumps(handed)}
    program = interpreter.command("start")
    os.dup2(words, 2)
    process.unblock()
    try:
        os.execve(program[0], program, environ)
    except OSError as error:
        raise SystemCallError("execve", program[0], error) from error
