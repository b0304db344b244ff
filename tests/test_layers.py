"""Imports go one way: the layers of the package, held by its source (scripts/graph.py)."""

from __future__ import annotations

import ast

import pytest

from scripts import graph

GRAPH = graph.edges()

#: Modules that know neither sockets nor readiness, and who is excepted, and why.
NO_IO = {"socket", "select", "selectors", "asyncio"}
EXCEPTED = {
    "app/stream/handlers.py": "speaks asyncio's and socketserver's interfaces; opens nothing",
    "app/stream/transport.py": "is a transport of asyncio's; opens nothing",
    "app/relay.py": "dials out, which is its purpose",
    "app/loader.py": "tells asyncio protocols by their class",
}


def below(folder: str) -> dict[str, set[str]]:
    """The folders that each file of this one imports, but for itself."""
    return {
        name: {other.split("/")[0].partition(".")[0] for other in others} - {folder}
        for name, others in GRAPH.items()
        if name.startswith(f"{folder}/")
    }


@pytest.mark.parametrize("file", GRAPH)
def test_a_file_imports_only_what_is_below_it(file: str) -> None:
    assert graph.upwards({file: GRAPH[file]}) <= graph.ALLOWED_UPWARDS


def test_nothing_imports_what_imports_it() -> None:
    assert graph.circles(GRAPH) <= graph.ALLOWED_CIRCLES
    assert graph.circles(graph.by_folder(GRAPH)) <= graph.ALLOWED_CIRCLES


def test_the_lists_of_what_is_allowed_are_needed() -> None:
    assert graph.faults(GRAPH) == []


@pytest.mark.parametrize("file", [f for f in GRAPH if f.startswith(("http/", "session/", "app/"))])
def test_protocols_and_applications_know_no_sockets(file: str) -> None:
    if file not in EXCEPTED:
        names = {name.partition(".")[0] for name in graph.imports(graph.files()[file])}
        assert not names & NO_IO


def test_system_knows_of_forkd_only_errors() -> None:
    for file, folders in below("system").items():
        upwards = {graph.folder(other) for name, other in graph.ALLOWED_UPWARDS if name == file}
        assert folders <= {"__init__", "errors", "native", "_native"} | upwards, file


def test_http_knows_nothing_of_forkd() -> None:
    for file in below("http"):
        assert GRAPH[file] - set(below("http")) <= {"system/originals.py"}


def test_nothing_imports_the_optional_storage() -> None:
    for path in graph.files().values():
        assert not [name for name in graph.imports(path) if name.startswith("forkd.storage")]


def test_the_exceptions_exist() -> None:
    assert set(EXCEPTED) <= set(GRAPH)


def test_a_circle_and_an_edge_upwards_are_found() -> None:
    found = {
        "system/a.py": {"system/b.py"},
        "system/b.py": {"system/c.py"},
        "system/c.py": {"system/a.py"},
        "http/d.py": {"app/wsgi/e.py", "system/a.py"},
        "app/wsgi/e.py": {"http/d.py"},
        "app/f.py": {"app/wsgi/e.py"},
    }
    assert graph.upwards(found) == {("http/d.py", "app/wsgi/e.py")}
    assert graph.circles(found) == {
        frozenset({"system/a.py", "system/b.py", "system/c.py"}),
        frozenset({"http/d.py", "app/wsgi/e.py"}),
    }
    assert graph.levels(found) == {
        "system/a.py": 0, "system/b.py": 0, "system/c.py": 0, "http/d.py": 1, "app/wsgi/e.py": 1,
        "app/f.py": 2,
    }  # fmt: skip
    assert graph.circles(graph.by_folder(found)) == {frozenset({"http", "app/wsgi"})}


def test_only_the_master_assigns_a_fact() -> None:
    """Whoever takes a Daemon reads it: its fields are assigned in one file."""
    files = graph.files()
    fields = {
        node.target.id
        for node in ast.walk(ast.parse(files["master/service.py"].read_text()))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert "phase" in fields
    for name, path in files.items():
        if name == "master/main.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                owner = ast.unparse(node.value)
                assert not (owner.endswith("service") and node.attr in fields), (
                    f"forkd/{name}:{node.lineno} assigns {ast.unparse(node)}"
                )
