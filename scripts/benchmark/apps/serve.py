"""Start a peer that has no command of its own: serve.py NAME PORT [PROCESSES]; the names are at the end."""

import asyncio
import os
import select
import socket
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\nHello, world!\n"


def bjoern(port, processes):
    import bjoern
    from web import app

    bjoern.listen(app, "127.0.0.1", port)  # the children share the listener
    for _ in range(processes - 1):
        if os.fork() == 0:
            break
    bjoern.run()


def fastwsgi(port, processes):
    import fastwsgi
    from web import app

    fastwsgi.run(wsgi_app=app, host="127.0.0.1", port=port)


def uvloop(port, processes):
    import uvloop
    from echo import Echo

    async def serve():
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(serve())


def picows(port, processes):
    import uvloop
    from picows import WSListener, WSMsgType, ws_create_server

    class Echo(WSListener):
        def on_ws_frame(self, transport, frame):
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code())
                transport.disconnect()
            else:
                transport.send(frame.msg_type, frame.get_payload_as_bytes())

    async def serve():
        server = await ws_create_server(lambda request: Echo(), "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(serve())


def loop(port, processes):
    """The floor: what CPython and the kernel take when nothing is parsed, called, counted or timed."""
    clients = {}
    handles = select.epoll()
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        handles.register(listener, select.EPOLLIN)
        while True:
            for fd, _ in handles.poll():
                if fd == listener.fileno():
                    client = listener.accept()[0]
                    clients[client.fileno()] = client
                    handles.register(client, select.EPOLLIN)
                    continue
                client = clients[fd]
                try:
                    asked = client.recv(65536)
                except ConnectionError:
                    asked = b""
                if asked:
                    client.send(ANSWER)
                else:
                    clients.pop(fd).close()


if __name__ == "__main__":
    {"bjoern": bjoern, "fastwsgi": fastwsgi, "uvloop": uvloop, "picows": picows, "loop": loop}[
        sys.argv[1]
    ](int(sys.argv[2]), int((sys.argv[3:] or ["1"])[0]))
