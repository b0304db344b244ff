"""Which daemons run here: how a master makes itself found, and `forkd list`, which looks.

There is no register, so there is nothing stale in one, and nobody can plant an entry. A master is a process
called `forkd: master`, unless it could not set its title, that has a notice open: a memfd with its name and
the path of its control socket, which ends with the process. Whoever may read /proc/PID/fd of a process
finds it there (proc(5)): root those of all users and of containers, others their own. Then the control
socket is asked.

Anybody may call a process so, and put anything into its memfd. So nothing is sent before the kernel has said
whose the socket is (SO_PEERCRED): it must be the user's whose process it is. What comes back is a claim about
that user's own process, and it is shown beside the user that the kernel names. No look waits for long, and
one user's processes keep no other's waiting: each user has a thread, and the whole a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import socket
import stat
import struct
import threading
from collections import defaultdict
from collections.abc import Mapping
from time import monotonic
from typing import Any

from forkd.config.paths import default_runtime_dir
from forkd.errors import ForkdError, SystemCallError
from forkd.system import process

_NOTICE = "forkd-control"
_TITLE = re.compile(rb"forkd: master \[([^]\0]{0,200})\]")
_MAX_NOTICE_BYTES = 8192
_MAX_ANSWER_BYTES = 8 << 20
_ANSWER_SECONDS = 2.0
_LIST_SECONDS = 5.0
_NOT_ANSWERED = "no answer"

Found = dict[str, Any]


class Notice:
    """The master's side: where it is to be asked, for as long as it is open."""

    def __init__(self, control: str, name: str) -> None:
        """Raises OSError."""
        self._fd = process.make_memfd(_NOTICE)
        os.write(self._fd, json.dumps({"control": control, "name": name}).encode())

    def close(self) -> None:
        """In a child; and in a master that another one has followed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class _Unknown(Exception):
    """Why nothing is known of a master but that it is there."""


def find(environ: Mapping[str, str]) -> list[Found]:
    """The daemons of this user, or of all users for root: sorted by user and name."""
    mine = os.geteuid()
    deadline = monotonic() + _LIST_SECONDS
    named = [entry for pid in _pids() if (entry := _master(pid)) and (not mine or entry["uid"] == mine)]
    # A child has its parent's title until it has one of its own.
    pids = {(entry["pid"], entry["uid"]) for entry in named}
    found = [entry for entry in named if (entry.pop("parent"), entry["uid"]) not in pids]
    by_user: dict[int, list[Found]] = defaultdict(list)
    for entry in found:
        entry.update(_blank(_NOT_ANSWERED, "it was not asked in time"))
        by_user[entry["uid"]].append(entry)
    threads = [
        threading.Thread(target=_ask_all, args=(entries, deadline, environ), daemon=True)
        for entries in by_user.values()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - monotonic()))
    # Copies: a thread that is late may still write into its own.
    return sorted((dict(entry) for entry in found), key=lambda e: (e["uid"], e["name"], e["pid"]))


def _pids() -> list[int]:
    """Raises ForkdError."""
    why = "/proc is not mounted here"
    try:
        if found := sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            return found
    except OSError as error:
        why = str(SystemCallError("open", "/proc", error))
    raise ForkdError(
        f"list: {why}; no process can be looked at without it (forkd status --pidfile asks one daemon)"
    )


def _master(pid: int) -> Found | None:
    """What the kernel knows of a process that is called a master; None for all others."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            title = _TITLE.match(file.read(256))
        name = title[1].decode("utf-8", "replace") if title else _untitled(pid)
        if name is None:
            return None
        with open(f"/proc/{pid}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    except OSError:
        return None  # it has gone
    uid = int(fields[b"Uid"].split()[1])
    return {
        "name": name,
        "pid": pid,
        "uid": uid,
        "user": _user(uid),
        "parent": int(fields[b"PPid"]),
        # What it takes its pid for: another number in a PID namespace of its own (pid_namespaces(7)).
        "own_pid": int(fields.get(b"NSpid", b"%d" % pid).split()[-1]),
    }


def _untitled(pid: int) -> str | None:
    """The name of a master that could not set its title, since its environment was empty: that needs the room
    of it. None for all other processes."""
    try:
        proc = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return str(_notice(proc).get("name", ""))[:200] or None
    except _Unknown:
        return None
    finally:
        os.close(proc)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _blank(state: str, why: str) -> Found:
    return {
        "state": state, "why": why, "where": "", "version": None, "generation": None, "app": None,
        "workers_ready": None, "workers_wanted": None, "uptime": None, "listeners": [], "pidfile": None,
        "control": None,
    }  # fmt: skip


def _ask_all(entries: list[Found], deadline: float, environ: Mapping[str, str]) -> None:
    """In a thread: ask the masters of one user, one after another."""
    for entry in entries:
        try:
            entry.update(_learn(entry, min(deadline, monotonic() + _ANSWER_SECONDS), environ))
        except _Unknown as unknown:
            entry.update(_blank(_NOT_ANSWERED, str(unknown)))
        except OSError:  # of /proc, whose directory is empty once the process has gone
            entry.update(_blank(_NOT_ANSWERED, "it has just gone"))


def _learn(entry: Found, deadline: float, environ: Mapping[str, str]) -> Found:
    """What a master says of itself. Raises _Unknown."""
    try:
        # All below is of this very process: a pid that is used again has another directory.
        proc = os.open(f"/proc/{entry['pid']}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _Unknown("it has just gone") from error
    try:
        control = str(_notice(proc)["control"])
        with _connect(proc, control, entry["uid"], deadline) as sock:
            status = _ask(sock, deadline)
        foreign = _namespace(proc) != _namespace_of_ours()
    finally:
        os.close(proc)
    try:
        found = _read(status)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _Unknown("its answer makes no sense") from error
    if found.pop("pid") != entry["own_pid"]:
        raise _Unknown("another master answers for it: an upgrade is under way")
    return found | {"control": control, "where": _where(found, control, entry, foreign, environ)}


def _notice(proc: int) -> dict[str, Any]:
    """What a master says of itself: `control`, the path of its control socket, and its `name`, which versions
    before do not say. Raises _Unknown."""
    try:
        fds = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    except PermissionError as error:
        raise _Unknown("it may not be looked into") from error
    except OSError as error:
        raise _Unknown("it has just gone") from error
    try:
        for name in os.listdir(fds):
            try:
                if os.readlink(name, dir_fd=fds) != f"/memfd:{_NOTICE} (deleted)":
                    continue
                # The name may be that of a FIFO, in a file system of its own: never wait in open(2).
                file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=fds)
            except OSError:
                continue
            try:
                if stat.S_ISREG(os.fstat(file).st_mode):
                    found = json.loads(os.read(file, _MAX_NOTICE_BYTES))
                    return {"control": found["control"], "name": found.get("name", "")}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            finally:
                os.close(file)
    finally:
        os.close(fds)
    raise _Unknown(
        "it does not say where its control socket is: it starts, has handed over to another master, or is of "
        "a version without `forkd list`"
    )


def _connect(proc: int, control: str, uid: int, deadline: float) -> socket.socket:
    """A connection to the socket that the kernel says is that user's. Raises _Unknown."""
    path = f"root/{control.lstrip('/')}"  # as the process sees it, which may be in a container
    try:
        # Not followed: and what this descriptor is, /proc/self/fd connects to, whatever the path is by then.
        file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=proc)
    except (OSError, ValueError) as error:
        raise _Unknown(f"its control socket {control} cannot be reached") from error
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not stat.S_ISSOCK(os.fstat(file).st_mode):
            raise _Unknown(f"its control socket {control} is no socket")
        sock.setblocking(False)  # EAGAIN at once where its queue is full (unix(7))
        sock.connect(f"/proc/self/fd/{file}")
        _, owner, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if owner != uid:
            raise _Unknown(f"its control socket {control} is that of uid {owner}")
        sock.settimeout(max(0.001, deadline - monotonic()))
    except BlockingIOError as error:
        sock.close()
        raise _Unknown("its control socket is crowded") from error
    except OSError as error:
        sock.close()
        raise _Unknown(f"nobody listens on its control socket {control}") from error
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(file)
    return sock


def _ask(sock: socket.socket, deadline: float) -> Any:
    """Its status, as JSON. Raises _Unknown."""
    data = b""
    try:
        sock.sendall(b'{"verb": "status"}\n')
        while not data.endswith(b"\n"):
            sock.settimeout(max(0.001, deadline - monotonic()))
            more = sock.recv(1 << 16)
            if not more:
                break
            data += more
            if len(data) > _MAX_ANSWER_BYTES or monotonic() > deadline:
                raise _Unknown("its answer does not end")
    except TimeoutError as error:
        raise _Unknown(f"it has not answered within {_ANSWER_SECONDS:g} s") from error
    except OSError as error:
        raise _Unknown(f"it has not answered: {error.strerror}") from error
    if not data:
        raise _Unknown("it answers nobody of this user namespace")
    try:
        return json.loads(data)["status"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Unknown("its answer makes no sense") from error


def _read(status: Any) -> Found:
    """The part that is shown, each of its type. Raises what a wrong shape does, KeyError and the like."""
    master = status["master"]
    return {
        "pid": int(master["pid"]),
        "state": str(master["state"])[:20],
        "why": str(master["why"])[:1000],
        "version": str(master["version"])[:40],
        "generation": int(master["generation"]),
        "app": None if master["app"] is None else str(master["app"])[:200],
        "workers_ready": sum(worker["state"] == "ready" for worker in status["workers"]),
        "workers_wanted": int(master["workers_wanted"]),
        "uptime": min(1e12, max(0.0, float(master["uptime"]))),
        "listeners": [str(listener["address"])[:200] for listener in status["listeners"][:100]],
        "pidfile": str(master["pidfile"])[:4096],
    }


def _where(
    found: Found, control: str, entry: Found, foreign: bool, environ: Mapping[str, str]
) -> str:
    """How a verb finds it, if not by --name alone."""
    if foreign:
        return f"in a PID namespace of its own, as pid {entry['own_pid']}: give orders in there"
    usual = f"{default_runtime_dir(os.geteuid(), environ)}/{entry['name']}"
    if (found["pidfile"], control) == (f"{usual}.pid", f"{usual}.sock"):
        return ""
    beside = found["pidfile"].removesuffix(".pid") + ".sock"
    return f"--pidfile {found['pidfile']}" + (f" --control {control}" if control != beside else "")


def _namespace(proc: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink("ns/pid", dir_fd=proc)
    return ""


def _namespace_of_ours() -> str:
    return os.readlink("/proc/self/ns/pid")
