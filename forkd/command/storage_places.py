"""The places of the storage units, tried as far as that changes nothing: by a start what costs nothing, by
`forkd check` also what the workers' account may do there, and whether a server answers.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from typing import NamedTuple

from forkd.config import Config
from forkd.config.storage_url import StorageURL
from forkd.errors import StartError
from forkd.system.originals import os

__all__ = ["Tried", "import_client", "require_places", "too_large", "try_places"]

_HEADER = b"SQLite format 3\0"


class Tried(NamedTuple):
    problems: list[str]  # for which every call of the unit would fail, until somebody mends it
    warnings: list[str]  # what may be over by the time that a worker calls


def require_places(config: Config) -> None:
    """What is wrong with any place, as the files are, whoever serves. Raises StartError."""
    wrong = [f"storage {name}: {why}" for name, url in config.storage for why in _wrong(url, config)]
    if wrong:
        raise StartError("; ".join(wrong))


def _wrong(url: StorageURL, config: Config) -> Iterator[str]:
    if url.kind == "sqlite":
        try:
            if not stat.S_ISREG(os.stat(url.path).st_mode):  # to open a named pipe would wait for its writer
                yield f"{url.path} is a directory, or else no regular file"
                return
            with open(url.path, "rb") as file:
                if (start := file.read(len(_HEADER))) and start != _HEADER:
                    yield f"{url.path} is no file of sqlite"
        except NotADirectoryError as error:
            yield f"{url.path}: {error.strerror}"
        except OSError:
            pass  # the account that serves may be another, and makes it
    elif url.kind == "valkey":
        if PathFinder.find_spec("valkey", [*sys.path, config.chdir or "."]) is None:
            yield f"{url} needs the package valkey: pip install forkd[valkey]"
        yield from _of_password(url)


def _of_password(url: StorageURL) -> Iterator[str]:
    try:
        _ = url.password
    except OSError as error:
        yield f"password-file: {url.password_file}: {error.strerror}"
    except ValueError as error:  # its mode, or bytes that are no text
        yield f"password-file: {error}"


def too_large(config: Config) -> list[str]:
    """Warnings of shared memory that is larger than the machine's."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted = sum(url.limit for _, url in config.storage if url.kind == "shm")
    if wanted <= memory:
        return []
    return [
        f"storage: {wanted >> 20} MiB of shared memory are more than the {memory >> 20} MiB of this machine: "
        "before they are full, processes are killed"
    ]


def import_client(config: Config) -> None:
    """While this process may read forkd's files, which the workers' account need not."""
    if any(url.kind == "valkey" for _, url in config.storage):
        import forkd.storage.valkey_client  # noqa: F401


def try_places(config: Config) -> Tried:
    """In a process that has the workers' ids."""
    tried = Tried([], [])
    for name, url in config.storage:
        problems: list[str] = []
        if url.kind == "sqlite":
            problems += _of_file(url.path)
        elif url.kind == "valkey":
            problems += _of_password(url)
            if not problems:
                tried.warnings.extend(f"storage {name}: {why}" for why in _of_server(url))
        tried.problems.extend(f"storage {name}: {why}" for why in problems)
    return tried


def _of_file(path: str) -> Iterator[str]:
    """Nothing is opened: to close it would drop locks that the application has taken at its import."""
    directory = os.path.dirname(path)
    account = f"uid {os.geteuid()}, which serves"
    if not os.path.isdir(directory):
        yield f"{directory}: there is no such directory, or none that {account}, may look into"
    elif not os.access(directory, os.W_OK | os.X_OK):
        yield f"{directory} cannot be written by {account}: sqlite makes files beside {path}"
    else:
        for name in (path, f"{path}.lock", f"{path}-wal", f"{path}-shm"):
            if os.path.lexists(name) and not os.access(name, os.R_OK | os.W_OK):
                yield f"{name} cannot be read and written by {account}"


def _of_server(url: StorageURL) -> Iterator[str]:
    """The text of an error has the place, without its password."""
    from forkd.storage.errors import Error
    from forkd.storage.valkey_client import Client

    try:
        client = Client(url)
        try:
            client.call("PING")
        finally:
            client.close()
    except Error as error:
        yield str(error)
