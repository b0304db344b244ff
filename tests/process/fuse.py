"""A file system whose disk can hang: a FUSE server over the kernel's own protocol (linux/fuse.h).

Run as a program, as root, in a mount namespace of its own: it mounts itself on the directory it is given,
keeps files in memory, and obeys lines on its stdin, each answered on stdout: `hang`: it answers no WRITE
any more; `dead`: it answers nothing any more; `go`: all is answered again, also what was not. Whoever waits
for it meanwhile waits in the kernel, and ends by no signal; but when this process ends, /dev/fuse is closed,
and the kernel ends the wait with an error. So `Disk`, which starts it, has timeout(1) end it, from outside
of its namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_IN = struct.Struct("=IIQQIIIHH")
_OUT = struct.Struct("=IiQ")
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS = 1, 2, 3, 4, 14, 15, 16, 17
_RELEASE, _FSYNC, _FLUSH, _INIT, _OPENDIR, _RELEASEDIR = 18, 20, 25, 26, 27, 29
_ACCESS, _CREATE, _INTERRUPT, _BATCH_FORGET = 34, 35, 36, 42
_ROOT = 1
_SILENT = (_FORGET, _BATCH_FORGET, _INTERRUPT)
#: Seconds after which the server is killed, whatever the test does.
_LIFE_SECONDS = 90


class Server:
    def __init__(self, directory: str) -> None:
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self.fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"hanging", directory.encode(), b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), "mount")
        self.names: dict[bytes, int] = {}
        self.data: dict[int, bytearray] = {}
        self.mode = "go"
        self.held: list[bytes] = []  # requests that are not answered

    def turn(self, ready: list[object]) -> bool:
        if self.fd in ready and self.mode != "dead":
            request = os.read(self.fd, 1 << 21)
            if self.mode == "hang" and _IN.unpack_from(request)[1] == _WRITE:
                self.held.append(request)
            else:
                self.answer(request)
        if 0 in ready:
            words = os.read(0, 100).split()
            if not words:
                return False
            self.mode = words[-1].decode()
            if self.mode == "go":
                while self.held:
                    self.answer(self.held.pop(0))
            os.write(1, b"ok\n")
        return True

    def answer(self, request: bytes) -> None:
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        if opcode in _SILENT:
            return
        try:
            body, error = self.reply(opcode, node, request[_IN.size :]), 0
        except OSError as failure:
            body, error = b"", -(failure.errno or errno.EIO)
        with contextlib.suppress(FileNotFoundError):  # who asked has been interrupted
            os.write(self.fd, _OUT.pack(_OUT.size + len(body), error, unique) + body)

    def reply(self, opcode: int, node: int, body: bytes) -> bytes:
        if opcode == _INIT:
            return struct.pack("=4I2H2I2H8I", 7, 31, 1 << 16, 0, 16, 12, 1 << 16, 1, 0, 0, *[0] * 8)
        if opcode == _LOOKUP:
            found = self.names.get(body.rstrip(b"\0"))
            if found is None:
                raise OSError(errno.ENOENT, "")
            return self.entry(found)
        if opcode in (_GETATTR, _SETATTR):
            return struct.pack("=QII", 0, 0, 0) + self.attributes(node)
        if opcode == _CREATE:
            name = body[16:].rstrip(b"\0")
            made = self.names.setdefault(name, len(self.names) + 2)
            self.data.setdefault(made, bytearray())
            return self.entry(made) + struct.pack("=QII", made, 0, 0)
        if opcode in (_OPEN, _OPENDIR):
            return struct.pack("=QII", node, 0, 0)
        if opcode == _WRITE:
            _, offset, size = struct.unpack_from("=QQI", body)
            self.data[node][offset : offset + size] = body[40 : 40 + size]
            return struct.pack("=II", size, 0)
        if opcode == _READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            return bytes(self.data[node][offset : offset + size])
        if opcode == _STATFS:
            return struct.pack("=5Q10I", 1 << 20, 1 << 20, 1 << 20, 99, 99, 4096, 255, 4096, 0, *[0] * 6)
        if opcode in (_RELEASE, _FSYNC, _FLUSH, _RELEASEDIR, _ACCESS):
            return b""
        raise OSError(errno.ENOSYS, "")

    def entry(self, node: int) -> bytes:
        return struct.pack("=4Q2I", node, 0, 0, 0, 0, 0) + self.attributes(node)

    def attributes(self, node: int) -> bytes:
        size = len(self.data.get(node, b""))
        mode = 0o40755 if node == _ROOT else 0o100640
        return struct.pack("=6Q10I", node, size, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def why_not() -> str:
    """Why no such file system can be mounted here; empty when it can."""
    if os.geteuid() != 0:
        return "only root mounts"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True)
    return tried.stderr.strip()


class Disk:
    """A mounted file system, from outside of its namespace."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        # timeout(1) is the watchdog, in our namespace.
        command = ["timeout", "-s", "KILL", str(_LIFE_SECONDS), "unshare", "-m", sys.executable, __file__]
        self._server = subprocess.Popen(
            [*command, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None
        self.pid = int(self._server.stdout.readline())
        #: What a command is run under that is to see the file system.
        self.under = ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt"]

    def say(self, mode: str) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(f"{mode}\n")
        self._server.stdin.flush()
        assert self._server.stdout.readline() == "ok\n"

    def read(self, name: str) -> str:
        """A file, when nothing hangs."""
        return Path(f"/proc/{self.pid}/root{self.directory}/{name}").read_text()

    def kill(self) -> None:
        """The kernel ends whoever waits."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        self._server.wait()


@contextlib.contextmanager
def hanging_disk(directory: Path) -> Iterator[Disk]:
    disk = Disk(directory)
    try:
        yield disk
    finally:
        disk.kill()


def main() -> None:
    server = Server(sys.argv[1])
    os.write(1, b"%d\n" % os.getpid())
    while True:
        watched: list[object] = [0] if server.mode == "dead" else [0, server.fd]
        if not server.turn(list(select.select(watched, [], [])[0])):
            return


if __name__ == "__main__":
    main()
