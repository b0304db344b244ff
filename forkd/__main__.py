"""The command `forkd`, also as `python -m forkd`."""

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    try:
        if sys.path[0] == os.getcwd():
            # The current directory, which may be the application's: see system/interpreter.py. What is
            # imported before this line would come from there.
            del sys.path[0]
    except FileNotFoundError:
        pass  # it has been removed, and is not there

from forkd.system import interpreter

interpreter.look_in_pythonpath_last()

from forkd.command.main import main  # noqa: E402

if __name__ == "__main__":
    main()
