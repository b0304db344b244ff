"""A generation: configuration, listeners and accept lock as one value. In the master; the command asks
here for the directory and the permissions that a start would have.

A reload makes a new one beside the old. Listeners for addresses that both have are the same
objects: their sockets, and what waits in their queues, pass from one to the next.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field

from forkd.app import interfaces
from forkd.config import Config
from forkd.errors import BindError, StartError, SystemCallError
from forkd.ipc.heritage import Listening, sockets_of
from forkd.log.lines import Log
from forkd.metrics.access import Access
from forkd.models import registry
from forkd.models.unused import unused
from forkd.session.begin import Begin
from forkd.system import host_names, process
from forkd.system.address import Address
from forkd.system.fd_passing import Queue, make_queue
from forkd.system.lease import Lease
from forkd.system.socket_files import Permissions
from forkd.system.sockets import Listener

#: Descriptors of a child besides its connections: forkd's own, and some for the application.
_SPARE_DESCRIPTORS = 64


@dataclass(eq=False)
class Generation:
    number: int
    config: Config
    begins: dict[Listener, Begin]  # what connections begin with, by listener
    lease: Lease | None
    want: int  # children, now
    least: int  # children, when idle
    most: int  # children, under load
    master_accepts: bool = False  # and hands sockets to the children
    queue: Queue | None = None  # one for all: dispatch = competition
    interface: str = ""  # the name of its row in app/interfaces.py, once a child has said it
    loop: str = ""  # the event loop of its children, likewise
    tasks: str = ""  # how its workers make the tasks of requests, likewise; "" where they make none
    exposed: bool = False  # processes of other ids than the master's have its listeners
    last: bool = False  # no child will accept after it, on some of its listeners or on all
    left_out: list[str] = field(default_factory=list)  # lines for the log
    directory: int = -1  # an open file: where its children begin, whatever has that name by then
    access: Access = field(default_factory=Access)  # to the pages of the admin endpoint

    @classmethod
    def build(
        cls, number: int, config: Config, binds: tuple[Address, ...], bells: list[int],
        known: list[Listener],
    ) -> Generation:  # fmt: skip
        """Bind what is new, take over what is known. Raises BindError or StartError, leaving nothing
        behind."""
        access = Access.of(config)
        directory = open_directory(config)
        copies = config.workers.max if config.accept == "reuseport" else 0
        permissions = permissions_of(config)
        spare = list(known)
        made: list[Listener] = []
        begins: dict[Listener, Begin] = {}
        left_out: list[str] = []
        dispatched = registry.get(config.model).master_accepts
        try:
            for address in binds:
                olds = _known(address, spare)
                for old in olds:
                    _require_fit(old, copies)
                    spare.remove(old)
                new: list[Listener] = []
                if not olds:
                    new, lines = _listen(address, config.backlog, copies, permissions)
                    made += new
                    left_out += lines
                for listener in olds or new:
                    begins[listener] = Begin.of(address, config, *_server_of(listener))
            lease = Lease(bells) if config.accept == "lock" and not dispatched else None
            queue = make_queue() if dispatched and config.dispatch == "competition" else None
        except BaseException as error:
            for listener in made:
                listener.close()
            os.close(directory)
            if isinstance(error, OSError):
                raise StartError(f"no room for a generation: {error.strerror}") from error
            raise
        workers = config.workers
        return cls(
            number,
            config,
            begins,
            lease,
            workers.min,
            workers.min,
            workers.max,
            dispatched,
            queue,
            access=access,
            directory=directory,
            left_out=left_out,
        )

    @property
    def listeners(self) -> list[Listener]:
        return list(self.begins)

    @property
    def proof(self) -> int:
        """Children that must have been ready before it may serve: one also where none is wanted, or
        it would not be known that the application can be loaded."""
        return max(1, self.want)

    def enter(self) -> None:
        """Go to its directory, in the process that forks a child of it. Raises StartError."""
        _enter(self.directory, self.config)

    def keep_size(self, old: Generation) -> None:
        """Have as many children as `old`, where the operator or the load have set the number."""
        self.least, self.most, self.want = old.least, old.most, old.want

    def warn(self, log: Log) -> None:
        """Say what the machine will not let the children do, or the listeners be."""
        for line in self.left_out:
            log.warning(line)
        wanted, limit = self.config.worker_connections + _SPARE_DESCRIPTORS, process.descriptor_limit()
        if limit < wanted and not registry.get(self.config.model).forks:
            log.warning(
                f"worker-connections {self.config.worker_connections}: a worker may have {limit} open "
                f"files only; raise the hard limit (ulimit -Hn, LimitNOFILE=) to {wanted} or more, "
                f"or set worker-connections to {max(1, limit - _SPARE_DESCRIPTORS)} or less"
            )

        if self.config.max_rss and not process.resident_bytes(os.getpid()):
            log.warning("max-rss has no effect: /proc, which tells of memory, is not there")

    def unused(self) -> list[str]:
        """Options that were set and have no effect, in sentences, once a child is ready."""
        return unused(self.config, self.interface)

    def sockets_of(self, number: int) -> list[Listening]:
        """The listening sockets of the child with that number, and what their connections begin with."""
        return sockets_of(self.begins, number)

    def defer(self) -> None:
        """Have the kernel hold connections back until their first bytes are there, if so configured, and
        if it is the client who speaks first. To be called when the generation serves."""
        speaks = interfaces.named(self.interface)
        for listener in self.listeners:
            listener.defer(self.config.defer_accept and speaks is not None and speaks.http)

    def admit(self, log: Log) -> None:
        """Have the files of its unix sockets let those in that the configuration says, also where they are
        older than it. To be called when the generation serves."""
        for listener in self.listeners:
            try:
                listener.admit(permissions_of(self.config))
            except (BindError, StartError) as error:
                log.error(str(error))

    def all_sockets(self) -> list[socket.socket]:
        return [sock for listener in self.listeners for sock in listener.sockets]

    def close(self, keep: list[Listener]) -> None:
        """Close what `keep` does not have."""
        for listener in self.listeners:
            if listener not in keep:
                listener.close()
        for end in self.queue or ():
            end.close()
        os.close(self.directory)


def open_directory(config: Config) -> int:
    """The directory that the application is loaded from: that which has the name now, which a deploy may have
    given to another one. For fchdir(2). Raises StartError."""
    path = config.chdir
    if not path:
        raise StartError(
            "the directory that forkd was started in has been removed; start it elsewhere, or with --chdir"
        )
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StartError(str(SystemCallError("chdir", path, error))) from error


def enter_directory(config: Config) -> None:
    """In a command, which needs it no longer than to see whether that is possible. Raises StartError."""
    directory = open_directory(config)
    try:
        _enter(directory, config)
    finally:
        os.close(directory)


def _enter(directory: int, config: Config) -> None:
    try:
        os.fchdir(directory)
    except OSError as error:  # EACCES: it may be looked up, and not entered
        raise StartError(str(SystemCallError("chdir", str(config.chdir), error))) from error


def permissions_of(config: Config) -> Permissions:
    """Who may connect to its unix sockets. Raises StartError for an account that there is not."""
    return Permissions.named(config.socket_mode, config.socket_owner, config.socket_group)


def _known(address: Address, known: list[Listener]) -> list[Listener]:
    """The listener of that address, whatever options that has by now; two where it is a host's name. By their
    own name, too: it may have been bound as port 0."""
    found: dict[int, Listener] = {}
    for listener in known:
        wanted = listener.wanted
        same = address == wanted or (address.place == wanted.place and not address.any_port)
        if same or address.place == listener.name:
            found.setdefault(listener.sockets[0].family, listener)
    return list(found.values())


def _listen(
    address: Address, backlog: int, copies: int, permissions: Permissions
) -> tuple[list[Listener], list[str]]:
    try:
        return host_names.listen(address, backlog, copies, permissions)
    except (OSError, UnicodeError) as error:
        raise BindError(f"bind {address}: {error}") from error


def _server_of(listener: Listener) -> tuple[str, int]:
    """SERVER_NAME and SERVER_PORT (PEP 3333 wants both, also for a unix socket)."""
    sock = listener.sockets[0]
    if sock.family == socket.AF_UNIX:
        return "localhost", 80
    host, port = sock.getsockname()[:2]
    return str(host), int(port)


def _require_fit(listener: Listener, copies: int) -> None:
    """The sockets of a SO_REUSEPORT group have a queue each: a group that grows, shrinks or ends
    would reset the clients that wait in one of them."""
    if len(listener.sockets) != max(1, copies):
        raise BindError(
            f"bind {listener.wanted}: --accept reuseport has a socket for each worker, so a change to "
            "it, from it, or of the number of workers under it needs a restart"
        )
