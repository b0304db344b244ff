"""An MCP server over streamable HTTP: a tool that takes its time, and tells meanwhile that it is at work."""

import asyncio
import os
from pathlib import Path

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("site", log_level="WARNING")


@server.tool()
async def wait_for(name: str, ctx: Context) -> str:
    number = 0
    while not Path(name).exists():
        await ctx.report_progress(number)
        await asyncio.sleep(0.05)
        number += 1
    return f"{name} is there"


@server.tool()
async def pid() -> str:
    return str(os.getpid())


app = server.streamable_http_app()
