"""SIGUSR1: the log files were rotated. In the master.

The master opens them anew, once for all processes, and sends the descriptors to its children: they may
be a user who cannot open them. Until a child has read the message its lines go to the old file. A
file that cannot be opened leaves the old one in use, everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forkd.log import redirect
from forkd.supervise.children import Child
from forkd.supervise.generation import Generation
from forkd.supervise.messages import Reopen
from forkd.supervise.templates import Templates

if TYPE_CHECKING:
    from forkd.supervise.master import Master


def reopen(master: Master, generations: list[Generation], templates: Templates) -> None:
    news: list[tuple[Child, Reopen]] = []
    failed = []
    if master.launch.error_log is not None:
        try:
            redirect(master.launch.error_log)
        except OSError as error:
            failed.append(f"error log {master.launch.error_log}: {error.strerror}")
        else:
            master.log.sink.use(2)
            templates.reopen(2)
            news += [(child, Reopen("error", 2)) for child in master.children]
    for generation in generations:
        try:
            fd = generation.reopen_access()
        except OSError as error:
            failed.append(f"access log {generation.config.access_log}: {error.strerror}")
        else:
            if fd is not None:
                mine = [x for x in master.children if x.generation == generation.number]
                news += [(child, Reopen("access", fd)) for child in mine]
    for child, message in news:
        if not child.channel.send(message) and not child.channel.gone:
            failed.append(
                f"{message.log} log: worker {child.slot} (pid {child.pid}) does not listen"
            )
    for why in failed:
        master.log.error(f"{why}; the old file stays in use")
    if not failed:
        master.log.info("log files reopened")
