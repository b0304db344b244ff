"""The tables that docs/architecture.md begins with name files and functions that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from scripts import graph

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/architecture.md").read_text()
#: Rows of both tables: (function, file).
ENTRIES = re.findall(r"^\| [^|]+ \| `\w+/` \| `(\w+)` in `([\w/]+\.py)` \|$", PAGE, re.M)
STOPS = re.findall(r"^\| `(\w+)` \| `([\w/]+\.py)` \| .+ \|$", PAGE, re.M)


def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / "forkd" / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("name", "file"), [*ENTRIES, *STOPS])
def test_each_function_is_in_its_file(name: str, file: str) -> None:
    assert name in functions(file)


def test_a_request_has_ten_stops_at_most_and_each_process_an_entry() -> None:
    assert 5 <= len(STOPS) <= 10
    titles = ("command", "master", "worker", "logger", "models")
    assert {file.split("/")[0] for _, file in ENTRIES} == set(titles)


def test_each_row_is_checked() -> None:
    """One that the patterns above do not see would say what it likes."""
    for heading, rows in (("| process | folder |", ENTRIES), ("| function | file |", STOPS)):
        table = PAGE[PAGE.index(heading) :].partition("\n\n")[0].splitlines()
        assert len(table) - 2 == len(rows), heading


def test_each_folder_is_a_process_or_a_layer() -> None:
    head = PAGE[: PAGE.index("## One request's journey")]
    named = set(re.findall(r"`(\w+)/`", head))
    folders = {name.split("/")[0] for name in graph.files() if "/" in name}
    assert named - {"forkd"} == folders
