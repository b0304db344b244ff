"""Install forkd and its peers into .venv-bench-VERSION. A peer that cannot be had is known by the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Of the Python that runs this: "3.11".
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
VENV = ROOT / f".venv-bench-{VERSION}"
BUILD = ROOT / "build/bench"  # compiled helpers and raw results
_PYTHON = str(VENV / "bin/python")
_HEADERS = ["gcc", "libc6-dev", "python3-dev"]
#: Name: its Python packages, and the Debian packages that it or their building needs.
PEERS: dict[str, tuple[list[str], list[str]]] = {
    "bjoern": (["bjoern"], ["libev-dev", *_HEADERS]),
    "fastwsgi": (["fastwsgi"], []),
    "granian": (["granian"], []),
    "gunicorn": (["gunicorn", "gunicorn-h1c"], []),
    "uvicorn": (["uvicorn", "uvloop", "httptools", "websockets", "wsproto"], []),
    "uvloop": (["uvloop"], []),
    "uwsgi": (["uwsgi"], _HEADERS),
    "picows": (["picows", "uvloop"], []),
    "django": (["django"], []),
    "starlette": (["starlette"], []),
    "fastapi": (["fastapi"], []),
    "nginx": ([], ["nginx"]),
    "gcc": ([], ["gcc", "libc6-dev"]),
    "wrk": ([], ["wrk"]),
}


class Failed(Exception):
    """A command failed; the text is the last line that it printed."""


@dataclass(frozen=True)
class Peer:
    version: str = ""
    missing: str = ""  # why it is not there


def install(*names: str) -> dict[str, Peer]:
    """Those, or all and forkd, as far as they can be had. What failed is tried again in the next run."""
    virtual_environment(VENV)
    found = {name: _peer(name, *PEERS[name]) for name in names or PEERS}
    return found if names else found | {"forkd": _forkd()}


def virtual_environment(path: Path) -> None:
    """Make it, unless it is there."""
    if not (path / "bin/python").exists():
        command_output("scripts/apt", "python3-venv")
        command_output(sys.executable, "-m", "venv", str(path))


def compile_helpers() -> None:
    """The programs of native/, when they are older than their sources."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for source in Path(__file__).with_name("native").glob("*.c"):
        program = BUILD / source.stem
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            command_output("gcc", "-O2", "-o", str(program), str(source))


def _peer(name: str, python: list[str], debian: list[str]) -> Peer:
    try:
        if not python:
            command_output("scripts/apt", *debian)
            return Peer(command_output("dpkg-query", "-W", "-f", "${Version}", debian[0]))
        if not set(python) <= _installed().keys():
            print(f"installing {name} into {VENV.name}", file=sys.stderr)
            command_output("scripts/apt", *debian)
            _pip(*python)
        return Peer(_installed()[python[0]])
    except Failed as error:
        return Peer(missing=str(error))


def _forkd() -> Peer:
    """From this tree, as its users install it: not editable, with the native module."""
    stamp = VENV / ".forkd"
    sources = [ROOT / "pyproject.toml", ROOT / "setup.cfg", *(ROOT / "forkd").rglob("*.[pch]*")]
    if not stamp.exists() or any(s.stat().st_mtime > stamp.stat().st_mtime for s in sources):
        print(f"installing forkd into {VENV.name}", file=sys.stderr)
        command_output("scripts/apt", *_HEADERS)
        _pip(str(ROOT))  # brings the dependencies
        # The version is the same, the code is not.
        _pip("--force-reinstall", "--no-deps", str(ROOT))
        stamp.touch()
    commit = command_output("git", "describe", "--always", "--dirty").strip()
    try:
        command_output(_PYTHON, "-P", "-c", "import forkd._native")
        native = ""
    except Failed:
        native = ", without its native module, which did not compile"
    return Peer(f"{_installed()['forkd']} at {commit}{native}")


def _installed() -> dict[str, str]:
    """Versions of the packages in the virtual environment."""
    script = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.name.lower().replace('_', '-'): d.version for d in m.distributions()}))"
    )
    versions: dict[str, str] = json.loads(command_output(_PYTHON, "-P", "-c", script))
    return versions


def _pip(*arguments: str) -> None:
    command_output(_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments)


def command_output(*command: str) -> str:
    """What the command prints, run in the root of the project. Raises Failed."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Failed(f"{command[0]} is not installed") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Failed(f"{command[0]}: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return done.stdout
