"""WebSockets whose application runs in a request's task, with each kind of tasks: what arrives goes the way
that it has in a worker, by native code's driver or to the twin."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from forkd.app.asgi import message_flow
from forkd.engine.link import Link, PythonLink
from forkd.http import frames
from forkd.native import native
from forkd.session.seam import Await
from tests.http.test_frames import masked

from .asgi_tasks import Request, Site, Step, new_loop

_READABLE = 1  # EPOLLIN
_TURNS = 12  # of the loop, in which all comes to rest that waits for nothing else


class Socket:
    """One WebSocket, and its client. It is what a flow calls (message_flow.General)."""

    def __init__(self, site: Site) -> None:
        self._ours, self._client = socket.socketpair()
        self._ours.setblocking(False)
        self._client.setblocking(False)
        by_native = site.mode != "twin"
        link: Any = Link() if by_native else PythonLink()
        link.fd, link.deadline, link.moved = self._ours.fileno(), 0.0, 0
        link.op = Await("messages", 1.0, shortcut=message_flow.SHORTCUT)
        self.flow: Any = message_flow.make(link, self, site.loop, 1 << 20, None, by_native)
        self.flow.plain, link.note = True, self.flow
        self.room: asyncio.Future[None] | None = None  # for what is sent, where that has to wait
        self._driver: Any = None
        if by_native:
            assert native is not None
            self._driver = native.InlineDriver(
                loop=self, driver=self, calls={}, connections={link.fd: link}, silent={}, suspended={},
                baton=None,
            )  # fmt: skip

    def arrive(self, data: bytes) -> None:
        """In a turn of the loop."""
        if self._driver is None or not self.flow.plain:
            self.flow.read(data)
        else:
            self._client.send(data)
            self._driver.run([(self._ours.fileno(), _READABLE)], 0.0)

    def sent(self) -> bytes:
        try:
            return self._client.recv(1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.flow.discard()
        self.flow.detach()
        self._ours.close()
        self._client.close()

    # ---- what its flow calls, and a driver ------------------------------------------------

    async def say(self, message: dict[str, Any]) -> None:
        if self.room is not None:
            await self.room
        self._ours.send(frames.frame(frames.TEXT, message["text"].encode()))

    async def spill(self, rest: bytes) -> None:
        raise AssertionError("the socket has room")

    def control(self, frame: frames.Frame) -> None:
        self.flow.over, self.flow.plain = True, False
        self.flow.end = {"type": "websocket.disconnect"}
        self.flow.release()

    def wrong(self, bad: frames.BadFrame) -> None:
        raise bad

    def drained(self) -> None:
        self.flow.read(b"")

    def ready(self, link: Any, mask: int) -> None:
        self.flow.read(self._ours.recv(1 << 20))

    def feed(self, link: Any, value: Any) -> None:
        """It is not plain any more, or full."""

    def failed(self, link: Any, failure: BaseException) -> None:
        raise failure


class SocketSite(Site):
    def __init__(
        self, mode: str, count: int = 1, make_loop: Callable[[], asyncio.AbstractEventLoop] = new_loop
    ) -> None:
        super().__init__(mode, make_loop)
        self.sockets = [Socket(self) for _ in range(count)]
        self.task: asyncio.Task[Any] | None = None  # of the request

    def begin(self, step: Step) -> None:
        self.loop.call_soon(self.tasks.start, Request(self._ended(self._noted(step))), b"GET /")
        self.settle()

    async def _noted(self, step: Step) -> None:
        self.task = asyncio.current_task()
        for each in self.sockets:
            await each.flow.receive()  # websocket.connect
        await step

    def settle(self, *calls: Callable[[], Any]) -> None:
        """Call these in one turn of the loop, and let all come to rest."""

        async def turns() -> None:
            for call in calls:
                self.loop.call_soon(call)
            for _ in range(_TURNS):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def arrives(self, *texts: str, at: int = 0) -> None:
        """These messages, in one packet."""
        packet = b"".join(masked(frames.TEXT, text.encode()) for text in texts)
        self.settle(lambda: self.sockets[at].arrive(packet))

    def finish(self) -> None:
        """The clients leave, and the application ends."""
        for each in self.sockets:
            self.settle(lambda each=each: each.arrive(masked(frames.CLOSE, b"")))
        self.loop.run_until_complete(self.settled())

    def close(self) -> None:
        for each in self.sockets:
            each.close()
        self.loop.close()
