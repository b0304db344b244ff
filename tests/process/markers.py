"""Modules that say who imports them: a file for each name, which notes the process and passes on to the
real module. And a `sitecustomize` that notes which modules each process has at its end.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_MARKER = '''
def _note():
    import posix, sys
    with_ids = {"uid": posix.getresuid(), "gid": posix.getresgid(), "pid": posix.getpid()}
    def read(path):
        fd = posix.open(path, posix.O_RDONLY)
        try:
            return posix.read(fd, 65536)
        finally:
            posix.close(fd)
    title = read("/proc/self/cmdline").rstrip(b"\\0 ").replace(b"\\0", b" ").decode()
    status = read("/proc/self/status").decode()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    frame = sys._getframe(2)
    while frame is not None and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    note = {"module": __name__, "title": title, **with_ids,
            "no_new_privs": int(fields["NoNewPrivs"]), "bounding": int(fields["CapBnd"], 16),
            "importer": frame.f_code.co_filename if frame is not None else ""}
    fd = posix.open(NOTES, posix.O_WRONLY | posix.O_APPEND)
    posix.write(fd, (repr(note) + "\\n").encode())
    posix.close(fd)

def _pass_on():
    import sys
    here, before = __file__.rpartition("/")[0], list(sys.path)
    sys.path[:] = [entry for entry in before if entry not in ("", here)]
    del sys.modules[__name__]
    sys.path_importer_cache.pop(here, None)
    try:
        __import__(__name__)
    finally:
        sys.path[:] = before

_note()
_pass_on()
'''

_AT_THE_END = '''
import atexit, os, sys
_exit, _execve = os._exit, os.execve

def note():
    names = sorted({name.partition(".")[0] for name in list(sys.modules)})
    fd = os.open(ENDS, os.O_WRONLY | os.O_APPEND)
    os.write(fd, (repr(names) + "\\n").encode())
    os.close(fd)

def leave(code):
    note()
    _exit(code)

def become(*arguments):
    note()
    _execve(*arguments)

atexit.register(note)
os._exit, os.execve = leave, become
'''

#: Of a copy of the standard library: large, and of no use to a server.
_LEFT_OUT = (
    "test", "tests", "site-packages", "__pycache__", "idlelib", "tkinter", "ensurepip", "config-*",
)  # fmt: skip


@dataclass(frozen=True)
class Note:
    """One import of a marker."""

    module: str
    title: str  # of the process
    pid: int
    uid: tuple[int, int, int]  # real, effective, saved
    gid: tuple[int, int, int]
    no_new_privs: int
    bounding: int
    importer: str  # the file that imported it

    @property
    def role(self) -> str:
        """From `forkd: worker 1 [name]`: worker; a command line is a command's."""
        if not self.title.startswith("forkd: "):
            return "command"
        return self.title.removeprefix("forkd: ").partition(" ")[0]


class Markers:
    def __init__(self, directory: Path, notes: Path) -> None:
        self._directory = directory
        self._notes = notes
        notes.touch()
        notes.chmod(0o666)

    def plant(self, names: Iterable[str]) -> None:
        for name in names:
            path = self._directory / f"{name}.py"
            if not path.exists():
                path.write_text(_MARKER.replace("NOTES", repr(str(self._notes))))

    def found(self) -> list[Note]:
        return [Note(**ast.literal_eval(line)) for line in self._notes.read_text().splitlines()]

    def forget(self) -> None:
        self._notes.write_text("")


class Ends:
    """What processes whose PYTHONPATH has `directory` have in `sys.modules` at their end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = directory / "ends"
        self._file.touch()
        self._file.chmod(0o666)
        text = _AT_THE_END.replace("ENDS", repr(str(self._file)))
        (directory / "sitecustomize.py").write_text(text)

    def names(self) -> set[str]:
        """Of all of them together."""
        lines = self._file.read_text().splitlines()
        return {name for line in lines for name in ast.literal_eval(line)}


def plantable(names: Iterable[str]) -> list[str]:
    """Those and the standard library's, without what no file can stand for."""
    never = {"__main__", "sitecustomize", "usercustomize", "_forkd_end"}
    own = {*names, *sys.stdlib_module_names}
    return sorted(name for name in own - never if name.isidentifier())


def environment(environ: dict[str, str], ends: Ends) -> dict[str, str]:
    library = _readable_library(ends.directory / "library")
    path = os.pathsep.join([str(ends.directory), environ["PYTHONPATH"], *library])
    return {**environ, "PYTHONPATH": path}


def _readable_library(copy: Path) -> list[str]:
    """Where everybody can read the standard library: a copy, if this interpreter's is in a home directory
    that is closed to others."""
    real = Path(sysconfig.get_path("stdlib"))
    if all(step.stat().st_mode & 0o005 == 0o005 for step in (real, *real.parents)):
        return []
    if not copy.exists():
        shutil.copytree(real, copy, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    return [str(copy), str(copy / "lib-dynload")]
