"""The options: the table that flags, environment, file, --help and the reference are made from.

`Config` is the table: a field is a row. Values come from `sources.Sources.load`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from forkd.config import lists
from forkd.config import options as kinds
from forkd.config.options import Option, Workers, option, rows
from forkd.config.storage_url import StorageUnits, StorageURL
from forkd.system.address import Address
from forkd.system.hosts import Hosts
from forkd.system.networks import Networks

__all__ = [
    "OPTIONS",
    "Config",
    "Workers",
    "keep_unreloadable",
    "stem",
    "unreloadable",
]

_ACCOUNT = kinds.Account()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The value of every option, checked. Made by `Sources.load`; constant for a generation."""

    # application
    app: str | None = option(
        kinds.Text(r"[^:]+(:.+)?", "module:attribute, or a module"), None,
        section="application", positional=True,
        metavar="APP",
        unset="the built-in welcome app",
        example="project.wsgi:application",
        help="the application as module:attribute; with () after it, a factory that is called; of a module "
        "alone, its application or app",
    )
    name: str = option(
        kinds.Text(r"[A-Za-z0-9_.-]+", "letters, digits, and any of _ . -"), "forkd",
        section="application", reloadable=False,
        help="name of this daemon in process titles and default file names",
    )
    interface: str | None = option(
        kinds.Choice(("wsgi", "asgi", "stream")), None,
        section="application", short="-k",
        unset="detected from the application",
        example="wsgi",
        help="how the application is called",
    )
    hooks: str | None = option(
        kinds.Text(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", "the dotted name of a module"), None,
        section="application",
        metavar="MODULE",
        unset="no hooks",
        example="project.hooks",
        help="module whose functions are called at points in the life of the daemon and its workers",
    )
    chdir: str | None = option(
        kinds.Path(), None,
        section="application",
        metavar="DIR",
        unset="the directory forkd is started in",
        example="/srv/project",
        help="directory to change to before the application is loaded: the one that has the name at a start, "
        "and at each reload",
    )

    preload: bool = option(
        kinds.Bool(), False,
        section="application",
        help="load the application once, in a process that the workers are forked from: they share its "
        "memory, and a reload loads it anew",
    )
    lifespan: str = option(
        kinds.Choice(("auto", "on", "off")), "auto",
        section="application",
        help="whether an ASGI application is told of the start and the end of its worker: if it has a "
        "lifespan, always, so that a worker does not start without one, or never",
    )
    lifespan_context: bool = option(
        kinds.Bool(), True,
        section="application",
        help="context variables that an ASGI application sets in its lifespan are set in its requests, too",
    )
    root_path: str | None = option(
        kinds.Text(r"/[^?#\s]*(\?unstripped)?", "a path, with or without ?unstripped after it"), None,
        section="application",
        metavar="PATH",
        unset="none",
        example="/api",
        help="where an ASGI application is mounted: the path that the front takes away from its requests, "
        "and that is put before theirs again; with ?unstripped after it, one that the front leaves there",
    )
    ws_max_message: int = option(
        kinds.Size(), "16M",
        section="application",
        help="bytes that a message of a WebSocket may have; a longer one closes it with 1009",
    )
    ws_ping_interval: float = option(
        kinds.Duration(), 20,
        section="application",
        help="seconds without a byte of its client after which a WebSocket is sent a ping; 0 sends none",
    )
    ws_ping_timeout: float = option(
        kinds.Duration(), 20,
        section="application",
        help="seconds for the answer to a ping, which is any byte; then the WebSocket is closed with 1011",
    )
    ws_origins: str | None = option(
        kinds.Text(r"https?://[^/\s,]+(,\s*https?://[^/\s,]+)*", "origins, with commas"), None,
        section="application",
        metavar="ORIGINS",
        unset="any origin",
        example="https://example.org",
        help="origins whose pages may open a WebSocket, with commas; those of others are answered 403. "
        "Clients that send no Origin, which are no browsers, are let through",
    )
    drain_spread: float = option(
        kinds.Duration(), 10,
        section="application",
        help="seconds over which a retiring worker closes its WebSockets, so that their clients do not all "
        "come back at once; at most half of --graceful-timeout",
    )

    # sockets
    bind: tuple[Address, ...] = option(
        lists.AddressList(), ("127.0.0.1:8000",),
        section="sockets", short="-b",
        help="address to listen on: host:port, [v6]:port, unix:/path or fd://N; may be repeated; with "
        "?freebind=on after it, a TCP address is bound also while no interface has it; with ?proxy=on, "
        "--proxy-protocol is for that address alone; with ?protocol=uwsgi, requests come there from nginx's "
        "uwsgi_pass, by peers of --forwarded-allow",
    )
    proxy_protocol: bool = option(
        kinds.Bool(), False,
        section="sockets",
        help="every connection begins with a header of the PROXY protocol, version 1 or 2, in which a proxy "
        "of --forwarded-allow names its client; one without it, or of any other peer, is closed",
    )
    backlog: int = option(
        kinds.Int(1, 65535), 2048,
        section="sockets", reloadable=False,
        help="connections that may wait to be accepted, per listener; "
        "the kernel caps it at net.core.somaxconn",
    )
    socket_mode: int = option(
        kinds.SocketMode(), "666",
        section="sockets",
        help="mode of the files of unix sockets, the admin endpoint's too; who may write to one may connect",
    )
    socket_owner: str | None = option(
        _ACCOUNT,
        None,
        section="sockets",
        unset="unchanged",
        example="www-data",
        help="user that the files of unix sockets are given to; only root may do that",
    )
    socket_group: str | None = option(
        _ACCOUNT,
        None,
        section="sockets",
        unset="unchanged",
        example="www-data",
        help="group of the files of unix sockets; of others than root, one that they are in",
    )
    defer_accept: bool = option(
        kinds.Bool(), True,
        section="sockets",
        help="leave a TCP connection to the kernel until its first bytes are there, or for a second; "
        "only for HTTP, since the server of a stream may be the one that speaks first",
    )

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

    # http
    keep_alive: float = option(
        kinds.Duration(), 75,
        section="http",
        help="seconds an idle connection is kept for the next request; "
        "0 closes it after each answer",
    )
    header_timeout: float = option(
        kinds.Duration(), 20,
        section="http",
        help="seconds a client may take to send a request's head; 0 is no limit",
    )
    body_timeout: float = option(
        kinds.Duration(), 30,
        section="http",
        help="seconds without a byte of a request's body after which it is given up; 0 is no limit",
    )
    write_timeout: float = option(
        kinds.Duration(), 60,
        section="http",
        help="seconds without progress in writing after which a client is dropped, "
        "streams too; 0 is no limit",
    )
    shed_after: float = option(
        kinds.Duration(), 0,
        section="http",
        help="seconds a request may wait until it is begun; after that it is answered 503 with "
        "Retry-After; 0 is no limit. Over a unix socket the wait in the accept queue is not known",
    )
    limit_request_line: int = option(
        kinds.Size(64, 2**20), 8190,
        section="http",
        help="bytes a request line may have (414 above)",
    )
    limit_request_fields: int = option(
        kinds.Int(1, 32768), 100,
        section="http",
        help="header fields a request may have (431 above)",
    )
    limit_request_field_size: int = option(
        kinds.Size(64, 2**26), 8190,
        section="http",
        help="bytes a header field may have with its name (431 above), within --limit-request-head; cookies "
        "and Kerberos tickets are the longest",
    )
    limit_request_head: int = option(
        kinds.Size(256, 2**26), "64k",
        section="http",
        help="bytes a request's head may have (431 above)",
    )
    limit_request_body: int = option(
        kinds.Size(1), "1G",
        section="http",
        help="bytes a request's body may have (413 above)",
    )
    body_buffer: int = option(
        kinds.Size(0, 2**30), "4m",
        section="http",
        help="bytes of a request's body kept in memory; a longer one is spooled to disk",
    )
    native: bool = option(
        kinds.Bool(), True,
        section="http",
        help="read usual requests by compiled code, where a compiler was there at installation; "
        "false: by Python alone; true, where it is set: never without compiled code",
    )
    allowed_hosts: Hosts = option(
        lists.HostList(), ("*",),
        section="http",
        help="hosts that requests may be for, by Host or what a trusted proxy says instead; a request for "
        "another is answered 421, and the application does not see it",
    )
    server_header: str | None = option(
        kinds.TextOrNone(r"[!-~](?:[ -~]{0,126}[!-~])?", "printable ASCII, up to 128 characters"),
        "forkd",
        section="http",
        help="value of Server in answers, unless the application sets one; none leaves the field out",
    )
    early_hints: bool = option(
        kinds.Bool(), False,
        section="http",
        help="environ has wsgi.early_hints, and an ASGI scope http.response.early_hint, by which the "
        "application sends 103 before its answer; not with HTTP/1.0. For clients and fronts that expect it",
    )
    request_ids: bool = option(
        kinds.Bool(), False,
        section="http",
        help="each request has a name, in environ (X-Request-ID and forkd.request_id), in both logs and in "
        "the answer: that of X-Request-ID from a peer of --forwarded-allow; else a new one",
    )
    server_timing: bool = option(
        kinds.Bool(), False,
        section="http",
        help="answers say in Server-Timing how long the request has waited before the application was called",
    )

    # proxies
    forwarded_allow: Networks = option(
        lists.NetworkList(), ("127.0.0.0/8", "::1", "unix"),
        section="proxies",
        help="peers that are proxies of yours: what they say of the client is believed, and the client is "
        "the last hop that is none of them; given, it replaces the default",
    )
    forwarded_fields: tuple[str, ...] = option(
        lists.FieldNames(), ("x-forwarded",),
        section="proxies",
        help="header fields in which the proxies of --forwarded-allow say who the client is: x-forwarded "
        "(X-Forwarded-For, -Proto, -Host, -Port and -Prefix), forwarded (RFC 7239), one of these by its "
        "name, or one that has the client's address, such as x-real-ip; of several that say the same, the "
        "first counts. Take only what your proxy sets or removes: what it passes on is the client's",
    )
    forwarded_untrusted: str = option(
        kinds.Choice(("drop", "pass")), "drop",
        section="proxies",
        help="what becomes of such fields from other peers, and of those that are not in --forwarded-fields "
        "from any: the application does not see them, or it gets them as they are",
    )

    # streams
    idle_timeout: float = option(
        kinds.Duration(), 300,
        section="streams",
        help="seconds without a byte in either direction after which a stream is closed; "
        "0 is no limit",
    )

    # storage
    storage: tuple[tuple[str, StorageURL], ...] = option(
        StorageUnits(), "none",
        section="storage", reloadable=False,
        help="what the workers share, for the application (docs/storage.md): a cache, locks, queues and "
        "limits, in shared memory, in a file or at a server; may be repeated, with NAME= before it",
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
        _ACCOUNT,
        None,
        section="process", reloadable=False,
        unset="unchanged",
        example="www-data",
        help="user, by name or number, that workers become; the master binds first, and keeps its own",
    )
    group: str | None = option(
        _ACCOUNT,
        None,
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

    # admin
    admin: Address | None = option(
        kinds.AddressOrNone(), "127.0.0.1:9464",
        section="admin", reloadable=False,
        help="address of /metrics, /healthz, /readyz and the status page; none turns it off",
    )
    admin_hosts: Hosts = option(
        lists.HostList(), None,
        absent=Hosts.parse(()),
        section="admin",
        unset="IP addresses and localhost alone",
        example=("forkd.example.internal",),
        help="names under which the pages at --admin are asked for, besides IP addresses and localhost, "
        "which are always taken: another Host is answered 421. /healthz and /readyz take any",
    )
    admin_token_file: str | None = option(
        kinds.Path(), None,
        section="admin",
        unset="no token is asked for",
        example="/etc/forkd/admin-token",
        help="file with the token without which (Authorization: Bearer) the pages at --admin are answered "
        "401, /healthz and /readyz excepted; read at a start and a reload, and refused if all may read it",
    )
    admin_queries: bool = option(
        kinds.Bool(), False,
        section="admin",
        help="show query strings of requests in the pages at --admin, which may have tokens in them; "
        "forkd status shows them always",
    )
    health: Address | None = option(
        kinds.AddressOrNone(), "none",
        section="admin", reloadable=False,
        help="address of a listener with /healthz and /readyz alone, for probes that may not see the rest",
    )

    # logging
    error_log: str | None = option(
        kinds.LogPath(off=False), None,
        section="logging", reloadable=False,
        unset="stderr in the foreground, else a file beside the pid file, as .log",
        example="/var/log/forkd/error.log",
        help="file of forkd's own log and the application's stderr; - is stderr",
    )
    log_level: str = option(
        kinds.Choice(("debug", "info", "warning", "error")), "info",
        section="logging",
        help="the least severe level that is logged",
    )
    access_log: str | None = option(
        kinds.LogPath(off=True), "none",
        section="logging",
        help="file that gets one line per request; - is stdout, none turns it off",
    )
    log_format: str = option(
        kinds.Choice(("text", "json")), "text",
        section="logging",
        help="format of both logs",
    )
    access_log_format: str | None = option(
        kinds.LineFormat(), None,
        section="logging",
        unset="Combined Log Format, with the duration in seconds",
        example="%{client} %{peer} %{method} %{target} %{status} %{seconds}",
        help="form of the lines of the access log in text: fields, each as %{name}, and what is around them",
    )

    #: Where each attribute was set. One that was set nowhere has its default.
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def most_workers(self) -> int:
        """The most children that may ever be wanted: `max_workers`, or its default."""
        return max(16, 2 * self.workers.max) if self.max_workers is None else self.max_workers

    @property
    def default_error_log(self) -> str:
        """The path at which a detached daemon logs when `error_log` is not given."""
        return stem(self.pidfile) + ".log"


OPTIONS: tuple[Option, ...] = rows(Config)


def unreloadable(old: Config, new: Config) -> list[str]:
    """The names of the options that differ and that a reload cannot change."""
    return [
        row.name
        for row in OPTIONS
        if not row.reloadable and getattr(old, row.attr) != getattr(new, row.attr)
    ]


def keep_unreloadable(old: Config, new: Config) -> Config:
    """`new`, with the values of `old` where a reload cannot change them."""
    return replace(
        new, **{row.attr: getattr(old, row.attr) for row in OPTIONS if not row.reloadable}
    )


def stem(path: str) -> str:
    """What the files beside a pid file or a control socket are named by."""
    # Only our own suffixes: /run/my.app and /run/my.other must not share /run/my.sock.
    return path.removesuffix(".pid").removesuffix(".sock")
