"""What an option is: the kinds of values there are, and the row that declares one.

The rows themselves are the fields of `config.Config`. Called when the configuration is read, in
the command and in the master (at start and on SIGHUP), and by `scripts/reference`.

A kind reads a value as it was given - text from a flag or the environment, or what tomllib made of
the file - and raises ValueError with what is allowed. `base` is the directory that relative paths
start from.
"""

from __future__ import annotations

import dataclasses
import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Required, TypeAlias, TypedDict, TypeVar, Unpack, overload

from forkd.config import cpus
from forkd.system import links
from forkd.system.address import FORMS, Address
from forkd.system.line_format import parse

__all__ = [
    "Account",
    "AddressOrNone",
    "Bool",
    "Choice",
    "Duration",
    "Int",
    "Kind",
    "LineFormat",
    "LogPath",
    "Octal",
    "Option",
    "Path",
    "Size",
    "SocketMode",
    "Text",
    "TextOrNone",
    "Workers",
    "WorkersKind",
    "Written",
    "option",
    "rows",
]

T = TypeVar("T")

# A value as an operator would write it in the file.
Written: TypeAlias = "str | int | bool | tuple[str, ...]"

MAX_WORKERS = 512

# Eleven days: below 2**31 ms, where epoll_wait(2) and poll(2) overflow.
MAX_SECONDS = 1_000_000

_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


class Kind(ABC, Generic[T]):
    """A type of value: how it is read and, in words, what is allowed."""

    #: Whether a value is a list: a repeated flag, or text with commas.
    several: ClassVar[bool] = False

    @property
    def metavar(self) -> str:
        """The word for the value in --help."""
        return "VALUE"

    @property
    @abstractmethod
    def allowed(self) -> str:
        """The values that are allowed, in words that follow "must be"."""

    @abstractmethod
    def read(self, raw: object, base: str) -> T:
        """The value of `raw`. Raises ValueError with the allowed values."""

    def refuse(self) -> ValueError:
        return ValueError(f"must be {self.allowed}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def text(self, raw: object) -> str:
        """`raw` as non-empty text without control characters, or ValueError."""
        if not isinstance(raw, str) or not (text := raw.strip()) or re.search(r"[\0-\x1f]", text):
            raise self.refuse()
        return text


class Bool(Kind[bool]):
    allowed = "true or false (also 1, yes, on, 0, no, off)"

    def read(self, raw: object, base: str) -> bool:
        if isinstance(raw, bool):
            return raw
        text = self.text(raw).lower()
        if text in ("1", "true", "yes", "on"):
            return True
        if text in ("0", "false", "no", "off"):
            return False
        raise self.refuse()


@dataclass(frozen=True)
class Text(Kind[str]):
    """Text that matches `pattern` as a whole; a bare number in the file is text, too."""

    pattern: str
    words: str
    metavar = "NAME"

    @property
    def allowed(self) -> str:
        return self.words

    def read(self, raw: object, base: str) -> str:
        if isinstance(raw, int) and not isinstance(raw, bool):
            raw = str(raw)
        text = self.text(raw)
        if not re.fullmatch(self.pattern, text, re.ASCII):
            raise self.refuse()
        return text


@dataclass(frozen=True)
class TextOrNone(Kind[str | None]):
    """Text that matches `pattern` as a whole, or none (None; also off)."""

    pattern: str
    words: str
    metavar = "TEXT|none"

    @property
    def allowed(self) -> str:
        return f"{self.words}, or none"

    def read(self, raw: object, base: str) -> str | None:
        text = Text(self.pattern, self.words).read(raw, base)
        return None if text in ("none", "off") else text


@dataclass(frozen=True)
class Account(Text):
    """A user or a group, by name or number."""

    pattern: str = r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?"
    words: str = "a name or a number up to 4294967294"

    def read(self, raw: object, base: str) -> str:
        text = super().read(raw, base)
        # 4294967295 is -1, which the calls take for "as it is" (setresuid(2), chown(2)).
        if text.isdigit() and int(text) >= 2**32 - 1:
            raise self.refuse()
        return text


@dataclass(frozen=True)
class Choice(Kind[str]):
    values: tuple[str, ...]

    @property
    def metavar(self) -> str:
        return "|".join(self.values)

    @property
    def allowed(self) -> str:
        return " or ".join([", ".join(self.values[:-1]), self.values[-1]])

    def read(self, raw: object, base: str) -> str:
        if (text := self.text(raw)) not in self.values:
            raise self.refuse()
        return text


@dataclass(frozen=True)
class Int(Kind[int]):
    least: int
    most: int
    metavar = "N"

    @property
    def allowed(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def read(self, raw: object, base: str) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int):
            if not re.fullmatch(r"[0-9]{1,18}", text := self.text(raw)):
                raise self.refuse()
            raw = int(text)
        if not self.least <= raw <= self.most:
            raise self.refuse()
        return raw


class Duration(Kind[float]):
    """A time, in seconds."""

    metavar = "SECONDS"
    allowed = f"seconds from 0 to {MAX_SECONDS}, or with a unit: 500ms, 2s, 5m, 1h, 1d"

    def read(self, raw: object, base: str) -> float:
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?) *(ms|s|m|h|d|)", self.text(raw))
            if match is None:
                raise self.refuse()
            raw = float(match[1]) * _SECONDS[match[2]]
        # A NaN fails both comparisons.
        if not 0 <= raw <= MAX_SECONDS:
            raise self.refuse()
        return float(raw)


@dataclass(frozen=True)
class Size(Kind[int]):
    """A number of bytes."""

    least: int = 0
    most: int = 2**62
    metavar = "SIZE"

    @property
    def allowed(self) -> str:
        most = "" if self.most == 2**62 else f" to {self.most}"
        return f"bytes from {self.least}{most}, or with a unit (of 1024): 64k, 10M, 1G"

    def read(self, raw: object, base: str) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int):
            match = re.fullmatch(r"([0-9]{1,18}) *([kmg]?)", self.text(raw).lower())
            if match is None:
                raise self.refuse()
            raw = int(match[1]) * _BYTES[match[2]]
        if not self.least <= raw <= self.most:
            raise self.refuse()
        return raw


class Octal(Kind[int]):
    """File mode bits: text is octal with or without a prefix, as umask(1) has it."""

    metavar = "MASK"
    allowed = 'octal from 000 to 777: "022", "0o022" or, in the file, 0o022'

    def read(self, raw: object, base: str) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int):
            if not re.fullmatch(r"(0o)?[0-7]{1,4}", text := self.text(raw)):
                raise self.refuse()
            raw = int(text.removeprefix("0o"), 8)
        if not 0 <= raw <= 0o777:
            raise self.refuse()
        return raw


class SocketMode(Octal):
    """The mode of a unix socket's file. forkd finds out by connecting whether a file that is there is in use.
    That takes the right to write, so the owner must have it."""

    metavar = "MODE"
    allowed = 'octal with the right of the owner to write: "660", "0o660" or, in the file, 0o660'

    def read(self, raw: object, base: str) -> int:
        mode = super().read(raw, base)
        if not mode & 0o200:
            raise self.refuse()
        return mode


class Path(Kind[str]):
    """A path, made absolute: the master leaves the directory it was started in."""

    metavar = "PATH"
    allowed = "a path"

    def read(self, raw: object, base: str) -> str:
        """`base` may have a link for its last part, which ".." must not take away unread: so it does not in a
        shell's arguments. Empty: there is no such directory any more."""
        path = os.path.normpath(self.text(raw))
        if not base and not os.path.isabs(path):
            raise ValueError("a relative path, and the current directory has been removed")
        if path.split("/")[0] == "..":
            base = os.path.realpath(base)
        return os.path.normpath(os.path.join(base, path))


_STREAMS = {0: "stdin", 1: "stdout", 2: "stderr"}


@dataclass(frozen=True)
class LogPath(Kind[str | None]):
    """A file made absolute, "-" for the standard stream, also by a name that it has or that leads to it, and
    "none" (None) where `off` allows."""

    off: bool

    @property
    def metavar(self) -> str:
        return "PATH|-|none" if self.off else "PATH|-"

    @property
    def allowed(self) -> str:
        return "a path, - or none" if self.off else "a path or -"

    def read(self, raw: object, base: str) -> str | None:
        text = self.text(raw)
        if text == "none":
            if not self.off:
                raise self.refuse()
            return None
        if text == "-":
            return text
        path = Path().read(text, base)
        own, found = 1 if self.off else 2, links.stream(path)
        if found not in (None, own):
            raise ValueError(f"leads to {_STREAMS[found]}; write - for {_STREAMS[own]}, or name a file")
        return path if found is None else "-"


class LineFormat(Kind[str]):
    """The form of lines of the access log."""

    metavar = "FORMAT"
    allowed = "text with fields such as %{client} (docs/operations.md)"

    def read(self, raw: object, base: str) -> str:
        text = self.text(raw)
        parse(text)
        return text


class AddressOrNone(Kind[Address | None]):
    metavar = "ADDR|none"
    allowed = f"{FORMS}, or none"

    def read(self, raw: object, base: str) -> Address | None:
        if isinstance(raw, int) and not isinstance(raw, bool):
            raw = str(raw)
        text = self.text(raw)
        return None if text == "none" else Address.parse(text)


@dataclass(frozen=True, slots=True)
class Workers:
    """A range for the number of children: never fewer than `min`, never more than `max`."""

    min: int
    max: int

    def __str__(self) -> str:
        return str(self.max) if self.min == self.max else f"{self.min}:{self.max}"


@dataclass(frozen=True)
class WorkersKind(Kind[Workers]):
    metavar = "N|MIN:MAX|auto"
    allowed = (
        f"N from 1 to {MAX_WORKERS}, MIN:MAX with MIN from 0 and not above MAX, "
        "or auto (the CPUs forkd may use)"
    )

    def read(self, raw: object, base: str) -> Workers:
        if isinstance(raw, int) and not isinstance(raw, bool):
            raw = str(raw)
        text = self.text(raw)
        if text == "auto":
            usable = min(cpus.usable(), MAX_WORKERS)
            return Workers(usable, usable)
        match = re.fullmatch(r"(?:([0-9]{1,6}):)?([0-9]{1,6})", text)
        if match is None:
            raise self.refuse()
        most = int(match[2])
        least = most if match[1] is None else int(match[1])
        if not (1 <= most <= MAX_WORKERS and least <= most):
            raise self.refuse()
        return Workers(least, most)


#: The groups of the options, in the order of --help and of the pages.
SECTIONS = (
    "application", "sockets", "model", "workers", "http",
    "proxies", "streams", "storage", "process", "admin", "logging",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One row: everything that flags, file, environment, --help and the reference page need."""

    kind: Kind[Any]
    default: Written | None
    section: str
    help: str
    short: str = ""
    positional: bool = False
    reloadable: bool = True
    metavar: str = ""
    # For a row without a default: what happens then, and a value for the sample file.
    unset: str = ""
    example: Written = ""
    attr: str = ""

    @property
    def name(self) -> str:
        """The TOML key, and the long flag without its dashes."""
        return self.attr.replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags on the command line; empty for the positional argument."""
        if self.positional:
            return ()
        return (self.short, f"--{self.name}") if self.short else (f"--{self.name}",)

    @property
    def variable(self) -> str:
        return f"FORKD_{self.attr.upper()}"

    @property
    def default_text(self) -> str:
        """The default for people: the value, or what happens without one."""
        if self.default is None:
            return self.unset
        if isinstance(self.default, bool):
            return "true" if self.default else "false"
        return ", ".join(self.default) if isinstance(self.default, tuple) else str(self.default)


class OptionFields(TypedDict, total=False):
    """The keywords of `option`: fields of `Option` under the same names."""

    section: Required[str]
    help: Required[str]
    short: str
    positional: bool
    reloadable: bool
    metavar: str
    unset: str
    example: Written


@overload
def option(kind: Kind[T], default: Written, **row: Unpack[OptionFields]) -> T: ...
@overload
def option(kind: Kind[T], default: None, **row: Unpack[OptionFields]) -> T | None: ...
@overload
def option(kind: Kind[T], default: None, *, absent: T, **row: Unpack[OptionFields]) -> T: ...
def option(
    kind: Kind[Any], default: Written | None, *, absent: Any = None, **row: Unpack[OptionFields]
) -> Any:
    """A dataclass field that carries its row; its default is `default` as `kind` reads it.

    `absent` stands in for the value of a row without a default.
    """
    full = Option(kind=kind, default=default, **row)
    if not full.metavar:
        full = dataclasses.replace(full, metavar=kind.metavar)

    # A factory rather than a value: "auto" is asked of the kernel when it is needed.
    def read_default() -> Any:
        return absent if default is None else kind.read(default, "/")

    return dataclasses.field(default_factory=read_default, metadata={"option": full})


def rows(table: Any) -> tuple[Option, ...]:
    """The rows of those fields of a dataclass that were declared with `option`: section by section, and in
    each in the order of their declarations."""
    fields = [f for f in dataclasses.fields(table) if "option" in f.metadata]
    found = [dataclasses.replace(f.metadata["option"], attr=f.name) for f in fields]
    return tuple(sorted(found, key=lambda row: SECTIONS.index(row.section)))
