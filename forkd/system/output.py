"""The output of a command, on stdout and stderr. Called by the verbs.

Either may be a full disk or a terminal that is gone. When stdout fails, the command has failed; when stderr
fails, that cannot be reported, and the exit code still says how the command ended.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence

from forkd.errors import ForkdError, SystemCallError
from forkd.system.originals import os


def say(text: str, done: str = "") -> None:
    """Print a line, or several, on stdout, at once. `done`: what has happened all the same if it cannot be
    printed.

    Raises ForkdError (ENOSPC, EIO), and BrokenPipeError, where the reader has closed the pipe.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        close(1)
        raise
    except OSError as error:
        close(1)
        what = SystemCallError("write", "stdout", error)
        raise ForkdError(f"{what}; {done}" if done else str(what)) from error


def complain(text: str) -> None:
    """A line, or several, on stderr."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        close(2)


def close(number: int) -> None:
    """Have what is left in the file's buffer go nowhere: the interpreter writes it at its end, and complains,
    with an exit code of its own, where it cannot."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def grid(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Collection[str] = (),
    columns: int = 1 << 30,
) -> list[str]:
    """A table; `right`: the columns of numbers. The last column is cut where the line ends."""
    cells = [list(header), *([clean(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    room = max(columns - sum(widths[:-1]) - 2 * len(widths[:-1]), len(header[-1]))
    lines = []
    for row in cells:
        row[-1] = row[-1] if len(row[-1]) <= room else row[-1][: room - 1] + "…"
        places = [
            value.rjust(w) if name in right else value.ljust(w)
            for name, value, w in zip(header, row, widths, strict=True)
        ]
        lines.append("  ".join(places).rstrip())
    return lines


def clean(value: object) -> str:
    """Printable: an escape sequence in a request line must not move the reader's cursor."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tasks_said(kind: str) -> str:
    """How the tasks of requests are made, as words behind others; "" where there are none."""
    return f", tasks of requests {kind}" if kind else ""


def native_or_not(why: str) -> str:
    """Why there is no native code, or that there is, as words."""
    return f"no native code ({why})" if why else "native code"
