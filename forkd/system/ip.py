"""IP addresses as text, and as the 4 or 16 bytes in network order that protocols have."""

from __future__ import annotations

from forkd.system.originals import socket

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, an IPv4 address in IPv6 (RFC 4291, 2.5.5.2)
_FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}


def to_bytes(text: str, size: int) -> bytes:
    """Those of an address of so many bytes. Raises ValueError for any other text, one with a zone too."""
    try:
        return socket.inet_pton(_FAMILIES[size], text)
    except OSError:
        raise ValueError(f"{text!r} is no such address") from None


def unmapped(address: bytes) -> bytes:
    """The IPv4 address of one that is mapped in IPv6; any other as it is."""
    return address[12:] if len(address) == 16 and address.startswith(_MAPPED) else address


def to_text(address: bytes) -> str:
    """The canonical text, so that an address has one name: one that is mapped in IPv6 is the IPv4 address."""
    address = unmapped(address)
    return socket.inet_ntop(_FAMILIES[len(address)], address)
