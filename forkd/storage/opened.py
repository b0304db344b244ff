"""A place and its engine: opened by the first call in each process, and forgotten by a fork."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from forkd.storage.codec import Codec
from forkd.storage.engine import Engine
from forkd.system.originals import os

__all__ = ["Opened"]


class Opened:
    """What a Storage is below its verbs. May be made before a fork, and used by all threads of a process."""

    #: Opened when it is first asked for.
    engine: Engine
    codec: Codec

    def __init__(self, connect: Callable[[], Engine], name: str, codec: Codec) -> None:
        """`connect` opens the engine; `name` is the place without a password."""
        self._connect = connect
        self._name = name
        self.codec = codec
        self._verbs: tuple[str, ...] = ()
        _all.add(self)

    def __getattr__(self, attribute: str) -> Any:
        # Only for what is not in __dict__: from the first use on `engine` is there.
        if attribute != "engine":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {attribute!r}")
        engine = self.__dict__["engine"] = self._connect()
        if self.codec.native:
            self.__dict__.update(engine.verbs)
            self._verbs = tuple(engine.verbs)
        return engine

    def __repr__(self) -> str:
        return f"<storage {self._name}>"

    def close(self) -> None:
        """Let go of connections and descriptors. The next call opens it anew."""
        engine = self._drop()
        if engine is not None:
            engine.close()

    def forget(self) -> None:
        """In a child after a fork: leave to the parent what is its own."""
        engine = self._drop()
        if engine is not None:
            engine.forget()

    def _drop(self) -> Engine | None:
        for verb in self._verbs:
            del self.__dict__[verb]
        self._verbs = ()
        engine: Engine | None = self.__dict__.pop("engine", None)
        return engine


_all: weakref.WeakSet[Opened] = weakref.WeakSet()


def _in_child() -> None:
    for opened in list(_all):
        opened.forget()


os.register_at_fork(after_in_child=_in_child)
