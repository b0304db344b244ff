"""How each server is started for a work. A contender's peers have their own defaults, except for
what the work asks of all (processes, threads) and the access log, which is off for peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log;
events {{ worker_connections 20000; }}
http {{
    access_log off; keepalive_requests 1000000000; default_type text/plain;
    client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2;
    fastcgi_temp_path {directory}/t3; uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
    server {{ listen 127.0.0.1:{port}; location / {{ return 200 "Hello, world!\\n"; }} }}
}}
"""


@dataclass(frozen=True)
class Place:
    """Where a server runs: its port, a directory of its own, and the programs of .venv-bench-VERSION."""

    port: int
    directory: Path
    programs: Path
    native: Path  # the compiled helpers

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def second(self) -> Path:
        """A unix socket, for servers that listen on two addresses."""
        return self.directory / "second.sock"


Command = Callable[[Place], list[str]]


@dataclass(frozen=True)
class Contender:
    """A server in one configuration. `peer` is the row of peers.py that must be there."""

    name: str
    peer: str
    command: Command


FRONT = """
daemon off; worker_processes 1; pid {directory}/front.pid; error_log {directory}/front.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path {directory}/f1; proxy_temp_path {directory}/f2;
    fastcgi_temp_path {directory}/f3; uwsgi_temp_path {directory}/f4; scgi_temp_path {directory}/f5;
    server {{
        listen 127.0.0.1:{front};
        location / {{ include /etc/nginx/uwsgi_params; uwsgi_pass 127.0.0.1:{port}; }}
    }}
}}
"""


def forkd(
    *flags: str, app: str = "web:app", name: str = "forkd", log: bool = True, option: str = ""
) -> Contender:
    """One worker if the flags say nothing else; metrics are on, the access log goes to a file. `option`: of
    its address."""

    def command(at: Place) -> list[str]:
        access_log = f"{at.directory}/access.log" if log else "none"
        return [
            f"{at.programs}/forkd", "start", "--foreground", app, "--bind", f"{at.address}{option}",
            "--workers", "1", "--pidfile", f"{at.directory}/forkd.pid",
            "--admin", "127.0.0.1:0", "--access-log", access_log, *flags,
        ]  # fmt: skip

    return Contender(name, "forkd", command)


def forkd_without_log(*flags: str, option: str = "") -> Contender:
    return forkd(*flags, name="forkd, access log off", log=False, option=option)


def _own(peer: str, processes: int = 1) -> Contender:
    def command(at: Place) -> list[str]:
        return [f"{at.programs}/python", "serve.py", peer, str(at.port), str(processes)]

    return Contender(peer, peer, command)


def bjoern(processes: int = 1) -> Contender:
    return _own("bjoern", processes)


def fastwsgi() -> Contender:
    return _own("fastwsgi")


def uvloop() -> Contender:
    return _own("uvloop")


def picows() -> Contender:
    """No ASGI: callbacks for the frames, in C."""
    return _own("picows")


def loop() -> Contender:
    """No server, but the floor for one in Python."""
    return Contender("a loop in Python that parses nothing", "forkd", _own("loop").command)


def granian(*flags: str, interface: str = "wsgi", app: str = "web:app") -> Contender:
    return Contender(
        "granian", "granian",
        lambda at: [
            f"{at.programs}/granian", "--interface", interface, "--port", str(at.port), *flags, app
        ],
    )  # fmt: skip


def gunicorn(*flags: str, app: str = "web:app", name: str = "gunicorn gthread") -> Contender:
    return Contender(
        name, "gunicorn", lambda at: [f"{at.programs}/gunicorn", "--bind", at.address, *flags, app]
    )


def uvicorn(*flags: str, app: str = "aweb:app", name: str = "uvicorn (ASGI)") -> Contender:
    return Contender(
        name, "uvicorn",
        lambda at: [f"{at.programs}/uvicorn", "--port", str(at.port), "--no-access-log", *flags, app],
    )  # fmt: skip


def uwsgi(*flags: str, listens: str = "--http") -> Contender:
    return Contender(
        "uWSGI", "uwsgi",
        lambda at: [
            f"{at.programs}/uwsgi", "--master", "--module", "web:app",
            listens, at.address, *flags, "--disable-logging", "--listen", "1024",
            "--home", str(at.programs.parent), "--die-on-term",
        ],
    )  # fmt: skip


def with_second(contender: Contender, flag: str = "--bind") -> Contender:
    """The same with a unix socket beside its port, `Place.second`."""

    def command(at: Place) -> list[str]:
        return [*contender.command(at), flag, f"unix:{at.second}"]

    return Contender(contender.name, contender.peer, command)


def nginx_with_second() -> Contender:
    return nginx("nginx", "listen unix:{second}; location = /1m {{ alias {directory}/1m; }}")


def nginx(name: str = "nginx return 200", more: str = "") -> Contender:
    def command(at: Place) -> list[str]:
        config = at.directory / "nginx.conf"
        (at.directory / "1m").write_bytes(bytes(1 << 20))
        text = NGINX.replace("location / ", f"{more} location / ")
        config.write_text(text.format(directory=at.directory, port=at.port, second=at.second))
        return [
            "nginx",
            "-c",
            str(config),
            "-p",
            str(at.directory),
            "-e",
            f"{at.directory}/nginx.log",
        ]

    return Contender(name, "nginx", command)


def c_echo() -> Contender:
    return Contender("C epoll echo", "gcc", lambda at: [f"{at.native}/echo", str(at.port)])
