"""A layer of 16 bytes, in front of every protocol, and a forkd that has it.

`PnnnnnnnnnnnnnnV`: `P` is "P", or "Q" with a deadline that is soon over; then the address that the client
goes by, filled up with blanks; `V` decides: "+" lets it pass, "-" closes the connection, "!" fails.

The layer is added to a copy of the package as a later version would bring it: a file in session/, which is
this file, and a row that an option of the address asks for, or a path.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import forkd
from forkd.config import Config
from forkd.session.seam import ANY_BYTES_PER_SECOND, Await, Become, Host, Peer, Session

SIZE = 16
ROW = """
from forkd.session.preamble import Preamble

LAYERS = (LayerRow("preamble", lambda address, _: address.freebind or "layer" in address.path, Preamble),)
"""


def preamble(client: str, verdict: str = "+", kind: str = "P") -> bytes:
    return f"{kind}{client:14}{verdict}".encode()


class Preamble:
    def __init__(self, config: Config, host: Host) -> None:
        self._first = Await("preamble", config.header_timeout, rate=ANY_BYTES_PER_SECOND, idle=True)
        self._more = Await("rest of the preamble", config.header_timeout)
        self._quick = Await("rest of a quick preamble", 0.2)

    def opening(self, following: Await | None) -> Await | None:
        return None

    def session(self, following, peer: Peer, data: bytes = b"") -> Session:  # type: ignore[no-untyped-def]
        wait = self._first
        while len(data) < SIZE:
            came = yield wait
            if not came:
                return None
            data += came
            wait = self._quick if data.startswith(b"Q") else self._more
        verdict = data[SIZE - 1 : SIZE]
        if verdict == b"!":
            raise RuntimeError("the preamble fails on purpose")
        if verdict == b"-":
            return None
        peer.client = data[1 : SIZE - 1].decode().rstrip()
        return Become(following(peer, data[SIZE:]))


def package(directory: Path) -> Path:
    """A directory for PYTHONPATH, with a forkd that has the layer."""
    made = directory / "forkd"
    shutil.copytree(Path(forkd.__file__).parent, made)
    shutil.copy(__file__, made / "session" / "preamble.py")
    begin = made / "session" / "begin.py"
    begin.write_text(begin.read_text() + ROW)
    return directory
