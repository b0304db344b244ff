"""wsgi.file_wrapper (PEP 3333): a file as an answer, which the kernel sends where it can.

Made by the application, in a child; the session asks for its `piece`.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
from typing import Any

from forkd.session.framing import exact


class FileWrapper:
    """wsgi.file_wrapper: a real file is sent by the kernel, anything else is read in blocks."""

    def __init__(self, file: Any, block_size: int = 65536) -> None:
        self.file = file
        self.block_size = block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        data = self.file.read(self.block_size)
        if isinstance(data, bytes):
            data = exact(data)
        if not data:
            raise StopIteration
        return data  # type: ignore[no-any-return]

    def piece(self) -> tuple[int, int, int] | None:
        """(descriptor, offset, bytes to its end) of a regular file; None for anything else.

        Files of procfs, sysfs and cgroupfs are regular ones whose size is not known: 0, or a page. They have
        no blocks, and are read until nothing comes.
        """
        file = self.file
        if isinstance(file, tempfile._TemporaryFileWrapper):
            file = file.file
        raw = file.raw if type(file) in (io.BufferedReader, io.BufferedRandom) else file
        if type(raw) is not io.FileIO:
            return None  # it may have a descriptor, and read() other bytes than are there: gzip
        try:
            # By their types: a file may have been given other methods.
            fd = io.FileIO.fileno(raw)
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or not found.st_blocks:
                return None
            offset = type(file).tell(file)
        except (OSError, ValueError):
            return None
        return fd, offset, max(0, found.st_size - offset)
