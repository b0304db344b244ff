"""What prose says of the source is so: the files that it names exist, and stubs fit what they declare."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forkd.native import native

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "forkd"
SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyi", ".c", ".h"))
PAGES = sorted(
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
    if ROOT / "docs/decisions" not in path.parents
)

#: A source file: `system/lease.py`, `loop.py`. Not `loop.pyx`, not `a.c(1)`.
NAME = re.compile(r"(?<![\w./*-])(?:[\w.-]+/)*\w[\w-]*\.(?:py|pyi|c|h)\b(?![\w(*])")
#: The reader's own files, in examples.
EXAMPLES = {
    "hello.py",
    "shout.py",
    "manage.py",
    "project/hooks.py",
    "json.py",
    "forkd.py",
    "daemon.py",
    "net/ipv4/tcp.c",  # Linux's
}

BARE: dict[str, list[Path]] = defaultdict(list)
for path in (*SOURCES, *(ROOT / "tests").rglob("*.py")):
    BARE[path.name].append(path)

TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE)
}


def quoted(text: str) -> Iterator[str]:
    """What stands in backquotes, outside of blocks of code."""
    for block in re.split(r"^```.*?^```$", text, flags=re.DOTALL | re.MULTILINE):
        for found in re.finditer(r"`([^`]+)`", block):
            yield found[1]


def prose(path: Path) -> Iterator[str]:
    """The docstrings and comments of a source file."""
    text = path.read_text()
    if path.suffix in (".c", ".h"):
        yield from (found[0] for found in re.finditer(r"/\*.*?\*/", text, re.DOTALL))
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def wrong(name: str, folder: Path) -> str:
    """What is wrong with the name of a source file, in prose below `folder`; "" for nothing."""
    if name in EXAMPLES:
        return ""
    if "/" in name:
        return "" if (PACKAGE / name).is_file() or (ROOT / name).is_file() else "there is no such file"
    found = BARE[name]
    if len(found) == 1:
        return ""
    if not found:
        return "there is no such file"
    return f"it may be any of {', '.join(str(path.relative_to(ROOT)) for path in found)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_source_files_that_exist(page: Path) -> None:
    names = {name for text in quoted(page.read_text()) for name in NAME.findall(text)}
    assert not {name: why for name in names if (why := wrong(name, page.parent))}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_comments_name_source_files_that_exist(source: Path) -> None:
    names = {name for text in prose(source) for name in NAME.findall(text)}
    assert not {name: why for name in names if (why := wrong(name, source.parent))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_tests_that_exist(page: Path) -> None:
    named = {match[1] for text in quoted(page.read_text()) if (match := re.fullmatch(r"(test_\w+)", text))}
    assert not named - TESTS


def test_the_readme_has_the_measured_ratios() -> None:
    measured = (ROOT / "docs/performance.md").read_text()
    found = {
        peer: re.search(rf"^\| {work} \| forkd ÷ {peer} ≥ [\d.]+ \| ([\d.]+),", measured, re.MULTILINE)
        for peer, work in (
            ("bjoern", "WSGI hello, 2 header fields"),
            ("fastwsgi", "WSGI hello, 2 header fields"),
            ("nginx return 200", "WSGI hello, proactor on io_uring"),
        )
    }
    text = (ROOT / "README.md").read_text().replace("\n", " ")
    speed = text.partition("## How fast it is")[2].partition(" ## ")[0]
    assert not {peer for peer, ratio in found.items() if ratio is None or f"{ratio[1]} times" not in speed}


# ---- native code --------------------------------------------------------------------------


def test_the_importers_of_native_code_are_listed() -> None:
    text = (PACKAGE / "native/__init__.py").read_text()
    listed = set(NAME.findall(ast.get_docstring(ast.parse(text)) or "")) - {"module.c"}
    importing = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search("^from forkd.native import", path.read_text(), re.MULTILINE)
    }
    assert listed == importing


STUB = [
    node
    for node in ast.parse((PACKAGE / "_native.pyi").read_text()).body
    if isinstance(node, ast.FunctionDef | ast.ClassDef)
]
#: Without the bases that are there for the type checker.
DECLARED = [node for node in STUB if not node.name.startswith("_")]


def declared_calls() -> dict[str, set[int]]:
    """How many arguments each function and each type may be called with, by place, as the stub has it."""
    calls = {}
    for node in STUB:
        made = [n for n in ast.walk(node) if isinstance(n, ast.FunctionDef)]
        made = [n for n in made if n is node or n.name == "__init__"]
        for function in made:
            own = 0 if function is node else 1  # self
            most = len(function.args.posonlyargs + function.args.args) - own
            calls[node.name] = set(range(most - len(function.args.defaults), most + 1))
    return calls


def refusal(call: Callable[..., Any], count: int) -> str:
    """How it refuses so many arguments, without their number; "" where it does not."""
    try:
        call(*[object()] * count)
    except (TypeError, SystemError) as error:
        return re.sub(r"\(\d+ given\)", "", str(error))
    return ""


@pytest.mark.skipif(native is None, reason="there is no native code")
@pytest.mark.parametrize("name", declared_calls())
def test_the_stub_has_the_arity_of_native_code(name: str) -> None:
    call = getattr(native, name)
    too_many = refusal(call, 20)
    assert too_many
    assert {n for n in range(20) if refusal(call, n) != too_many} == declared_calls()[name]


@pytest.mark.skipif(native is None, reason="there is no native code")
@pytest.mark.parametrize("node", DECLARED, ids=lambda node: node.name)
def test_native_code_has_what_the_stub_declares(node: ast.FunctionDef | ast.ClassDef) -> None:
    found = getattr(native, node.name)
    if isinstance(node, ast.ClassDef):
        bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
        bodies = [n for n in STUB if isinstance(n, ast.ClassDef) and (n is node or n.name in bases)]
        methods = {n.name for b in bodies for n in b.body if isinstance(n, ast.FunctionDef)}
        assert not {name for name in methods if not hasattr(found, name)}
