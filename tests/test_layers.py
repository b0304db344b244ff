"""Imports go one way: the layers of the package, held by its source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "forkd"
BASE = {
    "errors",
    "forked",
    "address",
    "cpus",
    "options",
    "output",
    "config",
    "rules",
    "sources",
    "foreign",
    "spelling",
    "log",
    "sigpipe",
    "sink",
    "title",
    "writers",
    "interpreter",
    "links",
    "__init__",
}

#: Which parts of forkd each part may import, besides itself.
LAYERS: dict[str, set[str]] = {
    "originals": set(),
    "native": set(),
    "cells": set(),
    "base": {"native"},
    "http": {"native"},
    "system": {"base", "cells", "native"},
    "app": {"base", "cells", "http", "native"},
    "logger": {"base", "system"},
    "models": {"base", "app", "cells", "native", "system"},
    "metrics": {"base", "cells", "http", "system"},
    "supervise": {"base", "cells", "http", "app", "logger", "models", "metrics", "system"},
    "bench": {"base", "models", "supervise"},
    "cli": {"base", "bench", "models", "supervise", "system"},
}

#: Modules that know neither sockets nor readiness, and who is excepted, and why.
NO_IO = {"socket", "select", "selectors", "asyncio"}
EXCEPTED = {
    "app/stream.py": "speaks asyncio's and socketserver's interfaces; opens nothing",
    "app/transport.py": "is a transport of asyncio's; opens nothing",
    "app/relay.py": "dials out, which is its purpose",
    "app/loader.py": "tells asyncio protocols by their class",
}

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    """The part that a module below forkd belongs to: "app.wsgi" is in app, "config" in base."""
    if module == "system.cells":
        return "cells"  # numbers only, for whoever counts
    first = module.partition(".")[0] or "__init__"
    if first == "_native":
        return "native"
    return "base" if first in BASE else "cli" if first in ("cli", "__main__") else first


def imports(file: str) -> set[str]:
    """The modules that a file imports, written out; forkd's own without `forkd.`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            package = file.rpartition("/")[0].replace("/", ".")
            found.add(f"forkd.{package}.{node.module or ''}".rstrip("."))
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from forkd import x` may mean the module x, and may mean a name.
            found |= (
                {f"forkd.{a.name}" for a in node.names} if node.module == "forkd" else {node.module}
            )
            if node.module == "forkd.originals":
                found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_what_is_below_it(file: str) -> None:
    mine = part_of(file.removesuffix(".py").replace("/", "."))
    own = [name.removeprefix("forkd.") for name in imports(file) if name.startswith("forkd")]
    names = {part for name in own if (part := part_of(name if name != "forkd" else "")) != mine}
    names = {"base" if name.startswith("__") else name for name in names}
    assert names - {mine, "originals"} <= LAYERS[mine], f"forkd/{file} ({mine}) imports {names}"


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith(("http/", "app/"))])
def test_protocols_and_applications_know_no_sockets(file: str) -> None:
    if file not in EXCEPTED:
        assert not {name.partition(".")[0] for name in imports(file)} & NO_IO


def test_system_knows_of_forkd_only_errors_and_addresses() -> None:
    allowed = {"errors", "address", "forked", "originals", "system", "native", "_native"}
    for file in FILES:
        if file.startswith("system/"):
            own = {n.split(".")[1] for n in imports(file) if n.startswith("forkd.")}
            assert own <= allowed, f"forkd/{file} imports {own - allowed}"


def test_nothing_imports_the_optional_storage() -> None:
    assert not [f for f in FILES if any(n.startswith("forkd.storage") for n in imports(f))]


def test_the_exceptions_exist() -> None:
    assert set(EXCEPTED) <= set(FILES)


def test_only_the_master_assigns_a_fact() -> None:
    """Whoever takes a Service reads it: its fields are assigned in one file."""
    service = ast.parse((PACKAGE / "supervise/service.py").read_text())
    fields = {
        node.target.id
        for node in ast.walk(service)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert "phase" in fields
    for file in FILES:
        if file == "supervise/master.py":
            continue
        for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                owner = ast.unparse(node.value)
                assert not (owner.endswith("service") and node.attr in fields), (
                    f"forkd/{file}:{node.lineno} assigns {ast.unparse(node)}"
                )
