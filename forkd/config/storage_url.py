"""The place of a storage unit: the text an operator writes, as a value.

Pure, but for `password`, which reads a file. Called when the configuration is read, and by `storage.open`.
What is wrong is said all at once, and neither in an error nor in `str()` is there a password.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from forkd import errors
from forkd.config.options import Duration, Int, Kind, Path, Size
from forkd.system.cells import STORAGE_UNITS

__all__ = ["DEFAULT", "FORMS", "StorageURL", "StorageUnits", "mask"]

FORMS = (
    "shm:64m, sqlite:/path, valkey://host:port/db, valkey+unix:/path, "
    "valkey+sentinel://host:port,.../service, valkey+cluster://host:port,... (redis and rediss as well)"
)
#: The name of the unit that is given without one.
DEFAULT = "default"

DEFAULT_SHM_BYTES = 64 << 20
LEAST_SHM_BYTES = 1 << 20
MOST_SHM_BYTES = 1 << 40
DEFAULT_SQLITE_BYTES = 1 << 30

StorageKind = Literal["shm", "sqlite", "valkey"]
Mode = Literal["single", "sentinel", "cluster"]

_MODES: Mapping[str, Mode] = {"": "single", "unix": "single", "sentinel": "sentinel", "cluster": "cluster"}
_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_SCHEME = re.compile(r"(valkey|valkeys|redis|rediss)(?:\+(unix|sentinel|cluster))?")
_NAMED = re.compile(r"([A-Za-z0-9_-]{1,32})=(.*)", re.DOTALL)
#: What is shown, whatever is wrong with it, where it is one of several.
_WITHOUT_PASSWORD = re.compile(r"([A-Za-z0-9_-]{1,32}=)?(shm|sqlite):[^@?]*")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]*)(?::([0-9]{1,5}))?")


def mask(text: str) -> str:
    """The text without a password, whatever else is wrong with it."""
    if not re.match(r"([\w-]+=)?(shm|sqlite)\b", text):
        text = re.sub(r":.*@", "://***@" if "://" in text else ":***@", text, count=1, flags=re.DOTALL)
    return errors.mask(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageURL:
    """One place. Which of the fields mean something depends on `kind`; `text` has the password, if there is
    one."""

    text: str = field(repr=False)
    kind: StorageKind
    limit: int = 0  # bytes: of shm the size of the table, of sqlite that of the file; valkey's own bounds it
    # sqlite
    path: str = ""
    full_sync: bool = False
    # valkey
    mode: Mode = "single"
    hosts: tuple[tuple[str, int], ...] = ()
    socket_path: str = ""
    service: str = ""
    db: int = 0
    tls: bool = False
    tls_ca: str = ""
    user: str = ""
    secret: str = field(default="", repr=False)
    password_file: str = ""
    prefix: str = "forkd"
    timeout: float = 1.0  # seconds, of a call
    replicas: int = 0  # that have to have a write before it is acknowledged (WAIT)

    @classmethod
    def parse(cls, text: str) -> StorageURL:
        """The place that `text` names. Raises ValueError with all that is wrong with it."""
        text = text.strip()
        wrong: list[str] = []
        plain, _, query = text.partition("?")
        scheme, colon, rest = plain.partition(":")
        values: dict[str, Any]
        if scheme == "shm":
            values = {"kind": "shm", **_shm(rest if colon else "", wrong)}
            known = _SHM_OPTIONS
        elif scheme == "sqlite":
            values = {"kind": "sqlite", "limit": DEFAULT_SQLITE_BYTES, **_sqlite(rest, wrong)}
            known = _SQLITE_OPTIONS
        elif (found := _SCHEME.fullmatch(scheme)) is not None:
            # Of an unescaped password with a "?" in it the rest must not be taken for an option, and shown.
            if "@" in query:
                wrong.append("a ? or @ in a password is written %3F or %40")
                query = ""
            tls = found[1] in ("valkeys", "rediss")
            values = {"kind": "valkey", "tls": tls}
            values |= _valkey(_MODES[found[2] or ""], found[2] == "unix", rest, wrong)
            known = _VALKEY_OPTIONS
        else:
            raise ValueError(f"{mask(text)!r} is no place of a storage unit; there is {FORMS}")
        for option in filter(None, query.split("&")):
            name, _, value = option.partition("=")
            row = known.get(name)
            if row is None:
                wrong.append(f"{name!r} is no option of such a place; there is {', '.join(known)}")
                continue
            try:
                values[row[0]] = row[1](unquote(value))
            except ValueError as error:
                wrong.append(f"{name}: {error}")
        if values.get("replicas") and values.get("mode") == "cluster":
            wrong.append("wait is not for a cluster, whose connections are many")
        if values.get("secret") and values.get("password_file"):
            wrong.append("the password is given twice, in the place and by password-file")
        if wrong:
            raise ValueError(f"{mask(text)!r}: {'; '.join(wrong)}")
        return cls(text=text, **values)

    def __str__(self) -> str:
        return mask(self.text)

    @property
    def password(self) -> str:
        """Of the server; "" for none. Raises OSError for a file that cannot be read, and ValueError for one
        that others may read or write."""
        if not self.password_file:
            return self.secret
        with open(self.password_file, encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o037:
                raise ValueError(f"{self.password_file} has mode {mode:04o}; chmod 0600 or 0640 it")
            return file.readline().rstrip("\r\n")


def _shm(rest: str, wrong: list[str]) -> dict[str, Any]:
    if not rest:
        return {"limit": DEFAULT_SHM_BYTES}
    try:
        return {"limit": Size(LEAST_SHM_BYTES, MOST_SHM_BYTES).read(rest, "")}
    except ValueError as error:
        wrong.append(f"the size {error}")
        return {}


def _sqlite(rest: str, wrong: list[str]) -> dict[str, Any]:
    path = "/" + rest.lstrip("/") if rest.startswith("//") else rest
    if not path.startswith("/") or path.endswith("/"):
        wrong.append("an absolute path of a file comes after sqlite:")
    return {"path": os.path.normpath(unquote(path))}


def _valkey(mode: Mode, unix: bool, rest: str, wrong: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"mode": mode}
    login, at, place = rest.removeprefix("//").rpartition("@")
    if at:
        user, _, secret = login.partition(":")
        values |= {"user": unquote(user), "secret": unquote(secret)}
        if "@" in login or "/" in login:
            wrong.append("a / or @ in a password is written %2F or %40")
    if unix:
        if not place.startswith("/"):
            wrong.append("an absolute path of a socket comes after the :")
        return values | {"socket_path": unquote(place)}
    hosts, _, path = place.partition("/")
    found = []
    for text in hosts.split(","):
        match = _HOST.fullmatch(text)
        if match is None or int(match[2] or 1) not in range(1, 65536):
            wrong.append("after // comes host:port or [v6]:port, several with commas")
            break
        found.append((match[1].strip("[]"), int(match[2] or _PORTS[mode])))
    values["hosts"] = tuple(found)
    if mode == "single" and len(found) > 1:
        wrong.append("several servers are valkey+sentinel:// or valkey+cluster://")
    if mode == "sentinel":
        values["service"], _, path = unquote(path).partition("/")
        if not values["service"]:
            wrong.append("the name of the service comes after the sentinels: /mymaster")
    if path:
        if not path.isdigit() or (mode == "cluster" and int(path)):
            wrong.append("the database is a number, and 0 in a cluster")
        else:
            values["db"] = int(path)
    return values


def _one_of(values: Mapping[str, bool]) -> Callable[[str], bool]:
    def read(text: str) -> bool:
        if text not in values:
            raise ValueError(f"must be {' or '.join(values)}")
        return values[text]

    return read


def _timeout(text: str) -> float:
    seconds = Duration().read(text, "")
    if not 0 < seconds <= 60:
        raise ValueError("must be above 0 and at most 60 seconds")
    return seconds


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", text):
        raise ValueError("must be letters, digits, and any of _ . : -")
    return text


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("must be an absolute path")
    return Path().read(text, "/")


#: Options after the "?", by kind: the field, and how it is read.
_SHM_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {}
_SQLITE_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "sync": ("full_sync", _one_of({"normal": False, "full": True})),
    "limit": ("limit", lambda text: Size(1 << 20).read(text, "")),
}
_VALKEY_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "password-file": ("password_file", _path),
    "prefix": ("prefix", _prefix),
    "timeout": ("timeout", _timeout),
    "wait": ("replicas", lambda text: Int(0, 100).read(text, "")),
    "tls-ca": ("tls_ca", _path),
    "db": ("db", lambda text: Int(0, 10_000).read(text, "")),
}


class StorageUnits(Kind[tuple[tuple[str, StorageURL], ...]]):
    """The storage units of a daemon: NAME=URL, or a URL for the one that is called `default`. In a list, or
    separated by spaces, since a URL may have commas. "none" is no unit."""

    several = True
    metavar = "[NAME=]URL|none"
    allowed = f"{FORMS}; each with NAME= before it where there are several; or none"

    def read(self, raw: object, base: str) -> tuple[tuple[str, StorageURL], ...]:
        units: dict[str, StorageURL] = {}
        wrong: list[str] = []
        items = raw if isinstance(raw, list | tuple) else [raw]
        texts = [text for item in items for text in _places(self.text(item))]
        for text in texts if texts != ["none"] else ():
            named = _NAMED.fullmatch(text)
            name, place = named.groups() if named else (DEFAULT, text)
            if name in units:
                wrong.append(f"there are two units called {name}")
            try:
                units[name] = StorageURL.parse(place)
            except ValueError as error:
                wrong.append(str(error))
        if len(units) > STORAGE_UNITS:
            wrong.append(f"there are {len(units)} units; the most is {STORAGE_UNITS}")
        wrong += _shared_files(units)
        if wrong:
            raise ValueError("; ".join(wrong))
        return tuple(units.items())


def _places(text: str) -> list[str]:
    """The places in a text that has spaces between them. Raises ValueError where one is none, and shows then
    no part of the text: it may be that of a password."""
    parts = text.split()
    for number, part in enumerate(parts if len(parts) > 1 else (), 1):
        if _WITHOUT_PASSWORD.fullmatch(part):
            continue
        try:
            StorageURL.parse(named[2] if (named := _NAMED.fullmatch(part)) else part)
        except ValueError:
            raise ValueError(
                f"of {len(parts)} places with spaces between them number {number} is none (what is there is "
                "not shown, since it may be a password's); in a password a space is written %20"
            ) from None
    return parts


def _shared_files(units: Mapping[str, StorageURL]) -> Iterator[str]:
    """What is wrong with the files of several units: one file is one unit."""
    seen: dict[str, str] = {}
    for name, url in units.items():
        if url.path and seen.setdefault(url.path, name) != name:
            yield f"the units {seen[url.path]} and {name} have one file"
