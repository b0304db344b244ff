"""What a start would bind, lock and open, tried as far as that changes nothing. For `forkd check`.

What the running daemon of this name holds itself is no hindrance: `forkd check && forkd reload` is how it is
used. So its master is asked what it has; anything else that is held is an error that names the holder.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from forkd.command.start import error_log_of
from forkd.config import Config
from forkd.config.sources import Sources
from forkd.errors import BindError, ForkdError, NotRunning, StartError, SystemCallError
from forkd.ipc.control import ANOTHER_CONTROL, ask
from forkd.ipc.pidfile import require_file, require_ours, running
from forkd.log.lines import try_log
from forkd.models import registry
from forkd.system.address import Address
from forkd.system.attempts import clash, try_directory, try_listen, try_name
from forkd.system.socket_files import require_free
from forkd.system.sockets import tcp_holders


@dataclass
class Findings:
    """`problems` would end a start; what is `held`, the running daemon has; `notes` are worth knowing."""

    problems: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pid: int = 0  # of the running master; 0: there is none

    def attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except ForkdError as error:
            self.problems.append(str(error))
        except OSError as error:
            self.problems.append(str(error))


@dataclass(frozen=True)
class _Running:
    """The running daemon of this name, and what its master says that it has."""

    pid: int = 0
    binds: dict[str, int] = field(default_factory=dict)  # the number of sockets of each, as it is written
    own: dict[str, str] = field(default_factory=dict)  # admin and health, as far as set
    activated: bool = False  # its sockets are the service manager's


def probe(sources: Sources, config: Config) -> Findings:
    """Try everything but the application."""
    found = Findings()
    daemon = _running(sources, config, found)
    found.pid = daemon.pid
    if not daemon.pid:
        found.attempt(lambda: _pidfile(config.pidfile))
        found.attempt(lambda: _control(config))
    _addresses(config, daemon, found)
    made = {os.path.dirname(path) for path in (config.pidfile, config.control)}
    for kind, path in _logs(config, found):
        try:
            try_log(path)
        except FileNotFoundError:
            directory = os.path.dirname(path)
            if directory not in made or os.path.lexists(directory):  # else a start makes it
                found.attempt(lambda kind=kind, path=path: try_directory(kind, path))  # type: ignore[misc]
        except OSError as error:
            why = f": {error.strerror}" if error.errno == errno.ELOOP else ""
            found.problems.append(f"{SystemCallError(kind, path, error)}{why}")
    return found


def _running(sources: Sources, config: Config, found: Findings) -> _Running:
    try:
        pid = running(config.pidfile, config.control)
    except NotRunning:
        return _Running()
    except ForkdError as error:
        found.problems.append(str(error))
        return _Running()
    try:
        status = ask(config.control, "status")["status"]
        started = ask(config.control, "sources")
    except ForkdError as error:
        found.problems.append(
            f"{error}; so nobody says what the running daemon (pid {pid}) holds: is this its --control?"
        )
        return _Running(pid)
    found.held += ["the pid file", "the control socket"]
    _room(config, status, found)
    for why in (*status.get("own_broken", {}).values(), *(x.get("broken") for x in status["listeners"])):
        if why:
            found.notes.append(f"the running daemon cannot be reached at {why}")
    dropped = status.get("totals", {}).get("forwarded_dropped", ())  # not in another version's
    if dropped:
        found.notes.append(_about_dropped(dropped))
    path = started["sources"]["path"]
    if path != sources.path:
        reads = f"reads {path}" if path else "reads no configuration file"
        here = f"what was checked is {sources.path}" if sources.path else "none was checked"
        found.notes.append(f"the running daemon {reads}, so that is what a reload reads; {here}")
    return _Running(
        pid,
        {name: x.get("sockets", 1) for x in status["listeners"] for name in _names(x)},
        {who: status[who] for who in ("admin", "health") if status.get(who)},
        started["activated"],
    )


#: Why a field of proxies was dropped (http.forwarded.Drop), as an operator would say it.
_WHY_DROPPED = {
    "untrusted": "came from peers that are none of --forwarded-allow",
    "not-chosen": "are none of --forwarded-fields",
    "malformed": "were malformed",
}


def _about_dropped(dropped: list[dict[str, Any]]) -> str:
    by_reason: dict[str, list[str]] = {}
    for row in dropped:
        name = "x-forwarded-… of another name" if row["field"] == "other" else row["field"]
        by_reason.setdefault(row["reason"], []).append(f"{name} ({row['count']})")
    said = "; ".join(
        f"{', '.join(names)} {_WHY_DROPPED.get(reason, reason)}" for reason, names in by_reason.items()
    )
    return f"the running daemon has kept fields of proxies from the application: {said} (docs/proxies.md)"


def _room(config: Config, status: dict[str, Any], found: Findings) -> None:
    """The scoreboard is made at the start: a reload fits into it, or is refused (master/reload.py)."""
    most, lanes = status["master"].get("max_workers"), status["master"].get("lanes")
    if most is not None and config.workers.max > most:
        found.problems.append(
            f"workers {config.workers}: the running daemon has room for {most} (--max-workers): a reload is "
            "refused; forkd restart works"
        )
    if lanes is not None and registry.lanes(config) > lanes:
        found.problems.append(
            f"model {config.model}: it needs more rows of the scoreboard than the running daemon has: a "
            "reload is refused; forkd restart works"
        )


def _names(listener: dict[str, Any]) -> set[str]:
    """As it is written in the configuration, which a master of another version may not say, with its options
    and without, and as it is."""
    bind = listener.get("bind", listener["address"])
    with suppress(ValueError):  # another version may have other options
        return {listener["address"], bind, Address.parse(bind).place}
    return {listener["address"], bind}


# ---- addresses ----------------------------------------------------------------------------


def _addresses(config: Config, daemon: _Running, found: Findings) -> None:
    copies = config.workers.max if config.accept == "reuseport" else 0
    binds: tuple[Address, ...] = config.bind
    if daemon.activated and config.bind == Config().bind:
        found.held.append("the sockets of the service manager")
        binds = ()
    for address in binds:
        sockets = daemon.binds.get(str(address), daemon.binds.get(address.place))
        if sockets is None or address.any_port:
            _try(address, copies, daemon, found)
        elif sockets != max(1, copies):
            found.problems.append(
                f"bind {address}: the running daemon (pid {daemon.pid}) has {sockets} sockets there, and "
                f"with this configuration it would have {max(1, copies)} (--accept reuseport has one for "
                "each worker): a reload is refused; forkd restart works"
            )
        else:
            found.held.append(str(address))
    own = {"admin": config.admin, "health": config.health}
    mine = {who: address for who, address in own.items() if address is not None}
    for who, address in mine.items():
        if address.place == daemon.own.get(who) and not address.any_port:
            found.held.append(f"{address} ({who})")
        else:
            _try(address, 0, daemon, found, f"{who}: ")
            if daemon.pid and not address.any_port:
                found.notes.append(
                    f"{who} {address}: at a reload the running daemon keeps what it has "
                    f"({daemon.own.get(who, 'none')}); forkd restart changes it"
                )
    for first, second in combinations([*binds, *mine.values()], 2):
        with suppress(OSError):  # an unknown host has been told of
            if clash(first, second) and (not copies or second in mine.values()):
                found.problems.append(f"bind {second}: {first} has that port already")


def _try(address: Address, copies: int, daemon: _Running, found: Findings, who: str = "") -> None:
    try:
        if who:  # the master's own servers have one address
            try_listen(address, copies)
        else:
            found.notes += try_name(address, copies)
    except BindError as error:
        text = f"{who}{error}"
        if daemon.pid and address.kind.startswith("tcp") and tcp_holders(address.port) == [daemon.pid]:
            text += (
                ", the running daemon of this name, by another address: a reload cannot change that; forkd "
                "restart can"
            )
        found.problems.append(text)


# ---- files --------------------------------------------------------------------------------


def _pidfile(path: str) -> None:
    """Raises SystemCallError, BindError or StartError where a start could not write it."""
    require_ours(_made_in(path))
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        try_directory("open", os.path.join(_made_in(path), os.path.basename(path)))
        return
    except OSError as error:
        raise SystemCallError("open", path, error) from error
    try:
        require_file(path, fd)
    finally:
        os.close(fd)


def _control(config: Config) -> None:
    require_ours(_made_in(config.control))
    require_free(config.control, f"control {config.control}", ANOTHER_CONTROL)
    try:
        try_directory("bind", os.path.join(_made_in(config.control), os.path.basename(config.control)))
    except BindError as error:
        raise BindError(f"control {config.control}: {error}") from error


def _made_in(path: str) -> str:
    """The directory of the file, or the one that a start would make it in."""
    directory = os.path.dirname(path)
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    if not os.path.isdir(directory):
        raise SystemCallError("mkdir", directory, NotADirectoryError(errno.ENOTDIR, "Not a directory"))
    return directory


def _logs(config: Config, found: Findings) -> Iterator[tuple[str, str]]:
    """(what it is, path) of each log that is a file."""
    try:
        error_log = error_log_of(config)
    except StartError as error:
        found.problems.append(str(error))
    else:
        if error_log is not None:
            yield "error log", error_log
    if config.access_log not in (None, "-"):
        yield "access log", config.access_log
