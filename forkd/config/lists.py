"""The kinds of values that are lists: in the file a list, or text with commas; as a flag, repeated."""

from __future__ import annotations

import re
from typing import Any

from forkd.config.options import Kind
from forkd.system import hosts, networks
from forkd.system.address import FORMS, Address
from forkd.system.hosts import Hosts
from forkd.system.networks import Networks

# One with an underscore never reaches an application.
_FIELD_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

# Fields that are the client's own, or a connection's.
_NOT_OF_PROXIES = re.compile(
    r"(?:accept|access-control|content|if|sec)-.*|accept|authorization|cache-control|connection|cookie|date"
    r"|dnt|early-data|expect|from|host|http2-settings|keep-alive|max-forwards|origin|pragma|prefer|priority"
    r"|proxy(?:-authenticate|-authentication-info|-authorization|-connection)?|range|referer|te|trailer|transfer-encoding|upgrade|upgrade-insecure-requests|user-agent|via|x-request-id"
    r"|x-requested-with"
)


class AddressList(Kind[tuple[Address, ...]]):
    """One address or several: a list, or text with commas."""

    several = True
    metavar = "ADDR"
    allowed = f"one address or several: {FORMS}"

    def read(self, raw: object, base: str) -> tuple[Address, ...]:
        addresses: list[Address] = []
        wrong: list[str] = []
        for item in raw if isinstance(raw, list | tuple) else [raw]:
            if isinstance(item, int) and not isinstance(item, bool):
                item = str(item)
            for text in self.text(item).split(","):
                try:
                    addresses.append(Address.parse(text))
                except ValueError as error:
                    wrong.append(str(error))
        if wrong:
            raise ValueError("; ".join(wrong))
        if not addresses:
            raise self.refuse()
        return tuple(addresses)


class HostList(Kind[Hosts]):
    """Hosts, as Host has them, and patterns of such."""

    several = True
    metavar = "HOST"
    allowed = f"{hosts.FORMS}; in a list or separated by commas"

    def read(self, raw: object, base: str) -> Hosts:
        texts = _texts(self, raw)
        if not texts:
            raise self.refuse()
        return Hosts.parse(texts)


class FieldNames(Kind[tuple[str, ...]]):
    """Names of header fields, in lower case: a list, or text with commas."""

    several = True
    metavar = "NAME"
    allowed = "names of header fields, in a list or separated by commas"

    def read(self, raw: object, base: str) -> tuple[str, ...]:
        names = [text.lower() for text in _texts(self, raw)]
        if not names or not all(_FIELD_NAME.fullmatch(name) for name in names):
            raise self.refuse()
        if wrong := [name for name in names if _NOT_OF_PROXIES.fullmatch(name)]:
            raise ValueError(
                f"{', '.join(wrong)}: no proxy says there who the client is; there are x-forwarded, "
                "each X-Forwarded-… by its name, forwarded, and those with the client's address alone, "
                "such as x-real-ip"
            )
        return tuple(dict.fromkeys(names))


class NetworkList(Kind[Networks]):
    """Networks, IP addresses and words."""

    several = True
    metavar = "CIDR"
    allowed = f"{networks.FORMS}, in a list or separated by commas; or none"

    def read(self, raw: object, base: str) -> Networks:
        texts = _texts(self, raw)
        if not texts:
            raise self.refuse()
        return Networks.parse([] if texts == ["none"] else texts)


def _texts(kind: Kind[Any], raw: object) -> list[str]:
    items = raw if isinstance(raw, list | tuple) else [raw]
    return [text.strip() for item in items for text in kind.text(item).split(",")]
