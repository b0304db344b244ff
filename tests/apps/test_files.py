"""What `wsgi.file_wrapper` leaves to sendfile(2): only files whose bytes are those of read()."""

from __future__ import annotations

import bz2
import gzip
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from forkd.app.wsgi.file_wrapper import FileWrapper
from tests.process.conftest import Daemon

TEXT = b"0123456789" * 1000


class Upper(io.FileIO):
    """A file of its own kind: its bytes are not those on the disk."""

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        return (super().read(size) or b"").upper()


def written(file: Any) -> Any:
    file.write(TEXT)
    file.seek(10)
    return file


def zipped(path: Path) -> Any:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("member", TEXT)
    return zipfile.ZipFile(path).open("member")


def tarred(path: Path) -> Any:
    plain = path.with_suffix(".txt")
    plain.write_bytes(TEXT)
    with tarfile.open(path, "w") as archive:
        archive.add(plain, "member")
    return tarfile.open(path).extractfile("member")


def filled(path: Path) -> Path:
    path.write_bytes(TEXT)
    return path


def packed(module: Any, path: Path) -> Any:
    with module.open(path, "wb") as file:
        file.write(TEXT)
    return module.open(path)


PLAIN: dict[str, Callable[[Path], Any]] = {
    "buffered": lambda path: open(filled(path), "rb"),
    "raw": lambda path: open(filled(path), "rb", buffering=0),
    "both ways": lambda path: open(filled(path), "r+b"),
    "temporary": lambda path: written(tempfile.TemporaryFile()),
    "named temporary": lambda path: written(tempfile.NamedTemporaryFile()),
}
OTHER: dict[str, Callable[[Path], Any]] = {
    "gzip": lambda path: packed(gzip, path),
    "bz2": lambda path: packed(bz2, path),
    "zip": zipped,
    "tar": tarred,
    "text": lambda path: open(filled(path)),
    "memory": lambda path: io.BytesIO(TEXT),
    "spooled": lambda path: written(tempfile.SpooledTemporaryFile()),
    "of its own": lambda path: Upper(filled(path)),
    "of a size that is not known": lambda path: open("/proc/self/status", "rb"),
    "of a page, as it says": lambda path: open("/sys/kernel/mm/transparent_hugepage/enabled", "rb"),
    "device": lambda path: open("/dev/null", "rb"),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_plain_file_is_sent_from_where_it_stands(kind: str, tmp_path: Path) -> None:
    with PLAIN[kind](tmp_path / "file") as file:
        file.seek(10)
        assert FileWrapper(file).piece() == (file.fileno(), 10, len(TEXT) - 10)


@pytest.mark.parametrize("kind", OTHER)
def test_anything_else_is_read(kind: str, tmp_path: Path) -> None:
    with OTHER[kind](tmp_path / "file") as file:
        assert FileWrapper(file).piece() is None


def test_a_closed_file_is_read_and_says_so(tmp_path: Path) -> None:
    file = open(filled(tmp_path / "file"), "rb")
    file.close()
    assert FileWrapper(file).piece() is None


def test_a_compressed_file_arrives_unpacked(service: Daemon) -> None:
    packed(gzip, service.dir / "file.gz").close()
    service.write_app("""
        import gzip
        def app(environ, start):
            start("200 OK", [])
            return environ["wsgi.file_wrapper"](gzip.open("file.gz"))
    """)
    service.start()
    host, port = service.address
    assert httpx.get(f"http://{host}:{port}/", timeout=10).content == TEXT


@pytest.mark.parametrize("native", ["--native", "--no-native"])
def test_a_file_of_the_kernel_arrives_whole(service: Daemon, native: str) -> None:
    """Whose size is 0 for stat(2), or a page."""
    service.write_app("""
        def app(environ, start):
            start("200 OK", [])
            return environ["wsgi.file_wrapper"](open(environ["PATH_INFO"], "rb"))
    """)
    service.start(native)
    host, port = service.address
    for path in ("/proc/filesystems", "/sys/kernel/mm/transparent_hugepage/enabled"):
        found = httpx.get(f"http://{host}:{port}{path}", timeout=10)
        assert found.content == Path(path).read_bytes() != b""
