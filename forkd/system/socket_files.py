"""The files of unix sockets: which process holds one that is in the way, and which users may connect.

connect(2) asks for the right to write to the file (unix(7)). Called by the master.
"""

from __future__ import annotations

import errno
import grp
import pwd
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass

from forkd.errors import BindError, StartError
from forkd.system import process
from forkd.system.originals import os, socket

NO_FILE = -1  # instead of an inode's number
_LEAVE = -1  # an owner or a group that stays as it is (chown(2))


@dataclass(frozen=True, slots=True)
class Permissions:
    """The mode and the owners of a socket file: the users that may connect."""

    mode: int
    uid: int = _LEAVE
    gid: int = _LEAVE

    @classmethod
    def named(cls, mode: int, owner: str | None, group: str | None) -> Permissions:
        """Names or numbers. Raises StartError for a name that this machine does not have."""
        uid = gid = _LEAVE
        try:
            if owner is not None:
                uid = int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
        except KeyError:
            raise StartError(f"socket-owner: there is no user {owner!r} on this machine") from None
        try:
            if group is not None:
                gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise StartError(f"socket-group: there is no group {group!r} on this machine") from None
        return cls(mode, uid, gid)


#: For the owner alone.
PRIVATE = Permissions(0o600)
#: For all users that may enter the directory, as with nginx: a front runs as another user.
PUBLIC = Permissions(0o666)


def inode(path: str) -> int:
    """The identity of the file; NO_FILE if there is none. The number of a socket's is given to no other file
    while the socket is open."""
    try:
        return os.lstat(path).st_ino
    except OSError:
        return NO_FILE


def make_way(path: str, what: str, remedy: str) -> None:
    """Remove a socket file that no process has any more. Raises as `require_free`."""
    if require_free(path, what, remedy):
        with suppress(FileNotFoundError):
            os.unlink(path)


def require_free(path: str, what: str, remedy: str) -> bool:
    """Whether a socket file is there that no process has any more. Raises BindError for anything else, since
    a socket that answers is in use and is never stolen, and OSError.

    `what` is to be bound; `remedy`: what to do if it is in use, besides the removal of the file.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise BindError(f"{what}: {path} exists and is not a socket; remove or rename it")
    holder = _holder(path)
    if holder is not None:
        raise BindError(
            f"{what}: {path} belongs to {holder}; {remedy}, or remove the file if nothing uses it any more"
        )
    return True


def bind(sock: socket.socket, path: str, permissions: Permissions) -> None:
    """Bind it, with a file that lets in the users of `permissions` only. Raises BindError, OSError.

    Its mode is right from the first instant, by the umask, which bind(2) takes from 0777. Where it is to be
    given away, no user but root may connect until it has been.
    """
    given = (permissions.uid, permissions.gid) != (_LEAVE, _LEAVE)
    before = os.umask(0o777 if given else 0o777 & ~permissions.mode)
    try:
        sock.bind(path)
    finally:
        os.umask(before)
    if given:
        try:
            admit(path, permissions, None)
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise


def admit(path: str, permissions: Permissions, number: int | None) -> None:
    """Change which users may connect to the file with that inode; None: to the one that this process has just
    made, to which no user may connect yet. Raises BindError.

    At no time is it open to more users than before or afterwards. A user that may write to the directory may
    put another file there meanwhile: so it is opened first, then looked at, and then changed by its
    descriptor (O_PATH has no other way than /proc for that).
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            mode = stat.S_IMODE(found.st_mode)
            ours = (mode, found.st_uid) == (0, os.geteuid()) if number is None else found.st_ino == number
            if not stat.S_ISSOCK(found.st_mode) or not ours:
                raise BindError(f"{path}: another file has taken the place of the socket")
            link = f"/proc/self/fd/{fd}"
            if mode & ~permissions.mode:
                os.chmod(link, mode & permissions.mode)
            os.chown(link, permissions.uid, permissions.gid)
            os.chmod(link, permissions.mode)
        finally:
            os.close(fd)
    except OSError as error:
        rule = (
            "; only root may give a socket file away, and others only to a group that they are in"
            if error.errno == errno.EPERM
            else "; that needs /proc"
            if error.errno == errno.ENOENT and not os.path.exists("/proc/self")
            else ""
        )
        name = errno.errorcode.get(error.errno or 0, "error")
        raise BindError(
            f"{path}: mode {permissions.mode:04o}, owner {_shown(permissions.uid)}, group "
            f"{_shown(permissions.gid)}: {name}: {error.strerror}{rule}"
        ) from error


def _shown(number: int) -> str:
    return "unchanged" if number == _LEAVE else str(number)


def _holder(path: str) -> str | None:
    """The holder of the socket file, in words; None when there is none, and it may be unlinked.

    Only ECONNREFUSED says so: no socket is bound to the file, or none that listens. A live one may well
    refuse the probe otherwise: it is no stream socket (EPROTOTYPE), its file may not be written to
    (EACCES), its queue is full (EAGAIN); connect(2), unix(7).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except BlockingIOError:
            return "a process whose accept queue is full"  # EAGAIN: listening, and busy
        except OSError as error:
            return _UNPROBED.get(error.errno or 0) or f"somebody, as far as can be seen ({error.strerror})"
        pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return process.describe(pid)


_UNPROBED = {
    errno.EPROTOTYPE: "a process that has a datagram or seqpacket socket there",
    errno.EACCES: "another user, who lets nobody else connect",
}
