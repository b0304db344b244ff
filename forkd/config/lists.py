"""The kinds of values that are lists: in the file a list, or text with commas; as a flag, repeated."""

from __future__ import annotations

import re

from forkd.config.options import Kind
from forkd.system import networks
from forkd.system.address import FORMS, Address
from forkd.system.networks import Networks

_HOST_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,252}")
# One with an underscore never reaches an application.
_FIELD_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


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


class Names(Kind[tuple[str, ...]]):
    """Host names, lower case and without the dot of the root: a list, or text with commas."""

    several = True
    metavar = "NAME"
    pattern = _HOST_NAME
    allowed = "host names without a port, in a list or separated by commas"

    def read(self, raw: object, base: str) -> tuple[str, ...]:
        items = raw if isinstance(raw, list | tuple) else [raw]
        names = [name.strip().lower() for item in items for name in self.text(item).split(",")]
        if not names or not all(self.pattern.fullmatch(name) for name in names):
            raise self.refuse()
        return tuple(dict.fromkeys(name.removesuffix(".") for name in names))


class FieldNames(Names):
    """Names of header fields, in lower case."""

    pattern = _FIELD_NAME
    allowed = "names of header fields, in a list or separated by commas"


class NetworkList(Kind[Networks]):
    """Networks, IP addresses and words."""

    several = True
    metavar = "CIDR"
    allowed = f"{networks.FORMS}, in a list or separated by commas; or none"

    def read(self, raw: object, base: str) -> Networks:
        items = raw if isinstance(raw, list | tuple) else [raw]
        texts = [text.strip() for item in items for text in self.text(item).split(",")]
        if not texts:
            raise self.refuse()
        return Networks.parse([] if texts == ["none"] else texts)
