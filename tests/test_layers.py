"""Imports go one way: the layers of the package, held by its source (scripts/graph.py)."""

from __future__ import annotations

import ast

import pytest

from scripts import graph

FILES = graph.files()

#: Modules that know neither sockets nor readiness, and who is excepted, and why.
NO_IO = {"socket", "select", "selectors", "asyncio"}
EXCEPTED = {
    "app/stream/handlers.py": "speaks asyncio's and socketserver's interfaces; opens nothing",
    "app/stream/transport.py": "is a transport of asyncio's; opens nothing",
    "app/asgi/duplex.py": "an application's task and its waits are asyncio's; opens nothing",
    "app/asgi/drain.py": "waits for tasks",
    "app/asgi/requests.py": "names the loop and its tasks",
    "app/asgi/interface.py": "names the loop",
    "app/asgi/self_test.py": "has a loop of its own, in a process of its own",
    "app/asgi/tasks.py": "makes them",
    "app/asgi/lifespan.py": "a task, and waits for it",
    "app/relay.py": "dials out, which is its purpose",
    "app/loader.py": "tells asyncio protocols by their class",
}


def below(folder: str) -> dict[str, set[str]]:
    """The folders that each file of this one imports, but for itself."""
    return {
        name: {other.split("/")[0].partition(".")[0] for other in others} - {folder}
        for name, others in graph.edges().items()
        if name.startswith(f"{folder}/")
    }


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_only_what_is_below_it(file: str) -> None:
    assert graph.upwards({file: graph.edges()[file]}) <= graph.ALLOWED_UPWARDS


def test_nothing_imports_what_imports_it() -> None:
    assert graph.circles(graph.edges()) <= graph.ALLOWED_CIRCLES
    assert graph.circles(graph.by_folder(graph.edges())) <= graph.ALLOWED_CIRCLES


def test_the_lists_of_what_is_allowed_are_needed() -> None:
    assert graph.faults(graph.edges()) == []


@pytest.mark.parametrize("file", [f for f in FILES if f.startswith(("http/", "session/", "app/"))])
def test_protocols_and_applications_know_no_sockets(file: str) -> None:
    if file not in EXCEPTED:
        names = {name.partition(".")[0] for name in graph.imports(FILES[file])}
        assert not names & NO_IO


def test_system_knows_of_forkd_only_errors() -> None:
    for file, folders in below("system").items():
        upwards = {graph.folder(other) for name, other in graph.ALLOWED_UPWARDS if name == file}
        assert folders <= {"__init__", "errors", "native", "_native"} | upwards, file


def test_http_knows_nothing_of_forkd() -> None:
    for file in below("http"):
        assert graph.edges()[file] - set(below("http")) <= {"system/originals.py"}


def test_nothing_imports_the_optional_storage() -> None:
    for name, path in FILES.items():
        if name.startswith(("storage/", "command/storage")):
            continue
        assert not [name for name in graph.imports(path) if name.startswith("forkd.storage")]


def test_the_exceptions_exist() -> None:
    assert set(EXCEPTED) <= set(FILES)


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


def stores(source: str, fields: set[str], inside: bool = False) -> list[int]:
    """The lines that store an attribute on a Service, or delete one. That is what is called service, or is
    declared as one, or is `self` where `inside` (service.py). A fact of that name on anything but self is
    taken for one, too."""
    tree = ast.parse(source)
    declared = {
        arg.arg for arg in ast.walk(tree)
        if isinstance(arg, ast.arg) and arg.annotation and "Service" in ast.unparse(arg.annotation)
    } | {
        node.target.id for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        and "Service" in ast.unparse(node.annotation)
    }  # fmt: skip

    def is_service(node: ast.expr) -> bool:
        last = ast.unparse(node).rpartition(".")[2].lstrip("_")
        return last in {"service", "Service", *declared} or (inside and last == "self")

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            foreign = node.attr in fields and ast.unparse(node.value) != "self"
            if is_service(node.value) or foreign:
                found.append(node.lineno)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("setattr", "delattr", "__setattr__", "vars") and is_service(node.args[0]):
                found.append(node.lineno)
    return found


def facts() -> set[str]:
    return {
        node.target.id
        for node in ast.walk(ast.parse(FILES["master/service.py"].read_text()))
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def test_only_the_master_assigns_a_fact() -> None:
    """Whoever else has a Service reads it."""
    assert "phase" in facts()
    for name, path in FILES.items():
        if name.startswith("master/") and name != "master/main.py":
            assert not stores(path.read_text(), facts(), name == "master/service.py"), name


@pytest.mark.parametrize(
    "line",
    [
        "service.phase = 1", "self._service.phase = 1", "service.phase += 1", "del service.phase",
        "service.new = 1", "setattr(service, 'phase', 1)", "facts.phase = 1", "vars(service)['phase'] = 1",
        "(service.phase, x) = 1, 2", "object.__setattr__(service, 'phase', 1)",
        "def f(s: Service): s.phase = 1", "def f(s: 'Service'): s.new = 1", "Service.lame = f",
    ],
)  # fmt: skip
def test_a_store_is_found(line: str) -> None:
    assert stores(line, facts()) == [1]


def test_what_is_no_store() -> None:
    assert stores("self.phase = service.phase\nx = service\nf(service)", facts()) == []
    assert stores("class Service:\n def lame(self): self.phase = 1", facts(), inside=True) == [2]
