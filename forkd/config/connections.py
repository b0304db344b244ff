"""The options of connections: where they come from, and what may come over them.

Fields of `Config`, each a row of its table.
"""

from __future__ import annotations

from dataclasses import dataclass

from forkd.config import lists
from forkd.config import options as kinds
from forkd.config.options import option
from forkd.system.address import Address
from forkd.system.hosts import Hosts
from forkd.system.networks import Networks

_ACCOUNT = kinds.Account()


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
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
        _ACCOUNT, None,
        section="sockets",
        unset="unchanged",
        example="www-data",
        help="user that the files of unix sockets are given to; only root may do that",
    )
    socket_group: str | None = option(
        _ACCOUNT, None,
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
    request_timeout: float = option(
        kinds.Duration(), 0,
        section="http",
        help="seconds that a request may take, from the end of its head to the last byte of its answer, "
        "waits included; after that it is answered 504, or its connection reset if the answer has begun; "
        "0 is no limit. A WebSocket that was accepted has none. A WSGI call goes on, without its client",
    )
    limit_concurrency: int = option(
        kinds.Int(0, 10**6), 0,
        section="http",
        help="requests that may be in flight in a worker under ASGI, and besides them WebSockets; the next "
        "one is answered 503 with Retry-After; idle connections do not count; 0 is no limit. Under WSGI "
        "--threads is the limit",
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
