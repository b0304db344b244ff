"""Who a request comes from, and what it was sent to, as the proxies in front of forkd say: X-Forwarded-*,
Forwarded (RFC 7239), and fields that have the client's address alone.

Pure: the fields of a head go in, facts come out. Called by session/fronts.py in a child.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, unique
from typing import NamedTuple

from .grammar import FORWARDED_NAMES, HOST, X_FORWARDED
from .guard import Fields
from .hops import MAX_PORT, Found, Hop, Origin, Trusted, elements, find_client, pairs_of

_PLACES = {name: place for place, name in enumerate(FORWARDED_NAMES)}
_FORWARDED, _FOR = b"forwarded", b"x-forwarded-for"
_UNKNOWN = b"unknown"  # RFC 7239 6
#: What `x-forwarded` stands for among the names that were chosen.
_USUAL = (_FOR, *(X_FORWARDED + name for name in (b"proto", b"host", b"port", b"prefix")))

_SCHEMES = {b"http": "http", b"ws": "http", b"https": "https", b"wss": "https"}
_PORTS = {"http": 80, "https": 443}
_PORT = re.compile(rb"[0-9]{1,5}+")
# Segments of a path, without percent-encoding. An empty one would make a host of the next, in a redirect.
_PREFIX = re.compile(rb"((?:/(?!\.{1,2}(?:/|\Z))[0-9A-Za-z\-._~!$&'()*+,;=:@]++)*+)/?")


@unique
class Drop(IntEnum):
    """Why a field was dropped: a label of forkd_forwarded_fields_dropped_total, and a place of its counts. A
    new one goes to the end."""

    UNTRUSTED = 0  # its peer is none of --forwarded-allow
    NOT_CHOSEN = 1  # it is none of --forwarded-fields
    MALFORMED = 2

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", "-")


class Judged(NamedTuple):
    fields: Fields  # those that the application gets
    authority: bytes | None  # what its Host is now; None: as it was
    origin: Origin | None  # None: the peer is not trusted, or says nothing
    dropped: list[tuple[bytes, Drop]]  # names, in lower case
    conflict: str  # which fields do not agree, and which counts; empty: they agree


def place_of(name: bytes) -> int:
    """The place in FORWARDED_NAMES of a name in lower case."""
    return _PLACES.get(name, 0)


class Policy:
    """Which fields count, and from whom. Made of the options."""

    def __init__(self, allow: Trusted, chosen: Sequence[str], passes: bool) -> None:
        """`chosen`: names of fields; of two that say the same, the first counts. `passes`: the application
        gets what does not count."""
        names: dict[bytes, None] = {}
        for name in chosen:
            names.update(dict.fromkeys(_USUAL if name == "x-forwarded" else (name.encode(),)))
        self._allow = allow
        self.chosen = names
        self.passes = passes
        #: Some are fields that `Request.forwarded` says nothing of.
        self.others = any(name not in _PLACES and not name.startswith(X_FORWARDED) for name in names)

    def judge(self, fields: Fields, peer: str) -> Judged:
        """What the fields of a head say. `peer`: the address that it came from; empty over a unix socket.
        Raises Refused."""
        trusted = self._allow.allows(peer)
        kept: Fields = []
        values: dict[bytes, bytes] = {}
        dropped: list[tuple[bytes, Drop]] = []
        for name, value in fields:
            lower = name.lower()
            chosen = lower in self.chosen
            if chosen and trusted:
                values[lower] = values[lower] + b"," + value if lower in values else value
            elif (chosen or lower in _PLACES or lower.startswith(X_FORWARDED)) and not self.passes:
                dropped.append((lower, Drop.NOT_CHOSEN if trusted else Drop.UNTRUSTED))
                continue
            kept.append((name, value))
        if not values:
            return Judged(kept, None, None, dropped, "")
        said = _Said()
        wrong = set(self._hear(values, said))
        dropped += [(name, Drop.MALFORMED) for name in wrong]
        kept = [(name, value) for name, value in kept if name.lower() not in wrong]
        authority, origin = said.facts(next((value for name, value in kept if name.lower() == b"host"), b""))
        if authority is not None:
            kept = [(b"Host", authority), *(item for item in kept if item[0].lower() != b"host")]
        return Judged(kept, authority, origin, dropped, said.conflict)

    def _hear(self, values: dict[bytes, bytes], said: _Said) -> Iterable[bytes]:
        """Take in what they say, the one that counts more first. Yields the names of the malformed."""
        # Each proxy appends to each list: what it says of the client's request is at the client's place.
        hops = self._client_in(values.get(_FOR, b""))
        for name in self.chosen:
            if name not in values:
                continue
            value = values[name]
            if name == _FORWARDED:
                if self._hear_elements(value, said):
                    yield name
            elif name == _FOR:
                said.add("client", hops.client, name)
                if hops.malformed:
                    yield name
            elif name in _READERS:
                what, read = _READERS[name]
                found = elements(value)
                if found and not said.add(what, read(found[max(0, len(found) - 1 - hops.place)]), name):
                    yield name
            elif not name.startswith(X_FORWARDED):
                alone = self._client_in(value)
                said.add("client", alone.client, name)
                if alone.malformed:
                    yield name

    def _client_in(self, value: bytes) -> Found:
        return find_client(reversed(elements(value)), self._allow)

    def _hear_elements(self, value: bytes, said: _Said) -> bool:
        """Whether something of the element that counts is malformed; it may lack any pair."""
        found = pairs_of(value)[::-1]
        hops = find_client((pairs.get(b"for", _UNKNOWN) for pairs in found), self._allow)
        said.add("client", hops.client, _FORWARDED)
        pairs = found[hops.place] if found else {}
        wrong = hops.malformed
        for name, what, read in ((b"proto", "scheme", scheme_of), (b"host", "host", _host)):
            if name in pairs and not said.add(what, read(pairs[name]), _FORWARDED):
                wrong = True
        return wrong


@dataclass(slots=True)
class _Said:
    """What was said first of each, and by which field."""

    client: Hop | None = None
    scheme: str | None = None
    host: bytes | None = None
    port: int | None = None
    prefix: str | None = None
    conflict: str = ""
    by: dict[str, bytes] = field(default_factory=dict)

    def add(self, what: str, value: object, name: bytes) -> bool:
        """Whether there was a value."""
        if value is None:
            return False
        first = self.by.setdefault(what, name)
        if first == name:
            setattr(self, what, value)
        elif _compared(getattr(self, what)) != _compared(value):
            self.conflict = (
                f"{first.decode()} and {name.decode()} do not agree on the {what}: the former counts"
            )
        return True

    def facts(self, host: bytes) -> tuple[bytes | None, Origin | None]:
        """The new value of Host, None where it stays `host`, and the rest."""
        if not self.by:
            return None, None
        wanted = host if self.host is None else self.host
        server, port = _split(wanted)
        port = 0 if port > MAX_PORT else port
        usual = _PORTS[self.scheme or "http"]
        if port and self.port and port != self.port:
            self.conflict = "x-forwarded-port does not agree with the port of the host, which counts"
        elif wanted and not port and self.port and self.port != usual:
            wanted = b"%b:%d" % (server, self.port)
        told = self.scheme or self.host or self.port
        return (None if wanted == host else wanted), Origin(
            self.client,
            self.scheme or "",
            "" if self.host is None else server.decode(),
            (port or self.port or usual) if told else 0,
            self.prefix or "",
        )


def _compared(value: object) -> object:
    return value.address if isinstance(value, Hop) else value  # few say the port


def scheme_of(text: bytes) -> str | None:
    return _SCHEMES.get(text.lower())


def _old_scheme(text: bytes) -> str | None:
    return "https" if text.lower() == b"ssl" else scheme_of(text)


def _on_or_off(text: bytes) -> str | None:
    return {b"on": "https", b"off": "http"}.get(text.lower())


def _host(text: bytes) -> bytes | None:
    return text if HOST.fullmatch(text) and _split(text)[1] <= MAX_PORT else None


def _port(text: bytes) -> int | None:
    return int(text) if _PORT.fullmatch(text) and 0 < int(text) <= MAX_PORT else None


def _prefix(text: bytes) -> str | None:
    match = _PREFIX.fullmatch(text)
    return None if match is None else match[1].decode()


#: What a field of one value says, and how it is read: None where it is malformed.
_READERS: dict[bytes, tuple[str, Callable[[bytes], object]]] = {
    b"x-forwarded-proto": ("scheme", scheme_of),
    b"x-forwarded-protocol": ("scheme", _old_scheme),
    b"x-forwarded-ssl": ("scheme", _on_or_off),
    b"x-forwarded-host": ("host", _host),
    b"x-forwarded-port": ("port", _port),
    b"x-forwarded-prefix": ("prefix", _prefix),
}


def _split(authority: bytes) -> tuple[bytes, int]:
    """Host and port; 0: it has none."""
    host, colon, port = authority.rpartition(b":")
    if not colon or port.endswith(b"]"):
        return authority, 0
    return host, int(port or 0)
