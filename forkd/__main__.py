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

with interpreter.without_collections():
    from forkd.command.main import main as run
    from forkd.system import forked


def main() -> None:
    """The command; never returns. It exits as the interpreter would, but leaves its memory to the kernel: to
    take some 400 modules apart is a sixth of what a start costs."""
    try:
        run()
    except SystemExit as end:
        if sys.getprofile() or sys.gettrace():
            raise  # through `python -m cProfile` or pdb, which report after it
        forked.leave(end)


if __name__ == "__main__":
    main()
