"""What a start says though nothing is wrong: each is a warning, once. In the command that starts, and in
`forkd check`.
"""

from __future__ import annotations

import os

from forkd.config import OPTIONS, Config
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
    if config.forwarded_allow.every:
        public = [str(address) for address in config.bind if _is_public(address)]
        if public:
            found.append(
                f"forwarded-allow = {config.forwarded_allow}, and other machines can reach "
                f"{', '.join(public)}: any client can claim any address, scheme and host; name the "
                "networks of your proxies"
            )
    return found


def _is_public(address: Address) -> bool:
    """A TCP address that is not this machine's own. What a name stands for is not looked up."""
    if not address.kind.startswith("tcp") or address.host == "localhost":
        return False
    host = packed(address.host)
    return host is None or not _LOOPBACK.has(host)


_LOOPBACK = Networks.parse(["127.0.0.0/8", "::1"])
_OF_SOCKET_FILES = [
    (row.attr, getattr(Config(), row.attr)) for row in OPTIONS if row.attr.startswith("socket_")
]
