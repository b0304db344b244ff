"""The options of the processes: how many there are, how they share the work, how long they live, and with
which rights.

Fields of `Config`, each a row of its table.
"""

from __future__ import annotations

from dataclasses import dataclass

from forkd.config import options as kinds
from forkd.config.options import Workers, option

_ACCOUNT = kinds.Account()


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    # model
    model: str = option(
        kinds.Text(r"[a-z][a-z-]*", "the name of a model (see forkd models)"), "leader-followers",
        section="model", short="-m",
        help="concurrency model: who accepts, reads, and runs the application",
    )
    io: str | None = option(
        kinds.Text(r"[a-z][a-z_]*", "the name of an I/O method (see forkd models)"), None,
        section="model",
        unset="the first of the model",
        example="epoll",
        help="how a child learns that a descriptor is ready or an operation complete",
    )
    io_fallback: bool = option(
        kinds.Bool(), True,
        section="model",
        help="serve by simulated-proactor where the kernel or a policy denies io_uring; "
        "false: fail instead",
    )
    accept: str = option(
        kinds.Choice(("lock", "exclusive", "reuseport")), "lock",
        section="model",
        help="how children share listeners: one leader at a time, EPOLLEXCLUSIVE, "
        "or a SO_REUSEPORT socket each",
    )

    dispatch: str = option(
        kinds.Choice(("least-connections", "round-robin", "competition")), "least-connections",
        section="model",
        help="how the models whose master accepts choose the child for a connection",
    )
    handoff: str = option(
        kinds.Choice(("socket", "task")), "socket",
        section="model",
        help="what half-sync-half-reactive gives to its pool: ready sockets, or requests it has read",
    )

    # workers
    workers: Workers = option(
        kinds.WorkersKind(), "auto",
        section="workers", short="-w",
        help="number of children, or a range that follows the load; auto is the number of CPUs forkd may "
        "use, by its affinity mask and its cgroups' quota; not given at all, WEB_CONCURRENCY counts; both "
        "have --max-workers for a bound",
    )
    max_workers: int | None = option(
        kinds.Int(1, kinds.MAX_WORKERS), None,
        section="workers", reloadable=False,
        unset="twice `workers`, and at least 16",
        example=64,
        help="children that `forkd scale`, SIGTTIN or a reload with other `workers` may ask for at most; "
        "room for them is made at the start",
    )
    threads: int = option(
        kinds.Int(1, 512), 1,
        section="workers", reloadable=False,
        help="requests that may be in the application of one worker at a time, each in a thread of its "
        "own, in the models that have threads (see forkd models)",
    )
    worker_connections: int = option(
        kinds.Int(1, 1_000_000), 4096,
        section="workers",
        help="connections one child holds open at most",
    )
    timeout: float = option(
        kinds.Duration(), 30,
        section="workers",
        help="seconds one request may hold a child inside application code "
        "before the child is killed; 0 is no limit",
    )
    graceful_timeout: float = option(
        kinds.Duration(), 30,
        section="workers",
        help="seconds a retiring child may take to finish its requests before it is killed",
    )
    boot_timeout: float = option(
        kinds.Duration(), 300,
        section="workers",
        help="seconds a child, or the template of a generation, may take to load the application before "
        "it is killed, and the start, reload or upgrade has failed; 0 is no limit",
    )
    lame_duck: float = option(
        kinds.Duration(), 0,
        section="workers",
        help="seconds for which a service that was told to stop still accepts, while /readyz fails, "
        "so that balancers turn away first",
    )
    max_surge: int = option(
        kinds.Int(0, 1024), 0,
        section="workers",
        help="workers beyond the wanted number that a reload may have at a time, so that it replaces as "
        "many after each other; 0 is as many as wanted, all in one step",
    )
    max_requests: int = option(
        kinds.Int(0, 10**9), 0,
        section="workers",
        help="requests after which a child is replaced; 0 is never",
    )
    max_requests_jitter: int = option(
        kinds.Int(0, 10**9), 0,
        section="workers",
        help="up to this many requests are added to max-requests, at random for each child",
    )
    max_age: float = option(
        kinds.Duration(), 0,
        section="workers",
        help="seconds that a child serves until it is replaced; 0 is for ever",
    )
    max_age_jitter: float = option(
        kinds.Duration(), 0,
        section="workers",
        help="up to this many seconds are added to max-age, at random for each child",
    )
    max_rss: int = option(
        kinds.Size(), 0,
        section="workers",
        help="bytes of resident memory above which a child is replaced; 0 is no limit",
    )
    scale_down_after: float = option(
        kinds.Duration(), 30,
        section="workers",
        help="seconds a child above the minimum must be idle before it is retired",
    )
    lag_limit: float = option(
        kinds.Duration(), "0.2",
        section="workers",
        help="seconds that a turn of the event loop may take, under ASGI and for asyncio protocols, before "
        "the error log says what holds it, with the stack; the worker lives on; 0 is no limit",
    )

    # process
    foreground: bool = option(
        kinds.Bool(), False,
        section="process", short="-f",
        reloadable=False,
        help="stay in the foreground instead of detaching",
    )
    pidfile: str = option(
        kinds.Path(), None,
        absent="",  # resolve_paths fills it in
        section="process", reloadable=False,
        unset="NAME.pid in /run/forkd, or for others than root in $XDG_RUNTIME_DIR/forkd "
        "or /tmp/forkd-UID",
        example="/run/forkd/forkd.pid",
        help="file that holds the master's process id and is locked while it lives",
    )
    control: str = option(
        kinds.Path(), None,
        absent="",  # resolve_paths fills it in
        section="process", reloadable=False,
        unset="beside the pid file, as .sock",
        example="/run/forkd/forkd.sock",
        help="unix socket on which the master takes the other verbs",
    )
    user: str | None = option(
        _ACCOUNT, None,
        section="process", reloadable=False,
        unset="unchanged",
        example="www-data",
        help="user, by name or number, that workers become; the master binds first, and keeps its own",
    )
    group: str | None = option(
        _ACCOUNT, None,
        section="process", reloadable=False,
        unset="the user's group",
        example="www-data",
        help="group, by name or number, that forkd becomes once it is bound",
    )
    new_privileges: bool = option(
        kinds.Bool(), False,
        section="process",
        help="let programs that the application or a hook executes gain rights by their setuid bit or file "
        "capabilities (sudo, ping, some sendmail)",
    )
    umask: int | None = option(
        kinds.Octal(), None,
        section="process", reloadable=False,
        unset="that of whoever starts forkd: a unit's UMask=, a shell's umask",
        example="022",
        help="permission bits taken from every file made, in octal; unix sockets have --socket-mode",
    )
