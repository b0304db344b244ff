"""The configuration: the table of options, and how its values come from flags, environment, file.

`Config` is the single source: its fields are the rows that --help, the reference page and the
sample file are made from. `cli` adds the flags and gathers the `Sources`; the command, and the
master at start and on every SIGHUP, call `Sources.load`.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from forkd import options as kinds
from forkd.address import UNIX_PATH_MAX, Address
from forkd.errors import ConfigError, Problem
from forkd.options import Option, Workers, option, rows

__all__ = [
    "OPTIONS",
    "Config",
    "Sources",
    "Workers",
    "add_flags",
    "default_runtime_dir",
    "resolve_paths",
    "unreloadable",
]

_ACCOUNT = kinds.Text(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?", "a name or a number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The value of every option, checked. Made by `Sources.load`; constant for a generation."""

    # application
    app: str | None = option(
        kinds.Text(r"[^:]+:.+", "module:attribute"),
        None,
        section="application",
        positional=True,
        metavar="APP",
        unset="the built-in welcome app",
        example="project.wsgi:application",
        help="the application as module:attribute; with () after it, a factory that is called",
    )
    name: str = option(
        kinds.Text(r"[A-Za-z0-9_.-]+", "letters, digits, and any of _ . -"),
        "forkd",
        section="application",
        reloadable=False,
        help="name of this daemon in process titles and default file names",
    )
    interface: str | None = option(
        kinds.Choice(("wsgi", "asgi", "stream")),
        None,
        section="application",
        short="-k",
        unset="detected from the application",
        example="wsgi",
        help="how the application is called",
    )
    chdir: str | None = option(
        kinds.Path(),
        None,
        section="application",
        reloadable=False,
        metavar="DIR",
        unset="the directory forkd is started in",
        example="/srv/project",
        help="directory to change to before the application is loaded",
    )

    # sockets
    bind: tuple[Address, ...] = option(
        kinds.AddressList(),
        ("127.0.0.1:8000",),
        section="sockets",
        short="-b",
        help="address to listen on: host:port, [v6]:port, unix:/path or fd://N; may be repeated",
    )
    backlog: int = option(
        kinds.Int(1, 65535),
        2048,
        section="sockets",
        reloadable=False,
        help="connections that may wait to be accepted, per listener; "
        "the kernel caps it at net.core.somaxconn",
    )

    # model
    model: str = option(
        kinds.Text(r"[a-z][a-z-]*", "the name of a model (see forkd models)"),
        "leader-followers",
        section="model",
        short="-m",
        help="concurrency model: who accepts, reads, and runs the application",
    )
    io: str | None = option(
        kinds.Text(r"[a-z][a-z_]*", "the name of an I/O method (see forkd models)"),
        None,
        section="model",
        unset="the first of the model",
        example="epoll",
        help="how a child learns that a descriptor is ready or an operation complete",
    )
    accept: str = option(
        kinds.Choice(("lock", "exclusive", "reuseport")),
        "lock",
        section="model",
        help="how children share listeners: one leader at a time, EPOLLEXCLUSIVE, "
        "or a SO_REUSEPORT socket each",
    )

    # workers
    workers: Workers = option(
        kinds.WorkersKind(),
        "auto",
        section="workers",
        short="-w",
        help="number of children, or a range that follows the load; "
        "auto is the number of CPUs forkd may use",
    )
    worker_connections: int = option(
        kinds.Int(1, 1_000_000),
        4096,
        section="workers",
        help="connections one child holds open at most",
    )
    timeout: float = option(
        kinds.Duration(),
        30,
        section="workers",
        help="seconds one request may hold a child inside application code "
        "before the child is killed; 0 is no limit",
    )
    graceful_timeout: float = option(
        kinds.Duration(),
        30,
        section="workers",
        help="seconds a retiring child may take to finish its requests before it is killed",
    )
    max_requests: int = option(
        kinds.Int(0, 10**9),
        0,
        section="workers",
        help="requests after which a child is replaced; 0 is never",
    )
    max_requests_jitter: int = option(
        kinds.Int(0, 10**9),
        0,
        section="workers",
        help="up to this many requests are added to max-requests, at random for each child",
    )
    max_rss: int = option(
        kinds.Size(),
        0,
        section="workers",
        help="bytes of resident memory above which a child is replaced; 0 is no limit",
    )
    scale_down_after: float = option(
        kinds.Duration(),
        30,
        section="workers",
        help="seconds a child above the minimum must be idle before it is retired",
    )

    # http
    keep_alive: float = option(
        kinds.Duration(),
        75,
        section="http",
        help="seconds an idle connection is kept for the next request; "
        "0 closes it after each answer",
    )
    header_timeout: float = option(
        kinds.Duration(),
        20,
        section="http",
        help="seconds a client may take to send a request's head; 0 is no limit",
    )
    body_timeout: float = option(
        kinds.Duration(),
        30,
        section="http",
        help="seconds without a byte of a request's body after which it is given up; 0 is no limit",
    )
    write_timeout: float = option(
        kinds.Duration(),
        60,
        section="http",
        help="seconds without progress in writing after which a client is dropped, "
        "streams too; 0 is no limit",
    )
    limit_request_line: int = option(
        kinds.Size(64, 2**20),
        4094,
        section="http",
        help="bytes a request line may have (414 above)",
    )
    limit_request_fields: int = option(
        kinds.Int(1, 32768),
        100,
        section="http",
        help="header fields a request may have (431 above)",
    )
    limit_request_head: int = option(
        kinds.Size(256, 2**26),
        "64k",
        section="http",
        help="bytes a request's head may have (431 above)",
    )
    limit_request_body: int = option(
        kinds.Size(1),
        "1G",
        section="http",
        help="bytes a request's body may have (413 above)",
    )
    body_buffer: int = option(
        kinds.Size(0, 2**30),
        "256k",
        section="http",
        help="bytes of a request's body kept in memory; a longer one is spooled to disk",
    )

    # streams
    idle_timeout: float = option(
        kinds.Duration(),
        300,
        section="streams",
        help="seconds without a byte in either direction after which a stream is closed; "
        "0 is no limit",
    )

    # process
    foreground: bool = option(
        kinds.Bool(),
        False,
        section="process",
        short="-f",
        reloadable=False,
        help="stay in the foreground instead of detaching",
    )
    pidfile: str = option(
        kinds.Path(),
        None,
        absent="",  # resolve_paths fills it in
        section="process",
        reloadable=False,
        unset="NAME.pid in /run/forkd, or for others than root in $XDG_RUNTIME_DIR/forkd "
        "or /tmp/forkd-UID",
        example="/run/forkd/forkd.pid",
        help="file that holds the master's process id and is locked while it lives",
    )
    control: str = option(
        kinds.Path(),
        None,
        absent="",  # resolve_paths fills it in
        section="process",
        reloadable=False,
        unset="beside the pid file, as .sock",
        example="/run/forkd/forkd.sock",
        help="unix socket on which the master takes the other verbs",
    )
    user: str | None = option(
        _ACCOUNT,
        None,
        section="process",
        reloadable=False,
        unset="unchanged",
        example="www-data",
        help="user, by name or number, that forkd becomes once it is bound",
    )
    group: str | None = option(
        _ACCOUNT,
        None,
        section="process",
        reloadable=False,
        unset="the user's group",
        example="www-data",
        help="group, by name or number, that forkd becomes once it is bound",
    )
    umask: int = option(
        kinds.Octal(),
        "022",
        section="process",
        reloadable=False,
        help="permission bits taken from every file and unix socket made, in octal",
    )

    # admin
    admin: Address | None = option(
        kinds.AddressOrNone(),
        "127.0.0.1:9464",
        section="admin",
        reloadable=False,
        help="address of /metrics, /healthz, /readyz and the status page; none turns it off",
    )

    # logging
    error_log: str | None = option(
        kinds.LogPath(off=False),
        None,
        section="logging",
        unset="stderr in the foreground, else a file beside the pid file, as .log",
        example="/var/log/forkd/error.log",
        help="file of forkd's own log and the application's stderr; - is stderr",
    )
    log_level: str = option(
        kinds.Choice(("debug", "info", "warning", "error")),
        "info",
        section="logging",
        help="the least severe level that is logged",
    )
    access_log: str | None = option(
        kinds.LogPath(off=True),
        "none",
        section="logging",
        help="file that gets one line per request; - is stdout, none turns it off",
    )
    log_format: str = option(
        kinds.Choice(("text", "json")),
        "text",
        section="logging",
        help="format of both logs",
    )

    @property
    def default_error_log(self) -> str:
        """Where a detached daemon logs when `error_log` is not given."""
        return _stem(self.pidfile) + ".log"


OPTIONS: tuple[Option, ...] = rows(Config)

_BY_NAME = {row.name: row for row in OPTIONS}
_BY_ATTR = {row.attr: row for row in OPTIONS}


def add_flags(parser: argparse.ArgumentParser, only: Collection[str] | None = None) -> None:
    """Add -c/--config and the flags of all options, or of those whose attributes `only` names.

    Only flags that were given end up in the namespace, and as text: converting them is left to
    `Sources.load`, which can then report every mistake at once.
    """
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="TOML file to read options from [FORKD_CONFIG]"
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
        elif isinstance(row.kind, kinds.Bool):
            # --no-foreground too: a flag must be able to overrule the file.
            both = argparse.BooleanOptionalAction
            add(*row.flags, dest=row.attr, action=both, default=absent, help=text)
        else:
            action = "append" if isinstance(row.kind, kinds.AddressList) else "store"
            add(
                *row.flags,
                dest=row.attr,
                action=action,
                metavar=row.metavar,
                default=absent,
                help=text,
            )


def unreloadable(old: Config, new: Config) -> list[str]:
    """The names of the options that differ and that a reload cannot change."""
    return [
        row.name
        for row in OPTIONS
        if not row.reloadable and getattr(old, row.attr) != getattr(new, row.attr)
    ]


def default_runtime_dir(euid: int, environ: Mapping[str, str]) -> str:
    """The directory of the pid file and the control socket when neither is given."""
    if euid == 0:
        return "/run/forkd"
    # The XDG base directory specification has relative paths ignored.
    user_dir = environ.get("XDG_RUNTIME_DIR", "")
    return f"{user_dir}/forkd" if user_dir.startswith("/") else f"/tmp/forkd-{euid}"


def resolve_paths(config: Config, runtime_dir: str) -> Config:
    """`config` with pid file and control socket filled in, each beside the other when given."""
    pidfile, control = config.pidfile, config.control
    stem = _stem(pidfile or control or f"{runtime_dir}/{config.name}.pid")
    return replace(config, pidfile=pidfile or f"{stem}.pid", control=control or f"{stem}.sock")


def _stem(path: str) -> str:
    # Only our own suffixes: /run/my.app and /run/my.other must not share /run/my.sock.
    return path.removesuffix(".pid").removesuffix(".sock")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the configuration comes from, as of the start: enough to read it again on SIGHUP.

    `flags` maps the attributes of the options given as flags to their text. `cwd` and
    `runtime_dir` are remembered because the master changes directory and may change user.
    Everything in it is plain data, so that it can be handed to a new binary as JSON.
    """

    flags: dict[str, str | list[str] | bool] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    path: str | None = None
    cwd: str = field(default_factory=os.getcwd)
    runtime_dir: str = field(default_factory=lambda: default_runtime_dir(os.geteuid(), os.environ))

    @classmethod
    def gather(cls, args: argparse.Namespace, environ: Mapping[str, str]) -> Sources:
        """The sources of a command line parsed by a parser that `add_flags` was applied to."""
        path = args.config or environ.get("FORKD_CONFIG") or None
        return cls(
            flags={name: value for name, value in vars(args).items() if name in _BY_ATTR},
            environ={name: value for name, value in environ.items() if name.startswith("FORKD_")},
            path=None if path is None else os.path.abspath(path),
            runtime_dir=default_runtime_dir(os.geteuid(), environ),
        )

    def load(self) -> Config:
        """The configuration as it is now. Raises ConfigError with every problem there is."""
        problems: list[Problem] = []
        # Weakest first, so that the stronger overwrite. A wrong value is reported even if
        # overruled: it would come to light on the day the flag is dropped.
        given = [
            *_from_file(self.path, problems),
            *_from_environ(self.environ, self.cwd, problems),
            *_from_flags(self.flags, self.cwd, problems),
        ]
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        wrong: set[str] = set()
        for item in given:
            try:
                values[item.row.attr] = item.row.kind.read(item.raw, item.base)
                origins[item.row.attr] = item.where
            except ValueError as error:
                wrong.add(item.row.attr)
                problems.append(Problem(item.row.name, _show(item.raw), str(error), item.where))
        config = resolve_paths(replace(Config(), **values), self.runtime_dir)
        problems.extend(_combinations(config, origins, wrong))
        if problems:
            raise ConfigError(problems)
        return config


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
            problems.append(Problem(flag, _show(raw), _unknown(flag, names), f"flag {flag}"))
        else:
            where = f"argument {row.metavar}" if row.positional else f"flag --{row.name}"
            yield _Given(row, raw, where, cwd)


def _from_environ(
    environ: Mapping[str, str], cwd: str, problems: list[Problem]
) -> Iterable[_Given]:
    variables = {row.variable: row for row in OPTIONS}
    for name, raw in environ.items():
        # An empty variable is one that a compose file or a unit has left open.
        if not raw or not name.startswith("FORKD_") or _not_ours(name, raw):
            continue
        where = f"environment {name}"
        if (row := variables.get(name)) is None:
            names = ["FORKD_CONFIG", *variables]
            problems.append(Problem(name, raw, _unknown(name, names), where))
        else:
            yield _Given(row, raw, where, cwd)


def _not_ours(name: str, value: str) -> bool:
    """Whether a FORKD_ variable is no option: one that forkd or Kubernetes sets.

    Kubernetes gives every pod the variables FORKD_SERVICE_HOST, FORKD_PORT=tcp://... and so on if
    there is a Service called forkd in its namespace.
    """
    return (
        name == "FORKD_CONFIG"
        or name.startswith(("FORKD_INTERNAL_", "FORKD_SERVICE_"))
        or (name == "FORKD_PORT" and "://" in value)
        or re.match(r"FORKD_PORT_[0-9]+_(TCP|UDP|SCTP)", name) is not None
    )


def _from_file(path: str | None, problems: list[Problem]) -> Iterable[_Given]:
    if path is None:
        return
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
            problems.append(Problem(key, _show(raw), words, where))
        elif (row := _BY_NAME.get(name)) is None:
            problems.append(Problem(key, _show(raw), _unknown(name, list(_BY_NAME)), where))
        elif name in seen:
            words = f"is the same option as {seen[name]}, which is there too"
            problems.append(Problem(key, _show(raw), words, where))
        else:
            seen[name] = key
            yield _Given(row, raw, where, base)


def _line_of(key: str, text: str) -> int | None:
    # tomllib keeps no positions; the first line that looks like the key or its table will do.
    found = re.search(rf"""^[ \t]*\[*[ \t]*["']?{re.escape(key)}["']?[ \t]*[]=.]""", text, re.M)
    return None if found is None else text.count("\n", 0, found.start()) + 1


def _unknown(name: str, names: list[str]) -> str:
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"no such option; did you mean {nearest[0]}?" if nearest else "no such option"


def _show(raw: object) -> str:
    if isinstance(raw, list | tuple):
        return ", ".join(map(_show, raw))
    return str(raw).lower() if isinstance(raw, bool) else str(raw)


@dataclass(frozen=True, slots=True)
class _Rule:
    """A combination that makes no sense: `check` says why, or "" if all is well.

    The first of `attrs` is the one to blame; a rule is skipped if any of them was wrong already.
    """

    attrs: tuple[str, ...]
    check: Callable[[Config], str]


def _reuseport_bind(config: Config) -> str:
    other = [str(a) for a in config.bind if a.kind in ("unix", "fd")]
    if config.accept != "reuseport" or not other:
        return ""
    return f"reuseport makes TCP sockets of its own, so it cannot serve {', '.join(other)}"


def _reuseport_workers(config: Config) -> str:
    if config.accept != "reuseport" or config.workers.min == config.workers.max:
        return ""
    return (
        "reuseport needs a fixed number of workers: "
        f"the kernel would go on filling the queues of absent ones (workers {config.workers})"
    )


def _jitter(config: Config) -> str:
    alone = config.max_requests_jitter and not config.max_requests
    return "has no effect without max-requests" if alone else ""


def _interface(config: Config) -> str:
    asgi = config.interface == "asgi"
    return "ASGI is not served yet; use wsgi or stream" if asgi else ""


def _bind_twice(config: Config) -> str:
    fixed = [a for a in config.bind if a.kind not in ("tcp", "tcp6") or a.port]
    twice = sorted({str(a) for a in fixed if fixed.count(a) > 1})
    return f"the same address twice: {', '.join(twice)}" if twice else ""


def _admin_bind(config: Config) -> str:
    admin = config.admin
    if (
        admin is None
        or admin not in config.bind
        or (admin.kind.startswith("tcp") and not admin.port)
    ):
        return ""
    return "must differ from every bind address: the admin endpoint has a listener of its own"


def _control_bind(config: Config) -> str:
    taken = any(a.kind == "unix" and a.path == config.control for a in config.bind)
    return "must differ from every bind address" if taken else ""


def _control_length(config: Config) -> str:
    size = len(os.fsencode(config.control))
    if size <= UNIX_PATH_MAX:
        return ""
    return f"a unix socket path has at most {UNIX_PATH_MAX} bytes, this one {size}"


def _same_file(config: Config) -> str:
    error_log = config.error_log or config.default_error_log
    others = {"control": config.control, "error-log": error_log, "access-log": config.access_log}
    same = [name for name, path in others.items() if path == config.pidfile]
    return f"must differ from {', '.join(same)}" if same else ""


_RULES = (
    _Rule(("interface",), _interface),
    _Rule(("bind",), _bind_twice),
    _Rule(("accept", "bind"), _reuseport_bind),
    _Rule(("accept", "workers"), _reuseport_workers),
    _Rule(("max_requests_jitter", "max_requests"), _jitter),
    _Rule(("admin", "bind"), _admin_bind),
    _Rule(("control", "bind"), _control_bind),
    _Rule(("control", "pidfile", "name"), _control_length),
    _Rule(("pidfile", "control", "error_log", "access_log"), _same_file),
)


def _combinations(
    config: Config, origins: Mapping[str, str], wrong: Collection[str]
) -> Iterable[Problem]:
    for rule in _RULES:
        if any(attr in wrong for attr in rule.attrs) or not (words := rule.check(config)):
            continue
        row = _BY_ATTR[rule.attrs[0]]
        where = [origins[attr] for attr in rule.attrs if attr in origins]
        value = _show(getattr(config, row.attr))
        yield Problem(row.name, value, words, "; ".join(where) or "default")
