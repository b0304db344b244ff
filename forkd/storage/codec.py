"""Keys and values as bytes: what users pass to the unit, in the form that engines keep."""

from __future__ import annotations

import struct
from typing import Any, Protocol

from forkd.storage.engine import (
    MAX_INT,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    MIN_INT,
    Kind,
    Packed,
    Value,
)
from forkd.storage.errors import Damaged, TooLarge

__all__ = ["NATIVE", "Codec", "Serializer", "as_bytes", "encode_key", "pack", "unpack"]

_NATIVE = frozenset((bytes, int, str))
_INT = struct.Struct("<q")


class Serializer(Protocol):
    """What makes bytes of other values: pickle, marshal, msgpack; json makes a str, which is as good."""

    def dumps(self, value: Any, /) -> bytes | str: ...

    def loads(self, data: bytes, /) -> Any: ...


def as_bytes(key: str | bytes) -> bytes:
    """Raises TypeError: bytes(1) would be a key, too, and bytes(10**10) takes that much memory."""
    if isinstance(key, str):
        return key.encode()
    if isinstance(key, bytes):
        return key
    raise TypeError(f"a key or a name is a str or bytes, and not a {type(key).__name__}")


def encode_key(key: str | bytes) -> bytes:
    """Raises TooLarge where the key has more than MAX_KEY_BYTES, ValueError where it is empty, TypeError
    where it is neither str nor bytes."""
    data = as_bytes(key)
    if not 0 < len(data) <= MAX_KEY_BYTES:
        if data:
            raise TooLarge(f"a key of {len(data)} bytes; the most is {MAX_KEY_BYTES}")
        raise ValueError("a key is empty")
    return data


class Codec:
    """Values of a unit, from and to those of an engine. Without a serializer nothing but bytes, int and str
    passes; with one, what it has made comes back through it, and nothing else does."""

    def __init__(self, serializer: Serializer | None) -> None:
        self._serializer = serializer
        #: Whether all values are what they are stored as.
        self.native = serializer is None

    def encode(self, value: Any) -> Value:
        """Raises TypeError, TooLarge, and OverflowError where an int has more than 64 bits."""
        if type(value) not in _NATIVE or (
            type(value) is int and not MIN_INT <= value <= MAX_INT and self._serializer is not None
        ):
            value = self._convert(value)
        if isinstance(value, int):
            if not MIN_INT <= value <= MAX_INT:
                raise OverflowError("an int of more than 64 bits")
        elif len(value) > MAX_VALUE_BYTES // 4 and len(_plain(value)) > MAX_VALUE_BYTES:
            raise TooLarge(f"a value of {len(_plain(value))} bytes; the most is {MAX_VALUE_BYTES}")
        return value  # type: ignore[no-any-return]

    def decode(self, value: Value) -> Any:
        """Raises TypeError for what a serializer has made, where there is none."""
        if type(value) is not Packed:
            return value
        if self._serializer is None:
            raise TypeError("a serializer has made this value, and this unit was opened without one")
        return self._serializer.loads(bytes(value))

    def _convert(self, value: Any) -> Value:
        if self._serializer is not None:
            made = self._serializer.dumps(value)
            return Packed(made.encode() if isinstance(made, str) else made)
        if isinstance(value, int):  # a subclass, as bool is one
            return int(value)
        if isinstance(value, str):
            return str(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        raise TypeError(f"{type(value).__name__} is none of bytes, int, str; see storage.open(serializer=)")


#: Of a unit without a serializer.
NATIVE = Codec(None)


def _plain(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value


def pack(value: Value) -> bytes:
    """A value with its type, as bytes: of an item of a queue, a message, and where an engine has no types."""
    if isinstance(value, int):
        return b"\1" + _INT.pack(value)
    if isinstance(value, str):
        return b"\2" + value.encode()
    return (b"\3" if type(value) is Packed else b"\0") + value


def unpack(data: bytes) -> Value:
    """The value that `pack` had. Raises Damaged."""
    body = data[1:]
    try:
        kind = Kind(data[0])
        if kind is Kind.INT:
            return int(_INT.unpack(body)[0])
        if kind is Kind.STR:
            return body.decode()
    except (IndexError, ValueError, struct.error) as error:
        raise Damaged(f"{len(data)} bytes that forkd.storage did not write") from error
    return Packed(body) if kind is Kind.PACKED else body
