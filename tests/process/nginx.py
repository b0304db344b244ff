"""An nginx with the sample configuration in front of a service, in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

SAMPLE = Path(__file__).parents[2] / "etc/nginx.conf"

#: nginx's own files, which the sample leaves to the distribution.
_OWN = """
    access_log off;
    client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;
    uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;
"""


def with_keepalive(sample: str) -> str:
    """The sample with what it has as comments in force: connections to forkd are kept."""
    for found, wanted in (("# keepalive 32;", "keepalive 32;"), ('close;  # with keepalive: ""', '"";')):
        assert sample.count(found) == 1, found
        sample = sample.replace(found, wanted)
    return sample


def configured(sample: str, directory: Path, front: tuple[str, int], back: str) -> str:
    """The sample with addresses and paths of this machine in place of those that it tells to replace."""
    for found, wanted in (
        ("http {\n", "http {\n" + _OWN.format(directory)),
        ("    server 127.0.0.1:8000;", f"    server {back};"),
        ("    listen 80;", f"    listen {front[0]}:{front[1]};"),
        ("/srv/hello", str(directory)),
    ):
        assert sample.count(found) == 1, found
        sample = sample.replace(found, wanted)
    return sample


def command(directory: Path) -> list[str]:
    log = f"{directory}/nginx.log"
    own = f"daemon off; pid {directory}/nginx.pid; error_log {log};"
    if os.geteuid() == 0:
        own += " user root;"  # its workers have to enter the directory of a test
    return [
        "nginx", "-p", str(directory), "-c", f"{directory}/nginx.conf", "-e", log, "-g", own,
    ]  # fmt: skip


@contextlib.contextmanager
def nginx(directory: Path, back: str, sample: str | None = None) -> Iterator[tuple[str, int]]:
    """Its address, while it runs. `back`: where forkd is, as nginx writes it."""
    with socket.create_server(("127.0.0.1", 0), backlog=511) as listener:
        address = listener.getsockname()
        text = configured(SAMPLE.read_text() if sample is None else sample, directory, address, back)
        (directory / "nginx.conf").write_text(text)
        # As nginx hands its sockets to the next one in an upgrade: no port is free in between.
        process = subprocess.Popen(
            command(directory), env={**os.environ, "NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
        )  # fmt: skip
    try:
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
    assert code == 0, (directory / "nginx.log").read_text()
