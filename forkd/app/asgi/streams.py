"""Which streams a retiring worker may end as if they were whole, since their clients come back by themselves.

EventSource's do: GET, with Accept: text/event-stream, which is answered with that type. `--drain-streams`
adds others, and takes some of them away.
"""

from __future__ import annotations

from forkd.http.guard import Request

_EVENTS = "text/event-stream"


class Reconnecting:
    def __init__(self, text: str) -> None:
        """`text`: --drain-streams."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        self._added = [word for word in words if not word.startswith("!")]
        self._left_out = [word[1:] for word in words if word.startswith("!")]

    def has(self, request: Request, kind: str) -> bool:
        """`kind`: the media type of its answer, in lower case; it may be empty."""
        path, get = request.path.decode("latin-1"), request.method == "GET"
        if any(_names(word, path, kind, True) for word in self._left_out):
            return False
        if any(_names(word, path, kind, get) for word in self._added):
            return True
        return get and kind == _EVENTS and _accepts_events(request)


def _names(word: str, path: str, kind: str, by_type: bool) -> bool:
    """Whether the word is that path, one above it, or, with `by_type`, that type."""
    if word.startswith("/"):
        return path == word or path.startswith(word.rstrip("/") + "/")
    return by_type and word.lower() == kind


def _accepts_events(request: Request) -> bool:
    accepted = b",".join(value for name, value in request.headers if name.lower() == b"accept")
    return _EVENTS.encode() in (each.partition(b";")[0].strip() for each in accepted.lower().split(b","))
