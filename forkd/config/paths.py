"""Where the files of a daemon are, as far as its options leave that open.

Called by `sources` when the configuration is read, and by the verbs that look for daemons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from forkd.config import Config, stem


def default_runtime_dir(euid: int, environ: Mapping[str, str]) -> str:
    """The directory of the pid file and the control socket when neither is given."""
    if euid == 0:
        return "/run/forkd"
    # The XDG base directory specification has relative paths ignored.
    user_dir = environ.get("XDG_RUNTIME_DIR", "")
    return f"{user_dir}/forkd" if user_dir.startswith("/") else f"/tmp/forkd-{euid}"


def resolve_paths(config: Config, runtime_dir: str, cwd: str) -> Config:
    """`config` with the directory filled in, and pid file and control socket, each beside the other when
    given."""
    pidfile, control = config.pidfile, config.control
    beside = stem(pidfile or control or f"{runtime_dir}/{config.name}.pid")
    return replace(
        config, pidfile=pidfile or f"{beside}.pid", control=control or f"{beside}.sock",
        chdir=cwd if config.chdir is None else config.chdir,
    )  # fmt: skip
