"""What a service takes of its limits, for whoever is told that there is no room for it. In the master, and in
the command that starts it."""

from __future__ import annotations

import errno
import os

from forkd.config import Config
from forkd.models import registry
from forkd.system import process

#: Descriptors of a master besides those that grow with its configuration, some clients of its own included.
_OWN_FILES = 36
#: Of each child: its pidfd, its channel, a memfd for its stacks.
_FILES_OF_CHILD = 3
#: The command that waits, the master, the logger, and a process in between.
_OWN_PROCESSES = 4


def slots_for(config: Config) -> int:
    """Rows of the scoreboard: twice the children that may be wanted, as a reload has both generations; and
    some for those of earlier ones that still finish their work."""
    return max(32, 4 * config.workers.max, 2 * config.most_workers)


def files(config: Config) -> int:
    """Open files that the master needs for a start and a reload. Each slot has an eventfd."""
    copies = config.workers.max if config.accept == "reuseport" else 1
    of_children = 2 * _FILES_OF_CHILD * config.workers.max
    tables = sum(url.kind == "shm" for _, url in config.storage)
    shared = tables + (tables > 0)  # and the page of incarnations
    return _OWN_FILES + slots_for(config) + of_children + copies * len(config.bind) + shared


def processes(config: Config) -> int:
    """Processes and threads that a start needs."""
    logs = 2 if config.access_log not in (None, "-") else 1
    threads = 0 if registry.get(config.model).forks else registry.lanes(config)
    return _OWN_PROCESSES + logs + int(config.preload) + max(1, config.workers.min) * (1 + threads)


def with_need(error: str, config: Config) -> str:
    """A reason for which a start has failed; if it was a limit, with what there has to be room for."""
    if process.NO_PROCESSES in error:
        return f"{error}; this service needs room for {processes(config)} more of them"
    if os.strerror(errno.ENFILE) in error:
        return f"{error}; raise fs.file-max (sysctl)"
    if os.strerror(errno.EMFILE) in error:
        return (
            f"{error}; a process may have {process.descriptor_limit()} here, and this service needs "
            f"{files(config)} or more, its workers one for each connection; raise RLIMIT_NOFILE (ulimit -n, "
            "LimitNOFILE=)"
        )
    return error
