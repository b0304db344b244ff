"""Channels: messages to whoever listens at the time, as `Storage.subscribe` makes them."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

from forkd.storage import engine
from forkd.storage.arguments import as_wait
from forkd.storage.codec import Codec, unpack

__all__ = ["Subscription"]


class Subscription:
    """The messages of a channel from now on. Each is delivered at most once: what comes while the reader is
    too far behind is lost."""

    def __init__(self, source: engine.Subscription, codec: Codec) -> None:
        self._source = source
        self._codec = codec

    def get(self, wait: float | None = None) -> Any:
        """The next message; None where there was none within `wait` seconds (None: for ever; 0: at once)."""
        data = self._source.get(as_wait(wait))
        return None if data is None else self._codec.decode(unpack(data))

    def fileno(self) -> int:
        """A descriptor that is readable when there may be a message, for a loop of the caller's."""
        return self._source.fileno()

    def close(self) -> None:
        self._source.close()

    def __iter__(self) -> Iterator[Any]:
        """Each message as it comes, without an end."""
        while True:
            message = self.get()
            if message is not None:
                yield message

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
