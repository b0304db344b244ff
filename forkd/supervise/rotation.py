"""SIGUSR1: the log files were rotated. In the master.

The master opens them anew, once for all processes, and sends the descriptors to its children: they may
be a user who cannot open them. Until a child has read the message its lines go to the old file. A
file that cannot be opened leaves the old one in use, everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forkd.log import redirect
from forkd.supervise.generation import Generation
from forkd.supervise.messages import Reopen
from forkd.supervise.template import Templates

if TYPE_CHECKING:
    from forkd.supervise.master import Master


def reopen(master: Master, generations: list[Generation], templates: Templates) -> None:
    failed = []
    error_log = master.launch.error_log
    if error_log is not None:
        try:
            redirect(error_log)
            master.log.sink.use(2)
            templates.reopen(2)
        except OSError as error:
            failed.append(f"error log {error_log}: {error.strerror}")
            error_log = None
    access: dict[int, int] = {}  # by generation
    for generation in generations:
        try:
            if generation.reopen_access():
                access[generation.number] = generation.access or 0
        except OSError as error:
            failed.append(f"access log {generation.config.access_log}: {error.strerror}")
    for child in master.children:
        files = [2] if error_log is not None else []
        if child.generation in access:
            files.append(access[child.generation])
        message = Reopen(error_log is not None, child.generation in access)
        if files and not child.channel.send(message, *files):
            failed.append(f"worker {child.slot} (pid {child.pid}) cannot be told")
    for why in failed:
        master.log.error(f"{why}; the old file stays in use")
    if not failed:
        master.log.info("log files reopened")
