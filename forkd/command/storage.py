"""`forkd storage`: what an operator reads, changes, saves and checks of a storage unit.

The unit is the running daemon's, or that of a place. For one in shared memory the control socket tells the
master's descriptors, which are opened by way of /proc, where the kernel lets the master's user and root do
so. What is in it is read with the suspicion of a worker.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from forkd import storage
from forkd.command.arguments import add_where, ask_daemon
from forkd.config.storage_url import DEFAULT, StorageURL
from forkd.errors import ForkdError, UsageError
from forkd.storage.arguments import as_end, as_int
from forkd.storage.codec import encode_key
from forkd.storage.engine import Entry, Packed, Value
from forkd.system import shared
from forkd.system.originals import os
from forkd.system.output import clean, complain, say

_FILES = "/proc/{pid}/fd/{fd}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    lines = ", ".join(f"{name} {row.usage}".strip() for name, row in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help=f"one of: {lines}")
    parser.add_argument("words", nargs="*", metavar="ARGUMENT", help="what the action works on")
    parser.add_argument(
        "--unit", metavar="NAME", default=DEFAULT, help="the unit of that name (default: the one without)"
    )
    parser.add_argument("--url", metavar="URL", help="a place, in place of the running daemon's unit")
    parser.add_argument("--ttl", metavar="SECONDS", type=float, help="of set: after which it is deleted")
    parser.add_argument("--int", action="store_true", help="of set: the value is a counter")
    add_where(parser)


def run(args: argparse.Namespace) -> int:
    action = ACTIONS[args.action]
    least, most = action.words
    if not least <= len(args.words) <= most:
        raise UsageError(f"storage {args.action} takes {action.usage or 'no argument'}")
    unit = _at(args.url, args.action in _MAKE) if args.url else _of_daemon(args)
    try:
        return action.run(unit, args)
    except (ValueError, TypeError, OSError) as error:
        if isinstance(error, ForkdError | BrokenPipeError):
            raise
        raise ForkdError(f"storage {args.action}: {error}") from error
    finally:
        unit.close()


def _at(url: str, make: bool) -> storage.Storage:
    """That of a place. `make`: a file that is not there is made, with the owner of its directory."""
    place = StorageURL.parse(url)
    if place.kind == "shm":
        raise ForkdError(
            "storage: shared memory is its daemon's; leave --url out, and say which daemon with --name, "
            "--pidfile or --config"
        )
    if place.kind == "sqlite" and not os.path.exists(place.path):
        if not make:
            raise ForkdError(f"storage: {place.path} is not there; set and load make it")
        _make(place.path)
    return storage.open(url)


def _make(path: str) -> None:
    """An empty file, which the account of the directory can use, where root makes it before that does."""
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            if not os.geteuid():
                above = os.stat(os.path.dirname(path))
                os.fchown(fd, above.st_uid, above.st_gid)
        finally:
            os.close(fd)
    except FileExistsError:
        return  # since just now
    except OSError as error:
        raise ForkdError(f"storage: {path}: {error.strerror}") from error


def _of_daemon(args: argparse.Namespace) -> storage.Storage:
    """Its unit of that name."""
    told = ask_daemon(args, "storage")
    tables, page = told["tables"], told["page"]
    try:
        opened = {
            name: os.open(_FILES.format(pid=told["pid"], fd=fd), os.O_RDWR | os.O_CLOEXEC)
            for name, fd in tables.items()
            if name == args.unit
        }
        if opened:
            page = os.open(_FILES.format(pid=told["pid"], fd=page), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ForkdError(f"storage: the memory of process {told['pid']}: {error.strerror}") from error
    if not told["places"]:
        raise ForkdError("storage: this daemon has no storage unit; --storage says where it is")
    shared.enter(shared.Units(told["places"], opened, page if opened else None), 0)
    return storage.open(name=args.unit)


# ---- the actions ----------------------------------------------------------------------------


def _get(unit: storage.Storage, args: argparse.Namespace) -> int:
    entry = unit.engine.get(encode_key(args.words[0]))
    if entry is None:
        complain(f"forkd: no value at {args.words[0]!r}")
        return 1
    value = entry.value
    data = value if isinstance(value, bytes) else str(value).encode()
    sys.stdout.buffer.write(data + (b"" if isinstance(value, bytes) else b"\n"))
    sys.stdout.buffer.flush()
    return 0


def _set(unit: storage.Storage, args: argparse.Namespace) -> int:
    key, text = args.words
    value: Value = sys.stdin.buffer.read() if text == "-" else text.encode(errors="surrogateescape")
    unit.set(key, int(value) if args.int else value, args.ttl)
    return 0


def _ls(unit: storage.Storage, args: argparse.Namespace) -> int:
    """A line for each key: what would end a line, or move a terminal's cursor, is escaped."""
    for key in unit.keys(*args.words):
        say(clean(key.encode(errors="surrogateescape").decode(errors="backslashreplace")))
    return 0


def _del(unit: storage.Storage, args: argparse.Namespace) -> int:
    missing = [key for key in args.words if not unit.delete(key)]
    for key in missing:
        complain(f"forkd: no value at {key!r}")
    return 1 if missing else 0


def _dump(unit: storage.Storage, args: argparse.Namespace) -> int:
    """The cache, a line of JSON for each value; not the locks, queues and limits, which are for now."""
    prefix = args.words[0].encode() if args.words else b""
    for key in unit.engine.keys(prefix):
        entry = unit.engine.get(key)
        if entry is not None:
            say(json.dumps({"key": _text(key), **_shown(entry)}))
    return 0


def _load(unit: storage.Storage, args: argparse.Namespace) -> int:
    """What `dump` has printed, from stdin. What is there by the same key is written over."""
    count = 0
    for number, line in enumerate(sys.stdin, 1):
        try:
            found = json.loads(line)
            if not isinstance(found, dict):
                raise ValueError("it is no object")
            if missing := [name for name in ("key", "type", "value") if name not in found]:
                raise ValueError(f"it has no {' and no '.join(missing)}")
            key = _bytes(found["key"])
            unit.engine.put(encode_key(key), _value(found), as_end(found.get("ttl")))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ForkdError(f"storage load: line {number}: {error}; {count} values are loaded") from error
        count += 1
    say(f"{count} values")
    return 0


def _stats(unit: storage.Storage, args: argparse.Namespace) -> int:
    stats = unit.stats()._asdict()
    details = stats.pop("details")
    for name, value in {**stats, **details}.items():
        if value is not None:
            say(f"{name} {value}")
    return 0


def _check(unit: storage.Storage, args: argparse.Namespace) -> int:
    wrong = unit.check()
    for text in wrong:
        complain(f"forkd: {text}")
    if not wrong:
        say("nothing is wrong")
    return 1 if wrong else 0


class Action(NamedTuple):
    run: Callable[[storage.Storage, argparse.Namespace], int]
    words: tuple[float, float]  # how many arguments: the least, and the most
    usage: str


ACTIONS = {
    "get": Action(_get, (1, 1), "KEY"),
    "set": Action(_set, (2, 2), "KEY VALUE|-"),
    "ls": Action(_ls, (0, 1), "[PREFIX]"),
    "del": Action(_del, (1, math.inf), "KEY..."),
    "dump": Action(_dump, (0, 1), "[PREFIX]"),
    "load": Action(_load, (0, 0), ""),
    "stats": Action(_stats, (0, 0), ""),
    "check": Action(_check, (0, 0), ""),
}

#: Those that make a file where there is none.
_MAKE = ("set", "load")

# ---- values as JSON -------------------------------------------------------------------------


def _text(data: bytes) -> Any:
    """As text, where it is; else in base64."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _bytes(found: Any) -> bytes:
    if isinstance(found, dict):
        return base64.b64decode(found["base64"], validate=True)
    if isinstance(found, str):
        return found.encode()
    raise ValueError(f"{found!r} is no text")


def _shown(entry: Entry) -> dict[str, Any]:
    value = entry.value
    if isinstance(value, bytes):
        kind = "packed" if type(value) is Packed else "bytes"
        return {"type": kind, "value": _text(value), "ttl": entry.ttl}
    return {"type": type(value).__name__, "value": value, "ttl": entry.ttl}


def _value(found: dict[str, Any]) -> Value:
    kind, value = found["type"], found["value"]
    if kind in ("bytes", "packed"):
        data = _bytes(value)
        return Packed(data) if kind == "packed" else data
    if (kind, type(value)) == ("int", int):
        return as_int("an int", value)
    if (kind, type(value)) == ("str", str):
        return value  # type: ignore[no-any-return]
    raise ValueError(f"no value of type {kind!r}")
