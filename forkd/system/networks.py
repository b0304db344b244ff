"""Which peers are trusted: a set of networks (CIDRs), with the word `unix` for peers over unix sockets.

Pure. Made when the configuration is read; asked in a child, for a peer and for the hops that a front names.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from forkd.system.ip import to_bytes, to_text, unmapped

__all__ = ["FORMS", "Networks", "packed"]

FORMS = "CIDRs (10.0.0.0/8, fd00::/8), single IP addresses, unix, or * for every peer"

_EVERY = ("0.0.0.0/0", "::/0", "unix")


def packed(text: str) -> bytes | None:
    """The address as 4 or 16 bytes in network order; None when `text` is no IP address.

    A zone is left out, and an IPv4 address that is mapped in IPv6 is the IPv4 address: a socket for both
    families has IPv4 peers in that form.
    """
    try:
        if ":" not in text:
            return to_bytes(text, 4)
        return unmapped(to_bytes(text.partition("%")[0], 16))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Networks:
    """`cidrs`: in canonical form, with prefix. `unix`: whether peers over unix sockets belong to the set."""

    cidrs: tuple[str, ...]
    unix: bool
    #: (bytes of an address, mask, network) of each of `cidrs`.
    _masks: tuple[tuple[int, int, int], ...]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Networks:
        """Raises ValueError that says which texts are wrong, and why."""
        cidrs: dict[str, tuple[int, int, int]] = {}
        unix = False
        wrong: list[str] = []
        for text in texts:
            for item in _EVERY if text == "*" else (text,):
                if item == "unix":
                    unix = True
                    continue
                try:
                    network = _network(item)
                except ValueError as error:
                    wrong.append(str(error))
                    continue
                size = network.max_prefixlen // 8
                cidrs[str(network)] = size, int(network.netmask), int(network.network_address)
        if wrong:
            raise ValueError(f"{'; '.join(wrong)}; allowed are {FORMS}")
        return cls(tuple(cidrs), unix, tuple(cidrs.values()))

    def __str__(self) -> str:
        return ", ".join([*self.cidrs, "unix"] if self.unix else self.cidrs)

    @staticmethod
    def canonical(text: str) -> str | None:
        """The one form in which an address is compared and stored, from any that `packed` takes; None when
        `text` is none."""
        address = packed(text)
        return None if address is None else to_text(address)

    def allows(self, peer: str) -> bool:
        """Whether a peer belongs to the set: its IP address as text, or "" for one over a unix socket. False
        for text that is no address."""
        if not peer:
            return self.unix
        address = packed(peer)
        return address is not None and self.has(address)

    def has(self, address: bytes) -> bool:
        """The same for an address as `packed` returns it."""
        size, number = len(address), int.from_bytes(address, "big")
        return any(number & mask == network and size == family for family, mask, network in self._masks)

    @property
    def every(self) -> bool:
        """Whether all peers of a family of IP belong to the set, be it by several networks."""
        v4 = ipaddress.collapse_addresses(ipaddress.IPv4Network(x) for x in self.cidrs if ":" not in x)
        v6 = ipaddress.collapse_addresses(ipaddress.IPv6Network(x) for x in self.cidrs if ":" in x)
        return any(not network.prefixlen for network in v4) or any(not network.prefixlen for network in v6)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network") from None
    address, slash, prefix = text.partition("/")
    if "%" in text or (slash and not prefix.isdecimal()):
        raise ValueError(f"{text!r} is not a network")
    if ipaddress.ip_address(address) != found.network_address:
        raise ValueError(f"{text!r} is an address with a prefix; the network is {found}")
    if isinstance(found, ipaddress.IPv6Network) and found.prefixlen >= 96:
        inner = found.network_address.ipv4_mapped
        if inner is not None:
            return ipaddress.IPv4Network((inner, found.prefixlen - 96))
    return found
