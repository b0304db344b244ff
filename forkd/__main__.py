"""The command `forkd`, also as `python -m forkd`."""

import os
import sys
from contextlib import suppress

if __name__ == "__main__" and not sys.flags.safe_path:
    with suppress(FileNotFoundError):  # where it has been removed, it is not there
        if sys.path[0] == os.getcwd():
            # The current directory, which may be the application's: see system/interpreter.py.
            del sys.path[0]

from forkd.system import interpreter

interpreter.look_in_pythonpath_last()

from forkd.command.main import main  # noqa: E402

if __name__ == "__main__":
    main()
