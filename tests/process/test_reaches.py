"""What docs/asgi.md says of each option under WSGI and ASGI is what `forkd check` says, and does."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from forkd.config import OPTIONS
from forkd.config.options import Option
from forkd.config.reach import REACHES, Cell, Reach

from .conftest import Daemon

ROOT = Path(__file__).resolve().parents[2]
APP = """
    def wsgi(environ, start):
        start("200 OK", [])
        return []

    async def asgi(scope, receive, send):
        raise RuntimeError(scope["type"])
"""
ROWS = {row.attr: row for row in OPTIONS}


def cells(interface: str) -> dict[str, Cell]:
    """What the page says of each option of its table."""
    of = runpy.run_path(str(ROOT / "scripts/reference"))["cells_of"]
    found = {attr: dict(zip(("wsgi", "asgi"), of(attr), strict=False)) for attr in ROWS}
    return {attr: each[interface] for attr, each in found.items()}


def flag(row: Option) -> list[str]:
    """The option, set to what it is without, and where that is off, to another value."""
    value = row.example if row.default is None else row.default
    if isinstance(value, bool):
        return [f"--{row.name}"]
    if row.name in ("threads", "request-timeout"):
        return [f"--{row.name}", "1"]
    return [f"--{row.name}", str(value)]


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_what_check_says_of_each(service: Daemon, interface: str) -> None:
    service.write_app(APP)
    says = {attr: cell for attr, cell in cells(interface).items() if attr in REACHES or cell != Cell()}
    assert len(says) > 20
    flags = [word for attr in says for word in flag(ROWS[attr])]
    told = service.ok("check", *service.flags(*flags, app=f"app:{interface}"))
    for attr, cell in says.items():
        name = ROWS[attr].name
        assert (f"note: {name}, under {interface.upper()}: {cell.words}" in told) is (
            cell.reach is Reach.OTHERWISE
        ), told
        # What is for WebSockets alone has an effect, where the application has some.
        unused = cell == Cell(Reach.NOTHING)
        assert bool(re.search(f"^warning: {name} = .* has no effect", told, re.M)) is unused, (name, told)


def test_check_says_nothing_of_what_is_off(service: Daemon) -> None:
    service.write_app(APP)
    told = service.ok("check", *service.flags("--preload", "off", app="app:asgi"))
    assert "note: preload" not in told
    told = service.ok("check", *service.flags("--request-timeout", "0", app="app:wsgi"))
    assert "note: request-timeout" not in told


@pytest.mark.parametrize(
    ("interface", "attr"),
    [
        (interface, attr) for attr, row in REACHES.items() for interface in ("wsgi", "asgi")
        if row.of(interface).reach is Reach.REFUSED
    ],
)  # fmt: skip
def test_what_is_refused_is(service: Daemon, interface: str, attr: str) -> None:
    service.write_app(APP)
    tried = REACHES[attr].of(interface).tried.split()
    assert tried[0] == f"--{ROWS[attr].name}"
    done = service.run("check", *service.flags(*tried, app=f"app:{interface}"))
    assert done.returncode == 1
    other = {"wsgi": "asgi", "asgi": "wsgi"}[interface]
    assert service.ok("check", *service.flags(*tried, app=f"app:{other}")), done.stderr


def test_each_row_is_of_an_option() -> None:
    assert set(REACHES) <= set(ROWS)
