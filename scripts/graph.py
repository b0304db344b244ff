#!/usr/bin/env python3
"""The imports of forkd/ as a graph: files, edges, levels and circles, over folders and over files.

Exits with 1 for an edge upwards or a circle that no list below allows, and for an entry of a list that is
needed no more: the lists only get shorter. An import counts wherever it stands, under TYPE_CHECKING and in a
function too, and so does what the stub of the native code imports. Part of scripts/check;
tests/test_layers.py has the order of the layers from here.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "forkd"
#: What imports a module whose name it is given.
_IMPORTERS = ("import_module", "__import__")

#: Lowest first: a folder may import those of the lines above its own, and itself, but no other of its line. A
#: file of forkd/ itself stands for a folder.
LAYERS = (
    ("errors", "title", "__init__"),
    ("_native",),
    ("native",),
    ("system",),
    ("config", "log", "http"),
    ("session",),
    ("app", "engine", "storage"),
    ("models",),
    ("ipc", "metrics"),
    ("worker", "logger"),
    ("master",),
    ("command",),
    ("__main__",),
)

#: Edges upwards that are still there: (file, what it imports).
ALLOWED_UPWARDS: set[tuple[str, str]] = set()

#: Circles that are still there, each with all its files.
ALLOWED_CIRCLES: set[frozenset[str]] = set()

Graph = Mapping[str, set[str]]


@cache
def files() -> dict[str, Path]:
    """Each Python file and the stub, by its name from forkd/."""
    paths = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])
    return {path.relative_to(PACKAGE).as_posix(): path for path in paths}


@cache
def imports(path: Path) -> set[str]:
    """The modules that a file imports, written out. A module of the standard library that it has from
    `originals` is one of them."""
    inside = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = inside[: len(inside) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = {alias.name for alias in node.names}
            found |= {f"{base}.{name}" if _path_of(f"{base}.{name}") else base for name in names}
            if base.endswith(".originals"):
                found |= names
        elif isinstance(node, ast.Call) and _name_of(node.func).endswith(_IMPORTERS):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return found


def _name_of(called: ast.expr) -> str:
    """Without what it is an attribute of."""
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


@cache
def _path_of(module: str) -> Path | None:
    """The file of a module of forkd; None where it is another's, or no module."""
    if module.partition(".")[0] != PACKAGE.name:
        return None
    path = ROOT.joinpath(*module.split("."))
    tries = (path / "__init__.py", path.with_suffix(".py"), path.with_suffix(".pyi"))
    return next((one for one in tries if one.exists()), None)


@cache
def edges() -> dict[str, set[str]]:
    """Which files each file imports."""
    names = {path: name for name, path in files().items()}
    return {
        name: {names[one] for one in map(_path_of, imports(path)) if one is not None} - {name}
        for name, path in files().items()
    }


def folder(name: str) -> str:
    """Of a file; a file of forkd/ itself is its own."""
    return name.rpartition("/")[0] or name.partition(".")[0]


def layer(name: str) -> int:
    """The line of LAYERS that a file or a folder is on. Raises LookupError."""
    first = name.partition("/")[0].partition(".")[0]
    for number, line in enumerate(LAYERS):
        if first in line:
            return number
    raise LookupError(
        f"forkd/{name}: {first} is on none of the LAYERS in scripts/graph.py: add the new folder there"
    )


def upwards(graph: Graph) -> set[tuple[str, str]]:
    """Edges from one folder to another that is not on a lower layer."""
    return {
        (name, other)
        for name, others in graph.items()
        for other in others
        if name.split("/")[0] != other.split("/")[0] and layer(other) >= layer(name)
    }


def by_folder(graph: Graph) -> dict[str, set[str]]:
    """The graph of the folders; one inside another counts for itself."""
    found: dict[str, set[str]] = {folder(name): set() for name in graph}
    for name, others in graph.items():
        found[folder(name)] |= {folder(other) for other in others} - {folder(name)}
    return found


def groups(graph: Graph) -> list[frozenset[str]]:
    """The strongly connected components (Tarjan), each after those that it needs: one node, or a circle."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[frozenset[str]] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], index[other])
        if lowest[node] == index[node]:
            at = stack.index(node)
            found.append(frozenset(stack[at:]))
            del stack[at:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def circles(graph: Graph) -> set[frozenset[str]]:
    return {group for group in groups(graph) if len(group) > 1}


def levels(graph: Graph) -> dict[str, int]:
    """How many lie below each, on the longest way; a circle is one."""
    found: dict[str, int] = {}
    for group in groups(graph):
        below = {found[other] for node in group for other in graph[node] if other not in group}
        found |= dict.fromkeys(group, 1 + max(below, default=-1))
    return found


def faults(graph: Graph) -> list[str]:
    """What is wrong, in sentences."""
    up, round_ = upwards(graph), circles(graph) | circles(by_folder(graph))
    return [
        *(f"{a} imports {b}, which is not on a lower layer" for a, b in sorted(up - ALLOWED_UPWARDS)),
        *(f"{a} imports {b} no more: take it from ALLOWED_UPWARDS" for a, b in sorted(ALLOWED_UPWARDS - up)),
        *(f"a circle: {', '.join(sorted(c))}" for c in round_ - ALLOWED_CIRCLES),
        *(f"no circle any more: {', '.join(sorted(c))}" for c in ALLOWED_CIRCLES - round_),
    ]


def describe(title: str, graph: Graph) -> str:
    height = max(levels(graph).values()) + 1
    count = sum(map(len, graph.values()))
    return f"{title}: {len(graph)}, edges {count}, levels {height}, circles {len(circles(graph))}"


def main() -> int:
    try:
        return _report(edges())
    except LookupError as error:
        print(error, file=sys.stderr)
        return 1


def _report(graph: Graph) -> int:
    folders = by_folder(graph)
    inside = {
        here: {
            name: {other for other in others if folder(other) == here}
            for name, others in graph.items()
            if folder(name) == here
        }
        for here in folders
    }
    print(describe("files", graph))
    print(describe("folders", folders) + f", edges upwards {len(upwards(graph))}")
    for line in LAYERS:
        for here in sorted(name for name in folders if name.split("/")[0] in line):
            high = max(levels(inside[here]).values()) + 1
            below = " ".join(sorted(folders[here]))
            print(f"  {here:13} files {len(inside[here]):2}, levels {high:2}; imports {below}")
    found = faults(graph)
    for fault in found:
        print(f"scripts/graph.py: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
