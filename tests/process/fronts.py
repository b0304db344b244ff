"""The fronts of the distribution with the samples of etc/, in front of services, in directories of their own.

A sample is used as it is, with the addresses and paths of a test in place of those that it tells to replace;
each of them has to be there. A front writes what it has passed on to a log, which `Front.counted` reads.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from .conftest import Daemon, until

ETC = Path(__file__).parents[2] / "etc"
_ROOT = os.geteuid() == 0


class Kind(NamedTuple):
    name: str
    program: str
    sample: str
    #: (what the sample has, what comes there): both with the names of `Front.facts`.
    swaps: tuple[tuple[str, str], ...]
    command: tuple[str, ...]
    version: tuple[str, ...] = ("-v",)
    #: Before the sample in its file: what the distribution's own files say.
    before: str = ""
    #: Prints the log, where the front does not write it: method, path, and a word about who has answered.
    logger: tuple[str, ...] = ()
    #: It passes on connections, with a header of the PROXY protocol.
    connections: bool = False
    #: The listener of forkd that is for it.
    bind: str = "127.0.0.1:0"
    #: Sent to all of its processes. A child of Apache that is told to end in its first second takes ten.
    end: int = signal.SIGTERM

    @property
    def there(self) -> bool:
        return shutil.which(self.program) is not None

    def said(self) -> str:
        """The version that it says of itself."""
        done = subprocess.run([self.program, *self.version], capture_output=True, text=True, timeout=30)
        found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
        assert found is not None
        return found[0]


_NGINX = (
    "nginx", "-c", "{file}", "-e", "{dir}/front.err", "-g",
    "daemon off; pid {dir}/front.pid; error_log {dir}/front.err;" + (" user root;" if _ROOT else ""),
)  # fmt: skip
_HAPROXY = (
    ("    maxconn 20000\n", "    maxconn 2000\n    stats socket {dir}/h.sock level admin\n"),
    ("bind :80\n", "bind 127.0.0.1:{port}\n"),
    ("log stdout ", "log stdout len 65535 "),
    ("server one 10.0.3.11:8000", "server one {one} port {one_ready} agent-port {one_ready}"),
    ("server two 10.0.3.12:8000", "server two {two} port {two_ready} agent-port {two_ready}"),
)
#: nginx's own files.
_TEMPORARY = "".join(
    f"{name}_temp_path {{dir}}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)
_NGINX_HTTP = (
    ("http {\n", 'http {\nlog_format counted "$request_method|$request_uri|$upstream_addr";\n'
     "access_log {dir}/front.log counted;\n" + _TEMPORARY),
    ("    server 127.0.0.1:8000;", "    server {one};"),
    ("    listen 80;", "    listen 127.0.0.1:{port} backlog=4096;"),
    ("/srv/hello", "{dir}"),
)
_MODULES = ("mpm_event", "authz_core", "alias", "headers", "proxy", "proxy_http", "remoteip", "ssl")
_APACHE = "".join(
    f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in _MODULES
)
_APACHE += "ServerRoot {dir}\nPidFile {dir}/front.pid\nMutex file:{dir}\nErrorLog {dir}/front.err\n"
_APACHE += 'LogFormat "%m|%U|%R" counted\nCustomLog {dir}/front.log counted\nListen 127.0.0.1:{port}\n'
_APACHE += "ServerName localhost\n" + ("User www-data\nGroup www-data\n" if _ROOT else "")

KINDS = (
    Kind(
        "nginx", "nginx", "nginx.conf",
        _NGINX_HTTP, _NGINX,
    ),
    Kind(
        "nginx, uwsgi", "nginx", "nginx-uwsgi.conf", _NGINX_HTTP, _NGINX,
        bind="127.0.0.1:0?protocol=uwsgi",
    ),
    Kind(
        "nginx, stream", "nginx", "nginx-stream.conf",
        (
            ("    server 127.0.0.1:8000 ", "    server {one} "),
            ("    listen 80 ", "    listen 127.0.0.1:{port} "),
        ),
        _NGINX, connections=True,
    ),
    Kind(
        "HAProxy", "haproxy", "haproxy.cfg",
        (
            *_HAPROXY,
            ("    option httplog\n", '    log-format "%HM|%HP|%s"\n'),
        ),
        ("haproxy", "-f", "{file}", "-db"),
    ),
    Kind("HAProxy, tcp", "haproxy", "haproxy-tcp.cfg", _HAPROXY, ("haproxy", "-f", "{file}", "-db"),
         connections=True),
    Kind(
        "Apache", "apache2", "apache.conf",
        (
            ("<VirtualHost *:80", "<VirtualHost *:{port}"),
            ("http://127.0.0.1:8000/", "http://{one}/"),
            ("/srv/hello", "{dir}"),
        ),
        ("apache2", "-f", "{file}", "-D", "FOREGROUND"), before=_APACHE, end=signal.SIGKILL,
    ),
    Kind(
        "Varnish", "varnishd", "varnish.vcl",
        (('.port = "8000"', '.port = "{one_port}"'),),
        ("varnishd", "-n", "{dir}/v", "-F", "-f", "{file}", "-a", "127.0.0.1:{port}", "-j", "none", "-s",
         "malloc,16m", "-p", "thread_pools=1"),
        version=("-V",),
        logger=("varnishncsa", "-d", "-n", "{dir}/v", "-F", "%m|%U|%{Varnish:handling}x"),
    ),
    Kind(
        "lighttpd", "lighttpd", "lighttpd.conf",
        (
            ("server.port = 80\n", 'server.port = {port}\nserver.bind = "127.0.0.1"\n'
             'server.errorlog = "{dir}/front.err"\nserver.modules += ("mod_accesslog")\n'
             'accesslog.filename = "{dir}/front.log"\n'
             'accesslog.format = "%m|%U|+"\n'),
            ("/srv/hello", "{dir}"),
            ('"port" => 8000', '"port" => {one_port}'),
        ),
        ("lighttpd", "-D", "-f", "{file}"),
    ),
)  # fmt: skip
BY_NAME = {kind.name: kind for kind in KINDS}


class Front:
    """One that runs."""

    def __init__(self, kind: Kind, facts: dict[str, object]) -> None:
        self.kind = kind
        self.facts = facts
        self.directory = Path(str(facts["dir"]))
        self.address = ("127.0.0.1", int(str(facts["port"])))

    def filled(self, text: str) -> str:
        for name, value in self.facts.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    def configured(self, text: str) -> str:
        """The sample `text` with what it tells to replace."""
        for found, wanted in self.kind.swaps:
            assert found in text, f"{self.kind.sample} has no {found!r}"
            text = text.replace(found, self.filled(wanted))
        return self.filled(self.kind.before) + text

    def log(self) -> str:
        texts = [self.directory / name for name in ("front.out", "front.err")]
        return "".join(path.read_text(errors="replace") for path in texts if path.exists())

    def counted(self) -> Counter[tuple[str, str]]:
        """The requests that it has passed on, as `alike` has them. Apache and lighttpd count some that they
        have refused."""
        if self.kind.logger:
            command = [*map(self.filled, self.kind.logger)]
            data = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
        else:
            name = "front.out" if self.kind.program == "haproxy" else "front.log"
            data = (self.directory / name).read_bytes()
        found: Counter[tuple[str, str]] = Counter()
        for line in data.decode("latin-1").splitlines():
            method, _, rest = line.partition("|")
            target, _, passed = rest.rpartition("|")
            if passed not in _REFUSED and method:
                found[alike(method, target)] += 1
        return found


def alike(method: str, target: str) -> tuple[str, str]:
    """What is the same of a request for all that write it: each front has escapes of its own, and Varnish
    fetches a whole page for a client that wants its head."""
    path = re.sub(r"^https?://[^/]*", "", target).partition("?")[0]
    plain = re.sub(r"\\x[0-9a-fA-F]{2}|\\[a-z]|#[0-9A-F]{2}", "", path)
    letters = re.sub("[^A-Za-z0-9]", "", unquote(plain, "latin-1"))[:80]
    return "GET" if method == "HEAD" else method, letters


#: What the third column has of requests that were answered by the front itself.
_REFUSED = {"-", "<NOSRV>", "synth", ""}


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


class Back(NamedTuple):
    """What a front passes on to."""

    address: str
    ready_port: int  # of what is asked whether it is ready

    @classmethod
    def of(cls, service: Daemon | Back) -> Back:
        """Of the first listener of a forkd, be it for requests or for streams, and of its health listener."""
        if isinstance(service, Back):
            return service
        found = service.live()
        return cls(found["listeners"][0]["address"], port(found["health"]))


def _answers(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(address, 5):
        return True
    return False


@contextlib.contextmanager
def reserved() -> Iterator[int]:
    """A port on 127.0.0.1 that is bound, and not listened on: the kernel gives it to none that asks for any,
    and a front, which sets SO_REUSEADDR too, can listen there."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def front(
    kind: Kind, directory: Path, *backs: Daemon | Back, text: str | None = None
) -> Iterator[Front]:
    """`backs`: one service, or two, with --health. `text`: the sample, as the test has changed it."""
    directory.mkdir(exist_ok=True)
    one, two = map(Back.of, (backs[0], backs[-1]))
    with reserved() as port_here, contextlib.ExitStack() as stack:
        file = directory / kind.sample
        made = Front(kind, {
            "dir": directory, "file": file, "port": port_here,
            "one": one.address, "one_port": port(one.address), "one_ready": one.ready_port,
            "two": two.address, "two_ready": two.ready_port,
        })  # fmt: skip
        file.write_text(made.configured((ETC / kind.sample).read_text() if text is None else text))
        out = stack.enter_context(open(directory / "front.out", "ab"))

        process = subprocess.Popen(
            [*map(made.filled, kind.command)], stdout=out, stderr=out, cwd=directory, process_group=0
        )
        stack.callback(process.wait, 30)
        stack.callback(os.killpg, process.pid, kind.end)
        until(lambda: process.poll() is not None or _answers(made.address), f"{kind.name} serves", 30)
        assert process.poll() is None, made.log()
        yield made
        assert process.poll() is None, made.log()
