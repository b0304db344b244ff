"""forkd with native code to which tests/native/suspending.c was added, and an interface that has its
shortcut: run as `python suspending.py _native.so start ...` by test_suspending.py.

A client's line is answered at once, with itself. One with "later" in it is answered when any client sends
"go", and one with "early" before its call has returned; with "odd" in it, it is left to the session. After
one that begins with "last" the connection ends.
"""

from __future__ import annotations

import os
import sys
import time
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from typing import Any

BIG = 1 << 22  # bytes of an answer to "big", which no socket takes at once
SLOW_SECONDS = 0.05  # in the application, after which another thread leads


def load(path: str) -> None:
    """Before anything else looks for native code."""
    import forkd

    loader = ExtensionFileLoader("forkd._native", path)
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    sys.modules[loader.name] = forkd._native = module_from_spec(spec)  # type: ignore[attr-defined]
    loader.exec_module(sys.modules[loader.name])


class Lines:
    """The interface."""

    paced = False

    def __init__(self, config: Any, host: Any) -> None:
        from forkd import _native
        from forkd.session.seam import ANY_BYTES_PER_SECOND, Await

        self.shortcut = _native.Suspending(  # type: ignore[attr-defined]
            application=self.call, left=self.left, recorder=host.recorder
        )
        self.opening = Await(
            "line", config.keep_alive, rate=ANY_BYTES_PER_SECOND, idle=True, shortcut=self.shortcut
        )
        self.part = Await("rest of a line", config.keep_alive)
        self.waiting: list[Any] = []
        self.gone = 0
        self.bell = -1

    def retire(self) -> None:
        self.shortcut.draining = True

    # ---- what the shortcut calls ----------------------------------------------------------

    def call(self, call: Any) -> bytes | bool | None:
        line = call.line
        if b"slow" in line:
            time.sleep(SLOW_SECONDS)
        if b"later" in line:
            self.waiting.append(call)
            return None
        if b"early" in line:
            assert call.answered(b"early " + line + b"\n")
            return None
        if b"odd" in line:
            return False
        if line == b"go":
            os.eventfd_write(self.bell, 1)  # the loop answers in its turn
        return b"%d %d\n" % (len(self.waiting), self.gone) if line == b"count" else bytes(line) + b"\n"

    def left(self, call: Any) -> None:
        self.gone += 1
        self.waiting.remove(call)
        assert not call.answered(b"too late")

    # ---- the rest -------------------------------------------------------------------------

    def answer(self) -> None:
        os.eventfd_read(self.bell)
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            if b"odd" in call.line:
                call.answered(None)
            elif b"big" in call.line:
                call.answered((b"late ", b"x" * BIG + b"\n"))
            else:
                call.answered(b"late " + call.line + b"\n")

    def session(self, peer: Any) -> Any:
        if self.bell < 0:
            self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            peer.owner.watch(self.bell, self.answer)
        peer.note = None
        text = b""
        while data := (yield self.part if text else self.opening):
            if isinstance(data, (bytes, memoryview)):
                *lines, text = (text + bytes(data)).split(b"\n")
                for line in lines:
                    yield b"session " + line + b"\n"
            else:
                yield b"session " + data.line + b"\n" if data.answer is None else data.answer
                if data.close:
                    return


def main() -> None:
    load(sys.argv.pop(1))
    from forkd.app import interfaces
    from forkd.command.main import main as forkd

    interfaces.INTERFACES = (
        interfaces.InterfaceRow(
            "lines", "lines", lambda app: True, lambda app, config: None,
            lambda app, config, host, worker: Lines(config, host), http=True,
        ),
    )  # fmt: skip
    sys.exit(forkd())


if __name__ == "__main__":
    main()
