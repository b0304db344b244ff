"""Process titles, as `ps` and `top` show them: "forkd: master [name]"."""

from __future__ import annotations

from setproctitle import setproctitle


def set_title(role: str, name: str) -> None:
    setproctitle(f"forkd: {role} [{name}]")
