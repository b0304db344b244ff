"""The options: the table that flags, environment, file, --help and the reference are made from.

`Config` is the table: a field is a row, in the file of what it is about. Values come from
`sources.Sources.load`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from forkd.config.application import ApplicationOptions
from forkd.config.connections import ConnectionOptions
from forkd.config.operation import OperationOptions
from forkd.config.options import Option, Workers, rows
from forkd.config.processes import ProcessOptions

__all__ = [
    "OPTIONS",
    "Config",
    "Workers",
    "keep_unreloadable",
    "stem",
    "unreloadable",
]


@dataclass(frozen=True, kw_only=True)
class Config(ApplicationOptions, ConnectionOptions, ProcessOptions, OperationOptions):
    """The value of every option, checked. Made by `Sources.load`; constant for a generation."""

    #: Where each attribute was set. One that was set nowhere has its default.
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def most_workers(self) -> int:
        """The most children that may ever be wanted: `max_workers`, or its default."""
        return max(16, 2 * self.workers.max) if self.max_workers is None else self.max_workers

    @property
    def default_error_log(self) -> str:
        """The path at which a detached daemon logs when `error_log` is not given."""
        return stem(self.pidfile) + ".log"


OPTIONS: tuple[Option, ...] = rows(Config)


def unreloadable(old: Config, new: Config) -> list[str]:
    """The names of the options that differ and that a reload cannot change."""
    return [
        row.name
        for row in OPTIONS
        if not row.reloadable and getattr(old, row.attr) != getattr(new, row.attr)
    ]


def keep_unreloadable(old: Config, new: Config) -> Config:
    """`new`, with the values of `old` where a reload cannot change them."""
    return replace(
        new, **{row.attr: getattr(old, row.attr) for row in OPTIONS if not row.reloadable}
    )


def stem(path: str) -> str:
    """What the files beside a pid file or a control socket are named by."""
    # Only our own suffixes: /run/my.app and /run/my.other must not share /run/my.sock.
    return path.removesuffix(".pid").removesuffix(".sock")
