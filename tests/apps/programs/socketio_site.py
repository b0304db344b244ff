"""python-socketio: acknowledgements, rooms, background tasks, by polling and by WebSocket."""

import socketio

server = socketio.AsyncServer(async_mode="asgi")
seen = []


@server.event
async def connect(sid, environ, auth):
    seen.append(f"connect {auth}")
    await server.save_session(sid, {"name": auth["name"]})
    await server.enter_room(sid, "all")


@server.event
async def say(sid, text):
    session = await server.get_session(sid)
    return f"{session['name']} says {text}"


@server.event
async def everyone(sid, data):
    await server.emit("told", data, room="all")


@server.event
async def later(sid, number):
    async def work():
        for each in range(number):
            await server.sleep(0.001)
            await server.emit("step", each, to=sid)

    server.start_background_task(work)


@server.event
async def disconnect(sid, reason):
    seen.append(f"disconnect {reason}")


async def other(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(seen).encode()})


app = socketio.ASGIApp(server, other_asgi_app=other)
