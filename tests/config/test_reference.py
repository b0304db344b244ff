"""The generated pages: the sample file is the defaults, and nothing has drifted."""

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from forkd.config import OPTIONS
from forkd.config.sources import Sources

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = (ROOT / "etc/forkd.toml").read_text()


def uncommented(names: set[str]) -> str:
    """The sample file with the keys `names` switched on."""
    return re.sub(
        r"^#([a-z-]+)(?= = )", lambda m: m[1] if m[1] in names else m[0], SAMPLE, flags=re.M
    )


def test_the_sample_file_sets_nothing() -> None:
    assert tomllib.loads(SAMPLE) == {}


def test_the_sample_file_is_the_defaults(tmp_path: Path) -> None:
    names = {row.name for row in OPTIONS if row.default is not None}
    text = uncommented(names)
    assert set(tomllib.loads(text)) == names
    file = tmp_path / "forkd.toml"
    file.write_text(text)
    assert Sources(path=str(file)).load() == Sources().load()


def test_the_examples_are_valid(tmp_path: Path) -> None:
    file = tmp_path / "forkd.toml"
    file.write_text(uncommented({row.name for row in OPTIONS}))
    config = Sources(path=str(file)).load()
    assert config.app == "project.wsgi:application"


def test_the_sample_of_asgi_is_valid() -> None:
    config = Sources(path=str(ROOT / "etc/asgi.toml")).load()
    assert (config.interface, config.lifespan) == ("asgi", "on")


def test_every_option_documents_itself() -> None:
    assert len({row.name for row in OPTIONS}) == len(OPTIONS)
    flags = [flag for row in OPTIONS for flag in row.flags]
    assert len(set(flags)) == len(flags)
    for row in OPTIONS:
        assert row.help and not row.help.endswith(".")
        assert (row.default is None) == bool(row.unset) == bool(row.example)


def test_no_drift() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/reference", "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_drift_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(ROOT / "scripts/reference"))
    main = script["main"]
    shutil.copytree(ROOT / "docs/models", tmp_path / "docs/models")  # sources of the drawings
    shutil.copy(ROOT / "docs/asgi.md", tmp_path / "docs/asgi.md")  # a table in it is generated
    monkeypatch.setitem(main.__globals__, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["reference"])
    assert main() == 0
    assert (tmp_path / "etc/forkd.toml").read_text() == SAMPLE
    (tmp_path / "etc/forkd.toml").write_text(SAMPLE.replace("#timeout = 30", "#timeout = 31"))
    monkeypatch.setattr(sys, "argv", ["reference", "--check"])
    assert main() == 1
    assert "-#timeout = 31\n+#timeout = 30\n" in capsys.readouterr().out
