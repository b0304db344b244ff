"""The umask that forkd is started with is that of the application, unless another one is asked for."""

from __future__ import annotations

import os

import pytest

from .conftest import Daemon

APP = """
    import os
    from pathlib import Path

    def app(environ, start):
        path = Path("made")
        path.unlink(missing_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o666))
        body = b"%o" % (path.stat().st_mode & 0o777)
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]
"""


@pytest.mark.parametrize("preload", ["--no-preload", "--preload"])
@pytest.mark.parametrize(("flags", "mode"), [([], "640"), (["--umask", "002"], "664")])
def test_it_is_inherited(service: Daemon, preload: str, flags: list[str], mode: str) -> None:
    service.write_app(APP)
    done = service.run(
        "start", *service.flags("-w", "1", preload, *flags), preexec_fn=lambda: os.umask(0o027)
    )
    assert done.returncode == 0, done.stderr
    assert service.get() == mode
    service.ok("upgrade")
    assert service.get() == mode


def test_in_the_foreground_too(service: Daemon) -> None:
    service.write_app(APP)
    service.start_in_foreground("-w", "1", preexec_fn=lambda: os.umask(0o077))
    assert service.get() == "600"
