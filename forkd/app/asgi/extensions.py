"""ASGI's extensions: which of them a request is offered, as keys of scope["extensions"].

A request is offered what it can carry, less what `--asgi-extensions` takes away. "forkd" is no extension of
ASGI's, and always there (scope.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forkd.http.guard import Request

EARLY_HINT = "http.response.early_hint"
TRAILERS = "http.response.trailers"
PATHSEND = "http.response.pathsend"
ZEROCOPYSEND = "http.response.zerocopysend"
DENIAL = "websocket.http.response"

_ALL = (EARLY_HINT, TRAILERS, PATHSEND, ZEROCOPYSEND, DENIAL)


class Extensions:
    def __init__(self, text: str, early_hints: bool) -> None:
        """`text`: --asgi-extensions."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        left = [word for word in words if not word.startswith("!")] or _ALL
        kept = {name for name in _ALL if name in left and "!" + name not in words}
        if not early_hints:
            kept.discard(EARLY_HINT)
        self.denial = DENIAL in kept
        self._trailers = TRAILERS in kept
        #: By whether the method is HEAD, whether the version is 1.1, and whether it has TE: trailers.
        self._offers = {
            (head, recent, te): tuple(
                name for name, carried in (
                    (EARLY_HINT, recent), (TRAILERS, recent and te and not head), (PATHSEND, not head),
                    (ZEROCOPYSEND, not head),
                )
                if carried and name in kept
            )
            for head in (True, False) for recent in (True, False) for te in (True, False)
        }  # fmt: skip

        #: To a request that native code reads.
        self.usual = self._offers[False, True, False]

    def offered(self, request: Request, headers: list[tuple[bytes, bytes]]) -> tuple[str, ...]:
        """To an HTTP request. `headers`: of its scope."""
        recent = request.version == "1.1"
        te = recent and self._trailers and _takes_trailers(headers)
        return self._offers[request.method == "HEAD", recent, te]


def _takes_trailers(headers: list[tuple[bytes, bytes]]) -> bool:
    fields = [value for name, value in headers if name == b"te"]
    return bool(fields) and b"trailers" in [each.strip().lower() for each in b",".join(fields).split(b",")]


def offer(extensions: dict[str, Any], names: Sequence[str]) -> None:
    for name in names:
        extensions[name] = {}
