"""The WSGI application of the works. Served by forkd and by every WSGI peer."""

import time

HELLO = b"Hello, world!\n"
BODIES = {"/64k": bytes(64 << 10), "/1m": bytes(1 << 20)}
SLEEPS = {"/5ms": 0.005, "/100ms": 0.1}


def app(environ, start_response):
    path = environ["PATH_INFO"]
    body = HELLO
    if path != "/":
        if path == "/upload":
            body = b"%d" % _length(environ["wsgi.input"])
        elif path in SLEEPS:
            time.sleep(SLEEPS[path])
        else:
            body = BODIES[path]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _length(stream):
    total = 0
    while piece := stream.read(65536):
        total += len(piece)
    return total
