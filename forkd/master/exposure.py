"""Which files that root runs or obeys can be written by the workers' user, and whether others can write the
configuration. In the master, at a start, and in the command, by `forkd check`; each answer is a warning.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator

from forkd.config import Config
from forkd.log.lines import Log
from forkd.system import rights, writers
from forkd.system.accounts import Identity

_OPTIONS = "each start, reload and upgrade by root reads its options there, the workers' user too"
_IMPORTS = "each start, upgrade and verb of forkd by root runs Python from there"


def warn(log: Log, path: str | None, config: Config, identity: Identity | None) -> None:
    """`path`: of the configuration file."""
    others = writers.by_others(path) if path is not None and os.geteuid() == 0 else None
    if others is not None and not (identity and identity[0] and writable(str(path), identity)):
        log.warning(f"{others} can be written by others than root: {_OPTIONS}")
    if identity is None or identity[0] == 0:
        return  # they are what the master is, and need no detour
    if not rights.may_empty_bounding_set():
        log.warning(
            "without CAP_SETPCAP the workers' capability bounding set stays as it is (their other sets "
            "are emptied)"
        )
    said: set[tuple[str, str]] = set()
    for paths, what in _trusted(path, config):
        for trusted in paths:
            found = writable(trusted, identity)
            if found is not None and (found, what) not in said:
                said.add((found, what))
                log.warning(
                    f"{found} can be written by the workers' user (uid {identity[0]}) or group: {what}"
                )


def _trusted(path: str | None, config: Config) -> Iterator[tuple[Iterable[str], str]]:
    """Paths, and what becomes of them."""
    yield _code(), _IMPORTS
    if path is not None:
        yield (
            [path],
            _OPTIONS,
        )
    yield (
        [os.path.dirname(config.control)],
        "`forkd restart` by root takes its options from whoever listens on the control socket there",
    )
    yield (
        [os.path.dirname(config.pidfile)],
        "`forkd stop` and `restart` by root signal the process whose number is in the pid file there",
    )
    if config.admin_token_file is not None:
        yield (
            [config.admin_token_file],
            "who writes it says which token opens the pages at --admin, from the next start or reload on",
        )
    if config.hooks is not None:
        yield (
            _module_files(config.hooks, config.chdir or os.getcwd()),
            "the hooks of the daemon are run from there (with the workers' ids, not root's)",
        )


def _code() -> Iterator[str]:
    """What this interpreter was made from, and would be made from again."""
    yield sys.executable
    yield from (sys.prefix, sys.base_prefix, *filter(None, sys.path))
    yield from _mapped()
    for module in list(sys.modules.values()):
        for name in (getattr(module, "__file__", None), getattr(module, "__cached__", None)):
            if name:
                yield name
    here = os.path.dirname(os.path.dirname(__file__))
    for directory, _, files in os.walk(here):
        yield directory
        yield from (os.path.join(directory, name) for name in files)


def _mapped() -> list[str]:
    """The interpreter, its libraries and the extension modules (proc_pid_maps(5)); none where there is no
    /proc."""
    try:
        with open("/proc/self/maps") as file:
            lines = [line.split(maxsplit=5) for line in file]
    except OSError:
        return []
    paths = {line[5].rstrip("\n") for line in lines if len(line) == 6 and "x" in line[1]}
    return sorted(path for path in paths if path.startswith("/"))


def _module_files(name: str, directory: str) -> list[str]:
    """The module's file, found as the import system would, without an import."""
    for base in (directory, *sys.path):
        path = os.path.join(base, *name.split("."))
        for file in (os.path.join(path, "__init__.py"), f"{path}.py"):
            if os.path.exists(file):
                return [file]
    return []


def writable(path: str, identity: Identity) -> str | None:
    """`path`, or the directory above it, that `identity` may write to; None when there is none."""
    return writers.writable(path, lambda found, below: _may_write(found, below, identity))


def _may_write(found: os.stat_result, below: os.stat_result | None, identity: Identity) -> bool:
    """`below`: what is to be put in the place of, in the directory `found`, if it exists."""
    uid, gid, groups = identity
    if stat.S_ISLNK(found.st_mode):
        return False  # its mode says nothing; the directory that holds it is asked next
    if found.st_uid == uid:
        return True
    group = found.st_gid in (gid, *groups) and found.st_mode & stat.S_IWGRP
    if not (found.st_mode & stat.S_IWOTH or group):
        return False
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    return not (sticky and below is not None and below.st_uid != uid)
