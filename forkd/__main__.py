"""`python -m forkd` is the command `forkd`."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the current directory, which may be the application's: see interpreter.py

from forkd.cli import main

if __name__ == "__main__":
    main()
