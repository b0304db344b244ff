"""An HAProxy of the distribution, with a configuration of a test's own, whose listeners are inherited."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import until

needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs the Debian package haproxy")

_DEFAULTS = """
global
    stats socket {0}/h.sock mode 600 level admin
defaults
    timeout client 20s
    timeout server 20s
    timeout connect 20s
    timeout check 2s
"""


class HAProxy:
    def __init__(self, directory: Path, addresses: dict[str, tuple[str, int]]) -> None:
        self._directory = directory
        self.addresses = addresses

    def ask(self, command: str) -> str:
        """A command of its runtime API, and the answer."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(f"{self._directory}/h.sock")
            sock.sendall(command.encode() + b"\n")
            with sock.makefile() as file:
                return file.read()

    def state(self, backend: str, server: str) -> tuple[str, str]:
        """UP or DOWN, and what its last check has found: L7OK for a page, L4OK for a connection."""
        row = self._row(backend, server)
        return row["status"], row["check_status"]

    def agent(self, backend: str, server: str) -> str:
        """What its agent has said last: L7OK for up, L7STS for down."""
        return self._row(backend, server)["agent_status"]

    def takes(self, backend: str, server: str) -> bool:
        """Whether it is given requests that may go to others, too."""
        row = self._row(backend, server)
        return row["status"].startswith("UP") and row["weight"] != "0"

    def _row(self, backend: str, server: str) -> dict[str, str]:
        header, *rows = self.ask(f"show stat {backend} 4 -1").splitlines()
        names = header.removeprefix("# ").split(",")
        found = [dict(zip(names, row.split(","), strict=False)) for row in rows if row]
        return next(row for row in found if row["svname"] == server)


@contextlib.contextmanager
def haproxy(directory: Path, text: str, *frontends: str) -> Iterator[HAProxy]:
    """`text` has `{name}` for what a frontend of that name binds, and `{dir}` for the directory."""
    with contextlib.ExitStack() as stack:
        socks = {name: socket.create_server(("127.0.0.1", 0), backlog=511) for name in frontends}
        for sock in socks.values():
            stack.enter_context(sock)
        binds = {name: f"fd@{sock.fileno()}" for name, sock in socks.items()}
        path = directory / "haproxy.cfg"
        path.write_text(_DEFAULTS.format(directory) + text.format(**binds, dir=directory))
        log = stack.enter_context(open(directory / "haproxy.log", "w"))
        process = subprocess.Popen(
            ["haproxy", "-f", str(path), "-db", "-q"], stdout=log, stderr=log,
            pass_fds=[sock.fileno() for sock in socks.values()],
        )  # fmt: skip
        try:
            until(lambda: process.poll() is not None or (directory / "h.sock").exists(), "HAProxy serves", 20)
            yield HAProxy(directory, {name: sock.getsockname() for name, sock in socks.items()})
            assert process.poll() is None, (directory / "haproxy.log").read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
