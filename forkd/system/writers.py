"""The users that may write a file, by its mode bits and those of the directories above it.

The owner of a file may change its mode, and a user that may write its directory may put another file in its
place, except in a directory with the sticky bit (inode(7)). With an access control list the group's bits are
the most that any entry of it grants (acl(5)), which errs on the side of caution.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

#: Whether a user may write `found`; `below` is what would be replaced in it, if it is a directory.
MayWrite = Callable[[os.stat_result, "os.stat_result | None"], bool]


def writable(path: str, may_write: MayWrite) -> str | None:
    """`path`, or the directory above it, that such a user may write to; None when there is none.

    Both ways there are asked: the name as it is written, and where its links lead to.
    """
    ways = dict.fromkeys((os.path.abspath(path), os.path.realpath(path)))
    return next(filter(None, (_on_the_way(way, may_write) for way in ways)), None)


def _on_the_way(step: str, may_write: MayWrite) -> str | None:
    below: os.stat_result | None = None
    while True:
        try:
            found = os.lstat(step)
        except OSError:
            found = None  # not there yet: a user that may write the directory above can make it
        if found is not None and may_write(found, below):
            return step
        if step == "/":
            return None
        step, below = os.path.dirname(step), found


def by_others(path: str) -> str | None:
    """`path`, or the directory above it, that others than root and this user may write to. None also for
    what is neither a file nor a link to one, as /dev/null."""
    return writable(path, _others()) if os.path.isfile(path) else None


def of_link(path: str) -> str | None:
    """The directory above a link in which others could have made it, or put another one in its place; None
    when there is none."""
    directory, name = os.path.split(path)
    return _on_the_way(os.path.join(os.path.realpath(directory), name), _others())


def _others() -> MayWrite:
    """All but root and this user."""
    uid, gids = os.geteuid(), {0, os.getegid()} if os.geteuid() else {0}

    def may_write(found: os.stat_result, below: os.stat_result | None) -> bool:
        if stat.S_ISLNK(found.st_mode):
            return False  # its mode says nothing; the directory that holds it is asked next
        if found.st_uid not in (0, uid):
            return True
        group = found.st_gid not in gids and found.st_mode & stat.S_IWGRP
        if not (found.st_mode & stat.S_IWOTH or group):
            return False
        sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        return not (sticky and below is not None and below.st_uid in (0, uid))

    return may_write
