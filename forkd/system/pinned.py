"""Modules of forkd that are read at the start, and executed when they are first imported.

By then a newer forkd may be installed, of which nothing may come into a process of this one: the master goes
on until an upgrade, and forks workers. Called by the master; what it forks has it, too.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import cast


def pin(names: Iterable[str]) -> None:
    """Raises ImportError where one of them is not there."""
    wanted = [name for name in names if name not in sys.modules]
    sys.meta_path.insert(0, _Finder({name: _read(name) for name in wanted}))


def modules_of(package: str) -> list[str]:
    """The package and its modules, without those of packages in it. Raises ImportError."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    found = pkgutil.iter_modules(spec.submodule_search_locations, f"{package}.")
    return [package, *(module.name for module in found)]


def _read(name: str) -> ModuleSpec:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    # A file, or in a zip archive: both have it (importlib.abc.InspectLoader).
    code = cast("importlib.abc.InspectLoader", spec.loader).get_code(name)
    assert code is not None
    spec.loader = _Loader(code)
    return spec


class _Finder(MetaPathFinder):
    def __init__(self, specs: dict[str, ModuleSpec]) -> None:
        self._specs = specs

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return self._specs.get(fullname)


class _Loader(Loader):
    def __init__(self, code: CodeType) -> None:
        self._code = code

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, vars(module))
