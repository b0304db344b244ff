"""A WSGI application under the standard library's validator, which raises when a server errs."""

import io
import os
import sys
import warnings
from wsgiref.validate import WSGIWarning, validator

warnings.simplefilter("error", WSGIWarning)


def plain(environ, start_response):
    body = environ["wsgi.input"].read(1 << 20)
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    text = ("Content-Type", "text/plain")
    if path == "/empty":
        start_response("204 No Content", [])
        return []
    if path == "/unchanged":
        start_response("304 Not Modified", [("ETag", '"1"')])
        return []
    if path == "/written":
        write = start_response("200 OK", [text])
        write(b"written, ")
        return [b"and returned"]
    if path == "/file":
        start_response("200 OK", [text])
        return environ["wsgi.file_wrapper"](open(os.path.abspath(__file__), "rb"), 1000)
    if path == "/memory":
        start_response("200 OK", [text])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 5000), 1000)
    if path == "/lines":
        start_response("200 OK", [text])
        return (b"%d\n" % n for n in range(100))
    if path == "/replaced":
        try:
            start_response("200 OK", [text])
            raise LookupError("before the head was sent")
        except LookupError:
            start_response("410 Gone", [text], sys.exc_info())
        return [b"gone"]
    start_response("200 OK", [text])
    return [f"{method} {path} {environ['QUERY_STRING']} ".encode("latin-1") + body]


app = validator(plain)
