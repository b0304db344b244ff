"""Where this interpreter imports from, and how forkd executes another one that trusts no more.

Python puts a directory in front of `sys.path` by itself: the current one with `-m` and `-c`, the
script's otherwise (python(1), -P). The application's user may often write there, and forkd's own process
is root's. So the directory goes before forkd imports anything that it does not need yet, and a program
that forkd executes gets `-P`. The application's directory comes back in `app/loader.py`, in a process
that has given the rights up.
"""

from __future__ import annotations

import os
import sys


def leave_start_directory() -> None:
    """Take out of `sys.path` what Python has put there for `-c`, or for the script that is running."""
    if sys.flags.safe_path or not sys.path or not sys.argv:
        return
    script = os.path.dirname(os.path.realpath(sys.argv[0]))
    if sys.path[0] in ("", script):
        del sys.path[0]


def command(verb: str, *arguments: str) -> list[str]:
    """A forkd in a new interpreter that imports from nowhere, and heeds no variable, that this one did
    not: `-P`, and of `-I`, `-E` and `-s` those that this one was given."""
    flags = sys.flags
    given = {"-I": flags.isolated, "-E": flags.ignore_environment, "-s": flags.no_user_site}
    kept = [flag for flag, on in given.items() if on]
    return [sys.executable, "-P", *kept, "-m", "forkd", verb, *arguments]
