"""An application that notes each request that it sees, one line of JSON, in `seen` beside it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from .fronts import alike

APP = '''
    import json, os, time

    SEEN = os.open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "seen"),
                   os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    GATE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gate")

    def app(environ, start):
        told = {name: value for name, value in environ.items() if isinstance(value, str)}
        told["size"] = sum(map(len, iter(lambda: environ["wsgi.input"].read(65536), b"")))
        told["forkd.proxy"] = repr(environ.get("forkd.proxy"))
        line = json.dumps(told)
        os.write(SEEN, line.encode() + b"\\n")
        if environ["PATH_INFO"] == "/events":
            fields = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")]
            start("200 OK", [*fields, ("X-Accel-Buffering", "no")])
            return events()
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(line)))])
        return [line.encode()]

    def events():
        """The second once the client has shown, by making the gate, that it has the first."""
        yield b"data: 1\\n\\n"
        while not os.path.exists(GATE):
            time.sleep(0.005)
        yield b"data: 2\\n\\n"

    async def asgi(scope, receive, send):
        """The same, by the names of WSGI."""
        if scope["type"] != "http":
            return
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        told = {"REQUEST_METHOD": scope["method"], "RAW_URI": scope["raw_path"].decode("latin-1"),
                "size": size, "PATH_INFO": scope["path"], "HTTP_HOST": host,
                "wsgi.url_scheme": scope["scheme"],
                "REMOTE_ADDR": scope["client"][0], "SCRIPT_NAME": scope["root_path"],
                "forkd.peer": scope["extensions"]["forkd"]["peer"], "SERVER_NAME": scope["server"][0]}
        line = json.dumps(told).encode()
        os.write(SEEN, line + b"\\n")
        fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(line))]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": line})
'''


def seen(directory: Path) -> list[dict[str, Any]]:
    path = directory / "seen"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def requests(directory: Path) -> Counter[tuple[str, str]]:
    """What it has seen, as `alike` has them."""
    return Counter(alike(told["REQUEST_METHOD"], told["RAW_URI"]) for told in seen(directory))
