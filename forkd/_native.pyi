from collections.abc import Awaitable, Callable, Iterator, Sequence
from mmap import mmap
from typing import Any

# Where a class has a twin in Python, that says what its members are. This file imports none of them: it is
# below all.

class Call:
    line: bytes
    answer: Any
    began: int
    sent: int
    code: int
    close: bool
    def answered(self, answer: bytes | tuple[bytes, bytes] | None, /) -> bool: ...
    def suspend(self) -> None: ...
    def gone(self) -> None: ...

class UsualRequest(Call): ...  # as UsualRequest in app/wsgi/shortcut.py

class Shortcut:
    draining: bool
    sheds_after: float

class AsgiShortcut(Shortcut):  # as NativeShortcut in app/asgi/shortcut.py
    state: dict[str, Any]
    tasks: Any
    def __init__(
        self, *, app: object, serving: object, recorder: object, access: object, lines: object,
        date_at: object, keep_alive: bool, server: bytes, limits: HeadLimits, names: object,
        reasons: dict[int, str], prefix: str, raw_prefix: bytes,
    ) -> None: ...  # fmt: skip
    def suspended(self) -> list[Call]: ...

class WsgiShortcut(Shortcut):  # as Shortcut in session/http1.py
    def __init__(
        self, *, app: object, respond: object, recorder: object, access: object, lines: object,
        date_at: object, keep_alive: bool, server: bytes, most: int, limits: HeadLimits,
    ) -> None: ...  # fmt: skip
    def run(self, request: UsualRequest, peer: object, body: object, /) -> Any: ...
    def end(self, request: UsualRequest, /) -> None: ...

FLOW_SHORTCUT: Shortcut

class ProxyShortcut(Shortcut):
    def __init__(self, *, allows: Callable[[str], bool], opening: Any) -> None: ...

class Block: ...  # as Block there

class Fronts:
    def __init__(
        self,
        *,
        recorder: object,
        networks: tuple[str, ...],
        unix: bool,
        chosen: tuple[str, ...],
        passes: bool,
        tells: bool,
    ) -> None: ...

class Hosts:
    def __init__(self, *, patterns: tuple[str, ...]) -> None: ...
    def has(self, host: str, /) -> bool: ...

def read_head(data: bytes, limits: HeadLimits, ends: object, /) -> UsualRequest | None: ...

def read_packet(data: bytes, limits: HeadLimits, ends: object, /) -> UsualRequest | None: ...

class HeadLimits:
    def __init__(
        self, *, head: int, fields: int, body: int, template: dict[str, Any], fronts: Fronts | None,
        hosts: Hosts | None, ids: bool,
    ) -> None: ...  # fmt: skip

class Ends: ...  # PythonEnds in session/ends.py

def blank(size: int, /) -> bytes: ...
def block(status: str, headers: list[tuple[str, str]], /) -> Block | None: ...
def answer(
    block: Block, date: bytes, server: bytes, id: str, body: bytes, close: bool, /
) -> bytes | None: ...
def only_from_processes(number: int, /) -> None: ...
def records(ring: memoryview, at: int, pending: int, most: int, /) -> tuple[int, int, bytes]: ...

class RingWriter:
    head: int
    free: int
    room: int
    shut: bool
    def __init__(
        self, *, memory: memoryview, count: int, index: int, start: int, room: int
    ) -> None: ...
    def put(self, log: int, text: bytes, /) -> bool: ...
    def use(self, index: int, start: int, room: int, /) -> None: ...

class Lines:
    def __init__(
        self, *, stamp_of: Callable[[float], str], ring: object, log: int
    ) -> None: ...
    def make(
        self,
        host: str,
        request: bytes,
        status: int,
        size: int,
        referer: str,
        agent: str,
        ns: int,
        reason: str,
        id: str,
        peer: str,
        /,
    ) -> bytes | None: ...

class _Recorder:
    def begin(self, line: bytes, client: str = ..., fd: int = ..., /) -> int: ...
    def identify(self, ticket: int, id: str, /) -> None: ...
    def answer(self, ticket: int, /) -> None: ...
    def pause(self) -> None: ...
    def resume(self, ticket: int, /) -> None: ...
    def took(self, ticket: int, /) -> int: ...
    def end(
        self,
        ticket: int,
        status: int,
        took: int,
        ring: object = ...,
        log: int = ...,
        line: bytes = ...,
        /,
    ) -> bool: ...
    def add(self, cell: int, n: int = 1, /) -> None: ...

class Places:
    def __init__(
        self,
        *,
        memory: memoryview,
        entry: int,
        client: int,
        client_room: int,
        line: int,
        line_room: int,
        id: int,
        id_room: int,
        first: int,
        count: int,
    ) -> None: ...

class Recorder(_Recorder):
    def __init__(
        self,
        *,
        memory: memoryview,
        numbers: dict[str, int],
        bounds: tuple[int, ...],
        places: object,
        own: int,
    ) -> None: ...

class TurnTimes:  # as in system/turn_times.py
    def __init__(
        self, *, memory: memoryview, began: int, sum: int, late: int, bounds: tuple[int, ...], limit: int
    ) -> None: ...
    def end(self) -> None: ...

class OwnLane(_Recorder):
    def become(self, lane: Recorder, /) -> None: ...

class Link:  # PythonLink in engine/link.py
    fd: int
    recorder: Any
    forks: int
    moved: int
    deadline: float
    bucket: float
    op: Any
    client: str
    note: Any
    origin: Any
    call: Any

class ForkState:  # PythonForkState in system/forked.py
    forks: int
    def __bool__(self) -> bool: ...
    def mark(self) -> None: ...
    def expect(self) -> None: ...
    def know(self, known: bool, /) -> None: ...
    def prepare(self, armed: bool, handled: int, blocked: int, /) -> None: ...

def epoll_control(epoll: int, operation: int, fd: int, mask: int = 0, /) -> None: ...
def epoll_wait(epoll: int, seconds: float | None = None, /) -> Sequence[tuple[int, int]]: ...

class Flow:
    plain: bool
    owed: bool
    quiet: bool
    protocol: Any
    def __init__(self, *, peer: object, general: Callable[[Any], None]) -> None: ...
    def write(self, data: bytes, /) -> None: ...

class FrameReader:  # as FrameReader in http/frames.py
    midway: bool
    def __init__(self, *, most: int, inflater: object) -> None: ...
    def feed(self, data: bytes, /) -> Iterator[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...

class MessageFlow:  # as MessageFlow in app/asgi/message_flow.py
    plain: bool
    over: bool
    quiet: bool
    sent: int
    end: dict[str, Any] | None
    reader: FrameReader
    count: int
    full: bool
    def __init__(
        self, *, peer: object, general: object, loop: object, reader: object, compresses: bool
    ) -> None: ...
    def read(self, data: bytes, /) -> None: ...
    def release(self) -> None: ...
    def discard(self) -> None: ...
    def detach(self) -> None: ...
    def receive(self) -> Awaitable[dict[str, Any]]: ...
    def send(self, message: dict[str, Any], /) -> Awaitable[None]: ...

MESSAGE_SHORTCUT: Shortcut

class Handle:  # _PythonHandle in system/uring.py
    fd: int
    serial: int
    kind: int
    mask: int
    armed: bool
    held: Any
    data: bytes
    conn: Any
    call: Any
    offset: int

class Completions:
    def __init__(
        self,
        *,
        queues: object,
        buffers: object,
        operations: object,
        handles: dict[int, Any],
        disarmed: list[Any],
    ) -> None: ...
    def serve(self, loop: object, connections: dict[int, Any], /) -> None: ...
    def sent(self, name: int, result: int, flags: int, /) -> bool: ...
    def plain(self) -> list[tuple[int, int, int]]: ...
    def next(self) -> tuple[int, int, int] | None: ...
    def remainder(self) -> list[tuple[int, int, int]]: ...

class Source:
    def __init__(self, *, fd: int, server: str, port: str, mend: Callable[[], None]) -> None: ...
    def accept(self, most: int, /) -> list[Link]: ...

class OneShot:
    def __init__(
        self, *, source: Source, most: int, room: int, epoll: int, opening: object, intake: object
    ) -> None: ...

class InlineDriver:
    patience: float
    wary: bool
    one_shot: OneShot | None
    accepted: int
    taken: int
    due: float
    def __init__(
        self,
        *,
        loop: object,
        driver: object,
        calls: dict[int, Callable[[], None]],
        connections: dict[int, Any],
        silent: dict[int, Any],
        suspended: Any,
        baton: object | None,
    ) -> None: ...
    def answer(self, conn: object, request: object, /) -> Any: ...
    def begin(
        self, links: list[Any], opening: object, intake: object, epoll: int, /
    ) -> None: ...
    def grow(self, link: Any, /) -> Any: ...
    def held(self) -> list[int]: ...
    def receive(self, conn: object, now: float, /) -> bool: ...
    def run(self, events: Sequence[tuple[int, int]], now: float, /) -> None: ...

class Baton:
    def __init__(self, *, calm: int, looks: int) -> None: ...
    def hold(self, conn: object, /) -> None: ...
    def release(self, conn: object, /) -> bool: ...
    def seize(self) -> object | None: ...
    def pass_on(self) -> None: ...
    def end(self) -> None: ...
    def watch(self, tick: float, /) -> int: ...

class Queues:
    def __init__(
        self,
        *,
        fd: int,
        rings: mmap,
        sqes: mmap,
        sq_tail: int,
        sq_entries: int,
        cq_head: int,
        cq_tail: int,
        cqes: int,
        cq_entries: int,
    ) -> None: ...
    def put(
        self, opcode: int, flags: int, ioprio: int, fd: int, offset: int, address: int, length: int,
        operation: int, user_data: int, group: int = 0, /,
    ) -> None: ...  # fmt: skip
    def enter(self, least: int, seconds: float | None, /) -> None: ...
    def completions(self) -> list[tuple[int, int, int]]: ...

class Buffers:
    def __init__(self, *, memory: mmap, ring: mmap, size: int, count: int) -> None: ...
    def take(self, flags: int, count: int, /) -> bytes: ...

class RequestTasks: ...  # as RequestTasks in app/asgi/tasks.py

class Table: ...  # as Table in storage/shm_table.py

def wake(memory: mmap, /) -> None: ...
