"""Every error forkd raises on purpose, and the exit code each one means.

Raised anywhere, in the master and in children; turned into an exit code and a line on stderr
once, in `cli`. Anything that is not a `ForkdError` is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "AlreadyRunning",
    "AppError",
    "BindError",
    "CheckError",
    "ConfigError",
    "ForkdError",
    "NotRunning",
    "Problem",
    "StartError",
    "SystemCallError",
    "UsageError",
    "mask",
    "show",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration: what was set, what may be set, and where it was set."""

    key: str
    value: str
    allowed: str
    where: str

    def __str__(self) -> str:
        # repr, so that a control byte in a value cannot reach a terminal or forge a log line.
        value = mask(self.value)
        value = repr(value if len(value) <= 200 else value[:200] + "...")
        return f"{self.key} = {value}: {self.allowed} ({self.where})"


def mask(text: str) -> str:
    """The text with `***` for what may be a login of a URL, or a password among its options. It may be a
    value of an option that was misspelled, several with spaces between them, or a password with one in it."""
    text = re.sub(r"((?:valkey|redis)\w*(?:\+\w+)?:(?!//)|://).*@", r"\1***@", text, flags=re.DOTALL)
    # Of a login whose @ is missing: no port follows the colon.
    text = re.sub(r"(://[^/?@\[]*?:)(?![0-9]{1,5}(?:[,/?\s]|$))[^?@]+", r"\1***", text)
    return re.sub(r"([?&][^=&]*(?:pass|pwd|auth|secret)[^=&]*(?<!-file)=)[^&]*", r"\1***", text)


def show(raw: object) -> str:
    """A value as an operator would write it."""
    if isinstance(raw, list | tuple):
        return ", ".join(map(show, raw))
    return str(raw).lower() if isinstance(raw, bool) else str(raw)


class ForkdError(Exception):
    """The root: failed, exit code 1."""

    exit_code: ClassVar[int] = 1

    @property
    def lines(self) -> Sequence[str]:
        """Each thing that is wrong, for a line of its own or more."""
        return (str(self),)


class UsageError(ForkdError):
    """The command line makes no sense."""

    exit_code: ClassVar[int] = 2


class CheckError(ForkdError):
    """A start would fail; carries each reason."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(self.reasons)

    @property
    def lines(self) -> Sequence[str]:
        return self.reasons

    def __str__(self) -> str:
        return "\n".join(self.reasons)


class ConfigError(ForkdError):
    """The configuration is wrong; carries every problem found, not only the first."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(self.problems)

    @property
    def lines(self) -> Sequence[str]:
        return tuple(map(str, self.problems))

    def __str__(self) -> str:
        return "\n".join(self.lines)


class NotRunning(ForkdError):
    """There is no master to talk to."""

    exit_code: ClassVar[int] = 3


class AppError(ForkdError):
    """The application could not be loaded; the message carries the traceback's text."""


class BindError(ForkdError):
    """A listener could not be made."""


class StartError(ForkdError):
    """The daemon did not come up."""


class AlreadyRunning(StartError):
    """Another master holds the pid file."""


class SystemCallError(ForkdError):
    """A system call failed: `bind(127.0.0.1:80): EACCES: Permission denied`."""

    def __init__(self, call: str, target: str, error: OSError) -> None:
        self.call = call
        self.target = target
        self.errno: int | None = error.errno
        # All arguments go to Exception, so that the error survives pickling as it is.
        super().__init__(call, target, error)

    def __str__(self) -> str:
        if self.errno is None:
            return f"{self.call}({self.target}): {self.args[2]}"
        if isinstance(self.args[2], socket.gaierror):  # its numbers are none of errno's
            return f"{self.call}({self.target}): {self.args[2].strerror}"
        name = errno.errorcode.get(self.errno, f"errno {self.errno}")
        return f"{self.call}({self.target}): {name}: {os.strerror(self.errno)}"
