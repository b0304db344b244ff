"""Hints for options that do not exist: what another server's option is here, or the nearest name that exists.

Called by the command for flags and verbs, and by `sources` for the file and the environment, once something
is unknown. The table is foreign.py.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable

from forkd.config.foreign import FOREIGN, VALUES, VERBS, Foreign

_EXACT = {name: row for row in FOREIGN for name in row.names.split() if not name.endswith("*")}
_FAMILIES = [(n[:-1], row) for row in FOREIGN for n in row.names.split() if n.endswith("*")]


def find(flag: str) -> Foreign | None:
    """The row of a flag, with its dashes and without a value."""
    flag = flag.lower().replace("_", "-") if flag.startswith("--") else flag[:2]
    row = _EXACT.get(flag) or next((row for start, row in _FAMILIES if flag.startswith(start)), None)
    return find("--" + flag[5:]) if row is None and flag.startswith("--no-") else row


def of_flag(flag: str) -> str:
    """The answer to a flag; "" when none of the servers has it."""
    row = find(flag)
    return "" if row is None else _answer(row, row.here)


def of_key(key: str) -> str:
    """The answer to a key of the file."""
    row = find(f"--{key}")
    return "" if row is None else _answer(row, _FLAG.sub(_as_key, row.here))


def of_variable(variable: str) -> str:
    """The answer to a variable of the environment."""
    row = find("--" + variable.removeprefix("FORKD_"))
    return "" if row is None else _answer(row, _FLAG.sub(_as_variable, row.here))


def of_value(option: str, value: object) -> str:
    """A hint about a value that the option does not take; or ""."""
    for row in VALUES:
        if row.option == option and isinstance(value, str) and re.fullmatch(row.pattern, value.strip()):
            return row.words
    return ""


#: A flag of forkd's with its value, as the table has it.
_FLAG = re.compile(r"--([a-z-]+)(?: (\S+))?")


def _as_key(found: re.Match[str]) -> str:
    return found[1] + (f' = "{found[2]}"' if found[2] else " = true")


def _as_variable(found: re.Match[str]) -> str:
    return f"FORKD_{found[1].upper().replace('-', '_')}={found[2] or 'true'}"


def _answer(row: Foreign, here: str) -> str:
    whose = f"a flag of {_list(row.whose)}; " if row.whose else ""
    if not here:
        return f"{whose}not here, because {row.words}"
    return f"{whose}here it is {here}" + (f", {row.words}" if row.words else "")


def _list(names: tuple[str, ...]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def nearest(word: str, words: Iterable[str], prefix: str = "") -> str:
    """The guess where there is no answer; "" when nothing is near. `prefix`: what all of them begin with, so
    that it makes none of them alike."""
    rests = [known.removeprefix(prefix) for known in words]
    found = difflib.get_close_matches(word.removeprefix(prefix), rests, n=1)
    return f"did you mean {prefix}{found[0]}?" if found else ""


def of_verb(words: list[str], verbs: Iterable[str]) -> str:
    """The error for a command line whose first word is not a verb."""
    word, started = words[0], f"forkd start {shlex.join(words)}"
    if word.startswith("-"):
        return f"a verb comes first: {started}"
    hint = VERBS.get(word.lower())
    if hint is not None:
        return f"no verb {word!r}; here it is {hint}"
    # Before the nearest: "mysite.wsgi" is near to nothing, and "start:app" is an application.
    if re.search(r"[:.]", word):
        return f"no verb {word!r}; did you mean {started}?"
    hint = nearest(word, verbs)
    return f"no verb {word!r}; {hint}" if hint else f"no verb {word!r}"
