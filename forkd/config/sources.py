"""The sources of the configuration: flags, environment, file, in this order of precedence. Where none of
them says how many workers there are, WEB_CONCURRENCY does, which platforms set.

The command gathers the `Sources`; the command, and the master at start and on every SIGHUP, call
`Sources.load`, which reports everything that is wrong at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from forkd.config import OPTIONS, Config, options, spelling
from forkd.config.options import Option, Workers
from forkd.config.paths import default_runtime_dir, resolve_paths
from forkd.config.rules import Rule, combinations
from forkd.errors import ConfigError, Problem, show
from forkd.system import writers

_BY_NAME = {row.name: row for row in OPTIONS}
_BY_ATTR = {row.attr: row for row in OPTIONS}
_VARIABLES = {row.variable: row for row in OPTIONS}
_ON, _OFF = {"on", "true", "yes"}, {"off", "false", "no"}  # 0 and 1 may be something else's
_BOOLS = (row.flags for row in OPTIONS if isinstance(row.kind, options.Bool))
_SWITCHES = {flag for flags in _BOOLS for flag in flags if flag[:2] == "--"}
_OF_PLATFORM = "WEB_CONCURRENCY"  # the number of workers, as Heroku and others set it


def add_flags(parser: argparse.ArgumentParser, only: Collection[str] | None = None) -> None:
    """Add -c/--config and the flags of all options, or of those whose attributes `only` names.

    Only flags that were given end up in the namespace, and as text: converting them is left to
    `Sources.load`, which can then report every mistake at once.
    """
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="TOML file to read options from [FORKD_CONFIG] [default: ./forkd.toml, if it is there]",
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for row in OPTIONS:
        if only is not None and row.attr not in only:
            continue
        if row.section not in groups:
            groups[row.section] = parser.add_argument_group(row.section)
        text = f"{row.help} [default: {row.default_text}]".replace("%", "%%")
        add = groups[row.section].add_argument
        absent = argparse.SUPPRESS
        if row.positional:
            add(row.attr, nargs="?", metavar=row.metavar, default=absent, help=text)
        elif isinstance(row.kind, options.Bool):
            # --no-foreground too: a flag must be able to overrule the file.
            both = argparse.BooleanOptionalAction
            add(*row.flags, dest=row.attr, action=both, default=absent, help=text)
        else:
            action = "append" if row.kind.several else "store"
            add(
                *row.flags,
                dest=row.attr,
                action=action,
                metavar=row.metavar,
                default=absent,
                help=text,
            )


def settled(words: Sequence[str]) -> list[str]:
    """Flags of true or false with a word, as the file and the environment have it, as the flags that they are
    without: `--preload off` and `--preload=off` as `--no-preload`."""
    found: list[str] = []
    for word in words:
        flag, equals, given = word.partition("=")
        if not equals:
            flag, given = found[-1] if found else "", word
        if flag in _SWITCHES and given.lower() in _ON | _OFF:
            if not equals:
                found.pop()
            word = flag if given.lower() in _ON else f"--no-{flag[2:]}"
        found.append(word)
    return found


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of the configuration, as of the start: enough to read it again on SIGHUP.

    `flags` maps the attributes of the options given as flags to their text. `cwd` and
    `runtime_dir` are remembered because the master changes directory and may change user. `cwd` is a name,
    which may lead somewhere else by the next time; empty: there was no such directory any more.
    Everything in it is plain data, so that it can be handed to a new binary as JSON.
    """

    flags: dict[str, str | list[str] | bool] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    path: str | None = None
    cwd: str = field(default_factory=os.getcwd)
    runtime_dir: str = field(default_factory=lambda: default_runtime_dir(os.geteuid(), os.environ))

    @classmethod
    def gather(
        cls, args: argparse.Namespace, environ: Mapping[str, str], locating: bool = False
    ) -> Sources:
        """The sources of a command line parsed by a parser that `add_flags` was applied to. Raises
        ConfigError for a file that was found and is not to be read. `locating`: for `locate` alone, which
        can do without such a file where the pid file was named."""
        told = locating and ("pidfile" in args or bool(environ.get("FORKD_PIDFILE")))
        cwd = _current_directory(environ)
        path = args.config or environ.get("FORKD_CONFIG") or _discover(cwd, needed=not told)
        return cls(
            flags={name: value for name, value in vars(args).items() if name in _BY_ATTR},
            environ={
                name: value
                for name, value in environ.items()
                if name.startswith("FORKD_") or name == _OF_PLATFORM
            },
            path=None if path is None else _absolute(path, cwd),
            cwd=cwd,
            runtime_dir=default_runtime_dir(os.geteuid(), environ),
        )

    def load(self, rules: Iterable[Rule] = ()) -> Config:
        """The configuration as it is now. Raises ConfigError with every problem there is.

        `rules`: combinations to check besides those that the table of options knows.
        """
        return self._load(set(_BY_ATTR), rules)

    def locate(self) -> Config:
        """The paths that locate the daemon; what is wrong elsewhere does not matter for that. Raises
        ConfigError for a file that cannot be read, and may have named another pid file than the default
        one: a verb would go to another daemon than was meant."""
        wanted = {"name", "pidfile", "control"}
        if "pidfile" not in self.flags and not self.environ.get("FORKD_PIDFILE"):
            wanted.add("config")  # what a problem of the file as a whole is called
        return self._load(wanted, ())

    def unknown_variables(self) -> list[str]:
        """Warnings about variables that look like options and are none. They are not errors: they may have
        been set for another program. Their values may be secrets, and are not shown."""
        names, of = ["FORKD_CONFIG", *_VARIABLES], spelling.of_variable
        return [
            f"environment {name}: {_unknown(of(name), name, names, 'FORKD_')}; it is ignored"
            for name, raw in self.environ.items()
            if raw and name.startswith("FORKD_") and not is_ours(name) and not _is_link(name, raw)
        ]

    def _load(self, wanted: set[str], rules: Iterable[Rule]) -> Config:
        problems: list[Problem] = []
        # Weakest first, so that the stronger overwrite. A wrong value is reported even if
        # overruled: it would come to light on the day the flag is dropped.
        given = [
            *_from_file(self.path, problems),
            *_from_environ(self.environ, self.cwd),
            *_from_flags(self.flags, self.cwd, problems),
        ]
        if not any(item.row.attr == "workers" for item in given):
            given += _from_platform(self.environ, self.cwd)
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        wrong: set[str] = set()
        for item in given:
            if item.row.attr not in wanted:
                continue
            try:
                values[item.row.attr] = item.row.kind.read(item.raw, item.base)
                origins[item.row.attr] = item.where
            except ValueError as error:
                wrong.add(item.row.attr)
                hint = spelling.of_value(item.row.name, item.raw)
                words = f"{error}; {hint}" if hint else str(error)
                problems.append(Problem(item.row.name, show(item.raw), words, item.where))
        if "max_workers" in values and not wrong & {"workers", "max_workers"}:
            values["workers"] = _bounded(values, given)
        config = resolve_paths(
            replace(Config(), **values, origins=origins), self.runtime_dir, self.cwd
        )
        if wanted != set(_BY_ATTR):
            problems = [p for p in problems if p.key.replace("-", "_") in wanted]
        else:
            problems.extend(combinations(config, origins, wrong, rules))
        if problems:
            raise ConfigError(problems)
        return config


#: The file that is read when none is named, in the directory of the command.
DISCOVERED = "forkd.toml"


def is_named(args: argparse.Namespace, environ: Mapping[str, str]) -> bool:
    """Whether the file to read was named, rather than found."""
    return bool(args.config or environ.get("FORKD_CONFIG"))


def _current_directory(environ: Mapping[str, str]) -> str:
    """By the name that it was gone to by, which has links in it, where a shell has said that in PWD
    (environ(7)); empty if it has been removed."""
    try:
        found = os.getcwd()
    except FileNotFoundError:
        return ""
    named = environ.get("PWD", "")
    with suppress(OSError):
        if named.startswith("/") and os.path.samefile(named, "."):
            return named
    return found


def _absolute(path: str, cwd: str) -> str:
    try:
        return options.Path().read(path, cwd)
    except ValueError as error:
        where = "flag --config, or environment FORKD_CONFIG"
        raise ConfigError([Problem("config", path, str(error), where)]) from error


def _discover(cwd: str, needed: bool) -> str | None:
    """The file in the directory of the command. It was not named, so only root and this user may have the
    right to write it."""
    path = os.path.join(cwd, DISCOVERED)
    if not cwd or not os.path.lexists(path):
        return None
    others = writers.by_others(path)
    if others is not None and not needed:
        return None
    if others is not None:
        words = (
            f"was found here, and {others} can be written by others; name the file with -c to have it read "
            "all the same, or -c /dev/null to have none read"
        )
        raise ConfigError([Problem("config", path, words, "found in the directory of the command")])
    return path


@dataclass(frozen=True, slots=True)
class _Given:
    """One value as one source gave it."""

    row: Option
    raw: object
    where: str
    base: str


def _from_flags(flags: Mapping[str, object], cwd: str, problems: list[Problem]) -> Iterable[_Given]:
    for attr, raw in flags.items():
        if (row := _BY_ATTR.get(attr)) is None:
            names = [flag for row in OPTIONS for flag in row.flags]
            flag = "--" + attr.replace("_", "-")
            words = _unknown(spelling.of_flag(flag), flag, names)
            problems.append(Problem(flag, show(raw), words, f"flag {flag}"))
        else:
            where = f"argument {row.metavar}" if row.positional else f"flag --{row.name}"
            yield _Given(row, raw, where, cwd)


def _from_environ(environ: Mapping[str, str], cwd: str) -> Iterable[_Given]:
    for name, raw in environ.items():
        # An empty variable is one that a compose file or a unit has left open.
        if raw and (row := _VARIABLES.get(name)) is not None:
            yield _Given(row, raw, f"environment {name}", cwd)


def _from_platform(environ: Mapping[str, str], cwd: str) -> Iterable[_Given]:
    if raw := environ.get(_OF_PLATFORM, "").strip():
        yield _Given(_BY_ATTR["workers"], raw, f"environment {_OF_PLATFORM}", cwd)


def _bounded(values: Mapping[str, Any], given: Iterable[_Given]) -> Workers:
    """The number of workers. One that was not chosen for this service (auto, WEB_CONCURRENCY) is limited to
    what max-workers allows."""
    workers: Workers = values.get("workers", Config().workers)
    said = [item for item in given if item.row.attr == "workers"]
    counted = bool(said) and said[-1].raw != "auto" and not said[-1].where.endswith(_OF_PLATFORM)
    most = workers.max if counted else values["max_workers"]
    return Workers(min(workers.min, most), min(workers.max, most))


#: Variables that Kubernetes sets for each Service of a pod's namespace, and Docker for each link: for a
#: Service called forkd-web, FORKD_WEB_SERVICE_HOST, FORKD_WEB_SERVICE_PORT_HTTP, FORKD_WEB_PORT_80_TCP_ADDR
#: and so on.
_LINK = re.compile(r"FORKD(_.*)?(_SERVICE_HOST|_SERVICE_PORT.*|_PORT_.*_(TCP|UDP|SCTP).*)")
#: FORKD_WEB_PORT is "tcp://10.0.0.1:80". Without the "://" it was meant as an option.
_LINK_PORT = re.compile(r"FORKD(_.*)?_PORT")


def _is_link(name: str, value: str) -> bool:
    return _LINK.fullmatch(name) is not None or (
        _LINK_PORT.fullmatch(name) is not None and "://" in value
    )


def is_ours(name: str) -> bool:
    """Whether a variable is forkd's, and of no use for the application."""
    return name in _VARIABLES or name == "FORKD_CONFIG" or name.startswith("FORKD_INTERNAL_")


def _from_file(path: str | None, problems: list[Problem]) -> Iterable[_Given]:
    if path is None:
        return
    import tomllib  # as long as a fifth of forkd, and many daemons have no file

    file = f"file {path}"
    try:
        with open(path, "rb") as stream:
            text = stream.read().decode()
        table = tomllib.loads(text)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "error")
        problems.append(Problem("config", path, f"{name}: {error.strerror or error}", file))
        return
    except ValueError as error:  # not UTF-8, or not TOML: the message has line and column
        problems.append(Problem("config", path, f"is not TOML: {error}", file))
        return
    base = os.path.dirname(path)
    seen: dict[str, str] = {}
    for key, raw in table.items():
        line = _line_of(key, text)
        where = file if line is None else f"{file} line {line}"
        name = key.replace("_", "-")
        if isinstance(raw, dict):
            words = "is a table; options are keys at the top level, without sections"
            problems.append(Problem(key, show(raw), words, where))
        elif (row := _BY_NAME.get(name)) is None:
            words = _unknown(spelling.of_key(name), name, list(_BY_NAME))
            problems.append(Problem(key, show(raw), words, where))
        elif name in seen:
            words = f"is the same option as {seen[name]}, which is there too"
            problems.append(Problem(key, show(raw), words, where))
        else:
            seen[name] = key
            yield _Given(row, raw, where, base)


def _line_of(key: str, text: str) -> int | None:
    # tomllib keeps no positions; the first line that looks like the key or its table will do.
    found = re.search(rf"""^[ \t]*\[*[ \t]*["']?{re.escape(key)}["']?[ \t]*[]=.]""", text, re.M)
    return None if found is None else text.count("\n", 0, found.start()) + 1


def _unknown(foreign: str, name: str, names: list[str], prefix: str = "") -> str:
    hint = foreign or spelling.nearest(name, names, prefix)
    return f"no such option; {hint}" if hint else "no such option"
