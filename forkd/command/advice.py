"""What is said though nothing is wrong: warnings once, in the command that starts and in `forkd check`, and
notes in the latter alone.
"""

from __future__ import annotations

import os

from forkd.command.storage_places import too_large
from forkd.config import OPTIONS, Config
from forkd.config.reach import REACHES, Reach
from forkd.config.rules import only_for_fronts
from forkd.config.sources import Sources
from forkd.system.address import Address
from forkd.system.networks import Networks, packed


def warnings(sources: Sources, config: Config) -> list[str]:
    found = sources.unknown_variables()
    if os.geteuid() == 0 and config.user is None:
        found.append(
            "started as root without --user: the application runs as root; set --user to an account of its "
            "own, or to root if that is meant"
        )
    given = [name for name, default in _OF_SOCKET_FILES if getattr(config, name) != default]
    if given and not any(a is not None and a.kind == "unix" for a in (*config.bind, config.admin)):
        names = ", ".join(name.replace("_", "-") for name in given)
        found.append(f"{names}: without effect, since no address is unix:/path")
    found += too_large(config)
    allow = config.forwarded_allow
    closed = [
        str(address) for address in config.bind
        if only_for_fronts(address, config)
        and not (allow.cidrs if address.kind.startswith("tcp") else allow.unix or address.kind == "fd")
    ]  # fmt: skip
    if closed:
        found.append(
            f"forwarded-allow = {allow}: each connection to {', '.join(closed)} is closed, since only peers "
            "that are in it may connect, and none of that kind is"
        )
    if allow.every:
        public = [str(address) for address in config.bind if _is_public(address)]
        if public:
            found.append(
                f"forwarded-allow = {allow}, and other machines can reach "
                f"{', '.join(public)}: any client can claim any address, scheme and host; name the "
                "networks of your proxies"
            )
    return found


def notes(config: Config) -> list[str]:
    """What follows from options that were set."""
    found = []
    if not config.allowed_hosts.every:
        found.append(
            f"allowed-hosts: a request for a host that is none of {config.allowed_hosts} is answered 421; "
            "so is a request without Host (HTTP/1.0)"
        )
    if any(name in config.origins for name in _OF_FRONTS) and not all(a.protocol for a in config.bind):
        found.append(_about_keep_alive(config.keep_alive))
    return found


def meanings(config: Config, interface: str) -> list[str]:
    """Of options that were set, not to off or none, and mean something else under that interface, what they
    mean there."""
    found = []
    for row in OPTIONS:
        if row.attr in config.origins and row.attr in REACHES and getattr(config, row.attr):
            cell = REACHES[row.attr].of(interface)
            if cell.reach is Reach.OTHERWISE:
                found.append(f"{row.name}, under {interface.upper()}: {cell.words}")
    return found


def _about_keep_alive(seconds: float) -> str:
    if not seconds:
        return "keep-alive = 0: each connection of the front has one request"
    return (
        f"keep-alive = {seconds:g} s: it has to be longer than the time for which the front keeps an idle "
        "connection to forkd (keepalive_timeout in nginx's upstream: 60 s), or the front sends requests on "
        "connections that forkd is closing, which fail where they cannot be sent again (RFC 9112, 9.5)"
    )


def _is_public(address: Address) -> bool:
    """A TCP address that is not this machine's own. What a name stands for is not looked up."""
    if not address.kind.startswith("tcp") or address.host == "localhost":
        return False
    host = packed(address.host)
    return host is None or not _LOOPBACK.has(host)


#: Who sets one of these, or how long connections are kept, has a front.
_OF_FRONTS = [*(row.attr for row in OPTIONS if row.section == "proxies"), "proxy_protocol", "keep_alive"]
_LOOPBACK = Networks.parse(["127.0.0.0/8", "::1"])
_OF_SOCKET_FILES = [
    (row.attr, getattr(Config(), row.attr)) for row in OPTIONS if row.attr.startswith("socket_")
]
