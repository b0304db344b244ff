"""The user and the groups that a process runs as. Called by the master and by new children."""

from __future__ import annotations

import grp
import pwd

from forkd.errors import StartError, SystemCallError
from forkd.system.originals import os

#: uid, gid, and the supplementary groups.
Identity = tuple[int, int, list[int]]


def find(user: str | None, group: str | None) -> Identity | None:
    """The (uid, gid, supplementary groups) to become, or None for no change.

    Names or numbers. Raises StartError when the user or group does not exist or when this process
    may not change its identity, before anything was changed.
    """
    if user is None and group is None:
        return None
    uid, gid, name = os.getuid(), os.getgid(), None
    if user is not None:
        try:
            entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
            uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
        except KeyError:
            if not user.isdigit():
                raise StartError(f"user: there is no user {user!r} on this machine") from None
            uid = gid = int(user)
    if group is not None:
        try:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise StartError(f"group: there is no group {group!r} on this machine") from None
    if os.geteuid() != 0:
        if (uid, gid) == (os.getuid(), os.getgid()):
            return None
        raise StartError("user/group: only root can change them; start forkd as root or drop them")
    return uid, gid, os.getgrouplist(name, gid) if name else [gid]


def login_environ(uid: int) -> dict[str, str]:
    """The variables that a login sets for a user (environ(7)), as systemd does for User=; the home of a uid
    without an account is the root directory."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return {"HOME": "/", "USER": str(uid), "LOGNAME": str(uid)}
    return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}


def is_other(who: Identity | None) -> bool:
    """Whether a process that becomes `who` has other ids than this one."""
    return who is not None and who[:2] != (os.geteuid(), os.getegid())


def become(who: Identity) -> None:
    """Drop privileges for good: groups first, while we still may; then verify (setresuid(2))."""
    uid, gid, groups = who
    try:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise SystemCallError("setresuid", f"uid {uid}, gid {gid}", error) from error
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3:
        raise StartError(f"the kernel did not change to uid {uid}, gid {gid}")
    if uid != 0:
        try:
            os.setuid(0)
        except PermissionError:
            return
        raise StartError("root privileges could be taken back after dropping them")
