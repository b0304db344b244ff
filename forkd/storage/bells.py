"""Wakes those who wait for a channel of a file: unix sockets in a directory beside it.

A subscriber binds a datagram socket there, by the channel's name; a publisher sends a byte to each that has
that name. The messages are elsewhere: a socket that is full has woken its owner before. One whose owner died
refuses, and is removed.
"""

from __future__ import annotations

import contextlib
import hashlib

from forkd.system.originals import os, select, socket

__all__ = ["Bell", "Bells"]

_PERMISSIONS = 0o700


class Bell:
    """One that waits."""

    def __init__(self, path: str, listening: socket.socket) -> None:
        self._path = path
        self._socket = listening
        self._pid = os.getpid()

    def fileno(self) -> int:
        return self._socket.fileno()

    def wait(self, seconds: float | None) -> bool:
        """Whether it was rung within that time (None: for ever)."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return bool(poll.poll(None if seconds is None else max(seconds, 0) * 1000))

    def drain(self) -> None:
        """Take the bytes that woke it."""
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(1):
                pass

    def close(self) -> None:
        """In a child after a fork the socket's name stays, which is the parent's."""
        self._socket.close()
        if os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                os.unlink(self._path)


class Bells:
    """All those of one directory, which is made when the first is."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def listen(self, channel: bytes) -> Bell:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._path, _PERMISSIONS)
        name = f"{_stem(channel)}.{os.getpid()}.{os.urandom(6).hex()}"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        directory = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # The path itself may be longer than a unix socket's may be (unix(7): 107 bytes).
            listening.bind(f"/proc/self/fd/{directory}/{name}")
        except BaseException:
            listening.close()
            raise
        finally:
            os.close(directory)
        return Bell(f"{self._path}/{name}", listening)

    def ring(self, channel: bytes) -> int:
        """Wake those of this channel; how many there are."""
        stem = _stem(channel) + "."
        try:
            directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            names = [name for name in os.listdir(directory) if name.startswith(stem)]
            return sum(self._ring(directory, name) for name in names)
        finally:
            os.close(directory)

    def _ring(self, directory: int, name: str) -> bool:
        try:
            self._sender.sendto(b"\1", f"/proc/self/fd/{directory}/{name}")
        except BlockingIOError:
            return True  # it is full: rung, and not looked at yet
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=directory)
            return False
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._sender.close()


def _stem(channel: bytes) -> str:
    return hashlib.blake2s(channel, digest_size=12).hexdigest()
