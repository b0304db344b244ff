"""What a start says though nothing is wrong: each is a warning, once. In the command that starts, and in
`forkd check`.
"""

from __future__ import annotations

import os

from forkd.config import Config
from forkd.sources import Sources


def warnings(sources: Sources, config: Config) -> list[str]:
    found = sources.unknown_variables()
    if os.geteuid() == 0 and config.user is None:
        found.append(
            "started as root without --user: the application runs as root; set --user to an account of its "
            "own, or to root if that is meant"
        )
    return found
