from collections.abc import Callable
from mmap import mmap

from forkd.http.environ import Ends, Environ
from forkd.http.usual import Block, UsualRequest

def read_head(
    data: bytes, most: int, fields: int, template: Environ, ends: Ends, /
) -> UsualRequest | None: ...
def block(status: str, headers: list[tuple[str, str]], /) -> Block | None: ...
def answer(block: Block, date: bytes, body: bytes, close: bool, /) -> bytes | None: ...

class Lines:
    count: int
    def __init__(self, stamp_of: Callable[[float], str], /) -> None: ...
    def add(
        self,
        host: str,
        request: bytes,
        status: int,
        size: int,
        referer: str,
        agent: str,
        ns: int,
        /,
    ) -> bool: ...
    def append(self, line: bytes, /) -> None: ...
    def take(self) -> bytes: ...

class _Ledger:
    def begin(self, line: bytes, /) -> int: ...
    def pause(self) -> None: ...
    def resume(self, line: bytes, /) -> None: ...
    def end(self, began: int, status: int, /) -> int: ...
    def count(self, status: int, /) -> None: ...
    def shed(self) -> None: ...

class Lane(_Ledger):
    def __init__(
        self,
        memory: memoryview,
        cells: tuple[int, int, int, int, int, int, int, int],
        bounds: tuple[int, ...],
    ) -> None: ...

class OwnLane(_Ledger):
    def become(self, lane: Lane, /) -> None: ...

class Queues:
    def __init__(
        self,
        fd: int,
        rings: mmap,
        sqes: mmap,
        sq: tuple[int, int],
        cq: tuple[int, int, int, int],
        /,
    ) -> None: ...
    def put(
        self, opcode: int, flags: int, ioprio: int, fd: int, offset: int, address: int, length: int,
        operation: int, user_data: int, group: int = 0, /,
    ) -> None: ...  # fmt: skip
    def enter(self, least: int, seconds: float | None, /) -> None: ...
    def completions(self) -> list[tuple[int, int, int]]: ...

class Buffers:
    def __init__(self, memory: mmap, ring: mmap, size: int, count: int, /) -> None: ...
    def take(self, flags: int, count: int, /) -> bytes: ...
