"""`--request-ids`: each request has a name, which a trusted peer gives, or forkd (http/request_id.py). In a
child, for each interface that serves HTTP.
"""

from __future__ import annotations

from forkd.config import Config
from forkd.http.guard import Request
from forkd.http.request_id import FIELD, id_of
from forkd.session.seam import Peer

_FIELD = b"X-Request-ID"


class RequestIds:
    def __init__(self, config: Config) -> None:
        self._allow = config.forwarded_allow

    def judge(self, request: Request, peer: Peer) -> None:
        """Set its `id`, and the field, which then has that value alone."""
        fields = request.headers
        values = [value for name, value in fields if name.lower() == FIELD]
        connection = None if peer.proxy is None else peer.proxy.get("unique_id")
        found = id_of(values, self._allow.allows(peer.client), connection)
        if values:
            fields = [item for item in fields if item[0].lower() != FIELD]
        request.id = found
        request.headers = [*fields, (_FIELD, found.encode())]


def id_fields(id: str) -> list[tuple[str, str]]:
    """For answers of forkd's own to a request."""
    return [("X-Request-ID", id)] if id else []
