"""Connections to Valkey or Redis: one server, one that Sentinel names, or a cluster.

Nothing waits for longer than the place's `timeout` for one answer, and nothing that may have been done is
sent again: what fails raises Unavailable with its cause.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterator
from typing import Any

from forkd.config.storage_url import StorageURL
from forkd.storage.errors import Damaged, Error, Full, Unavailable

__all__ = ["Client", "Script"]

_AT_ONCE = 500  # names that a server looks at for one step of a scan


class Script:
    """A script, by its text and by what the server calls it once it has it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()


class Client:
    """Calls of a server, for all threads of one process."""

    def __init__(self, place: StorageURL) -> None:
        """Raises Error where the package valkey is not installed, or the password's file is not as it has to
        be."""
        try:
            import valkey
        except ImportError as error:
            raise Error("valkey: places need the package valkey: pip install forkd[valkey]") from error
        self._place = place
        self._valkey: Any = valkey
        # That of a cluster is none of the others.
        self._errors = (valkey.ValkeyError, self._valkey.exceptions.ValkeyClusterException, OSError)
        try:
            #: Of the package: Valkey, or ValkeyCluster.
            self.native: Any = self._connect()
        except ValueError as error:  # the password's file
            raise Error(f"{place}: {error}") from error
        except self._errors as error:
            raise self.meaning(error) from error

    def _connect(self) -> Any:
        from valkey.backoff import NoBackoff
        from valkey.retry import Retry

        place = self._place
        options: dict[str, Any] = {
            "username": place.user or None,
            "password": place.password or None,
            "socket_timeout": place.timeout,
            "socket_connect_timeout": place.timeout,
            "retry": Retry(NoBackoff(), 0),
        }
        if place.tls:
            options |= {"ssl": True, "ssl_ca_certs": place.tls_ca or None, "ssl_check_hostname": True}
        if place.socket_path:
            return self._valkey.Valkey(unix_socket_path=place.socket_path, db=place.db, **options)
        if place.mode == "sentinel":
            sentinel_module: Any = importlib.import_module("valkey.sentinel")
            times = {"socket_timeout": place.timeout / 2, "socket_connect_timeout": place.timeout / 2}
            sentinel = sentinel_module.Sentinel(
                list(place.hosts), sentinel_kwargs=times, db=place.db, **options
            )
            return sentinel.master_for(place.service)
        if place.mode == "cluster":
            cluster: Any = importlib.import_module("valkey.cluster")
            nodes = [cluster.ClusterNode(host, port) for host, port in place.hosts]
            return cluster.ValkeyCluster(startup_nodes=nodes, cluster_error_retry_attempts=1, **options)
        host, port = place.hosts[0]
        return self._valkey.Valkey(host, port, place.db, **options)

    @property
    def is_cluster(self) -> bool:
        return self._place.mode == "cluster"

    def call(self, *command: Any) -> Any:
        """What the server answers to a command that writes nothing. Raises Error."""
        try:
            return self.native.execute_command(*command)
        except self._errors as error:
            raise self.meaning(error) from error

    def write(self, *command: Any) -> Any:
        """The same for one that writes: with `?wait=N` N replicas have it, too."""
        if not self._place.replicas:
            return self.call(*command)
        try:
            with self.native.pipeline(transaction=False) as pipeline:
                pipeline.execute_command(*command)
                pipeline.execute_command("WAIT", self._place.replicas, int(self._place.timeout * 500))
                answer, replicas = pipeline.execute(raise_on_error=False)
            for each in (answer, replicas):  # a server that was deposed between the two refuses WAIT
                if isinstance(each, Exception):
                    raise each
        except self._errors as error:
            raise self.meaning(error) from error
        if replicas < self._place.replicas:
            raise Unavailable(f"{self._place}: {replicas} of {self._place.replicas} replicas have the write")
        return answer

    def run(self, script: Script, keys: list[bytes], *values: Any, writes: bool = True) -> Any:
        """What a script returns. Raises Error."""
        send = self.write if writes else self.call
        try:
            return send("EVALSHA", script.sha, len(keys), *keys, *values)
        except Unavailable as error:
            if not isinstance(error.__cause__, self._valkey.exceptions.NoScriptError):
                raise
        return send("EVAL", script.text, len(keys), *keys, *values)

    def meaning(self, error: Exception) -> Error:
        """What an error of the package's is to forkd."""
        text = f"{self._place}: {error or type(error).__name__}"
        if "maxmemory" in str(error):  # OOM, which the package cuts off
            return Full(text)
        if "WRONGTYPE" in str(error):
            return Damaged(text)
        return Unavailable(text)

    def get_many(self, names: list[bytes]) -> list[bytes | None]:
        """Their values, in one round trip for each node."""
        if not self.is_cluster:
            return list(self.call("MGET", *names))
        try:
            return list(self.native.mget_nonatomic(names))
        except self._errors as error:
            raise self.meaning(error) from error

    def scan(self, start: bytes) -> Iterator[bytes]:
        """The names that begin with it."""
        match = re.sub(rb"([*?\[\]\\^])", rb"\\\1", start) + b"*"
        try:
            yield from self.native.scan_iter(match=match, count=_AT_ONCE)
        except self._errors as error:
            raise self.meaning(error) from error

    def subscribe(self, channel: bytes) -> Any:
        """A subscription of the package's, which is in force."""
        try:
            pubsub = self.native.pubsub()
            pubsub.subscribe(channel)
            pubsub.get_message(timeout=self._place.timeout)  # the confirmation
        except self._errors as error:
            raise self.meaning(error) from error
        return pubsub

    def message(self, pubsub: Any, seconds: float) -> Any:
        try:
            return pubsub.get_message(ignore_subscribe_messages=True, timeout=seconds)
        except self._errors as error:
            raise self.meaning(error) from error

    def servers(self) -> list[tuple[str, dict[str, Any]]]:
        """What each server says of itself (INFO), by its name."""
        try:
            if self.is_cluster:
                return list(self.native.info(target_nodes=self.native.PRIMARIES).items())
            return [(str(self._place), self.native.info())]
        except self._errors as error:
            raise self.meaning(error) from error

    def close(self) -> None:
        self.native.close()
