"""Where forkd imports from, in a process of its own for each way to start one."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[2])
SHOW = "import sys; from forkd.system import interpreter; "


def run(directory: Path, *arguments: str, safe: str = "") -> str:
    environ = {**os.environ, "PYTHONPATH": ROOT, "PYTHONSAFEPATH": safe}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=directory, env=environ, text=True, capture_output=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "given, kept",
    [
        ([], []),
        (["-P"], []),
        (["-s"], ["-s"]),
        (["-E"], ["-E"]),
        (["-I"], ["-I", "-E", "-s"]),  # which is what -I implies
    ],
)
def test_another_interpreter_trusts_no_more_than_this_one(
    tmp_path: Path, given: list[str], kept: list[str]
) -> None:
    # -E and -I do not heed PYTHONPATH: the path is put in by hand.
    code = f"import sys; sys.path.append({ROOT!r}); {SHOW}print(interpreter.command('start', '-f'))"
    command = ast.literal_eval(run(tmp_path, *given, "-c", code))
    assert command == [sys.executable, "-P", *kept, "-m", "forkd", "start", "-f"]


LEAVE = SHOW + "before = list(sys.path); interpreter.leave_start_directory(); "


def test_the_current_directory_goes(tmp_path: Path) -> None:
    assert run(tmp_path, "-c", LEAVE + "print(sys.path == before[1:], before[0] == '')") == (
        "True True\n"
    )


def test_the_directory_of_a_script_goes_behind_a_link_too(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(LEAVE + "print(sys.path == before[1:], before[0])")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "link").symlink_to(script)
    assert run(tmp_path / "bin", "link") == f"True {tmp_path}\n"


def test_what_python_did_not_put_there_stays(tmp_path: Path) -> None:
    assert run(tmp_path, "-P", "-c", LEAVE + "print(sys.path == before)") == "True\n"
    assert run(tmp_path, "-c", LEAVE + "print(sys.path == before)", safe="1") == "True\n"


@pytest.mark.parametrize("name", ["argparse", "daemon", "httptools", "json", "tomllib"])
def test_the_module_forkd_imports_nothing_from_the_current_directory(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / f"{name}.py").write_text("raise SystemExit('planted')\n")
    assert run(tmp_path, "-m", "forkd", "--version").startswith("forkd ")
