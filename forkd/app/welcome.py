"""The built-in application: what `forkd start` serves when no application is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from forkd import __version__
from forkd.system.address import page_at

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>forkd</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:4rem auto;padding:0 1rem}}
code{{background:#8882;padding:.1em .3em;border-radius:3px}}</style>
<h1>forkd {version} is running</h1>
<p>forkd is a prefork daemon for Python network services. A master owns the listening sockets and
supervises; forked children run your application.</p>
<ul>
<li>This page was served by process <code>{pid}</code> under the model <code>{model}</code>,
i/o <code>{io}</code>.</li>
<li>{metrics}</li>
<li>Put your own application here: <code>forkd start yourmodule:app</code>.</li>
<li>See <code>forkd status</code>, <code>forkd reload</code>, <code>forkd stop</code> and
<code>forkd --help</code>.</li>
</ul></html>
"""


def make(model: str, io: str, admin: str | None) -> Callable[..., Iterable[bytes]]:
    """The welcome application, a WSGI callable that shows the model and the io it is served by."""
    if admin:
        where = escape(page_at(admin, "/metrics"))
        link = f'<a href="{where}">{where}</a>' if where.startswith("http:") else f"<code>{where}</code>"
        metrics = f"Metrics: {link}"
    else:
        metrics = "The metrics endpoint is turned off (<code>--admin none</code>)."

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"Nothing here. The welcome page is at /.\n"]
        page = _PAGE.format(
            version=__version__,
            pid=os.getpid(),
            model=escape(model),
            io=escape(io),
            metrics=metrics,
        ).encode()
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
        return [page]

    return app
