"""The pid file: who runs, and a lock that is held for life. Written by the master, read by verbs.

The lock is a flock(2) on the open file, so it cannot outlive the master, and a stale file blocks
nobody. The file is never a symbolic link, and is removed only while it is still the one we locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
from time import monotonic, sleep

from forkd.errors import AlreadyRunning, ForkdError, NotRunning, StartError, SystemCallError
from forkd.system.process import may_signal

#: A master that ends is in no list of processes any more before its lock is gone.
_LETS_GO_SECONDS = 1.0


class Pidfile:
    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def acquire(cls, path: str) -> Pidfile:
        """Lock and write the file. Raises StartError, SystemCallError."""
        while True:
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise SystemCallError("open", path, error) from error
            try:
                require_file(path, fd)
            except StartError:
                os.close(fd)
                raise
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder, ending = _content(fd), not _same(fd, path)
                os.close(fd)
                if ending:
                    continue  # its holder has removed it, and lets go of the lock next
                who = f"pid {holder}" if holder else "another process"
                raise AlreadyRunning(
                    f"already running: {who} holds {path}; stop it, or choose another --pidfile or --name"
                ) from None
            except OSError as error:
                os.close(fd)
                raise _no_lock(path, error) from error
            if _same(fd, path):
                pidfile = cls(path, fd)
                try:
                    pidfile.write()
                except SystemCallError:
                    with contextlib.suppress(OSError):
                        os.unlink(path)  # it names nobody
                    os.close(fd)
                    raise
                return pidfile
            os.close(fd)  # the former holder removed it between our open and our lock

    def write(self) -> None:
        """Put this process's pid into the file. Raises SystemCallError (ENOSPC, EDQUOT, EROFS, EIO)."""
        line = b"%d\n" % os.getpid()
        try:
            # One write that covers what was there, so that no reader finds half a number.
            os.pwrite(self.fd, line.ljust(12, b"\n"), 0)
            os.ftruncate(self.fd, len(line))
        except OSError as error:
            raise SystemCallError("write", self.path, error) from error

    def restore(self) -> bool:
        """Make the file again if it was removed or replaced: there are programs that clean /tmp up. Returns
        whether it was. Raises StartError, SystemCallError."""
        if _same(self.fd, self.path):
            return False
        make_directory(os.path.dirname(self.path))
        made = Pidfile.acquire(self.path)
        os.dup2(made.fd, self.fd, inheritable=False)
        os.close(made.fd)
        return True

    def remove(self) -> None:
        """At the end; after a handover the file names somebody else, and stays."""
        if _content(self.fd) == os.getpid() and _same(self.fd, self.path):
            with contextlib.suppress(OSError):  # EROFS by now: nobody holds it, so it stops nobody
                os.unlink(self.path)
        os.close(self.fd)


def _no_lock(path: str, error: OSError) -> StartError:
    """For a file system without locks (ENOLCK on NFS), or a call that is denied."""
    call = SystemCallError("flock", path, error)
    return StartError(f"{call}; the pid file needs a file system with locks: choose another --pidfile")


def make_directory(directory: str) -> None:
    """That of the pid file or the control socket, if it is not there. Raises StartError, SystemCallError."""
    require_ours(directory)  # or there would be no reason given
    try:
        os.makedirs(directory, mode=0o755, exist_ok=True)
    except OSError as error:
        raise SystemCallError("mkdir", directory, error) from error
    require_ours(directory)  # somebody may have been faster


def require_ours(directory: str, or_root: bool = False) -> None:
    """Somebody else might have made the default directory in /tmp, or a link there: who has it says which
    process a verb signals, and what a restart runs. `or_root`: root may name another user's. Raises
    StartError."""
    if not directory.startswith("/tmp/forkd-"):
        return
    try:
        found = os.lstat(directory)
    except OSError:
        return  # it is not there
    remedy = "remove it, or choose another --pidfile"
    if not stat.S_ISDIR(found.st_mode):
        raise StartError(f"{directory} is a link or a file, and no directory; {remedy}")
    if found.st_uid != os.geteuid() and not (or_root and os.geteuid() == 0):
        raise StartError(f"{directory} belongs to uid {found.st_uid}; {remedy}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StartError(f"{directory} can be written by others; {remedy}")


def running(path: str, control: str) -> int:
    """The pid of the master that holds the file. Raises NotRunning, ForkdError.

    Where /proc does not tell whether that pid is the holder's, the kernel is asked who listens on the control
    socket: /proc may be hidden (hidepid, of another user's processes), or not mounted (a chroot).
    """
    require_ours(os.path.dirname(path), or_root=True)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotRunning(f"not running: there is no pid file {path}") from None
    except OSError as error:
        raise NotRunning(
            f"not running, as far as can be seen: {SystemCallError('open', path, error)}"
        ) from error
    try:
        ends = monotonic() + _LETS_GO_SECONDS
        while not _lock_is_free(path, fd):
            pid = _content(fd)
            if not pid:
                raise NotRunning(f"not running yet: {path} is locked, and names nobody")
            holds = _holds(pid, fd)
            if holds is None:
                holds = _listens(pid, control)
            if holds:
                return pid
            if monotonic() >= ends:
                raise ForkdError(
                    f"{path} is held by a forkd of another PID namespace, where its pid is {pid}; "
                    "run this command in there"
                    if holds is False
                    else f"{path} is locked; whether pid {pid} holds it cannot be seen here: /proc does not "
                    f"show that process, and nobody answers on {control or 'a control socket'}"
                )
            sleep(0.01)  # it is ending: its descriptors are gone, and the lock will be
        raise NotRunning(f"not running: nobody holds {path}")
    finally:
        os.close(fd)


def _lock_is_free(path: str, fd: int) -> bool:
    """Raises StartError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _no_lock(path, error) from error
    return True


def _holds(pid: int, fd: int) -> bool | None:
    """Whether that process has the file open; None where /proc does not tell. A pid file on a shared volume
    may be a container's, and its pid somebody else's here."""
    mine = os.fstat(fd)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), mine):
                    return True
            except FileNotFoundError:
                continue
    except OSError:
        return None if _is_there(pid) else False
    return False


def _is_there(pid: int) -> bool:
    """Whether there is such a process in this PID namespace, whosever it is."""
    try:
        may_signal(pid)
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _listens(pid: int, control: str) -> bool | None:
    """Whether that process listens on the control socket, as the kernel says (unix(7), SO_PEERCRED: 0 for
    one of another PID namespace); None where nobody does. Where this user may neither connect nor signal
    that process, the lock is trusted: nothing can be done to it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_LETS_GO_SECONDS)
        try:
            sock.connect(control)
        except PermissionError:
            try:
                return None if may_signal(pid) else True
            except ProcessLookupError:  # it has just gone
                return False
        except OSError:
            return None
        peer: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return peer == pid


def require_file(path: str, fd: int) -> None:
    """Raises StartError for /dev/null and the like: at the end what is there is removed."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise StartError(f"pidfile {path}: this is no regular file; choose another --pidfile")


def _content(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _same(fd: int, path: str) -> bool:
    try:
        ours, theirs = os.fstat(fd), os.lstat(path)
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
