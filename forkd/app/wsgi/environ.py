"""A request head as CGI variables (RFC 3875, PEP 3333): what a WSGI application reads of it.

Called by the WSGI session in a child. A usual head has been read into them by native code already
(app/wsgi/shortcut.py); this is the way for all others, and the twin that the native code is held against.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from forkd.http.guard import Request, transfer_codings
from forkd.http.hops import Origin
from forkd.session.ends import Ends
from forkd.session.fronts import facts_of

Environ = dict[str, Any]


class _Keys(dict[bytes, str | None]):
    """Header name -> its key: a memo, bounded since clients make up names."""

    MAX_NAMES = 1024

    def __missing__(self, name: bytes) -> str | None:
        key: str | None = None
        if b"_" not in name:
            key = name.decode("latin-1").upper().replace("-", "_")
            if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
                key = "HTTP_" + key
            if key == "HTTP_PROXY":
                # CGI's name for the proxy of an HTTP client: a request must not set it (httpoxy).
                key = None
        # With an underscore it would collide with the same name written with a hyphen, and so
        # forge it.
        if len(self) < self.MAX_NAMES:
            self[name] = key
        return key


_KEYS = _Keys()


#: What the environ of every request has, besides what is the same in all.
_VARIABLES = (
    "REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "REQUEST_URI", "RAW_URI", "wsgi.input",
    "SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "REMOTE_PORT", "forkd.peer",
)  # fmt: skip


def roomy_template(constants: Environ) -> Environ:
    """A template of environs: a copy of it has room for all that a request adds, and needs not be built anew
    as it grows, which would take longer than all its entries. (A copy in CPython has the room of its
    original, which is that of the most entries it ever had, if two thirds of them are left.)"""
    template = constants | dict.fromkeys(_VARIABLES)
    template["HTTP_HOST"] = ""  # not in every request
    del template["HTTP_HOST"]
    return template


def environ_of(request: Request, template: Environ, ends: Ends) -> Environ:
    """A copy of `template` with the variables of `request`, whose `length` is that of its body also
    where a chunked one has been collected meanwhile, and those of the connection's `ends`."""
    environ = template.copy()
    environ["SERVER_NAME"], environ["SERVER_PORT"] = ends.server, ends.port
    environ["REMOTE_ADDR"] = environ["forkd.peer"] = ends.client
    environ["REMOTE_PORT"] = ends.client_port
    if ends.proxy is not None:
        _tell_proxy(environ, ends.proxy)
    path = request.path
    if b"%" in path:
        path = unquote_to_bytes(path)
    environ["REQUEST_METHOD"] = request.method
    environ["PATH_INFO"] = path.decode("latin-1")
    environ["QUERY_STRING"] = request.query.decode("latin-1")
    environ["REQUEST_URI"] = environ["RAW_URI"] = request.target.decode("latin-1")
    environ["SERVER_PROTOCOL"] = "HTTP/" + request.version
    if request.variables is not None:
        environ.update(request.variables)
    for name, value in request.headers:
        key = _KEYS[name]
        if key is None:
            continue
        text = value.decode("latin-1")
        if key in environ:
            text = environ[key] + ("; " if key == "HTTP_COOKIE" else ",") + text
        environ[key] = text
    if request.origin is not None:
        _tell(environ, request.origin)
    if request.id:
        environ["forkd.request_id"] = request.id
    if request.chunked and request.length is not None:
        _unchunk(environ, request.length)
    return environ


def _tell(environ: Environ, origin: Origin) -> None:
    """What the request's proxies say. Its Host they have changed already."""
    if origin.client is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = origin.client.address, str(origin.client.port)
    if origin.scheme:
        environ["wsgi.url_scheme"] = origin.scheme
    if origin.server:
        environ["SERVER_NAME"] = origin.server
    if origin.port:
        environ["SERVER_PORT"] = str(origin.port)
    if origin.prefix:
        environ["SCRIPT_NAME"] = origin.prefix


def _tell_proxy(environ: Environ, facts: dict[str, Any]) -> None:
    environ["forkd.proxy"], environ["forkd.peer"] = facts_of(facts), facts["peer"][0]
    if facts.get("ssl", {}).get("tls"):
        environ["wsgi.url_scheme"] = "https"


def _unchunk(environ: Environ, length: int) -> None:
    """The body is not chunked any more: its length is known, and that coding is gone (RFC 9112 7.1.3). So an
    application that goes by CONTENT_LENGTH alone (Django) sees all of it, and one that decodes "chunked"
    itself (Bottle) does not try."""
    value = environ.pop("HTTP_TRANSFER_ENCODING").encode("latin-1")
    left = [coding for coding in transfer_codings(value)[:-1] if coding != b"identity"]
    if left:
        environ["HTTP_TRANSFER_ENCODING"] = b", ".join(left).decode()
    environ["CONTENT_LENGTH"] = str(length)
