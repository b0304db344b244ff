"""MCP over streamable HTTP, by its SDK as server and as client: sessions over a reload.

What a client has asked before it is answered whole, or fails; it is never cut so that it looks whole. A
session that the server keeps in its memory ends with its worker, and the client is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.process.conftest import Daemon, until

from .conftest import HERE

SECONDS = 30.0  # that no answer may take


@pytest.fixture
def site(service: Daemon) -> Iterator[Daemon]:
    pytest.importorskip("mcp")  # not above: each process that collects the tests would load it
    shutil.copy(HERE / "programs" / "mcp_site.py", service.dir)
    service.start("-w", "1", "--graceful-timeout", "4", app="mcp_site:app")
    yield service


class Talk:
    """One client with two calls under way, of which one ends in time."""

    def __init__(self, service: Daemon, mode: str) -> None:
        import mcp

        host, port = service.address
        self._client = mcp.Client(f"http://{host}:{port}/mcp", mode=mode)
        self.begun = asyncio.Event()
        self._calls: list[asyncio.Task[str]] = []
        self._both = 0

    async def __aenter__(self) -> Talk:
        await self._client.__aenter__()
        self._calls = [asyncio.create_task(self.call("wait_for", name=name)) for name in ("soon", "never")]
        async with asyncio.timeout(SECONDS):
            await self.begun.wait()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        with contextlib.suppress(Exception):  # it would end a session that has ended
            await self._client.__aexit__(None, None, None)

    async def call(self, tool: str, **arguments: str) -> str:
        at_work = False

        async def progress(*_: object) -> None:
            nonlocal at_work
            if not at_work:
                at_work = True
                self._both += 1
                if self._both == 2:
                    self.begun.set()

        async with asyncio.timeout(SECONDS):
            result = await self._client.call_tool(tool, arguments, progress_callback=progress)
        assert not result.is_error
        text: str = result.content[0].text
        return text

    async def ended(self) -> list[str]:
        """What became of the calls: the answers, and the names of the failures."""
        found = await asyncio.gather(*self._calls, return_exceptions=True)
        return [each if isinstance(each, str) else type(each).__name__ for each in found]


def test_sessions_over_a_reload(site: Daemon) -> None:
    asyncio.run(_sessions(site))


async def _sessions(service: Daemon) -> None:
    import mcp

    (before,) = service.worker_pids()
    async with Talk(service, "auto") as modern, Talk(service, "legacy") as legacy:
        assert await modern.call("pid") == await legacy.call("pid") == str(before)
        service.signal(signal.SIGHUP)
        others = lambda: service.worker_pids() not in ([], [before])  # noqa: E731
        await asyncio.to_thread(until, others, "a new worker", 30)
        (service.dir / "soon").touch()
        for talk in (modern, legacy):
            assert await talk.ended() == ["soon is there", "MCPError"]
        after = int(await modern.call("pid"))
        assert after != before
        with pytest.raises(mcp.MCPError, match="Session not found"):  # it was in the memory of the old worker
            await legacy.call("pid")
    async with mcp.Client("http://{}:{}/mcp".format(*service.address), mode="legacy") as client:
        assert (await client.call_tool("pid", {})).content[0].text == str(after)
    assert "answers cut: POST /mcp" in service.log()
