"""Servers of Valkey or, where there is none, Redis: one, a cluster, one with a replica and Sentinels."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.process.conftest import until

PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server") or "redis-server"
CLIENT = str(Path(PROGRAM).with_name(Path(PROGRAM).name.replace("-server", "-cli")))
ATTEMPTS = 5


def free_ports(count: int) -> list[int]:
    """Those that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


class Server:
    """One process, in a directory of its own."""

    def __init__(self, directory: Path, port: int, *options: str) -> None:
        self.directory = directory
        self.port = port
        self.socket = str(directory / "s")
        self._command = [
            PROGRAM, "--port", str(port), "--unixsocket", self.socket, "--dir", str(directory), "--save", "",
            "--bind", "127.0.0.1", "--daemonize", "no", "--logfile", str(directory / "log"), *options,
        ]  # fmt: skip
        self.start()

    @classmethod
    @contextlib.contextmanager
    def started(cls, *options: str, port: int = 0) -> Iterator[Server]:
        with tempfile.TemporaryDirectory(prefix="v") as directory:
            server = cls(Path(directory), port, *options)
            try:
                until(lambda: server.cli("PING") == "PONG", "it answers")
                yield server
            finally:
                server.stop()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def cli(self, *words: str, password: str = "") -> str:
        """What it answers; "" where it does not."""
        login = ["-a", password, "--no-auth-warning"] if password else []
        command = [CLIENT, "-s", self.socket, *login, *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=5)
        except subprocess.TimeoutExpired:  # it is stopped
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""


@contextlib.contextmanager
def started_cluster(count: int) -> Iterator[list[Server]]:
    """Primaries alone, each with its share of the slots. Once more where a port was taken meanwhile."""
    for attempt in range(ATTEMPTS):
        with contextlib.ExitStack() as stack:
            ports = free_ports(2 * count)
            try:
                nodes = [
                    stack.enter_context(
                        Server.started("--cluster-enabled", "yes", "--cluster-port", str(bus), port=port)
                    )
                    for port, bus in zip(ports[:count], ports[count:], strict=True)
                ]
            except AssertionError:
                if attempt + 1 == ATTEMPTS:
                    raise
                continue
            share = -(-16384 // count)
            for number, node in enumerate(nodes):
                first, last = number * share, min((number + 1) * share, 16384) - 1
                node.cli("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
                node.cli("CLUSTER", "MEET", "127.0.0.1", str(ports[0]), str(ports[count]))
            for node in nodes:
                until(lambda node=node: "cluster_state:ok" in node.cli("CLUSTER", "INFO"), "it is whole", 30)
                until(lambda n=node: n.cli("CLUSTER", "NODES").count("master") == count, "they meet", 30)
            yield nodes
            return


class Watched:
    """A primary, a replica, and Sentinels that name the one that is to be written to."""

    service = "main"

    def __init__(self, servers: list[Server], sentinels: list[Server]) -> None:
        self.servers = servers
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"valkey+sentinel://{hosts}/{self.service}"

    def primary(self) -> Server:
        """As the Sentinels say."""
        port = self.sentinels[0].cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service).split()[-1]
        return next(server for server in self.servers if str(server.port) == port)


@contextlib.contextmanager
def started_watched(replicas: int = 1, sentinels: int = 3) -> Iterator[Watched]:
    with contextlib.ExitStack() as stack:
        ports = free_ports(1 + replicas + sentinels)
        servers = [stack.enter_context(Server.started(port=ports[0]))]
        for port in ports[1 : 1 + replicas]:
            replica = Server.started("--replicaof", "127.0.0.1", str(ports[0]), port=port)
            servers.append(stack.enter_context(replica))
        for server in servers[1:]:
            until(lambda server=server: "master_link_status:up" in server.cli("INFO"), "it follows", 30)
        watching = []
        for port in ports[1 + replicas :]:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="v")))
            config = directory / "sentinel.conf"
            config.write_text(
                f"port {port}\nunixsocket {directory}/s\ndir {directory}\nbind 127.0.0.1\n"
                f"sentinel monitor {Watched.service} 127.0.0.1 {ports[0]} {sentinels // 2 + 1}\n"
                f"sentinel down-after-milliseconds {Watched.service} 500\n"
                f"sentinel failover-timeout {Watched.service} 2000\n"
            )
            sentinel = Server.__new__(Server)
            sentinel.directory, sentinel.port, sentinel.socket = directory, port, f"{directory}/s"
            sentinel._command = [PROGRAM, str(config), "--sentinel", "--logfile", str(directory / "log")]
            sentinel.start()
            stack.callback(sentinel.stop)
            watching.append(sentinel)
        for sentinel in watching:
            known = f"slaves={replicas},sentinels={sentinels}"
            until(lambda s=sentinel, known=known: known in s.cli("INFO", "sentinel"), "all are known", 30)
        yield Watched(servers, watching)
