"""What the proxies in front say of a request: taken from its fields, counted and logged; and whether it may
be for its host. In a child, for each interface that serves HTTP; http/forwarded.py and system/hosts.py
decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forkd.config import Config
from forkd.http.forwarded import Policy, place_of
from forkd.http.guard import Request
from forkd.http.limits import Refused
from forkd.session.seam import Host, Peer
from forkd.system.cells import DROPPED, FORWARDED_CELLS
from forkd.system.seldom import Seldom

#: A front that contradicts itself does so in each request.
_SECONDS_BETWEEN_WARNINGS = 60.0


class Fronts:
    def __init__(self, config: Config, host: Host, chosen: Sequence[str] | None = None) -> None:
        """`chosen`: names of fields that count; None: those of --forwarded-fields."""
        self._host = host
        self._policy = policy_of(config, chosen)
        #: Each request is looked at, not only those that are `forwarded`.
        self.always = self._policy.others
        self._warns = Seldom(_SECONDS_BETWEEN_WARNINGS)

    def judge(self, request: Request, peer: Peer) -> None:
        """Set what `request` has of its proxies, and take from it what does not count. Raises Refused."""
        fields, authority, origin, dropped, conflict = self._policy.judge(request.headers, peer.client)
        request.forwarded = False
        request.headers = fields
        if authority is not None:
            request.authority = authority
        if origin is not None:
            request.origin = origin
            if origin.client is not None:
                request.client = origin.client.address
        for name, why in dropped:
            self._host.recorder.add(DROPPED + why * FORWARDED_CELLS + place_of(name))
            self._host.log.debug(f"{peer.client or 'unix'}: {name.decode()} is dropped: {why.label}")
        if conflict:
            self.warn(peer, conflict)

    def warn(self, peer: Peer, text: str) -> None:
        if self._warns.leave():
            self._host.log.warning(f"{peer.client or 'unix'}: {text} (said once a minute)")


class AllowedHosts:
    """`--allowed-hosts`."""

    def __init__(self, config: Config, host: Host) -> None:
        self._host = host
        self._hosts = config.allowed_hosts
        self._warns = Seldom(_SECONDS_BETWEEN_WARNINGS)

    def judge(self, request: Request, peer: Peer) -> None:
        """Raises Refused for a request whose host is none of them."""
        wanted = request.authority.decode("latin-1")
        if self._hosts.has(wanted):
            return
        if self._warns.leave():
            named = f"the host {wanted!r}" if wanted else "no host"
            self._host.log.warning(
                f"{client_name(request.client, peer)}: a request for {named}, which is none of "
                "--allowed-hosts, is answered 421 (said once a minute)"
            )
        raise Refused(421, "this service is for other hosts")


def client_name(client: str | None, peer: Peer) -> str:
    """For the error log."""
    return (peer.client if client is None else client) or "unix"


def origin_of(peer: Peer) -> str:
    """The address that its connection came from: the proxy's own, where that has sent a header of the PROXY
    protocol. Empty over a unix socket."""
    if peer.proxy is None:
        return peer.client
    address: str = peer.proxy["peer"][0]
    return address


def facts_of(proxy: dict[str, Any]) -> dict[str, Any]:
    """`Peer.proxy`, for an application, which may change its own."""
    return {key: value.copy() if isinstance(value, dict) else value for key, value in proxy.items()}


def policy_of(config: Config, chosen: Sequence[str] | None = None) -> Policy:
    fields = config.forwarded_fields if chosen is None else chosen
    return Policy(config.forwarded_allow, fields, config.forwarded_untrusted == "pass")
