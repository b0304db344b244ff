"""The seam between models and interfaces: one connection is one session.

A session is a generator. It knows protocol and application and no socket: it yields what it needs,
and a model decides who resumes it, and where. The vocabulary, complete:

==================  ==============================================  ============================
yields              meaning                                         resumed with
==================  ==============================================  ============================
`Await`             wait for the peer                               bytes (`b""` at EOF), or None
                                                                    when writable or woken
bytes, or a tuple   send these, in order                            None, once all are accepted
of them
`SendFile`          send a head, then a piece of a file             None, once all are accepted
`Exchange`          a whole request is here: the session goes on    None, where logic runs
                    in the application
`Multiplexed`       a step of this exchange is due, while the       None when that runs elsewhere;
                    session goes on                                 itself, once it has run
`HIJACK`            logic wants the socket itself, blocking         a `HijackedSocket`
==================  ==============================================  ============================

A deadline is thrown into the session as `Deadline`; it may still answer (408) and end. A client
that leaves is not an error: the generator is closed, and its `finally` clauses run. When a session
returns, the connection is closed; `return LINGER` says that the client may still be sending, so
that the close must not destroy the answer on its way (RFC 9112, 9.6). `return Become(session)` hands the
connection over to another session: before the first request (session/begin.py), or with one that is no more
HTTP, as a WebSocket's handshake.

Application code that is on the stack cannot be suspended by a yield. For it `Peer` has one call
that blocks, to send: `push`. None that receives: a worker never waits for what a client may send.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, Protocol

from forkd.system.forked import in_fork, leave
from forkd.system.handles import READ, READ_END, WRITE
from forkd.system.originals import monotonic

#: The lowest average rate, in bytes per second, at which a slow peer is kept.
SLOWEST_BYTES_PER_SECOND = 500
#: A rate so low that any byte renews the deadline.
ANY_BYTES_PER_SECOND = 1e-9


class Await:
    """Wait for the peer. Made once per interface, not per request: identity means "still waiting".

    `seconds` is the deadline, counted from when the session first yields this very object; each
    byte that arrives or leaves moves it by 1/`rate` seconds, to at most `seconds` from then.
    A rate of 0 makes it absolute. `idle` marks the state between requests, where the connection
    may be closed without loss when the process drains.

    Neither `read` nor `write`: until the session is woken, or an exchange has something for it, or the client
    has left. One that only sends no more has not left, and each read returns b"" from then on: a session that
    goes on to answer it waits without `read`. With `read_end` in place of that the session is resumed with
    b"" when the client sends no more, whatever is here unread, where the io tells that.

    `shortcut` is what native code may do with what arrives here, if that is usual, without resuming the
    session (Shortcut in native/native.h); then the connection waits in `then`, or goes on waiting here. What
    it has begun, and cannot end by itself, it resumes the session with, in place of bytes.
    """

    __slots__ = ("idle", "mask", "name", "rate", "read", "read_end", "seconds", "shortcut", "then", "write")

    def __init__(
        self,
        name: str,
        seconds: float,
        *,
        rate: float = 0,
        read: bool = True,
        write: bool = False,
        read_end: bool = False,
        idle: bool = False,
        shortcut: Any = None,
        then: Await | None = None,
    ) -> None:
        self.name = name
        self.seconds = seconds or float("inf")  # 0 is how an operator writes "no limit"
        self.rate = rate
        self.read = read
        self.write = write
        self.read_end = read_end
        #: In a handle set.
        self.mask = (READ if read else 0) | (WRITE if write else 0) | (READ_END if read_end else 0)
        self.idle = idle
        self.shortcut = shortcut
        self.then = then

    def __repr__(self) -> str:
        return f"<Await {self.name}>"


class Patience:
    """The deadline of an `Await` for code that blocks: `seconds` in all, and more for each byte, at the rate
    SLOWEST_BYTES_PER_SECOND, to at most `seconds` from then. Only time spent waiting counts."""

    __slots__ = ("_most", "left")

    def __init__(self, seconds: float) -> None:
        self._most = self.left = seconds or float("inf")

    def waited(self, since: float, moved: int) -> None:
        """The peer was waited for since then (CLOCK_MONOTONIC), and so many bytes have moved."""
        left = self.left - (monotonic() - since) + moved / SLOWEST_BYTES_PER_SECOND
        self.left = max(0.0, min(left, self._most))


class SendFile:
    """Send `head`, then `count` bytes of the open file `fd` from `offset` (sendfile(2))."""

    __slots__ = ("count", "fd", "head", "offset")

    def __init__(self, head: bytes, fd: int, offset: int, count: int) -> None:
        self.head = head
        self.fd = fd
        self.offset = offset
        self.count = count


class _Token:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


HIJACK: Final = _Token("HIJACK")
LINGER: Final = _Token("LINGER")


class Exchange:
    """One request, from the whole of it to the end of its answer, as models see it.

    Where a connection has one at a time, as in HTTP/1, its session goes on in it: so this object is the
    connection's, and used again for each request.
    """

    __slots__ = ("lent", "line")

    def __init__(self) -> None:
        #: Set by the session: of the request that the application is to answer. Empty again when it has, and
        #: none of its code is called for this request any more: what is left needs no thread of a pool.
        self.line = b""
        self.lent = 0.0  # when it came into a queue for threads, where it was in one; CLOCK_MONOTONIC


class Multiplexed(Exchange):
    """One of several exchanges of a connection at a time. It has a generator of its own.

    The session yields it to have one step of that run. Where another thread does so, the session is resumed
    with None, and later, from an Await, with the exchange; else with the exchange at once. What the step has
    yielded, the session frames and sends. So it goes on reading, and with other exchanges, while this one is
    in the application.

    A step runs in whichever thread, one at a time. `result` is what it has yielded, or, once it is `done`,
    what it has returned; `failure` what it has raised. A session closes the exchanges that it leaves behind.
    What is to be seen by `--timeout`, and in the report of a dead worker, a step reports to the Recorder.
    """

    __slots__ = ("done", "failure", "given", "over", "peer", "result", "steps")

    def __init__(self, peer: Peer, steps: Generator[Any, None, Any], line: bytes) -> None:
        """`peer`: its connection. `line`: as a request line, for what the model learns of it."""
        self.line = line
        self.lent = 0.0
        self.peer = peer
        self.steps = steps
        self.result: Any = None
        self.failure: BaseException | None = None
        self.done = False
        self.given = False  # to a thread, until the session is resumed with it
        self.over = False  # closed

    def step(self) -> Multiplexed:
        """Run one step; the last one where it is `over`, which closes it. Returns itself."""
        self.result = None
        try:
            if self.over:
                self.done = True
                self.steps.close()
            else:
                self.result = next(self.steps)
        except StopIteration as stop:
            self.result, self.done = stop.value, True
        except BaseException as failure:  # whatever it is: the others of its connection go on
            if in_fork:
                leave(failure)
            self.failure, self.done = failure, True
        if in_fork:
            leave()
        return self

    def close(self) -> None:
        """End it where it stands. Its `finally` clauses run where its steps do, once no thread has it."""
        self.over = True
        if not self.given and not self.peer.run_apart(self):
            self.step()


Op = Await | bytes | tuple[bytes | memoryview, ...] | SendFile | Exchange | _Token
Session = Generator[Any, Any, Any]


class Become:
    """What a session returns to hand its connection over to another one, which is not started yet, and was
    made with the bytes that are left over. The driver goes on with that one."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session


class Deadline(Exception):
    """Thrown into a session when the `Await` (or the write) it yielded took too long."""


class ClientGone(ConnectionError):
    """Raised by `Peer.push` into application code when the client has left."""


class FileFailed(Exception):
    """Raised by `Peer.send_file`: the file has become shorter, or cannot be read."""


class Peer(Protocol):
    """The connection as a session sees it."""

    client: str  # IP address; empty for a unix socket
    client_port: int
    server: str
    server_port: int
    #: What a proxy has said of the connection, for applications (docs/proxies.md), with the proxy's own
    #: address; None: it has sent no header of the PROXY protocol.
    proxy: dict[str, Any] | None
    fd: int  # of its socket
    sock: Any  # for its options and names; bytes go through the model
    note: Any  # what a shortcut is to know of the connection, if the session has one
    ended: bool  # forkd closes the session: a GeneratorExit in it is that close, and no failure
    exchange: Exchange  # its own, for a session that has one at a time
    direct: bool  # what is sent goes into the socket at once, and nothing else is under way there

    def run_apart(self, exchange: Multiplexed) -> bool:
        """Have a step of it run in another thread, or later. False: the caller runs it."""
        ...

    def push(self, data: bytes) -> None:
        """Send all of `data`, blocking. Raises ClientGone."""

    def send(self, data: bytes | memoryview, more: bool = False) -> int:
        """Send what can be accepted now, without blocking; return how many bytes that was. `more`: what
        follows at once may go in the same packet."""
        ...

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """As `send`, of an open file (sendfile(2)). Raises FileFailed."""
        ...

    def fill(self, buffer: memoryview | None) -> int:
        """Receive into `buffer`: what is here now, which is counted, and from then on what comes; the
        session is resumed with it, as slices of `buffer`. A driver whose bytes are received elsewhere
        resumes with bytes as usual; so does each one after `fill(None)`."""
        ...

    def shutdown(self) -> bool:
        """Send FIN: there will be no more bytes. False while some of them are under way, and it has
        to be asked for again when writable. Raises ClientGone."""
        ...

    def waited(self) -> float:
        """Seconds since the client's last byte arrived in this machine, as far as that is known."""
        ...

    def wake(self) -> None:
        """Resume the session with None, unless it runs right now: its needs have changed."""


#: What `Recorder.resume` gets where the thread works for no request: a ticket without an entry.
NO_REQUEST: Final = -1


class Recorder(Protocol):
    """The scoreboard, to which a session reports requests, and a driver the bytes of connections. A request
    that has begun has a ticket, never 0."""

    def begin(self, line: bytes, client: str = "", fd: int = -1, /) -> int: ...
    def identify(self, ticket: int, id: str, /) -> None:
        """The request that has just begun has this name."""

    def answer(self, ticket: int, /) -> None:
        """Bytes of an answer to it may be sent from here on: nobody else answers its client."""

    def pause(self) -> None:
        """As `answer`, of the request that holds the thread, which it holds no more."""

    def resume(self, ticket: int, /) -> None: ...
    def took(self, ticket: int, /) -> int: ...
    def end(self, ticket: int, status: int, took: int, /) -> bool: ...
    def add(self, cell: int, n: int = 1, /) -> None:
        """A counter of system/cells.py grows by `n`. What `end` counts: the request, its status, its time."""


class AccessLog(Protocol):
    lines: Any  # where native code puts them

    @property
    def news(self) -> bool:
        """Whether the loop has to take a turn for lines that another thread has added."""
        ...

    def add(
        self, host: str, line: bytes, status: int, size: int, referer: str, agent: str, took_ns: int,
        id: str = "", peer: str = "",
    ) -> None:  # fmt: skip
        """A request that did not reach the application. `id`: its name; `peer`: the address that it came
        from."""

    def end(
        self,
        recorder: Recorder,
        ticket: int,
        host: str,
        line: bytes,
        status: int,
        size: int,
        referer: str,
        agent: str,
        took_ns: int,
        id: str = "",
        peer: str = "",
    ) -> None:
        """A request ends: the recorder and the log get to know of it, or neither does."""


class Log(Protocol):
    def debug(self, message: str) -> None: ...
    def info(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def error(self, message: str) -> None: ...
    def exception(self, message: str) -> None: ...


class Host(Protocol):
    """The process that a session runs in."""

    draining: bool  # answer with Connection: close; there will be no next request
    ends: bool  # it drains since the whole service ends

    @property
    def recorder(self) -> Recorder: ...
    @property
    def access(self) -> AccessLog | None: ...
    @property
    def log(self) -> Log: ...


class Interface(Protocol):
    """Makes sessions for one application."""

    #: Its sessions read as their application asks for what comes: no more is to be received ahead of them.
    paced: bool
    #: What each of its sessions waits in first, if that has a shortcut: a connection that is over by then
    #: never gets one.
    opening: Await | None

    def session(self, peer: Peer, data: bytes = b"") -> Session:
        """`data`: received before it, by the session that becomes this one."""
        ...

    def retire(self) -> None:
        """The process is to end; there may still be new sessions. Called once."""
