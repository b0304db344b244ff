"""The options of the operator: what answers about the service, and what it logs.

Fields of `Config`, each a row of its table.
"""

from __future__ import annotations

from dataclasses import dataclass

from forkd.config import lists
from forkd.config import options as kinds
from forkd.config.options import option
from forkd.system.address import Address
from forkd.system.hosts import Hosts


@dataclass(frozen=True, kw_only=True)
class OperationOptions:
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
