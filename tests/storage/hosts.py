"""Hosts that are network namespaces, at one switch whose links can be cut: each has servers of its own.

A namespace ends with its last process. Each process here ends with the one that has started it, whatever ends
that, and the namespaces by themselves after HOLD_SECONDS.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.process.conftest import until
from tests.storage.servers import PROGRAM, Server

HOLD_SECONDS = 1800
SERVICE = "main"
PORT = 6379
SENTINEL_PORT = 26379
WEB_PORT = 8000
_TIED = ["setpriv", "--pdeathsig", "KILL", "--"]
_CLONE_NEWNET = 0x40000000
_PROBE = "ip link add hub type bridge && ip link add h0 type veth peer name eth0"


def why_not() -> str:
    """Why there can be no such hosts here; "" if there can."""
    for program in ("ip", "unshare", "nsenter", "setpriv"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    done = subprocess.run(["unshare", "--net", "sh", "-c", _PROBE], capture_output=True, timeout=20)
    return "" if done.returncode == 0 else f"network namespaces are not permitted: {done.stderr.decode()}"


class Host:
    """One namespace, and what runs in it."""

    def __init__(self, number: int, directory: Path) -> None:
        self.number = number
        self.address = f"10.77.0.{number}"
        self.directory = directory
        directory.mkdir(parents=True)
        self._holder = subprocess.Popen(["unshare", "--net", *_TIED, "sleep", str(HOLD_SECONDS)])
        self._path = f"/proc/{self._holder.pid}/ns/net"
        until(lambda: os.readlink(self._path) != os.readlink("/proc/self/ns/net"), "it has a namespace")
        #: Before the command of what is to run here.
        self.under = ["nsenter", f"--net={self._path}", *_TIED]
        self._started: list[Server] = []
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *command: str) -> None:
        subprocess.run([*self.under, *command], check=True, timeout=20)

    def plug(self, hub: Host) -> None:
        hub.run(
            "ip", "link", "add", f"h{self.number}", "type", "veth",
            "peer", "name", "eth0", "netns", str(self._holder.pid),
        )  # fmt: skip
        hub.run("ip", "link", "set", f"h{self.number}", "master", "hub")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self._hub = hub
        self.link("up")

    def link(self, state: str) -> None:
        """Cut it at the switch ("down"), or mend it ("up"): the host still has its address."""
        self._hub.run("ip", "link", "set", f"h{self.number}", state)

    def enter(self) -> None:
        """The calling thread makes its sockets here from now on."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open(self._path) as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def server(self, name: str, port: int, *command: str) -> Server:
        directory = self.directory / name
        directory.mkdir()
        server = Server.__new__(Server)
        server.directory, server.port, server.socket = directory, port, f"{directory}/s"
        server._command = [*self.under, *command]
        server.start()
        self._started.append(server)
        until(lambda: server.cli("PING") == "PONG", "it answers")
        return server

    def database(self, *options: str) -> Server:
        directory = str(self.directory / "db")
        return self.server(
            "db", PORT, PROGRAM, "--port", str(PORT), "--bind", "0.0.0.0", "--protected-mode", "no",
            "--unixsocket", f"{directory}/s", "--dir", directory, "--logfile", f"{directory}/log",
            "--save", "", "--repl-diskless-sync-delay", "0", *options,
        )  # fmt: skip

    def sentinel(self, primary: Host) -> Server:
        directory = self.directory / "sentinel"
        config = self.directory / "sentinel.conf"
        config.write_text(
            f"port {SENTINEL_PORT}\nbind 0.0.0.0\nprotected-mode no\n"
            f"unixsocket {directory}/s\ndir {directory}\n"
            f"sentinel monitor {SERVICE} {primary.address} {PORT} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
        )
        log = f"{directory}/log"
        return self.server("sentinel", SENTINEL_PORT, PROGRAM, str(config), "--sentinel", "--logfile", log)

    def stop(self) -> None:
        for server in self._started:
            with contextlib.suppress(ProcessLookupError):
                server.stop()
        self._holder.kill()
        self._holder.wait()


class Site:
    """Two hosts with a database each, the first one's the primary at first, and a third that has none; each
    has a Sentinel."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        def host(number: int) -> Host:
            made = Host(number, directory / f"h{number}")
            stack.callback(made.stop)
            return made

        hub = host(0)
        hub.run("ip", "link", "add", "hub", "type", "bridge")
        hub.run("ip", "link", "set", "hub", "up")
        self.hosts = [host(number) for number in (1, 2, 3)]
        for each in self.hosts:
            each.plug(hub)
        first, second, self.third = self.hosts
        self.databases = {
            first.address: first.database(),
            second.address: second.database("--replicaof", first.address, str(PORT)),
        }
        until(lambda: self.follows(second.address), "it follows", 30)
        self.sentinels = [each.sentinel(first) for each in self.hosts]
        for sentinel in self.sentinels:
            text, look = "slaves=1,sentinels=3", partial(sentinel.cli, "INFO", "sentinel")
            until(lambda look=look, text=text: text in look(), "all are known", 30)
        self.url = f"valkey+sentinel://{','.join(each.address for each in self.hosts)}/{SERVICE}"

    def primary(self) -> str:
        """Its address, as the third host's Sentinel says."""
        return self.sentinels[2].cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE).partition("\n")[0]

    def follows(self, address: str) -> bool:
        return "master_link_status:up" in self.databases[address].cli("INFO", "replication")

    def depose(self, address: str) -> None:
        """Make it follow the primary. The Sentinels do that as well, after some 20 s."""
        command = ("REPLICAOF", self.primary(), str(PORT))
        # "OK Already connected" where a Sentinel was faster.
        until(lambda: self.databases[address].cli(*command).startswith("OK"), "it answers", 30)
        until(lambda: self.follows(address), "it follows", 60)


@contextlib.contextmanager
def started_site(directory: Path) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        yield Site(stack, directory)


