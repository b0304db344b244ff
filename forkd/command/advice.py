"""What a start says though nothing is wrong: each is a warning, once. In the command that starts, and in
`forkd check`.
"""

from __future__ import annotations

import os

from forkd.config import OPTIONS, Config
from forkd.config.sources import Sources


def warnings(sources: Sources, config: Config) -> list[str]:
    found = sources.unknown_variables()
    if os.geteuid() == 0 and config.user is None:
        found.append(
            "started as root without --user: the application runs as root; set --user to an account of its "
            "own, or to root if that is meant"
        )
    given = [name for name, default in _OF_SOCKET_FILES if getattr(config, name) != default]
    if given and not any(a is not None and a.kind == "unix" for a in (*config.bind, config.admin)):
        names = ", ".join(name.replace("_", "-") for name in given)
        found.append(f"{names}: without effect, since no address is unix:/path")
    return found


_OF_SOCKET_FILES = [
    (row.attr, getattr(Config(), row.attr)) for row in OPTIONS if row.attr.startswith("socket_")
]
