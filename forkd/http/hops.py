"""Lists that proxies append to, hop by hop: their elements, and who is the client in one.

Used by `forwarded`. A list is read from its right end for as long as hops are trusted: what is left of the
first that is not, its client has written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from .grammar import TOKEN
from .limits import Refused

# nodename [":" node-port] (RFC 7239 6), IPv6 in brackets.
_NODE = re.compile(rb"(?:\[([^\]]*+)\]|([0-9.]++))(?::(?:([0-9]{1,5}+)|_[0-9A-Za-z._-]++))?")
MAX_PORT = 65535
#: A hop that is hidden on purpose: unknown, or a name of its own making (RFC 7239 6).
_HIDDEN = re.compile(rb"(?:(?i:unknown)|_[0-9A-Za-z._-]++)(?::(?:[0-9]{1,5}+|_[0-9A-Za-z._-]++))?")
_UNIX = b"unix:"  # what nginx has for the address of a peer over a unix socket

# forwarded-pair (RFC 7239 4), or nothing, and what ends it. Addresses often come without their quotes.
_PAIR = re.compile(
    rb"[ \t]*+(?:(" + TOKEN + rb')=(?:"((?:[^"\\]|\\.)*+)"|([!#$%&\'*+\-.^_`|~0-9A-Za-z:\[\]]*+)))?'
    rb"[ \t]*+([,;]|\Z)"
)
_ESCAPED = re.compile(rb"\\(.)", re.S)

Pairs = dict[bytes, bytes]


class Trusted(Protocol):
    """Which hops are trusted (system/networks.py)."""

    def canonical(self, text: str, /) -> str | None:
        """The one form of an address; None when `text` is none."""
        ...

    def allows(self, peer: str, /) -> bool:
        """Whether the hop is trusted that has this address; empty over a unix socket."""
        ...


class Hop(NamedTuple):
    """`address`: in canonical form; empty over a unix socket. `port`: 0 where it is not known."""

    address: str
    port: int


class Origin(NamedTuple):
    """What the proxies of a request say about it; what they do not say is empty. `client`: None is the peer.
    `scheme`: http or https. `server`: the host that the client wanted, without port, IPv6 in brackets.
    `port`: of the server. `prefix`: of the path, without a slash at its end."""

    client: Hop | None
    scheme: str
    server: str
    port: int
    prefix: str


def hop_of(text: bytes, trusted: Trusted) -> Hop | None:
    """The hop that an element names: an address with or without port, IPv6 with or without brackets and zone.
    None for one that is hidden (`unknown`, `_name`), and for what is no address."""
    if text == _UNIX:
        return Hop("", 0)
    port = 0
    match = _NODE.fullmatch(text)
    if match is not None:
        text = match[2] if match[1] is None else match[1]
        if (b":" in text) is (match[1] is None):
            return None  # IPv6 has brackets there, and nothing else has
        port = int(match[3] or 0)
        if port > MAX_PORT:
            return None
    address = trusted.canonical(text.decode("latin-1"))
    return None if address is None else Hop(address, port)


def elements(value: bytes) -> list[bytes]:
    """Those of a list. Empty ones are none (RFC 9110 5.6.1.2)."""
    return [element for item in value.split(b",") if (element := item.strip(b" \t"))]


class Found(NamedTuple):
    """What a list of hops says: see `find_client`."""

    client: Hop | None
    place: int
    malformed: bool  # what is at that place is neither an address nor hidden


def find_client(hops: Iterable[bytes], trusted: Trusted) -> Found:
    """The client, as a list of hops says, the nearest first, and its place in the list. It is the first hop
    that is not trusted, or the last of all. Where that is hidden, or no address, it is the one before, which
    has said so: None if there is none."""
    known: Hop | None = None
    last = 0
    for place, text in enumerate(hops):
        last, hop = place, hop_of(text, trusted)
        if hop is None:
            return Found(known, place, _HIDDEN.fullmatch(text) is None)
        known = hop
        if not trusted.allows(hop.address):
            break
    return Found(known, last, False)


def pairs_of(value: bytes) -> list[Pairs]:
    """The elements of a Forwarded field, each by the lower case of its names.

    Raises Refused: in a list that is malformed nobody can tell which part the client has written, and which
    the proxy that has appended to it. An open quote would swallow what comes after it.
    """
    found: list[Pairs] = []
    pairs: Pairs = {}
    at = 0
    while True:
        match = _PAIR.match(value, at)
        if match is None:
            raise Refused(400, "malformed Forwarded")
        at = match.end()
        if match[1] is not None:
            name = match[1].lower()
            if name in pairs:
                raise Refused(400, "malformed Forwarded")
            pairs[name] = match[3] if match[2] is None else _ESCAPED.sub(rb"\1", match[2])
        if match[4] != b";":
            if pairs:
                found.append(pairs)
            if not match[4]:
                return found
            pairs = {}
