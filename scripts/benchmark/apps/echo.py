"""The stream application: what is received is sent back. Served by forkd and by asyncio on uvloop."""

import asyncio


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)
