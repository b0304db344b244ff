"""Where the operator asks: the control socket, the admin endpoint and the health listener. In the master."""

from __future__ import annotations

from collections.abc import Callable

from forkd.config import Config
from forkd.errors import BindError
from forkd.ipc.control import Command, ControlServer
from forkd.ipc.handover import Inheritance
from forkd.log.lines import Log
from forkd.master.generation import permissions_of
from forkd.metrics.admin import HEALTH_PAGES, PAGES, AdminServer, Source
from forkd.system.loop import Loop


class Endpoints:
    def __init__(
        self,
        config: Config,
        heir: Inheritance | None,
        loop: Loop,
        log: Log,
        source: Source,
        on_command: Callable[[Command], None],
    ) -> None:
        """`heir`: what this master has inherited of them. Raises BindError, with nothing left open."""
        self._log = log
        self.admin: AdminServer | None = None
        self.health: AdminServer | None = None
        if heir is None:
            self.control = ControlServer.listen(config.control, loop, on_command)
        else:
            self.control = ControlServer.adopt(heir.control, config.control, loop, on_command)
        handed = (heir.admin, heir.health) if heir else (None, None)
        files = heir.own_files if heir else {}
        try:
            of_file = permissions_of(config)
            self.admin = AdminServer.at(
                config.admin, handed[0], loop, source, PAGES, of_file, files.get("admin")
            )
            self.health = AdminServer.at(
                config.health, handed[1], loop, source, HEALTH_PAGES, of_file, files.get("health")
            )
        except BaseException:
            self.close()
            raise

    def servers(self) -> list[AdminServer]:
        """The admin endpoint and the health listener, as far as there are any."""
        return [server for server in (self.admin, self.health) if server is not None]

    @property
    def admin_address(self) -> str | None:
        return self.admin.name if self.admin is not None else None

    def open(self) -> None:
        """Begin to answer."""
        self.control.open()
        for server in self.servers():
            server.open()
        self.restore()

    def restore(self) -> None:
        """Make again what has lost its socket file. The service does not depend on it."""
        try:
            self.control.restore()
        except BindError as error:
            self._log.error(str(error))
        for server in self.servers():
            try:
                if server.restore():
                    self._log.warning(
                        f"{server.name}: the socket file had been removed or replaced; listening anew"
                    )
            except BindError as error:
                self._log.error(str(error))

    def forget(self) -> None:
        """In a child."""
        self.control.forget()
        for server in self.servers():
            server.forget()

    def hand_over(self) -> None:
        """Another master answers from now on."""
        self.control.hand_over()
        for server in self.servers():
            server.hand_over()

    def close(self) -> None:
        self.control.close()
        for server in self.servers():
            server.close()
