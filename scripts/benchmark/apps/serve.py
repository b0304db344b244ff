"""Start a peer that has no command of its own: serve.py bjoern|fastwsgi|uvloop PORT [PROCESSES]."""

import asyncio
import os
import sys


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


if __name__ == "__main__":
    {"bjoern": bjoern, "fastwsgi": fastwsgi, "uvloop": uvloop}[sys.argv[1]](
        int(sys.argv[2]), int((sys.argv[3:] or ["1"])[0])
    )
