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
'''


def seen(directory: Path) -> list[dict[str, Any]]:
    path = directory / "seen"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def requests(directory: Path) -> Counter[tuple[str, str]]:
    """What it has seen, as `alike` has them."""
    return Counter(alike(told["REQUEST_METHOD"], told["RAW_URI"]) for told in seen(directory))
